"""Convolutions with faster gradients: the same numbers as Keras's own, with and without oneDNN."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from kit import numpy

from mrcnn.nn.convolution import Conv2D, Conv2DTranspose
from mrcnn.ops import convolution

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernels")


def gradients(function, upstream, *arrays):
    """`function`'s values and the gradients of its arguments by TensorFlow, inside a graph, in float32."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
        return y, tape.gradient(y, tensors, output_gradients=tf.constant(upstream))

    y, found = run(*map(tf.constant, arrays))
    return [numpy(y), *map(numpy, found)]


def operations(function, *arrays) -> set[str]:
    """The types of TensorFlow's operations that compute the gradient of the sum of `function`'s values."""
    import tensorflow as tf

    def run(*tensors):
        return tf.gradients(tf.reduce_sum(function(*tensors)), tensors)

    graph = tf.function(run, autograph=False).get_concrete_function(*map(tf.constant, arrays)).graph
    return {operation.type for operation in graph.get_operations()}


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


@functools.cache
def problem(case):
    """Random arguments for `case`, and what must come out, in float64.

    Returns:
        x, kernel, bias and upstream, float32; values and gradients of x, kernel and bias, float64; for each of these
        four, of how many products each number is the sum.
    """
    side, size, (stride, _), padding = CASES[case]
    rng = np.random.default_rng(0)
    shapes = (2, side, side, 3), (size, size, 3, 5), (5,)
    arrays = x, kernel, bias = [rng.normal(size=shape).astype("float32") for shape in shapes]

    out = -(-side // stride) if padding == "same" else (side - size) // stride + 1
    missing = max((out - 1) * stride + size - side, 0) if padding == "same" else 0
    before, after = missing // 2, missing - missing // 2
    upstream = rng.normal(size=(2, out, out, 5)).astype("float32")
    x = np.pad(x.astype("float64"), [(0, 0), (before, after), (before, after), (0, 0)])
    y, to_x, to_kernel = bias.astype("float64"), np.zeros_like(x), np.zeros(kernel.shape)
    reach = (out - 1) * stride + 1
    for i, j in np.ndindex(size, size):
        window = np.s_[:, i : i + reach : stride, j : j + reach : stride]
        y = y + x[window] @ kernel[i, j].astype("float64")
        to_x[window] += upstream.astype("float64") @ kernel[i, j].T
        to_kernel[i, j] = np.tensordot(x[window], upstream.astype("float64"), axes=([0, 1, 2],) * 2)
    to_x = to_x[:, before : before + side, before : before + side]
    expected = y, to_x, to_kernel, upstream.sum((0, 1, 2), dtype="float64")
    return (*arrays, upstream), expected, (size**2 * 3, size**2 * 5, 2 * out**2, 2 * out**2)


def check(found, expected, lengths):
    """Compares float32 results with the float64 reference.

    Rounding errors grow with the sum. Of n products of random sign and size 1, the partial sum after k of them is about
    sqrt(k), and adding the next rounds it by up to 2^-24 of that. n such errors, of random sign, add up to
    2^-24 * sqrt(1 + 2 + ... + n), about 2^-24 * n. The largest sums are sqrt(n) or more, so the relative error is
    2^-24 * sqrt(n) for sequential sums, and less for sums in blocks. Twice that is allowed, because the worst
    of many numbers is compared.
    """
    for ours, truth, length in zip(found, expected, lengths, strict=True):
        assert ours.shape == truth.shape
        assert np.abs(ours - truth).max() < 2 * 2**-24 * length**0.5 * np.abs(truth).max()


@on_tensorflow
@pytest.mark.parametrize("known", (True, False), ids=("size known", "size unknown"))
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_correct_with_and_without_onednn(case, known):
    import tensorflow as tf

    _, _, strides, padding = CASES[case]
    (x, kernel, bias, upstream), expected, lengths = problem(case)
    for onednn in (True, False):

        def convolve(x, kernel, bias, onednn=onednn):
            if not known:
                x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, None, None, 3))
            return convolution.conv_bias(x, kernel, bias, strides, padding, onednn)

        check(gradients(convolve, upstream, x, kernel, bias), expected, lengths)


