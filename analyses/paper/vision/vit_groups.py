"""Figure 12: does a vision transformer forget groups of classes that are named together?

Without groups of its own, a set is divided into pairs of classes, in the order of labels; Fashion-MNIST has clothes for
the upper body, shoes, and the rest. `python -m analyses.paper.vision.vit_groups`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from analyses.paper.vision import data, forgetting
from analyses.paper.vision.models import ViT
from analyses.paper.vision.running import Setting, experiment, seeded
from analyses.paper.vision.training import shuffled
from analyses.results import Tables

FASHION = {"tops": (0, 2, 4, 6), "shoes": (5, 7, 9), "trousers and dresses": (1, 3), "bags": (8,)}
EPOCHS = 20


def groups(pictures: data.Pictures) -> forgetting.Groups:
    """What is forgotten together, called by the classes' names."""
    n = len(pictures.classes)
    some = FASHION.values() if pictures.name == "fashion" else [range(i, min(i + 2, n)) for i in range(0, n, 2)]
    return {" + ".join(pictures.classes[label] for label in labels): list(labels) for labels in some}


def fit(model: nn.Module, pictures: data.Pictures, seed: int) -> nn.Module:
    """Train with AdamW, which transformers need."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(pictures.x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    device = next(model.parameters()).device
    for _ in range(EPOCHS):
        for some in shuffled(len(pictures.x), generator, 64):
            optimizer.zero_grad()
            logits = model(pictures.x[some].to(device))
            nn.functional.cross_entropy(logits, pictures.y[some].to(device)).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(setting: Setting) -> Tables:
    """The matrix of groups by classes of vision transformers."""

    def train(pictures: data.Pictures, seed: int) -> nn.Module:
        make = partial(ViT, *pictures.shape, len(pictures.classes), **setting.sized)
        return fit(seeded(seed, make, setting.device), pictures, seed)

    return forgetting.classwise(setting, train, groups)


figures = partial(forgetting.figures, title="A vision transformer without the engrams of groups of classes")
main = experiment(__file__, measure, forgetting.text, figures, n_train=4000, seeds=3)

if __name__ == "__main__":
    main()
