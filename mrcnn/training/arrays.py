"""Values of Keras variables as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from mrcnn.ops.types import Tensor


def to_array(variable: keras.Variable | Tensor) -> np.ndarray:
    """A copy of the value of a variable, on any backend and number of devices."""
    value = getattr(variable, "value", variable)
    value = value.read_value() if hasattr(value, "read_value") else value  # with several TensorFlow replicas
    return np.array(keras.ops.convert_to_numpy(value))  # not a view: it will change


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; also of bfloat16, which NumPy doesn't know."""
    return array.dtype.kind in "biu" or bool(np.isfinite(array.astype("float32", copy=False)).all())


def layers_not_finite(variables: Iterable[keras.Variable]) -> list[str]:
    """Names of the layers with a variable that has NaN or infinite values."""
    broken = (variable.path.split("/")[0] for variable in variables if not is_finite(to_array(variable)))
    return list(dict.fromkeys(broken))
