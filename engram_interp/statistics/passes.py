"""How do examples go through a model? Once, in batches, and every input's activation is handed on as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.common.heap import give_back_freed
from engram_interp.concepts.batches import AnyBatch, Examples, TokenStream, any_batches, stream_batches
from engram_interp.concepts.data import are_batches
from engram_interp.models import Adapter, Record
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Run

logger = logging.getLogger("engram_interp")

AT_A_TIME = 128
"""So many examples are taken at a time where reading may stop early, so that sides are read alike."""


def batches_of(
    encoded: Mapping[str, Examples], run: Run, in_order: bool = False, tokens: int | None = None
) -> Iterator[AnyBatch]:
    """Every example of every group once, in batches, with a bar if one is wanted.

    Args:
        encoded: examples by group.
        run: how large batches are.
        in_order: takes some of each group at a time, in the order in which they come, in place of sorting all by
            length. Whoever stops early has then read alike of all.
        tokens: in a batch, where `run` does not say how many examples. None takes the usual number.
    """
    if in_order and not are_batches(encoded):
        return stream_batches(encoded, run.batch_size, run.progress, "collecting", _shares(encoded), tokens)
    return any_batches(encoded, run.batch_size, run.progress, "collecting", tokens)


def _shares(encoded: Mapping[str, Examples]) -> dict[str, int]:
    """How many examples of each group are taken at a time: in proportion, where the numbers are known."""
    if any(isinstance(some, TokenStream) for some in encoded.values()):
        return dict.fromkeys(encoded, AT_A_TIME // len(encoded))
    total = sum(map(len, encoded.values()))
    return {group: max(1, round(AT_A_TIME * len(some) / total)) for group, some in encoded.items()}


class NonFiniteError(ValueError):
    """Carries the name of the input that was not finite."""


def one_pass(
    adapter: Adapter,
    sites: Iterable[Site],
    batches: Iterable[AnyBatch],
    begin: Callable[[AnyBatch], Record],
) -> None:
    """Run the model over every batch once, as far as the sites' inputs need it.

    Args:
        adapter: the model.
        sites: the matrices whose inputs are wanted.
        batches: the examples.
        begin: takes a batch and returns the function that gets every input's activation; see `Record`. That function
            raises `NonFiniteError` if an activation is not finite.

    Raises:
        ValueError: if an activation is not finite. The message names the matrices that read it, and the batch.
    """
    readers = by_input(sites)
    _warn_of_hooks(adapter)
    for index, batch in enumerate(batches):
        try:
            adapter.run(batch, readers, begin(batch))
        except NonFiniteError as error:
            sites = next(sites for name, sites in readers.items() if name == str(error))
            raise ValueError(non_finite(sites, index, batch.examples)) from None
    give_back_freed()


def taken_rows(
    activation: Float[Tensor, "*batch_pos d"], at: Int[Tensor, "n"], routed: Int[Tensor, "m"] | None
) -> tuple[Float[Tensor, "taken d"], Int[Tensor, "taken"]]:
    """An input's rows at the positions `at`, and these positions; only the `routed` ones if some are given."""
    rows = activation.flatten(0, -2)
    if routed is None and len(at) == len(rows):
        return rows, at
    if routed is None:
        return rows.index_select(0, at.to(rows.device)), at
    taken = torch.isin(routed, at.to(routed.device)).nonzero().flatten()
    if len(taken) == len(rows):
        return rows, routed
    return rows.index_select(0, taken.to(rows.device)), routed[taken]


def finite_rows(
    name: str, activation: Float[Tensor, "*batch_pos d"], at: Int[Tensor, "n"], routed: Int[Tensor, "m"] | None
) -> tuple[Float[Tensor, "taken d"], Int[Tensor, "taken"]]:
    """`taken_rows` without gradients, and their positions on the CPU.

    Raises:
        NonFiniteError: if one of the rows is not finite.
    """
    rows, positions = taken_rows(activation, at, routed)
    # A sum is finite if all rows are, but for an overflow, and makes no tensor of their size.
    if not rows.sum(dtype=torch.promote_types(rows.dtype, torch.float32)).isfinite() and not rows.isfinite().all():
        raise NonFiniteError(name)
    return rows.detach(), positions.cpu()


def warn_of_few(
    n_rows: Mapping[str, int], widths: Mapping[str, int], count: int, rank: Callable[[str], int] | None = None
) -> None:
    """Warn of inputs that no position reached, and of too few positions for the directions that the widest input has.

    Args:
        n_rows: how many positions reached each input.
        widths: the dimensions of each input.
        count: how many positions count.
        rank: how many directions an input has above the default cut. It is asked only if positions are few. None takes
            as many as positions and dimensions allow.
    """
    if unseen := [name for name, n in n_rows.items() if not n]:
        logger.warning("no position that counts reached %s: the matrices there have no engram", ", ".join(unseen))
    widest = max(widths, key=lambda name: widths[name])
    d = widths[widest]
    count = max(count, n_rows[widest])  # a convolution has many rows an example
    if count < 2 * d and count < 2 * (found := min(d, count) if rank is None else rank(widest)):
        logger.warning(
            "%d positions count, and inputs have up to %d dimensions, of which these positions reach %d. Below two "
            "positions a direction, W-Norms and edits are mostly noise: give more (reference) examples, plain text "
            "among them, or a larger rtol such as 1e-2", count, d, found,
        )  # fmt: skip


def keys_of(sites: Iterable[Site]) -> str:
    """The keys of sites in one line."""
    return ", ".join(site.key for site in sites)


def _warn_of_hooks(adapter: Adapter) -> None:
    if hooks := adapter.foreign_hooks():
        logger.warning(
            "hooks that other code has set run in this pass, on %s%s. If they change an activation, the statistics are "
            "those of the changed model. model.reset_hooks() removes them", ", ".join(hooks[:3]),
            f" and {len(hooks) - 3} more" if len(hooks) > 3 else "",
        )  # fmt: skip


def non_finite(sites: Iterable[Site], index: int, examples: Sequence[str]) -> str:
    """What an error says of an activation that is not finite: the matrices that read it, and its batch."""
    return (
        f"non-finite activation in the input of {keys_of(sites)}, batch {index} ({examples[0]} to {examples[-1]}): "
        f"look at these examples, or run the model in a wider dtype"
    )
