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


def test_every_name_is_found_where_it_is_said_to_be():
    assert set(engram_interp.__all__) == {*engram_interp._HOME, *engram_interp._MODULES}
    for name in engram_interp.__all__:
        assert getattr(engram_interp, name) is not None
    assert set(engram_interp.__all__) <= set(dir(engram_interp))


def test_editors_and_type_checkers_see_every_name_and_option():
    from tools.interface import STUB, interface

    assert STUB.read_text(encoding="utf-8") == interface(), "make format writes it anew"
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    handed_on = {one.asname for node in tree.body if isinstance(node, ast.ImportFrom) for one in node.names}
    assert set(engram_interp.__all__) <= {*functions, *handed_on}
    assert {"ridge", "filter", "layers", "batch_size"} <= {one.arg for one in functions["localize"].args.kwonlyargs}


ROOMS = (
    "common", "sharing", "linalg", "options", "figures", "concepts", "models", "answers", "statistics", "engrams",
    "maps", "effects", "learning", "sae", "unlearning", "report", "testbed", "benchmarks", "cli",
)  # fmt: skip
"""In the order in which data flows: a room imports those before it."""
PACKAGE = Path(engram_interp.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imports_of(module):
    """The package's own modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str() as source) if source.startswith("engram_interp."):
                yield source
            case ast.ImportFrom(module="engram_interp", names=names):
                yield from (f"engram_interp.{one.name}" for one in names)
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name.startswith("engram_interp."))


@pytest.mark.parametrize("module", [*MODULES, Path("options.py"), Path("cli.py")], ids=str)
def test_imports_go_one_way_through_the_rooms(module):
    own = ROOMS.index(module.parts[0].removesuffix(".py"))
    for source in imports_of(module):
        assert ROOMS.index(source.split(".")[1]) <= own, f"{module} imports {source}"


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {*folders, "options", "cli"} == set(ROOMS)


def test_only_models_and_the_testbed_know_the_classes_of_transformer_lens():
    for module in MODULES:
        if module.parts[0] not in ("models", "testbed"):
            text = (PACKAGE / module).read_text(encoding="utf-8")
            assert "import transformer_lens" not in text
            assert "from transformer_lens" not in text
            assert not any(".models.bridge" in source or ".models.hooked" in source for source in imports_of(module))


def test_no_public_name_is_a_modules():
    modules = {path.stem for path in Path(engram_interp.__file__).parent.iterdir()}
    assert not modules & set(engram_interp._HOME)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="localise"):
        engram_interp.localise  # noqa: B018
