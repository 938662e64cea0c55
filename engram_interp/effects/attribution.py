"""Through which matrices does an engram speak? What each adds to the answer's lead, directly and in total.

The lead of an answer token is its logit over that of the best other token, `l`. A matrix that writes into the residual
stream adds `v^T W+ x` to it at once, with `v = (u_answer - u_other) * gain / scale` and the final norm's scale as it is
(direct logit attribution; Elhage et al. 2021). Everything that later layers make of it included, it is
`<dl/dW, W+>` to first order (attribution patching; Nanda 2023, on weights in place of activations).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.answers.scoring import spoken
from engram_interp.common.arguments import Number, number, whole
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import Batch, batches, encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.concepts.positions import after, before
from engram_interp.engrams.engram import Engram, require_engram
from engram_interp.engrams.weights import matrix_in
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.components import COMPONENTS, UNEMBED
from engram_interp.models.exclusive import exclusive
from engram_interp.models.gradients import backward
from engram_interp.models.sites import Site
from engram_interp.models.writing import Written, written
from engram_interp.options import Run, takes
from engram_interp.statistics.moments import with_ones

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEWEST = 3
"""A correlation of fewer numbers says nothing."""


@dataclass(frozen=True)
class Attribution:
    """What every matrix's engram adds to the lead of the answers over the best other token.

    Attributes:
        table: a row for each matrix and each of its heads: `key`, `component`, `layer`, `expert`, `head` (missing for
            the whole matrix), `direct` (NaN where a matrix does not write into the residual stream as it is), `total`,
            and `measured` (NaN where it was not): all in logits, the mean over answer tokens, at strength `alpha`.
        lead: the mean lead of the answer tokens, in logits.
        lead_without: the same with the whole engram ablated.
        alpha: how strong the engram is.
        name: the engram's name.
        model: the model's name.
    """

    table: pd.DataFrame
    lead: float
    lead_without: float
    alpha: float
    name: str | None = None
    model: str = ""

    def __repr__(self) -> str:
        return (
            f"Attribution({self.name!r} in {self.model!r}, lead: {self.lead:.2f} -> {self.lead_without:.2f} logits at "
            f"alpha = {self.alpha:.3g}, {self._said})"
        )

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        lead = f"Lead of the answers in {self.model}: {self.lead:.2f} -> {self.lead_without:.2f} logits; {self._said}"
        return table_html("Attribution", self.name, lead, self.top(10))

    @property
    def _said(self) -> str:
        n = len(self.checked)
        return f"total against measured over {n} matrices: correlation {self.correlation:.2f}"

    @property
    def matrices(self) -> pd.DataFrame:
        """The rows of whole matrices."""
        return self.table[self.table["head"].isna()].drop(columns="head")

    @property
    def checked(self) -> pd.DataFrame:
        """The matrices of which the effect was measured."""
        return self.matrices.dropna(subset="measured")

    @property
    def correlation(self) -> float:
        """Pearson's correlation of `total` with `measured`; NaN if fewer than three matrices were measured."""
        checked = self.checked
        return float(checked["total"].corr(checked["measured"])) if len(checked) >= FEWEST else float("nan")

    def top(self, n: int = 10) -> pd.DataFrame:
        """The matrices with the largest `total`, of either sign."""
        order = self.matrices["total"].abs().sort_values(ascending=False, kind="stable").index[:n]
        return self.matrices.loc[order]

    def plot(self, quantity: str = "total") -> go.Figure:
        """Heat map of `total`, `direct` or `measured`, components by layers.

        Raises:
            ValueError: if `quantity` is another word.
        """
        from engram_interp.figures.maps import matrix_map
        from engram_interp.figures.scale import Scale

        if quantity not in QUANTITIES:
            raise ValueError(f"quantity must be {', '.join(QUANTITIES)}; got {quantity!r}")
        table = self.matrices.dropna(subset=quantity)
        n_layers = int(self.matrices["layer"].max()) + 1 if self.matrices["layer"].notna().any() else 0
        concept = f" of {self.name!r}" if self.name else ""
        title = f"What the engram{concept} adds to the answers' lead, {QUANTITIES[quantity]}, {self.model}"
        scale = Scale("logits", signed=True)
        return matrix_map(table, quantity, COMPONENTS, n_layers, scale, title)


QUANTITIES = {"total": "in total", "direct": "directly", "measured": "as measured"}
"""What can be drawn, and how figures call it."""


