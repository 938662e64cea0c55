"""`1 - |x - x'|^2 / |x - mean|^2`: how well does an SAE reconstruct its model's activations `x` as `x'`?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.concept import Example
from engram_interp.models import adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, takes
from engram_interp.sae.corpus import Corpus, listed, text_of
from engram_interp.sae.reader import SaeReader
from engram_interp.sae.rule import firing


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE reconstructs its model's activations.

    Attributes:
        explained_variance: `1 - |x - x'|^2 / |x - mean|^2`, over tokens.
        l0: the number of features above zero at a token, on average.
        dead: the share of features that are above zero nowhere in the corpus.
        n_tokens: the number of tokens.
    """

    explained_variance: float
    l0: float
    dead: float
    n_tokens: int


@exclusive
@takes(Run)
def reconstruction(model: nn.Module, sae: Any, corpus: Corpus, *, run: Run) -> Reconstruction:
    """Does an SAE fit a model? How much it explains of the activations over a corpus, without BOS and padding.

    An SAE of another layer, another checkpoint or differently processed weights runs without an error and explains
    little. So check this first.

    Args:
        model: the model that the SAE was trained on.
        sae: any `sae_lens.SAE`.
        corpus: see `concept_from_sae`.

    Raises:
        NotImplementedError: if `sae` is a transcoder, which does not reconstruct the activation that it reads.
        ValueError: if all activations of the corpus are equal; see also `concept_from_sae`.
    """
    reader = SaeReader(adapt_language(model), sae)
    kind = reader.sae.cfg.architecture()
    if "transcoder" in kind or kind == "temporal":
        raise NotImplementedError(
            f"sae is a {kind}: what it decodes is not, or not only, what it reads at {reader.hook}, so there is "
            f"nothing to compare"
        )
    return _summed(reader, listed(corpus, reader.adapter.encoder), run)


def _summed(reader: SaeReader, corpus: Sequence[Example], run: Run) -> Reconstruction:
    encoded = encode_groups({"corpus": corpus}, reader.adapter.encoder)
    texts = [text_of(*pair, reader.adapter.encoder) for pair in zip(corpus, encoded["corpus"], strict=True)]
    total = torch.zeros(int(reader.sae.cfg.d_in), dtype=torch.float64)
    squared, missed, n, n_fired = 0.0, 0.0, 0, 0
    ever = torch.zeros(reader.d_sae, dtype=torch.bool)
    for members, x, activation in reader.pieces(encoded, run):
        with torch.no_grad():
            decoded = reader.sae.decode(activation)
        text = pad_sequence([texts[number] for _, number in members], batch_first=True)
        rows, back = (_at(text, one.flatten(2)).double() for one in (x, decoded))
        fires = firing(reader.finite(_at(text, activation)), 0.0)
        total += rows.sum(0)
        squared += float(rows.square().sum())
        missed += float((rows - back).square().sum())
        n, n_fired, ever = n + len(rows), n_fired + int(fires.sum()), ever | fires.any(0)
    variance = squared - float(total.square().sum()) / max(n, 1)
    if variance <= 1e-9 * squared:
        raise ValueError(f"corpus has {n} tokens of text, all with the same activation: give a wider corpus")
    return Reconstruction(1 - missed / variance, n_fired / n, float((~ever).double().mean()), n)


def _at(text: Tensor, values: Float[Tensor, "example pos d"]) -> Float[Tensor, "n d"]:
    """The values at text, where `text` may be shorter than a padded batch."""
    return values[:, : text.shape[1]].cpu()[text]
