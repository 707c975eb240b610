"""From classified proposals to detections.

Shapes and units:
    B  images     N  proposals     C  classes, 0 is background     D  detections (`DETECTION_MAX_INSTANCES`)
    boxes       (y1, x1, y2, x2), normalized to the padded image
    detections  [B, D, (y1, x1, y2, x2, class_id, score)], best score first, zero rows at the end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.config import Config
from mrcnn.nn.runtime_value import RuntimeValue, RuntimeValueLayer
from mrcnn.ops import replicas
from mrcnn.ops.boxes import MAX_LOG_SCALE, apply_box_deltas_graph, clip_boxes_graph
from mrcnn.ops.kernels import needs_fixed_shapes
from mrcnn.ops.meta import normalized_window_graph
from mrcnn.ops.nms import names_classes, nms_graph, suppression_groups
from mrcnn.ops.types import Tensor

MULTI_LABEL_CONFIDENCE = 0.05  # the lowest score of torchvision's and detectron2's detections
MAX_LABELS = 19  # classes of one proposal with a score above 0.05: fewer than 1 / 0.05, for scores add up to 1


@keras.saving.register_keras_serializable(package="mrcnn")
class DetectionLayer(RuntimeValueLayer):
    """Applies the deltas of each proposal's class, and removes weak and overlapping boxes.

    Args:
        config: `Config`, optional, as in matterport's signature. If given, the arguments below are read from it.
        max_instances: D.
        min_confidence: Score in [0, 1]; detections below it are dropped. None or 0 keeps all. Can be changed with
            `set_thresholds`, like the next one.
        nms_threshold: IoU in [0, 1]. Of two boxes of one group that overlap more, the lower-scored one is dropped.
        bbox_std_dev: [4], the standard deviations that the deltas are divided by.
        multi_label: False gives a proposal its best class. True makes a candidate of every class of a proposal whose
            score is high enough, as in Fast R-CNN.
        nms_groups: [C] int. NMS runs among classes with the same number. None: within each class. Can be
            changed with `set_thresholds`. See `ops.nms.suppression_groups`.
        min_side: Pixels of the padded image; detections whose height or width is less are dropped.
        max_log_scale: Upper bound of log dh and log dw.
        box_offset: How boxes are normalized, see `ops.boxes`.

    Call arguments: `[rois, mrcnn_class, mrcnn_bbox, image_meta]`
        rois: [B, N, 4]; zero rows are padding and give no detection.
        mrcnn_class: [B, N, C] probabilities.
        mrcnn_bbox: [B, N, C, (dy, dx, log dh, log dw)], divided by the standard deviation.
        image_meta: [B, 12 + C]. Boxes are clipped to its window, the part of the image that is not padding.

    Returns:
        [B, D, (y1, x1, y2, x2, class_id, score)] float32, best score first, zero rows at the end.

    Reference: Girshick, "Fast R-CNN", section 2.2 (NMS per class); He et al., "Mask R-CNN", section 3.1.

    Example (one proposal in an image of 64 x 64 pixels, and two classes):

    >>> meta = np.array([[0, 64, 64, 3, 64, 64, 3, 0, 0, 64, 64, 1, 1, 1]], "float32")
    >>> rois = np.array([[[0, 0, 0.5, 0.5]]], "float32")
    >>> layer = DetectionLayer(max_instances=1, min_confidence=0.7)
    >>> detections = layer([rois, np.array([[[0.25, 0.75]]], "float32"), np.zeros((1, 1, 2, 4), "float32"), meta])
    >>> ops.convert_to_numpy(detections).tolist()
    [[[0.0, 0.0, 0.5, 0.5, 1.0, 0.75]]]
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        max_instances: int = 100,
        min_confidence: float | None = 0.7,
        nms_threshold: float = 0.3,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        multi_label: bool = False,
        nms_groups: Sequence[int] | None = None,
        min_side: float = 0.0,
        max_log_scale: float = MAX_LOG_SCALE,
        box_offset: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            max_instances, min_confidence = config.DETECTION_MAX_INSTANCES, config.DETECTION_MIN_CONFIDENCE
            nms_threshold = config.DETECTION_NMS_THRESHOLD
            if not names_classes(config.DETECTION_NMS):  # the model's class names come with `set_thresholds`
                nms_groups = suppression_groups(config.DETECTION_NMS, config.NUM_CLASSES)
            bbox_std_dev = [config.BBOX_STD_DEV, *(config.CASCADE_BBOX_STD_DEVS or [])][-1]  # of the last head
            rules = config.convention
            multi_label, min_side = rules.multi_label, rules.min_detection_side
            max_log_scale, box_offset = rules.max_log_scale, rules.box_offset
        self.max_instances = int(max_instances)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.multi_label = bool(multi_label)
        self.min_side, self.max_log_scale = float(min_side), float(max_log_scale)
        self.box_offset = int(box_offset)
        self._initial_groups = None if nms_groups is None else [int(n) for n in nms_groups]
        self._nms_groups: RuntimeValue | None = None
        with keras.name_scope(self.name):
            self._min_confidence = RuntimeValue(min_confidence or 0, "min_confidence")
            self._nms_threshold = RuntimeValue(nms_threshold, "nms_threshold")

    @property
    def min_confidence(self) -> float:
        return float(self._min_confidence)

    @property
    def nms_threshold(self) -> float:
        return float(self._nms_threshold)

    @property
    def nms_groups(self) -> list[int] | None:
        return self._initial_groups if self._nms_groups is None else [int(n) for n in self._nms_groups.tolist()]

    def build(self, input_shape: Any) -> None:
        classes = input_shape[1][-1]
        groups = range(classes) if self._initial_groups is None else self._initial_groups
        if len(groups) != classes:
            raise ValueError(f"nms_groups has {len(groups)} numbers; expected one for each of the {classes} classes.")
        with keras.name_scope(self.name):
            self._nms_groups = RuntimeValue(list(groups), "nms_groups")

    def set_thresholds(
        self, min_confidence: float | None, nms_threshold: float, nms_groups: Sequence[int] | None = None
    ) -> None:
        """Changes the thresholds for all models with this layer, from their next call on. Nothing is recompiled.

        Args:
            min_confidence, nms_threshold, nms_groups: As for the layer; None for `nms_groups` leaves them as they are.
        """
        self._min_confidence.assign(min_confidence or 0)
        self._nms_threshold.assign(nms_threshold)
        if nms_groups is not None and self._nms_groups is None:
            self._initial_groups = [int(n) for n in nms_groups]
        elif nms_groups is not None:
            self._nms_groups.assign(nms_groups)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0][0], self.max_instances, 6)

    def call(self, inputs: Tensor) -> Tensor:
        return self.steps(inputs)["detections"]

    def steps(self, inputs: Tensor) -> dict[str, Tensor]:
        """Computes the layer's intermediate results as well (see `mrcnn.inference.activations`).

        Args:
            inputs: As for a call of the layer.

        Returns:
            dict, see `refine_detections`.
        """
        rois, probs, deltas, image_meta = inputs
        window, size = normalized_window_graph(image_meta, self.box_offset)  # [B, 4], [2]
        groups = self._initial_groups if self._nms_groups is None else self._nms_groups.tensor()
        return refine_detections(
            rois, probs, deltas, window, self.bbox_std_dev, self.max_instances,
            self._min_confidence.tensor(), self._nms_threshold.tensor(),
            multi_label=self.multi_label, nms_groups=groups, max_log_scale=self.max_log_scale,
            min_sides=self.min_side / ops.maximum(size - self.box_offset, 1.0) if self.min_side else None,
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_instances": self.max_instances,
            "min_confidence": self.min_confidence,
            "nms_threshold": self.nms_threshold,
            "bbox_std_dev": self.bbox_std_dev,
            "multi_label": self.multi_label,
            "nms_groups": self.nms_groups,
            "min_side": self.min_side,
            "max_log_scale": self.max_log_scale,
            "box_offset": self.box_offset,
        }


