"""Keras's `Conv2D` and `Conv2DTranspose`, faster on CPUs."""

from __future__ import annotations

import keras
from keras import layers, ops

from mrcnn.ops.convolution import activate, conv_bias, conv_transpose_bias
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class Conv2D(layers.Conv2D):
    """`keras.layers.Conv2D` with the same weights, config and values; gradients are faster under TensorFlow on CPUs.

    See `mrcnn.ops.convolution`. Convolutions in groups, dilated ones and "channels_first" are Keras's own.

    Example:
        >>> tuple(Conv2D(16, 3, padding="same", name="conv1")(keras.ops.ones((1, 8, 8, 3))).shape)
        (1, 8, 8, 16)
    """

    def call(self, inputs: Tensor) -> Tensor:
        if self.groups > 1 or self.dilation_rate != (1, 1) or self.data_format != "channels_last":
            return super().call(inputs)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        bias = ops.cast(self.bias, self.compute_dtype) if self.use_bias else None
        return activate(conv_bias(inputs, kernel, bias, self.strides, self.padding), self.activation)


@keras.saving.register_keras_serializable(package="mrcnn")
class Conv2DTranspose(layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with the same weights, config and values; faster under JAX and PyTorch.

    Example:
        >>> tuple(Conv2DTranspose(16, 2, strides=2)(keras.ops.ones((1, 8, 8, 3))).shape)
        (1, 16, 16, 16)
    """

    def call(self, inputs: Tensor) -> Tensor:
        plain = self.padding == "valid" and self.output_padding is None and self.dilation_rate == (1, 1)
        if keras.backend.backend() == "tensorflow" or not plain or self.data_format != "channels_last":
            return super().call(inputs)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        bias = ops.cast(self.bias, self.compute_dtype) if self.use_bias else None
        return activate(conv_transpose_bias(inputs, kernel, bias, self.strides), self.activation)
