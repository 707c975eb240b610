"""Lets scripts written for TensorFlow 1 keep their `with graph.as_default():` and their `tf.identity`."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager

import keras

from mrcnn import tensorflow_private


def eager_mode() -> AbstractContextManager[None]:
    """A context in which Keras 3 works, even inside `with tf.Graph().as_default():` or a TF1 session.

    Such a block, common in TF1 scripts and in web servers that call a model from several threads, puts TensorFlow into
    graph mode, in which a Keras 3 model can neither be built nor run. Outside of such a block, this has no effect.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return contextlib.nullcontext() if tf.executing_eagerly() else tensorflow_private.eager_mode()


@functools.cache
def teach_tf_identity() -> None:
    """Makes `tf.identity` accept a layer's symbolic output, which matterport's notebooks pass before `run_graph`.

    It returns the output of a `keras.layers.Identity`. Other arguments of `tf.identity` work as before. Runs once per
    process.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    def is_symbolic(args, kwargs):
        return isinstance(args[0] if args else kwargs.get("input"), keras.KerasTensor)

    def identity(input, name=None):
        return keras.layers.Identity()(input)

    tensorflow_private.on_refused_arguments(tf.identity, identity, is_symbolic)
