"""`X+ = X[a >= t]`, `X- = X[a < t]`, with `a` the activation of an SAE feature: concepts that nobody labelled.

A feature labels every token, so nobody has to (the paper's Section 8 names labels as its limit). `rank_features` finds
the features that fire for a few sentences; `concept_from_sae` turns a feature and a corpus into a concept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, Example
from engram_interp.models import adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Read, Run, takes
from engram_interp.sae.corpus import Corpus, listed
from engram_interp.sae.partition import Partition, partition
from engram_interp.sae.reader import Index, SaeReader
from engram_interp.sae.rule import EXAMPLE, REST, Reading, Rule, Trigger, firing, thresholds, whole_example

NO_FEATURE = "rest"
"""The name of the examples at which no feature fires."""


@dataclass(frozen=True)
class SaeConcept(Concept):
    """A concept whose target is where SAE features fire.

    Attributes:
        partition: the corpus in two sides, with counts, thresholds and what the sides look like. A notebook shows it by
            itself; elsewhere use `partition.to_html()`.
    """

    partition: Partition = field(kw_only=True)

    def __repr__(self) -> str:
        return f"SaeConcept({self.partition!r})"

    def _repr_html_(self) -> str:
        return self.partition.to_html()


@exclusive
@takes(Rule, Read, Run)
def concept_from_sae(
    model: nn.Module,
    sae: Any,
    feature: Index | Iterable[Index],
    corpus: Corpus,
    *,
    name: str | None = None,
    rule: Rule,
    read: Read,
    run: Run,
) -> SaeConcept:
    """A concept from where SAE features fire in a corpus, and where they do not.

    BOS and padding are on neither side. Of `(prompt, answer)` pairs, the positions that count are. A whole example
    fires if its text does, prompt and answer; a token fires only where it counts.

    Args:
        model: the `HookedTransformer` or `TransformerBridge` that the SAE was trained on.
        sae: any `sae_lens.SAE`, transcoders included. A training SAE is read as the SAE that it would save.
        feature: the index of a feature, or several: then the target is where any of them fires.
        corpus: examples as `Concept` takes them, or tokens `[n pos]`. In the latter, BOS and padding do not count, and
            padding at the start of a row is removed.
        name: what reports and files call the concept. None names it by its features.

    Raises:
        ImportError: if sae-lens is not installed.
        TypeError: if `sae` is not an SAE, or a feature is not an index.
        ValueError: if the SAE does not have a feature; if a feature fires nowhere or everywhere in the corpus; if the
            SAE has no hook name, or belongs to another model, or reads another width; if an option is out of range.

    Example:
        >>> import engram_interp as ei
        >>> model, sae, corpus = ei.testbed.load("full"), ei.testbed.load_sae(), ei.testbed.authors()
        >>> examples = corpus.forget10[1].examples + corpus.world_examples
        >>> ranked = ei.rank_features(model, sae, ["Where was Kara Jenquist born?"], examples)
        >>> concept = ei.concept_from_sae(model, sae, ranked["feature"][0], examples, per="example")
        >>> len(concept.target) + len(concept.reference) == len(examples)
        True
    """
    reader = SaeReader(adapt_language(model), sae)
    features = reader.features(feature)
    examples = listed(corpus, reader.adapter.encoder)
    names = [f"feature {index}" for index in features]
    split = partition(reader.readings(examples, features, run, read), rule, names, f" at {reader.hook}", reader.decode)
    sides: dict[str, Sequence[Example]] = {side: split.examples(side) for side in (TARGET, REFERENCE)}
    if rule.per == EXAMPLE and rule.reference == REST and rule.max_tokens is None:
        # Whole examples stay text, so that answers can be read and scored.
        sides = {
            side: [example for example, mask in zip(examples, masks, strict=True) if mask.any()]
            for side, masks in split.sides.items()
        }
    return SaeConcept(
        sides[TARGET], sides[REFERENCE], name or ", ".join(names), read.positions, read.eos, partition=split
    )


@exclusive
@takes(Trigger, Read, Run)
def concepts_from_sae(
    model: nn.Module,
    sae: Any,
    features: Iterable[Index],
    corpus: Corpus,
    *,
    trigger: Trigger,
    read: Read,
    run: Run,
) -> dict[str, list[Example]]:
    """Examples by feature, `"feature 3"`, and the `"rest"`, for `decompose`. Every token is in one of them.

    Where several features fire, a token goes to the one that is nearest to its largest activation in the corpus. With
    `per="example"`, all tokens of an example go to one feature. The rest is where no feature fires; it is left out if
    one always does.

    Args:
        model: see `concept_from_sae`.
        sae: see `concept_from_sae`.
        features: their indices.
        corpus: see `concept_from_sae`.

    Raises:
        ValueError: if no token goes to a feature, which is then named; see also `concept_from_sae`.
    """
    reader = SaeReader(adapt_language(model), sae)
    chosen = reader.features(features)
    examples = listed(corpus, reader.adapter.encoder)
    readings = reader.readings(examples, chosen, run, read)
    least = thresholds(readings, trigger)
    largest = torch.cat([reading.activation[reading.text] for reading in readings]).amax(0)
    groups: dict[str, list[Example]] = {**{f"feature {index}": [] for index in chosen}, NO_FEATURE: []}
    names = list(groups)
    for example, reading in zip(examples, readings, strict=True):
        owner = _owners(reading, least, largest, trigger)
        for place in owner[reading.counts].unique().tolist():
            only = reading.counting(reading.counts & (owner == place))
            groups[names[place]].append(example if trigger.per == EXAMPLE else only)
    if empty := [name for name in names[:-1] if not groups[name]]:
        raise ValueError(
            f"no token is left for {', '.join(empty)}: nothing that counts fires there, or another feature is nearer "
            f"to its largest activation wherever it does; leave it out of features"
        )
    return {name: members for name, members in groups.items() if members}


def _owners(
    reading: Reading, least: Float[Tensor, "feature"], largest: Float[Tensor, "feature"], trigger: Trigger
) -> Int[Tensor, "pos"]:
    """For every token, the feature that it goes to, or the number of features if it goes to none."""
    n_features = len(least)
    fires = firing(reading.activation, least)
    strength = (reading.activation / largest).where(fires, 0.0)
    if trigger.per == EXAMPLE:
        whole = [whole_example(reading, fired, trigger.share) for fired in fires.T]
        peaks = strength.where(reading.text[:, None], 0.0).amax(0).where(torch.tensor(whole), 0.0)
        strength = peaks[None].expand(len(reading.tokens), -1)
    return strength.argmax(1).where(strength.amax(1) > 0, n_features)
