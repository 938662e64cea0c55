"""What does somebody need to know who finds a shared result? A model card in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment

TAG = "engram-interp"
"""The hub's tag of everything that is shared here."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Content:
    """What a card says.

    Attributes:
        kind: see `Entry`.
        concept: the concept's name.
        model: the model's name.
        facts: by name: counts, options, fingerprints.
        does: what it does, in a sentence.
        rows: a small table, a mapping for each row.
        code: how it is loaded and used. `{place}` is where it lies.
    """

    kind: str
    concept: str | None
    model: str
    facts: Mapping[str, Any]
    does: str
    rows: Sequence[Mapping[Any, Any]] = field(default_factory=tuple)
    code: str = ""


def card(content: Content, place: str, checks: Sequence[str], version: str) -> str:
    """The card of a shared result.

    Args:
        content: what it is.
        place: where it is shared, as `from_pretrained` takes it.
        checks: how it was checked, a line each.
        version: of the package.
    """
    from importlib.resources import files

    source = files("engram_interp.sharing").joinpath("card.md.jinja").read_text(encoding="utf-8")
    concept = content.concept or "a concept"
    # Markdown has no escape of its own for everything, so `_plain` is applied to all that comes from users.
    return (
        Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        .from_string(source)
        .render(
            header=_header(content),
            title=_plain(f"{content.kind.capitalize()} of {concept} in {content.model}"),
            what=_plain(_WHAT[content.kind]),
            facts={name: _plain(str(value)) for name, value in content.facts.items()},
            does=content.does,
            table=_table(content.rows),
            checks=[_plain(one) for one in checks],
            code=content.code.format(place=place),
            version=version,
        )
    )


_WHAT = {
    "engram": "The part of each weight matrix that the concept's inputs own.",
    "graft": "What training changed and what carries a memory, to add to the model from before.",
    "statistics": "The second moments of every input over target and reference. Engrams and maps follow without data.",
    "store": "The second moments of every input, one file each. Engrams and maps follow without data.",
    "map": "How large the concept's engram is in every matrix and head, compared with a null.",
}


def _header(content: Content) -> str:
    """The metadata that the hub reads."""
    named = content.model if HUB_NAME.fullmatch(content.model) else None
    data = ModelCardData(library_name=TAG, tags=[TAG, content.kind, "interpretability"], base_model=named)
    return f"---\n{data.to_yaml()}\n---\n"


def _table(rows: Sequence[Mapping[Any, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"`{_code(str(value))}`"


def _code(text: str) -> str:
    """Text within a code span, in which nothing ends the span or the cell."""
    return " ".join(text.replace("`", "'").replace("|", "¦").split())


def _plain(text: str) -> str:
    r"""Text in one line, in which no character is Markdown or HTML.

    Example:
        >>> _plain("a | <b> [x](y)")
        'a \\| &lt;b&gt; \\[x\\](y)'
    """
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)
