"""The house stands: imports go down only, `nn` and `data` never meet, and the backend stays behind Keras.

Every import counts, also one inside a function: a lazy import upwards is still a room that knows the one above.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
FLOORS = {
    "conventions": 0,
    "keras_private": 0,
    "tensorflow_private": 0,
    "settings": 0,
    "io": 0,
    "text": 0,
    "processor": 0,
    "distribution": 0,
    "ops": 1,
    "config": 1,  # of ops it imports constants only
    "config_checks": 1,
    "config_derived": 1,
    "config_networks": 1,
    "nn": 2,
    "data": 2,
    "drawing": 2,
    "graph": 3,
    "training": 4,
    "inference": 4,
    "evaluation": 4,
    "weights": 4,
    "model": 5,
    "compat": 5,
    "utils": 5,
    "visualize": 5,
    "parallel_model": 5,
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


def room_of(dotted: str) -> str | None:
    """The room of "mrcnn.nn.fpn.fpn_graph" is "nn"; None: no part of the package, or the package itself."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "mrcnn" and len(parts) > 1 and not parts[1].startswith("__") else None


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module's imports do against the floors, one line each."""
    room = room_of(module)
    if room is not None and room not in FLOORS:
        return [f"{module}: `{room}` stands on no floor; give it one in FLOORS"]
    found = []
    for line, name, at_top in imports_of(source, module, is_package):
        place = f"{module}:{line}: imports {name}"
        top_package, target = name.split(".")[0], room_of(name)
        if top_package in ("samples", "notebooks", "benchmarks", "tests"):
            found.append(f"{place}, a door")
        if top_package in BACKENDS and room in ("nn", "model"):
            found.append(f"{place}: only Keras is known here")
        elif top_package in BACKENDS and at_top:
            found.append(f"{place} at module level: a backend is imported inside the function that needs it")
        if target is None or target not in FLOORS:
            continue
        if room is None:
            found.append(f"{place}: `import mrcnn` imports nothing of its own")
        elif {room, target} in APART:
            found.append(f"{place}: {room} and {target} never import each other")
        elif FLOORS[target] > FLOORS[room]:
            found.append(f"{place}: upwards, from floor {FLOORS[room]} to {FLOORS[target]}")
        elif (room, target) == ("ops", "config"):
            found.append(f"{place}: ops take plain values, no Config")
    return found


def test_only_packages_and_modules_that_exist_have_a_floor():
    """With "export": 3 in the table and no such package, a typo in a name would go unnoticed."""
    modules = {path.stem for path in (ROOT / "mrcnn").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "mrcnn").glob("*/__init__.py")}
    assert modules | packages == set(FLOORS)


def pages() -> list[Path]:
    return sorted((ROOT / "mrcnn").rglob("*.py"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_imports_go_down_only(page):
    parts = page.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert not faults(page.read_text(), module, is_package)


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("mrcnn.ops.boxes", "from mrcnn.nn import fpn", "upwards"),
        ("mrcnn.ops.boxes", "def f():\n    import mrcnn.model", "upwards"),
        ("mrcnn.ops.boxes", "from ..config import Config", "no Config"),
        ("mrcnn.nn.rpn", "from mrcnn.data.rpn_targets import build_rpn_targets", "never import each other"),
        ("mrcnn.data.generator", "from mrcnn import nn", "never import each other"),
        ("mrcnn.data.dataset", "from ..utils import resize", "upwards"),
        ("mrcnn.nn.rpn", "def f():\n    import tensorflow as tf", "only Keras"),
        ("mrcnn.model", "from jax import numpy", "only Keras"),
        ("mrcnn.ops.nms", "import tensorflow as tf", "inside the function"),
        ("mrcnn.model", "from samples import shapes", "a door"),
        ("mrcnn.attic", "import os", "no floor"),
        ("mrcnn", "from mrcnn.model import MaskRCNN", "imports nothing of its own"),
    ],
)
def test_a_wrong_import_is_seen(module, source, why):
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
def test_a_right_import_passes(module, source):
    assert not faults(source, module, is_package=module == "mrcnn")