@exclusive
@takes(Run)
def attribute(
    model: nn.Module,
    engram: Engram,
    examples: Sequence[Example],
    *,
    alpha: Number = 1.0,
    eos: bool = True,
    checked: int = 16,
    run: Run,
) -> Attribution:
    """How much each matrix's and head's engram adds to the answers, directly and in total, and whether that is so.

    `total` is a first-order estimate from one backward pass. So some matrices, from all over its range, are ablated
    alone, one after the other, and the lead that the answers lose is `measured`: compare `correlation` before you rely
    on the rest.

    Args:
        model: the model that the engram is part of. It is left as it was.
        engram: what is attributed.
        examples: whose answers, as `(prompt, answer)` pairs.
        alpha: how strong the engram is: all numbers are for `alpha` times it.
        eos: whether the end-of-sequence token follows every answer and is scored.
        checked: how many matrices are ablated alone to measure their effect; 0 measures none.

    Returns:
        See `Attribution`. The best other token is that of the unedited model throughout, so a lead is above 0 where the
        answer is right. Direct numbers leave a soft cap of the logits out.

    Raises:
        ValueError: if the engram is of another model, no answer token has another before it, or an option is out of
            range.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author = corpus.forget10[0]
        >>> engram = ei.extract(model, corpus.concept(author.name), layers=[2, 3])
        >>> found = ei.attribute(model, engram, author.examples, checked=6)
        >>> found.correlation > 0.9
        True
    """
    require_engram(engram)
    strength, n_checked = number(alpha, "alpha"), whole(checked, "checked", at_least=0)
    adapter = adapt_language(model)
    engram.info.require(adapter.info, "the engram")
    encoded = encode_groups({"examples": examples}, adapter.encoder, spoken(eos))
    asked = list(asked_of(adapter, encoded, run))
    if not (n := sum(len(one.answers) for one in asked)):
        raise ValueError("nothing to attribute in examples: no answer token has another token before it")
    sites = [site for site in adapter.all_sites() if site.path in engram.weight_norms]
    sums = _Sums(adapter, engram, sites, strength / n)
    for one in bar(asked, run.progress, "attributing", "batch"):
        sums.add_direct(one)
        sums.add_total(one)
    table = _table(sites, sums)
    lead = _lead(adapter, asked)
    measured = {}
    for key in bar(_spread(table, n_checked), run.progress, "measuring", "matrix"):
        with engram.select(keys=key).ablated(model, strength):
            measured[key] = lead - _lead(adapter, asked)
    table["measured"] = table["key"].map(measured).where(table["head"].isna()).astype(float)
    with engram.ablated(model, strength):
        without = _lead(adapter, asked)
    return Attribution(table, lead, without, strength, engram.name, adapter.info.name)


@dataclass(frozen=True)
class Asked:
    """One batch of answers.

    Attributes:
        batch: the examples; its `counts` are the positions that produce the answers' tokens.
        answers: `[n]`, the tokens.
        others: `[n]`, the best other token at each, in the unedited model.
    """

    batch: Batch
    answers: Int[Tensor, "n"]
    others: Int[Tensor, "n"]

    def lead(self, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n"]:
        """By how much the answers' logits exceed the others'."""
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self.answers.to(logits.device)] - logits[rows, self.others.to(logits.device)]


def asked_of(adapter: LanguageAdapter, encoded: dict[str, list[TokenExample]], run: Run) -> Iterator[Asked]:
    """The answers of examples, batch by batch, with what the model as it is would say in their place."""
    for batch in batches(encoded, run.batch_size, False, ""):
        producing = before(batch.scored)
        answers = batch.tokens[after(producing)]
        logits = adapter.unembed(adapter.final(batch, at=producing)).float().cpu()
        others = logits.scatter(1, answers[:, None], -torch.inf).argmax(1)
        yield Asked(replace(batch, counts=producing), answers, others)


def _lead(adapter: LanguageAdapter, asked: Sequence[Asked]) -> float:
    """The mean lead of all answers."""
    leads = [
        one.lead(adapter.unembed(adapter.final(one.batch, at=one.batch.counts)).float()).double().cpu() for one in asked
    ]
    return float(torch.cat(leads).mean())


