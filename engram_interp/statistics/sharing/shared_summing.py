"""`S+` and `S-` of every input by several processes: each runs its share of the batches, and each input has an owner.

After a batch of every process, the rows of an input travel to its owner in the model's precision, or each process sums
its own and the sums travel: whichever is fewer bytes. Inputs are exchanged while the model runs, in one fixed order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.concepts.batches import AnyBatch
from engram_interp.linalg.triangle import pack, triangle_size
from engram_interp.models.sites import Input, Site
from engram_interp.statistics.moments import moment_dtype
from engram_interp.statistics.sharing.ranks import Ranks, gathered_numbers, speaking_of_others
from engram_interp.statistics.summing import Summing
from engram_interp.statistics.sums import AnySum, MomentSum


class SharedSumming(Summing):
    """The sums of the inputs that this process owns.

    Args:
        ranks: this process among all.
        owners: the rank that holds the sums of each input.
        widths: the size of every input.
        sites: the matrices that read these inputs, in the order in which they run.
        n_rows: how many positions count, by group; None if nobody knows.
        sums: by input and group, of the inputs that this process owns, as far as there are any.
        device: where sums are kept. None keeps each where its input is.
        like: a tensor of the model's, for precision and device of its activations.
    """

    def __init__(
        self,
        ranks: Ranks,
        owners: Mapping[str, int],
        widths: Mapping[str, int],
        sites: Sequence[Site],
        n_rows: Mapping[str, int | None],
        sums: Mapping[str, dict[str, AnySum]] | None = None,
        device: torch.device | str | None = None,
        like: Tensor | None = None,
    ) -> None:
        super().__init__(sites, n_rows, sums, device)
        self._ranks, self._widths = ranks, {name: widths[name] for name in self.readers}
        self.owners = dict(owners)
        self._like = torch.zeros(0) if like is None else like.detach()
        self._order, self._next = list(self.readers), 0
        self._pending: dict[str, list[tuple[str, Tensor, int, bool]]] = {}
        self._first, self._is_new = 0, True

    def see(self, index: int, batch: AnyBatch) -> None:
        """Take note of a batch; see `Summing.see`."""
        super().see(index, batch)
        if self._is_new:
            self._first, self._is_new = index, False  # the round's first batch

    def _take(
        self,
        counted: dict[str, Int[Tensor, "n"]],
        index: int,
        name: Input,
        activation: Float[Tensor, "*batch_pos d"],
        routed: Int[Tensor, "m"] | None = None,
    ) -> None:
        self._pending.setdefault(name, [])
        super()._take(counted, index, name, activation, routed)
        while self._next < len(self._order) and self._order[self._next] in self._pending:
            self._exchange(self._order[self._next])
            self._next += 1

    def add(
        self, name: Input | str, group: str, rows: Float[Tensor, "n d"], offered: int, index: int, routed: bool
    ) -> None:
        """Hold rows until they are exchanged; see `Summing.add`."""
        del index
        self._pending[name].append((group, rows, offered, routed))

    def end_round(self, index: int) -> None:
        """Exchange what is left, after every process has run one batch more, or none.

        Args:
            index: the number of the last batch.
        """
        del index
        for name in self._order[self._next :]:
            self._exchange(name)
        self._next, self._is_new = 0, True
        # A module that runs again after its input was exchanged has rows left, in this process or in another.
        while any(self._ranks.gathered(bool(self._pending))):
            for name in self._order:
                self._exchange(name)

    def check(self) -> None:
        """Check that every row so far was finite, in all processes.

        Raises:
            ValueError: in all of them, if one was not.
        """
        bad = self.first_spoiled()
        found = [one for one in self._ranks.gathered(bad) if one is not None]
        self.refuse(min(found, default=None))

    def all_seen(self) -> list[str]:
        """The inputs that anything reached, in any process."""
        found = {name for names in self._ranks.gathered(self.seen) for name in names}
        return [name for name in self.readers if name in found]

    def _exchange(self, name: str) -> None:
        """Bring the rows of an input to its owner."""
        mine = self._pending.pop(name, [])
        for group in self.offered:
            own = [(rows, offered, routed) for of, rows, offered, routed in mine if of == group]
            rows = torch.cat([rows for rows, *_ in own]) if own else self._like.new_empty(0, self._widths[name])
            offered, routed = sum(n for _, n, _ in own), any(is_routed for *_, is_routed in own)
            told = gathered_numbers(torch.tensor([len(rows), offered, routed], device=rows.device))
            counts = [one.tolist() for one in told]
            if not any(n for n, *_ in counts) and not any(n for _, n, _ in counts):
                continue
            if self._sums_are_fewer_bytes(name, rows, counts) and self._send_sums(name, group, rows, counts):
                continue
            self._send_rows(name, group, rows, counts)

    def _sums_are_fewer_bytes(self, name: str, rows: Tensor, counts: list[list[int]]) -> bool:
        d = self._widths[name]
        of_sums = triangle_size(d) * moment_dtype(d, rows.dtype).itemsize + d * 8
        return of_sums < max(n for n, *_ in counts) * d * rows.dtype.itemsize

    def _send_sums(self, name: str, group: str, rows: Tensor, counts: list[list[int]]) -> bool:
        """Add up sums of rows around the owner's mean. It says whether the owner has one: it needs rows for that."""
        owner, d = self.owners[name], self._widths[name]
        own = self.sums.get(name, {}).get(group)
        total = None if own is None else own.moment_sum
        about = torch.zeros(d + 1, dtype=torch.float64, device=rows.device)
        if total is not None and total.mean is not None:
            about[0], about[1:] = 1, total.mean.to(about)
        with speaking_of_others():
            dist.broadcast(about, src=owner)
        if not about[0]:
            return False
        part = MomentSum(rows, mean=about[1:])
        part.add(rows)
        squares, sums = pack(part.squares), part.sums
        with speaking_of_others():
            dist.reduce(squares, dst=owner)
            dist.reduce(sums, dst=owner)
        if total is not None:
            total.merge(squares, sums, sum(n for n, *_ in counts), sum(n for _, n, _ in counts), self._first)
        return True

    def _send_rows(self, name: str, group: str, rows: Tensor, counts: list[list[int]]) -> None:
        owner, most = self.owners[name], max(n for n, *_ in counts)
        padded = rows.new_zeros(most, self._widths[name])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts] if self._ranks.rank == owner else None
        with speaking_of_others():
            dist.gather(padded, found, dst=owner)
        if found is None:
            return
        for rank, ((n, offered, routed), of_rank) in enumerate(zip(counts, found, strict=True)):
            if n or offered:
                super().add(name, group, of_rank[:n], offered, self._first + rank, bool(routed))
