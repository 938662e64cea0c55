"""What does a pass multiply each weight by? Every call of torch's that multiplies by a parameter is seen.

A call is known by the function and by the parameter itself, not by the module that makes it. So a shared weight is one
matrix, a module that is called twice adds both calls up, and a weight that is changed before it multiplies is not
mistaken for itself. Activations are read as rows, with the example that each row belongs to.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engram_interp.concepts.data import DataBatch
from engram_interp.models.hooks import Record
from engram_interp.models.sites import Site
from engram_interp.models.torch_module.patches import patches, pixels

CHUNK = 2**24
"""Patches are made of so many numbers at a time."""
_LINEAR = nn.functional.linear
_ATTENTION = nn.functional.multi_head_attention_forward
_ATTENTION_ARGUMENTS = inspect.signature(_ATTENTION)
_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_ELSEWHERE = {
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.einsum,
    torch.baddbmm,
    torch.addbmm,
    torch.nn.functional.bilinear,
}
_ELSEWHERE |= {Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm}
"""Other calls that multiply. What they make of a parameter is not read, and is listed."""


@dataclass(frozen=True)
class View:
    """How an activation becomes rows.

    Attributes:
        settings: what tells two views of one tensor apart; nothing if it is rows already.
        rows: the rows of some examples at a time, `[example *positions d]`.
    """

    settings: tuple[Any, ...]
    rows: Callable[[Tensor], Iterator[Tensor]]

    @property
    def is_plain(self) -> bool:
        """Whether the activation is rows already."""
        return not self.settings


PLAIN = View((), lambda x: iter([x]))


@dataclass
class Learned:
    """What passes over a model have shown.

    Attributes:
        reads: the input of every matrix that ran, by key, in the order of calls. Matrices whose calls read one tensor
            have one input: the name of the first.
        rows: how many rows an input has for each example, on average over the last batch.
        elsewhere: parameters that were multiplied in a way that is not read.
    """

    reads: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)


class Listening(TorchFunctionMode):
    """Hands every product's input on, for the length of a block.

    Args:
        sites: the matrices, by the parameter that holds them.
        paths: the path of every parameter, by its memory.
        batch: what goes through the model.
        learned: what earlier passes have shown; this one adds to it.
        wanted: the inputs that are handed on.
        record: gets their rows.

    Attributes:
        error: what `record` raised, if it did.
    """

    def __init__(
        self,
        sites: Mapping[int, list[Site]],
        paths: Mapping[int, str],
        batch: DataBatch,
        learned: Learned,
        wanted: Iterable[str],
        record: Record,
    ) -> None:
        super().__init__()
        self._sites, self._paths, self._batch, self._learned = sites, paths, batch, learned
        self._wanted, self._record = set(wanted), record
        self._n_rows: dict[str, int] = {}
        self._read: dict[int, tuple[Callable[[], Tensor | None], int, dict[tuple[Any, ...], str]]] = {}
        self.error: Exception | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's call, after its input was handed on."""
        kwargs = kwargs or {}
        if func is _ATTENTION:
            return self._attention(args, kwargs)
        if (product := _product(func, args, kwargs)) is not None:
            self._multiply(*product)
        elif func in _ELSEWHERE:
            for one in _tensors(args):
                self._note(one)
        return func(*args, **kwargs)

    def finish(self) -> None:
        """Keep what the pass has shown of rows."""
        n = max(1, len(self._batch.examples))
        self._learned.rows |= {name: max(1, round(rows / n)) for name, rows in self._n_rows.items()}

    def _multiply(self, x: Tensor, weight: Tensor, view: View) -> None:
        """Hand on the input of a product with one of the parameters."""
        if (sites := self._sites.get(id(weight))) is None:
            self._note(weight)
        else:
            self._hand_on(sites, x, view)

    def _hand_on(self, sites: list[Site], x: Tensor, view: View) -> None:
        """Hand on what matrices of one parameter read, unless another matrix has handed it on in this pass."""
        try:
            if self._is_handed_on(sites, x, view) or not self._wanted & {str(site.input) for site in sites}:
                return
            for rows, examples in self._by_example(x, view, sites[0]):
                for site, part in zip(sites, rows.chunk(len(sites), dim=1), strict=True):
                    self._n_rows[site.input] = self._n_rows.get(site.input, 0) + len(part)
                    self._record(site.input, part, examples)
        except Exception as error:
            self.error = error
            raise

    def _is_handed_on(self, sites: list[Site], x: Tensor, view: View) -> bool:
        """Whether another matrix has read the same rows in this pass. What each matrix reads is learned on the way.

        Raises:
            NotImplementedError: if matrices read the same rows in some calls, and others in others.
        """
        reads, first = self._learned.reads, sites[0]
        known, version, names = self._read.get(id(x), (lambda: None, -1, {}))
        here = names if known() is x and version == x._version else {}
        # A group of a picture's channels is no tensor of its own, so nothing else reads it.
        shared = here.get(view.settings) if len(sites) == 1 else None
        shared = shared if shared in self._wanted or not self._wanted else None
        for site in sites:
            reads.setdefault(site.key, str(site.input) if shared is None else shared)
        name = reads[first.key]
        if name not in (str(first.input), shared):
            raise NotImplementedError(
                f"{first.key} reads what {name} is in some calls, and something else in others: leave one of the two "
                f"out with components=[...]"
            )
        self._read[id(x)] = weakref.ref(x), x._version, {**here, view.settings: name}
        return name != str(first.input)

    def _by_example(self, x: Tensor, view: View, site: Site) -> Iterator[tuple[Float[Tensor, "n d"], Tensor | None]]:
        """An activation as rows `[n d]`, some at a time, and the position that each counts as."""
        n, n_positions = self._batch.counts.shape
        if n_positions > 1:
            yield self._by_position(x, view, site), None
            return
        x = _examples_first(x, n, site) if view.is_plain else x
        if len(x) % n:
            raise ValueError(_untold(x, n, site))
        share, start = len(x) // n, 0
        for some in view.rows(x):
            numbers = torch.arange(start, start + len(some)) // share
            start += len(some)
            rows = some.flatten(0, -2)
            yield rows, numbers.repeat_interleave(len(rows) // len(some)).to(rows.device)

    def _by_position(self, x: Tensor, view: View, site: Site) -> Float[Tensor, "n d"]:
        """An activation `[batch pos d]`, whose positions are those of the mask."""
        shape = tuple(self._batch.counts.shape)
        n = shape[0] * shape[1]
        if not view.is_plain or (x.shape[:-1] != shape and tuple(x.shape[:-1]) != (n,)):
            raise ValueError(
                f"the mask is {list(shape)}, and the input of {site.path} {list(x.shape)} has no row for each of its "
                f"positions: leave the matrix out with components=[...], or give a mask [batch]"
            )
        return x.flatten(0, -2)

    def _attention(self, args: Any, kwargs: Any) -> Any:
        """`nn.MultiheadAttention`'s call, split where its output projection reads its heads.

        With the identity in the output projection's place, the call returns what the projection reads, exactly.
        """
        bound = _ATTENTION_ARGUMENTS.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        out, out_bias = given["out_proj_weight"], given["out_proj_bias"]
        self._project(given)
        eye = torch.eye(len(out), dtype=out.dtype, device=out.device)
        given |= {"out_proj_weight": eye, "out_proj_bias": None}
        z, weights = _ATTENTION(*bound.args, **bound.kwargs)
        first = z.transpose(0, 1) if z.dim() == 3 else z
        self._multiply(first, out, PLAIN)
        return nn.functional.linear(z, out, out_bias), weights

    def _project(self, given: Mapping[str, Any]) -> None:
        """Hand on query, key and value, in the order of examples."""
        read = [given[name] for name in ("query", "key", "value")]
        turned: dict[int, Tensor] = {}
        for x in read:
            turned.setdefault(id(x), x.transpose(0, 1) if x.dim() == 3 else x)
        separate = [given[f"{name}_proj_weight"] for name in "qkv"]
        if given["use_separate_proj_weight"]:
            for x, weight in zip(read, separate, strict=True):
                self._multiply(turned[id(x)], weight, PLAIN)
            return
        sites = self._sites.get(id(given["in_proj_weight"]), [])
        for x, site in zip(read, sites, strict=False):
            self._hand_on([site], turned[id(x)], PLAIN)

    def _note(self, tensor: Any) -> None:
        """Remember that something of a parameter is multiplied in a way that is not read."""
        if isinstance(tensor, Tensor) and tensor.dim() > 1 and tensor.device.type != "meta":
            path = self._paths.get(tensor.untyped_storage().data_ptr())
            if path is not None:
                self._learned.elsewhere.add(path)


def _tensors(args: Any) -> Iterator[Any]:
    for one in args:
        if isinstance(one, (tuple, list)):
            yield from _tensors(one)
        else:
            yield one


def _product(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, View] | None:
    """What a call multiplies, by which tensor, and how the first becomes rows; None if it is no known product."""
    if func is _LINEAR:
        return _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight"), PLAIN
    if func is torch.addmm:
        return _argument(args, kwargs, 1, "mat1"), _argument(args, kwargs, 2, "mat2"), PLAIN
    if func not in _CONVOLUTIONS and func not in _TRANSPOSED:
        return None
    x, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    if func in _TRANSPOSED:
        n = _TRANSPOSED[func]
        return x, weight, View((n,), lambda x: _in_chunks(_batched(x, n), pixels))
    n, kernel = _CONVOLUTIONS[func], tuple(weight.shape[2:])
    stride, dilation = (_each(_argument(args, kwargs, i, name, 1), n) for i, name in ((3, "stride"), (5, "dilation")))
    padding = _argument(args, kwargs, 4, "padding", 0)
    padding = padding if isinstance(padding, str) else _each(padding, n)

    def rows(x: Tensor) -> Iterator[Tensor]:
        return _in_chunks(_batched(x, n), lambda some: patches(some, kernel, stride, padding, dilation))

    return x, weight, View((kernel, stride, padding, dilation), rows)


def _argument(args: Any, kwargs: Any, place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _each(value: Any, n: int) -> tuple[int, ...]:
    """A setting for each axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _batched(x: Tensor, n_axes: int) -> Tensor:
    """Pictures with an axis of examples."""
    return x if x.dim() == n_axes + 2 else x[None]


def _in_chunks(x: Tensor, rows: Callable[[Tensor], Tensor]) -> Iterator[Float[Tensor, "n pos d"]]:
    """Rows of pictures, so many pictures at a time that they fit."""
    first = rows(x[:1])
    step = max(1, CHUNK // max(1, first.numel()))
    for start in range(0, len(x), step):
        yield rows(x[start : start + step])


def _examples_first(x: Tensor, n: int, site: Site) -> Tensor:
    """An activation `[example ... d]`, whichever axis had the examples.

    Where the first axis is a multiple of the batch, its parts are taken to lie example by example.

    Raises:
        ValueError: if no axis has an entry for each example.
    """
    if x.dim() == 1:
        x = x[None]
    if len(x) == n:
        return x[:, None] if x.dim() == 2 else x
    if x.dim() > 2 and x.shape[1] == n:
        return x.transpose(0, 1)
    if len(x) % n == 0:
        return x.reshape(n, -1, x.shape[-1])
    raise ValueError(_untold(x, n, site))


def _untold(x: Tensor, n: int, site: Site) -> str:
    return (
        f"the input of {site.path} is {list(x.shape)}, in a batch of {n}: no axis has an entry for each example. Leave "
        f"it out with components=[...]"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and attention without fused kernels, for the length of the block."""
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
        torch.backends.mha.set_fastpath_enabled(fast)