@on_tensorflow
@pytest.mark.parametrize("case", CASES)
def test_the_reference_agrees_with_keras_conv2d(case):
    _, size, strides, padding = CASES[case]
    (x, kernel, bias, upstream), expected, lengths = problem(case)

    def convolve(x, kernel, bias):
        if size == 1:  # TensorFlow 2.21 ends the process at the gradient of a kernel 1 x 1 with strides and 3 channels
            return ops.conv(x[:, :: strides[0], :: strides[1]], kernel) + bias
        return ops.conv(x, kernel, strides, padding) + bias

    check(gradients(convolve, upstream, x, kernel, bias), expected, lengths)


@on_tensorflow
@pytest.mark.parametrize("known", (True, False), ids=("size known", "size unknown"))
@pytest.mark.parametrize("used", (0, 1, 100, 200))
@pytest.mark.parametrize("size", (1, 3))
def test_gradients_of_few_used_pixels_equal_those_of_all(used, size, known):
    """Corners and neighbors included; 100 of the 800 pixels are the most that are computed alone."""
    import tensorflow as tf

    rng = np.random.default_rng(used)
    x, kernel = rng.normal(size=(2, 20, 20, 3)).astype("float32"), rng.normal(size=(size, size, 3, 5)).astype("float32")
    upstream = np.zeros((800, 5), "float32")
    rows = np.r_[[0, 19, 399, 400, 799, 1], rng.permutation(np.arange(20, 380))][:used]
    upstream[rows] = rng.normal(size=(used, 5))

    def convolve(x, kernel, bias, few_used):
        if not known:
            x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, None, None, 3))
        return convolution.conv_bias(x, kernel, bias, padding="same", few_used=few_used)

    found, expected = (
        gradients(functools.partial(convolve, few_used=few), upstream.reshape(2, 20, 20, 5), x, kernel, np.ones(5, "f"))
        for few in (True, False)
    )
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth, atol=2e-5)


@on_tensorflow
@pytest.mark.parametrize(("used", "expected"), ((98, "matrix products"), (99, "convolutions")))
def test_few_used_pixels_need_no_convolution_for_their_gradients(monkeypatch, used, expected):
    import tensorflow as tf

    taken, windows = [], convolution._windows
    monkeypatch.setattr(convolution, "_windows", lambda *args: taken.append("matrix products") or windows(*args))
    backward = convolution._input_gradient
    monkeypatch.setattr(convolution, "_input_gradient", lambda *args: taken.append("convolutions") or backward(*args))
    upstream = np.zeros((784, 5), "float32")
    upstream[:used] = 1
    with tf.GradientTape() as tape:  # eagerly, so that only the branch that is taken runs
        x = tf.Variable(tf.ones((1, 28, 28, 3)))
        y = convolution.conv_bias(x, tf.ones((3, 3, 3, 5)), padding="same", few_used=True)
    tape.gradient(y, x, output_gradients=tf.constant(upstream.reshape(1, 28, 28, 5)))
    assert taken == [expected]


@on_tensorflow
def test_a_gradient_that_is_not_a_number_is_not_lost():
    """NaN isn't zero: training must see it (`training.guard`)."""
    upstream = np.zeros((1, 20, 20, 5), "float32")
    upstream[0, 3, 3, 2] = np.nan
    arrays = np.ones((1, 20, 20, 3), "float32"), np.ones((3, 3, 3, 5), "float32")
    _, to_x, to_kernel = gradients(
        lambda x, kernel: convolution.conv_bias(x, kernel, padding="same", few_used=True), upstream, *arrays
    )
    assert np.isnan(to_x[0, 2:5, 2:5]).all() and np.isnan(to_kernel[..., 2]).all()
    assert np.isfinite(to_x[0, 6:]).all() and np.isfinite(to_kernel[..., 0]).all()


