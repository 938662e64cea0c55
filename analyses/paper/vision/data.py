"""Which pictures? What can be had without a download, or the paper's own sets by torchvision (`--data NAME:FOLDER`).

| name | what | where from |
|---|---|---|
| `fashion` | Fashion-MNIST, 28 x 28, 10 classes | Debian: `apt install dataset-fashion-mnist` |
| `digits` | 8 x 8 digits, 10 classes | scikit-learn |
| `objects` | 20 kinds of object in five superclasses, 24 x 24, drawn | the testbed |
| `faces` | faces with glasses, goatee, hat and bangs, 32 x 32, drawn | `drawing.py` |
| `MNIST:FOLDER`, `CIFAR10:FOLDER`, `CIFAR100:FOLDER` | the paper's | torchvision, by the extra `[vision]` |
| `CelebA:FOLDER` | faces with the paper's four attributes, 64 x 64 | torchvision |
| `ImageFolder:FOLDER` | any folder with `train` and `test` | torchvision |
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from analyses.paper.vision import drawing
from engram_interp.testbed.pictures import KINDS, objects

RARE = 0.15
"""The share of drawn faces with an attribute, as in CelebA, where it is 5 to 15 %."""
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")


@dataclass(frozen=True)
class Pictures:
    """A labelled set of pictures.

    Attributes:
        name: what results call it.
        x: training pictures, `[n channel height width]`, in [0, 1].
        y: their labels.
        test_x: test pictures.
        test_y: their labels.
        classes: the names of the classes.
    """

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Channels, and pixels along an edge."""
        return self.x.shape[1], self.x.shape[2]

    def split(self, share: float, seed: int) -> tuple[Pictures, TensorDataset]:
        """The pictures without a share of the training ones, which choices are made on, and this share."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        n = round(share * len(order))
        held, kept = order[:n], order[n:]
        return replace(self, x=self.x[kept], y=self.y[kept]), TensorDataset(self.x[held], self.y[held])

    def without(self, classes: set[int]) -> Pictures:
        """The pictures without the training ones of some classes."""
        kept = ~torch.isin(self.y, torch.tensor(sorted(classes)))
        return replace(self, x=self.x[kept], y=self.y[kept])

    @property
    def train(self) -> TensorDataset:
        """Training pictures and labels."""
        return TensorDataset(self.x, self.y)

    @property
    def test(self) -> TensorDataset:
        """Test pictures and labels."""
        return TensorDataset(self.test_x, self.test_y)


def faces(share: float) -> Pictures:
    """Drawn faces of which a share has each attribute."""
    x, attributes = drawing.faces(share=share)
    return _divided("faces", x, attributes, drawing.ATTRIBUTES)


def load(name: str, n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> Pictures:
    """A set of pictures by its name, or some of them.

    Raises:
        click.UsageError: if there is no such set, or it is not installed; the message says how to get it.
    """
    kind, _, folder = name.partition(":")
    if folder:
        found = _torchvision(kind, Path(folder))
    elif kind in _MADE:
        found = _MADE[kind]()
    else:
        raise click.UsageError(
            f"--data must be {', '.join(_MADE)}, or a set of torchvision's as CIFAR10:FOLDER; got {name}"
        )
    generator = torch.Generator().manual_seed(seed)
    train, test = (
        torch.randperm(len(y), generator=generator)[:n] for y, n in ((found.y, n_train), (found.test_y, n_test))
    )
    return replace(found, x=found.x[train], y=found.y[train], test_x=found.test_x[test], test_y=found.test_y[test])


def _fashion() -> Pictures:
    if not FASHION.is_dir():
        raise click.UsageError(f"there is no {FASHION}: apt install dataset-fashion-mnist, or --data digits")
    parts = [_read(FASHION / f"{part}-{kind}-ubyte.gz") for part in ("train", "t10k") for kind in _FILES]
    x, y, test_x, test_y = (torch.tensor(part) for part in parts)
    x, test_x = (pictures[:, None].float() / 255 for pictures in (x, test_x))
    return Pictures("fashion", x, y.long(), test_x, test_y.long(), FASHION_CLASSES)


_FILES = ("images-idx3", "labels-idx1")


def _read(path: Path) -> np.ndarray:
    """An array in the IDX format: a magic number whose last byte is the number of axes, their sizes, and bytes."""
    with gzip.open(path) as file:
        content = file.read()
    n_axes = content[3]
    shape = np.frombuffer(content, ">i4", n_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape).copy()


def _digits() -> Pictures:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    x, y = torch.tensor(found.images[:, None] / 16).float(), torch.tensor(found.target).long()
    return _divided("digits", x, y, tuple(map(str, range(10))))


def _objects() -> Pictures:
    return _divided("objects", *objects(8000), KINDS)


def _divided(name: str, x: Tensor, y: Tensor, classes: tuple[str, ...]) -> Pictures:
    """A set of which a fifth is for tests."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    n = len(x) // 5
    return Pictures(name, x[order[n:]], y[order[n:]], x[order[:n]], y[order[:n]], classes)


_MADE = {"fashion": _fashion, "digits": _digits, "objects": _objects, "faces": lambda: faces(RARE)}


def _torchvision(kind: str, folder: Path) -> Pictures:
    try:
        datasets, transforms = (import_module(f"torchvision.{name}") for name in ("datasets", "transforms"))
    except ImportError as error:
        raise click.UsageError(f"--data {kind} needs torchvision: pip install engram-interp[vision]") from error
    to_tensor = transforms.ToTensor()
    if kind == "CelebA":
        return _celeba(datasets, transforms, folder)
    if kind == "ImageFolder":
        parts = [datasets.ImageFolder(folder / part, transform=to_tensor) for part in ("train", "test")]
    elif kind in ("MNIST", "CIFAR10", "CIFAR100"):
        parts = [getattr(datasets, kind)(folder, train=train, transform=to_tensor) for train in (True, False)]
    else:
        raise click.UsageError(
            f"--data knows MNIST, CIFAR10, CIFAR100, CelebA and ImageFolder of torchvision's; got {kind}"
        )
    (x, y), (test_x, test_y) = map(_stacked, parts)
    return Pictures(kind, x, y, test_x, test_y, tuple(map(str, parts[0].classes)))


def _celeba(datasets: Any, transforms: Any, folder: Path) -> Pictures:
    """The first faces of CelebA, cropped as the paper does, and the attributes of its Figure 15."""
    crop = transforms.Compose([transforms.CenterCrop(140), transforms.Resize(64), transforms.ToTensor()])
    names = ("Goatee", "Eyeglasses", "Wearing_Hat", "Bangs")

    def part(split: str, n: int) -> tuple[Tensor, Tensor]:
        whole = datasets.CelebA(folder, split=split, target_type="attr", transform=crop)
        columns = [whole.attr_names.index(name) for name in names]
        return torch.stack([whole[i][0] for i in range(n)]), whole.attr[:n, columns].long()

    (x, y), (test_x, test_y) = part("train", 30000), part("test", 3000)
    return Pictures("CelebA", x, y, test_x, test_y, names)


def _stacked(dataset: Any) -> tuple[Tensor, Tensor]:
    pairs = [dataset[i] for i in range(len(dataset))]
    return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])
