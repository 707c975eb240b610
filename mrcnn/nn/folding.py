"""BatchNorm folded into the convolution before it, for detecting.

    BatchNorm(conv(x, K) + b)  =  conv(x, K * s) + (b - mean) * s + beta        s = gamma / sqrt(variance + epsilon)

A map has many more numbers than a kernel, and two passes over each map are saved; bias, addition and ReLU then become
part of the convolution in TensorFlow. The kernels are multiplied in the graph, every time: weights may change at any
moment. For training it doesn't pay (benchmarks/README.md).
"""

from __future__ import annotations

import keras
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import TimeDistributed

KNOWN = (layers.Conv2D, Conv2D)  # not `WholeConv2D`: the class head's kernel is larger than its map


class FoldedConv2D(layers.Layer):
    """A convolution and the BatchNorm behind it, as one convolution with the weights of both.

    Args:
        conv: built `Conv2D` or `DepthwiseConv2D` without activation.
        norm: built `BatchNormalization` over the channels, used with its running statistics.

    Call arguments: [B, h, w, channels], what `conv` takes.

    Returns:
        What `norm(conv(x), training=False)` gives, but for rounding.
    """

    def __init__(self, conv, norm, **kwargs):
        super().__init__(**{"dtype": conv.dtype_policy, "name": f"{norm.name}_folded", **kwargs})
        self.conv, self.norm = conv, norm
        self.autocast = False  # kernels are multiplied in float32, and rounded once

    def build(self, input_shape):
        self.built = True

    def compute_output_shape(self, input_shape):
        return self.conv.compute_output_shape(input_shape)

    def call(self, inputs):
        conv, norm = self.conv, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = -norm.moving_mean if conv.bias is None else conv.bias - norm.moving_mean
        bias = bias * scale
        if norm.center:
            bias = bias + norm.beta
        depthwise = isinstance(conv, layers.DepthwiseConv2D)  # its kernel is [h, w, C, 1], a plain one's [h, w, C0, C]
        kernel = conv.kernel * (scale[:, None] if depthwise else scale)
        x, kernel, bias = (ops.cast(value, self.compute_dtype) for value in (inputs, kernel, bias))
        if depthwise:
            x = ops.depthwise_conv(x, kernel, conv.strides, conv.padding, dilation_rate=conv.dilation_rate)
        else:
            x = conv.convolution_op(x, kernel)
        return ops.add(x, bias)  # by this name TensorFlow gets a `BiasAdd`, which it fuses with the convolution


def fold_batchnorm(inputs, outputs) -> keras.Model:
    """A graph as a model for detecting, over the same layers, without the BatchNorm that follows a convolution.

    Args:
        inputs, outputs: as of `keras.Model`. The graph is left as it is; models inside it are used as they are.

    Returns:
        keras.Model with inputs and outputs of the same names. It shares all weights and owns none. BatchNorm that uses
        batch statistics even when detecting (`train_bn=True`) stays as it is.
    """
    convolutions = {}  # by the id of what it gives: that tensor, the layer, its input

    def call(layer, *args, **kwargs):
        _, conv, conv_input = convolutions.get(id(args[0]), (None, None, None)) if args else (None, None, None)
        if conv is not None and _is_constant(_inside(layer)):
            folded = FoldedConv2D(_inside(conv), _inside(layer))
            if isinstance(layer, TimeDistributed):
                folded = TimeDistributed(folded, name=f"{layer.name}_folded")
            return folded(conv_input)
        output = layer(*args, **kwargs)
        if _takes_a_scale(_inside(layer)):
            convolutions[id(output)] = output, layer, args[0]
        return output

    return keras.models.clone_model(
        keras.Model(inputs, outputs), clone_function=lambda layer: layer, call_function=call
    )


def _inside(layer):
    return layer.layer if isinstance(layer, TimeDistributed) else layer


def _takes_a_scale(layer) -> bool:
    """Whether the layer is a convolution whose result is linear in one kernel of a known layout."""
    if isinstance(layer, layers.DepthwiseConv2D):
        known = layer.depth_multiplier == 1
    else:
        known = type(layer) in KNOWN
    return known and layer.data_format == "channels_last" and layer.activation is keras.activations.linear


def _is_constant(layer) -> bool:
    """Whether the layer is BatchNorm over the channels that uses its running statistics when detecting."""
    if not isinstance(layer, layers.BatchNormalization) or layer.renorm or layer.axis not in (-1, 3):
        return False
    return getattr(layer, "train_bn", None) is not True
