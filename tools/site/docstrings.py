"""How do this package's docstrings become Markdown? A griffe extension: examples as code, and tables as Markdown's."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
BORDER = re.compile(r"^=+( +=+)+$")


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = tables(EXAMPLE.sub(r"\1Examples:", obj.docstring.value))


def tables(text: str) -> str:
    """A text with its simple tables as Markdown's: a row whose first cell is empty goes on with the row above."""
    lines, made, at = text.splitlines(), [], 0
    while at < len(lines):
        borders = [i for i in range(at, len(lines)) if BORDER.match(lines[i].strip())]
        if not BORDER.match(lines[at].strip()) or len(borders) < 2:
            made.append(lines[at])
            at += 1
            continue
        same = [i for i in borders if lines[i] == lines[at]]
        end = same[2] if len(same) > 2 and _is_headed(lines, same) else same[1]
        made += _table(lines[at : end + 1])
        at = end + 1
    return "\n".join(made)


def _is_headed(lines: list[str], same: list[int]) -> bool:
    """Whether the second border stands below a head: the third then ends the same table."""
    return all(lines[i].strip() for i in range(same[0], same[2]))


def _table(lines: list[str]) -> list[str]:
    border = lines[0]
    starts = [found.start() for found in re.finditer(r"(?<!=)=", border)]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    head = 1 if sum(1 for line in lines if line == border) > 2 else 0
    for line in lines:
        if line == border:
            continue
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    if not head:
        rows.insert(0, [""] * len(starts))
    shown = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [shown[0], "|" + "---|" * len(starts), *shown[1:]]


def _cell(text: str) -> str:
    """A cell; a bar inside would begin the next one."""
    return text.replace("|", "\\|")
