"""What does a store hold, and how far is it? One small JSON file says it, and is replaced as a whole.

Files of moments never change once they are written. What the index does not name is not part of the store. So whenever
a process is killed, the store is what it was at the last index.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engram_interp.common.storage import FORMAT
from engram_interp.common.writing import replacing

NAME = "index.json"
VERSION = "1"


@dataclass(frozen=True)
class Shard:
    """A file with the moments of one input, or with the state of their sums.

    Attributes:
        file: its name in the folder.
        checksum: of its content.
        n_bytes: its size.
    """

    file: str
    checksum: str
    n_bytes: int


@dataclass(frozen=True)
class Progress:
    """How far an unfinished pass is.

    Attributes:
        inputs: what the pass sums, in the model's order.
        batches: how many batches are summed.
        digests: of the examples in these batches, by group.
        shards: the states of the sums, by input.
        offered: how many positions counted so far, by group.
        watched: the states of the sums of blocks, where somebody watches how settled the map is.
    """

    inputs: tuple[str, ...]
    batches: int
    digests: dict[str, str]
    shards: dict[str, Shard]
    offered: dict[str, int]
    watched: dict[str, Shard]


@dataclass(frozen=True)
class Index:
    """What a store holds.

    Attributes:
        settings: what the moments depend on: the model, its weights, the matrices, the positions, the options.
        inputs: all inputs, in the model's order.
        done: the moments of finished inputs.
        digests: of all examples, by group, once a pass has read them.
        offered: how many positions count, by group, once a pass has read them.
        n_batches: how many batches a pass has, once one has read them.
        progress: the unfinished pass, if there is a checkpoint of one.
        keys: the matrices, once all is done.
        reads: the input of every matrix of a plain module.
        is_finished: whether all inputs are done.
    """

    settings: dict[str, Any]
    inputs: tuple[str, ...]
    done: dict[str, Shard] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    offered: dict[str, int] = field(default_factory=dict)
    n_batches: int | None = None
    progress: Progress | None = None
    keys: tuple[str, ...] = ()
    reads: dict[str, str] = field(default_factory=dict)
    is_finished: bool = False

    @property
    def files(self) -> set[str]:
        """The names of all files that belong to the store."""
        begun = () if self.progress is None else (*self.progress.shards.values(), *self.progress.watched.values())
        return {shard.file for shard in (*self.done.values(), *begun)}

    def write(self, folder: Path) -> None:
        """Put it in the place of the index that the folder has.

        Raises:
            OSError: if it cannot be written. The folder's index is then unchanged.
        """
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with replacing(folder / NAME) as aside:
            aside.write_text(json.dumps({"checksum": _checksum(content), "content": content}, indent=1))

    @classmethod
    def read(cls, folder: Path) -> Index:
        """The index of a folder.

        Raises:
            FileNotFoundError: if the folder has none.
            ValueError: if it is not an index, of another version, cut short or altered.
        """
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"there is no store in {folder}: it has no {NAME}")
        try:
            found = json.loads(path.read_text())
            content, checksum = found["content"], found["checksum"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} was cut short or altered: it is no index of a store ({error})") from None
        if _checksum(content) != checksum:
            raise ValueError(f"{path} was altered: its content does not match its checksum")
        if content.pop("format") != FORMAT or content["version"] != VERSION:
            raise ValueError(f"{path} has format version {content['version']}; this release reads version {VERSION}")
        del content["version"]
        return cls._of(content)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> Index:
        progress = content.pop("progress")
        if progress is not None:
            progress |= {name: _shards(progress[name]) for name in ("shards", "watched")}
            progress["inputs"] = tuple(progress["inputs"])
            progress = Progress(**progress)
        content |= {name: tuple(content[name]) for name in ("inputs", "keys")}
        content["done"] = _shards(content["done"])
        return cls(**content, progress=progress)


def _shards(found: dict[str, Any]) -> dict[str, Shard]:
    return {name: Shard(**one) for name, one in found.items()}


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def require_same(settings: dict[str, Any], other: dict[str, Any], folder: Path) -> None:
    """Check that a call would sum what a store holds.

    Args:
        settings: the store's.
        other: the call's.
        folder: where the store is, for the error.

    Raises:
        ValueError: if they differ; it says in what.
    """
    names = [name for name in {**settings, **other} if settings.get(name) != other.get(name)]
    if names:
        said = "; ".join(f"{name}: {_short(settings.get(name))}, now {_short(other.get(name))}" for name in names)
        raise ValueError(
            f"the store {folder} was made with something else ({said}): give another folder, or the same as before"
        )


def _short(value: Any, at_most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= at_most else f"{text[:at_most]}..."
