"""The private parts of TensorFlow that this package relies on, each in one function.

Checked with TensorFlow 2.18 and 2.21 (.ci/run runs `tests/wheel_smoke.py` with the oldest version allowed). TensorFlow
must be the backend; it is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


def is_traced_for_xla() -> bool:
    """Whether the graph being traced will be compiled by XLA."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def onednn_is_on() -> bool:
    """Whether TensorFlow computes with oneDNN on this CPU.

    It does if `TF_ENABLE_ONEDNN_OPTS` is 1, or if it isn't set and the CPU has AVX-512 VNNI (docs/processors.md).
    """
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def eager_mode() -> AbstractContextManager:
    """A context that switches eager execution on, inside `with tf.Graph().as_default():` and TF1 sessions."""
    from tensorflow.python.eager import context

    return context.eager_mode()


def on_refused_arguments(api: Callable, fallback: Callable[..., Any], accepts: Callable[[tuple, dict], bool]) -> None:
    """Makes a TensorFlow function call `fallback` for arguments that it refuses and that `accepts(args, kwargs)`."""
    from tensorflow.python.util import dispatch

    class Fallback(dispatch.OpDispatcher):
        def handle(self, args, kwargs):
            return fallback(*args, **kwargs) if accepts(args, kwargs) else self.NOT_SUPPORTED

    Fallback().register(api)
