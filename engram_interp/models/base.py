"""What the rest of the package asks of a model, whatever its class.

An adapter knows a model's sites, how to run it while reading their inputs, and where their weights live. Adding a
model class means writing one adapter beside this file.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import Layers, indices
from engram_interp.concepts.concept import Batch, Encoder
from engram_interp.models.sites import COMPONENTS, MLP, UNEMBED, Site, component_names, select_sites, to_matrix

PRE_HOOK, HOOK = True, False
Hook = tuple[nn.Module, Callable[..., None], bool]
"""A module, the function to call when it runs, and whether that is before (`PRE_HOOK`) or after (`HOOK`)."""

Record = Callable[..., None]
"""Called as `record(name, activation, routed=None)` with an input's activation, `[*batch_pos d]`, once a pass.

Where only some tokens reach a matrix, `activation` is `[n d]` and `routed`, `[n]`, says which tokens these are once
examples are laid end to end.
"""


@dataclass(frozen=True)
class ModelInfo:
    """Which model something was computed from.

    Attributes:
        name: the model's own name, for people.
        fingerprint: a hash of the signs in the embedding, which no engram edits: an edited copy keeps its model's, and
            so does the same checkpoint in another dtype or another of TransformerLens's classes. A fine-tune that left
            the embedding as it was is not told from its model.
        processing: `raw`, or what was done to the weights when they were loaded.
    """

    name: str
    fingerprint: str
    processing: str

    def require(self, other: ModelInfo, what: str) -> None:
        """Raise unless `what`, made from this model, may be used with the model `other`.

        Raises:
            ValueError: says whether the weights are another model's or processed differently.
        """
        if other.processing != self.processing:
            raise ValueError(
                f"cannot use {what}, made from {self.processing} weights of {self.name!r}, the model given has "
                f"{other.processing} weights: load it with the same weight processing"
            )
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"cannot use {what}, made from another model: {self.name!r} (fingerprint {self.fingerprint[:12]}), "
                f"not {other.name!r} (fingerprint {other.fingerprint[:12]})"
            )

    def to_dict(self) -> dict[str, str]:
        """The fields by name, as files keep them."""
        return asdict(self)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' shapes and bits.

    Example:
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(3)])
        False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity(W_E: Float[Tensor, "d_vocab d_model"]) -> str:
    """The fingerprint of a model: the signs in its embedding, which neither a dtype nor a scale changes."""
    return fingerprint([torch.signbit(W_E)])


CENTRED = 0.01
"""A matrix is centred when its rows sum to this little of what random rows sum to. Centring in bf16 leaves 0.002."""


def is_centred(rows: Float[Tensor, "n d"]) -> bool:
    """Whether every row has mean zero, to rounding: `|rows @ 1|` against `sqrt(d)` times the root mean square.

    Example:
        >>> W_E = torch.randn(9, 64)
        >>> is_centred(W_E), is_centred(W_E - W_E.mean(1, keepdim=True))
        (False, True)
    """
    d = rows.shape[1]
    sums = rows.detach().sum(1, dtype=torch.float32)
    wide = torch.promote_types(rows.dtype, torch.float32)
    size = torch.linalg.vector_norm(rows.detach(), dtype=wide) / rows.numel() ** 0.5
    return bool(size > 0) and bool(sums.square().mean().sqrt() < CENTRED * d**0.5 * size)


def processing_of(
    folded: Collection[bool],
    values_folded: bool,
    W_E: Float[Tensor, "d_vocab d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
) -> str:
    """What was done to a model's weights, as far as it can be seen in them: `raw`, or a list.

    Args:
        folded: of every norm in front of matrices, whether its gain is folded into them.
        values_folded: whether value biases are. Said of unfolded norms only: where both were done, an edit that gives
            W_V a bias again would make another model of it.
        W_E: the embedding, centred with everything else that writes to the residual stream.
        W_U: the unembedding, centred by itself.
    """
    done = {
        "folded": bool(folded) and all(folded),
        "partly folded": any(folded) and not all(folded),
        "value-folded": values_folded and not any(folded),
        "centred": is_centred(W_E),
        "unembedding-centred": is_centred(W_U),
    }
    return ", ".join(word for word, seen in done.items() if seen) or "raw"


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have an entry in common.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> share_memory(whole[:, :2], whole[:, 2:]), share_memory(whole[:, :2], whole.T)
        (False, True)
    """
    return _storage(one) == _storage(other) and _overlap(one, other)


