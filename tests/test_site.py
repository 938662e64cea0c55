"""The site: every page is in its menu, notebooks hold no outputs, and what is made from the API is of today."""

import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import engram_interp
from tools.cheat_sheet import LLMS, called, cheat_sheet, llms
from tools.site.reference import blocks, pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


class Loader(yaml.SafeLoader):
    """Reads what mkdocs's own tags stand for as nothing."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
Loader.add_multi_constructor("!", lambda *_: None)


def menu(entries):
    for one in entries:
        if isinstance(one, str):
            yield one
        else:
            for value in one.values():
                yield from [value] if isinstance(value, str) else menu(value)


def test_every_page_is_in_the_menu():
    shown = set(menu(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]))
    here = {path.relative_to(DOCS).as_posix() for path in (*DOCS.rglob("*.md"), *NOTEBOOKS)}
    made = {*pages(), "cheat_sheet.md", "changelog.md", "developers/contributing.md", "developers/analyses.md",
            "results/fisher_reading.md"}  # fmt: skip
    assert shown == here | made


def test_there_are_seven_notebooks_and_one_on_a_real_model():
    assert len(NOTEBOOKS) == 8
    assert "smollm2" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_without_outputs_and_installs_on_colab(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "google.colab" in "".join(code[0]["source"])
    assert re.search(r"pip install -q \"engram-interp(\[\w+\])?\"", "".join(code[0]["source"]))
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert "".join(cells[0]["source"]).startswith("# ")


def test_the_reference_has_every_public_name():
    listed = [name for names in blocks().values() for name in names]
    assert sorted(listed) == sorted(engram_interp._HOME)
    text = "".join(pages().values())
    assert all(f"::: engram_interp.{name}\n" in text for name in engram_interp.__all__)


def test_the_cheat_sheet_and_llms_are_of_today():
    assert LLMS.read_text(encoding="utf-8") == llms(), "make format writes it anew"
    sheet = cheat_sheet()
    for name in engram_interp._HOME:
        assert f"`{called(name)}`" in sheet
        assert f"`ei.{called(name)}`" in llms()
    # By hand: localize takes a model and a concept, and everything else as keywords.
    assert called("localize") == "localize(model, concept, ...)"
    assert called("Engram") == "Engram"


def test_the_cheat_sheets_code_runs(tmp_path, monkeypatch):
    from tests import huggingface
    from tools.cheat_sheet import USUAL

    monkeypatch.chdir(tmp_path)
    huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path / "path" / "to" / "checkpoint")
    code = USUAL.replace('reference=["any text that should stay"]', 'reference=["any text that should stay"] * 12')
    # A model with random weights says nothing right that an edit could keep.
    monkeypatch.setattr(engram_interp, "choose_alpha", lambda *_, **__: SimpleNamespace(alpha=1.0), raising=False)
    exec(compile(code, "cheat sheet", "exec"), {})
    assert (tmp_path / "path" / "to" / "edited" / "config.json").is_file()


def test_every_name_says_what_it_is_in_its_first_line():
    for name in engram_interp._HOME:
        found = getattr(engram_interp, name)
        if callable(found):
            assert 10 < len((inspect.getdoc(found) or "").partition("\n")[0]) <= 120, name
