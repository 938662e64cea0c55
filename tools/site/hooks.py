"""mkdocs hooks: pages made from the code, pictures, formulas as MathML, and links that lead out of docs/.

Nothing on the site is loaded from elsewhere: plotly's script is a file of the site, formulas are MathML, and a page
that asks another machine for anything ends the build.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from plotly.offline import get_plotlyjs

from engram_interp.figures.figure import title_script
from tools.cheat_sheet import cheat_sheet, llms
from tools.site import pictures
from tools.site.reference import pages

ROOT = Path(__file__).parents[2]
COPIES = {
    "CONTRIBUTING.md": "developers/contributing.md",
    "CHANGELOG.md": "changelog.md",
    "analyses/README.md": "developers/analyses.md",
    "analyses/studies/fisher_reading.md": "results/fisher_reading.md",
}
"""Pages that lie elsewhere in the repository, and where the site has them."""
KNOWN = {"README.md": "index.md", "docs/index.md": "index.md", **COPIES}
PICTURE = re.compile(r"<!-- picture: (\w+) -->")
TABLE = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
BLOCK_FORMULA, FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL), re.compile(r"(?<![\\$`])\$([^$\n`]+)\$")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
SEARCH = 'data-md-component="search" role="dialog"'
OUTSIDE = re.compile(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](?:https?:)?//(?!127\.0\.0\.1)[^"']*""")


def on_files(files: Files, config: Any) -> Files:
    """Add what is made from the code, and what lies elsewhere in the repository."""
    made = {place: (ROOT / source).read_text(encoding="utf-8") for source, place in COPIES.items()}
    made |= pages()
    made |= {"cheat_sheet.md": cheat_sheet(), "llms.txt": llms()}
    made |= {"assets/plotly.min.js": get_plotlyjs(), "assets/title.js": title_script()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Formulas, pictures and links of one page."""
    place = page.file.src_uri
    if place.startswith("api/") or page.file.src_uri.endswith(".ipynb"):
        return markdown
    source = next((path for path, copy in COPIES.items() if copy == place), f"docs/{place}")
    markdown = "".join(
        part if part.startswith("`") else _formulas(_links(part, source, place)) for part in CODE.split(markdown)
    )
    markdown = TABLE.sub(
        lambda found: found[2] + (pictures.html(found[1]) if found[1] in pictures.PICTURES else ""), markdown
    )
    return PICTURE.sub(lambda found: pictures.html(found[1]), markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name the search, leave out what a notebook's template would load from elsewhere, and refuse anything else."""
    if page.file.src_uri.endswith(".ipynb"):
        output = re.sub(r"<script[^>]+src=[\"']https?://[^>]+></script>", "", output)
    if found := OUTSIDE.search(output):
        raise PluginError(f"{page.file.src_uri} would load something from elsewhere: {found[0]}")
    return output.replace(SEARCH, f'{SEARCH} aria-label="Search"')


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """Name the search of the page that says that there is no such page."""
    return output_content.replace(SEARCH, f'{SEARCH} aria-label="Search"')


def _links(text: str, source: str, place: str) -> str:
    """Links from where a page lies to where the site has them. What the site lacks is text."""

    def moved(found: re.Match[str]) -> str:
        said, target = found[1], found[2]
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        path, _, anchor = target.partition("#")
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if goal in KNOWN:
            goal = KNOWN[goal]
        elif goal.startswith("docs/"):
            goal = goal.removeprefix("docs/")
        else:
            return said
        shown = posixpath.relpath(goal, posixpath.dirname(place) or ".")
        return f"[{said}]({shown}{'#' + anchor if anchor else ''})"

    return LINK.sub(moved, text)


def _formulas(text: str) -> str:
    text = BLOCK_FORMULA.sub(
        lambda found: f'<div class="formula" tabindex="0">{convert(found[1].strip(), display="block")}</div>', text
    )
    return FORMULA.sub(lambda found: f'<span class="math">{convert(found[1])}</span>', text)
