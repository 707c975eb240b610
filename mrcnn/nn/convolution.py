"""Keras's `Conv2D`, with gradients that take a processor less time."""

from __future__ import annotations

import keras
from keras import layers, ops

from mrcnn.ops.convolution import conv_bias


@keras.saving.register_keras_serializable(package="mrcnn")
class Conv2D(layers.Conv2D):
    """`keras.layers.Conv2D`; see `ops.convolution` for what is different under TensorFlow on a processor."""

    def call(self, inputs):
        if not self.use_bias or self.groups > 1 or self.dilation_rate != (1, 1) or self.data_format != "channels_last":
            return super().call(inputs)
        kernel, bias = (ops.cast(weight, self.compute_dtype) for weight in (self.kernel, self.bias))
        return self.activation(conv_bias(inputs, kernel, bias, self.strides, self.padding))