def _storage(tensor: Tensor) -> int:
    """Where a tensor's memory begins; of tensors without any, a number of their own."""
    if tensor.device.type == "meta" or not tensor.numel():
        return -id(tensor)
    return tensor.untyped_storage().data_ptr()


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two views of one storage have an entry in common: columns of a matrix side by side have none."""
    size = one.element_size()
    starts = [view.storage_offset() for view in (one, other)]
    ends = [
        start + 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.stride(), strict=True))
        for start, view in zip(starts, (one, other), strict=True)
    ]
    if other.element_size() == size and (ends[0] <= starts[1] or ends[1] <= starts[0]):
        return False
    seen = torch.zeros(one.untyped_storage().nbytes() // size, dtype=torch.uint8)
    for view in (one, other):
        seen.as_strided(view.shape, view.stride(), view.storage_offset()).add_(1)
    return bool(seen.max() > 1)


class Watch:
    """Hands every input's activation on, and remembers which have not come."""

    def __init__(self, inputs: Collection[str], record: Record) -> None:
        self.silent = set(inputs)
        self._record = record

    def note(self, name: str, activation: Tensor, routed: Tensor | None = None) -> None:
        """What hooks call."""
        self.silent.discard(name)
        self._record(name, activation, routed)

    def require_all(self) -> None:
        """Raise unless every input was seen.

        Raises:
            RuntimeError: names those that were not.
        """
        if self.silent:
            raise RuntimeError(
                f"no activation was seen for {', '.join(sorted(self.silent))}: what reads it did not run in this pass"
            )


class Stopped(Exception):  # noqa: N818
    """Ends a pass in which everything asked for has been seen."""


@contextmanager
def hooked(hooks: Iterable[Hook]) -> Iterator[None]:
    """Hooks for the length of the block, also when one of them raises."""
    with ExitStack() as stack:
        for module, function, before in hooks:
            handle: Any = (
                module.register_forward_pre_hook(function, with_kwargs=True)
                if before
                else module.register_forward_hook(function)
            )
            stack.callback(handle.remove)
        yield


def refuse_split_inputs(model: Any) -> None:
    """Raise where Q, K and V read inputs of their own by head, which hooks on them would not show.

    Raises:
        ValueError: names the setting and how to take it back.
    """
    for flag in ("use_split_qkv_input", "use_attn_in"):
        if getattr(model.cfg, flag, False):
            raise ValueError(
                f"{flag} is on, and splits what Q, K and V read by head: call model.set_{flag}(False) first"
            )


def refuse_experts(inputs: Collection[str]) -> None:
    """Raise for inputs of experts, which no cached activation holds in the order of their tokens.

    Raises:
        NotImplementedError: names the first.
    """
    if experts := [name for name in inputs if ".experts." in name]:
        raise NotImplementedError(f"a cache does not hold {experts[0]}: collect it, or leave the MLP out")


def expert_sites(layer: int, n_experts: int) -> Iterator[Site]:
    """The matrices of a mixture's experts, each expert with inputs of its own."""
    for expert in range(n_experts):
        for component in MLP:
            read = "post" if component == "W_out" else "in"
            yield Site(component, layer, f"blocks.{layer}.mlp.experts.{expert}.{read}", expert=expert)


_LIBRARIES = ("torch", "transformers", "transformer_lens", "accelerate", "engram_interp")
_GLOBAL_HOOKS = (nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks)


def _has_hook(module: nn.Module) -> bool:
    return any(map(_is_foreign, [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]))


def _is_foreign(hook: Any) -> bool:
    """Whether a hook, or the function that TransformerLens wraps in one, is none of the model's own libraries'."""
    wraps = inspect.isfunction(hook) and _module_of(hook).startswith("transformer_lens")
    inside = inspect.getclosurevars(hook).nonlocals.get("hook") if wraps else None
    return _module_of(hook if inside is None else inside).partition(".")[0] not in _LIBRARIES


def _module_of(function: Any) -> str:
    function = getattr(function, "func", function)
    return getattr(function, "__module__", None) or type(function).__module__


