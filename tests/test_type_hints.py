"""Public functions and methods have type hints for their arguments and their result."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(ROOT.glob("mrcnn/**/*.py"))
CALLED_BY_SYNTAX = ("__init__", "__call__", "__getitem__", "__iter__", "__len__", "__enter__", "__exit__")


def functions_in(body: list[ast.stmt]) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public functions, and the public methods and constructors of public classes."""
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += functions_in(node.body)
        elif isinstance(node, ast.If):
            found += functions_in([*node.body, *node.orelse])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += [node] if not node.name.startswith("_") or node.name in CALLED_BY_SYNTAX else []
    return found


def missing_hints(source: str) -> dict[str, list[str]]:
    """For each function without all hints: the names of its arguments that have none, and "return"."""
    found = {}
    for function in functions_in(ast.parse(source).body):
        parts = function.args
        arguments = [*parts.posonlyargs, *parts.args, *parts.kwonlyargs, parts.vararg, parts.kwarg]
        names = [a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")]
        names += ["return"] * (function.returns is None and function.name != "__init__")
        if names:
            found[f"{function.name}, line {function.lineno}"] = names
    return found


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(a, *b, c=1, **d): pass", ["a", "c", "b", "d", "return"]),
        ("class A:\n    def f(self, a: int): pass", ["return"]),
        ("class A:\n    def __init__(self, a): pass", ["a"]),
        ("class A:\n    @classmethod\n    async def f(cls) -> int: pass", None),
        ("class _A:\n    def f(self, a): pass", None),
        ("def _f(a): pass", None),
    ],
)
def test_missing_hints_are_found(source, names):
    assert list(missing_hints(source).values()) == ([] if names is None else [names])


def test_public_functions_have_type_hints():
    found = {str(path.relative_to(ROOT)): missing_hints(path.read_text(encoding="utf-8")) for path in FILES}
    assert len(FILES) > 250
    assert not {path: functions for path, functions in found.items() if functions}
