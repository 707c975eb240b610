"""Everything in the API reference has type hints for its arguments and its result."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
BASES = ["mrcnn.native.NativeModel", "mrcnn.compat.methods.ScriptModel"]  # of MaskRCNN


def functions_of(dotted: str) -> list[ast.FunctionDef]:
    """The function itself; the public methods of a class; or the public functions of a module."""
    path = ROOT / (dotted.replace(".", "/") + ".py")
    if path.exists():
        return [node for node in ast.parse(path.read_text()).body if is_public_function(node)]
    module, _, name = dotted.rpartition(".")
    package = ROOT / module.replace(".", "/")
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    (node,) = (n for n in ast.parse(path.read_text()).body if getattr(n, "name", None) == name)
    if isinstance(node, ast.FunctionDef):
        return [node]
    return [method for method in node.body if is_public_function(method) or getattr(method, "name", "") == "__init__"]


def is_public_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def without_hints(function: ast.FunctionDef) -> list[str]:
    parts = function.args
    arguments = [*parts.posonlyargs, *parts.args, *parts.kwonlyargs, parts.vararg, parts.kwarg]
    found = [a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")]
    return found + ["return"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("dotted", [*DOCUMENTED, *BASES])
def test_documented_functions_have_type_hints(dotted):
    missing = {f.name: found for f in functions_of(dotted) if (found := without_hints(f))}
    assert not missing
