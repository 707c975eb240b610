"""Cascade R-CNN: class heads one after the other, each on the boxes that the one before has refined.

Shapes: B images, N RoIs, C classes (0 is background). Boxes are (y1, x1, y2, x2), normalized to the padded image.

Reference: Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from mrcnn.nn.heads import ClassHead
from mrcnn.ops.boxes import (
    MAX_LOG_SCALE,
    apply_box_deltas_graph,
    box_refinement_graph,
    clip_boxes_graph,
    norm_boxes_graph,
    overlaps_graph,
)
from mrcnn.ops.meta import parse_image_meta_graph
from mrcnn.ops.types import Tensor

CASCADE_IOUS = (0.6, 0.7, 0.8, 0.9)  # of positive RoIs of the second head, the third, ...; that of the first is 0.5


@keras.saving.register_keras_serializable(package="mrcnn")
class RefinedBoxes(layers.Layer):
    """Applies class-agnostic deltas to RoIs and clips them to the image.

    Args:
        bbox_std_dev: [4], what the deltas were divided by.
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
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.max_log_scale, self.box_offset = float(max_log_scale), int(box_offset)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def call(self, inputs):
        rois, deltas, image_meta = inputs
        meta = parse_image_meta_graph(image_meta)
        window = norm_boxes_graph(ops.cast(meta["window"], "float32"), meta["image_shape"][0, :2], self.box_offset)
        deltas = deltas[:, :, 0] * ops.convert_to_tensor(self.bbox_std_dev, "float32")
        boxes = clip_boxes_graph(apply_box_deltas_graph(rois, deltas, self.max_log_scale), window)
        real = ops.any(rois != 0, axis=2, keepdims=True)
        return ops.stop_gradient(ops.where(real, boxes, 0.0))

    def get_config(self):
        return {
            **super().get_config(),
            "bbox_std_dev": self.bbox_std_dev,
            "max_log_scale": self.max_log_scale,
            "box_offset": self.box_offset,
        }


class CascadeHead:
    """Class heads in a row.

    Args:
        heads: `ClassHead`s with class-agnostic boxes.
        refine: `RefinedBoxes` after each head but the last.
    """

    def __init__(self, heads: Sequence[ClassHead], refine: Sequence[RefinedBoxes]):
        self.heads, self.refine = list(heads), list(refine)
        self.mean = layers.Average(name="mrcnn_class_mean", dtype="float32")

    def stages(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> list[tuple]:
        """What each head gets and says: rois [B, N, 4], logits [B, N, C], probs [B, N, C], deltas [B, N, C, 4]."""
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


@keras.saving.register_keras_serializable(package="mrcnn")
class CascadeTargets(layers.Layer):
    """What a further head of the cascade should answer: refined RoIs are matched with the ground truth again.

    Args:
        positive_iou: A RoI is positive if its IoU with a true box is at least this.
        bbox_std_dev: [4], the deltas are divided by it.

    Call arguments: `[rois, gt_class_ids, gt_boxes]`
        rois: [B, T, 4]; zero rows are padding.
        gt_class_ids: [B, G] int; 0 is padding, negative a crowd, which matches nothing.
        gt_boxes: [B, G, 4], normalized like the RoIs.

    Returns:
        class_ids [B, T] int32, 0 for negatives; deltas [B, T, 4] divided by the standard deviation, zeros for
        negatives. No gradient flows through them.

    Reference: Cai and Vasconcelos, "Cascade R-CNN", section 4.2.
    """

    def __init__(self, positive_iou: float, bbox_std_dev: Sequence[float], **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.positive_iou = float(positive_iou)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]

    def compute_output_spec(self, inputs):
        rows = tuple(inputs[0].shape[:2])
        return keras.KerasTensor(rows, "int32"), keras.KerasTensor((*rows, 4), "float32")

    def call(self, inputs):
        rois, gt_class_ids, gt_boxes = (ops.stop_gradient(x) for x in inputs)
        gt_class_ids = ops.cast(gt_class_ids, "int32")
        overlaps = ops.where(gt_class_ids[:, None] > 0, overlaps_graph(rois, gt_boxes), 0.0)  # [B, T, G]
        best = ops.argmax(overlaps, axis=2)  # [B, T]
        positive = ops.max(overlaps, axis=2) >= self.positive_iou
        class_ids = ops.where(positive, ops.take_along_axis(gt_class_ids, best, axis=1), 0)
        boxes = ops.take_along_axis(gt_boxes, best[..., None], axis=1)
        deltas = box_refinement_graph(rois, boxes) / ops.convert_to_tensor(self.bbox_std_dev, "float32")
        return class_ids, ops.where(positive[..., None], deltas, 0.0)

    def get_config(self):
        return {**super().get_config(), "positive_iou": self.positive_iou, "bbox_std_dev": self.bbox_std_dev}


def join_stages(stages: Sequence[tuple], name: str) -> list[Tensor]:
    """Concatenates the outputs of all heads along the RoIs, so that each loss is a mean over the RoIs of all heads."""
    return [
        layers.Concatenate(axis=1, dtype=parts[0].dtype, name=f"{name}_{i}")(list(parts))
        for i, parts in enumerate(zip(*stages, strict=True))
    ]
