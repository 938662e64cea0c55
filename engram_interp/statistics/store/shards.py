"""What does a file of a store hold? The moments of one input, by group, as triangles; or the state of their sums.

`S` is symmetric, so its triangle is half the bytes. A moment of few positions is kept as these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engram_interp.common import storage
from engram_interp.common.storage import Content
from engram_interp.linalg.triangle import pack, unpack
from engram_interp.statistics.moment_file import rows_in
from engram_interp.statistics.moments import AnyMoment, Moment, MomentOfRows
from engram_interp.statistics.store.index import Shard
from engram_interp.statistics.sums import AnySum, restored

KIND = "moments"


def write_moments(folder: Path, file: str, name: str, moments: Mapping[str, AnyMoment]) -> Shard:
    """Write the moments of an input, by group.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors = {f"{group}/{part}": tensor for group, one in moments.items() for part, tensor in _tensors_of(one).items()}
    return _write(folder, file, tensors, {"input": name, "holds": "moments"})


def read_moments(folder: Path, shard: Shard, name: str, groups: list[str]) -> dict[str, AnyMoment]:
    """The moments of an input, by group.

    Raises:
        ValueError: if the file is cut short or altered, or holds something else; it names the file.
        FileNotFoundError: if it is gone.
    """
    content = _read(folder, shard, name, "moments")
    return {group: _moment_in(content, group) for group in groups}


def write_state(folder: Path, file: str, name: str, sums: Mapping[str, AnySum]) -> Shard:
    """Write the state of an input's sums, by group.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors = {f"{group}/{part}": tensor for group, one in sums.items() for part, tensor in one.state().items()}
    return _write(folder, file, tensors, {"input": name, "holds": "sums", "groups": list(sums)})


def read_state(folder: Path, shard: Shard, name: str, device: torch.device | str) -> dict[str, AnySum]:
    """The sums of an input, by group, which go on where they were.

    Raises:
        ValueError: if the file is cut short or altered, or holds something else.
        FileNotFoundError: if it is gone.
    """
    content = _read(folder, shard, name, "sums")
    return {group: restored(_part(content, group, device)) for group in content.strings("groups")}


def _part(content: Content, group: str, device: torch.device | str) -> dict[str, Tensor]:
    start = f"{group}/"
    found = {name.removeprefix(start): one for name, one in content.tensors.items() if name.startswith(start)}
    # Counts are read on the CPU, whatever the device.
    return {name: one if name == "counts" else one.to(device) for name, one in found.items()}


def _write(folder: Path, file: str, tensors: dict[str, Tensor], fields: dict[str, object]) -> Shard:
    checksum = storage.write(folder / file, KIND, tensors, fields)
    return Shard(file, checksum, (folder / file).stat().st_size)


def _read(folder: Path, shard: Shard, name: str, holds: str) -> Content:
    content = storage.read(folder / shard.file, KIND)
    if content.checksum != shard.checksum:
        raise ValueError(f"{content.path} was replaced: it is not the file that the store's index names")
    if (content.field("input", str), content.field("holds", str)) != (name, holds):
        raise content.error(f"it must hold the {holds} of {name}")
    return content


def _tensors_of(moment: AnyMoment) -> dict[str, Tensor]:
    count = torch.tensor([moment.count, moment.offered])
    if isinstance(moment, MomentOfRows) and moment.times == 1:
        return {"rows": moment.X, "count": count}
    return {"triangle": pack(moment.second), "first": moment.first, "count": count}


def _moment_in(content: Content, group: str) -> AnyMoment:
    if f"{group}/rows" in content.tensors:
        return rows_in(content, group)
    triangle, first, count = (content.tensor(f"{group}/{part}") for part in ("triangle", "first", "count"))
    second = unpack(triangle)
    if len(second) != len(first) or not first.isfinite().all() or not triangle.isfinite().all():
        raise content.error(f"{group} is not the finite moment of an input of size {len(first)}")
    taken, offered = count.tolist()
    return Moment(second, first, taken, offered)
