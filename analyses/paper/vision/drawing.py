"""Pictures that the project draws itself, seeded: faces with attributes, and twenty kinds of object in five families.

Attributes of a face are independent of each other and of its shape. Kinds of a family share their outline and differ in
what is inside, as the classes of a superclass look alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

ATTRIBUTES = ("glasses", "goatee", "hat", "bangs")
FAMILIES = ("round", "square", "star", "cross", "bars")
INSIDES = ("full", "hollow", "dotted", "split")
KINDS = tuple(f"{family} {inside}" for family in FAMILIES for inside in INSIDES)
Picture = Float[np.ndarray, "height width"]


def faces(n: int = 6000, size: int = 32, seed: int = 0) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, "n 4"]]:
    """Faces of several shapes, and which of `ATTRIBUTES` each has: half of them have each one."""
    rng = np.random.default_rng(seed)
    has = rng.integers(0, 2, (n, len(ATTRIBUTES)))
    pictures = np.stack([_face(rng, row, size) for row in has])
    return torch.tensor(pictures, dtype=torch.float32)[:, None], torch.tensor(has)


def _face(rng: np.random.Generator, has: np.ndarray, size: int) -> Picture:
    y, x = (2 * (grid + 0.5) / size - 1 for grid in np.mgrid[:size, :size].astype(float))
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.06)
    wide, tall = rng.uniform(0.5, 0.68), rng.uniform(0.66, 0.8)
    skin, hair = rng.uniform(0.65, 0.9), rng.uniform(0.1, 0.35)
    picture = np.full((size, size), rng.uniform(0.0, 0.08))
    _paint(picture, _inside(x, y + 0.06, wide * 1.12, tall * 1.06), hair)
    _paint(picture, _inside(x, y - 0.04, wide, tall), skin)
    apart, high = rng.uniform(0.2, 0.28), rng.uniform(-0.2, -0.1)
    for side in (-1, 1):
        _paint(picture, _inside(x - side * apart, y - high, 0.08, 0.06), 0.05)
    _paint(picture, _inside(x, y - 0.12, 0.05, 0.12), skin * 0.75)
    curve = rng.uniform(-0.25, 0.25)
    _paint(picture, _sharp(0.05 - np.abs(y - 0.42 - curve * x**2)) * _sharp(0.24 - np.abs(x)), 0.25)
    glasses, goatee, hat, bangs = has
    if bangs:
        _paint(picture, _inside(x, y - 0.04, wide, tall) * _sharp(-0.3 + 0.04 * np.sin(18 * x) - y), hair)
    if glasses:
        for side in (-1, 1):
            r = np.hypot((x - side * apart) / 1.15, y - high)
            _paint(picture, _sharp(0.045 - np.abs(r - 0.19)), 0.0)
        _paint(picture, _sharp(0.04 - np.abs(y - high)) * _sharp(apart - 0.14 - np.abs(x)), 0.0)
    if goatee:
        _paint(picture, _inside(x, y - 0.66, 0.2, 0.17), hair)
    if hat:
        _paint(picture, _sharp(0.45 - np.abs(x)) * _sharp(0.22 - np.abs(y + 0.78)), 1.0)
        _paint(picture, _sharp(0.72 - np.abs(x)) * _sharp(0.05 - np.abs(y + 0.55)), 1.0)
    return np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1)


def objects(n: int = 8000, size: int = 24, seed: int = 0) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, "n"], tuple]:
    """Objects, their kinds, and the kinds' names. Kind `k` is of family `k // 4`."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(KINDS), n)
    pictures = np.stack([_object(rng, kind, size) for kind in kinds])
    return torch.tensor(pictures, dtype=torch.float32)[:, None], torch.tensor(kinds), KINDS


def _object(rng: np.random.Generator, kind: int, size: int) -> Picture:
    family, inside = FAMILIES[kind // len(INSIDES)], INSIDES[kind % len(INSIDES)]
    y, x = (2 * (grid + 0.5) / size - 1 for grid in np.mgrid[:size, :size].astype(float))
    x, y = x - rng.uniform(-0.15, 0.15), y - rng.uniform(-0.15, 0.15)
    turn, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.6, 0.8)
    x, y = (x * np.cos(turn) + y * np.sin(turn)) / scale, (y * np.cos(turn) - x * np.sin(turn)) / scale
    bright = rng.uniform(0.6, 1.0)
    far = _OUTLINES[family](x, y)
    shape = _sharp(1 - far)
    match inside:
        case "hollow":
            shape = shape * _sharp(far - 0.62)
        case "dotted":
            shape = shape * (1 - _sharp(0.3 - np.hypot(x, y)))
        case "split":
            shape = shape * _sharp(np.abs(x) - 0.14)
    return np.clip(bright * shape + rng.normal(0, 0.06, shape.shape), 0, 1)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) / (0.7 + 0.3 * np.cos(5 * np.arctan2(x, y)))


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "round": np.hypot,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) / 0.85,
    "star": _star,
    "cross": lambda x, y: np.minimum(np.maximum(np.abs(x) / 0.38, np.abs(y)), np.maximum(np.abs(y) / 0.38, np.abs(x))),
    "bars": lambda x, y: np.maximum(np.abs(x), np.abs(np.abs(y) - 0.55) / 0.33),
}
"""How far out a point is: the outline is at 1."""


def _paint(picture: np.ndarray, where: np.ndarray, colour: float) -> None:
    """Lay a colour over a picture, as far as it covers each pixel."""
    picture += where * (colour - picture)


def _inside(x: np.ndarray, y: np.ndarray, wide: float, tall: float) -> np.ndarray:
    return _sharp((1 - np.hypot(x / wide, y / tall)) * min(wide, tall))


def _sharp(distance: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside, and smooth over a pixel or so."""
    return np.clip(0.5 + distance * 14, 0, 1)
