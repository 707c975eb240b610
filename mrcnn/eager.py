"""Lets scripts written for TensorFlow 1 keep their `with graph.as_default():`."""

from __future__ import annotations

import contextlib

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
