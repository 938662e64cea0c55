"""The API's pages, made from the package's list of public names: a page for each block of it."""

import re
from pathlib import Path

import engram_interp

TITLES = {
    "find": "Find: where does it sit?",
    "weigh": "Weigh: how much is it, and of what?",
    "test": "Test: is it real, and what does it do?",
    "edit": "Edit: how is it changed?",
    "show": "Show and share",
    "data": "Data and models",
}
MODULES = tuple(vars(engram_interp)["_MODULES"])


def blocks() -> dict[str, list[str]]:
    """The public names by block, as the comments in `engram_interp/__init__.py` set them apart."""
    source = Path(str(engram_interp.__file__)).read_text(encoding="utf-8")
    listed = source[source.index("_NAMES = {") : source.index("\n}", source.index("_NAMES = {"))]
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if block := re.match(r"\s+# (\w+)$", line):
            found[block[1]] = []
        elif names := re.match(r'\s+"[\w.]+": "([\w ]+)",', line):
            list(found.values())[-1].extend(names[1].split())
    return found


def pages() -> dict[str, str]:
    """The text of every page of the reference, by its place."""
    made = {f"api/{block}.md": _page(TITLES[block], names) for block, names in blocks().items()}
    made["api/options.md"] = "# Options\n\n::: engram_interp.options\n"
    made["api/modules.md"] = "# Modules\n\n" + "\n".join(f"::: engram_interp.{name}\n" for name in MODULES)
    rows = [
        f"| {TITLES[block]} | {', '.join(f'[`{name}`]({block}.md#engram_interp.{name})' for name in names)} |"
        for block, names in blocks().items()
    ]
    listed = ", ".join(f"[`{name}`](modules.md)" for name in MODULES)
    made["api/index.md"] = (
        "# API\n\n`import engram_interp as ei`. Everything below is a name of it.\n\n| for | names |\n|---|---|\n"
        + "\n".join([*rows, f"| Modules | {listed} |"])
        + "\n\nOptions that many functions share are declared once: see [Options](options.md).\n"
    )
    return made


def _page(title: str, names: list[str]) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: engram_interp.{name}\n" for name in names)
