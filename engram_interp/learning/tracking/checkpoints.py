"""What is a checkpoint, and at which step was it? Models, folders, state dicts and functions, loaded one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from engram_interp.common.arguments import whole
from engram_interp.common.storage import fingerprint
from engram_interp.models import adapt
from engram_interp.models.identity import weights_digest
from engram_interp.models.loading import load_model

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
Checkpoint: TypeAlias = Any
"""A model, a folder or file or name, a state dict, a function that returns a model, or `(step, one of these)`."""
Loader: TypeAlias = Callable[[], nn.Module]

_NAMED = re.compile(r"(checkpoint|global_step|step|iter)[-_]?\d+$")
_STEP = re.compile(r"(\d+)(?!.*\d)")


class Source:
    """One checkpoint, not loaded yet.

    Args:
        step: when it was written.
        name: what errors and tables call it.
        load: gives its model.
        mark: gives what tells it from another checkpoint of this step without loading it, or None.
    """

    def __init__(self, step: int, name: str, load: Loader, mark: Callable[[], str | None]) -> None:
        self.step, self.name = step, name
        self._load: Loader | None = load
        self._mark: Callable[[], str | None] | None = mark

    def mark(self) -> str | None:
        """What tells it from another checkpoint of this step; None if nothing does. It reads weights that are given."""
        assert self._mark is not None
        return self._mark()

    def taken(self) -> nn.Module:
        """Its model. It can be taken once, so that nothing here holds a model while the next one is made."""
        load = self._load
        assert load is not None
        self.drop()
        return load()

    def drop(self) -> None:
        """Hold its model no longer."""
        self._load = self._mark = None


def sources(
    checkpoints: Checkpoint, model: nn.Module | None, load: Callable[[Any], nn.Module] | None
) -> Iterator[Source]:
    """Every checkpoint with its step, in the order in which they are given; those of a folder in the order of steps.

    Args:
        checkpoints: an iterable of checkpoints, or a folder that holds a folder for each.
        model: the architecture that state dicts are loaded into. It is copied.
        load: what makes a model of a folder or a name. None takes `load_model`.

    Raises:
        ValueError: if a step comes twice or is no whole number, a folder holds no checkpoints, or a state dict comes
            without a model.
        TypeError: if something is no checkpoint.
    """
    if isinstance(checkpoints, (str, os.PathLike)):
        checkpoints = _in_folder(Path(checkpoints))
    if isinstance(checkpoints, (nn.Module, Mapping)) or not isinstance(checkpoints, Iterable):
        raise TypeError(f"checkpoints must be several, in a list or a folder; got a {type(checkpoints).__name__}")
    seen: set[int] = set()
    for given in checkpoints:
        step, what = _apart(given, len(seen))
        if step in seen:
            raise ValueError(
                f"the step {step} comes twice: give each checkpoint a step of its own, as (step, checkpoint)"
            )
        seen.add(step)
        loader = _loader(what, step, model, load or load_model)
        source = Source(step, _name_of(what, step), loader, partial(_mark_of, what))
        del given, what, loader  # nothing here holds a model while the next is made
        yield source


def step_in(name: str) -> int | None:
    """The last number in a name, as in `checkpoint-500`; None if there is none.

    Example:
        >>> step_in("run2/checkpoint-500"), step_in("final")
        (500, None)
    """
    found = _STEP.search(name)
    return None if found is None else int(found[1])


def _in_folder(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints that a folder holds, by step."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with checkpoints")
    inside = [one for one in folder.iterdir() if one.suffix == ".safetensors" or (one.is_dir() and _is_one(one))]
    found = sorted(
        (step, one) for one in inside if (step := step_in(one.stem if one.is_file() else one.name)) is not None
    )
    if twice := [one.name for (step, one), (before, _) in zip(found[1:], found, strict=False) if step == before]:
        raise ValueError(f"{folder} holds two checkpoints of one step: {twice[0]}")
    if not found:
        raise ValueError(
            f"{folder} holds no checkpoints: folders with a config.json, or .safetensors files, with a number in their "
            f"name, such as checkpoint-500"
        )
    return found


def _is_one(folder: Path) -> bool:
    """Whether this is a checkpoint's folder, also one that was cut short."""
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json")) or bool(
        _NAMED.match(folder.name)
    )


def _apart(given: Any, place: int) -> tuple[int, Any]:
    """The step of a checkpoint, and the checkpoint."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        step, what = given
        try:
            return whole(step, "a step", at_least=0), what
        except TypeError as error:
            raise ValueError(f"{error} for checkpoint {place}") from None
    found = step_in(Path(given).name) if isinstance(given, (str, os.PathLike)) else None
    return place if found is None else found, given


def _name_of(what: Any, step: int) -> str:
    if isinstance(what, (str, os.PathLike)):
        return str(what)
    return f"step {step} (a {type(what).__name__})"


def _mark_of(what: Any) -> str | None:
    if isinstance(what, nn.Module):
        return weights_digest(what)
    if isinstance(what, Mapping):
        return fingerprint(what.values())
    return str(Path(what).absolute()) if isinstance(what, (str, os.PathLike)) else None


def _loader(what: Any, step: int, model: nn.Module | None, load: Callable[[Any], nn.Module]) -> Loader:
    if isinstance(what, nn.Module):
        return lambda: what
    if isinstance(what, Mapping):
        return lambda: _filled(_required(model, step), what, step)
    if isinstance(what, (str, os.PathLike)):
        path = Path(what)
        if path.suffix in PICKLED:
            raise ValueError(
                f"{path} may be pickled, which is never read here: load it yourself, and give its state dict"
            )
        if path.suffix == ".safetensors":
            return lambda: _filled(_required(model, step), _read(path), step)
        return lambda: load(what)
    if callable(what):
        return cast(Loader, what)
    raise TypeError(
        f"checkpoint {step} must be a model, a folder, a state dict or a function; got a {type(what).__name__}"
    )


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _required(model: nn.Module | None, step: int) -> nn.Module:
    if model is None:
        raise ValueError(f"checkpoint {step} is a state dict: say with model=... what it is loaded into")
    return model


def _filled(model: nn.Module, state: Mapping[str, Tensor], step: int) -> nn.Module:
    """A copy of a model with other weights.

    Raises:
        ValueError: if the weights are not the model's in name and shape.
    """
    twin = adapt(model).copy()
    try:
        with torch.no_grad():
            twin.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(
            f"the state dict of step {step} does not fit the model: {' '.join(str(error).split())}"
        ) from None
    return twin
