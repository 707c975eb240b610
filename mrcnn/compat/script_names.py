"""Modules that scripts access through `mrcnn.model`, as in `modellib.os` or `from mrcnn.model import *`; see `LAZY`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras

# matterport's model.py imported these, so scripts with a star import use them without importing them.
LAZY = {
    "np": "numpy", "os": "os", "re": "re", "math": "math", "random": "random", "logging": "logging",
    "multiprocessing": "multiprocessing", "OrderedDict": "collections.OrderedDict",
    "utils": "mrcnn.utils", "tf": "tensorflow",
    "K": "keras.backend", "KL": "keras.layers", "KM": "keras.models", "KE": "keras",
}  # fmt: skip


def lazy_names() -> list[str]:
    """The names of `LAZY` that can be imported here; `tf` only where TensorFlow is installed."""
    return [name for name in LAZY if name != "tf" or find_spec("tensorflow")]


def lazy_attribute(name: str) -> Any:
    """Imports one of `LAZY`.

    `K` has the functions of Keras 2 (`K.mean`, `K.int_shape`) under TensorFlow, which keeps them in `tf.keras.backend`.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in LAZY:
        raise AttributeError(f"module 'mrcnn.model' has no attribute {name!r}")
    if name == "K" and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.keras.backend
    path = LAZY[name]
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, attribute = path.rpartition(".")
        if not module:
            raise AttributeError(f"mrcnn.model.{name} needs the package {path}, which is not installed.") from None
        return getattr(import_module(module), attribute)
