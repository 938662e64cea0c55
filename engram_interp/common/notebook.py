"""What results show of themselves in a notebook: a heading, a sentence, and a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

N_SHOWN = 3
WIDTH = 90


def table_html(what: str, name: str | None, lead: str, table: pd.DataFrame) -> str:
    """A result: what it is and of which concept, a sentence, and a table of numbers.

    Example:
        >>> table_html("Strength", "a <b>", "alpha = 2", pd.DataFrame({"x": [0.123456]})).count("0.123")
        1
    """
    heading = escape(what if name is None else f"{what}: {name}")
    body = table.to_html(float_format="{:.3g}".format, na_rep="-", border=0)
    return f"<div><b>{heading}</b><br>{escape(lead)}{body}</div>"


def concept_html(name: str | None, sides: Mapping[str, Sequence[object]]) -> str:
    """How many examples either side of a concept has, and the first of them.

    Example:
        >>> concept_html("x", {"target": ["a"], "reference": [("b", "c")] * 9}).count("<li>")
        4
    """
    parts = [f"<div><b>{escape(f'Concept: {name}' if name else 'Concept')}</b>"]
    for side, examples in sides.items():
        shown = "".join(f"<li>{escape(_short(example))}</li>" for example in examples[:N_SHOWN])
        more = f"<li>... and {len(examples) - N_SHOWN} more</li>" if len(examples) > N_SHOWN else ""
        items = f"{shown}{more}".replace("<li>...", "<li style='list-style:none'>...")
        parts.append(f"<br>{len(examples)} {escape(side)} example{'s' if len(examples) != 1 else ''}<ul>{items}</ul>")
    return "".join([*parts, "</div>"])


def _short(example: object) -> str:
    """An example on one line."""
    if isinstance(example, (tuple, list)):
        text = " → ".join(map(str, example))
    elif isinstance(example, str):
        text = example
    else:
        tokens, counts = getattr(example, "tokens", ()), getattr(example, "counts", None)
        text = f"{len(tokens)} tokens" + ("" if counts is None else f", {int(counts.sum())} of which count")
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
