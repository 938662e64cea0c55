"""What was shared? A small JSON file beside it says it, and a catalog is a list of these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from engram_interp.common.storage import FORMAT

NAME = "engram_interp.json"
KINDS_OF = {
    "kind": str,
    "file": str,
    "concept": str | None,
    "model": str,
    "facts": dict,
    "checks": list | tuple,
    "version": str,
}


@dataclass(frozen=True)
class Entry:
    """What lies in a place.

    Attributes:
        kind: `engram`, `graft`, `statistics`, `store` or `map`.
        file: the name of the file or folder that holds it.
        concept: the concept's name.
        model: the model's name.
        facts: what else is known: the model's fingerprint, and the options that it was made with.
        checks: how it was checked, a line each.
        version: of the package that wrote it.
    """

    kind: str
    file: str
    concept: str | None
    model: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    version: str = ""

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        (folder / NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Entry:
        """What `write` wrote.

        Raises:
            ValueError: if the file is something else.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} does not say what was shared: {error}") from None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Entry:
        """An entry from its fields.

        Raises:
            ValueError: if these are other fields.
        """
        known = {one.name for one in fields(cls)}
        if found.get("format") != FORMAT or {"kind", "file", "concept", "model"} - set(found):
            raise ValueError(f"it must have the format {FORMAT!r}, and {', '.join(sorted(known))}; got {dict(found)}")
        own: dict[str, Any] = {"checks": [], "facts": {}} | {name: one for name, one in found.items() if name in known}
        for name, kind in KINDS_OF.items():
            if not isinstance(own.get(name, ""), kind):
                raise ValueError(f"{name} must be a {kind}; got {own[name]!r}")
        if not (file := own["file"]) or Path(file).name != file or file.startswith("."):
            raise ValueError(f"file must be a name in the same place; got {file!r}")
        own["checks"] = tuple(map(str, own["checks"]))
        return cls(**own)
