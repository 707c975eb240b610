"""Numbers that a compiled graph reads at each call, such as thresholds.

A Python number becomes a constant of the graph: changing it means tracing and compiling again. A `RuntimeValue` is held
in a variable instead, which every backend passes into its compiled functions. It is state, like the seed of `Dropout`,
but not a weight: it is part of `layer.variables` and `layer.non_trainable_variables`, not of `layer.weights`. So it is
not saved with the weights, not counted by `count_params`, and not shown by `summary`.

Checked with Keras 3.15.1: `Layer.non_trainable_variables`, `Model.variables` and the trainers of all backends collect
state through the public property `Layer.variables`, while saving and counting use `weights`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from mrcnn.ops.types import Tensor


class RuntimeValue:
    """A float32 scalar or array that can change between two calls of a compiled function without compiling it again.

    Args:
        value: Initial value. Its shape is fixed.
        name: Last part of the variable's path.

    Assign it as an attribute of a `RuntimeValueLayer`.
    """

    def __init__(self, value: float | Sequence[float], name: str):
        self._value = np.array(value, np.float64)
        self.variable = keras.Variable(
            self._value, dtype="float32", trainable=False, autocast=False, aggregation="none", name=name
        )

    def __float__(self) -> float:
        return float(self._value)

    def tolist(self) -> float | list:
        return self._value.tolist()

    def assign(self, value: float | Sequence[float]) -> None:
        """Sets the value that all models with this layer use from their next call on."""
        value = np.array(value, np.float64)
        if not np.array_equal(value, self._value):
            self.variable.assign(value)
            self._value = value

    def tensor(self) -> Tensor:
        """The value as float32, for use in `call`."""
        return keras.ops.convert_to_tensor(self.variable)


class RuntimeValueLayer(keras.layers.Layer):
    """A layer whose attributes may be `RuntimeValue`s.

    Example:

    >>> class Scale(RuntimeValueLayer):
    ...     def __init__(self, factor, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.factor = RuntimeValue(factor, "factor")
    ...
    ...     def call(self, x):
    ...         return x * self.factor.tensor()
    >>> layer = Scale(2)
    >>> inputs = keras.Input((1,))
    >>> model = keras.Model(inputs, layer(inputs))
    >>> float(model(keras.ops.ones((1, 1)))[0, 0])
    2.0
    >>> layer.factor.assign(3)
    >>> float(model(keras.ops.ones((1, 1)))[0, 0])
    3.0
    >>> model.count_params()
    0
    """

    @property
    def variables(self) -> list[keras.Variable]:
        """All state of the layer: weights, seeds and runtime values."""
        values = [value.variable for value in vars(self).values() if isinstance(value, RuntimeValue)]
        return super().variables + values
