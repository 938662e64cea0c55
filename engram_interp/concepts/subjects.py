"""Whom is a prompt about? The name that it shares with the most other prompts.

`Where was Petra Dorlund born?` and `What does Petra Dorlund write?` share `Petra Dorlund`, and it is no matter that
others share `Petra`: a part of a name that mostly stands in longer shared names is no name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

OPENERS = frozenset(
    "a an and are as at by can could did do does for from give had has have how if in is it list name of on should "
    "tell that the their there these this to was were what when where which who whom whose why will with would".split()
)
"""Words that begin questions and other sentences. They are no part of a name."""
PAUSES = ".!?,;:"
QUOTES = "\"'\u201c\u201d\u2018\u2019()[]{}\u00ab\u00bb"


def subjects(prompts: Sequence[str]) -> list[str | None]:
    """For each prompt, the name that it shares with the most other prompts. None if it shares no name.

    A name is a run of words that begin with a capital or a figure, so scripts without capitals have none.

    Example:
        >>> subjects(["Where was Ada Pike born?", "Who taught Ada Pike?", "Is it cold in Oslo?", "Where is Peru?"])
        ['Ada Pike', 'Ada Pike', None, None]
    """
    runs = [_runs(prompt) for prompt in prompts]
    names = [{name for run in some for name in _parts(run)} for some in runs]
    counts = Counter(name for some in names for name in some)
    shared = [{name for name in some if counts[name] > 1} for some in names]
    # How often each name stands inside a longer one that is shared.
    inside = Counter(
        part for some in shared for part in {part for name in some for part in _parts(name.split()) if part != name}
    )
    return [_best({name for name in some if 2 * inside[name] < counts[name]}, counts) for some in shared]


def _best(names: set[str], counts: Counter[str]) -> str | None:
    return max(names, key=lambda name: (counts[name], len(name), name), default=None)


def _parts(run: Sequence[str]) -> Iterator[str]:
    """Every run of neighbouring words of a run."""
    for start in range(len(run)):
        for stop in range(start + 1, len(run) + 1):
            yield " ".join(run[start:stop])


def _runs(prompt: str) -> list[list[str]]:
    """The longest runs of neighbouring words that may be names. Commas, colons and ends of sentences part them."""
    found: list[list[str]] = [[]]
    for word in prompt.split():
        bare = word.strip(QUOTES)
        name = re.sub("['\u2019]s$", "", bare.rstrip(PAUSES).strip(QUOTES))
        if name and (name[0].isupper() or name[0].isdigit()) and name.lower() not in OPENERS:
            found[-1].append(name)
            if name == bare:
                continue
        found.append([])
    return [run for run in found if run]
