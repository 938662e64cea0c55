"""How strongly is each matrix edited? `alpha` as a user gives it -> one number for every weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from engram_interp.common.arguments import Number, number
from engram_interp.models.sites import named_components

Alpha: TypeAlias = Number | str | Mapping[str, Number]
"""A number for every matrix, `"w-norm"`, or numbers by key or component."""


def alphas_of(
    alpha: Alpha, components: Mapping[str, Collection[str]], wnorm: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """The strength of every weight's edit. A bias takes its weight's.

    Args:
        alpha: what the user gave.
        components: the components of every weight of the engram, by key: more than one where a tensor holds several
            matrices.
        wnorm: makes their W-Norms, by key. It reads the whole engram, so it is called only if they are asked for.

    Raises:
        ValueError: if `alpha` names what the engram does not have, is a word other than "w-norm", or is "w-norm" for an
            engram that is zero.
        TypeError: if it is anything else than a number, a word or a mapping.

    Example:
        >>> wnorms = {"blocks.0.attn.W_Q": 0.1, "blocks.0.attn.W_K": 0.2}
        >>> alphas_of("w-norm", {"blocks.0.attn.W_Q": ["W_Q"], "blocks.0.attn.W_K": ["W_K"]}, lambda: wnorms)
        {'blocks.0.attn.W_Q': 0.5, 'blocks.0.attn.W_K': 1.0}
    """
    if isinstance(alpha, Mapping):
        return _by_name(alpha, components)
    if not isinstance(alpha, str):
        return dict.fromkeys(components, number(alpha, "alpha"))
    if alpha != "w-norm":
        raise ValueError(f'alpha must be a number, "w-norm", or numbers by key or component; got {alpha!r}')
    wnorms = wnorm()
    if not any(wnorms.values()):
        raise ValueError('alpha="w-norm" divides by the largest W-Norm, and this engram is zero everywhere')
    return {key: wnorm / max(wnorms.values()) for key, wnorm in wnorms.items()}


def _by_name(alpha: Mapping[str, Number], components: Mapping[str, Collection[str]]) -> dict[str, float]:
    if wrong := [name for name in alpha if not isinstance(name, str)]:
        raise TypeError(f"alpha must name keys or components, such as 'gate'; got {wrong[0]!r}")
    present = [name for names in components.values() for name in names]
    by_component: dict[str, float] = {}
    for name, value in alpha.items():
        if name in components:
            continue
        for component in _named(present, name):
            if component in by_component:
                raise ValueError(f"alpha names {component} twice: {list(alpha)}")
            by_component[component] = number(value, "alpha")
    return {
        key: number(alpha[key], "alpha") if key in alpha else _one_of(key, names, by_component)
        for key, names in components.items()
    }


def _named(present: Sequence[str], name: str) -> list[str]:
    try:
        return named_components(present, name)
    except ValueError as error:
        raise ValueError(f"alpha names {name}, which the engram does not have: {error}") from None


def _one_of(key: str, names: Collection[str], by_component: Mapping[str, float]) -> float:
    """The strength of a tensor, from those of its components: one number, since it is edited as a whole."""
    found = {by_component.get(name, 0.0) for name in names}
    if len(found) > 1:
        raise ValueError(
            f"{key} holds {', '.join(names)}, and alpha gives them different strengths: select(components=...) takes "
            f"an engram apart"
        )
    return found.pop()