def refine_detections(
    rois: Tensor,
    probs: Tensor,
    deltas: Tensor,
    window: Tensor,
    bbox_std_dev: Sequence[float],
    max_instances: int,
    min_confidence: float | Tensor,
    nms_threshold: float | Tensor,
    *,
    multi_label: bool = False,
    nms_groups: Tensor | None = None,
    min_sides: Tensor | None = None,
    max_log_scale: float = MAX_LOG_SCALE,
) -> dict[str, Tensor]:
    """Computes detections from the class head's outputs.

    Args:
        rois, probs, deltas: [B, N, 4], zero rows are padding; [B, N, C]; [B, N, C, 4], divided by `bbox_std_dev`, [4].
        window, max_instances: [B, (y1, x1, y2, x2)], normalized; D.
        min_confidence, nms_threshold: Score and IoU in [0, 1], numbers or scalar tensors.
        nms_groups: [C] numbers, or None for NMS per class.
        multi_label, max_log_scale: As for `DetectionLayer`.
        min_sides: [(height, width)], normalized; smaller boxes are dropped. None: boxes of any size are kept.

    Returns:
        dict of `class_ids` [B, K] int32 (K is N, or the candidates of `multi_label`); `class_scores` [B, K];
        `refined_rois` [B, K, 4], clipped to the window; `confident` [B, K] bool, not background, score and box large;
        `keep` [B, D] int32, the rows that NMS keeps, padded with -1; `detections` [B, D, 6].
    """
    real = ops.any(rois != 0, axis=2)
    if multi_label:
        rois, class_ids, scores, class_deltas = _every_class(rois, probs, deltas, real, min_confidence)
        confident = scores >= min_confidence
    else:
        class_ids, scores = first_maximum(probs)  # [B, N] both
        class_mask = ops.one_hot(class_ids, probs.shape[-1], dtype="float32")[..., None]  # [B, N, C, 1]
        # `where` instead of a product: the deltas of other classes may be infinite or NaN
        class_deltas = ops.sum(ops.where(class_mask > 0, deltas, 0.0), axis=2)  # [B, N, 4]
        confident = ops.logical_and(real, ops.logical_and(class_ids > 0, scores >= min_confidence))
    std_dev = ops.convert_to_tensor(bbox_std_dev, "float32")
    refined = apply_box_deltas_graph(rois, class_deltas * std_dev, max_log_scale)
    refined = clip_boxes_graph(refined, window)
    if min_sides is not None:
        large = ops.all(refined[..., 2:] - refined[..., :2] >= min_sides, axis=-1)
        confident = ops.logical_and(confident, large)

    groups = class_ids if nms_groups is None else ops.take(ops.cast(nms_groups, "int32"), class_ids)  # [B, K]
    keep = nms_graph(refined, scores, max_instances, nms_threshold, class_ids=groups, valid=confident)  # [B, D]
    columns = [refined, ops.cast(class_ids, "float32")[..., None], scores[..., None]]
    table = ops.concatenate(columns, axis=2)  # [B, K, 6]
    detections = ops.take_along_axis(table, ops.maximum(keep, 0)[..., None], axis=1)  # [B, D, 6]
    return {
        "class_ids": class_ids,
        "class_scores": scores,
        "refined_rois": refined,
        "confident": confident,
        "keep": keep,
        "detections": ops.where(keep[..., None] >= 0, detections, 0.0),
    }


