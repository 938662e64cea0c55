"""What would a map show of examples that own nothing of their own, or of another memory? Sizes of sets tell.

The engram of a set `r` is `W S_r S^pinv` with `S_r = X_r^T X_r`, so its size follows from the rows of the inputs, with
no forward pass and no factorisation of its own: see `set_norms`. Which sets these are, `null_sets` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.engrams.parts import Part
from engram_interp.linalg.filters import soft
from engram_interp.linalg.intervals import band, exceedance, family_p_values, interval, interval_about
from engram_interp.linalg.norms import share
from engram_interp.maps.null_sets import N_BOOTSTRAPS, NullSets, rows_of_sets
from engram_interp.maps.quantities import GAIN, METRICS, OBLIQUE, RELIANCE, SCORE, WNORM, Metric, Norms, Sizes
from engram_interp.maps.reliance import reliances
from engram_interp.maps.scores import Measured, above_others, reached, score_p_values, scores, scores_without_own
from engram_interp.maps.set_norms import set_norms
from engram_interp.statistics.moments import full_precision


@dataclass(frozen=True)
class Compared:
    """The sizes of a matrix and its heads in one metric, in units of `(n/N) |dW Pi|`, for the target and for sets.

    A set's unit grows with the number of its positions.

    Attributes:
        unit: the unit itself, as a share of the matrix's size.
        target: the target's size, from its moments in float64.
        sets: the size of every set, from its rows: the target, random sets, bootstraps of the target.
        fallback: the mean of random sets to assume if all of them are zero.
    """

    unit: Float[Tensor, "unit"]
    target: Float[Tensor, "unit"]
    sets: Float[Tensor, "set unit"]
    fallback: float

    @property
    def random(self) -> Float[Tensor, "set unit"]:
        """The target and the random sets."""
        return self.sets[:-N_BOOTSTRAPS]

    @property
    def noise(self) -> Float[Tensor, "unit"]:
        """The mean of the random sets. Noise raises it above 1, so the target is compared with it and not with 1."""
        mean = self.random[1:].mean(0)
        return mean.where(mean > 0, self.fallback)

    def columns(self, n_target: int) -> dict[str, Tensor]:
        """Expected size, the band of random sets, excess, and the ends of its interval, by kind.

        One example says nothing about others.
        """
        noise = self.noise
        excess = share(self.target, noise)
        low, high = interval(excess, share(self.sets[-N_BOOTSTRAPS:], noise))
        if n_target == 1:
            low, high = torch.full_like(low, torch.nan), torch.full_like(high, torch.nan)
        null_low, null_high = (self.unit * end for end in band(self.random[1:]))
        found = {"expected": self.unit * noise, "null_low": null_low, "null_high": null_high}
        return {**found, "excess": excess, "low": low, "high": high}


@dataclass(frozen=True)
class OfSets:
    """What sets say of a matrix and its heads.

    Attributes:
        compared: their sizes, by metric.
        measured: what scores are made of; the sets are those of `Compared.sets`.
    """

    compared: dict[Metric, Compared]
    measured: Measured


@torch.no_grad()
def of_sets(
    parts: Sequence[Part], sizes: Mapping[str, Sizes], target_share: float, null: NullSets
) -> dict[str, OfSets]:
    """The sizes of the target's and all sets' engrams, by key.

    Args:
        parts: matrices that read one input, and the target's engrams.
        sizes: what `sizes_of` says of them, by key.
        target_share: `n/N`, the target's share of the positions that count.
        null: the sets.
    """
    rows = null.rows[parts[0].site.input]
    growth = null.growth(rows)[:, None]
    with full_precision():
        norms = set_norms(parts, rows, rows_of_sets(rows, null.sets))
    found = {}
    for part, engrams, passed, all_of_it in zip(parts, norms.engrams, norms.passed, norms.whole, strict=True):
        own, root = sizes[part.site.key], part.data.kept.rank**0.5
        gain = _over(share(passed, all_of_it.expand_as(passed)), norms.M) * root
        oblique = _over(share(engrams[WNORM], own[WNORM.whole].expand_as(passed)), norms.P_plus) * root
        compared = _compared(part, own, engrams, growth, target_share)
        compared |= {GAIN: _relative(gain), OBLIQUE: _relative(oblique)}
        found[part.site.key] = OfSets(compared, Measured(gain, passed / growth))
    return found


def _over(values: Float[Tensor, "set unit"], of_set: Float[Tensor, "set"]) -> Float[Tensor, "set unit"]:
    return share(values, of_set[:, None].expand_as(values))


def _relative(values: Float[Tensor, "set unit"]) -> Compared:
    """Numbers that are 1 for a set that owns the same of every direction."""
    return Compared(torch.ones_like(values[0]), values[0], values, 1.0)


def _compared(
    part: Part, sizes: Sizes, norms: Norms, growth: Float[Tensor, "set 1"], target_share: float
) -> dict[Metric, Compared]:
    """The sizes of one matrix; `growth` is how many positions a set has for each of the target's."""
    is_soft = part.data.is_soft
    null = None if is_soft else part.data.null(part.dW, target_share, soft)
    found = {}
    for metric in METRICS:
        whole = sizes[metric.whole]
        # Without a filter, the unit is the analytic null's size, which is at hand.
        unit = sizes[metric.column("expected")] if null is None else share(metric.norms(part, null).cpu(), whole)
        of_sets = share(norms[metric], unit * whole * growth)
        found[metric] = Compared(unit, share(sizes[metric.name], unit), of_sets, 1.0 if is_soft else math.nan)
    return found


