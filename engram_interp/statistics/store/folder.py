"""How do moments get into a folder, and out of it one input at a time, whatever happens in between?

`Store.writing` begins or goes on. Files are written aside and renamed, the index is replaced last, and files that it
does not name are removed. One process writes at a time; the system lets go of the lock when that process ends.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from engram_interp.common.heap import give_back_freed
from engram_interp.concepts.digest import Digests, require_same_examples
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.store.index import NAME, Index, Progress, Shard, require_same
from engram_interp.statistics.store.shards import read_moments, read_state, write_moments, write_state
from engram_interp.statistics.sums import AnySum

LOCK = ".lock"
SUFFIX = ".safetensors"
OWN = re.compile(rf"(watched-)?\d{{5}}(\.after-\d+)?{re.escape(SUFFIX)}$")
"""The names of a store's own files. No other file is touched."""


class Store:
    """A folder of moments.

    Args:
        folder: where it is.
        index: what it holds.
        ranks: this process among all that write into it.
    """

    def __init__(self, folder: Path, index: Index, ranks: Ranks = Ranks()) -> None:  # noqa: B008 (it is frozen)
        self.folder, self.index, self._ranks = folder, index, ranks
        self._last: tuple[str, dict[str, AnyMoment]] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Store:
        """A store for reading.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if its index is altered, or some inputs are not done.
        """
        path = Path(folder).expanduser().absolute()
        index = Index.read(path)
        if not index.is_finished:
            raise ValueError(
                f"the store {path} is not finished, {len(index.done)} of {len(index.inputs)} inputs are: the collect "
                f"call that began it goes on with it"
            )
        return cls(path, index)

    @classmethod
    @contextmanager
    def writing(
        cls,
        folder: str | os.PathLike[str],
        settings: dict[str, Any],
        inputs: Iterable[str],
        resume: bool,
        ranks: Ranks = Ranks(),  # noqa: B008 (it is frozen)
    ) -> Iterator[Store]:
        """A store to write into: a new one, or one that was begun with the same settings.

        Args:
            folder: where it is, or will be.
            settings: what the moments depend on.
            inputs: all inputs, in the model's order.
            resume: whether to go on with a store that is there.
            ranks: this process among all that write into it together: the first of them has the lock and the index.

        Raises:
            FileExistsError: if there is a store and it should not go on, or the folder holds other files.
            ValueError: if the store was made with other settings.
            RuntimeError: if another process writes into it.
        """
        path = Path(folder).expanduser().absolute()
        with ExitStack() as stack:
            with ranks.first_alone() as is_first:
                if is_first:
                    if path.is_file():
                        raise FileExistsError(f"{path} is a file: store must be a folder, or be none yet")
                    path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(_locked(path))
                    cls._begin(path, settings, tuple(inputs), resume)
            yield cls(path, Index.read(path), ranks)

    @classmethod
    def _begin(cls, path: Path, settings: dict[str, Any], inputs: tuple[str, ...], resume: bool) -> None:
        if not (path / NAME).is_file():
            others = [one.name for one in path.iterdir() if not one.name.startswith(".") and not OWN.match(one.name)]
            if others:
                raise FileExistsError(f"{path} holds {others[0]}, which is no part of a store: give another folder")
            Index(settings, inputs).write(path)
            return
        if not resume:
            raise FileExistsError(f"there is a store in {path} already: resume=True goes on with it, or opens it")
        require_same(Index.read(path).settings, settings, path)

    def _replace(self, index: Index) -> None:
        """Write the index, and remove what it does not name."""
        self.index = index
        with self._ranks.first_alone() as is_first:
            if is_first:
                index.write(self.folder)
                for found in self.folder.glob(f"*{SUFFIX}"):
                    if found.name not in index.files and OWN.match(found.name):
                        found.unlink(missing_ok=True)

    def copy_to(self, folder: Path) -> None:
        """Copy what was finished to a new folder."""
        folder.mkdir()
        for name in (NAME, *sorted(self.index.files)):
            shutil.copyfile(self.folder / name, folder / name)

    def require_files(self) -> None:
        """Check that every file is there that the index names.

        Raises:
            FileNotFoundError: if one is gone; it names it.
        """
        if gone := sorted(name for name in self.index.files if not (self.folder / name).is_file()):
            raise FileNotFoundError(f"the store {self.folder} lacks {', '.join(gone)}, which its index names")

    @property
    def groups(self) -> list[str]:
        """The names of the groups of examples."""
        return list(self.index.settings["groups"])

    @property
    def left(self) -> list[str]:
        """The inputs that are not done."""
        return [name for name in self.index.inputs if name not in self.index.done]

    def sums(
        self, names: Collection[str], device: torch.device | str | None, devices: Mapping[str, torch.device]
    ) -> dict[str, dict[str, AnySum]]:
        """The sums of the unfinished pass, where its checkpoint left them.

        Args:
            names: of which inputs.
            device: where to put them. None puts each where `devices` says.
            devices: of every input.

        Raises:
            ValueError: if a file is cut short or altered; it names the file.
        """
        progress = self.index.progress
        if progress is None:
            return {}
        return {
            name: read_state(self.folder, shard, name, device or devices[name])
            for name, shard in progress.shards.items()
            if name in names
        }

    def write_states(self, sums: Mapping[str, Mapping[str, AnySum]], batches: int) -> dict[str, Shard]:
        """Write the states of sums after so many batches. They count once `checkpoint` names them."""
        return {
            name: write_state(self.folder, self._file(name, f".after-{batches}"), name, by_group)
            for name, by_group in sums.items()
        }

    def write_watched(self, sums: Mapping[str, Mapping[str, AnySum]], batches: int) -> dict[str, Shard]:
        """Write the states of the sums of blocks. They count once `checkpoint` names them."""
        return {
            name: write_state(self.folder, f"watched-{i:05d}.after-{batches}{SUFFIX}", name, by_group)
            for i, (name, by_group) in enumerate(sums.items())
        }

    def watched(self) -> dict[str, dict[str, AnySum]]:
        """The sums of blocks, where the checkpoint left them."""
        found = {} if self.index.progress is None else self.index.progress.watched
        return {name: read_state(self.folder, shard, name, "cpu") for name, shard in found.items()}

    def checkpoint(self, progress: Progress) -> None:
        """Let the unfinished pass be this far."""
        self._replace(replace(self.index, progress=progress))

    def drop_progress(self) -> None:
        """Forget the unfinished pass."""
        self._replace(replace(self.index, progress=None))

    def write_input(self, name: str, moments: Mapping[str, AnyMoment]) -> Shard:
        """Write the moments of an input. They count once `finish` names them."""
        return write_moments(self.folder, self._file(name, ""), name, moments)

    def finish(self, done: Mapping[str, Shard], digests: Digests, offered: Mapping[str, int], n_batches: int) -> None:
        """Let a pass be done.

        Args:
            done: the files of its inputs.
            digests: of all examples.
            offered: how many positions count, by group.
            n_batches: how many batches the pass had.
        """
        self._replace(
            replace(
                self.index, done={**self.index.done, **done}, progress=None, digests=dict(digests.values),
                offered=dict(offered), n_batches=n_batches,
            )
        )  # fmt: skip

    def close(self, inputs: Iterable[str], reads: Mapping[str, str], keys: Iterable[str]) -> None:
        """Let all be done.

        Args:
            inputs: those that a pass reached, in the order in which they run.
            reads: the input of every matrix of a plain module.
            keys: the matrices.
        """
        self._replace(replace(self.index, inputs=tuple(inputs), reads=dict(reads), keys=tuple(keys), is_finished=True))

    def require_examples(self, digests: Digests) -> None:
        """Check that examples are those of the passes that are done.

        Raises:
            ValueError: if they are not; it names the groups.
        """
        require_same_examples(digests.values, self.index.digests, f"the store {self.folder}")

    def moments(self, name: str) -> dict[str, AnyMoment]:
        """The moments of an input, by group. Those that were read last are kept.

        Raises:
            KeyError: if the store has no such input.
            ValueError: if the file is cut short or altered; it names the file.
        """
        if name not in self.index.done:
            raise KeyError(name)
        if self._last is None or self._last[0] != name:
            self._last = None  # two inputs at a time would be twice the memory
            give_back_freed()
            self._last = name, read_moments(self.folder, self.index.done[name], name, self.groups)
        return self._last[1]

    def _file(self, name: str, more: str) -> str:
        """A file for an input. Names of inputs may be too long for a file, or not allowed."""
        return f"{self.index.inputs.index(name):05d}{more}{SUFFIX}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(f"another process writes into the store {folder}: wait until it ends") from None
    try:
        yield
    finally:
        lock.release()
