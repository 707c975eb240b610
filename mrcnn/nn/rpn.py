"""Region proposal network: one small head slides over every level of the pyramid (Ren et al., section 3.1).

Shapes: k anchors a location, A anchors over all levels of an image.
"""

from __future__ import annotations

import keras
from keras import layers


def rpn_graph(feature_map, anchors_per_location, anchor_stride):
    """The head on one level.

    Args:
        feature_map: [B, h, w, depth].
        anchors_per_location: int, k.
        anchor_stride: int, 1: anchors at every cell, 2: at every second one.

    Returns:
        logits [B, h*w*k, (bg, fg)], probs of the same shape, deltas [B, h*w*k, (dy, dx, log dh, log dw)]; rows run
        over y, then x, then the anchors of a location.
    """
    shared = layers.Conv2D(
        512, 3, padding="same", activation="relu", strides=anchor_stride, name="rpn_conv_shared"
    )(feature_map)  # fmt: skip
    x = layers.Conv2D(2 * anchors_per_location, 1, name="rpn_class_raw")(shared)  # [B, h, w, 2k]
    logits = layers.Reshape((-1, 2), dtype="float32")(x)
    probs = layers.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    x = layers.Conv2D(4 * anchors_per_location, 1, name="rpn_bbox_pred")(shared)  # [B, h, w, 4k]
    deltas = layers.Reshape((-1, 4), dtype="float32")(x)
    return [logits, probs, deltas]


def build_rpn_model(anchor_stride, anchors_per_location, depth):
    """`rpn_graph` as a model named `rpn_model`, to be called on each level with the same weights."""
    feature_map = keras.Input((None, None, depth), name="input_rpn_feature_map")
    return keras.Model(feature_map, rpn_graph(feature_map, anchors_per_location, anchor_stride), name="rpn_model")


def rpn_over_pyramid(rpn_model, pyramid):
    """The head on P2..P6, concatenated: logits [B, A, 2], probs [B, A, 2], deltas [B, A, 4]."""
    of_levels = zip(*(rpn_model(p) for p in pyramid), strict=True)
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    return [
        layers.Concatenate(axis=1, name=name, dtype="float32")(list(parts))
        for name, parts in zip(names, of_levels, strict=True)
    ]
