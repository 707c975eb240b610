"""Convolutions whose gradients take less time on CPUs under TensorFlow.

TensorFlow computes the gradients of a convolution much more slowly than the convolution itself. `conv_bias` computes
the same gradients in other ways, one function each. Which is faster depends on whether TensorFlow uses oneDNN
(`tensorflow_private.onednn_is_on`). docs/processors.md has the measurements; benchmarks/processor.py repeats them.

Shapes: B images, H x W the map, C input channels, F filters, k the side of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from mrcnn.ops.kernels import has_accelerator, tensorflow_kernels
from mrcnn.ops.types import Tensor
from mrcnn.tensorflow_private import onednn_is_on

STRIP_ROWS = 8
MIN_STRIP_PIXELS = 128 * 128  # H * W; smaller maps are not cut into strips
MIN_FLIP_PIXELS = 128  # B * H * W; below that, flipping the kernel costs more than it saves
MAX_USED_SHARE = 1 / 8  # of the pixels; if more have a gradient, all are computed together


def conv_bias(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, int] = (1, 1),
    padding: str = "valid",
    onednn: bool | None = None,
    few_used: bool = False,
) -> Tensor:
    """A convolution plus bias, like `keras.layers.Conv2D` without an activation.

    Args:
        x: [B, H, W, C].
        kernel: [h, w, C, F].
        bias: [F], or None for no bias.
        strides: rows and columns.
        padding: "valid" or "same".
        onednn: under TensorFlow on a CPU, whether to choose the gradients that are fast with oneDNN, or those that are
            fast without it. None: what TensorFlow uses.
        few_used: whether the loss often depends on few pixels of the output. Their gradients are then computed alone
            (`_gradients_of_used_pixels`) if they are at most `MAX_USED_SHARE`, which each call finds out.

    Returns:
        [B, H / stride, W / stride, F]. Values and gradients equal those of `keras.ops.conv` and `add` up to rounding.

    Example:
        >>> from keras import ops
        >>> x, kernel = ops.ones((1, 8, 8, 3)), ops.ones((3, 3, 3, 16))
        >>> tuple(conv_bias(x, kernel, ops.zeros(16), padding="same").shape)
        (1, 8, 8, 16)
    """
    tf = tensorflow_kernels()
    if tf is None or tf.config.list_logical_devices("GPU"):
        return keras_conv_bias(x, kernel, bias, strides, padding)
    settings = {"strides": [1, *strides, 1], "padding": padding.upper()}
    onednn = onednn_is_on() if onednn is None else onednn

    @tf.custom_gradient
    def convolve(x, kernel, *bias):
        def of_all_pixels(upstream):
            return (
                _input_gradient(tf, x, kernel, upstream, settings, onednn),
                _kernel_gradient(tf, x, kernel.shape, upstream, settings, onednn),
            )

        def gradient(upstream):
            if few_used and _keeps_size(kernel.shape, settings):
                both = _gradients_of_used_pixels(tf, x, kernel, upstream, lambda: of_all_pixels(upstream))
            else:
                both = of_all_pixels(upstream)
            return (*both, *(_bias_gradient(tf, upstream) for _ in bias))

        y = tf.nn.conv2d(x, kernel, **settings)
        return (tf.nn.bias_add(y, *bias) if bias else y), gradient

    return convolve(x, kernel) if bias is None else convolve(x, kernel, bias)


def keras_conv_bias(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, int] = (1, 1),
    padding: str = "valid",
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """`conv_bias` with the backend's own gradients: `keras.ops.conv` and `add`, or PyTorch's convolution.

    Under PyTorch, `keras.ops.conv` copies the map twice, to "channels first" and back (docs/processors.md).

    Args: as for `conv_bias`. `dilation`: rows and columns between the kernel's values. A kernel with fewer input
        channels than `x` is a convolution in groups.
    """
    if keras.backend.backend() != "torch":
        y = ops.conv(x, kernel, strides, padding, dilation_rate=dilation)
        return y if bias is None else ops.add(y, bias)  # TensorFlow fuses `ops.add`, but not `y + bias`
    import torch

    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    pads = (0, 0)
    if padding == "same":
        sides = zip(x.shape[1:3], kernel.shape[:2], strides, dilation, strict=True)
        totals = [max((-(-size // step) - 1) * step + (k - 1) * gap + 1 - size, 0) for size, k, step, gap in sides]
        pads = tuple(total // 2 for total in totals)
        if any(total % 2 for total in totals):  # one more row or column below or on the right
            (top, left), (down, across) = pads, totals
            x = torch.nn.functional.pad(x, (0, 0, left, across - left, top, down - top))
            pads = (0, 0)
    groups = x.shape[-1] // kernel.shape[2]
    maps, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)  # views
    y = torch.nn.functional.conv2d(maps, kernel, bias, tuple(strides), pads, tuple(dilation), groups)
    return y.permute(0, 2, 3, 1)


def conv_transpose_bias(
    x: Tensor, kernel: Tensor, bias: Tensor | None = None, strides: tuple[int, int] = (1, 1)
) -> Tensor:
    """A transposed convolution plus bias, like `keras.layers.Conv2DTranspose` with padding "valid".

    Under PyTorch, `keras.ops.conv_transpose` copies the map twice, to "channels first" and back. Under JAX on a CPU,
    the gradient of its kernel takes 70 times as long as the convolution, so a kernel as large as the strides is a
    matrix product there (docs/processors.md).

    Args:
        x: [B, H, W, C].
        kernel: [h, w, F, C].
        bias: [F], or None.
        strides: rows and columns.

    Returns:
        [B, H * stride + max(h - stride, 0), ..., F]. Values and gradients equal those of `keras.ops` up to rounding.
    """
    strides, sides = tuple(strides), tuple(kernel.shape[:2])
    backend = keras.backend.backend()
    if backend == "torch" and all(side >= stride for side, stride in zip(sides, strides, strict=True)):
        import torch

        x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
        bias = None if bias is None else ops.convert_to_tensor(bias)
        maps, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)  # views
        return torch.nn.functional.conv_transpose2d(maps, kernel, bias, strides).permute(0, 2, 3, 1)
    if backend == "jax" and sides == strides and not has_accelerator():
        y = _spread_by_matmul(x, kernel)
    else:
        y = ops.conv_transpose(x, kernel, strides, "valid")
    return y if bias is None else ops.add(y, bias)


def _spread_by_matmul(x, kernel):
    """The transposed convolution whose strides are the kernel's size: each pixel becomes h x w pixels."""
    _, height, width, channels = ops.shape(x)
    down, across, filters, _ = kernel.shape
    kernel = ops.reshape(ops.transpose(kernel, (3, 0, 1, 2)), (channels, -1))  # [C, h * w * F]
    y = ops.reshape(ops.matmul(ops.reshape(x, (-1, channels)), kernel), (-1, height, width, down, across, filters))
    return ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height * down, width * across, filters))