def first_maximum(x: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the largest value along the last axis, and the value: [..., C] -> [...] int32, [...].

    Ties go to the first index. `ops.argmax` gives the same, but under TensorFlow it contains a bitcast, which other
    runtimes don't have, and `ops.top_k` under PyTorch may return any of the equal values. With NaN, the index is the
    last one.
    """
    largest = ops.max(x, axis=-1)
    last = x.shape[-1] - 1
    places = ops.where(x == largest[..., None], ops.arange(last + 1, dtype="int32"), last)
    return ops.min(places, axis=-1), largest


def _every_class(rois, probs, deltas, real, min_confidence):
    """The K best pairs of a proposal and a foreground class. Pairs below the threshold come last, with score -1.

    Probabilities add up to 1, so at most `MAX_LABELS` classes of a proposal exceed `MULTI_LABEL_CONFIDENCE`, and
    K = N * MAX_LABELS pairs include all of them. With a lower threshold, only the weakest candidates are lost.

    Returns: rois [B, K, 4], class_ids [B, K], scores [B, K], deltas [B, K, 4].
    """
    batch, count, classes = ops.shape(probs)
    scores = ops.where(ops.logical_and(real[..., None], probs[..., 1:] >= min_confidence), probs[..., 1:], -1.0)
    candidates = count * min(MAX_LABELS, classes - 1)
    scores, pairs = ops.top_k(ops.reshape(scores, (batch, count * (classes - 1))), candidates)  # [B, K]
    rows, class_ids = pairs // (classes - 1), pairs % (classes - 1) + 1
    deltas = ops.reshape(deltas, (batch, count * classes, 4))
    deltas = ops.take_along_axis(deltas, (rows * classes + class_ids)[..., None], axis=1)
    return ops.take_along_axis(rois, rows[..., None], axis=1), ops.cast(class_ids, "int32"), scores, deltas


def refine_detections_graph(rois: Tensor, probs: Tensor, deltas: Tensor, window: Tensor, config: Config) -> Tensor:
    """Computes the detections of one image, with matterport's signature.

    Args:
        rois: [N, 4].
        probs: [N, C].
        deltas: [N, C, 4].
        window: [(y1, x1, y2, x2)], normalized.
        config: `Config`.

    Returns:
        [D, 6] float32.
    """
    inputs = [ops.convert_to_tensor(x, "float32")[None] for x in (rois, probs, deltas, window)]
    found = refine_detections(
        *inputs,
        config.BBOX_STD_DEV,
        config.DETECTION_MAX_INSTANCES,
        config.DETECTION_MIN_CONFIDENCE or 0.0,
        config.DETECTION_NMS_THRESHOLD,
        nms_groups=suppression_groups(config.DETECTION_NMS, inputs[1].shape[-1]),
    )
    return found["detections"][0]


@keras.saving.register_keras_serializable(package="mrcnn")
class DetectedBoxes(keras.layers.Layer):
    """[B, D, 6] detections -> [B, D, 4] their boxes, for the mask head. No gradient flows through it."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:2], 4)

    def call(self, detections: Tensor) -> Tensor:
        return ops.stop_gradient(detections[..., :4])


class FilledRows(keras.layers.Layer):
    """[B, D, 6] detections -> [B, n, 6]: drops rows at the end that are empty in every image.

    The mask head then computes masks only for actual detections. n is a multiple of `STEP`, or D, because the backend
    prepares each new size. JAX and some exports need static shapes, and devices that share a batch need equal ones;
    there, n is D.
    """

    STEP = 10

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], None, input_shape[2])

    def call(self, detections: Tensor) -> Tensor:
        if needs_fixed_shapes() or replicas.count() > 1:
            return detections
        most = ops.max(ops.sum(ops.cast(detections[..., 4] > 0, "int32"), axis=1))
        return detections[:, : ops.maximum((most + self.STEP - 1) // self.STEP, 1) * self.STEP]
