"""What is there to load? Everything that was shared, as a table, from the hub or from an index."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from engram_interp.sharing.card import TAG
from engram_interp.sharing.entry import NAME, Entry

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("engram_interp")
COLUMNS = ("place", "kind", "concept", "model", "checks", "facts", "version")
SECONDS = 30.0


def catalog(index: str | os.PathLike[str] | None = None, *, limit: int = 200) -> pd.DataFrame:
    """What is published: a row for each engram, graft, map and set of statistics.

    Args:
        index: a folder, in which every shared folder is found; a JSON file, or its address (`https://`), with a list of
            entries: those of `engram_interp.json`, each with its `place`. A place in a file may be relative to it. None
            asks the hub for all repositories with the tag `engram-interp`.
        limit: how many repositories the hub is asked for.

    Returns:
        `place`, which `from_pretrained` takes, `kind`, `concept`, `model`, `checks`, `facts` and `version`. What cannot
        be read is left out, with a warning in the log.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the index is no list of entries.

    Example:
        >>> import tempfile
        >>> from engram_interp import extract, testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = extract(model, concept, components="gate", layers=0).push_to_hub(f"{folder}/petra")
        ...     catalog(folder)[["kind", "concept", "model"]].values.tolist()
        [['engram', 'Petra Dorlund', 'testbed:full']]
    """
    import pandas as pd

    rows = [
        {"place": place, **{name: getattr(entry, name) for name in COLUMNS[1:]}}
        for place, entry in _found(index, limit)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _found(index: str | os.PathLike[str] | None, limit: int) -> Iterator[tuple[str, Entry]]:
    if index is None:
        return _on_the_hub(limit)
    if isinstance(index, str) and index.startswith("https://"):
        with urlopen(index, timeout=SECONDS) as answer:
            return _listed(answer.read().decode("utf-8"), index, None)
    path = Path(index).expanduser()
    if path.is_dir():
        return _in_folder(path)
    return _listed(path.read_text(encoding="utf-8"), str(path), path.parent)


def _in_folder(folder: Path) -> Iterator[tuple[str, Entry]]:
    for path in sorted(folder.rglob(NAME)):
        if (entry := _readable(path, str(path.parent))) is not None:
            yield str(path.parent), entry


def _on_the_hub(limit: int) -> Iterator[tuple[str, Entry]]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    for one in HfApi().list_models(filter=TAG, limit=limit):
        try:
            path = Path(hf_hub_download(one.id, NAME))
        except (HfHubHTTPError, OSError) as error:
            logger.warning("%s is left out of the catalog: %s", one.id, error)
            continue
        if (entry := _readable(path, one.id)) is not None:
            yield one.id, entry


def _listed(text: str, name: str, folder: Path | None) -> Iterator[tuple[str, Entry]]:
    """The entries of an index file."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the index {name} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("place"), str) for one in found
    ):
        raise ValueError(f"the index {name} must be a list of entries, each with its place")
    return _of_index(found, folder)


def _of_index(found: Sequence[Mapping[str, Any]], folder: Path | None) -> Iterator[tuple[str, Entry]]:
    for one in found:
        place = _place(one, folder)
        try:
            yield place, Entry.of(one)
        except ValueError as error:
            logger.warning("%s is left out of the catalog: %s", place, error)


def _place(one: Mapping[str, Any], folder: Path | None) -> str:
    place: str = one["place"]
    is_relative = folder is not None and place.startswith(".")
    return str((folder / place).resolve()) if is_relative and folder is not None else place


def _readable(path: Path, place: str) -> Entry | None:
    try:
        return Entry.read(path)
    except (ValueError, OSError) as error:
        logger.warning("%s is left out of the catalog: %s", place, error)
        return None