_EMBEDDING = re.compile(r"(^|\.)(pos_)?embed\b")


class Adapter(ABC):
    """One model, as this package sees it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @cached_property
    @abstractmethod
    def info(self) -> ModelInfo:
        """Which model this is."""

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of blocks."""

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        cfg: Any = self.model.cfg
        return int(cfg.n_heads)

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """How the model reads text."""

    @abstractmethod
    def _block_sites(self, layer: int) -> Iterator[Site]:
        """The matrices of one block whose engram can be taken."""

    def all_sites(self) -> list[Site]:
        """Every weight matrix whose engram can be taken, layer by layer, the unembedding last."""
        blocks = [site for layer in range(self.n_layers) for site in self._block_sites(layer)]
        return [*blocks, Site(UNEMBED, None, "unembed.in", "unembed.b_U")]

    def _blocks_needed(self, inputs: Collection[str]) -> int:
        """How many blocks must run before all of the inputs are there."""
        if "unembed.in" in inputs:
            return self.n_layers
        return 1 + max(int(name.split(".")[1]) for name in inputs)

    @cached_property
    @abstractmethod
    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Components of layers that the model has, or may have, but that cannot be read exactly, and why."""

    @abstractmethod
    def parameter(self, key: str) -> Tensor:
        """The tensor where a weight or bias lives, in TransformerLens's shape; writing into it edits the model."""

    @property
    @abstractmethod
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""

    def require_unshared(self, keys: Collection[str]) -> None:
        """Raise where an edit of these tensors would edit another one, with which one of them shares memory.

        The unembedding may be the embedding: `untie` parts the two.

        Raises:
            ValueError: names both.
        """
        others = {key: self.parameter(key) for site in self.all_sites() for key in (site.key, site.bias) if key}
        # Norms and embeddings. What else has matrices is a home of these, or the fused source that a bridge has split.
        for path, module in self.named_modules().items():
            own = {name: one for name, one in module._parameters.items() if one is not None}
            if all(one.dim() < 2 for one in own.values()) or _EMBEDDING.search(path):
                others |= {f"{path}.{name}": one for name, one in own.items()}
        by_storage: dict[int, list[str]] = {}
        for name, tensor in others.items():
            by_storage.setdefault(_storage(tensor), []).append(name)
        for key in keys:
            for name in by_storage[_storage(others[key])]:
                parted = key == "unembed.W_U" and share_memory(others[name], self.W_E)
                if name != key and not parted and _overlap(others[key], others[name]):
                    raise ValueError(
                        f"{key} and {name} of {self.info.name!r} are one tensor in memory, so that an edit of one is "
                        f"an edit of the other: give each a tensor of its own, as "
                        f"`nn.Parameter(weight.detach().clone())`"
                    )

    def named_modules(self) -> dict[str, nn.Module]:
        """Every module that may run in a pass, by its path."""
        return dict(self.model.named_modules())

    def foreign_hooks(self) -> list[str]:
        """Where somebody else's forward hooks are, which may change what is read: the paths of the modules."""
        paths: dict[nn.Module, str] = {}
        for name, module in self.named_modules().items():
            if _has_hook(module):
                paths[module] = min(name, paths.get(module, name), key=len)
        anywhere = any(_is_foreign(hook) for hooks in _GLOBAL_HOOKS for hook in hooks.values())
        return [*(["every module"] if anywhere else []), *paths.values()]

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give those of the named tensors that others share storage of their own; the function returned undoes it."""
        del keys
        return lambda: None

    def copy(self) -> nn.Module:
        """A copy of the model that shares nothing with it."""
        return copy.deepcopy(self.model)

    @abstractmethod
    def run(self, batch: Batch, inputs: Collection[str], record: Record) -> None:
        """One forward pass as far as it is needed; `record` gets every input's activation once."""

    @abstractmethod
    def _pass(self, batch: Batch) -> None:
        """One forward pass, for the hooks that are on."""

    def read(self, batch: Batch, point: str) -> Float[Tensor, "batch pos ..."]:
        """The activation at one of TransformerLens's hook points, as `blocks.2.hook_resid_post`.

        Of `hook_z` a bridge has heads side by side, where a HookedTransformer has them apart.

        Raises:
            ValueError: the model has no such hook point, or what it carries is not one row a token.
            RuntimeError: the hook point did not run.
        """
        points: dict[str, nn.Module] = getattr(self.model, "hook_dict", {})
        if point not in points and any(name.startswith(f"{point}.") for name in points):
            raise ValueError(
                f"something is spliced into {self.info.name!r} at {point}: take it out, as reset_saes() does"
            )
        if point not in points:
            near = get_close_matches(point, points, n=3, cutoff=0.0)
            raise ValueError(f"{self.info.name!r} has no hook point {point!r}; the nearest are {', '.join(near)}")
        seen: list[Tensor] = []

        def take(_module: nn.Module, _args: object, activation: Tensor) -> None:
            seen.append(activation.detach())
            raise Stopped

        with self._switched_on(point), hooked([(points[point], take, HOOK)]), suppress(Stopped):
            self._pass(batch)
        if not seen:
            raise RuntimeError(
                f"{point} of {self.info.name!r} did not run: its settings, or processed weights, pass it by"
            )
        if seen[0].shape[:2] != batch.tokens.shape:
            raise ValueError(f"{point} carries {list(seen[0].shape)}, where rows by [batch pos] were expected")
        return seen[0]

    @contextmanager
    def _switched_on(self, point: str) -> Iterator[None]:
        """What an MLP reads is hooked only where a setting says so."""
        model: Any = self.model
        before = getattr(model.cfg, "use_hook_mlp_in", False)
        if before or not point.endswith("hook_mlp_in") or getattr(model.cfg, "attn_only", False):
            yield
            return
        model.set_use_hook_mlp_in(True)
        try:
            yield
        finally:
            model.set_use_hook_mlp_in(before)

    @abstractmethod
    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """What the unembedding reads at the chosen positions, row by row."""

    @abstractmethod
    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and what need not be computed again for the token after it.

        Args:
            tokens: without padding, those that follow the ones that were seen.
            seen: what an earlier call gave; None for tokens from the start.

        Returns:
            The logits, and what was seen; None of a model that keeps nothing and needs all tokens again.
        """

    @abstractmethod
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits from rows of `final`."""

    @abstractmethod
    def cache_names(self, inputs: Collection[str]) -> list[str]:
        """The TransformerLens activations from which the inputs can be had."""

    @abstractmethod
    def from_cache(self, name: str, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input from an ActivationCache that holds `cache_names([name])`."""

    @property
    def values_folded(self) -> bool:
        """Whether value biases went into `b_O`: they are zero, and those of queries or keys are not."""
        biases: dict[str, list[Tensor]] = {}
        for site in self.all_sites():
            if site.bias is not None:
                biases.setdefault(site.component, []).append(self.parameter(site.bias))
        nonzero = {component for component, found in biases.items() if any(bool(bias.any()) for bias in found)}
        return "W_V" in biases and "W_V" not in nonzero and bool(nonzero & {"W_Q", "W_K"})

    def sites(self, components: str | Collection[str] | None = None, layers: Layers = None) -> list[Site]:
        """The matrices of the named components and layers; all by default.

        Raises:
            ValueError: a component or layer that the model lacks.
            NotImplementedError: a component whose input cannot be read exactly, also when it is asked for by default.
        """
        wanted, layers = component_names(components), indices(layers, "layers")
        among = range(self.n_layers) if layers is None else layers
        refused = {place: why for place, why in self.unreadable.items() if place[0] in wanted and place[1] in among}
        if refused:
            names = [name for name in COMPONENTS if name in {name for name, _ in refused}]
            readable = {site.component for site in self.all_sites()} - {name for name, _ in self.unreadable}
            left = [name for name in COMPONENTS if name in readable]
            first, *others = dict.fromkeys(refused.values())
            raise NotImplementedError(
                f"cannot read {', '.join(names)} of {self.info.name!r}: {first}"
                f"{f' (and {len(others)} more)' if others else ''}. Pass components={left}, or layers without them"
            )
        return select_sites(self.all_sites(), components, layers)

    def widths(self, inputs: Collection[str]) -> dict[str, int]:
        """Size of every input, by what the matrices that read it expect."""
        return {
            site.input: to_matrix(site.component, self.parameter(site.key)).shape[1]
            for site in self.all_sites()
            if site.input in inputs
        }
