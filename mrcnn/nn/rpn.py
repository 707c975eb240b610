"""Region proposal network: one small head slides over every level of the pyramid (Ren et al., section 3.1).

Shapes: k anchors a location, A anchors over all levels of an image.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.ops.convolution import conv_bias


@keras.saving.register_keras_serializable(package="mrcnn")
class SharedConv2D(Conv2D):
    """A convolution applied to several maps, whose gradient is the same from run to run.

    Call arguments: a list of [B, h, w, channels] of any sizes, or one such map.

    Returns:
        A list, or one map, [B, h / stride, w / stride, filters].

    Five separate calls of one `Conv2D` would leave the sum of five gradients to TensorFlow, which adds them in
    whatever order its buffers come free; the last bits differ, and then so do the proposals and everything after.
    Here each map has its own copy of the kernel, and the gradient of copying is one sum in a fixed order.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # Conv2D's allows a single input only

    def compute_output_spec(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            return super().compute_output_spec(inputs)
        return [super(SharedConv2D, self).compute_output_spec(x) for x in inputs]

    def build(self, input_shape):
        super().build(input_shape[0] if isinstance(input_shape[0], (list, tuple)) else input_shape)
        self.input_spec = None

    def call(self, inputs, training=None):
        if not isinstance(inputs, (list, tuple)):
            return super().call(inputs)
        copies = len(inputs) if training else 1
        kernels, biases = (self._copies(weight, copies) for weight in (self.kernel, self.bias))
        outputs = []
        for i, x in enumerate(inputs):
            x = conv_bias(x, kernels[i % copies], biases[i % copies], self.strides, self.padding)
            outputs.append(self.activation(x))
        return outputs

    def _copies(self, weight, count):
        weight = ops.cast(weight, self.compute_dtype)
        return ops.unstack(ops.broadcast_to(weight[None], (count, *weight.shape)), count)


def rpn_graph(feature_map, anchors_per_location, anchor_stride, channels=512):
    """The head on one level, or on a list of levels with the same weights.

    Args:
        feature_map: [B, h, w, depth], or a list of such.
        anchors_per_location: int, k.
        anchor_stride: int, 1: anchors at every cell, 2: at every second one.
        channels: int, width of the shared convolution; `Config.RPN_CHANNELS`.

    Returns:
        logits [B, h*w*k, (bg, fg)], probs of the same shape, deltas [B, h*w*k, (dy, dx, log dh, log dw)], or a list
        of each; rows run over y, then x, then the anchors of a location.
    """
    several = isinstance(feature_map, (list, tuple))
    shared = SharedConv2D(
        channels, 3, padding="same", activation="relu", strides=anchor_stride, name="rpn_conv_shared"
    )(feature_map)  # fmt: skip
    raw = SharedConv2D(2 * anchors_per_location, 1, name="rpn_class_raw")(shared)  # [B, h, w, 2k]
    boxes = SharedConv2D(4 * anchors_per_location, 1, name="rpn_bbox_pred")(shared)  # [B, h, w, 4k]
    pairs, fours = layers.Reshape((-1, 2), dtype="float32"), layers.Reshape((-1, 4), dtype="float32")
    softmax = layers.Activation("softmax", dtype="float32", name="rpn_class_xxx")
    logits = [pairs(x) for x in (raw if several else [raw])]
    probs = [softmax(x) for x in logits]
    deltas = [fours(x) for x in (boxes if several else [boxes])]
    return [logits, probs, deltas] if several else [logits[0], probs[0], deltas[0]]


def build_rpn_model(anchor_stride, anchors_per_location, depth, levels=None, channels=512):
    """`rpn_graph` as a model named `rpn_model`.

    Args:
        anchor_stride, anchors_per_location: as in `rpn_graph`.
        depth: int, channels of the feature maps.
        levels: int, None: the model takes one level, and can be called on each; else a list of that many.
        channels: int, as in `rpn_graph`.
    """
    if levels is None:
        maps = keras.Input((None, None, depth), name="input_rpn_feature_map")
    else:
        maps = [keras.Input((None, None, depth), name=f"input_rpn_feature_map_{i}") for i in range(levels)]
    return keras.Model(maps, rpn_graph(maps, anchors_per_location, anchor_stride, channels), name="rpn_model")


def rpn_over_pyramid(pyramid, anchors_per_location, anchor_stride, channels=512):
    """The head on P2..P6, concatenated: logits [B, A, 2], probs [B, A, 2], deltas [B, A, 4]."""
    depth = pyramid[0].shape[-1]
    of_levels = build_rpn_model(anchor_stride, anchors_per_location, depth, len(pyramid), channels)(pyramid)
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    return [
        layers.Concatenate(axis=1, name=name, dtype="float32")(parts)
        for name, parts in zip(names, of_levels, strict=True)
    ]
