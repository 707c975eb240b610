"""Training targets of the second and later class heads of a cascade: each learns from the previous head's boxes.

Shapes: B images, T RoIs, G ground truth objects. Boxes are (y1, x1, y2, x2), normalized to the padded image.

Reference: Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.nn.targets import match_rois, targets_of_rois
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class CascadeTargetLayer(keras.layers.Layer):
    """Matches refined RoIs with the ground truth again, at a higher IoU. All are used, without sampling.

    Args:
        positive_iou: A RoI is positive if its IoU with a true box is at least this, otherwise negative.
        bbox_std_dev: [4], the deltas are divided by it.

    Call arguments: `[rois, gt_class_ids, gt_boxes]`
        rois: [B, T, 4]; zero rows are padding.
        gt_class_ids: [B, G] int; 0 is padding, negative a crowd.
        gt_boxes: [B, G, 4].

    Returns:
        rois: [B, T, 4]; zeros for ignored ones, which have no area or overlap a crowd.
        target_class_ids: [B, T] int32, 0 for negatives and padding.
        target_bbox: [B, T, (dy, dx, log dh, log dw)], divided by the standard deviation; zeros except for positives.

    Example (an IoU of 0.6):

    >>> rois, boxes = np.array([[[0, 0, 0.5, 0.3]]], "float32"), np.array([[[0, 0, 0.5, 0.5]]], "float32")
    >>> class_ids = [CascadeTargetLayer(positive_iou)([rois, np.array([[3]]), boxes])[1] for positive_iou in (0.5, 0.7)]
    >>> [ops.convert_to_numpy(x).tolist() for x in class_ids]
    [[[3]], [[0]]]
    """

    def __init__(self, positive_iou: float, bbox_std_dev: Sequence[float] = (0.05, 0.05, 0.1, 0.1), **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.positive_iou = float(positive_iou)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]

    def compute_output_spec(self, inputs: Tensor) -> Any:
        rows = tuple(inputs[0].shape[:2])
        return (
            keras.KerasTensor((*rows, 4), "float32"),
            keras.KerasTensor(rows, "int32"),
            keras.KerasTensor((*rows, 4), "float32"),
        )

    def call(self, inputs: Tensor) -> Tensor:
        rois, gt_class_ids, gt_boxes = inputs
        gt_class_ids = ops.cast(gt_class_ids, "int32")
        match, positive, negative = match_rois(rois, gt_class_ids, gt_boxes, self.positive_iou)  # [B, T] each
        counts = ops.logical_and(ops.logical_or(positive, negative), ops.all(rois[..., 2:] > rois[..., :2], axis=-1))
        rois = ops.where(counts[..., None], rois, 0.0)
        return rois, *targets_of_rois(rois, match, positive, gt_class_ids, gt_boxes, self.bbox_std_dev)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "positive_iou": self.positive_iou, "bbox_std_dev": self.bbox_std_dev}


@keras.saving.register_keras_serializable(package="mrcnn")
class ScaleGradient(keras.layers.Layer):
    """Returns its input and multiplies the gradient.

    With a factor of 1 / number of heads, all heads of a cascade together train the backbone as one head would.

    Args:
        factor: number, e.g. 1/3.
    """

    def __init__(self, factor: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = float(factor)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def call(self, inputs: Tensor) -> Tensor:
        constant = ops.stop_gradient(inputs)
        return constant + self.factor * (inputs - constant)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}