def activate(y: Tensor, activation: Callable) -> Tensor:
    """`activation(y)`. Under PyTorch a ReLU is computed in the memory of y, which nothing else may use.

    The gradient of the convolution that has computed y doesn't need it.
    """
    if keras.backend.backend() == "torch" and activation is keras.activations.relu:
        return y.relu_()
    return activation(y)


def project(x: Tensor, kernel: Tensor, onednn: bool | None = None) -> Tensor:
    """`keras.ops.matmul(x, kernel)` for few rows and a large kernel, such as a fully connected layer's.

    Args:
        x: [N, C].
        kernel: [C, F].
        onednn: as in `conv_bias`.

    Returns:
        [N, F]. Without oneDNN, TensorFlow's gradient of `x` takes 3 times as long as the product itself; its transpose,
        kernel x upstream^T, doesn't. Benchmark: docs/processors.md, "Gradients".
    """
    tf = tensorflow_kernels()
    if tf is None or tf.config.list_logical_devices("GPU") or (onednn_is_on() if onednn is None else onednn):
        return ops.matmul(x, kernel)

    @tf.custom_gradient
    def multiply(x, kernel):
        def gradient(upstream):
            to_x = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            return to_x, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, kernel), gradient

    return multiply(x, kernel)


# ---- Few pixels ----------------------------------------------------------------------------------------------------
def _gradients_of_used_pixels(tf, x, kernel, upstream, of_all_pixels):
    """The gradients of input and kernel, by matrix products over the n pixels whose upstream gradient isn't zero.

    In the RPN, which the losses see through a few hundred sampled anchors, this saves two of three convolutions
    (docs/performance.md). The sums have a fixed order, so equal steps give equal bits.

    Returns:
        [B, H, W, C] and [h, w, C, F]; those of `of_all_pixels()` if n is more than `MAX_USED_SHARE` of the pixels.
    """
    gradients = tf.reshape(upstream, (-1, upstream.shape[-1]))  # [B * H * W, F]
    used = tf.where(tf.reduce_any(tf.not_equal(gradients, 0), axis=1))[:, 0]  # [n]

    def of_used_pixels():
        places = _windows(tf, used, tf.shape(x, tf.int64), kernel.shape)  # [n * h * w]
        pixels = tf.reshape(x, (-1, x.shape[-1]))
        values = tf.where(places[:, None] < 0, tf.zeros((), x.dtype), tf.gather(pixels, tf.maximum(places, 0)))
        chosen = tf.gather(gradients, used)  # [n, F]
        windows = tf.reshape(values, (-1, kernel.shape[:3].num_elements()))  # [n, h * w * C]
        to_kernel = tf.reshape(tf.matmul(windows, chosen, transpose_a=True), kernel.shape)
        to_windows = tf.matmul(chosen, tf.reshape(kernel, (-1, kernel.shape[-1])), transpose_b=True)
        to_values = tf.cast(tf.reshape(to_windows, (-1, x.shape[-1])), "float32")  # more exact than 16-bit sums
        to_pixels = tf.math.unsorted_segment_sum(to_values, places, tf.shape(pixels)[0])
        return tf.reshape(tf.cast(to_pixels, x.dtype), tf.shape(x)), to_kernel

    few = tf.size(used) <= tf.cast(MAX_USED_SHARE * tf.cast(tf.shape(gradients)[0], "float32"), "int32")
    to_x, to_kernel = tf.cond(few, of_used_pixels, of_all_pixels)
    return tf.ensure_shape(to_x, x.shape), tf.ensure_shape(to_kernel, kernel.shape)


