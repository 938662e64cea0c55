"""How does a result look as HTML? The tables that results show in a notebook, and the templates of the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

N_SHOWN = 3
"""Examples that `concept_html` shows of each side."""
WIDTH = 90
"""Letters that it shows of an example."""


def template(room: str, name: str) -> Template:
    """Opens an HTML template that ships with the package. Whatever is rendered into it is escaped.

    Args:
        room: the folder that holds it.
        name: the name of its file, without the suffix `.html.jinja`.
    """
    from importlib.resources import files

    from jinja2 import Environment

    text = files(f"engram_interp.{room}").joinpath(f"{name}.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # JSON keeps the order of what it says
    return environment.from_string(text)


def table_html(what: str, name: str | None, lead: str, table: pd.DataFrame, picture: str = "") -> str:
    """Shows a result as a heading, a sentence, a table of numbers and a picture.

    Args:
        what: the kind of result.
        name: the concept that the result is about, if it has a name.
        lead: the sentence above the table.
        table: the numbers.
        picture: a small picture beside it, as HTML.

    Example:
        >>> import pandas as pd
        >>> table_html("Strength", "a <b>", "alpha = 2", pd.DataFrame({"x": [0.123456]})).count("0.123")
        1
    """
    heading = escape(what if name is None else f"{what}: {name}")
    body = table.to_html(float_format="{:.3g}".format, na_rep="-", border=0)
    return f"<div><b>{heading}</b><br>{escape(lead)}{_beside(body, picture)}</div>"


def _beside(table: str, picture: str) -> str:
    """A table with a picture on its right, or below where there is no room."""
    style = "display: flex; flex-wrap: wrap; gap: 0.5em 2em; align-items: flex-start"
    return f'<div style="{style}"><div>{table}</div><div>{picture}</div></div>' if picture else table


def concept_html(name: str | None, sides: Mapping[str, Sequence[object]], picture: str = "") -> str:
    """Shows how many examples each side of a concept has, and the first few of them.

    Args:
        name: the concept's name.
        sides: its examples, by side.
        picture: a small picture beside them, as HTML.

    Example:
        >>> concept_html("x", {"target": ["a"], "reference": [("b", "c")] * 9}).count("<li>")
        4
    """
    heading = escape(f"Concept: {name}" if name else "Concept")
    listed = "".join(_side(side, examples) for side, examples in sides.items())
    return f"<div><b>{heading}</b>{_beside(listed, picture)}</div>"


def _side(side: str, examples: Sequence[object]) -> str:
    shown = "".join(f"<li>{escape(_short(example))}</li>" for example in examples[:N_SHOWN])
    left = len(examples) - N_SHOWN
    more = f"<li style='list-style:none'>... and {left} more</li>" if left > 0 else ""
    plural = "s" if len(examples) != 1 else ""
    return f"<br>{len(examples)} {escape(side)} example{plural}<ul>{shown}{more}</ul>"


def _short(example: object) -> str:
    """An example in one line."""
    line = " ".join(_text(example).split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _text(example: object) -> str:
    if isinstance(example, (tuple, list)):
        return " → ".join(map(str, example))
    if isinstance(example, str):
        return example
    tokens, counts = getattr(example, "tokens", ()), getattr(example, "counts", None)
    return f"{len(tokens)} tokens" + ("" if counts is None else f"; {int(counts.sum())} count")
