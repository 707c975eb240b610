"""COCO's AP as a Keras metric: `MeanAveragePrecision`, for `compile(metrics=[...])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mrcnn.evaluation.coco_protocol import accumulate, summarize
from mrcnn.evaluation.collector import Collector
from mrcnn.evaluation.evaluate import MIN_SCORE, NUMBERS
from mrcnn.evaluation.instances import detections_of, truth_of_masks
from mrcnn.ops.masks import paste_masks
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class MeanAveragePrecision(keras.metrics.Metric):
    """Average precision of masks and boxes by COCO's protocol, as `evaluation.evaluate_dataset` computes it.

    With `MaskRCNN.compile(metrics=[MeanAveragePrecision()])`, `evaluate` (and `fit` for its validation data) adds
    `box_ap`, `mask_ap` and `mask_ap50` to the losses. It is computed in NumPy, so other models can't use it in
    `compile`, but `update_state` accepts the predictions of any model.

    Args:
        min_score: Detections with a lower score are left out. In `compile`, it also replaces
            `DETECTION_MIN_CONFIDENCE` while AP is computed.
        name: Name of the metric.

    Call arguments of `update_state`:
        y_true: dict of `boxes` [B, G, 4], `labels` [B, G], `masks` [B, H, W, G] and optionally `is_crowd` [B, G], as
            `fit` takes them. Masks must have the size of the photos; boxes are not used.
        y_pred: dict that `MaskRCNN.predict` returns.
        mask_paste: How masks are pasted, see `ops.masks.paste_masks`.

    Example:

    >>> mask = np.zeros((1, 32, 32, 1), bool)
    >>> mask[:, 4:20, 4:20] = True
    >>> boxes = np.array([[[4, 4, 20, 20]]], "float32")
    >>> found = {"boxes": boxes, "classes": np.array([[1]]), "scores": np.array([[0.9]]),
    ...          "masks": np.ones((1, 1, 28, 28)), "valid": np.array([[True]])}
    >>> metric = MeanAveragePrecision()
    >>> metric.update_state({"boxes": boxes, "labels": np.array([[1]]), "masks": mask}, found)
    >>> round(metric.result()["mask_ap"], 3)
    1.0
    """

    def __init__(self, min_score: float = MIN_SCORE, name: str = "ap", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score is {min_score}; expected a number in [0, 1].")
        self.min_score = float(min_score)
        self.reset_state()

    def reset_state(self) -> None:
        self._collector, self._images, self._classes = Collector(boundary=False), 0, 1

    def update_state(
        self,
        y_true: Mapping[str, Tensor],
        y_pred: Mapping[str, Tensor],
        sample_weight: None = None,
        mask_paste: str = "resize",
    ) -> None:
        y_true, y_pred = (
            {key: keras.ops.convert_to_numpy(array) for key, array in values.items()} for values in (y_true, y_pred)
        )
        for i in range(len(y_true["labels"])):
            truth, found = ({key: array[i] for key, array in values.items()} for values in (y_true, y_pred))
            self._add_image(truth, found, mask_paste)

    def _add_image(self, truth: dict, found: dict, mask_paste: str) -> None:
        real = truth["labels"] > 0
        class_ids = truth["labels"][real].astype(np.int32)
        if "is_crowd" in truth:
            class_ids = np.where(truth["is_crowd"][real].astype(bool), -class_ids, class_ids)
        size = truth["masks"].shape[:2]
        kept = found["valid"] & (found["scores"].astype(np.float32) >= np.float32(self.min_score))
        boxes = found["boxes"][kept]
        if (boxes > np.tile(size, 2)).any():
            raise ValueError(
                f"A detection has the box {boxes.max(axis=0).tolist()}, outside of the true masks of {size[0]} x"
                f" {size[1]} pixels. AP needs masks in the size of the photos, not mini masks."
            )
        boxes = np.around(boxes).astype(np.int32) if mask_paste == "resize" else boxes
        result = {
            "rois": boxes, "class_ids": found["classes"][kept], "scores": found["scores"][kept],
            "masks": paste_masks(found["masks"][kept], boxes, size, method=mask_paste),
        }  # fmt: skip
        self._classes = max(self._classes, 1 + max([0, *np.abs(class_ids), *result["class_ids"]]))
        detections = detections_of(result, size, self._classes, f"image {self._images}")
        self._collector.add(self._images, truth_of_masks(truth["masks"][..., real] != 0, class_ids), detections)
        self._images += 1

    def result(self) -> dict[str, float]:
        """`box_ap`, `mask_ap` and `mask_ap50` of all images so far, in [0, 1]; -1 where there are no objects."""
        _, detections, truths, matches = self._collector.finish()
        numbers = {}
        for kind in self._collector.kinds:
            found = accumulate(detections, truths, matches[kind], self._classes, self._collector.settings)
            numbers |= {f"{kind}_{name}": value for name, value in summarize(found, self._collector.settings).items()}
        return {name: float(numbers[name]) for name in NUMBERS}

    def get_config(self) -> dict:
        return {"min_score": self.min_score, "name": self.name}
