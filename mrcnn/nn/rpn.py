"""Region proposal network (RPN): one small head applied to every level of the pyramid.

Shapes: B images, k anchors per location, A anchors over all levels of an image; a level has h x w locations.

Reference: Ren et al., "Faster R-CNN", section 3.1.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.ops.convolution import activate, conv_bias
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class SharedConv2D(Conv2D):
    """A convolution applied to several maps, with a deterministic gradient.

    With five separate calls of one `Conv2D`, TensorFlow would add up the five gradients in the order in which buffers
    become free. The last bits, and with them the proposals and all that follows, would differ from run to run. Here
    each map has its own copy of the kernel, and the gradient of the copy is one sum in a fixed order.

    Args: as for `keras.layers.Conv2D`.

    Call arguments: list of [B, h, w, channels] of any sizes, or one such map.

    Returns:
        List of [B, h / stride, w / stride, filters], or one map.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # Conv2D's allows a single input only

    def compute_output_spec(self, inputs: Tensor) -> Any:
        if not isinstance(inputs, (list, tuple)):
            return super().compute_output_spec(inputs)
        return [super(SharedConv2D, self).compute_output_spec(x) for x in inputs]

    def build(self, input_shape: Any) -> None:
        super().build(input_shape[0] if isinstance(input_shape[0], (list, tuple)) else input_shape)
        self.input_spec = None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not isinstance(inputs, (list, tuple)):
            return super().call(inputs)
        copies = len(inputs) if training else 1
        kernels, biases = (self._kernel_copies(weight, copies) for weight in (self.kernel, self.bias))
        outputs = []
        for i, x in enumerate(inputs):
            x = conv_bias(x, kernels[i % copies], biases[i % copies], self.strides, self.padding, few_used=True)
            outputs.append(activate(x, self.activation))
        return outputs

    def _kernel_copies(self, weight, count):
        weight = ops.cast(weight, self.compute_dtype)
        return ops.unstack(ops.broadcast_to(weight[None], (count, *weight.shape)), count)


def rpn_graph(
    feature_map: Tensor | list[Tensor],
    anchors_per_location: int,
    anchor_stride: int,
    channels: int = 512,
    convs: int = 1,
    sigmoid: bool = False,
) -> list:
    """Applies the head to one level, or to a list of levels with the same weights.

    Args:
        feature_map: [B, h, w, depth], or a list of such maps.
        anchors_per_location: k.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.
        channels: Width of the shared convolutions, `Config.RPN_CHANNELS`.
        convs: 1 or 2 shared convolutions, `Config.RPN_CONVS`.
        sigmoid: One logit for each anchor. The other one, of the background, is 0: the softmax of both is the sigmoid.

    Returns:
        Logits [B, h*w*k, (bg, fg)], probabilities of the same shape, and deltas [B, h*w*k, (dy, dx, log dh, log dw)],
        or a list of each. Rows are ordered by y, then x, then the anchors of a location.
    """
    several = isinstance(feature_map, (list, tuple))
    shared = SharedConv2D(
        channels, 3, padding="same", activation="relu", strides=anchor_stride, name="rpn_conv_shared"
    )(feature_map)  # fmt: skip
    if convs == 2:
        shared = SharedConv2D(channels, 3, padding="same", activation="relu", name="rpn_conv_shared2")(shared)
    each = 1 if sigmoid else 2
    raw = SharedConv2D(each * anchors_per_location, 1, name="rpn_class_raw")(shared)  # [B, h, w, 2k or k]
    boxes = SharedConv2D(4 * anchors_per_location, 1, name="rpn_bbox_pred")(shared)  # [B, h, w, 4k]
    pairs, fours = layers.Reshape((-1, each), dtype="float32"), layers.Reshape((-1, 4), dtype="float32")
    zero_background = layers.ZeroPadding1D((1, 0), data_format="channels_first", dtype="float32")
    softmax = layers.Activation("softmax", dtype="float32", name="rpn_class_xxx")
    logits = [pairs(x) for x in (raw if several else [raw])]
    if sigmoid:
        logits = [zero_background(x) for x in logits]  # [B, h*w*k, (0, fg)]
    probs = [softmax(x) for x in logits]
    deltas = [fours(x) for x in (boxes if several else [boxes])]
    return [logits, probs, deltas] if several else [logits[0], probs[0], deltas[0]]


def build_rpn_model(
    anchor_stride: int,
    anchors_per_location: int,
    depth: int,
    levels: int | None = None,
    channels: int = 512,
    convs: int = 1,
    sigmoid: bool = False,
) -> keras.Model:
    """Builds `rpn_graph` as a model named `rpn_model`.

    Args:
        anchor_stride: As for `rpn_graph`.
        anchors_per_location: k.
        depth: Channels of the feature maps.
        levels: Number of maps that the model takes as a list; None takes a single map of any level.
        channels: As for `rpn_graph`, like `convs` and `sigmoid`.

    Example:

    >>> logits, probs, deltas = build_rpn_model(1, 3, depth=8, channels=16)(keras.ops.ones((1, 4, 4, 8)))
    >>> tuple(logits.shape), tuple(deltas.shape)
    ((1, 48, 2), (1, 48, 4))
    """
    if levels is None:
        maps = keras.Input((None, None, depth), name="input_rpn_feature_map")
    else:
        maps = [keras.Input((None, None, depth), name=f"input_rpn_feature_map_{i}") for i in range(levels)]
    outputs = rpn_graph(maps, anchors_per_location, anchor_stride, channels, convs, sigmoid)
    return keras.Model(maps, outputs, name="rpn_model")


def rpn_over_pyramid(
    pyramid: list[Tensor],
    anchors_per_location: int,
    anchor_stride: int,
    channels: int = 512,
    convs: int = 1,
    sigmoid: bool = False,
) -> list[Tensor]:
    """Applies the head to P2..P6 and concatenates: logits [B, A, 2], probabilities [B, A, 2], deltas [B, A, 4].

    Args: as for `rpn_graph`.
    """
    depth = pyramid[0].shape[-1]
    of_levels = build_rpn_model(
        anchor_stride, anchors_per_location, depth, len(pyramid), channels, convs, sigmoid
    )(pyramid)  # fmt: skip
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    return [
        layers.Concatenate(axis=1, name=name, dtype="float32")(parts)
        for name, parts in zip(names, of_levels, strict=True)
    ]
