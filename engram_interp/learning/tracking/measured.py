"""What is measured of one checkpoint, in a file of its own: maps, answers, overlaps, engrams by singular vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from engram_interp.common import storage
from engram_interp.common.frames import frame_of, frame_parts
from engram_interp.linalg.singular import Singular

KIND = "checkpoint"


@dataclass(frozen=True)
class Measured:
    """One checkpoint.

    Attributes:
        step: when it was written.
        facts: what the whole step has: its source, the step before, seconds, the error of a reference that is kept.
        maps: the tables of the maps, by concept, with the columns that only a track has.
        headers: what else each map has: `n_layers`, `null`, `model` and so on.
        answers: accuracy and loss, by concept and side.
        overlaps: of every two concepts.
        engrams: by concept and key.
    """

    step: int
    facts: dict[str, Any]
    maps: Mapping[str, pd.DataFrame]
    headers: Mapping[str, dict[str, Any]]
    answers: pd.DataFrame
    overlaps: pd.DataFrame
    engrams: Mapping[str, Mapping[str, Singular]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it all into a file."""
        tensors: dict[str, Tensor] = {}
        fields: dict[str, Any] = {"step": self.step, "facts": self.facts, "headers": dict(self.headers), "maps": {}}
        for place, (name, frame) in enumerate(self.maps.items()):
            parts, fields["maps"][name] = frame_parts(frame, f"maps/{place}")
            tensors |= parts
        for name, frame in (("answers", self.answers), ("overlaps", self.overlaps)):
            parts, fields[name] = frame_parts(frame, name)
            tensors |= parts
        for place, engrams in enumerate(self.engrams.values()):
            for key, one in engrams.items():
                tensors |= {f"engrams/{place}/{key}/{part}": tensor.float() for part, tensor in vars(one).items()}
        fields["keys"] = {name: list(engrams) for name, engrams in self.engrams.items()}
        storage.write(path, KIND, tensors, fields)

    @classmethod
    def load(cls, path: Path) -> Measured:
        """What `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered.
        """
        content = storage.read(path, KIND)
        maps = content.field("maps", dict)
        keys = content.field("keys", dict)
        engrams = {
            name: {
                key: Singular(*(content.tensor(f"engrams/{place}/{key}/{part}") for part in ("U", "s", "V")))
                for key in some
            }
            for place, (name, some) in enumerate(keys.items())
        }
        return cls(
            content.field("step", int),
            content.field("facts", dict),
            {name: frame_of(content, f"maps/{place}", one) for place, (name, one) in enumerate(maps.items())},
            content.field("headers", dict),
            frame_of(content, "answers", content.field("answers", dict)),
            frame_of(content, "overlaps", content.field("overlaps", dict)),
            engrams,
        )