def _windows(tf, pixels, map_shape, kernel_shape):
    """[n] numbers of pixels -> [n * h * w] numbers of the pixels under a kernel around each; -1 outside the map."""
    _, height, width, _ = tf.unstack(map_shape)
    image, y, x = pixels // (height * width), pixels // width % height, pixels % width
    down, across = (tf.range(size, dtype=tf.int64) - size // 2 for size in kernel_shape[:2])
    ys, xs = y[:, None, None] + down[:, None], x[:, None, None] + across  # [n, h, 1], [n, 1, w]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)  # [n, h, w]
    places = tf.where(inside, (image[:, None, None] * height + ys) * width + xs, tf.constant(-1, tf.int64))
    return tf.reshape(places, [-1])


# ---- Input ---------------------------------------------------------------------------------------------------------
def _input_gradient(tf, x, kernel, upstream, settings, onednn):
    """[B, H, W, C]: the gradient of the convolution's input."""
    pixels = x.shape[:3].num_elements()  # None if a size is unknown
    many = pixels is None or pixels >= MIN_FLIP_PIXELS
    *_, channels, filters = kernel.shape
    if not onednn and _keeps_size(kernel.shape, settings) and many and filters <= 4 * channels:
        return _input_gradient_by_flipped_kernel(tf, kernel, upstream)
    return tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **settings)


def _input_gradient_by_flipped_kernel(tf, kernel, upstream):
    """The forward convolution of `upstream` with the flipped kernel: without oneDNN 1.2 to 1.5 times as fast.

    Not with many more filters than channels, for these become its channels and filters, and a convolution to few
    filters is slow. Benchmark: docs/processors.md, "Gradients".
    """
    height, width, channels, filters = kernel.shape
    positions = tf.reshape(kernel, (height * width, channels, filters))
    flipped = tf.transpose(tf.gather(positions, list(range(height * width))[::-1]), (0, 2, 1))
    return tf.nn.conv2d(upstream, tf.reshape(flipped, (height, width, filters, channels)), 1, "SAME")


