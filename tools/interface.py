"""`engram_interp/__init__.pyi`: every public name for editors and type checkers, options and their defaults included.

`python tools/interface.py`, a part of `make format`, writes it from the functions themselves, and a test compares.
"""

import ast
import importlib
import inspect
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import engram_interp

STUB = Path(engram_interp.__file__).with_suffix(".pyi")
HEADER = '''"""{doc}"""

# Written by tools/interface.py (`make format`) from the functions themselves: change these.
'''
OPTIONS = "engram_interp.options"


def interface() -> str:
    """The whole file."""
    modules = {name: f"engram_interp.{module}" for name, module in vars(engram_interp)["_HOME"].items()}
    functions = {name: getattr(engram_interp, name) for name in modules if _takes_options(name)}
    imports = [
        f"from {path.rpartition('.')[0]} import {path.rpartition('.')[2]} as {name}"
        for name, path in (
            (name, f"engram_interp.{module}") for name, module in vars(engram_interp)["_MODULES"].items()
        )
    ]
    imports += [f"from {module} import {name} as {name}" for name, module in modules.items() if name not in functions]
    needed: set[str] = set()
    definitions = [_definition(name, function, needed) for name, function in functions.items()]
    listed = "".join(f'    "{name}",\n' for name in engram_interp.__all__)
    parts = [
        HEADER.format(doc=(engram_interp.__doc__ or "").splitlines()[0]),
        "\n".join(_without_repeats({*imports, *needed})),
        f"\n__version__: str\n__all__ = [\n{listed}]\n",
        *definitions,
    ]
    return "\n".join(parts)


def _without_repeats(lines: set[str]) -> list[str]:
    """The import lines in order. A name that is handed on (`X as X`) is not imported a second time."""
    return sorted(line for line in lines if f"{line} as {line.rpartition(' ')[2]}" not in lines)


def _takes_options(name: str) -> bool:
    return "__signature__" in getattr(getattr(engram_interp, name), "__dict__", {})


def _definition(name: str, function: Any, needed: set[str]) -> str:
    """A function with its whole signature and docstring; `needed` gets the imports of the names in it."""
    signature = inspect.signature(function)
    arguments, has_star = [], False
    for one in signature.parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            arguments, has_star = [*arguments, "*"], True
        arguments.append(_argument(one, function, needed))
    result = signature.return_annotation
    needed |= _imports_of(result, function)
    body = inspect.cleandoc(function.__doc__).replace("\\", "\\\\")
    indented = "\n".join(f"    {line}".rstrip() for line in body.splitlines())
    joined = "".join(f"    {argument},\n" for argument in arguments)
    return f'def {name}(\n{joined}) -> {result}:\n    """{indented.lstrip()}\n    """\n'


def _argument(parameter: inspect.Parameter, function: Any, needed: set[str]) -> str:
    needed |= _imports_of(parameter.annotation, function)
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name}: {parameter.annotation}"
    return f"{parameter.name}: {parameter.annotation} = {_default(parameter.default, function, needed)}"


def _default(value: Any, function: Any, needed: set[str]) -> str:
    """A literal, or the name under which the function's module or the options know the value."""
    if isinstance(value, str):
        return json.dumps(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    for module in (inspect.unwrap(function).__module__, OPTIONS):
        for name, found in vars(sys.modules[module]).items():
            if found is value and name.isidentifier():
                needed |= _import_of(name, module)
                return name
    return "..."


def _imports_of(annotation: str, function: Any) -> set[str]:
    """The imports of every name in an annotation."""
    names = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
    home = inspect.unwrap(function).__module__
    found: set[str] = set()
    for name in names:
        found |= _import_of(name, home) or _import_of(name, OPTIONS)
    return found


def _import_of(name: str, module: str) -> set[str]:
    """The line that imports a name as a module does; none for a builtin."""
    if name in _defined(module):
        return {f"from {module} import {name}"}
    source = _imported(module).get(name)
    return set() if source is None else {source}


@cache
def _imported(module: str) -> dict[str, str]:
    """The import line of every name that a module imports from another."""
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8"))
    lines = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            lines |= {one.asname or one.name: f"from {node.module} import {ast.unparse(one)}" for one in node.names}
        elif isinstance(node, ast.Import):
            lines |= {one.asname or one.name: f"import {ast.unparse(one)}" for one in node.names}
    return lines


@cache
def _defined(module: str) -> set[str]:
    """The names that a module defines itself."""
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


if __name__ == "__main__":
    STUB.write_text(interface(), encoding="utf-8")
