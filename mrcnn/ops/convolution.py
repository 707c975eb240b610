"""Convolutions that learn faster on processors.

TensorFlow's kernels for the gradients of a convolution's kernel and bias lag behind the convolution itself on a
processor, so here they are put together otherwise, at half the time or less for large maps (benchmarks/README.md):

    bias      a matrix product with ones. TensorFlow would make it part of the kernel's gradient, which slows that down.
    1 x 1     a matrix product of all pixels.
    3 x 3     the map cut into strips, as if each were an image: the work is shared out among the cores by images.

Shapes: B images, H x W the map, C channels in, F filters.
"""

from __future__ import annotations

from keras import ops

from .kernels import tensorflow_kernels

ROWS = 8  # of a strip
SMALLEST = 128 * 128  # pixels of a map from which strips pay


def conv_bias(x, kernel, bias, strides=(1, 1), padding="valid"):
    """A convolution plus bias.

    Args:
        x: [B, H, W, C].
        kernel: [h, w, C, F].
        bias: [F].
        strides, padding: as of `keras.layers.Conv2D`.

    Returns:
        [B, H / stride, W / stride, F]. The gradients are those of `keras.ops.conv` and `add`, but for rounding.
    """
    tf = tensorflow_kernels()
    if tf is None or tf.config.list_logical_devices("GPU"):
        return ops.add(ops.conv(x, kernel, strides, padding), bias)  # TensorFlow fuses this, but not `x + bias`
    settings = {"strides": [1, *strides, 1], "padding": padding.upper()}

    @tf.custom_gradient
    def convolve(x, kernel, bias):
        def gradient(upstream):
            to_x = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **settings
            )
            return to_x, _kernel_gradient(tf, x, kernel.shape, upstream, settings), _bias_gradient(tf, upstream)

        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, **settings), bias), gradient

    return convolve(x, kernel, bias)


def _kernel_gradient(tf, x, shape, upstream, settings):
    """[h, w, C, F]: the gradient of the convolution's kernel."""
    _, down, across, _ = settings["strides"]
    # With strides and fewer channels TensorFlow 2.21's kernel ends the process; with strides and more it is quicker.
    if shape[:2] == (1, 1) and (down == across == 1 or shape[2] < 16):
        pixels, gradients = tf.reshape(x[:, ::down, ::across], (-1, shape[2])), tf.reshape(upstream, (-1, shape[3]))
        return tf.reshape(tf.matmul(pixels, gradients, transpose_a=True), shape)
    if settings == {"strides": [1] * 4, "padding": "SAME"} and shape[:2] == (3, 3) and _is_large(x):
        x, upstream = _strips(tf, x, upstream)
        settings = {**settings, "padding": "VALID"}
    return tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=shape, out_backprop=upstream, **settings)


def _bias_gradient(tf, upstream):
    """[F]: the sum over all pixels."""
    pixels = tf.reshape(upstream, (-1, upstream.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(pixels)[0]), pixels.dtype), pixels)[0]


def _is_large(x) -> bool:
    """Whether the map is large, or may be: sizes that change from batch to batch are not known beforehand."""
    _, height, width, _ = x.shape
    return height is None or width is None or height * width >= SMALLEST


def _strips(tf, x, upstream):
    """Cuts a map, and the gradient of what it was convolved to, into strips of `ROWS` rows, n of them in all images.

    A strip of the map has one more row and column on each side. A last strip that isn't full is filled up with zeros,
    which add nothing.

    Returns: [n, ROWS + 2, W + 2, C], [n, ROWS, W, F].
    """
    height, width = (tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis] for axis in (1, 2))
    count = -(-height // ROWS)
    missing = count * ROWS - height
    if not (isinstance(missing, int) and missing == 0):
        upstream = tf.pad(upstream, [[0, 0], [0, missing], [0, 0], [0, 0]])
    x = tf.pad(x, [[0, 0], [1, 1 + missing], [1, 1], [0, 0]])
    rows = tf.range(count)[:, None] * ROWS + tf.range(ROWS + 2)
    x = tf.gather(x, tf.reshape(rows, [-1]), axis=1)
    return (
        tf.reshape(x, (-1, ROWS + 2, width + 2, x.shape[-1])),
        tf.reshape(upstream, (-1, ROWS, width, upstream.shape[-1])),
    )
