"""Cascade R-CNN: a sequence of class heads, each applied to the boxes that the previous one refined.

Shapes: B images, N RoIs, C classes (0 is background). Boxes are (y1, x1, y2, x2), normalized to the padded image.

Reference: Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from mrcnn.nn.heads import ClassHead
from mrcnn.ops.boxes import MAX_LOG_SCALE, apply_box_deltas_graph, clip_boxes_graph
from mrcnn.ops.meta import normalized_window_graph
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class RefinedBoxes(layers.Layer):
    """Applies class-agnostic deltas to RoIs and clips them to the image.

    Args:
        bbox_std_dev: [4], the standard deviations that the deltas are divided by.
        max_log_scale: Upper bound of log dh and log dw.
        box_offset: How boxes are normalized, see `ops.boxes`.

    Call arguments: `[rois, deltas, image_meta]`
        rois: [B, N, 4]; zero rows are padding and stay zero.
        deltas: [B, N, C, 4], the same for all classes.
        image_meta: [B, 12 + C]. Boxes are clipped to its window.

    Returns:
        [B, N, 4] float32. No gradient flows through it: each head learns from fixed boxes.
    """

    def __init__(
        self,
        bbox_std_dev: Sequence[float],
        max_log_scale: float = MAX_LOG_SCALE,
        box_offset: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.max_log_scale, self.box_offset = float(max_log_scale), int(box_offset)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def call(self, inputs: Tensor) -> Tensor:
        rois, deltas, image_meta = inputs
        window, _ = normalized_window_graph(image_meta, self.box_offset)
        deltas = deltas[:, :, 0] * ops.convert_to_tensor(self.bbox_std_dev, "float32")
        boxes = clip_boxes_graph(apply_box_deltas_graph(rois, deltas, self.max_log_scale), window)
        real = ops.any(rois != 0, axis=2, keepdims=True)
        return ops.stop_gradient(ops.where(real, boxes, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bbox_std_dev": self.bbox_std_dev,
            "max_log_scale": self.max_log_scale,
            "box_offset": self.box_offset,
        }


class CascadeHead:
    """A sequence of class heads.

    Args:
        heads: `ClassHead`s with class-agnostic boxes.
        refine: `RefinedBoxes` after each head but the last.
    """

    def __init__(self, heads: Sequence[ClassHead], refine: Sequence[RefinedBoxes]):
        self.heads, self.refine = list(heads), list(refine)
        self.mean = layers.Average(name="mrcnn_class_mean", dtype="float32")

    def stages(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> list[tuple]:
        """Inputs and outputs of each head: rois [B, N, 4], logits [B, N, C], probs [B, N, C], deltas [B, N, C, 4]."""
        stages = []
        for i, head in enumerate(self.heads):
            if i:
                rois = self.refine[i - 1]([rois, stages[-1][3], image_meta])
            stages.append((rois, *head(rois, image_meta, pyramid)))
        return stages

    def classify(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The rois of the last head, the mean of all heads' probabilities, and the last head's deltas."""
        stages = self.stages(rois, image_meta, pyramid)
        last_rois, _, _, deltas = stages[-1]
        return last_rois, self.mean([probs for _, _, probs, _ in stages]), deltas
