"""Anchors as a layer: a constant for a fixed image size, computed in the graph for variable sizes.

Shapes: A anchors over all levels; R aspect ratios; a level has h x w cells with R anchors each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.ops.anchors import cell_anchors
from mrcnn.ops.boxes import norm_boxes_graph
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class Anchors(keras.layers.Layer):
    """Computes the anchors of all pyramid levels from the sizes of the feature maps.

    They equal those of `mrcnn.ops.anchors.anchors_of_image`, normalized, in the same order.

    Args:
        scales: Side of the square anchor of each level, pixels; or, for a single level, a list of such sides in it.
        ratios: [R]. Width / height.
        strides: Pixels between neighboring cells of P2..P6.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.
        rounding: Round the corners of the anchors of a cell to whole pixels, half to even.
        strides_from_maps: Strides are image size // map size, for each axis, instead of `strides`.
        box_offset: How boxes are normalized, see `mrcnn.ops.boxes.norm_boxes`.

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
        rounding: bool = False,
        strides_from_maps: bool = False,
        box_offset: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scales = [np.asarray(s, float).tolist() for s in scales]
        self.ratios = [float(r) for r in ratios]
        self.strides = [int(s) for s in strides][: len(self.scales)]
        self.anchor_stride = int(anchor_stride)
        self.rounding = bool(rounding)
        self.strides_from_maps = bool(strides_from_maps)
        self.box_offset = int(box_offset)

    def compute_output_shape(self, input_shape: Any) -> Any:
        count = 0
        for scale, (_, height, width, _) in zip(self.scales, input_shape[1:], strict=True):
            if height is None or width is None:
                return (1, None, 4)
            cells = -(-height // self.anchor_stride) * -(-width // self.anchor_stride)
            count += cells * len(self.ratios) * np.size(scale)
        return (1, count, 4)

    def call(self, inputs: Tensor) -> Tensor:
        image, *pyramid = inputs
        levels = zip(self.scales, self.strides, pyramid, strict=True)
        image_size = ops.shape(image)[1:3]
        boxes = [self._anchors_of_level(scale, stride, image_size, ops.shape(p)[1:3]) for scale, stride, p in levels]
        boxes = ops.concatenate(boxes, axis=0)  # [A, 4] pixels
        return norm_boxes_graph(boxes, image_size, self.box_offset)[None]  # [1, A, 4]

    def _anchors_of_level(self, scale, stride, image_size, size):
        """[h * w * R, 4] pixels: the anchors of cell (y, x) are centered on (y * stride, x * stride)."""
        corners = ops.convert_to_tensor(cell_anchors(scale, self.ratios, self.rounding), "float32")  # [R, 4]
        strides = [pixels // n for pixels, n in zip(image_size, size)] if self.strides_from_maps else [stride, stride]
        y, x = (
            ops.cast(ops.arange(0, n, self.anchor_stride), "float32") * ops.cast(step, "float32")
            for n, step in zip(size, strides)
        )
        y, x = ops.meshgrid(y, x, indexing="ij")
        centers = ops.reshape(ops.stack([y, x, y, x], axis=-1), (-1, 1, 4))  # [h * w, 1, 4]
        return ops.reshape(centers + corners, (-1, 4))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scales": self.scales,
            "ratios": self.ratios,
            "strides": self.strides,
            "anchor_stride": self.anchor_stride,
            "rounding": self.rounding,
            "strides_from_maps": self.strides_from_maps,
            "box_offset": self.box_offset,
        }
