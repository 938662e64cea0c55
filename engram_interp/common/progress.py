"""Is anything happening? Progress bars for a terminal and for a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sized
from html import escape
from typing import Any

from tqdm.std import tqdm


def bar(
    items: Iterable[Any] | None, progress: bool | None, describe: str, unit: str = "it", total: int | None = None
) -> tqdm:
    """A progress bar over the items. It disappears when it ends.

    Args:
        items: what to iterate over; None for a bar whose `update` is called by hand.
        progress: True shows the bar, False hides it. None shows it in a terminal and in a notebook.
        describe: what the bar says.
        unit: what it counts.
        total: how many items there are. Items with a length need none.

    Example:
        >>> list(bar([1, 2], False, "counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    kind = NotebookBar if in_notebook() else tqdm
    return kind(items, desc=describe, unit=unit, total=total, leave=False, disable=not is_shown(progress))


def is_shown(progress: bool | None) -> bool:
    """Whether a bar is shown; `bar` explains `progress`."""
    return sys.stderr.isatty() or in_notebook() if progress is None else bool(progress)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class NotebookBar(tqdm):
    """A bar in an output of its own. The output is empty when the bar ends, so a page from nbconvert does not show it.

    tqdm's notebook bar needs ipywidgets. Without ipywidgets, tqdm fills a saved notebook with one line for each step.
    """

    def __init__(self, items: Iterable[Any] | None = None, **options: Any) -> None:
        self._output: Any = None
        super().__init__(items, **{**options, "file": io.StringIO(), "ncols": 80})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the bar, or a message in its place."""
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        del pos
        shown = str(self) if msg is None else msg.strip()
        text = HTML(f"<pre>{escape(shown)}</pre>" if shown else "")
        if self._output is None:
            self._output = display(text, display_id=True)
        else:
            self._output.update(text)
