"""What does a pass multiply each weight by? Every call of torch's that multiplies by a parameter is seen.

A call is known by the function and by the parameter itself, not by the module that makes it. So a shared weight is one
matrix, a module that is called twice adds both calls up, and a weight that is changed before it multiplies is not
mistaken for itself. Activations are read as rows, with the example that each row belongs to.
"""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engram_interp.concepts.data import DataBatch
from engram_interp.models.evaluation import evaluation_mode
from engram_interp.models.hooks import Record
from engram_interp.models.layouts import Layout
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
    torch.inner,
    torch.tensordot,
    torch.mv,
    torch.addmv,
    torch.chain_matmul,
    torch.linalg.multi_dot,
    torch.linalg.matmul,
}
_MATMUL = {torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm}
_ELSEWHERE |= {*_MATMUL, Tensor.__rmatmul__, Tensor.bmm, Tensor.baddbmm, Tensor.addbmm}
_ELSEWHERE |= {Tensor.inner, Tensor.mv, Tensor.addmv, Tensor.addmm}
"""Other calls that multiply. What they make of a parameter is not read, and is listed."""


@dataclass(frozen=True)
class View:
    """How an activation becomes rows.

    Attributes:
        settings: what tells two views of one tensor apart; nothing if it is rows already.
        rows: the rows of some examples at a time, `[example *positions d]`.
        axes: where a weight's axis of inputs stands that such a product multiplies by: first, second or last.
    """

    settings: tuple[Any, ...]
    rows: Callable[[Tensor], Iterator[Tensor]]
    axes: str = "last"

    @property
    def is_plain(self) -> bool:
        """Whether the activation is rows already."""
        return not self.settings

    def fits(self, layout: Layout) -> bool:
        """Whether a weight of this layout is multiplied as its module multiplies it."""
        first, *others = layout.parameter_axes.split()
        place = "first" if first == "d_in" else "second" if others[0] == "d_in" and len(others) > 1 else "last"
        return place == self.axes


PLAIN = View((), lambda x: iter([x]))
TURNED = View((), lambda x: iter([x]), "first")
"""Rows that are multiplied by a weight `[in out]`."""


@dataclass
class Learned:
    """What the first pass over a model has shown, which runs one example.

    Attributes:
        reads: the input of every matrix that ran, by key, in the order of calls. Matrices all of whose calls read the
            same tensors have one input: the name of the first.
        rows: how many rows an input has for each example.
        shapes: the shapes of what each parameter multiplied, if one example ran by itself.
        elsewhere: parameters that were multiplied in a way that is not read.
    """

    reads: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)

    def example_axis(self, path: str) -> int | None:
        """Which axis has the examples of what a parameter multiplies: 0, or 1 for `[pos batch d]`.

        One example alone shows it, since its axis then has one entry; None if it does not.
        """
        shapes = [shape for shape in self.shapes.get(path, ()) if len(shape) > 2]
        if any(shape[1] == 1 < shape[0] for shape in shapes):
            return 1
        return 0 if shapes and all(shape[1] > 1 for shape in shapes) else None

    def has_examples_elsewhere(self, path: str, shape: tuple[int, ...], n: int) -> bool:
        """Whether a later axis than the second has an entry for each example, and the others are as for one example."""
        later = range(2, len(shape) - 1)
        grown = {(*shape[:axis], shape[axis] / n, *shape[axis + 1 :]) for axis in later}
        return n > 1 and not grown.isdisjoint(self.shapes.get(path, ()))


