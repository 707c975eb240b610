"""Imports: from lower levels only, never between `nn`, `data` and `drawing`, and no backend where Keras suffices.

Imports inside functions count as well: they, too, make a module depend on the other one.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
LEVELS = {
    "conventions": 0,
    "recipes": 0,
    "keras_private": 0,
    "tensorflow_private": 0,
    "settings": 0,
    "io": 0,
    "text": 0,
    "processor": 0,
    "quick_keras": 0,
    "distribution": 0,
    "ops": 1,
    "config": 1,  # imports only constants from ops
    "config_checks": 1,
    "config_derived": 1,
    "config_networks": 1,
    "config_recipes": 1,
    "config_training": 1,
    "nn": 2,
    "data": 2,
    "drawing": 2,
    "graph": 3,
    "training": 4,
    "inference": 4,
    "evaluation": 4,
    "export": 4,
    "weights": 4,
    "video": 4,
    "model": 5,
    "native": 5,
    "verify": 5,
    "compat": 5,
    "utils": 5,
    "visualize": 5,
    "parallel_model": 5,
    "cli": 6,
    "serve": 6,
    "scale": 6,
    "__main__": 6,
}
APART = ({"nn", "data"}, {"nn", "drawing"}, {"data", "drawing"})  # never import each other


def imports_of(source: str, module: str, is_package: bool = False) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, whether at module level) of each import; `from x import y` gives `x.y`."""
    tree = ast.parse(source)
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, name, id(node) not in inside_functions) for name in names]
    return found


def part_of(dotted: str) -> str | None:
    """The module or package in `mrcnn`: "nn" for "mrcnn.nn.fpn.fpn_graph"; None for other names and for `mrcnn`."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "mrcnn" and len(parts) > 1 and parts[1] != "__version__" else None


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """The forbidden imports of a module, one line each."""
    part = part_of(module)
    if part is not None and part not in LEVELS:
        return [f"{module}: `{part}` has no level; add it to LEVELS"]
    found = []
    for line, name, at_top in imports_of(source, module, is_package):
        place = f"{module}:{line}: imports {name}"
        top_package, target = name.split(".")[0], part_of(name)
        if top_package in ("samples", "notebooks", "benchmarks", "tests"):
            found.append(f"{place}, which is not part of the package")
        if top_package in BACKENDS and part in ("nn", "model"):
            found.append(f"{place}: only Keras is allowed here")
        elif top_package in BACKENDS and at_top:
            found.append(f"{place} at module level: import a backend inside the function that needs it")
        if target is None or target not in LEVELS:
            continue
        if part is None:
            found.append(f"{place}: `import mrcnn` must not import modules of the package")
        elif {part, target} in APART:
            found.append(f"{place}: {part} and {target} never import each other")
        elif LEVELS[target] > LEVELS[part]:
            found.append(f"{place}: from level {LEVELS[part]} to the higher level {LEVELS[target]}")
        elif (part, target) == ("ops", "config"):
            found.append(f"{place}: ops take plain values, not the Config")
    return found


def test_the_table_lists_exactly_the_packages_and_modules():
    """An entry without a package, such as "export": 3, would hide a typo in a name."""
    modules = {path.stem for path in (ROOT / "mrcnn").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "mrcnn").glob("*/__init__.py")}
    assert modules | packages == set(LEVELS)


def source_files() -> list[Path]:
    return sorted((ROOT / "mrcnn").rglob("*.py"))


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_from_lower_levels_only(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert not faults(path.read_text(), module, is_package)


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("mrcnn.ops.boxes", "from mrcnn.nn import fpn", "higher level"),
        ("mrcnn.ops.boxes", "def f():\n    import mrcnn.model", "higher level"),
        ("mrcnn.ops.boxes", "from ..config import Config", "not the Config"),
        ("mrcnn.nn.rpn", "from mrcnn.data.rpn_targets import build_rpn_targets", "never import each other"),
        ("mrcnn.data.generator", "from mrcnn import nn", "never import each other"),
        ("mrcnn.data.dataset", "from ..utils import resize", "higher level"),
        ("mrcnn.nn.rpn", "def f():\n    import tensorflow as tf", "only Keras"),
        ("mrcnn.model", "from jax import numpy", "only Keras"),
        ("mrcnn.ops.nms", "import tensorflow as tf", "inside the function"),
        ("mrcnn.model", "from samples import shapes", "not part of the package"),
        ("mrcnn.unknown", "import os", "no level"),
        ("mrcnn", "from mrcnn.model import MaskRCNN", "must not import"),
    ],
)
def test_a_forbidden_import_is_reported(module, source, why):
    assert any(why in fault for fault in faults(source, module, is_package=module == "mrcnn"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mrcnn.ops.nms", "def f():\n    import tensorflow as tf"),
        ("mrcnn.ops.nms", "from .boxes import compute_iou\nfrom mrcnn.ops import anchors"),
        ("mrcnn.model", "import keras\nfrom mrcnn import utils\nfrom mrcnn.nn.fpn import fpn_graph"),
        ("mrcnn.evaluation.coco_protocol", "from ..data.dataset import Dataset"),
        ("mrcnn", "import numpy as np\n__version__ = '1.0.0'"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert not faults(source, module, is_package=module == "mrcnn")
