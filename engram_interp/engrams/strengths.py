"""How strongly is each matrix edited? `alpha` as a user gives it -> one number for every weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from engram_interp.common.arguments import Number, number
from engram_interp.models.components import component_names
from engram_interp.models.sites import component_of

Alpha: TypeAlias = Number | str | Mapping[str, Number]
"""A number for every matrix, `"w-norm"`, or numbers by key or component."""


def alphas_of(alpha: Alpha, keys: Collection[str], wnorm: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """The strength of every weight's edit. A bias takes its weight's.

    Args:
        alpha: what the user gave.
        keys: every weight of the engram.
        wnorm: makes their W-Norms, by key. It reads the whole engram, so it is called only if they are asked for.

    Raises:
        ValueError: if `alpha` names what the engram does not have, is a word other than "w-norm", or is "w-norm" for an
            engram that is zero.
        TypeError: if it is anything else than a number, a word or a mapping.

    Example:
        >>> wnorms = {"blocks.0.attn.W_Q": 0.1, "blocks.0.attn.W_K": 0.2}
        >>> alphas_of("w-norm", wnorms, lambda: wnorms)
        {'blocks.0.attn.W_Q': 0.5, 'blocks.0.attn.W_K': 1.0}
    """
    if isinstance(alpha, Mapping):
        return _by_name(alpha, keys)
    if not isinstance(alpha, str):
        return dict.fromkeys(keys, number(alpha, "alpha"))
    if alpha != "w-norm":
        raise ValueError(f'alpha must be a number, "w-norm", or numbers by key or component; got {alpha!r}')
    wnorms = wnorm()
    if not any(wnorms.values()):
        raise ValueError('alpha="w-norm" divides by the largest W-Norm, and this engram is zero everywhere')
    return {key: wnorm / max(wnorms.values()) for key, wnorm in wnorms.items()}


def _by_name(alpha: Mapping[str, Number], keys: Collection[str]) -> dict[str, float]:
    if wrong := [name for name in alpha if not isinstance(name, str)]:
        raise TypeError(f"alpha must name keys or components, such as 'gate'; got {wrong[0]!r}")
    named = [(component_names(name)[0], value) for name, value in alpha.items() if "." not in name]
    components = dict(named)
    if len(components) < len(named):
        raise ValueError(f"alpha names a component twice, by its long and its short form: {list(alpha)}")
    present = {component_of(key) for key in keys}
    unknown = [name for name in alpha if "." in name and name not in keys]
    if unknown := unknown + [name for name in components if name not in present]:
        raise ValueError(f"alpha names {', '.join(unknown)}, which the engram does not have")
    return {key: number(alpha.get(key, components.get(component_of(key), 0.0)), "alpha") for key in keys}
