"""The state of Keras's and users' callbacks: attributes that changed since training began, as JSON and arrays.

`ReduceLROnPlateau` counts epochs in `wait`, `EarlyStopping` keeps `best` and `best_weights`, and so on. What a
callback was built with does not change and is not stored, so a resumed training can have another `patience`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

# Keras flips the sign of `min_delta` in the first epoch, which would happen again after resuming.
NOT_STATE = ("params", "_params", "model", "_model", "min_delta")


class CallbackState:
    """Remembers the attributes of callbacks, so that later changes can be stored and restored.

    Args:
        callbacks: list of Keras callbacks, right after their `on_train_begin`.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback]):
        self.callbacks = callbacks
        self._before = [_attributes(callback) for callback in callbacks]

    def read(self) -> tuple[list, dict[str, np.ndarray]]:
        """What changed: [[class name, {attribute: value}], ...] for JSON, and the arrays in it by name."""
        states, arrays = [], {}
        for number, (callback, before) in enumerate(zip(self.callbacks, self._before, strict=True)):
            changed = {}
            for name, value in _attributes(callback).items():
                if name not in before or value != before[name]:
                    changed[name] = value
            for array in _arrays_in(changed):
                key = f"callbacks/{number}/{len(arrays)}"
                arrays[key], array["array"] = array["array"], key
            states.append([type(callback).__name__, changed])
        return states, arrays

    def restore(self, states: list, arrays: dict[str, np.ndarray]) -> bool:
        """Restores what `read` returned; returns False and changes nothing if the callbacks have other classes."""
        if [name for name, _ in states] != [type(callback).__name__ for callback in self.callbacks]:
            return False
        for callback, (_, changed) in zip(self.callbacks, states, strict=True):
            for name, value in changed.items():
                setattr(callback, name, _decode(value, arrays))
        return True


class _Array(dict):
    """{"array": array}, equal to another one if their values are."""

    def __eq__(self, other):
        a, b = self["array"], other["array"] if isinstance(other, _Array) else None
        return a is b or (b is not None and a.dtype == b.dtype and np.array_equal(a, b))

    def __ne__(self, other):
        return not self == other

    __hash__ = None


def _attributes(callback) -> dict[str, Any]:
    """The attributes that can be stored, encoded."""
    found = {}
    for name, value in vars(callback).items():
        if name not in NOT_STATE:
            try:
                found[name] = _encode(value)
            except TypeError:  # a function, a file, a report: not state
                continue
    return found


def _encode(value) -> Any:
    """JSON with marks for what JSON lacks. Raises TypeError for a value of another kind."""
    if value is None or (isinstance(value, (bool, int, float, str)) and type(value) in (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return {"number": value.item(), "dtype": value.dtype.str}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _Array(array=value.copy())
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(item) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    raise TypeError(type(value))


def _decode(value, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "number" in value:
        return np.dtype(value["dtype"]).type(value["number"])
    if "array" in value:
        return np.asarray(arrays[value["array"]])
    if "dict" in value:
        return {key: _decode(item, arrays) for key, item in value["dict"].items()}
    ((kind, items),) = value.items()
    return {"list": list, "tuple": tuple}[kind](_decode(item, arrays) for item in items)


def _arrays_in(value) -> list[_Array]:
    if isinstance(value, _Array):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [array for item in items for array in _arrays_in(item)]
