"""Whether TensorFlow's own kernels can be used.

`ops.nms`, `ops.roi_align` and `ops.convolution` are written with `keras.ops` and have a second implementation for
TensorFlow, whose kernels do the same work in less time and memory (docs/performance.md). XLA has no such kernels, so
graphs compiled by XLA use the first one.
"""

from __future__ import annotations

from types import ModuleType

import keras


def tensorflow_kernels() -> ModuleType | None:
    """Returns the module `tensorflow` if it is the backend and the graph being traced is not for XLA, else None.

    Uses a private function of TensorFlow, checked with 2.21: no public one tells whether XLA will compile the graph.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    for_xla = not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    return None if for_xla else tf


def onednn_is_on() -> bool:
    """Whether TensorFlow, which must be the backend, computes with oneDNN on this CPU.

    It does if `TF_ENABLE_ONEDNN_OPTS` says so, or isn't set and the CPU has AVX-512 VNNI (docs/processors.md).
    """
    from tensorflow.python.util import _pywrap_util_port  # no public name tells this

    return _pywrap_util_port.IsMklEnabled()


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
