"""The C4 head: the last stage of the ResNet is applied to each RoI of the map C4, instead of to the whole image.

Shapes: B images, N RoIs; comments show the default sizes.

Reference: Ren et al., "Faster R-CNN", and He et al., "Mask R-CNN", section 3, "Network Architecture", figure 4 (left).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class MergeRois(layers.Layer):
    """Turns each RoI into an image: [B, N, h, w, C] -> [B * N, h, w, C]."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (None, *input_shape[2:])

    def call(self, inputs: Tensor) -> Tensor:
        return ops.reshape(inputs, (-1, *ops.shape(inputs)[2:]))


@keras.saving.register_keras_serializable(package="mrcnn")
class SplitRois(layers.Layer):
    """Inverse of `MergeRois`.

    Call arguments: `[x, like]`, [B * N, h, w, C] and [B, N, ...].

    Returns:
        [B, N, h, w, C].
    """

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[1][:2], *input_shape[0][1:])

    def call(self, inputs: Tensor) -> Tensor:
        x, like = inputs
        return ops.reshape(x, (-1, ops.shape(like)[1], *ops.shape(x)[1:]))


class RoiStage5:
    """Stage 5 of a ResNet for RoIs, shared by the class head and the mask head.

    Args:
        stage: Builds the stage: a symbolic map [B, 14, 14, 1024] -> [B, 7, 7, 2048].
        pool_size: Side of the RoI's feature map.
        channels: Of C4.
    """

    def __init__(self, stage: Callable[[Tensor], Tensor], pool_size: int = 14, channels: int = 1024):
        rois = keras.Input((pool_size, pool_size, channels), name="input_roi_features")
        self.model = keras.Model(rois, stage(rois), name="res5_model")

    def __call__(self, x: Tensor) -> Tensor:
        """[B, N, 14, 14, 1024] -> [B, N, 7, 7, 2048]."""
        return SplitRois()([self.model(MergeRois()(x)), x])
