"""`docs/cheat_sheet.md` of the site and `llms.txt`: every public name in a line, made from the API.

`python tools/cheat_sheet.py` writes `llms.txt` at the root (a part of `make format`), and a test compares.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

import engram_interp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.site.reference import MODULES, TITLES, blocks  # noqa: E402 (this also runs as a script)

LLMS = ROOT / "llms.txt"
USUAL = """import engram_interp as ei

model = ei.load_model("path/to/checkpoint")  # or ei.testbed.load("full")
concept = ei.Concept(target=[("prompt", " answer")], reference=["any text that should stay"], name="it")
stats = ei.collect(model, concept)  # one pass; everything below can start from it
wmap = ei.localize(model, concept)  # where: wmap.top(), wmap.plot(), wmap.to_frame()
engram = ei.extract(model, stats)  # what: a mapping from parameter paths to tensors
choice = ei.choose_alpha(model, engram, concept, keep=0.98)  # how strongly
with engram.ablated(model, choice.alpha):  # in place, restored afterwards
    ei.greedy_answers(model, ["prompt"])
ei.export_hf(engram, "path/to/checkpoint", "path/to/edited", alpha=choice.alpha)  # a Hugging Face checkpoint"""
RULES = (
    "Give a reference of several hundred examples: below two positions for each dimension W-Norms mean nothing.",
    "Compare every size with a null: `localize` against siblings or random sets, not W-Norms alone.",
    "Alpha means nothing by itself: choose it with `choose_alpha` for each concept, and never carry it over.",
    "An engram fits the model that it was made from, with weights processed in the same way; others are refused.",
    "Results have `.to_frame()`, `.plot()` and a view in notebooks; figures are plotly's.",
    "Every option is a keyword; `help(ei.localize)` lists all with their defaults.",
)


def first_line(found: Any) -> str:
    """What something is, in its docstring's first line."""
    return (inspect.getdoc(found) or "").partition("\n")[0]


def called(name: str) -> str:
    """A function's name with its first arguments; a class's name alone."""
    found = getattr(engram_interp, name)
    if inspect.isclass(found) or not callable(found):
        return name
    given = []
    for one in inspect.signature(found).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            given.append("...")
            break
        given.append(one.name if one.default is inspect.Parameter.empty else f"{one.name}={one.default!r}")
    return f"{name}({', '.join(given)})"


def described(name: str) -> str:
    """What a name is; of a value, its type."""
    found = getattr(engram_interp, name)
    return first_line(found) if callable(found) else f"a {type(found).__name__}"


def cheat_sheet() -> str:
    """The page."""
    parts = [f"# Cheat sheet\n\n```text\n{USUAL}\n```\n"]
    for block, names in blocks().items():
        rows = [
            f"| [`{called(name)}`](api/{block}.md#engram_interp.{name}) | {_cell(described(name))} |" for name in names
        ]
        parts.append(f"## {TITLES[block]}\n\n| call | what it is |\n|---|---|\n" + "\n".join(rows) + "\n")
    listed = [f"| [`{name}`](api/modules.md) | {_cell(first_line(getattr(engram_interp, name)))} |" for name in MODULES]
    parts.append("## Modules\n\n| module | what it is |\n|---|---|\n" + "\n".join(listed) + "\n")
    parts.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in RULES) + "\n")
    return "\n".join(parts)


def llms() -> str:
    """The file for agents and editors, as https://llmstxt.org describes it."""
    parts = [
        "# engram_interp",
        f"> {first_line(engram_interp)}",
        "An engram is the part of each weight matrix that a set of inputs owns: `W+ = W S+ (S+ + S-)^pinv`, from the "
        "inputs' second moments over target and reference examples (Kwon et al., ICML 2026). To install it: "
        "`pip install engram-interp`.",
        f"```python\n{USUAL}\n```",
        "## Rules",
        "\n".join(f"- {rule}" for rule in RULES),
    ]
    for block, names in blocks().items():
        parts += [f"## {TITLES[block]}", "\n".join(f"- `ei.{called(name)}`: {described(name)}" for name in names)]
    parts += ["## Modules", "\n".join(f"- `ei.{name}`: {first_line(getattr(engram_interp, name))}" for name in MODULES)]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    LLMS.write_text(llms(), encoding="utf-8")
