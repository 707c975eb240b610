"""Imports Keras and its backend in two thirds of the time; imported before the first `import keras`.

`import tensorflow` and `import keras` also import matplotlib, IPython and JAX if they are installed, each for functions
that few programs call. Here they are imported when such a function is called. Python's garbage collector waits
meanwhile: it would look through all new modules again and again, and has nothing to free. Afterwards, they count as old
objects, which it looks through rarely. docs/performance.md has the measurements.

Programs that import Keras or TensorFlow before `mrcnn` are left as they are.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Modules, after their packages, and the functions in them that Keras and TensorFlow only look up.
DEFERRED = {
    "matplotlib": (),
    "matplotlib.pyplot": (),
    "matplotlib.patches": (),
    "IPython": (),
    "jax": ("jit",),
    "jax.monitoring": ("record_scalar",),
}


class DeferredModule(ModuleType):
    """Stands for a module until another attribute than `functions` is read; then the module is imported."""

    def __init__(self, name: str, functions: tuple[str, ...]):
        super().__init__(name)
        for function in functions:
            setattr(self, function, call_later(name, function))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        withdraw(self.__name__.split(".")[0])
        return getattr(importlib.import_module(self.__name__), name)


def call_later(module: str, name: str) -> Callable[..., Any]:
    """The function `name` of a module, which is imported when the function is called."""
    return lambda *args, **kwargs: getattr(importlib.import_module(module), name)(*args, **kwargs)


def defer(name: str) -> None:
    """Puts a `DeferredModule` into `sys.modules`, unless the package is missing or has been imported."""
    package, _, module = name.partition(".")
    if module:
        stand_in = sys.modules.get(package)
        if isinstance(stand_in, DeferredModule):
            sys.modules[name] = DeferredModule(name, DEFERRED[name])
            setattr(stand_in, module, sys.modules[name])
    elif package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            stand_in = sys.modules[package] = DeferredModule(package, DEFERRED[package])
            stand_in.__spec__, stand_in.__path__ = spec, spec.submodule_search_locations


def withdraw(package: str) -> None:
    """Removes the `DeferredModule`s of a package from `sys.modules`. They keep working where they were imported."""
    for name in DEFERRED:
        if name.split(".")[0] == package and isinstance(sys.modules.get(name), DeferredModule):
            del sys.modules[name]


def may_use(backend: str) -> bool:
    """Whether this may be Keras's backend: by `KERAS_BACKEND`, otherwise by `keras.json`."""
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen:
        return chosen == backend
    settings = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    return settings.exists() and f'"{backend}"' in settings.read_text()


def let_idle_threads_sleep() -> None:
    """Sets `OMP_WAIT_POLICY`, unless the user has set it, so that PyTorch's idle threads on CPUs don't wait in a loop.

    They would take the CPU from threads that work (docs/processors.md). PyTorch reads it when it is imported.
    """
    if may_use("torch") and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def import_keras() -> None:
    """Imports Keras, unless it or TensorFlow has been imported."""
    if "keras" in sys.modules or "tensorflow" in sys.modules:
        return
    let_idle_threads_sleep()
    wanted = {"jax"} if may_use("jax") else set()
    names = [name for name in DEFERRED if name.split(".")[0] not in wanted]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            defer(name)
        importlib.import_module("keras")
    finally:
        for name in names:
            withdraw(name.split(".")[0])
        if collecting:
            if not gc.get_freeze_count():  # `unfreeze` would undo what the program froze
                gc.freeze()
                gc.unfreeze()  # the two make all objects old ones, without looking through them
            gc.enable()


import_keras()
