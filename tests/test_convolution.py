"""Convolutions whose gradients are put together otherwise: the same numbers as Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from kit import numpy

from mrcnn.nn.convolution import Conv2D
from mrcnn.ops import convolution

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernels")


def gradients(function, *arrays):
    """Of the sum of `function`'s values, each times another number, by TensorFlow, inside a graph."""
    import tensorflow as tf

    @tf.function
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
            weights = tf.cos(tf.cast(tf.range(tf.size(y)), y.dtype))
            total = tf.reduce_sum(y * tf.reshape(weights, tf.shape(y)))
        return y, tape.gradient(total, tensors)

    y, found = run(*map(tf.constant, arrays))
    return [numpy(y), *map(numpy, found)]


CASES = {
    "1 x 1": (20, 1, (1, 1), "same"),
    "1 x 1, every second pixel": (20, 1, (2, 2), "valid"),
    "3 x 3, small": (20, 3, (1, 1), "same"),
    "3 x 3, in strips": (128, 3, (1, 1), "same"),
    "3 x 3, the last strip not full": (131, 3, (1, 1), "same"),
    "3 x 3, no border": (130, 3, (1, 1), "valid"),
    "3 x 3, every second pixel": (21, 3, (2, 2), "same"),
    "7 x 7": (21, 7, (2, 2), "valid"),
}


@on_tensorflow
@pytest.mark.parametrize("known", (True, False), ids=("size known", "size unknown"))
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_kerass_convolution(case, known):
    import tensorflow as tf

    side, size, strides, padding = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel, bias = (
        rng.normal(size=shape).astype("float32") for shape in ((2, side, side, 3), (size, size, 3, 5), (5,))
    )

    def ours(x, kernel, bias):
        if not known:
            x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, None, None, 3))
        return convolution.conv_bias(x, kernel, bias, strides, padding)

    def kerass(x, kernel, bias):
        if size == 1:  # TensorFlow 2.21 ends the process at the gradient of a kernel 1 x 1 with strides and 3 channels
            return ops.conv(x[:, :: strides[0], :: strides[1]], kernel) + bias
        return ops.conv(x, kernel, strides, padding) + bias

    for found, expected in zip(gradients(ours, x, kernel, bias), gradients(kerass, x, kernel, bias), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@on_tensorflow
def test_large_maps_are_cut_into_strips_and_small_ones_are_not(monkeypatch):
    cut = []
    strips = convolution._strips
    monkeypatch.setattr(convolution, "_strips", lambda tf, x, dy: cut.append(x.shape[1]) or strips(tf, x, dy))
    kernel, bias = np.ones((3, 3, 2, 4), "float32"), np.zeros(4, "float32")
    for side in (64, 128):
        x = np.ones((1, side, side, 2), "float32")
        gradients(lambda x, k, b: convolution.conv_bias(x, k, b, padding="same"), x, kernel, bias)
    assert cut == [128]


SETTINGS = {
    "plain": {},
    "with an activation": {"activation": "relu", "padding": "same", "strides": 2},
    "without bias": {"use_bias": False},
    "in groups": {"groups": 3},
    "dilated": {"dilation_rate": 2},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_layer_is_kerass_layer(settings):
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype("float32")
    theirs = layers.Conv2D(6, 3, name="a", **settings)
    ours = Conv2D.from_config(theirs.get_config())
    expected = numpy(theirs(x))
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(numpy(ours(x)), expected, atol=1e-5)
    assert ours.get_config() == theirs.get_config()
