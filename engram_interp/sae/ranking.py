"""`p1 - p2`: which features fire in more of these examples than of others? Rates with Newcombe's intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, Example
from engram_interp.linalg.intervals import newcombe, wilson
from engram_interp.models import adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, takes
from engram_interp.sae.corpus import Corpus, listed
from engram_interp.sae.reader import SaeReader
from engram_interp.sae.rule import Trigger, firing

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rates:
    """How often every feature fires in a group of examples.

    Attributes:
        n_examples: the number of examples.
        n_tokens: the number of tokens of text.
        examples: `[d_sae]`, the number of examples in which it fires at all.
        tokens: `[d_sae]`, the number of tokens at which it fires.
        peaks: `[d_sae]`, the sum over examples of its largest activation, where a negative one counts as 0.
    """

    n_examples: int
    n_tokens: int
    examples: Float[Tensor, "d_sae"]
    tokens: Float[Tensor, "d_sae"]
    peaks: Float[Tensor, "d_sae"]


@exclusive
@takes(Run)
def rank_features(
    model: nn.Module,
    sae: Any,
    examples: Concept | Corpus,
    reference: Corpus | None = None,
    *,
    threshold: float | int = 0.0,
    confidence: float = 0.95,
    run: Run,
) -> pd.DataFrame:
    """Which features fire in these examples more than in others? One row per feature, the largest difference first.

    Args:
        model: the model that the SAE was trained on.
        sae: any `sae_lens.SAE`.
        examples: what the features should stand for. A `Concept` brings its own reference.
        reference: other examples. Without them, features are ordered by how often they fire.
        threshold: the smallest activation that counts as firing. With 0, any activation above zero counts.
        confidence: the level of each interval by itself. The first of many features is there partly by luck, which the
            intervals do not correct for.

    Returns:
        A table with the columns `feature`; `target_rate` and `reference_rate`, the shares of examples in which it
        fires, prompts included (in examples given as tokens: at tokens that count); their `difference` and its interval
        from `low` to `high` (Newcombe 1998, method 10; without a reference, Wilson's interval of `target_rate`);
        `target_token_rate` and `reference_token_rate`, the shares of tokens; `target_activation` and
        `reference_activation`, the mean over examples of the largest activation.

    Raises:
        ImportError: if sae-lens is not installed.
        ValueError: if `confidence` is outside (0, 1), `threshold` is negative, or both a `Concept` and a reference are
            given; see also `concept_from_sae`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, both excluded; got {confidence}")
    if isinstance(examples, Concept):
        if reference is not None:
            raise ValueError("examples is a concept, which brings its own reference: leave out the argument reference")
        examples, reference = examples.target, examples.reference
    from scipy.stats import norm

    least = float(Trigger(threshold=threshold).threshold)
    reader = SaeReader(adapt_language(model), sae)
    sides: dict[str, Any] = {TARGET: examples} if reference is None else {TARGET: examples, REFERENCE: reference}
    groups = {side: listed(corpus, reader.adapter.encoder) for side, corpus in sides.items()}
    table = rate_table(rates(reader, groups, least, run), float(norm.ppf((1 + confidence) / 2)))
    by = "target_rate" if reference is None else "difference"
    return table.sort_values([by, "target_activation"], ascending=False, ignore_index=True)


def choose_feature(ranked: pd.DataFrame) -> tuple[int, float]:
    """The feature that stands for some examples, and a threshold: half of its activation in them.

    Among the features that fire in most of these examples, it is the one whose activation there is the largest multiple
    of its activation elsewhere. (On the testbed's retain split this rule found 31 of 40 authors; the largest difference
    in rates found 23.)

    Args:
        ranked: the table that `rank_features` returns when it has a reference.

    Returns:
        The feature, and `target_activation / 2`.

    Raises:
        ValueError: if the ranking has no reference, or if nothing fires in it.

    Example:
        >>> import pandas as pd
        >>> columns = ["feature", "target_rate", "target_activation", "reference_activation"]
        >>> choose_feature(pd.DataFrame([(3, 1.0, 4.0, 2.0), (8, 1.0, 3.0, 0.1), (9, 0.5, 9.0, 0.0)], columns=columns))
        (8, 1.5)
    """
    if ranked["reference_activation"].isna().any():
        raise ValueError("ranked has no reference to tell features apart from: call rank_features with a reference")
    firing_most = ranked[ranked["target_rate"] == ranked["target_rate"].max()]
    activation = firing_most["target_activation"].to_numpy()
    if not activation.any():
        raise ValueError("ranked has no feature that fires in these examples")
    with np.errstate(divide="ignore", invalid="ignore"):
        multiple = np.nan_to_num(activation / firing_most["reference_activation"].to_numpy(), posinf=np.inf)
    best = firing_most.iloc[int(multiple.argmax())]
    return int(best["feature"]), float(best["target_activation"]) / 2


def rates(reader: SaeReader, groups: Mapping[str, Sequence[Example]], threshold: float, run: Run) -> dict[str, Rates]:
    """How often every feature fires, by group of examples."""
    sums = {name: torch.zeros(3, reader.d_sae, dtype=torch.float64) for name in groups}
    sizes = {name: [0, 0] for name in groups}
    for (name, _), reading in reader.by_example(groups, slice(None), run):
        if not len(activation := reading.activation[reading.text]):
            continue
        fires = firing(activation, threshold)
        sums[name] += torch.stack([fires.any(0), fires.sum(0), activation.amax(0).clamp(min=0)])
        sizes[name] = [sizes[name][0] + 1, sizes[name][1] + len(activation)]
    return {name: Rates(sizes[name][0], sizes[name][1], *sums[name].unbind()) for name in groups}


def rate_table(found: Mapping[str, Rates], z: float) -> pd.DataFrame:
    """One row per feature, in the columns of `rank_features`.

    Args:
        found: the rates of the target, and of the reference if there is one.
        z: the quantile of the normal distribution for the level of the intervals, 1.96 for 95 %.
    """
    import pandas as pd

    target = found[TARGET]
    other = found.get(REFERENCE, _unknown(len(target.examples)))
    rate, other_rate = target.examples / target.n_examples, other.examples / other.n_examples
    if REFERENCE in found:
        low, high = newcombe(target.examples, target.n_examples, other.examples, other.n_examples, z)
    else:
        low, high = wilson(target.examples, target.n_examples, z)
    columns = {
        "target_rate": rate,
        "reference_rate": other_rate,
        "difference": rate - other_rate,
        "low": low,
        "high": high,
        "target_token_rate": target.tokens / target.n_tokens,
        "reference_token_rate": other.tokens / other.n_tokens,
        "target_activation": target.peaks / target.n_examples,
        "reference_activation": other.peaks / other.n_examples,
    }
    return pd.DataFrame({"feature": range(len(rate)), **{name: column.numpy() for name, column in columns.items()}})


def _unknown(d_sae: int) -> Rates:
    """The rates of a reference that was not given: not a number everywhere."""
    nothing = torch.full((d_sae,), torch.nan, dtype=torch.float64)
    return Rates(1, 1, nothing, nothing, nothing)
