"""Whether TensorFlow's own kernels can be used.

`ops.nms`, `ops.roi_align` and `ops.convolution` are written with `keras.ops` and have a second implementation for
TensorFlow, whose kernels do the same work in less time and memory (docs/performance.md). XLA has no such kernels, so
graphs compiled by XLA use the first one.
"""

from __future__ import annotations

from types import ModuleType

import keras

from mrcnn.tensorflow_private import is_traced_for_xla


def tensorflow_kernels() -> ModuleType | None:
    """Returns the module `tensorflow` if it is the backend and the graph being traced is not for XLA, else None."""
    if keras.backend.backend() != "tensorflow" or is_traced_for_xla():
        return None
    import tensorflow as tf

    return tf


def has_accelerator() -> bool:
    """Whether the backend computes on a GPU or TPU, not on the CPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
