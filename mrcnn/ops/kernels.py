"""Whether TensorFlow's own kernels can be used.

`ops.nms`, `ops.roi_align` and `ops.convolution` are written with `keras.ops` and have a second implementation for
TensorFlow, whose kernels do the same work in less time and memory (docs/performance.md). XLA has no such kernels, so
graphs compiled by XLA use the first one. So do graphs that are exported to other runtimes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import ModuleType
from typing import NamedTuple

import keras

from mrcnn.tensorflow_private import is_traced_for_xla


class _Export(NamedTuple):
    fixed_shapes: bool
    has_nms: bool


_export: ContextVar[_Export | None] = ContextVar("export", default=None)


@contextmanager
def exporting(fixed_shapes: bool, has_nms: bool = False) -> Iterator[None]:
    """A context for tracing a graph that other runtimes will run: it uses only operations of `keras.ops`.

    Args:
        fixed_shapes: Whether all shapes must be known beforehand, the number of detections included.
        has_nms: Whether the format has an operation for NMS that is made of TensorFlow's.
    """
    token = _export.set(_Export(fixed_shapes, has_nms))
    try:
        yield
    finally:
        _export.reset(token)


def is_exporting() -> bool:
    """Whether the graph being traced is for another runtime, see `exporting`."""
    return _export.get() is not None


def needs_fixed_shapes() -> bool:
    """Whether all shapes of the graph being traced must be known: with JAX, with XLA, and in some exports."""
    export, backend = _export.get(), keras.backend.backend()
    if export is not None and export.fixed_shapes:
        return True
    return backend == "jax" or (backend == "tensorflow" and is_traced_for_xla())


def tensorflow_kernels() -> ModuleType | None:
    """Returns the module `tensorflow`, or None if another backend is used or the graph being traced can't use kernels.

    Graphs for XLA and for other runtimes can't.
    """
    if is_exporting() or keras.backend.backend() != "tensorflow" or is_traced_for_xla():
        return None
    import tensorflow as tf

    return tf


def tensorflow_nms() -> ModuleType | None:
    """`tensorflow_kernels` for NMS, which can also be exported to formats with such an operation."""
    export = _export.get()
    if export is None or not export.has_nms:
        return tensorflow_kernels()
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


def outside_of_traces() -> AbstractContextManager:
    """A context that computes at once also inside `tf.function` and `jax.jit`: for what outlives the trace."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    if backend == "jax":
        import jax

        return jax.ensure_compile_time_eval()
    return nullcontext()


def is_symbolic(tensor: object) -> bool:
    """Whether a tensor has no values yet: a `keras.KerasTensor`, or one inside `tf.function` or `jax.jit`."""
    if isinstance(tensor, keras.KerasTensor):
        return True
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.is_tensor(tensor) and tf.is_symbolic_tensor(tensor)
    if backend == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    return False
