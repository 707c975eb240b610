"""Cuts the features of each RoI out of the pyramid, resampled to one fixed size.

Shapes: B images of H x W pixels, N RoIs, C channels, (h, w) the pool shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mrcnn.ops.boxes import denorm_boxes_graph, norm_boxes_graph
from mrcnn.ops.meta import parse_image_meta_graph
from mrcnn.ops.roi_align import LEVEL_RULES, roi_align, roi_align_pixels, roi_levels
from mrcnn.ops.types import Tensor

MODES = ("crop", "aligned", "unaligned")


@keras.saving.register_keras_serializable(package="mrcnn")
class PyramidROIAlign(keras.layers.Layer):
    """RoIAlign on the pyramid level that matches the size of each RoI.

    Args:
        pool_shape: (h, w).
        mode: "crop" takes one bilinear sample per cell, from corner to corner of the box, as matterport does;
            "aligned" is RoIAlign as in the paper, half-pixel aligned: the mean of `samples` x `samples` points per
            cell; "unaligned" is the same without the half-pixel shift, as in torchvision's detectors.
        samples: See `mode`. 0: adaptive, the cell's size in pixels of the map, rounded up, per RoI and axis.
        level_rule: How the level of a RoI is rounded, see `ops.roi_align.roi_levels`.
        strides: Stride of each map, in pixels of the image. "crop" and matterport's "aligned" do not need them.
        box_offset: How boxes are normalized: 1 as (box - [0, 0, 1, 1]) / (size - 1), 0 as box / size.

    Call arguments: `[boxes, image_meta, P2, P3, P4, P5]`, or a single map in place of P2..P5
        boxes: [B, N, (y1, x1, y2, x2)] float, normalized to the padded image; zero rows are padding. No gradient flows
            into them.
        image_meta: [B, 12 + classes]. The size of the padded image is read from the first one.
        P2..P5: [B, H / stride, W / stride, C].

    Returns:
        [B, N, h, w, C] in the dtype of the features.

    References: Lin et al., "Feature Pyramid Networks", equation 1; He et al., "Mask R-CNN", section 3.
    """

    def __init__(
        self,
        pool_shape: Sequence[int],
        mode: str = "crop",
        samples: int = 2,
        *,
        level_rule: str = "round",
        strides: Sequence[int] = (4, 8, 16, 32),
        box_offset: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, value, known in (("mode", mode, MODES), ("level_rule", level_rule, LEVEL_RULES)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}.")
        self.pool_shape = tuple(int(n) for n in pool_shape)
        self.mode = mode
        self.samples = int(samples)
        self.level_rule = level_rule
        self.strides = tuple(int(n) for n in strides)
        self.box_offset = int(box_offset)
        self.autocast = False  # boxes and image_meta stay float32 whatever the features are

    def compute_output_shape(self, input_shape: Any) -> Any:
        boxes, _, features, *_ = input_shape
        return (*boxes[:2], *self.pool_shape, features[-1])

    def call(self, inputs: Tensor) -> Tensor:
        boxes, image_meta, *pyramid = inputs
        boxes = ops.stop_gradient(boxes)
        image_shape = parse_image_meta_graph(image_meta)["image_shape"][0, :2]  # the same for all images of a batch
        if self.box_offset and self.level_rule == "round" and self.mode != "unaligned":  # matterport's normalized boxes
            levels = roi_levels(boxes, image_shape)  # [B, N] in 2..5
            return roi_align(pyramid, boxes, levels, self.pool_shape, self.mode, self.samples, image_shape)
        pixels = denorm_boxes_graph(boxes, image_shape, self.box_offset, whole=False)
        levels = roi_levels(pixels, (1, 1), self.level_rule)
        if self.mode == "crop":
            return roi_align(pyramid, norm_boxes_graph(pixels, image_shape), levels, self.pool_shape)
        strides, aligned = self.strides[: len(pyramid)], self.mode == "aligned"
        return roi_align_pixels(pyramid, pixels, levels, self.pool_shape, strides, aligned, self.samples)

    def compute_output_spec(self, inputs: Tensor) -> Any:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype=inputs[2].dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_shape": self.pool_shape,
            "mode": self.mode,
            "samples": self.samples,
            "level_rule": self.level_rule,
            "strides": self.strides,
            "box_offset": self.box_offset,
        }


def log2_graph(x: Tensor) -> Tensor:
    """Logarithm to base 2, element by element."""
    return ops.log2(x)
