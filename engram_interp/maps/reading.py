"""What does an engram say, and what does it listen to? The leading directions of `W+`, in tokens.

In the metric of the data, `W+ S^1/2 = U diag(s) V^T`: `u` is written, and `W+^T u` is read. What is written into the
residual stream is read through the unembedding; what is read is shown by the examples' own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import whole
from engram_interp.concepts.concept import TARGET, Concept, require_concept
from engram_interp.engrams.engram import Engram, require_engram
from engram_interp.engrams.weights import absorbing_inputs, matrix_in, matrix_of
from engram_interp.linalg.directions import Leading, leading, leading_shares
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import Spectrum
from engram_interp.linalg.total import Total
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.components import UNEMBED
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, component_of
from engram_interp.options import Run, takes
from engram_interp.statistics.moments import with_ones
from engram_interp.statistics.rows import collect_rows

WRITERS = ("W_O", "W_out")
"""The components that write into the residual stream."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How much of an engram is shown, and what it is compared with.

    Attributes:
        n: how many directions, 1 or more.
        n_tokens: how many tokens of each, 1 or more.
        draws: how many random sets of as many examples to compare with, 19 or more.
        seed: of the sets.
    """

    n: int = 4
    n_tokens: int = 8
    draws: int = 49
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("n_tokens", 1), ("draws", 19), ("seed", 0)):
            object.__setattr__(self, name, whole(getattr(self, name), name, at_least=least))


@dataclass(frozen=True)
class OneMatrix:
    """One matrix, its engram and what it reads.

    Attributes:
        adapter: the model.
        site: which matrix.
        W: the model's own, `[out d]`.
        W_plus: the engram.
        X: `[n d]`, the inputs at the positions that count, the target's first.
        example: `[n]`, the number of the example that each comes from.
        tokens: `[n]`, the token at each.
        kept: the directions of the inputs above the engram's cut.
        n_target: how many examples the target has.
    """

    adapter: LanguageAdapter
    site: Site
    W: Float[Tensor, "out d"]
    W_plus: Float[Tensor, "out d"]
    X: Float[Tensor, "n d"]
    example: Int[Tensor, "n"]
    tokens: Int[Tensor, "n"]
    kept: Spectrum
    n_target: int

    def leading(self, k: int) -> Leading:
        """The leading directions, each with the sign that the target calls up."""
        found = leading(self.W_plus, self.kept.U * self.kept.lam.sqrt(), k)
        target = self.X[self.example < self.n_target]
        sign = (target @ found.read).sum(0).sign()
        sign[sign == 0] = 1
        return Leading(found.shares, found.written * sign, found.read * sign)

    def random_shares(self, k: int, draws: int, seed: int) -> Float[Tensor, "draw k"]:
        """The shares of the leading directions of random sets of as many examples."""
        generator = torch.Generator().manual_seed(seed)
        n_examples = int(self.example.max()) + 1
        found = []
        for _ in range(draws):
            chosen = torch.randperm(n_examples, generator=generator)[: self.n_target]
            X = self.X[torch.isin(self.example, chosen)]
            found.append(leading_shares(self.kept.whiten(self.W @ X.T @ X), k))
        return torch.stack(found)


@exclusive
@takes(Shown, Run)
def writes(
    model: nn.Module,
    engram: Engram,
    key: str,
    concept: Concept,
    *,
    shown: Shown,
    run: Run,
) -> pd.DataFrame:
    """What a matrix's engram writes into the residual stream, in tokens.

    Args:
        model: the model that the engram is part of.
        engram: the engram.
        key: a `W_O`, a `W_out` or the unembedding, by its path.
        concept: what the engram was made from.

    Returns:
        A row for each direction: its `share` of the energy of `W+ x` over all examples; `control`, the mean share of
        that direction in random sets, and `p_value`, how often one has as large a share; and `tokens`, those whose
        logits it raises most when the target calls it up, with the final norm's gain and without its scale.

    Raises:
        ValueError: if the engram or the model lacks the matrix, it does not write into the residual stream, or the
            model has no tokenizer; if an option is out of range.

    Example:
        >>> import engram_interp as ei
        >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
        >>> engram = ei.extract(model, concept, components="out", layers=3)
        >>> found = ei.writes(model, engram, "blocks.3.mlp.W_out", concept, n=1, draws=19)
        >>> bool(found["share"][0] > found["control"][0])
        True
    """
    if not is_writer(key):
        raise ValueError(f"{key} does not write into the residual stream: give a {', a '.join(WRITERS)}, or {UNEMBED}")
    return written_by(one_matrix(model, engram, key, concept, run), shown)


@exclusive
@takes(Shown, Run)
def reads(
    model: nn.Module,
    engram: Engram,
    key: str,
    concept: Concept,
    *,
    shown: Shown,
    run: Run,
) -> pd.DataFrame:
    """What a matrix's engram listens to, in the examples' own tokens; otherwise as `writes`.

    `tokens` are those at whose positions the direction is called up most: the largest `u^T W+ x` on average, over
    target and reference.

    Args:
        model: see `writes`.
        engram: see `writes`.
        key: any matrix, by its path.
        concept: see `writes`.

    Raises:
        ValueError: see `writes`; also if the matrix is an expert's, to which only some positions are sent.
    """
    return read_by(one_matrix(model, engram, key, concept, run), shown)


def is_writer(key: str) -> bool:
    """Whether a matrix writes into the residual stream, or into the logits."""
    return component_of(key) in (*WRITERS, UNEMBED)


def written_by(one: OneMatrix, shown: Shown) -> pd.DataFrame:
    """`writes` of a matrix whose inputs are at hand."""
    found = one.leading(shown.n)
    is_unembed = one.site.component == UNEMBED
    logits = found.written.T if is_unembed else one.adapter.logits_of(found.written.T)
    tokens = [_spelled(one.adapter, row.topk(shown.n_tokens).indices) for row in logits]
    return _table(one, found, tokens, shown)


def read_by(one: OneMatrix, shown: Shown) -> pd.DataFrame:
    """`reads` of a matrix whose inputs are at hand."""
    found = one.leading(shown.n)
    kinds, place = one.tokens.unique(return_inverse=True)
    called = torch.zeros(len(kinds), found.read.shape[1], dtype=torch.float64)
    called.index_add_(0, place, (one.X @ found.read).cpu())
    called /= torch.bincount(place)[:, None]
    most = called.topk(min(shown.n_tokens, len(kinds)), dim=0).indices.T
    return _table(one, found, [_spelled(one.adapter, kinds[row]) for row in most], shown)


def one_matrix(model: nn.Module, engram: Engram, key: str, concept: Concept, run: Run) -> OneMatrix:
    """A matrix with its engram and with what it reads: one pass over the examples.

    Raises:
        ValueError: see `reads`.
    """
    require_engram(engram)
    require_concept(concept)
    adapter = adapt_language(model)
    engram.info.require(adapter.info, "the engram")
    if key not in engram.weight_norms:
        raise ValueError(f"the engram has no {key!r}; it has {', '.join(list(engram)[:3])}, ... ({len(engram)})")
    site = next(one for one in adapter.all_sites() if one.key == key)
    encoded = adapter.encode_concept(concept)
    rows = collect_rows(adapter, [site], encoded, run)[site.input]
    if len(rows.X) != int(rows.offered.sum()):
        raise ValueError(f"{key} belongs to an expert, to which only some positions are sent: it cannot be read here")
    options = engram.options
    absorbed = bool(options.get("absorb_bias", True)) and site.input in absorbing_inputs(adapter, None)
    X = with_ones(rows.X, absorbed).cpu()
    tokens = torch.cat([one.tokens[one.counts] for some in encoded.values() for one in some])
    cut: dict[str, Any] = {"rtol": options.get("rtol"), "outliers": options.get("outliers", 0.0)}
    kept = Total(SecondMoment(rows=X)).kept(**cut)
    W = matrix_of(adapter, site, absorbed).cpu()
    return OneMatrix(
        adapter,
        site,
        W,
        matrix_in(engram.tensors, site, absorbed).cpu(),
        X,
        rows.example,
        tokens,
        kept,
        len(encoded[TARGET]),
    )


def _table(one: OneMatrix, found: Leading, tokens: list[list[str]], shown: Shown) -> pd.DataFrame:
    k = len(found.shares)
    random = one.random_shares(k, shown.draws, shown.seed)
    return pd.DataFrame(
        {
            "direction": range(1, k + 1),
            "share": found.shares.tolist(),
            "control": random.mean(0).tolist(),
            "p_value": ((1 + (random >= found.shares).sum(0)) / (shown.draws + 1)).tolist(),
            "tokens": tokens,
        }
    )


def _spelled(adapter: LanguageAdapter, tokens: Int[Tensor, "n"]) -> list[str]:
    tokenizer: Any = adapter.encoder.tokenizer
    if tokenizer is None:
        raise ValueError(f"{adapter.info.name!r} has no tokenizer to spell its tokens with: set model.tokenizer")
    return [tokenizer.decode([int(token)], clean_up_tokenization_spaces=False) for token in tokens]
