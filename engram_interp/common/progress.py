"""Is anything happening? Bars for whatever takes long, in a terminal and in a notebook."""

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
    """A bar over the items, or one to call `update` on where there are none; it is gone when it ends.

    Args:
        items: what is gone through.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.
        describe: what the bar says.
        unit: what it counts.
        total: how many there are; of sized items, their number.

    Example:
        >>> list(bar([1, 2], False, "counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    kind = NotebookBar if in_notebook() else tqdm
    return kind(items, desc=describe, unit=unit, total=total, leave=False, disable=not is_shown(progress))


def is_shown(progress: bool | None) -> bool:
    """Whether a bar is shown; see `bar`."""
    return sys.stderr.isatty() or in_notebook() if progress is None else bool(progress)


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class NotebookBar(tqdm):
    """A bar in an output of its own, which is empty when it ends: nothing of it is in the page that nbconvert makes.

    tqdm's own needs ipywidgets; without it, it fills a saved notebook with a line a step.
    """

    def __init__(self, items: Iterable[Any] | None = None, **options: Any) -> None:
        self._output: Any = None
        super().__init__(items, **{**options, "file": io.StringIO(), "ncols": 80})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or the message in its place."""
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        del pos
        shown = str(self) if msg is None else msg.strip()
        text = HTML(f"<pre>{escape(shown)}</pre>" if shown else "")
        if self._output is None:
            self._output = display(text, display_id=True)
        else:
            self._output.update(text)
