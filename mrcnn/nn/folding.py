"""BatchNorm folded into the convolution before it, for inference.

    BatchNorm(conv(x, K) + b)  =  conv(x, K * s) + (b - mean) * s + beta        s = gamma / sqrt(variance + epsilon)

A feature map has many more values than a kernel, so this saves two passes over each map, and TensorFlow can fuse bias
and ReLU into the convolution. The kernels are multiplied in the graph at each call, because weights may change at any
time. In training it gains nothing (docs/performance.md, "folding").

Shapes: B images, h x w the map.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import TimeDistributed
from mrcnn.ops.convolution import keras_conv_bias
from mrcnn.ops.kept_kernels import KeptKernels, in_convolution_order
from mrcnn.ops.types import Tensor

FOLDABLE = (layers.Conv2D, Conv2D)  # not `WholeConv2D`: the class head's kernel is larger than its map


class FoldedConv2D(layers.Layer):
    """A convolution and the BatchNorm after it as one convolution, with the weights of both.

    Args:
        conv: Built `Conv2D` or `DepthwiseConv2D` without activation.
        norm: Built `BatchNormalization` over the channels, used with its running statistics.

    Call arguments: [B, h, w, channels], as for `conv`.

    Returns:
        `norm(conv(x), training=False)`, up to rounding.
    """

    def __init__(self, conv: layers.Layer, norm: layers.BatchNormalization, **kwargs: Any):
        super().__init__(**{"dtype": conv.dtype_policy, "name": f"{norm.name}_folded", **kwargs})
        self.conv, self.norm = conv, norm
        self.autocast = False  # kernels are multiplied in float32, and rounded once
        self._kept = KeptKernels()

    def build(self, input_shape: Any) -> None:
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.conv.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        weights = [conv.kernel, conv.bias, norm.moving_mean, norm.moving_variance]
        weights += [norm.gamma] * norm.scale + [norm.beta] * norm.center
        kernel, bias = self._kept.get(weights, self._fold)
        x = ops.cast(inputs, self.compute_dtype)
        if not isinstance(conv, layers.DepthwiseConv2D):
            return keras_conv_bias(x, kernel, bias, conv.strides, conv.padding, conv.dilation_rate)
        x = ops.depthwise_conv(x, kernel, conv.strides, conv.padding, dilation_rate=conv.dilation_rate)
        return ops.add(x, bias)  # becomes a `BiasAdd`, which TensorFlow fuses with the convolution, unlike `x + bias`

    def _fold(self) -> tuple[Tensor, Tensor]:
        """The kernel and bias of the convolution and the normalization together."""
        conv, norm = self.conv, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = -norm.moving_mean if conv.bias is None else conv.bias - norm.moving_mean
        bias = bias * scale
        if norm.center:
            bias = bias + norm.beta
        depthwise = isinstance(conv, layers.DepthwiseConv2D)  # kernel [h, w, C, 1], otherwise [h, w, C0, C]
        kernel = conv.kernel * (scale[:, None] if depthwise else scale)
        kernel, bias = ops.cast(kernel, self.compute_dtype), ops.cast(bias, self.compute_dtype)
        return (kernel if depthwise else in_convolution_order(kernel)), bias


def fold_batchnorm(inputs: Tensor | list, outputs: Tensor | list | dict) -> keras.Model:
    """Builds a model for inference over the same layers, with every foldable BatchNorm folded.

    BatchNorm that uses batch statistics even in inference (`train_bn=True`) is not folded, and models nested in the
    graph are not changed.

    Args:
        inputs: As for `keras.Model`.
        outputs: As for `keras.Model`. The given graph is not changed.

    Returns:
        A model with inputs and outputs of the same names. It shares all weights and runtime values and owns none.
    """
    convolutions = {}  # id of the output -> output, layer, input

    def call(layer, *args, **kwargs):
        _, conv, conv_input = convolutions.get(id(args[0]), (None, None, None)) if args else (None, None, None)
        if conv is not None and _is_constant(_unwrap(layer)):
            folded = FoldedConv2D(_unwrap(conv), _unwrap(layer))
            if isinstance(layer, TimeDistributed):
                folded = TimeDistributed(folded, name=f"{layer.name}_folded")
            return folded(conv_input)
        output = layer(*args, **kwargs)
        if _is_foldable(_unwrap(layer)):
            convolutions[id(output)] = output, layer, args[0]
        return output

    return keras.models.clone_model(
        keras.Model(inputs, outputs), clone_function=lambda layer: layer, call_function=call
    )


def _unwrap(layer):
    return layer.layer if isinstance(layer, TimeDistributed) else layer


def _is_foldable(layer) -> bool:
    """Whether the layer is a convolution without activation, with a kernel of a known layout."""
    if isinstance(layer, layers.DepthwiseConv2D):
        known = layer.depth_multiplier == 1
    else:
        known = type(layer) in FOLDABLE
    return known and layer.data_format == "channels_last" and layer.activation is keras.activations.linear


def _is_constant(layer) -> bool:
    """Whether the layer is BatchNorm over the channels that uses its running statistics in inference."""
    if not isinstance(layer, layers.BatchNormalization) or layer.renorm or layer.axis not in (-1, 3):
        return False
    return getattr(layer, "train_bn", None) is not True