# ---- Kernel --------------------------------------------------------------------------------------------------------
def _kernel_gradient(tf, x, shape, upstream, settings, onednn):
    """[h, w, C, F]: the gradient of the convolution's kernel."""
    _, down, across, _ = settings["strides"]
    # With strides, TensorFlow 2.21 crashes if there are fewer than 16 channels, and is faster if there are more.
    if shape[:2] == (1, 1) and (down == across == 1 or shape[2] < 16):
        return _kernel_gradient_by_matmul(tf, x[:, ::down, ::across], shape, upstream)
    if onednn:
        if shape[:2] == (3, 3) and _keeps_size(shape, settings) and _may_be_large(x):
            x, upstream = _strips(tf, x, upstream)
            settings = {**settings, "padding": "VALID"}
    elif down == across == 1 and (settings["padding"] == "VALID" or _keeps_size(shape, settings)):
        return _kernel_gradient_by_convolution(tf, x, shape, upstream, settings)
    return tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=shape, out_backprop=upstream, **settings)


def _kernel_gradient_by_matmul(tf, x, shape, upstream):
    """For 1 x 1 kernels: one matrix product over all pixels (docs/performance.md)."""
    pixels, gradients = tf.reshape(x, (-1, shape[2])), tf.reshape(upstream, (-1, shape[3]))
    return tf.reshape(tf.matmul(pixels, gradients, transpose_a=True), shape)


def _kernel_gradient_by_convolution(tf, x, shape, upstream, settings):
    """The forward convolution of the map with `upstream` as the kernel, and images and channels swapped.

    Without oneDNN 1.1 to 1.5 times as fast as TensorFlow's kernel. Benchmark: docs/processors.md, "Gradients".
    """
    height, width = ((size // 2 if settings["padding"] == "SAME" else 0) for size in shape[:2])
    x = tf.pad(x, [[0, 0], [height, height], [width, width], [0, 0]])
    x, upstream = tf.transpose(x, (3, 1, 2, 0)), tf.transpose(upstream, (1, 2, 0, 3))  # [C, H, W, B], [H, W, B, F]
    gradient = tf.nn.conv2d(x, upstream, 1, "VALID")  # [C, h, w, F]
    return tf.reshape(tf.transpose(gradient, (1, 2, 0, 3)), shape)


def _strips(tf, x, upstream):
    """Cuts a map, and the gradient of its 3 x 3 convolution, into strips of `STRIP_ROWS` rows, n in all.

    oneDNN divides the kernel's gradient among the cores by images, so it is faster if each strip is an image
    (docs/performance.md). A strip of the map has one more row and column on each side. A last strip that isn't full
    is filled up with zeros, which add nothing to the sum.

    Returns:
        [n, STRIP_ROWS + 2, W + 2, C], [n, STRIP_ROWS, W, F].
    """
    height, width = (tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis] for axis in (1, 2))
    count = -(-height // STRIP_ROWS)
    missing = count * STRIP_ROWS - height
    if not (isinstance(missing, int) and missing == 0):
        upstream = tf.pad(upstream, [[0, 0], [0, missing], [0, 0], [0, 0]])
    x = tf.pad(x, [[0, 0], [1, 1 + missing], [1, 1], [0, 0]])
    rows = tf.range(count)[:, None] * STRIP_ROWS + tf.range(STRIP_ROWS + 2)
    x = tf.gather(x, tf.reshape(rows, [-1]), axis=1)
    return (
        tf.reshape(x, (-1, STRIP_ROWS + 2, width + 2, x.shape[-1])),
        tf.reshape(upstream, (-1, STRIP_ROWS, width, upstream.shape[-1])),
    )


# ---- Bias ----------------------------------------------------------------------------------------------------------
def _bias_gradient(tf, upstream):
    """[F]: the sum over all pixels, as a product with ones.

    Otherwise TensorFlow makes it part of the kernel's gradient, which becomes slower (docs/performance.md).
    """
    pixels = tf.reshape(upstream, (-1, upstream.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(pixels)[0]), pixels.dtype), pixels)[0]


# ---- Conditions ----------------------------------------------------------------------------------------------------
def _keeps_size(shape, settings) -> bool:
    """Whether the output is as large as the input: stride 1, and the kernel 1 x 1 or odd with padding "same"."""
    height, width = shape[:2]
    padded = settings["padding"] == "SAME" and height % 2 == width % 2 == 1
    return settings["strides"] == [1] * 4 and (padded or height == width == 1)


def _may_be_large(x) -> bool:
    """Whether H * W >= MIN_STRIP_PIXELS, or unknown because the size changes from batch to batch."""
    pixels = x.shape[1:3].num_elements()
    return pixels is None or pixels >= MIN_STRIP_PIXELS
