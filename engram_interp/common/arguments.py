"""Is an argument what its function takes? Numbers, layers and examples are read once, or refused in one sentence.

Scalars of NumPy and torch are numbers here. Booleans and strings are not, although Python would compute with them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

Number: TypeAlias = SupportsFloat
"""A real number: Python's, NumPy's or torch's."""

Layers: TypeAlias = SupportsIndex | Iterable[SupportsIndex] | None
"""One layer or several, by number; None means all. Heads are given in the same way."""


def number(value: object, name: str) -> float:
    """A finite real number as a float.

    Args:
        value: what was given.
        name: the argument's name, for the error.

    Raises:
        TypeError: if it is not a single real number, or if it is a string or a boolean.
        ValueError: if it is not finite.

    Example:
        >>> import numpy as np
        >>> number(np.float32(0.5), "alpha")
        0.5
    """
    if not _is_scalar(value):
        raise TypeError(f"{name} must be a finite number; got {value!r} ({type(value).__name__})")
    try:
        found = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a finite number; got {value!r} ({type(value).__name__})") from None
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number; got {value}")
    return found


def whole(value: object, name: str, at_least: int) -> int:
    """A whole number that is not below `at_least`.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is smaller than `at_least`.

    Example:
        >>> whole(8, "batch_size", 1)
        8
    """
    if not _is_index(value):
        raise TypeError(f"{name} must be a whole number, {at_least} or more; got {value!r}")
    found = operator.index(value)  # pyright: ignore[reportArgumentType]
    if found < at_least:
        raise ValueError(f"{name} must be a whole number, {at_least} or more; got {found}")
    return found


def indices(values: object, name: str) -> tuple[int, ...] | None:
    """One index or several as a tuple, in the order given. None stays None.

    Args:
        values: a whole number, or any iterable of them.
        name: the argument's name, for the error: `layers`, `heads`.

    Raises:
        TypeError: if it holds anything but whole numbers.

    Example:
        >>> indices(range(2), "layers"), indices(3, "heads")
        ((0, 1), (3,))
    """
    if values is None:
        return None
    if _is_index(values):
        return (operator.index(values),)  # pyright: ignore[reportArgumentType]
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)) and getattr(values, "ndim", 1):
        found = tuple(values)
        if all(map(_is_index, found)):
            return tuple(map(operator.index, found))
        values = list(found)
    raise TypeError(f"{name} must be whole numbers, such as 3 or [0, 3]; got {values!r}")


def read_once(value: Any) -> Any:
    """Turns an iterator into a list, so that it can be read again. Anything else is returned unchanged.

    Example:
        >>> read_once(x for x in "QK")
        ['Q', 'K']
    """
    return list(value) if isinstance(value, Iterator) else value


def _is_scalar(value: object) -> bool:
    """Whether this is a single value, by itself or in an array without axes, and neither text nor a boolean."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return False
    return "bool" not in str(getattr(value, "dtype", "")) and getattr(value, "ndim", 0) == 0


def _is_index(value: object) -> bool:
    if not _is_scalar(value):
        return False
    try:
        operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return False
    return True
