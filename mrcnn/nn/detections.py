"""From classified proposals to detections.

Shapes: B images, N proposals, C classes, D detections (`DETECTION_MAX_INSTANCES`).
Boxes are (y1, x1, y2, x2), normalised to the padded image.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from mrcnn.ops import replicas
from mrcnn.ops.boxes import apply_box_deltas_graph, clip_boxes_graph, norm_boxes_graph
from mrcnn.ops.meta import parse_image_meta_graph
from mrcnn.ops.nms import nms_graph


@keras.saving.register_keras_serializable(package="mrcnn")
class DetectionLayer(keras.layers.Layer):
    """Gives each proposal its best class, moves it by that class's deltas, drops doubts and duplicates.

    Args:
        config: `Config`, optional, matterport's call form: the settings below are read from it.
        max_instances: int, D.
        min_confidence: float in [0, 1], detections with a lower score are dropped; None or 0 keeps all.
        nms_threshold: float, IoU; of two boxes of one class that overlap more the lower-scored one is dropped.
        bbox_std_dev: [4], what the deltas were divided by.

    Call arguments: `[rois, mrcnn_class, mrcnn_bbox, image_meta]`
        rois: [B, N, 4]; zero rows are padding and give no detection.
        mrcnn_class: [B, N, C] probabilities.
        mrcnn_bbox: [B, N, C, (dy, dx, log dh, log dw)], divided by std dev.
        image_meta: [B, 12 + C]; boxes are clipped to its window, the part of the image that is not padding.

    Returns:
        [B, D, (y1, x1, y2, x2, class_id, score)] float32, best score first, zero rows at the end.

    Reference: Girshick, "Fast R-CNN", section 2.2 (per-class NMS); He et al., "Mask R-CNN", section 3.1.
    """

    def __init__(self, config=None, *, max_instances=100, min_confidence=0.7, nms_threshold=0.3,
                 bbox_std_dev=(0.1, 0.1, 0.2, 0.2), **kwargs):  # fmt: skip
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            max_instances, min_confidence = config.DETECTION_MAX_INSTANCES, config.DETECTION_MIN_CONFIDENCE
            nms_threshold, bbox_std_dev = config.DETECTION_NMS_THRESHOLD, config.BBOX_STD_DEV
        self.max_instances = int(max_instances)
        self.min_confidence = float(min_confidence or 0)
        self.nms_threshold = float(nms_threshold)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.max_instances, 6)

    def call(self, inputs):
        return self.steps(inputs)["detections"]

    def steps(self, inputs):
        """The layer's steps by name, for looking inside (`mrcnn.inference.activations`).

        Returns:
            dict: `class_ids` [B, N], `class_scores` [B, N], `refined_rois` [B, N, 4] (moved and clipped to the
            window), `confident` [B, N] bool (no background, score high enough), `keep` [B, D] int32 rows that NMS
            leaves, -1 where none; `detections` [B, D, 6].
        """
        rois, probs, deltas, image_meta = inputs
        meta = parse_image_meta_graph(image_meta)
        window = norm_boxes_graph(ops.cast(meta["window"], "float32"), meta["image_shape"][0, :2])  # [B, 4]
        return self.refine(rois, probs, deltas, window)

    def refine(self, rois, probs, deltas, window):
        """`steps`, given the window [B, 4], normalised."""
        class_ids = ops.cast(ops.argmax(probs, axis=-1), "int32")  # [B, N]
        scores = ops.max(probs, axis=-1)
        of_class = ops.one_hot(class_ids, probs.shape[-1], dtype="float32")[..., None]  # [B, N, C, 1]
        # `where`, not a product: a class that isn't asked for may be inf or nan
        own = ops.sum(ops.where(of_class > 0, deltas, 0.0), axis=2)  # [B, N, 4]
        refined = apply_box_deltas_graph(rois, own * ops.convert_to_tensor(self.bbox_std_dev, "float32"))
        refined = clip_boxes_graph(refined, window)
        real = ops.any(rois != 0, axis=2)
        confident = ops.logical_and(real, ops.logical_and(class_ids > 0, scores >= self.min_confidence))

        keep = nms_graph(refined, scores, self.max_instances, self.nms_threshold, class_ids=class_ids, valid=confident)
        table = ops.concatenate(
            [refined, ops.cast(class_ids, "float32")[..., None], scores[..., None]], axis=2
        )  # [B, N, 6]
        detections = ops.take_along_axis(table, ops.maximum(keep, 0)[..., None], axis=1)
        return {
            "class_ids": class_ids,
            "class_scores": scores,
            "refined_rois": refined,
            "confident": confident,
            "keep": keep,
            "detections": ops.where(keep[..., None] >= 0, detections, 0.0),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "max_instances": self.max_instances,
            "min_confidence": self.min_confidence,
            "nms_threshold": self.nms_threshold,
            "bbox_std_dev": self.bbox_std_dev,
        }


@keras.saving.register_keras_serializable(package="mrcnn")
class DetectedBoxes(keras.layers.Layer):
    """[B, D, 6] detections -> [B, D, 4] their boxes, for the mask head. Constant to the optimiser."""

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], 4)

    def call(self, detections):
        return ops.stop_gradient(detections[..., :4])


class FilledRows(keras.layers.Layer):
    """[B, D, 6] detections -> [B, n, 6]: cut off where all rows are empty in every image.

    The mask head's work then follows what was found. n is a multiple of 10, or D: each n of its own costs the backend
    some preparation. On JAX, which needs to know shapes beforehand, and in a share of a batch n is D.
    """

    STEP = 10

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def compute_output_shape(self, input_shape):
        return (input_shape[0], None, input_shape[2])

    def call(self, detections):
        if keras.backend.backend() == "jax" or replicas.count() > 1:
            return detections
        most = ops.max(ops.sum(ops.cast(detections[..., 4] > 0, "int32"), axis=1))
        return detections[:, : ops.maximum((most + self.STEP - 1) // self.STEP, 1) * self.STEP]


def refine_detections_graph(rois, probs, deltas, window, config):
    """`DetectionLayer` for one image: rois [N, 4], probs [N, C], deltas [N, C, 4], window [4] -> [D, 6]."""
    inputs = [ops.convert_to_tensor(x, "float32")[None] for x in (rois, probs, deltas, window)]
    return DetectionLayer(config).refine(*inputs)["detections"][0]
