"""matterport's metrics of one image: matches, average precision, recall.

Shapes: G true instances, P predicted ones, H x W pixels.
    boxes [n, (y1, x1, y2, x2)] pixels, y2 and x2 exclusive; an all-zero row is padding
    masks [H, W, n] bool, or numbers where > 0.5 is inside
    class ids [n], scores [n]
    overlaps [P, G] mask IoU in [0, 1]; its rows follow the predictions sorted by score, best first

Names, arguments and, in ordinary cases, values are matterport's. Where the original returned NaN or a value above 1, or
raised an exception, these functions return:

    no true instance, no prediction      AP 1, recall 1
    no true instance, some predictions   AP 0
    true instances, no prediction        AP 0, recall 0
    a mask without a pixel               IoU 0 with every mask

The functions measure one image. For the AP of a dataset as in papers, use `mrcnn.evaluation.evaluate_dataset`; the
mean of `compute_ap` over images is a different quantity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "compute_ap", "compute_ap_range", "compute_matches", "compute_overlaps_masks", "compute_recall", "trim_zeros",
]  # fmt: skip


def trim_zeros(x: np.ndarray) -> np.ndarray:
    """Removes rows of zeros, the padding of boxes.

    Args:
        x: [rows, columns].

    Returns:
        [rows that are not all zero, columns], same dtype and order.
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"trim_zeros: expected [rows, columns], got an array of shape {x.shape}.")
    return x[np.any(x != 0, axis=1)]


