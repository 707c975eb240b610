"""matterport's `ParallelModel`, for old scripts.

In matterport's code it splits each batch, runs the parts on several GPUs and joins the outputs. Here no wrapper is
needed: a model uses `Config.GPU_COUNT` devices, or the strategy it was built with (`mrcnn.distribution`). This class
has the inputs, layers and weights of the inner model and computes the same outputs.
"""

from __future__ import annotations

from typing import Any

import keras


class ParallelModel(keras.Model):
    """A wrapper that shares everything with `keras_model`.

    Saving and loading use the inner model, so that files have its layer names.

    Args:
        keras_model: A functional keras.Model.
        gpu_count: Stored as an attribute; it does not change the devices that the model runs on.

    Attributes:
        inner_model: `keras_model`.
        gpu_count: The argument.

    Raises:
        ValueError: gpu_count is less than 1.
    """

    def __init__(self, keras_model: keras.Model, gpu_count: int):
        if gpu_count < 1:
            raise ValueError(f"gpu_count is {gpu_count}; expected 1 or more.")
        super().__init__(inputs=keras_model.inputs, outputs=keras_model.outputs, name=keras_model.name)
        self.inner_model = keras_model
        self.gpu_count = gpu_count

    def __getattribute__(self, name):
        if name.startswith(("load", "save")):
            return getattr(object.__getattribute__(self, "inner_model"), name)
        return super().__getattribute__(name)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints the summary of the inner model."""
        self.inner_model.summary(*args, **kwargs)

    def make_parallel(self) -> Any:
        """Returns the list of outputs, for whole batches."""
        return list(self.outputs)