class _Sums:
    """Sums what every matrix and head of an engram adds, over batches.

    Args:
        adapter: the model.
        engram: the engram.
        sites: its matrices.
        weight: what a token's logits count.
    """

    def __init__(self, adapter: LanguageAdapter, engram: Engram, sites: Sequence[Site], weight: float) -> None:
        self._adapter, self._engram, self._sites, self._weight = adapter, engram, sites, weight
        self.direct: dict[str, Tensor] = {}
        self.total: dict[str, Tensor] = {}

    def add_direct(self, one: Asked) -> None:
        """Add `v^T W+ x` of a batch."""
        for found in written(self._adapter, self._sites, one.batch, one.answers, one.others):
            self._add(self.direct, found.site, self._direct(found))
        for site in self._sites:
            if site.component == UNEMBED:
                units = self._unembedded(site, one)
                self._add(self.direct, site, units)
                self._add(self.total, site, units)

    def add_total(self, one: Asked) -> None:
        """Add `<dl/dW, W+>` of a batch. The unembedding has no other effect than its direct one."""
        owners = {key: site for site in self._sites for key in (site.path, site.bias) if site.component != UNEMBED}
        keys = [key for key in owners if key in self._engram.tensors]
        if not keys:
            return

        def use(key: str, gradient: Tensor) -> None:
            site, own = owners[key], self._engram.tensors[key]
            product = gradient.double() * own.to(gradient.device).double()
            of_unit = self._of_matrix if key == site.path else self._of_bias
            self._add(self.total, site, of_unit(site, product))

        def lead() -> Tensor:
            logits = self._adapter.logits(one.batch)
            return one.lead(logits[one.batch.counts.to(logits.device)].float()).sum()

        backward(self._adapter, keys, lead, use)

    def _direct(self, found: Written) -> Float[Tensor, "unit"]:
        """`sum_t v_t^T W+ x_t` of a matrix, then of its heads. A bias that is absorbed is no head's."""
        own, site = self._engram.tensors, found.site
        matrix = matrix_in(own, site, absorbed=False).to(found.X)
        product = (found.V.T @ found.X) * matrix
        units = self._of_matrix(site, site.layout.to_parameter(product, like=own[site.path]))
        if site.bias in own and site.bias is not None:
            units[0] += (found.V.sum(0) * own[site.bias].flatten().to(found.V)).sum()
        return units

    def _unembedded(self, site: Site, one: Asked) -> Float[Tensor, "unit"]:
        """What the unembedding's own engram adds."""
        rows = self._adapter.final(one.batch, at=one.batch.counts).double().cpu()
        absorbed = site.bias in self._engram.tensors
        logits = with_ones(rows, absorbed) @ matrix_in(self._engram.tensors, site, absorbed).cpu().T
        return one.lead(logits).sum()[None]

    def _of_matrix(self, site: Site, product: Tensor) -> Float[Tensor, "unit"]:
        """The sum of all entries of a parameter, then of each head's."""
        matrix, heads = site.matrix(product), self._adapter.heads(site)
        by_head = [] if heads is None else [heads.of(matrix).sum((-2, -1))]
        return torch.cat([matrix.sum()[None], *by_head]).cpu()

    def _of_bias(self, site: Site, product: Tensor) -> Float[Tensor, "unit"]:
        """The same of a bias, which may have heads."""
        heads = self._adapter.heads(site)
        if heads is None:
            return product.sum()[None].cpu()
        mine = product.reshape(heads.n, -1).sum(1) if site.layout.bias_has_heads else 0
        return torch.cat([product.sum()[None], torch.zeros(heads.n, dtype=product.dtype).to(product) + mine]).cpu()

    def _add(self, sums: dict[str, Tensor], site: Site, units: Float[Tensor, "unit"]) -> None:
        units = self._weight * units.double()
        sums[site.key] = sums[site.key] + units if site.key in sums else units


def _table(sites: Sequence[Site], sums: _Sums) -> pd.DataFrame:
    rows = []
    for site in sites:
        total = sums.total.get(site.key)
        direct = sums.direct.get(site.key)
        n_units = len(next(one for one in (total, direct, torch.zeros(1)) if one is not None))
        for unit in range(n_units):
            rows.append(
                {
                    "key": site.key, "component": site.component, "layer": site.layer, "expert": site.expert,
                    "head": unit - 1 if unit else None,
                    "direct": float("nan") if direct is None else float(direct[unit]),
                    "total": 0.0 if total is None else float(total[unit]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64", "expert": "Int64", "head": "Int64"})


def _spread(table: pd.DataFrame, n: int) -> list[str]:
    """So many matrices from all over the range of `total`, the largest and the smallest among them."""
    ranked = table[table["head"].isna()].sort_values("total", kind="stable")["key"].tolist()
    if n >= len(ranked):
        return ranked
    places = {round(i * (len(ranked) - 1) / max(n - 1, 1)) for i in range(n)}
    return [ranked[place] for place in sorted(places)]