Call: TypeAlias = tuple[int, tuple[Any, ...]]
"""What a call read: the number of a tensor in this pass, and the settings of the view."""


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
        self._of_key = {site.key: site for some in sites.values() for site in some}
        self._by_input = {str(site.input): site.key for site in self._of_key.values()}
        self._n_rows: dict[str, int] = {}
        self._calls: dict[str, list[Call]] = {}
        self._tensors: dict[int, tuple[Callable[[], Tensor | None], int, int]] = {}
        self._numbers = itertools.count()
        self._is_first = not learned.reads
        self.error: Exception | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's call, after its input was handed on."""
        kwargs = kwargs or {}
        if func is _ATTENTION:
            return self._attention(args, kwargs)
        if (product := _product(func, args, kwargs)) is not None:
            self._multiply(*product)
        elif func in _ELSEWHERE:
            for one in _tensors((*args, *kwargs.values())):
                self._note(one)
        return func(*args, **kwargs)

    def finish(self) -> None:
        """Keep what the pass has shown.

        Raises:
            NotImplementedError: if matrices that read the same tensors in the first pass do not do so in this one.
        """
        if self._is_first:
            self._learn()
            return
        reads = self._learned.reads
        for key, read in reads.items():
            owner = self._by_input.get(read, key)
            # Also if one of the two was not called at all.
            if owner != key and read in self._wanted and self._calls.get(key) != self._calls.get(owner):
                reads.update({one: str(self._of_key[one].input) for one in reads if one in self._of_key})
                raise NotImplementedError(
                    f"{key} and {owner} read the same tensors in the first pass over this model, and others in this "
                    f"one: from now on they are taken apart. Call it again"
                )

    def _learn(self) -> None:
        """Which matrices share their inputs, and how many rows these have."""
        first: dict[tuple[Any, ...], str] = {}
        for key, calls in self._calls.items():
            site = self._of_key[key]
            # A group of a picture's channels is no tensor of its own, so nothing else reads it. Only those with a bias
            # read a row of ones beside it.
            name, kind = str(site.input), (site.bias is not None, *calls)
            self._learned.reads[key] = name if site.expert is not None else first.setdefault(kind, name)
        n = max(1, len(self._batch.examples))
        self._learned.rows |= {name: max(1, round(rows / n)) for name, rows in self._n_rows.items()}

    def _owner_of(self, key: str) -> str:
        """The matrix whose input this one reads: itself, or the first that reads the same tensors."""
        name = self._learned.reads.setdefault(key, str(self._of_key[key].input))
        return self._by_input.get(name, key)

    def _multiply(self, x: Tensor, weight: Tensor, view: View) -> None:
        """Hand on the input of a product with one of the parameters, if the product is what its module makes."""
        sites = self._sites.get(id(weight))
        self._note(x)  # a weight may stand in the input's place
        if sites is None or not view.fits(sites[0].layout):
            self._note(weight)
        else:
            self._hand_on(sites, x, view)

    def _hand_on(self, sites: list[Site], x: Tensor, view: View) -> None:
        """Hand on what matrices of one parameter read, unless another matrix hands it on."""
        try:
            call = self._number_of(x), view.settings
            for site in sites:
                self._calls.setdefault(site.key, []).append(call)
            if self._is_first:
                self._note_rows(sites, x, view)
            shared = not self._is_first and self._owner_of(sites[0].key) != sites[0].key
            if shared or not self._wanted & {str(site.input) for site in sites}:
                return
            for rows, examples in self._by_example(x, view, sites[0]):
                for site, part in zip(sites, rows.chunk(len(sites), dim=1), strict=True):
                    if site.input in self._wanted:
                        # The model may have switched either on for itself.
                        with torch.inference_mode(False), torch.no_grad():
                            self._record(site.input, _plain(part), examples)
        except Exception as error:
            self.error = error
            raise

    def _note_rows(self, sites: list[Site], x: Tensor, view: View) -> None:
        """How many rows an input has, and of which shape it is for one example."""
        n_rows = sum(some.numel() // some.shape[-1] for some in view.rows(x))
        for site in sites:
            self._n_rows[site.input] = self._n_rows.get(site.input, 0) + n_rows
        if view.is_plain and len(self._batch.examples) == 1:
            self._learned.shapes.setdefault(sites[0].path, set()).add(tuple(x.shape))

    def _number_of(self, x: Tensor) -> int:
        """A number for a tensor as it is now: the same for two calls that read the same.

        An inference tensor does not tell whether it was written into in between, so each call has its own number.
        """
        if x.is_inference():
            return next(self._numbers)
        known, seen, number = self._tensors.get(id(x), (lambda: None, -1, -1))
        if known() is not x or seen != x._version:
            number = next(self._numbers)
            self._tensors[id(x)] = weakref.ref(x), x._version, number
        return number

    def _by_example(self, x: Tensor, view: View, site: Site) -> Iterator[tuple[Float[Tensor, "n d"], Tensor | None]]:
        """An activation as rows `[n d]`, some at a time, and the position that each counts as."""
        n, n_positions = self._batch.counts.shape
        if n_positions > 1:
            yield self._by_position(x, view, site), None
            return
        if view.is_plain:
            x = self._examples_first(x, n, site)
        if len(x) % n:
            raise ValueError(_untold(x, n, site))
        share, start = len(x) // n, 0
        for some in view.rows(x):
            numbers = torch.arange(start, start + len(some)) // share
            start += len(some)
            rows = some.flatten(0, -2)
            yield rows, numbers.repeat_interleave(len(rows) // len(some)).to(rows.device)

    def _examples_first(self, x: Tensor, n: int, site: Site) -> Tensor:
        """An activation `[example ... d]`, whichever axis had the examples.

        Where the first axis is a multiple of the batch, its parts are taken to lie example by example.

        Raises:
            ValueError: if no axis has an entry for each example.
        """
        if x.dim() == 1:
            x = x[None]
        axis = self._learned.example_axis(site.path)
        if self._learned.has_examples_elsewhere(site.path, tuple(x.shape), n) or self._is_of_the_model(x, n):
            raise ValueError(_untold(x, n, site))
        if x.dim() > 2 and x.shape[1] == n and axis != 0 and (len(x) != n or axis == 1):
            return x.transpose(0, 1)
        if len(x) == n:
            return x[:, None] if x.dim() == 2 else x
        if len(x) % n == 0:
            return x.reshape(n, -1, x.shape[-1])
        raise ValueError(_untold(x, n, site))

    def _is_of_the_model(self, x: Tensor, n: int) -> bool:
        """Whether an input is a parameter, which has no axis of examples unless it was expanded along one."""
        is_expanded = len(x) == n and (n == 1 or x.stride(0) == 0)
        return not is_expanded and x.device.type != "meta" and x.untyped_storage().data_ptr() in self._paths

    def _by_position(self, x: Tensor, view: View, site: Site) -> Float[Tensor, "n d"]:
        """An activation `[batch pos d]`, whose positions are those of the mask."""
        shape = tuple(self._batch.counts.shape)
        n = shape[0] * shape[1]
        if view.is_plain and self._learned.example_axis(site.path) == 1 and x.dim() == 3:
            x = x.transpose(0, 1)
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


def _plain(x: Tensor) -> Tensor:
    """A tensor without a graph, which can be written into."""
    return x.clone() if x.is_inference() else x.detach()


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
        return _argument(args, kwargs, 1, "mat1"), _argument(args, kwargs, 2, "mat2"), TURNED
    if func in _MATMUL and len(args) == 2:
        return _transposed(*args)
    if func not in _CONVOLUTIONS and func not in _TRANSPOSED:
        return None
    x, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    if func in _TRANSPOSED:
        n = _TRANSPOSED[func]
        return x, weight, View((n,), lambda x: _in_chunks(_batched(x, n), pixels), "first")
    n, kernel = _CONVOLUTIONS[func], tuple(weight.shape[2:])
    stride, dilation = (_each(_argument(args, kwargs, i, name, 1), n) for i, name in ((3, "stride"), (5, "dilation")))
    padding = _argument(args, kwargs, 4, "padding", 0)
    padding = padding if isinstance(padding, str) else _each(padding, n)

    def rows(x: Tensor) -> Iterator[Tensor]:
        return _in_chunks(_batched(x, n), lambda some: patches(some, kernel, stride, padding, dilation))

    return x, weight, View((kernel, stride, padding, dilation), rows, "second")


def _transposed(x: Any, other: Any) -> tuple[Tensor, Tensor, View] | None:
    """`x @ W.T` as the product with `W`; None if the second factor is no transposed parameter."""
    whole = other._base if isinstance(other, Tensor) and other.dim() == 2 else None
    if whole is None or whole.dim() != 2 or other.stride() != whole.stride()[::-1] or other.shape != whole.shape[::-1]:
        return None
    return (x, whole, PLAIN) if other.data_ptr() == whole.data_ptr() else None


def _argument(args: Any, kwargs: Any, place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _each(value: Any, n: int) -> tuple[int, ...]:
    """A setting for each axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _batched(x: Tensor, n_axes: int) -> Tensor:
    """Pictures, which must have an axis of examples.

    Raises:
        ValueError: if they have none.
    """
    if x.dim() != n_axes + 2:
        raise ValueError(f"a convolution reads {list(x.shape)}, without an axis of examples: give it batches")
    return x


def _in_chunks(x: Tensor, rows: Callable[[Tensor], Tensor]) -> Iterator[Float[Tensor, "n pos d"]]:
    """Rows of pictures, so many pictures at a time that they fit."""
    first = rows(x[:1])
    step = max(1, CHUNK // max(1, first.numel()))
    for start in range(0, len(x), step):
        yield rows(x[start : start + step])


def _untold(x: Tensor, n: int, site: Site) -> str:
    return (
        f"the input of {site.path} is {list(x.shape)}, in a batch of {n}: no axis has an entry for each example. Leave "
        f"it out with components=[...]"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and attention without fused kernels, for the length of the block."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluation_mode(model.modules()):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
