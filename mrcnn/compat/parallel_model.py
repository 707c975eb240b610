"""matterport's `ParallelModel`, kept as a name.

It cut each batch in pieces, ran them on several GPUs and joined the outputs, for Keras could not. Keras 3 can: a model
is spread over `Config.GPU_COUNT` devices, or by the strategy it was built with (`mrcnn.distribution`), and nothing
needs to be wrapped. This class keeps old scripts running: the wrapper has the inputs, layers and weights of the inner
model, and computes the same outputs.
"""

from __future__ import annotations

import keras


class ParallelModel(keras.Model):
    """A model around `keras_model` that shares all of it.

    Saving and loading go to the inner model, so that files hold its layers under their own names.

    Args:
        keras_model: keras.Model, functional.
        gpu_count: int, kept as an attribute. On how many devices the model runs doesn't depend on it.

    Attributes:
        inner_model: `keras_model`.
        gpu_count: as given.

    Raises:
        ValueError: gpu_count is less than 1.
    """

    def __init__(self, keras_model, gpu_count):
        if gpu_count < 1:
            raise ValueError(f"gpu_count is {gpu_count}; expected 1 or more.")
        super().__init__(inputs=keras_model.inputs, outputs=keras_model.outputs, name=keras_model.name)
        self.inner_model = keras_model
        self.gpu_count = gpu_count

    def __getattribute__(self, name):
        if name.startswith(("load", "save")):
            return getattr(object.__getattribute__(self, "inner_model"), name)
        return super().__getattribute__(name)

    def summary(self, *args, **kwargs):
        """Prints the inner model's summary: the wrapper has nothing of its own."""
        self.inner_model.summary(*args, **kwargs)

    def make_parallel(self):
        """The outputs, as a list: of whole batches, whichever devices compute them."""
        return list(self.outputs)
