"""`Graft`: the part of `W - W_0` that is grafted, as an engram. Injected into the base, it brings the memory.

With everything grafted, that is the trained model, to the bit; with nothing, it is the base.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pandas as pd
from jaxtyping import Bool
from torch import Tensor, nn

from engram_interp.common.arguments import number
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.strengths import Alpha
from engram_interp.learning.grafting.graft_file import read_graft, write_graft
from engram_interp.models import ModelInfo, adapt
from engram_interp.models.sites import parameter_paths

if TYPE_CHECKING:
    import plotly.graph_objects as go

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, eq=False, repr=False)
class Graft(Engram):
    """A part of what training changed, by parameter. `inject` it into the base, or `ablate` it from the trained model.

    Beside matrices and their biases it may hold parameters without an engram, as embeddings and norms, under their
    names in the model. These are grafted last, so only a graft of nearly everything has them.

    Attributes:
        tensors, weight_norms, name, options, sites: see `Engram`. Norms are those of the trained model's weights.
        info: the base.
        trained: the model that it is taken from.
        share: the share of all entries that is grafted, in [0, 1].
        by: how the entries were chosen; see `graft`.
        curve: what grafts of other shares do, if the share was found by it; see `graft`.
    """

    _KINDS: ClassVar[tuple[str, ...]] = ("graft",)

    trained: ModelInfo | None = None
    share: float = 1.0
    by: str = "entries"
    curve: pd.DataFrame | None = field(default=None)

    def __repr__(self) -> str:
        return f"Graft({self.name!r}, {self.share:.3%} of what training changed in {self.info.name!r}, by {self.by})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        lead = f"{self.n_entries} entries, {self.share:.3%} of what training changed, chosen by {self.by}"
        table = self.to_frame() if self.curve is None else self.curve
        return table_html("Graft", self.name, lead, table)

    @property
    def n_entries(self) -> int:
        """How many entries are grafted that training changed."""
        return sum(int(one.count_nonzero()) for one in self.tensors.values())

    @cached_property
    def masks(self) -> dict[str, Bool[Tensor, "..."]]:
        """Where it is not zero, by parameter."""
        return {key: one != 0 for key, one in self.tensors.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row for each parameter: how many entries are grafted, and which share of its entries that is."""
        rows = [
            {"key": key, "entries": int(one.count_nonzero()), "share": one.count_nonzero().item() / one.numel()}
            for key, one in self.tensors.items()
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Answer accuracy of the grafted model against the share that is grafted.

        Raises:
            ValueError: if the graft has no curve, since its share was given.
        """
        from engram_interp.figures.learning import graft_curves

        if self.curve is None:
            raise ValueError(f"the graft of {self.name!r} has no curve: its share was given; leave share out")
        title = f"What a graft of {self.name!r} carries into {self.info.name!r}, chosen by {self.by}"
        return graft_curves({self.by: self.curve}, self.share, title)

    @property
    def unties(self) -> Collection[str]:
        """Nothing: an unembedding that is the embedding stays it, as in both models."""
        return ()

    def weight_of(self, key: str) -> str:
        """The weight's key for a weight or its bias; a parameter without a matrix has its own."""
        return key if key in self.others else super().weight_of(key)

    @cached_property
    def others(self) -> list[str]:
        """The parameters that hold no matrix."""
        held = set(parameter_paths(self.sites))
        return [key for key in self.tensors if key not in held]

    def alphas(self, alpha: Alpha) -> dict[str, float]:
        """The strength of every parameter's edit; see `Engram.ablate`. Those without a matrix take a number only."""
        found = super().alphas(alpha)
        is_number = not isinstance(alpha, (str, Mapping))
        return found | dict.fromkeys(self.others, number(alpha, "alpha") if is_number else 0.0)

    def ablate(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model without the graft: of the trained model, or of one that it was injected into."""
        return Engram.ablate(self._for(model), model, alpha)

    @contextmanager
    def editing(self, model: nn.Module) -> Iterator[Callable[[Alpha], None]]:
        """A function that sets how strongly the graft is ablated; see `Engram.editing`."""
        with Engram.editing(self._for(model), model) as ablate:
            yield ablate

    def _for(self, model: nn.Module) -> Graft:
        """The graft with the one of its two models that this is."""
        found = adapt(model).info
        if self.trained is not None and self.trained.fingerprint == found.fingerprint:
            return replace(self, info=self.trained)
        return self

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Graft.load` reads back. Of each parameter it holds what is grafted only."""
        write_graft(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Graft:
        """A graft that `save` wrote, without its curve.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered, or holds no graft.
        """
        return cls(**read_graft(path))
