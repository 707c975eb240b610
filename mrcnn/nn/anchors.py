"""Anchors as a layer: constant for a fixed image size, and correct for any other.

Shapes: A anchors over all levels; R aspect ratios; a level has h x w cells with R anchors each.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from mrcnn.ops.boxes import norm_boxes_graph


@keras.saving.register_keras_serializable(package="mrcnn")
class Anchors(keras.layers.Layer):
    """Computes the anchors of all pyramid levels from the sizes of the feature maps.

    They equal those of `mrcnn.ops.anchors.anchors_of_image`, normalized, in the same order.

    Args:
        scales: Side of the square anchor of each level, pixels.
        ratios: [R]. Width / height.
        strides: Pixels between neighboring cells of P2..P6.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.

    Call arguments: `[image, P2, P3, P4, P5, P6]`; only their sizes are used.

    Returns:
        [1, A, (y1, x1, y2, x2)] float32, normalized to the image.

    Example:

    >>> layer = Anchors(scales=[16], ratios=[0.5, 1, 2], strides=[32])
    >>> tuple(layer([np.zeros((1, 64, 64, 3)), np.zeros((1, 2, 2, 8))]).shape)
    (1, 12, 4)
    """

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[float],
        strides: Sequence[int],
        anchor_stride: int = 1,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scales = [float(s) for s in scales]
        self.ratios = [float(r) for r in ratios]
        self.strides = [int(s) for s in strides][: len(self.scales)]
        self.anchor_stride = int(anchor_stride)

    def compute_output_shape(self, input_shape):
        count = 0
        for _, height, width, _ in input_shape[1:]:
            if height is None or width is None:
                return (1, None, 4)
            count += -(-height // self.anchor_stride) * -(-width // self.anchor_stride) * len(self.ratios)
        return (1, count, 4)

    def call(self, inputs):
        image, *pyramid = inputs
        levels = zip(self.scales, self.strides, pyramid, strict=True)
        boxes = [self._level(scale, stride, ops.shape(p)[1:3]) for scale, stride, p in levels]
        boxes = ops.concatenate(boxes, axis=0)  # [A, 4] pixels
        return norm_boxes_graph(boxes, ops.shape(image)[1:3])[None]  # [1, A, 4]

    def _level(self, scale, stride, size):
        """[h * w * R, 4] pixels: the anchors of cell (y, x) are centered on (y * stride, x * stride)."""
        root = np.sqrt(self.ratios)
        half = 0.5 * scale * np.stack([1 / root, root], axis=-1)  # [R, (h, w) / 2]
        corners = ops.convert_to_tensor(np.concatenate([-half, half], axis=-1), "float32")  # [R, 4]
        y, x = (ops.cast(ops.arange(0, n, self.anchor_stride), "float32") * stride for n in size)
        y, x = ops.meshgrid(y, x, indexing="ij")
        centers = ops.reshape(ops.stack([y, x, y, x], axis=-1), (-1, 1, 4))  # [h * w, 1, 4]
        return ops.reshape(centers + corners, (-1, 4))

    def get_config(self):
        return {
            **super().get_config(),
            "scales": self.scales,
            "ratios": self.ratios,
            "strides": self.strides,
            "anchor_stride": self.anchor_stride,
        }
