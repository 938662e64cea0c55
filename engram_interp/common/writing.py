"""What if writing fails halfway? A path then still holds what it held: files are written aside and then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path to write a file or a new folder at. It replaces `path` when the block ends without an error.

    Args:
        path: where the result goes: a file, which may exist, or a folder, which must be empty if it exists.

    Raises:
        OSError: if the folder around `path` does not exist or cannot be written to, or the disk is full. The message
            names `path`, which is then unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as aside:
        ...         _ = aside.write_text("whole")
        ...     print([(found.name, found.read_text()) for found in Path(folder).iterdir()])
        [('a.txt', 'whole')]
    """
    place = Path(path).expanduser().resolve()
    with beside(path) as aside:
        yield aside
        if place.is_dir() and aside.is_dir():
            place.rmdir()
        if aside.is_file():
            aside.chmod(_mode(place, aside.parent))
            _flush(aside)
        os.replace(aside, place)
        _flush(place.parent)


@contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path of the same name in a hidden folder beside `path`. The folder is removed when the block ends.

    If a process is killed, its folder stays. The next write to the same path removes it.

    Raises:
        OSError: as in `replacing`. Errors of the file system inside the block are raised again with the name of `path`.
    """
    place = Path(path).expanduser().resolve()
    with _naming(path):
        if not place.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {place.parent}")
        _remove_strays(place)
        prefix = f"{_start(place)}{os.getpid()}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=place.parent))
        try:
            yield folder / place.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk: after a power cut it is there."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode(place: Path, folder: Path) -> int:
    """The permissions of a file that is replaced, or those of the user's new files. Some writers are stricter."""
    if place.is_file():
        return place.stat().st_mode & 0o777
    (folder / "mode").touch()
    return (folder / "mode").stat().st_mode & 0o777


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes errors of the file system name the path that was asked for."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"cannot write {os.fspath(path)}: {error}") from error
    except OSError as error:
        what = f"cannot write {os.fspath(path)}: {error.strerror or error}"
        raise (type(error)(what) if error.errno is None else type(error)(error.errno, what)) from error


def _start(place: Path) -> str:
    """How the names of the hidden folders for a path begin. It is cut, since file systems allow 255 bytes."""
    return f".{place.name[:48]}."


def _remove_strays(place: Path) -> None:
    """Removes the folders of processes that have ended."""
    for found in place.parent.iterdir():
        if found.name.startswith(_start(place)) and found.name.endswith(PARTIAL):
            pid = found.name.removeprefix(_start(place)).partition(".")[0]
            if pid.isdigit() and not _runs(int(pid)):
                shutil.rmtree(found, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
