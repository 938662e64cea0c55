"""What does this package ask of a `torch.nn.Module` that is no language model of TransformerLens's?

Its matrices are in `matrices.py`, and how a pass shows what they multiply in `reading.py`. Models run in evaluation
mode: statistics of batch norms do not move, and nothing is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from engram_interp.common.storage import fingerprint
from engram_interp.concepts.batches import Examples
from engram_interp.concepts.concept import Concept
from engram_interp.concepts.data import Data, DataBatch, data_batches, first_of, with_each_tensor
from engram_interp.models.base import Adapter
from engram_interp.models.hooks import Record
from engram_interp.models.identity import PLAIN, ModelInfo
from engram_interp.models.memory import share_memory
from engram_interp.models.selection import Unreadable
from engram_interp.models.sites import Input, Site
from engram_interp.models.torch_module import matrices
from engram_interp.models.torch_module.reading import Learned, Listening, evaluating
from engram_interp.options import Read, Which

logger = logging.getLogger("engram_interp")

_learned: WeakKeyDictionary[nn.Module, Learned] = WeakKeyDictionary()
"""What passes over each model have shown."""


class TorchModuleAdapter(Adapter):
    """Any `torch.nn.Module` of linear and convolution layers.

    Raises:
        ValueError: if it has no layer whose engram can be taken, or one that is not initialised yet.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        matrices.require_plain(model)
        self._sites = matrices.sites_of(model)
        if not self._sites and not self.unreadable:
            kinds = ", ".join(kind.__name__ for kind in matrices.KINDS)
            raise ValueError(
                f"{type(model).__name__} has no layer that an engram can be taken of: {kinds} or attention"
            )

    @cached_property
    def info(self) -> ModelInfo:
        """Which model this is."""
        config: Any = getattr(self.model, "config", None)
        name = getattr(config, "_name_or_path", None) or type(self.model).__name__
        edited = {id(self.parameter(path)) for site in self._sites for path in (site.path, site.bias) if path}
        kept = {name: one for name, one in self.model.named_parameters() if id(one) not in edited}
        signs = [torch.signbit(one) for one in kept.values() if isinstance(one, Tensor) and one.is_floating_point()]
        shapes = repr([(path, tuple(one.shape)) for path, one in self.model.named_parameters()])
        return ModelInfo(str(name), fingerprint([torch.tensor(list(shapes.encode())), *signs]), PLAIN)

    @property
    def _known(self) -> Learned:
        return _learned.setdefault(self.model, Learned())

    @property
    def n_layers(self) -> int:
        """How deep the model is: the number of calls that multiply, one after the other."""
        return 1 + max((site.layer for site in self.all_sites() if site.layer is not None), default=0)

    @property
    def reads(self) -> dict[str, str]:
        """The input of every matrix by key, in the order of calls, as far as passes have shown it."""
        return dict(self._known.reads)

    def all_sites(self) -> list[Site]:
        """Every matrix, in the order of calls once a pass has shown it, and until then as modules were made.

        Those that did not run come last, and have no layer.
        """
        reads = self._known.reads
        if not reads:
            depth = _depths(self._sites)
            return [replace(site, layer=depth[site.path]) for site in self._sites]
        by_key = {site.key: site for site in self._sites}
        ran = [replace(by_key[key], input=Input(read)) for key, read in reads.items() if key in by_key]
        depth = _depths(ran)
        silent = [site for site in self._sites if site.key not in reads]
        return [*(replace(site, layer=depth[site.path]) for site in ran), *silent]

    @cached_property
    def unreadable(self) -> Unreadable:
        """Layers of known kinds whose weights are quantised or computed."""
        return {(name, -1): f"{name} {why}" for name, why in matrices.unreadable(self.model).items()}

    @property
    def elsewhere(self) -> set[str]:
        """The parameters that passes have multiplied outside of their layers too."""
        return set(self._known.elsewhere)

    def look(self, concept: Concept | Any) -> None:
        """Run one example, unless a pass has shown already what matrices read and in which order.

        Args:
            concept: where the example comes from: a concept, or a group of examples.
        """
        if self._known.reads:
            return
        name, data = ("target", concept.target) if isinstance(concept, Concept) else ("examples", concept)
        (data,) = self.encode({name: data}).values()
        for batch_size in (1, None):  # some models take a batch as a whole only
            batch = next(data_batches({name: first_of(data)}, batch_size, False, ""), None)
            if batch is None:
                raise ValueError(f"{name} must hold one or more batches; got none")
            try:
                self.run(batch, [], lambda *_: None)
                return
            except ValueError:
                if batch_size is None:
                    raise

    def learn(self, reads: Mapping[str, str]) -> None:
        """Take an order of calls that is known from an earlier pass."""
        if reads and not self._known.reads:
            self._known.reads.update(reads)

    def rows_of(self, name: str) -> int:
        """How many rows an input has for each example, as far as a pass has shown it."""
        return self._known.rows.get(name, 1)

    def reached(self, sites: list[Site], which: Which) -> list[Site]:
        """Those of the matrices that a pass has reached; what it has not is said, also what is not covered.

        Raises:
            ValueError: if a matrix that `which` names was not reached.
        """
        asked, known = {site.key for site in sites}, self._known
        found = [site for site in self.all_sites() if site.key in asked and site.key in known.reads]
        silent = [site.key for site in sites if site.key not in known.reads]
        if silent and (which.components is not None or not found):
            raise ValueError(
                f"{', '.join(silent)} of {self.info.name!r} did not multiply anything in this pass: the module did not "
                f"run, or its weight was changed before"
            )
        if which.components is None:
            self._say_what_is_left_out(silent)
        return found

    def _say_what_is_left_out(self, silent: Sequence[str]) -> None:
        uncovered = matrices.uncovered(self.model)
        elsewhere = sorted(self._known.elsewhere - set(uncovered))
        parts = [
            *(f"{name} ({kind})" for name, kind in uncovered.items()),
            *(f"{key} (did not run, or is changed before it multiplies)" for key in silent),
            *(f"{path} (also multiplied outside of its layer)" for path in elsewhere),
        ]
        if parts:
            logger.warning(
                "not covered: %s%s. The rest of %s is", ", ".join(parts[:8]),
                f" and {len(parts) - 8} more" if len(parts) > 8 else "", self.info.name,
            )  # fmt: skip

    def encode(self, groups: Mapping[str, Sequence[Any]], read: Read | None = None) -> dict[str, Examples]:
        """The groups as batches.

        Raises:
            TypeError: if a group is text.
        """
        del read
        return {name: self._encoded(name, examples) for name, examples in groups.items()}

    def _encoded(self, name: str, examples: Any) -> Data:
        if isinstance(examples, Data):
            return examples
        listed = list(examples[:1]) if isinstance(examples, (list, tuple)) else []
        if listed and (
            isinstance(listed[0], str) or (isinstance(examples[0], tuple) and isinstance(examples[0][0], str))
        ):
            raise TypeError(
                f"{type(self.model).__name__} reads batches, and {name} is text: give Concept.from_batches(...) or "
                f"Concept.from_dataset(...), or a language model that load_model gives"
            )
        return Data(examples)

    def parameter(self, key: str) -> Tensor:
        """The parameter at a path.

        Raises:
            ValueError: if the model has no such parameter.
        """
        path, _, name = key.rpartition(".")
        try:
            found = self.model.get_submodule(path)._parameters.get(name)
        except AttributeError:
            found = None
        if found is None:
            raise ValueError(f"{self.info.name!r} has no parameter {key!r}")
        return found

    def can_part(self, key: str, other: Tensor) -> bool:
        """A weight may be an embedding too: `untie` parts the two."""
        embeddings = [one.weight for one in self.model.modules() if isinstance(one, nn.Embedding)]
        return any(share_memory(one, other) and one.shape == self.parameter(key).shape for one in embeddings)

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give weights among `keys` that are embeddings too storage of their own.

        Returns:
            A function that ties them again.
        """
        embeddings = {id(one.weight) for one in self.model.modules() if isinstance(one, nn.Embedding)}
        undo: list[tuple[nn.Module, str, nn.Parameter]] = []
        owned = {id(self.parameter(key)): key for key in keys}
        parted: dict[int, nn.Parameter] = {}
        for module in self.model.modules():
            for name, tensor in module._parameters.items():
                if tensor is None or id(tensor) not in owned or id(tensor) not in embeddings:
                    continue
                if isinstance(module, nn.Embedding):
                    continue
                own = parted.setdefault(
                    id(tensor), nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
                )
                undo.append((module, name, tensor))
                module._parameters[name] = own

        def tie_again() -> None:
            for module, name, tensor in undo:
                module._parameters[name] = tensor

        return tie_again

    def run(self, batch: DataBatch, inputs: Collection[Input], record: Record) -> None:
        """One forward pass in evaluation mode. A module that runs several times hands on each of its inputs.

        Raises:
            ValueError: if the model refuses the batch, or rows of an input cannot be told apart by example.
        """
        listening = self.listening(batch, inputs, record)
        with torch.no_grad(), evaluating(self.model), listening:
            self._call(batch, listening)
        listening.finish()

    def listening(self, batch: DataBatch, inputs: Collection[Input] | None, record: Record) -> Listening:
        """What hands on the inputs of a pass that runs while it is entered; `finish` it afterwards.

        Args:
            batch: what goes through the model, and what counts of it.
            inputs: what is handed on; None hands on everything.
            record: gets every input's activation.
        """
        sites: dict[int, list[Site]] = {}
        for site in self._sites:
            sites.setdefault(id(self.parameter(site.path)), []).append(site)
        tensors = self.model.named_parameters()
        paths = {one.untyped_storage().data_ptr(): path for path, one in tensors if one.dim() > 1}
        wanted = {str(site.input) for site in self.all_sites()} if inputs is None else inputs
        return Listening(sites, paths, batch, self._known, wanted, record)

    def outputs(self, batch: DataBatch) -> Any:
        """What the model makes of a batch, in evaluation mode. It can be differentiated."""
        with evaluating(self.model):
            return self._call(batch, None)

    def _call(self, batch: DataBatch, listening: Listening | None) -> Any:
        device = next(self.model.parameters()).device
        try:
            args, kwargs = with_each_tensor(lambda x: x.to(device), (batch.args, batch.kwargs))
            return self.model(*args, **kwargs)
        except (TypeError, RuntimeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            if listening is not None and listening.error is not None:
                raise listening.error from None
            why = str(error) or type(error).__name__
            raise ValueError(
                f"{self.info.name!r} refuses the batch {batch.examples[0]} to {batch.examples[-1]}: {why}. A batch "
                f"must be what the model takes; if it ends in labels, say labelled=True"
            ) from error


def _depths(sites: Sequence[Site]) -> dict[str, int]:
    """How deep each parameter lies: its place among the parameters, in the order of sites."""
    return {path: depth for depth, path in enumerate(dict.fromkeys(site.path for site in sites))}
