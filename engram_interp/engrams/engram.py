"""`mu+`: the engram of every matrix by its key, its algebra (paper, Eq. 8), and its edits.

`ablate` subtracts `alpha W+` and `inject` adds it. Both return an edited copy. `ablated` and `injected` edit in place
for the length of a `with` block, and then restore every parameter bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar, cast

from torch import nn

from engram_interp.common.arguments import Layers
from engram_interp.engrams.editing import editing, require_fit, require_shapes, write
from engram_interp.engrams.engram_file import read_engram, write_engram
from engram_interp.engrams.selection import norms_by_path, norms_by_site, selected
from engram_interp.engrams.strengths import Alpha, alphas_of
from engram_interp.engrams.vector import EngramVector
from engram_interp.linalg.norms import share
from engram_interp.models import adapt
from engram_interp.models.exclusive import held, ordinary_numbers
from engram_interp.sharing.card import Content
from engram_interp.sharing.shared import Shared

Model = TypeVar("Model", bound=nn.Module)
N_ON_CARD = 5
"""How many matrices a card names."""


@dataclass(frozen=True, eq=False, repr=False)
class Engram(EngramVector, Shared):
    """The part of each weight (and absorbed bias) that a concept owns, by TransformerLens's parameter path.

    Attributes:
        tensors: `W+` by key, in the parameter's shape.
        weight_norms: by key, the Frobenius norms of the model's own weight, `[head]`, in float64. A matrix without
            heads has one.
        info: the model that it is part of.
        name: the concept's name.
        options: how it was made.
        sites: the matrices that it is part of, where they lie.
        made_from: the concept or the statistics that it was made from, as `protect` needs them. None in a sum, and
            where it was read from a file.

    Example:
        >>> import engram_interp as ei
        >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
        >>> engram = ei.extract(model, concept, components=["gate"], layers=[0])
        >>> list(engram), tuple(engram["blocks.0.mlp.W_gate"].shape)
        (['blocks.0.mlp.W_gate'], (256, 272))
        >>> with engram.ablated(model, alpha=8.0):
        ...     pass  # the model without it
    """

    _KINDS: ClassVar[tuple[str, ...]] = ("engram",)

    def _repr_html_(self) -> str:
        import pandas as pd

        from engram_interp.common.html import table_html
        from engram_interp.figures.small import bars

        norms = self.wnorm()
        largest = pd.Series(norms, name="W-Norm").nlargest(N_ON_CARD)
        table = largest.to_frame().assign(shape=[str(list(self.tensors[key].shape)) for key in largest.index])
        made = ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)
        lead = f"{len(self.weight_norms)} matrices of {self.info.name}; made with {made}. The largest:"
        picture = bars(self._by_component(norms), "W-Norm of all matrices of a component together")
        return table_html(type(self).__name__, self.name, lead, table, picture)

    def _by_component(self, norms: Mapping[str, float]) -> dict[str, float]:
        """The W-Norm of all matrices of a component together, or of the largest matrices of a plain module."""
        if self.info.is_plain:
            return dict(sorted(norms.items(), key=lambda one: -one[1])[:N_ON_CARD])
        paths = {site.path: site.component for site in self.sites}
        together: dict[str, list[tuple[float, float]]] = {}
        for key, norm in norms.items():
            whole = float(self.weight_norms[key].norm())
            together.setdefault(paths[key], []).append((norm * whole, whole))
        return {
            name: math.hypot(*(part for part, _ in some)) / (math.hypot(*(whole for _, whole in some)) or 1.0)
            for name, some in together.items()
        }

    def select(
        self,
        components: str | Iterable[str] | None = None,
        layers: Layers = None,
        heads: Layers = None,
        keys: str | Iterable[str] | None = None,
    ) -> Engram:
        """The part of the engram in the named components, layers, heads and matrices. Biases go with their weights.

        Args:
            components: `W_Q` to `W_U` or short; all by default.
            layers: all by default. The unembedding lies in no layer: `layers` leaves it out, unless `components` names
                it.
            heads: keeps these heads of attention matrices, sets the others to zero, and drops matrices without heads.
                `W_K` and `W_V` count key/value heads. The bias `b_O` belongs to no head and is dropped too.
            keys: single matrices by their paths, such as `blocks.3.attn.W_Q`; all by default.

        Raises:
            ValueError: if the engram lacks a component, layer, matrix or head, or nothing is left.
        """
        tensors, sites = selected(self.tensors, self.sites, components, layers, heads, keys)
        every = norms_by_site(self.weight_norms, self.sites, self.tensors)
        return replace(self, tensors=tensors, weight_norms=norms_by_path(every, sites), sites=sites)

    def wnorm(self) -> dict[str, float]:
        """`|W+|_F / |W|_F` of every weight (never of a bias), by key. It may exceed 1: `P+` is an oblique operator."""
        # In row-major order, which a file keeps: the sum of squares is then the same to the last bit.
        return {
            key: share(self.tensors[key].double().contiguous().norm().cpu(), norms.norm()).item()
            for key, norms in self.weight_norms.items()
        }

    def rebind(self, model: nn.Module) -> Engram:
        """The same tensors for another model of the same shapes: one model's memory, to be grafted onto another.

        Raises:
            ValueError: if the model lacks a matrix of the engram, or has it in another shape.
        """
        adapter = adapt(model)
        require_shapes(self, adapter)
        return replace(self, info=adapter.info)

    def ablate(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model with `alpha W+` subtracted.

        Args:
            model: the model that the engram is part of, or an edited copy of it.
            alpha: a number for all matrices; `"w-norm"` for each matrix's W-Norm over the largest (paper, Section 7);
                or numbers by key or component. A key goes before its component, and unnamed matrices stay as they are.

        Raises:
            ValueError: if the engram is of another model or of other shapes, `alpha` names what it does not have, a
                weight would not be finite, or a weight shares memory with another.
        """
        with ordinary_numbers():
            with held(model):
                require_fit(self, adapt(model))
                alphas = self.alphas(alpha)
                twin = cast(Model, adapt(model).copy())
            adapter = adapt(twin)
            adapter.untie(self.unties)
            write(self, adapter, {key: adapter.parameter(key) for key in self.tensors}, alphas)
        return twin

    def inject(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model with `alpha W+` added; otherwise as `ablate`."""
        return (-self).ablate(model, alpha)

    @contextmanager
    def ablated(self, model: Model, alpha: Alpha = 1.0) -> Iterator[Model]:
        """The model itself without the engram, until the block ends; see `ablate`.

        If anything else changes these weights inside the block, as a step of an optimizer does, the change is lost and
        a warning says so. Raises RuntimeError as `editing` does.
        """
        with self.editing(model) as ablate:
            ablate(alpha)
            yield model

    @contextmanager
    def injected(self, model: Model, alpha: Alpha = 1.0) -> Iterator[Model]:
        """The model itself with the engram added, until the block ends; see `inject`."""
        with (-self).ablated(model, alpha):
            yield model

    @contextmanager
    def editing(self, model: nn.Module) -> Iterator[Callable[[Alpha], None]]:
        """A function that sets how strongly the engram is ablated, as often as you like, each time from the original.

        Example:
            >>> import engram_interp as ei
            >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
            >>> engram = ei.extract(model, concept, components=["gate"], layers=[0])
            >>> with engram.editing(model) as ablate:
            ...     for alpha in (1.0, 2.0, 4.0):
            ...         ablate(alpha)  # and look at the model
        """
        with editing(self, model) as ablate:
            yield ablate

    def alphas(self, alpha: Alpha) -> dict[str, float]:
        """The strength of every weight's edit; see `ablate`. A bias takes its weight's."""
        components: dict[str, list[str]] = {key: [] for key in self.weight_norms}
        for site in self.sites:
            components[site.path].append(site.component)
        return alphas_of(alpha, components, self.wnorm)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Engram.load` reads back."""
        write_engram(path, self.tensors, self.weight_norms, self.info, self.name, self.options, self.sites)

    @classmethod
    def load(cls, path: str | Path) -> Engram:
        """An engram that `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered, or holds no engram.
        """
        return cls(**read_engram(path))

    def _card(self) -> Content:
        norms = self.wnorm()
        largest = sorted(norms, key=lambda key: -norms[key])[:N_ON_CARD]
        facts = {"model": self.info.name, "its weights": self.info.processing, "fingerprint": self.info.fingerprint}
        return Content(
            kind=self._KINDS[0],
            concept=self.name,
            model=self.info.name,
            facts=facts | {"matrices": len(norms)} | self.options,
            does=(
                "`ablate` subtracts it, and the memory goes; `inject` adds it, and it comes. Its largest parts, as "
                "shares of the matrices' norms:"
            ),
            rows=[{"matrix": key, "W-Norm": norms[key]} for key in largest],
            code=(
                "import engram_interp as ei\n\n"
                f"found = ei.{type(self).__name__}.from_pretrained({{place!r}})\n"
                "with found.ablated(model, alpha=1.0):  # choose_alpha finds a strength\n"
                '    print(ei.greedy_answers(model, ["..."]))'
            ),
        )


def require_engram(engram: object) -> None:
    """Check that this is an engram.

    Raises:
        TypeError: if it is anything else; the message says what was given.
    """
    if not isinstance(engram, Engram):
        raise TypeError(f"expected an Engram, as extract(model, concept) gives, got {type(engram).__name__}")
