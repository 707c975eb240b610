"""Instances as semantic segmentation: one class per pixel.

label map [H, W] int32: 0 background, 1..C-1 classes, -1 void (doesn't count: crowds of the truth)
confusion [C, C] int64: pixels, rows true, columns detected
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrcnn.inference.results import Detections

VOID = -1


def semantic_map(result: dict, min_score: float = 0.0) -> np.ndarray:
    """Flattens instances to one class per pixel.

    Where masks overlap, the higher score wins; without scores (ground truth) the smaller instance, which is usually in
    front. Pixels that only a crowd (a negative class id) covers are void.

    Args:
        result: `Detections`, or a dict with masks [H, W, n], class_ids [n] and, of detections, scores [n].
        min_score: Instances with a lower score are left out.

    Returns:
        [H, W] int32.

    Raises:
        ValueError: The numbers of masks, class ids and scores differ.

    Example:

    >>> masks = np.array([[[1, 0], [1, 1], [0, 0]]], bool)  # two objects in an image of 1 x 3 pixels
    >>> semantic_map({"masks": masks, "class_ids": [2, 1], "scores": [0.6, 0.9]}).tolist()
    [[2, 1, 0]]
    """
    if isinstance(result, Detections):
        return result.semantic_map(min_score)
    masks, class_ids = np.asarray(result["masks"]), np.asarray(result["class_ids"]).reshape(-1)
    scores = result.get("scores")
    if masks.ndim != 3 or masks.shape[-1] != len(class_ids) or (scores is not None and len(scores) != len(class_ids)):
        raise ValueError(
            f"semantic_map: masks of shape {masks.shape}, {len(class_ids)} class ids,"
            f" {'no' if scores is None else len(scores)} scores; expected [H, W, n], n and n."
        )
    masks = masks if masks.dtype == bool else masks > 0.5
    if scores is None:
        order = np.argsort(-masks.sum(axis=(0, 1)), kind="stable")
    else:
        scores = np.asarray(scores)
        order = np.argsort(scores, kind="stable")
        order = order[scores[order] >= min_score]
    labels = np.zeros(masks.shape[:2], np.int32)
    order = np.concatenate([order[class_ids[order] < 0], order[class_ids[order] >= 0]])
    for i in order:
        labels[masks[..., i]] = class_ids[i] if class_ids[i] >= 0 else VOID
    return labels


def count_pixels(true: np.ndarray, detected: np.ndarray, num_classes: int) -> np.ndarray:
    """[C, C] confusion of two label maps; void pixels of the truth are left out."""
    counted = true >= 0
    pairs = true[counted].astype(np.int64) * num_classes + detected[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass
class SemanticScores:
    """Measures of a semantic segmentation, all in [0, 1]; -1 if not measurable.

    Attributes:
        miou, dice: Means over the classes that occur in ground truth or detections, including the background.
        miou_foreground, dice_foreground: without the background.
        pixel_accuracy: share of pixels of the right class.
        iou, class_dice: [C] of each class, -1 for a class that doesn't occur.
        confusion: [C, C] pixels, rows true, columns detected.
    """

    miou: float
    miou_foreground: float
    dice: float
    dice_foreground: float
    pixel_accuracy: float
    iou: np.ndarray
    class_dice: np.ndarray
    confusion: np.ndarray

    def to_dict(self) -> dict:
        """A dict for JSON, without the confusion matrix."""
        numbers = {
            n: getattr(self, n) for n in ("miou", "miou_foreground", "dice", "dice_foreground", "pixel_accuracy")
        }
        return {**numbers, "iou": self.iou.tolist(), "class_dice": self.class_dice.tolist()}


def semantic_scores(confusion: np.ndarray) -> SemanticScores:
    """Computes the measures from a confusion matrix of pixels [C, C].

    Example:

    >>> true, detected = np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]])
    >>> scores = semantic_scores(count_pixels(true, detected, num_classes=2))
    >>> scores.pixel_accuracy, [round(float(iou), 2) for iou in scores.iou]
    (0.75, [0.5, 0.67])
    """
    right, true, detected = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    union = true + detected - right
    occurs = union > 0
    iou = np.where(occurs, right / np.maximum(union, 1), -1.0)
    dice = np.where(occurs, 2 * right / np.maximum(true + detected, 1), -1.0)

    def mean(values: np.ndarray) -> float:
        values = values[values >= 0]
        return float(values.mean()) if len(values) else -1.0

    pixels = confusion.sum()
    accuracy = float(right.sum() / pixels) if pixels else -1.0
    return SemanticScores(mean(iou), mean(iou[1:]), mean(dice), mean(dice[1:]), accuracy, iou, dice, confusion)
