"""`Exploration`: what there is to click through. The maps of memories, their matrices, answers at every strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from engram_interp.common import storage
from engram_interp.common.writing import replacing
from engram_interp.maps.localization_map import LocalizationMap
from engram_interp.maps.map_file import map_fields, map_parts
from engram_interp.report.explorer.answers import Strengths
from engram_interp.report.explorer.matrix import Matrix

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "exploration"
Look: TypeAlias = Callable[[str, str], Matrix]
"""Looks into a matrix of a memory, by the names of both."""


@dataclass(frozen=True, eq=False)
class Memory:
    """One memory.

    Attributes:
        wmap: where it sits.
        strengths: what the model answers as it is ablated. None for a plain module, or without questions.
        matrices: the matrices that were looked into, by key.
    """

    wmap: LocalizationMap
    strengths: Strengths | None = None
    matrices: Mapping[str, Matrix] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exploration:
    """Memories of one model, to click through in a browser.

    Attributes:
        memories: by name.
        versions: of what it was made with.
        look: looks into more matrices, as long as the model is at hand. None where this was read from a file.

    Example:
        >>> import engram_interp as ei
        >>> model, examples = ei.testbed.load("full"), ei.testbed.authors().examples
        >>> concept = ei.Concept(examples[:20], examples[20:60], name="Petra Dorlund")
        >>> found = ei.explore(model, concept, n_matrices=1, alphas=[0, 8], components="gate", layers=0)
        >>> found
        Exploration('Petra Dorlund', 1 matrix of 'testbed:full', looked into 1)
        >>> page = found.to_html(explorer=True)
    """

    memories: Mapping[str, Memory]
    versions: Mapping[str, str] = field(default_factory=dict)
    look: Look | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        first = next(iter(self.memories.values()))
        names, n = ", ".join(map(repr, self.memories)), len(first.wmap)
        looked = sum(len(one.matrices) for one in self.memories.values())
        return f"Exploration({names}, {n} matri{'x' if n == 1 else 'ces'} of {self.model!r}, looked into {looked})"

    def _repr_html_(self) -> str:
        return "".join(one.wmap._repr_html_() for one in self.memories.values())

    @property
    def model(self) -> str:
        """The model's name."""
        return next(iter(self.memories.values())).wmap.model

    def to_frame(self) -> pd.DataFrame:
        """The rows of all maps, with the memory's name in the column `concept`."""
        import pandas as pd

        frames = [one.wmap.to_frame().assign(concept=name) for name, one in self.memories.items()]
        return pd.concat(frames, ignore_index=True)

    def plot(self, quantity: str | None = None, name: str | None = None) -> go.Figure:
        """The map of a memory; see `LocalizationMap.plot`.

        Args:
            quantity: what is drawn.
            name: the memory; the first one by default.

        Raises:
            KeyError: if there is no such memory.
        """
        return self.memory(name).wmap.plot(quantity)

    def memory(self, name: str | None = None) -> Memory:
        """A memory by its name; the first one by default.

        Raises:
            KeyError: if there is no such memory.
        """
        name = next(iter(self.memories)) if name is None else name
        if name not in self.memories:
            raise KeyError(f"there is no memory {name!r} here; there are {', '.join(self.memories)}")
        return self.memories[name]

    def to_html(self, path: str | Path | None = None, *, explorer: bool = True) -> str:
        """One page that needs no other file and no network.

        Args:
            path: where it is written too, if given.
            explorer: False leaves the explorer out, and gives figures and a table of the first memory, to print.

        Returns:
            The page.

        Raises:
            OSError: if it cannot be written. A file that was there before is then unchanged.
        """
        from engram_interp.report.explorer.page import page
        from engram_interp.report.pages import map_page

        first = self.memory().wmap
        made = page(self) if explorer else map_page(first, first.over_null, self.provenance)
        if path is not None:
            with replacing(path) as aside:
                aside.write_text(made, encoding="utf-8")
        return made

    @property
    def provenance(self) -> str:
        """What this was made with, in a sentence."""
        counts = self.memory().wmap.counts
        over = " and ".join(f"{count} {side} tokens" for side, count in counts.items())
        return f"Over {over}. {', '.join(f'{name} {version}' for name, version in self.versions.items())}."

    def serve(self, port: int = 0, *, browse: bool = True) -> None:
        """Shows the page in a browser, until Ctrl-C. Matrices are looked into as they are clicked.

        The server listens on 127.0.0.1 only, asks for the token that is in the printed address, and writes nothing.

        Args:
            port: 0 takes any that is free.
            browse: opens the address in a browser.

        Raises:
            ImportError: if starlette and uvicorn are missing: `pip install 'engram-interp[explore]'`.
            OSError: if the port is taken.
        """
        from engram_interp.report.explorer.server import serve

        serve(self, port, browse)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Exploration.load` reads back, and `engram-interp explore` shows."""
        tensors, fields = {}, []
        for place, (name, one) in enumerate(self.memories.items()):
            parts, wmap = map_parts(one.wmap.table, one.wmap.others, f"maps/{place}")
            tensors |= parts
            strengths = None if one.strengths is None else one.strengths.to_dict()
            matrices = {key: matrix.to_dict() for key, matrix in one.matrices.items()}
            fields.append({"name": name, "map": wmap, "strengths": strengths, "matrices": matrices})
        storage.write(path, KIND, tensors, {"memories": fields, "versions": dict(self.versions)})

    @classmethod
    def load(cls, path: str | Path) -> Exploration:
        """What `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered.
        """
        content = storage.read(path, KIND)
        memories = content.field("memories", list)
        names = [one.get("name") for one in memories if isinstance(one, dict)]
        if not memories or len(set(map(str, names))) < len(memories) or not all(isinstance(one, str) for one in names):
            raise content.error(f"its memories must be one or several, with names of their own; they are {names}")
        try:
            found = {
                str(one["name"]): Memory(
                    LocalizationMap(**map_fields(content, f"maps/{place}", one["map"])),
                    None if one["strengths"] is None else Strengths.from_dict(one["strengths"]),
                    {key: Matrix.from_dict(matrix) for key, matrix in one["matrices"].items()},
                )
                for place, one in enumerate(memories)
            }
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise content.error(f"its memories are broken ({error})") from None
        return cls(found, content.field("versions", dict))
