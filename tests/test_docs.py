"""The documents name files that exist, and their Python blocks are Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_point_to_existing_files(document):
    """A file was renamed, and a document still links to its old name."""
    targets = [link.split("#")[0] for link in LINK.findall(document.read_text()) if "://" not in link]
    assert [target for target in targets if target and not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_no_merge_conflict_is_left(document):
    """docs/performance.md showed both sides of a table, between the marks of git."""
    assert re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", document.read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_python_blocks_can_be_parsed(document):
    for block in PYTHON_BLOCK.findall(document.read_text()):
        ast.parse(block)


def test_the_architecture_page_names_exactly_the_modules():
    """A module was added, renamed or removed, and docs/architecture.md still has the old layout."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "mrcnn"
    names = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    names |= {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert {name for name in names if f"`{name}`" not in text} == set()
    places = (package, package / "inference", package / "training", ROOT)
    named = set(re.findall(r"[a-z_0-9/]+\.py", text))
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_imports_in_the_readme_name_what_exists():
    """The README imports a name that moved."""
    blocks = "\n".join(PYTHON_BLOCK.findall((ROOT / "README.md").read_text()))
    imports = [node for node in ast.walk(ast.parse(blocks)) if isinstance(node, ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, type_ignores=[]), "README.md", "exec"), {})


def test_the_check_page_lists_all_findings():
    """A kind of finding was added or reworded, and docs/check.md has the old one."""
    from mrcnn.data.doctor.findings import KINDS

    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+) \|$", (ROOT / "docs" / "check.md").read_text(), re.MULTILINE)
    assert {code: (severity, solution) for code, severity, solution in rows} == {
        code: tuple(k) for code, k in KINDS.items()
    }