def significance(
    sizes: dict[str, Sizes],
    drawn: dict[str, OfSets],
    n_target: int,
    products: Mapping[str, Float[Tensor, "set unit 2"]] | None = None,
) -> dict[str, Sizes]:
    """The sizes with what sets say of them. All matrices are one family of p-values, and all heads are another.

    Args:
        sizes: by key.
        drawn: the sizes of the target and all sets, by key.
        n_target: how many examples the target has.
        products: `<dL/dW, W>` and `|dL/dW|^2` by key, of the target and the null sets. If there are some, the map has
            reliances, and the score is significant only where the reliance is among the largest of all sets too.
    """
    found = {key: dict(values) for key, values in sizes.items()}
    for metric in (*METRICS, GAIN, OBLIQUE):
        compared = {key: of_sets.compared[metric] for key, of_sets in drawn.items()}
        p_values = _by_family({key: one.random for key, one in compared.items()}, lambda x: {"p": family_p_values(x)})
        for key, one in compared.items():
            columns = {"size": one.target * one.unit, **one.columns(n_target), "p_value": p_values["p"][key]}
            found[key] |= {metric.column(kind): values for kind, values in columns.items()}
    for kind, by_key in _scores({key: one.measured for key, one in drawn.items()}, n_target).items():
        for key, values in by_key.items():
            found[key][SCORE.column(kind)] = values
    if products:
        of_loss = _by_family(dict(products), _reliance_columns)
        for key, values in found.items():
            values |= {RELIANCE.column(kind): of_loss[kind][key] for kind in ("size", "p_value")}
            column = SCORE.column("p_value")
            values[column] = torch.maximum(values[column], of_loss["here"][key])
    return found


def _reliance_columns(products: Float[Tensor, "set unit 2"]) -> dict[str, Float[Tensor, "unit"]]:
    """The columns of the reliance; and `here`, in which share of sets a unit has as much as in the first."""
    of_sets = reliances(products)
    return {"size": of_sets[0], "p_value": exceedance(of_sets), "here": reached(of_sets)}


def _scores(measured: dict[str, Measured], n_target: int) -> dict[str, dict[str, Tensor]]:
    """The columns of the score, by kind and key."""
    both = {key: torch.stack([one.gain, one.passed], dim=2) for key, one in measured.items()}

    def columns(values: Float[Tensor, "set unit 2"]) -> dict[str, Tensor]:
        every = Measured(*values.unbind(2))
        random, bootstraps = every.at(slice(-N_BOOTSTRAPS)), every.at(slice(-N_BOOTSTRAPS, None))
        of_sets = scores_without_own(random)
        low, high = interval_about(of_sets[0], scores(bootstraps, random.at(slice(1, None))))
        if n_target == 1:
            low, high = torch.full_like(low, torch.nan), torch.full_like(high, torch.nan)
        excess, p_value = above_others(of_sets[0]), score_p_values(of_sets)
        null_low, null_high = band(of_sets[1:])
        found = {"size": of_sets[0], "null_low": null_low, "null_high": null_high, "excess": excess}
        return {**found, "p_value": p_value, "low": low, "high": high}

    return _by_family(both, columns)


def _by_family(
    sets: dict[str, Float[Tensor, "set unit *k"]], columns: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, dict[str, Float[Tensor, "unit"]]]:
    """What is found of a family, by name and key: the first unit of each key is a matrix, the others are its heads."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for units in (slice(1), slice(1, None)):
        family = [values[:, units] for values in sets.values()]
        joined = torch.cat(family, dim=1)
        if not joined.shape[1]:
            continue
        for name, values in columns(joined).items():
            by_key = found.setdefault(name, {key: [] for key in sets})
            for key, some in zip(sets, values.split([one.shape[1] for one in family]), strict=True):
                by_key[key].append(some)
    return {name: {key: torch.cat(some) for key, some in by_key.items()} for name, by_key in found.items()}
