"""`push_to_hub` and `from_pretrained`: a result, its card and its entry in a folder, or in a repository on the hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar

from engram_interp.sharing.card import Content, card
from engram_interp.sharing.entry import NAME, Entry

if TYPE_CHECKING:
    from typing_extensions import Self
else:
    Self = Any

README = "README.md"
OWN = ["*.safetensors", "store/*"]
"""What sharing in the same place again replaces."""


class Shared(ABC):
    """What can be shared."""

    _KINDS: ClassVar[tuple[str, ...]]
    """What `from_pretrained` reads of."""

    @abstractmethod
    def _card(self) -> Content:
        """What its card says."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> Any:
        """What `save` wrote."""

    def _write(self, folder: Path) -> str:
        """Write it into a folder, and return the name of its file there."""
        name = f"{self._KINDS[0]}.safetensors"
        self.save(folder / name)
        return name

    @classmethod
    def _read(cls, path: Path) -> Self:
        """What `_write` wrote."""
        return cls.load(path)

    def push_to_hub(
        self,
        place: str | os.PathLike[str],
        *,
        checks: Sequence[object] = (),
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Share it, with a card: on the Hugging Face hub, or in a folder.

        Args:
            place: a repository such as `"name/memory"`, which is made if there is none; or a folder: a path that is a
                `Path`, is absolute, begins with `.` or `~`, or begins with a folder that is there.
            checks: how it was checked: results such as those of `choose_alpha`, `criteria` and `localize`, or your own
                words. Each is a line of the card.
            private: whether a new repository is private.
            token: of the hub. None takes the one that you logged in with.
            revision: the branch.

        Returns:
            Where it is, as `from_pretrained` takes it.

        Raises:
            TypeError: if `checks` is one text.
            FileExistsError: if the folder holds something that is not shared by this package.
        """
        if isinstance(checks, str):
            raise TypeError(f"checks must be a list, a line each; got the text {checks!r}")
        target = _folder(place)
        name = str(place) if target is None else str(target)
        content = self._card()
        with tempfile.TemporaryDirectory() as aside:
            made = Path(aside)
            self._fill(made, content, name, [" ".join(str(one).split()) for one in checks])
            if target is not None:
                _copy(made, target)
                return name
            from huggingface_hub import HfApi

            api = HfApi(token=token)
            api.create_repo(name, private=private, exist_ok=True)
            message = f"{content.kind} by engram-interp {version('engram-interp')}"
            api.upload_folder(
                repo_id=name, folder_path=made, commit_message=message, revision=revision, delete_patterns=OWN
            )
        return name

    @classmethod
    def from_pretrained(
        cls, place: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """What `push_to_hub` has shared.

        Args:
            place: a repository on the hub, or a folder.
            revision: a branch, a tag or a commit. A commit's hash always gives the same.
            token: of the hub, for private repositories.

        Raises:
            FileNotFoundError: if nothing is shared there. What the hub raises is passed on: that there is no such
                repository, or that it cannot be reached.
            ValueError: if it is of another kind, cut short or altered.
        """
        folder = _folder(place)
        entry = _entry(str(place), revision, token) if folder is None else _entry_in(folder)
        if entry.kind not in cls._KINDS:
            raise ValueError(f"{place} holds a {entry.kind}, not {' or '.join(cls._KINDS)}")
        if folder is None:
            from huggingface_hub import snapshot_download

            wanted = [entry.file, f"{entry.file}/*"]
            folder = Path(snapshot_download(str(place), revision=revision, token=token, allow_patterns=wanted))
        return cls._read(folder / entry.file)

    def _fill(self, folder: Path, content: Content, place: str, checks: list[str]) -> None:
        """Write the result, its card and its entry."""
        file, number = self._write(folder), version("engram-interp")
        (folder / README).write_text(card(content, place, checks, number), encoding="utf-8")
        kind = content.kind
        Entry(kind, file, content.concept, content.model, _simple(content.facts), tuple(checks), number).write(folder)


def _simple(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON holds of facts."""
    plain = (str, int, float, bool, NoneType)
    return {name: one if isinstance(one, plain) else str(one) for name, one in facts.items()}


def _folder(place: str | os.PathLike[str]) -> Path | None:
    """The folder that a place is; None if it is a repository."""
    if not str(place):
        raise ValueError("place must be a repository or a folder; it is empty")
    path = Path(place).expanduser()
    begins_in_a_folder = path.is_dir() or (str(path.parent) != "." and path.parent.is_dir())
    is_path = not isinstance(place, str) or place.startswith((".", "~")) or path.is_absolute() or begins_in_a_folder
    return path if is_path else None


def _copy(made: Path, folder: Path) -> None:
    """Copy what was made into a folder, in which nothing else is touched."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NAME).is_file():
        raise FileExistsError(f"{folder} holds something that engram-interp did not share: give a new folder")
    for pattern in OWN:  # what was shared here before
        for old in folder.glob(pattern):
            old.unlink()
    shutil.copytree(made, folder, dirs_exist_ok=True)


def _entry_in(folder: Path) -> Entry:
    if not (folder / NAME).is_file():
        raise FileNotFoundError(f"nothing is shared in {folder}: there is no {NAME}")
    return Entry.read(folder / NAME)


def _entry(repository: str, revision: str | None, token: str | None) -> Entry:
    """The entry of a repository on the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Entry.read(Path(hf_hub_download(repository, NAME, revision=revision, token=token)))
    except LocalEntryNotFoundError:
        raise  # the hub cannot be reached: its own message says so
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"nothing is shared in {repository}: there is no {NAME}") from error
