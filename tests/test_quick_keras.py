"""`import mrcnn.model` doesn't import matplotlib or JAX, and what Keras does with them still works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from mrcnn import quick_keras


@pytest.fixture
def slow_package(tmp_path, monkeypatch):
    """A package with a module; `slow_package.loaded` becomes a new name in `sys.modules` when it is executed."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys; sys.modules['slow_package.loaded'] = sys; number = 7")
    (folder / "part.py").write_text("def double(x): return 2 * x")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(quick_keras.DEFERRED, "slow_package", ())
    monkeypatch.setitem(quick_keras.DEFERRED, "slow_package.part", ("double",))
    for name in ("slow_package", "slow_package.part"):
        quick_keras.defer(name)
    yield
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_a_deferred_function_works_after_the_import(slow_package):
    from slow_package.part import double

    quick_keras.withdraw("slow_package")
    assert "slow_package.loaded" not in sys.modules
    assert double(4) == 8 and "slow_package.loaded" in sys.modules


def test_reading_anything_else_imports_the_package_itself(slow_package):
    package = importlib.import_module("slow_package")
    assert not hasattr(package, "__version__") and "slow_package.loaded" not in sys.modules
    assert package.number == 7 and "slow_package.loaded" in sys.modules
    assert importlib.import_module("slow_package").number == 7
    assert not isinstance(sys.modules["slow_package"], quick_keras.DeferredModule)


def test_a_missing_package_stays_missing(monkeypatch):
    monkeypatch.setitem(quick_keras.DEFERRED, "no_such_package", ())
    quick_keras.defer("no_such_package")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_package")


@pytest.mark.parametrize(
    ("variable", "file", "expected"),
    [("jax", None, True), ("torch", "jax", False), ("", "jax", True), ("", "tensorflow", False), ("", None, False)],
)
def test_jax_is_not_deferred_if_keras_needs_it(variable, file, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", variable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if file:
        (tmp_path / "keras.json").write_text(f'{{"backend": "{file}"}}')
    assert quick_keras.may_use("jax") is expected


@pytest.mark.parametrize(
    ("backend", "set_by_user", "expected"),
    [
        ("torch", {}, "PASSIVE"),
        ("torch", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("torch", {"GOMP_SPINCOUNT": "100"}, None),
        ("tensorflow", {}, None),
    ],
)
def test_idle_threads_of_pytorch_sleep(backend, set_by_user, expected):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = "import os, mrcnn.quick_keras; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    env |= {"KERAS_BACKEND": backend, **set_by_user}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split() == [str(expected)], done.stderr


def test_neither_matplotlib_nor_jax_is_imported_and_keras_can_plot():
    code = """
import gc, sys
import mrcnn.model, keras, numpy as np
print([name for name in ("matplotlib", "skimage", "IPython", "jax") if name in sys.modules], gc.isenabled())
keras.visualization.plot_image_gallery(np.zeros((1, 8, 8, 3)), value_range=(0, 1), rows=1, cols=1, path="/dev/null")
import matplotlib.pyplot
print(matplotlib.pyplot.__file__ is not None, keras.backend.backend())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, plots = done.stdout.splitlines()[-2:]
    assert plots.startswith("True")
    assert loaded == ("['jax'] True" if plots.endswith("jax") else "[] True")


@pytest.mark.parametrize("frozen", [False, True])
def test_the_collector_does_not_look_through_the_new_modules(frozen):
    """What the import has created counts as old, unless the program has frozen objects: they stay frozen."""
    code = f"""
import gc
if {frozen}:
    gc.freeze()
collections = []
gc.callbacks.append(lambda phase, info: collections.append((info["generation"], len(gc.get_objects(0)))))
import mrcnn.quick_keras
print(gc.isenabled(), gc.get_freeze_count() > 0, max((n for _, n in collections), default=0) > 100_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"True {frozen} {frozen}"
