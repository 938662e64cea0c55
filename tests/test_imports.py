"""What importing costs, and what it leaves alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engram_interp
from engram_interp import cli

HEAVY = ("torch", "transformer_lens", "transformers", "pandas", "plotly", "scipy", "rouge_score", "jinja2")


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("program", ["import engram_interp", "from engram_interp import cli"])
def test_importing_brings_nothing_heavy(program):
    assert run(f"import sys\n{program}\nprint(*[name for name in {HEAVY} if name in sys.modules])").split() == []


@pytest.mark.parametrize("command", [[], *[[name] for name in sorted(cli.main.commands)]], ids=str)
def test_help_brings_nothing_heavy(command):
    program = f"""
import sys
from engram_interp.cli import main
try:
    main([*{command}, "--help"])
except SystemExit:
    pass
print("HEAVY:", *[name for name in {HEAVY} if name in sys.modules])
"""
    assert run(program).rpartition("HEAVY:")[2].split() == []


def test_a_map_needs_neither_scipy_nor_rouge():
    program = "import sys, engram_interp\nengram_interp.localize\nprint('rouge_score' in sys.modules)"
    assert run(program).strip() == "False"


def test_transformers_keeps_its_voice():
    program = """
from transformers.utils import logging
before = logging.get_verbosity()
import engram_interp
engram_interp.localize, engram_interp.load_model, engram_interp.testbed
print(before, logging.get_verbosity())
"""
    before, after = run(program).split()
    assert before == after


def test_the_names_are_listed_imported_for_types_and_found_alike():
    tree = ast.parse(Path(engram_interp.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed == set(engram_interp.__all__) == {*engram_interp._HOME, *engram_interp._MODULES}
    for node in block.body:
        for alias in node.names:
            if alias.name not in engram_interp._MODULES:
                assert f"engram_interp.{engram_interp._HOME[alias.name]}" == node.module
    assert all(getattr(engram_interp, name) is not None for name in engram_interp.__all__)
    assert set(engram_interp.__all__) <= set(dir(engram_interp))


def test_no_public_name_is_a_modules():
    modules = {path.stem for path in Path(engram_interp.__file__).parent.iterdir()}
    assert not modules & set(engram_interp._HOME)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="localise"):
        engram_interp.localise  # noqa: B018
