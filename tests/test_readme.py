"""Every Python block of the README and of docs/ runs as it stands, on whatever versions are installed.

The README runs on the whole testbed and prints what it says it prints. The pages run on a small part of it.
"""

import importlib
import importlib.util
import re
import shlex
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import engram_interp
from engram_interp import cli, testbed
from engram_interp.maps import null_sets, nulls
from tests import huggingface

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NUMBER = re.compile(r"\d+\.\d+")


MADE = {"api", "cheat_sheet.md", "changelog.md", "developers", "results"}
"""What the site's build adds to docs/; the build itself checks links to it."""


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


DOCS = ROOT / "docs"
PAGES = {
    page.relative_to(DOCS).with_suffix("").as_posix(): page
    for page in sorted(DOCS.rglob("*.md"))
    if blocks(page, "python")
}


def test_the_pages_have_blocks_to_run():
    assert PAGES.keys() >= {
        "first_map",
        "own_model",
        "options",
        "many_concepts",
        "filters",
        "sae",
        "rewriting",
        "unlearning",
    }
    found = [block for page in (README, *PAGES.values()) for block in blocks(page, "python")]
    assert len(found) >= 14
    assert all("..." not in re.sub("#.*", "", block) for block in found)


def test_links_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("analyses/**/*.md")):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" in link or (page.is_relative_to(DOCS) and link.partition("/")[0] in MADE):
                continue
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def shell_lines():
    """Each line of a shell block, with the page that has it."""
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("analyses/**/*.md")):
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield pytest.param(words, id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("words", list(shell_lines()))
def test_every_shell_line_could_be_run(words):
    """Commands, options, targets of make, modules and extras are there. What has to be downloaded is not run."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program, *rest = words
    match Path(program).name:
        case "engram-interp" | "uvx":
            rest = rest[1:] if program == "uvx" else rest
            if rest == ["--help"]:
                return
            command = cli.main.commands[rest[0]]
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
            assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known
        case "make":
            targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert {word for word in rest if "=" not in word} <= set(targets)
        case "pip":
            asked = re.findall(r"\[([\w,]+)\]", " ".join(rest))
            extras = set(
                re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
            )
            assert {extra for one in asked for extra in one.split(",")} <= extras
        case "python" | "torchrun":
            if "-m" in rest:
                module = rest[rest.index("-m") + 1]
                assert importlib.util.find_spec(module) is not None
            else:
                assert any((ROOT / word).is_file() for word in rest if word.endswith(".py"))
        case name:
            assert name in {"echo", "pytest", "pre-commit", "git", "cd"}, f"a test knows nothing of {name}"


def table(page: str, heading: str) -> list[list[str]]:
    """The names in backticks in the first two columns of the table below a heading."""
    _, _, below = (ROOT / page).read_text(encoding="utf-8").partition(f"{heading}\n")
    rows = below[below.index("|---") :].partition("\n\n")[0].splitlines()[1:]
    return [re.findall("`([^`]+)`", cell) for row in rows for cell in row.strip("|").split("|")[:2]]


def test_every_slow_test_is_listed_with_its_reason():
    slow = re.compile(r"^@pytest\.mark\.slow\n(?:^[@ )].*\n)*^def (\w+)", flags=re.MULTILINE)
    texts = [file.read_text(encoding="utf-8") for file in ROOT.glob("tests/**/*.py")]
    found = [name for text in texts for name in slow.findall(text)]
    assert len(found) == sum(text.count("mark." + "slow") for text in texts), (
        "a mark that is not a function's decorator"
    )
    listed = [name for cell in table("CONTRIBUTING.md", "### Slow tests")[::2] for name in cell]
    assert sorted(listed) == sorted(found)


def test_every_room_is_listed():
    package = Path(engram_interp.__file__).parent
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} | {"options.py", "cli.py"}
    assert {name for cell in table("CONTRIBUTING.md", "## The rooms")[::2] for name in cell} == rooms


def test_modules_that_moved_are_found_where_the_changelog_says():
    cells = table("CHANGELOG.md", "### Migration")
    old, new = ([name for cell in cells[side::2] for name in cell] for side in (0, 1))
    assert "sites" in old
    assert "models.components" in new
    missing = [name for name in new if importlib.util.find_spec(f"engram_interp.{name}") is None]
    assert missing == []


def test_one_version_is_told_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (version, date), *_ = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - ([\d-]+)$", changelog, flags=re.MULTILINE)
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation
    assert engram_interp.__version__ == version


def has_sae_lens() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what TransformerLens deprecates
        try:
            importlib.import_module("sae_lens")
        except ImportError:
            return False
    return True


def run(page: Path) -> dict[str, object]:
    """The names that a page's blocks leave behind, after they ran one after the other."""
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)
    return names


def test_the_readme_prints_what_it_says(capsys):
    run(README)
    printed = capsys.readouterr().out.strip()
    (said,) = blocks(README, "text")
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", said.strip())
    # The last digit that is printed may differ between machines.
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, said)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.011)


def use_part_of_the_testbed(monkeypatch, n_forgotten: int, n_kept: int) -> None:
    """A part of the testbed's text, so that a page takes seconds: its costs grow with the number of examples."""
    corpus, benchmark = testbed.authors(), testbed.benchmark()
    part = replace(
        corpus, forget10=corpus.forget10[:n_forgotten], retain90=corpus.retain90[:n_kept],
        world_facts=corpus.world_facts[:20],
    )  # fmt: skip
    small = replace(
        benchmark.asking(lambda questions: questions[:10]), target=benchmark.target[:40],
        reference=benchmark.reference[:80],
    )  # fmt: skip
    monkeypatch.setattr(testbed, "authors", lambda: part)
    monkeypatch.setattr(testbed, "benchmark", lambda: small)
    for module in (nulls, null_sets):
        monkeypatch.setattr(module, "N_BOOTSTRAPS", 20)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    if name == "sae" and not has_sae_lens():
        pytest.skip("needs sae-lens")
    # The page about features needs examples in which they fire.
    # A strength for the first page is chosen on held-out examples, of which two authors have too few.
    # Sibling memories are 19 or more.
    sizes = {"sae": (10, 0)} | dict.fromkeys(("first_map", "maps", "strength", "explore"), (2, 20))
    use_part_of_the_testbed(monkeypatch, *sizes.get(name, (2, 20) if name.startswith("trust/") else (2, 2)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path / "path" / "to" / "checkpoint")
    names = run(PAGES[name])
    if name == "first_map":
        (answer,) = re.findall(r"^\[.*\]$", capsys.readouterr().out, flags=re.MULTILINE)
        (born,) = [qa.answer for qa in testbed.authors().author("Petra Dorlund").pairs if "born" in qa.question]
        assert answer != f"['{born}']"
    if name == "own_model":
        assert (tmp_path / "path" / "to" / "edited" / "config.json").is_file()
    if "edited" in names:
        assert all(parameter.isfinite().all() for parameter in names["edited"].parameters())
    assert torch.is_grad_enabled()
