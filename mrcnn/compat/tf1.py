"""Lets scripts written for TensorFlow 1 keep their `with graph.as_default():` and their `tf.identity`."""

from __future__ import annotations

import contextlib
import functools

import keras


def eager_mode():
    """A context in which Keras 3 works, also inside `with tf.Graph().as_default():` and a TF1 session.

    Such a block puts TensorFlow into graph mode, where a Keras 3 model can neither be built nor run. It is an idiom
    of TF1 scripts and of web servers that call a model from several threads. Outside of one this does nothing.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf
    from tensorflow.python.eager import context

    return contextlib.nullcontext() if tf.executing_eagerly() else context.eager_mode()


@functools.cache
def teach_tf_identity() -> None:
    """Makes `tf.identity` take a layer's symbolic output, as matterport's notebooks do before `run_graph`.

    It gives the output of a `keras.layers.Identity`. For all else `tf.identity` stays as it is. Done once a process.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf
    from tensorflow.python.util import dispatch

    class OfSymbolicTensors(dispatch.OpDispatcher):
        """TensorFlow asks it when `tf.identity` itself has refused its arguments."""

        def handle(self, args, kwargs):
            tensor = args[0] if args else kwargs.get("input")
            return keras.layers.Identity()(tensor) if isinstance(tensor, keras.KerasTensor) else self.NOT_SUPPORTED

    OfSymbolicTensors().register(tf.identity)
