"""Is an argument what its function takes? Numbers, layers and examples are read once, or refused in one sentence.

Scalars of NumPy and torch are numbers here. Booleans and strings are not, although Python would compute with them.
"""

from __future__ import annotations

import math
import operator
import re
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


def n_bytes(value: object, name: str) -> int:
    """A size in bytes: a whole number, or a number with a unit, `"24GB"` or `"1.5 GiB"`.

    Raises:
        ValueError: if it is no size, or zero.
        TypeError: if it is neither a whole number nor a string.

    Example:
        >>> n_bytes("1.5GB", "budget"), n_bytes("2 MiB", "budget")
        (1500000000, 2097152)
    """
    if not isinstance(value, str):
        return whole(value, name, at_least=1)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", value, re.IGNORECASE)
    size = 0 if found is None else _size(float(found[1]), found[2].upper(), binary=bool(found[3]))
    if size < 1:
        raise ValueError(f'{name} must be a size such as "24GB" or "500 MiB", or a number of bytes; got {value!r}')
    return size


def _size(n: float, prefix: str, binary: bool) -> int:
    return int(n * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))


def in_units(size: float | int) -> str:
    """A size in bytes for people: `1.2 GB`.

    Example:
        >>> in_units(1_234_567_890), in_units(999)
        ('1.2 GB', '999 B')
    """
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


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