def compute_overlaps_masks(masks1: np.ndarray, masks2: np.ndarray) -> np.ndarray:
    """IoU of each mask in one set with each mask in another.

    Args:
        masks1: [H, W, n1] bool or numbers; above 0.5 is inside.
        masks2: [H, W, n2], same H and W.

    Returns:
        [n1, n2] float32 in [0, 1]; 0 for empty masks.

    Raises:
        ValueError: The masks of the two sets have different sizes.
    """
    masks1, masks2 = np.asarray(masks1), np.asarray(masks2)
    n1, n2 = masks1.shape[-1], masks2.shape[-1]
    if n1 == 0 or n2 == 0:
        return np.zeros((n1, n2), np.float32)
    if masks1.shape[:-1] != masks2.shape[:-1]:
        raise ValueError(
            f"compute_overlaps_masks: masks of {masks1.shape[:-1]} and of {masks2.shape[:-1]} pixels can't be compared;"
            " bring both to the size of the image (mini masks: `utils.expand_mask`)."
        )
    flat1 = (masks1 > 0.5).reshape(-1, n1).astype(np.float32)
    flat2 = (masks2 > 0.5).reshape(-1, n2).astype(np.float32)
    area1, area2 = flat1.sum(axis=0), flat2.sum(axis=0)
    intersection = flat1.T @ flat2  # [n1, n2]
    union = area1[:, None] + area2[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def compute_matches(
    gt_boxes: ArrayLike,
    gt_class_ids: ArrayLike,
    gt_masks: ArrayLike,
    pred_boxes: ArrayLike,
    pred_class_ids: ArrayLike,
    pred_scores: ArrayLike,
    pred_masks: ArrayLike,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches each prediction, best score first, with the unmatched true instance of its class with the highest IoU.

    Args:
        gt_boxes, gt_class_ids, gt_masks: Ground-truth instances; padding rows of `gt_boxes` are dropped with their
            ids and masks.
        pred_boxes, pred_class_ids, pred_scores, pred_masks: Predictions, padded in the same way.
        iou_threshold: Lowest mask IoU of a match, in [0, 1].
        score_threshold: A second lower limit on this IoU, as in matterport's code.

    Returns:
        gt_match: [G] float, the index of the prediction matched with each ground-truth instance, or -1.
        pred_match: [P] float, the index of the ground-truth instance matched with each prediction, or -1.
        overlaps: [P, G] float32 mask IoU.
        Predictions are indexed in the order of their scores, best first, as in matterport's code.

    Raises:
        ValueError: A score is NaN (the message has its index), or masks have different sizes.
    """
    gt_kept = _rows_in_use(gt_boxes)
    gt_class_ids = _select(gt_class_ids, gt_kept)
    gt_masks = _select_masks(gt_masks, gt_kept)
    pred_kept = _rows_in_use(pred_boxes)
    pred_scores = _select(pred_scores, pred_kept)
    if np.isnan(pred_scores).any():
        raise ValueError(f"compute_matches: pred_scores[{int(np.argmax(np.isnan(pred_scores)))}] is NaN.")
    order = np.argsort(pred_scores, kind="stable")[::-1]
    pred_class_ids = _select(pred_class_ids, pred_kept)[order]
    pred_masks = _select_masks(pred_masks, pred_kept)[..., order]

    overlaps = compute_overlaps_masks(pred_masks, gt_masks)  # [P, G]
    possible = (overlaps >= iou_threshold) & (overlaps >= score_threshold)
    possible &= pred_class_ids[:, None] == gt_class_ids[None, :]
    gt_match = np.full(len(gt_class_ids), -1.0)
    pred_match = np.full(len(pred_class_ids), -1.0)
    for i in np.flatnonzero(possible.any(axis=1)):
        free = np.flatnonzero(possible[i] & (gt_match < 0))
        if len(free):
            best = free[np.argsort(overlaps[i, free], kind="stable")[-1]]
            gt_match[best] = i
            pred_match[i] = best
    return gt_match, pred_match, overlaps


def compute_ap(
    gt_boxes: ArrayLike, gt_class_ids: ArrayLike, gt_masks: ArrayLike,
    pred_boxes: ArrayLike, pred_class_ids: ArrayLike, pred_scores: ArrayLike, pred_masks: ArrayLike,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Average precision of one image at one IoU threshold, for all classes together.

    The arguments are those of `compute_matches`.

    Returns:
        mAP: float in [0, 1], the area under the precision-recall curve (every point, not COCO's 101).
        precisions: [P + 2], made non-increasing from the left; padded with 0 at both ends.
        recalls: [P + 2], from 0 to 1.
        overlaps: [P, G] mask IoU.
    """
    gt_match, pred_match, overlaps = compute_matches(
        gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks, iou_threshold
    )
    if len(gt_match) == 0 and len(pred_match) == 0:
        return 1.0, np.ones(2), np.array([0.0, 1.0]), overlaps
    hits = np.cumsum(pred_match > -1)
    precisions = np.concatenate([[0], hits / (np.arange(len(hits)) + 1), [0]])
    # float32, as in matterport, so that values agree to the last digit. Without ground truth there is no hit: recall 0.
    recalls = np.concatenate([[0], hits.astype(np.float32) / max(len(gt_match), 1), [1]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    steps = np.flatnonzero(recalls[:-1] != recalls[1:]) + 1
    average = float(np.sum((recalls[steps] - recalls[steps - 1]) * precisions[steps]))
    return average, precisions, recalls, overlaps


def compute_ap_range(
    gt_box: ArrayLike, gt_class_id: ArrayLike, gt_mask: ArrayLike,
    pred_box: ArrayLike, pred_class_id: ArrayLike, pred_score: ArrayLike, pred_mask: ArrayLike,
    iou_thresholds: Sequence[float] | np.ndarray | None = None, verbose: int = 1,
) -> float:  # fmt: skip
    """Mean of `compute_ap` over IoU thresholds, by default 0.50 to 0.95 in steps of 0.05.

    Args:
        iou_thresholds: None, or a list or array of thresholds in [0, 1].
        verbose: 1 prints the AP at each threshold and the mean.

    Returns:
        float in [0, 1].
    """
    if iou_thresholds is None or len(iou_thresholds) == 0:
        iou_thresholds = np.arange(0.5, 1.0, 0.05)
    averages = []
    for threshold in iou_thresholds:
        average, _, _, _ = compute_ap(
            gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask, iou_threshold=threshold
        )
        if verbose:
            print(f"AP @{threshold:.2f}:\t {average:.3f}")
        averages.append(average)
    mean = float(np.mean(averages))
    if verbose:
        print(f"AP @{iou_thresholds[0]:.2f}-{iou_thresholds[-1]:.2f}:\t {mean:.3f}")
    return mean


def compute_recall(pred_boxes: ArrayLike, gt_boxes: ArrayLike, iou: float) -> tuple[float, np.ndarray]:
    """Share of the ground-truth boxes that some prediction detects with an IoU of at least `iou`.

    A prediction detects only the box with which it has the highest IoU. Each ground-truth box counts once.

    Args:
        pred_boxes: [P, (y1, x1, y2, x2)].
        gt_boxes: [G, (y1, x1, y2, x2)], same units.
        iou: Threshold in [0, 1].

    Returns:
        recall: Float in [0, 1]; 1 without ground-truth boxes.
        positive_ids: [n] int, the predictions that detect one.
    """
    from mrcnn.ops.boxes import compute_overlaps  # imports Keras, which the evaluation of COCO results does not need

    pred_boxes, gt_boxes = np.asarray(pred_boxes).reshape(-1, 4), np.asarray(gt_boxes).reshape(-1, 4)
    if len(gt_boxes) == 0:
        return 1.0, np.zeros(0, np.int64)
    if len(pred_boxes) == 0:
        return 0.0, np.zeros(0, np.int64)
    overlaps = compute_overlaps(pred_boxes, gt_boxes)  # [P, G]
    positive_ids = np.flatnonzero(overlaps.max(axis=1) >= iou)
    found = np.unique(overlaps.argmax(axis=1)[positive_ids])
    return len(found) / len(gt_boxes), positive_ids


def _rows_in_use(boxes) -> np.ndarray:
    """Indices of the rows of boxes that aren't all zero; none for an empty array of any shape."""
    boxes = np.asarray(boxes)
    return np.flatnonzero(np.any(boxes.reshape(-1, 4) != 0, axis=1)) if boxes.size else np.zeros(0, np.int64)


def _select(values, kept: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(-1)[kept]


def _select_masks(masks, kept: np.ndarray) -> np.ndarray:
    """Masks [H, W, n] of the kept rows, without a copy if all are kept."""
    masks = np.asarray(masks)
    if masks.shape[-1] == len(kept):
        return masks
    return masks[..., kept]
