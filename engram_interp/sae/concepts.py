"""`X+ = X[a >= t]`, `X- = X[a < t]`, with `a` the activation of an SAE's feature: concepts that nobody labelled.

A feature labels every token, so nobody has to: `rank_features` goes from a few sentences to the features that fire for
them, `concept_from_sae` from a feature and a corpus to a concept (the paper's Section 8 names labels as its limit).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.concepts.concept import BATCH_SIZE, REFERENCE, TARGET, Concept, Example, TokenExample
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.sae.partition import (
    EXAMPLE,
    REST,
    Partition,
    Reading,
    Rule,
    firing,
    partition,
    thresholds,
    whole_examples,
)
from engram_interp.sae.reader import Corpus, Index, Rates, Reconstruction, SaeReader, listed


@dataclass(frozen=True)
class SaeConcept(Concept):
    """A concept whose target is where SAE features fire.

    Attributes:
        partition: the corpus in two sides: counts, thresholds and what the sides look like. In a notebook it shows
            itself; elsewhere there is `partition.to_html()`.
    """

    partition: Partition = field(kw_only=True)

    def __repr__(self) -> str:
        return f"SaeConcept({self.partition!r})"

    def _repr_html_(self) -> str:
        return self.partition.to_html()


@exclusive
def concept_from_sae(
    model: nn.Module,
    sae: Any,
    feature: Index | Iterable[Index],
    corpus: Corpus,
    *,
    per: str = "token",
    share: float | int = 0.0,
    threshold: float | int = 0.0,
    quantile: float | int | None = None,
    reference: str = "rest",
    max_tokens: int | None = None,
    seed: int = 0,
    name: str | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> SaeConcept:
    """A concept from where SAE features fire in a corpus, and where they do not.

    BOS and padding are in neither side, and of `(prompt, answer)` pairs only answers are, as everywhere. Whether a
    whole example fires is asked of all its text, prompt and answer; of tokens, of those that count.

    Args:
        model: the `HookedTransformer` or `TransformerBridge` that the SAE was trained on.
        sae: any `sae_lens.SAE`, transcoders too; a training SAE is read as the one that it would save.
        feature: a feature's index, or several: then the target is where any of them fires.
        corpus: examples as `Concept` takes them, or tokens `[n pos]`, of which BOS and padding do not count (and
            padding in front is left away).
        per: `"token"` puts every token to its side, `"example"` all tokens of an example to one.
        share: with `per="example"`, of its tokens that must fire for an example to fire; 0 is any one.
        threshold: the least activation that is called firing; 0 is any above zero.
        quantile: in place of a threshold: that quantile of the feature's activations above zero in the corpus.
        reference: `"rest"` is every silent token. `"matched"` is silent tokens that fire elsewhere in the corpus, and
            `"matched-positions"` those at positions at which others fire, so that the engram is not just of a word or a
            place; firing tokens without a silent counterpart are left out. Either side may hold more of a kind than the
            other. An edit spares only what its reference holds: matched references are for maps.
        max_tokens: how many tokens a side keeps, drawn at random; all by default.
        seed: of the draw.
        name: how reports and files call the concept; by default by its features.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ImportError: sae-lens is not installed.
        TypeError: something else than an SAE, or a feature that is no index.
        ValueError: a feature that the SAE lacks, that fires nowhere or everywhere in the corpus; an SAE without a hook
            name, of another model or of another width; an option out of range.

    Example:
        >>> import engram_interp as ei
        >>> model, sae, corpus = ei.testbed.load("full"), ei.testbed.load_sae(), ei.testbed.authors()
        >>> examples = corpus.forget10[1].examples + corpus.world_examples
        >>> ranked = ei.rank_features(model, sae, ["Where was Kara Jenquist born?"], examples)
        >>> concept = ei.concept_from_sae(model, sae, ranked["feature"][0], examples, per="example")
        >>> len(concept.target) + len(concept.reference) == len(examples)
        True
    """
    rule = Rule(per, share, threshold, quantile, reference, max_tokens, seed)
    reader = SaeReader(adapt(model), sae)
    features = reader.features(feature)
    examples = listed(corpus, reader.adapter.encoder)
    readings = reader.readings(examples, features, batch_size, progress)
    names = [f"feature {index}" for index in features]
    split = partition(readings, rule, names, f" at {reader.hook}", reader.decode)
    sides: dict[str, Sequence[Example]] = {side: split.examples(side) for side in (TARGET, REFERENCE)}
    if per == EXAMPLE and reference == REST and max_tokens is None:
        # Whole examples stay text, so that answers can be read and scored.
        sides = {
            side: [example for example, mask in zip(examples, masks, strict=True) if mask.any()]
            for side, masks in split.sides.items()
        }
    return SaeConcept(sides[TARGET], sides[REFERENCE], name or ", ".join(names), partition=split)


@exclusive
def concepts_from_sae(
    model: nn.Module,
    sae: Any,
    features: Iterable[Index],
    corpus: Corpus,
    *,
    per: str = "token",
    share: float | int = 0.0,
    threshold: float | int = 0.0,
    quantile: float | int | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> dict[str, list[Example]]:
    """Examples by feature, `"feature 3"`, and the `"rest"`, for `decompose`: every token is in one of them.

    Where several features fire, a token goes to the one that is nearest to its largest activation in the corpus; with
    `per="example"`, all tokens of an example go to one feature. Where none fires is the rest, unless one always does.

    Args:
        model: see `concept_from_sae`.
        sae: see `concept_from_sae`.
        features: their indices.
        corpus: see `concept_from_sae`.
        per: see `concept_from_sae`.
        share: see `concept_from_sae`.
        threshold: see `concept_from_sae`.
        quantile: see `concept_from_sae`.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: see `concept_from_sae`; also features to which no token goes, by name.
    """
    rule = Rule(per, share, threshold, quantile)
    reader = SaeReader(adapt(model), sae)
    chosen = reader.features(features)
    examples = listed(corpus, reader.adapter.encoder)
    readings = reader.readings(examples, chosen, batch_size, progress)
    least = thresholds(readings, rule)
    largest = torch.cat([reading.activation[reading.text] for reading in readings]).amax(0)
    groups: dict[str, list[Example]] = {**{f"feature {index}": [] for index in chosen}, "rest": []}
    names = list(groups)
    for example, reading in zip(examples, readings, strict=True):
        owner = _owners(reading, least, largest, rule)
        for place in owner[reading.counts].unique().tolist():
            whole = per == EXAMPLE
            groups[names[place]].append(
                example if whole else TokenExample(reading.tokens, reading.counts & (owner == place))
            )
    if empty := [name for name in names[:-1] if not groups[name]]:
        raise ValueError(
            f"nothing is left for {', '.join(empty)}, which fire at no token that counts, or only where another is "
            f"nearer to its largest activation: leave them out"
        )
    return {name: members for name, members in groups.items() if members}


def _owners(
    reading: Reading, least: Float[Tensor, "feature"], largest: Float[Tensor, "feature"], rule: Rule
) -> Int[Tensor, "pos"]:
    """At every token, which feature it goes to; the number of features where it goes to none."""
    n_features = len(least)
    fires = firing(reading.activation, least)
    strength = (reading.activation / largest).where(fires, 0.0)
    if rule.per == EXAMPLE:
        whole = [whole_examples(reading, fired, rule.share) for fired in fires.T]
        peaks = strength.where(reading.text[:, None], 0.0).amax(0).where(torch.tensor(whole), 0.0)
        strength = peaks[None].expand(len(reading.tokens), -1)
    return strength.argmax(1).where(strength.amax(1) > 0, n_features)


@exclusive
def rank_features(
    model: nn.Module,
    sae: Any,
    examples: Concept | Corpus,
    reference: Corpus | None = None,
    *,
    threshold: float | int = 0.0,
    confidence: float = 0.95,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Which features fire in these examples more than in others: a row a feature, the largest difference first.

    Args:
        model: the model that the SAE was trained on.
        sae: any `sae_lens.SAE`.
        examples: what the features should stand for, or a `Concept`, whose reference then is the reference.
        reference: other examples. Without, features are ordered by how often they fire at all.
        threshold: the least activation that is called firing; 0 is any above zero.
        confidence: of the intervals, each by itself: the first of many features is there partly by luck.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Returns:
        `feature`; `target_rate` and `reference_rate`, the shares of examples in whose text it fires, prompts included
        (of examples given as tokens: at those that count); their `difference`, and its interval from `low` to `high`
        (Newcombe 1998, method 10; without a reference Wilson's, of `target_rate`); `target_token_rate` and
        `reference_token_rate`, the shares of tokens; and `target_activation` and `reference_activation`, the mean over
        examples of the largest activation.

    Raises:
        ImportError: sae-lens is not installed.
        ValueError: see `concept_from_sae`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is of the intervals, between 0 and 1; got {confidence}")
    if isinstance(examples, Concept):
        if reference is not None:
            raise ValueError("a concept brings its own reference: give either a concept or two lists of examples")
        examples, reference = examples.target, examples.reference
    from scipy.stats import norm

    least = float(Rule(threshold=threshold).threshold)
    reader = SaeReader(adapt(model), sae)
    encoder = reader.adapter.encoder
    groups = {TARGET: listed(examples, encoder)}
    if reference is not None:
        groups[REFERENCE] = listed(reference, encoder)
    rates = reader.rates(groups, least, batch_size, progress)
    table = _rate_table(rates, float(norm.ppf((1 + confidence) / 2)))
    by = "target_rate" if reference is None else "difference"
    return table.sort_values([by, "target_activation"], ascending=False, ignore_index=True)


def choose_feature(ranked: pd.DataFrame) -> tuple[int, float]:
    """The feature that stands for some examples, and a threshold: half of its activation in them.

    Of those that fire in most of them, it is the one whose activation there is the largest multiple of that elsewhere.
    (The rule found more of 40 authors of the testbed's retain split than the largest difference in rates: 31, not 23.)

    Args:
        ranked: what `rank_features` gives with a reference.

    Returns:
        The feature, and `target_activation / 2`.

    Raises:
        ValueError: a ranking without a reference, or in which nothing fires.

    Example:
        >>> columns = ["feature", "target_rate", "target_activation", "reference_activation"]
        >>> choose_feature(pd.DataFrame([(3, 1.0, 4.0, 2.0), (8, 1.0, 3.0, 0.1), (9, 0.5, 9.0, 0.0)], columns=columns))
        (8, 1.5)
    """
    if ranked["reference_activation"].isna().any():
        raise ValueError("this ranking has no reference to tell features apart from: give rank_features one")
    firing_most = ranked[ranked["target_rate"] == ranked["target_rate"].max()]
    activation = firing_most["target_activation"].to_numpy()
    if not activation.any():
        raise ValueError("no feature fires in these examples")
    with np.errstate(divide="ignore", invalid="ignore"):
        multiple = np.nan_to_num(activation / firing_most["reference_activation"].to_numpy(), posinf=np.inf)
    best = firing_most.iloc[int(multiple.argmax())]
    return int(best["feature"]), float(best["target_activation"]) / 2


def _wilson(hits: Float[Tensor, "n"], n: int, z: float) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Wilson's interval of a share, feature by feature."""
    p = hits / n
    centre, spread = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return torch.minimum(low, p).clamp(min=0), torch.maximum(high, p)  # 0 and 1 exactly, where rounding misses them


def _rate_table(rates: Mapping[str, Rates], z: float) -> pd.DataFrame:
    target, other = rates[TARGET], rates.get(REFERENCE)
    p1, (low, high) = target.examples / target.n_examples, _wilson(target.examples, target.n_examples, z)
    nothing = torch.full_like(p1, torch.nan)
    columns = {"target_rate": p1, "reference_rate": nothing, "difference": nothing, "low": low, "high": high}
    token_rates = {"target_token_rate": target.tokens / target.n_tokens, "reference_token_rate": nothing}
    activations = {"target_activation": target.peaks / target.n_examples, "reference_activation": nothing}
    if other is not None:
        p2, (low2, high2) = other.examples / other.n_examples, _wilson(other.examples, other.n_examples, z)
        columns |= {
            "reference_rate": p2,
            "difference": p1 - p2,
            "low": p1 - p2 - ((p1 - low) ** 2 + (high2 - p2) ** 2).sqrt(),
            "high": p1 - p2 + ((high - p1) ** 2 + (p2 - low2) ** 2).sqrt(),
        }
        token_rates["reference_token_rate"] = other.tokens / other.n_tokens
        activations["reference_activation"] = other.peaks / other.n_examples
    features = {"feature": range(len(p1))}
    return pd.DataFrame({**features, **{k: v.numpy() for k, v in (columns | token_rates | activations).items()}})


@exclusive
def reconstruction(
    model: nn.Module, sae: Any, corpus: Corpus, *, batch_size: int = BATCH_SIZE, progress: bool | None = None
) -> Reconstruction:
    """Whether an SAE fits a model: what it explains of the activations over a corpus, BOS and padding left out.

    An SAE of another layer, another checkpoint or differently processed weights runs without an error and explains
    little: look here first.

    Raises:
        NotImplementedError: a transcoder, which says another activation than the one it reads.
        ValueError: see `concept_from_sae`.
    """
    reader = SaeReader(adapt(model), sae)
    return reader.reconstruction(listed(corpus, reader.adapter.encoder), batch_size, progress)