@on_tensorflow
def test_a_convolution_without_bias_has_the_same_gradients():
    (x, kernel, bias, upstream), (y, to_x, to_kernel, _), lengths = problem("3 x 3, small")
    for onednn in (True, False):

        def convolve(x, kernel, onednn=onednn):
            return convolution.conv_bias(x, kernel, None, padding="same", onednn=onednn)

        check(gradients(convolve, upstream, x, kernel), (y - bias, to_x, to_kernel), lengths[:3])


@on_tensorflow
def test_a_projection_has_the_gradients_of_a_matrix_product():
    rng = np.random.default_rng(0)
    x, kernel, upstream = (rng.normal(size=shape).astype("float32") for shape in ((5, 40), (40, 7), (5, 7)))
    expected = [a @ b for a, b in ((x, kernel), (upstream, kernel.T), (x.T, upstream))]
    for onednn in (True, False):
        found = gradients(lambda x, kernel, on=onednn: convolution.project(x, kernel, on), upstream, x, kernel)
        check(found, expected, (40, 7, 5))


@on_tensorflow
def test_each_gradient_uses_its_fast_kernel():
    """The wrong choice would give the same numbers, but more slowly."""

    def taken(side, onednn, filters=4, size=3):
        arrays = np.ones((1, side, side, 2), "float32"), np.ones((size, size, 2, filters), "float32")
        return operations(lambda x, k: convolution.conv_bias(x, k, padding="same", onednn=onednn), *arrays)

    filter_kernel, input_kernel = "Conv2DBackpropFilter", "Conv2DBackpropInput"
    assert {filter_kernel, input_kernel} <= taken(64, True) and "GatherV2" not in taken(64, True)
    assert {filter_kernel, input_kernel, "GatherV2"} <= taken(128, True)  # in strips
    assert not {filter_kernel, input_kernel} & taken(64, False)
    assert input_kernel in taken(4, False) and filter_kernel not in taken(4, False)  # few pixels
    assert input_kernel in taken(64, False, filters=32)  # many more filters than channels
    assert filter_kernel not in taken(64, True, size=1)


SETTINGS = {
    "plain": {},
    "with an activation": {"activation": "relu", "padding": "same", "strides": 2},
    "without bias": {"use_bias": False},
    "in groups": {"groups": 3},
    "dilated": {"dilation_rate": 2},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_layer_matches_keras_conv2d(settings):
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype("float32")
    theirs = layers.Conv2D(6, 3, name="a", **settings)
    ours = Conv2D.from_config(theirs.get_config())
    expected = numpy(theirs(x))
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(numpy(ours(x)), expected, atol=1e-5)
    assert ours.get_config() == theirs.get_config()


# ---- Transposed ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_our_transposed_convolution_is_keras_s(strides, activation):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    ours = Conv2DTranspose(6, 2, strides=strides, activation=activation)
    keras_own = layers.Conv2DTranspose.from_config(ours.get_config())
    for layer in (ours, keras_own):
        layer.build(x.shape)
    ours.bias.assign(np.arange(6) - 2.5)
    keras_own.set_weights(ours.get_weights())
    np.testing.assert_allclose(numpy(ours(x)), numpy(keras_own(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a matrix product under JAX")
def test_gradients_of_the_transposed_convolution_are_those_of_keras():
    import jax

    rng = np.random.default_rng(0)
    x, kernel, bias, upstream = (
        rng.normal(size=shape).astype("float32") for shape in ((3, 5, 4, 6), (2, 3, 7, 6), (7,), (3, 10, 12, 7))
    )

    def keras_own(x, kernel, bias):
        return ops.conv_transpose(x, kernel, (2, 3), "valid") + bias

    def ours(x, kernel, bias):
        return convolution.conv_transpose_bias(x, kernel, bias, (2, 3))

    (y, expected), (y_ours, found) = (
        (function(x, kernel, bias), jax.vjp(function, x, kernel, bias)[1](upstream)) for function in (keras_own, ours)
    )
    np.testing.assert_allclose(y_ours, y, rtol=1e-5, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(np.max(np.abs(other))))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, kernel, bias))
