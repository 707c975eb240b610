"""Whether TensorFlow's own kernels can be used here.

`ops.nms` and `ops.roi_align` are written with `keras.ops` and have a second body for TensorFlow, where its compiled
kernels do the same work in less time and memory. XLA has no such kernels, so graphs made for it take the first body.
"""

from __future__ import annotations

import keras


def tensorflow_kernels():
    """The module `tensorflow` if that is the backend and what is being traced is not for XLA, otherwise None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext  # no public name tells this

    for_xla = not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    return None if for_xla else tf


def onednn_is_on() -> bool:
    """Whether TensorFlow, which must be the backend, computes with oneDNN on this CPU.

    It does if `TF_ENABLE_ONEDNN_OPTS` says so, or isn't set and the CPU has AVX-512 VNNI (`mrcnn.processor`).
    """
    from tensorflow.python.util import _pywrap_util_port  # no public name tells this

    return _pywrap_util_port.IsMklEnabled()
