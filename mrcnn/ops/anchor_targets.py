"""Training targets of the RPN for tensors: which anchors are objects, which are background, and the deltas.

The same as `data.rpn_targets.choose_anchors`, for whole batches and on the device; tests/test_nn_rpn_targets.py
compares both. IoUs are computed in float64, as by NumPy: many anchors overlap a small object equally, and the last bits
decide which of them is the best.

Shapes and units:
    B  images     A  anchors     G  rows of objects     T  sampled anchors     P = T // 2, maximum number of positives
    boxes  (y1, x1, y2, x2) in pixels of the molded image

Reference: Ren et al., "Faster R-CNN", section 3.1.2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from mrcnn.ops.types import Tensor

CROWD_IOU = 0.001  # an anchor that overlaps a crowd more than this is not background: it may contain an object


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Context in which JAX computes in float64, too; the other backends always can."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # before JAX 0.8
    with enable_x64(True):
        yield


def match_anchors(
    anchors: np.ndarray,
    class_ids: Tensor,
    boxes: Tensor,
    positive_iou: float = 0.7,
    negative_iou: float = 0.3,
    best_anchors_choose: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels the anchors of each image.

    Args:
        anchors: [A, 4] float64.
        class_ids: [B, G] int; 0 is padding, negative a crowd.
        boxes: [B, G, 4].
        positive_iou, negative_iou: `Config.RPN_POSITIVE_IOU` and `RPN_NEGATIVE_IOU`.
        best_anchors_choose: Whether an anchor that is the best of an object belongs to the object that it overlaps
            most; False: to the object whose best anchor it is.

    Returns:
        positive [B, A] bool; negative [B, A] bool; owner [B, A] int32, the object of a positive anchor.
    """
    with double_precision():
        sides = [ops.convert_to_tensor(side, "float64")[None] for side in np.asarray(anchors, np.float64).T]  # [1, A]
        boxes, none = ops.cast(boxes, "float64"), ops.zeros_like(boxes[:, :1, 0])  # [B, G, 4], [B, 1]
        iou = ops.cast(none, "float64") + ops.zeros_like(sides[0])  # [B, A]
        owner = ops.cast(iou, "int32")

        def add_object(g, state):
            """Adds row g of the objects to the highest IoU of each anchor and its owner, both twice, and the crowds."""
            best_iou, best_owner, forced_iou, forced_owner, crowded = state
            class_id = ops.take(class_ids, g, axis=1)[:, None]  # [B, 1]
            iou = iou_with_box(sides, ops.take(boxes, g, axis=1))  # [B, A]
            crowded = ops.logical_or(crowded, ops.logical_and(class_id < 0, iou >= CROWD_IOU))
            iou = ops.where(class_id > 0, iou, ops.zeros_like(iou))
            forced = ops.logical_and(iou > 0, iou == ops.max(iou, axis=1, keepdims=True))  # best anchors of the object
            number = ops.zeros_like(best_owner) + ops.cast(g, "int32")
            better = iou > best_iou  # of equal ones, the first object counts
            better_forced = ops.logical_and(forced, iou > forced_iou)
            return (
                ops.where(better, iou, best_iou), ops.where(better, number, best_owner),
                ops.where(better_forced, iou, forced_iou), ops.where(better_forced, number, forced_owner), crowded,
            )  # fmt: skip

        rows = ops.where(class_ids != 0, ops.arange(1, class_ids.shape[1] + 1, dtype="int32")[None], 0)
        last = ops.cast(ops.max(rows), "int32")  # no image has objects in later rows
        state = (iou, owner, iou, owner, iou < 0)
        best_iou, best_owner, forced_iou, forced_owner, crowded = ops.fori_loop(
            ops.zeros_like(last), last, add_object, state
        )
        is_forced = forced_iou > 0
        overlaps = best_iou > 0
        positive = ops.logical_or(is_forced, ops.logical_and(overlaps, best_iou >= positive_iou))
        touches = ops.logical_or(crowded, ops.logical_and(overlaps, best_iou >= negative_iou))
        negative = ops.logical_not(ops.logical_or(positive, touches))
        if not best_anchors_choose:
            best_owner = ops.where(is_forced, forced_owner, best_owner)
    return positive, negative, best_owner


def iou_with_box(sides: Sequence[Tensor], box: Tensor) -> Tensor:
    """IoU of anchors with one box per image, in the order of operations of `ops.boxes.iou_of_sides`.

    Args:
        sides: y1, x1, y2, x2 of the anchors, [1, A] each.
        box: [B, 4].

    Returns:
        [B, A].
    """
    y1, x1, y2, x2 = sides
    v1, u1, v2, u2 = (box[:, i : i + 1] for i in range(4))  # [B, 1]
    intersection = _interval_overlap(y1, y2, v1, v2) * _interval_overlap(x1, x2, u1, u2)  # [B, A]
    union = (y2 - y1) * (x2 - x1) + (v2 - v1) * (u2 - u1) - intersection
    return intersection / ops.where(union > 0, union, ops.ones_like(union))  # union <= 0 only where nothing is common


def _interval_overlap(start, end, other_start, other_end):
    """Length of the common part of two intervals. With `where`: `ops.minimum` computes in float32 on PyTorch."""
    length = ops.where(end < other_end, end, other_end) - ops.where(start > other_start, start, other_start)
    return ops.relu(length)


def sample_anchors(positive: Tensor, negative: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Chooses at most `count // 2` positives, and negatives up to `count` anchors in all: those with the largest order.

    Args:
        positive, negative: [B, A] bool.
        order: [B, A] in [0, 1), random.
        count: T.

    Returns:
        match [B, A] int32: 1 positive, -1 negative, 0 not used; rows [B, P] int32, the chosen positives in the order of
        the anchors, and real [B, P] bool, which of these rows are in use.
    """
    anchors = positive.shape[1]
    rows, real = _top_candidates(positive, order, min(count // 2, anchors))
    chosen = ops.sum(ops.cast(real, "int32"), axis=1, keepdims=True)  # [B, 1]
    negative_rows, is_negative = _top_candidates(negative, order, min(count, anchors))
    place = ops.arange(negative_rows.shape[1], dtype="int32")[None]
    is_negative = ops.logical_and(is_negative, place < count - chosen)
    match = _rows_to_flags(rows, real, positive) - _rows_to_flags(negative_rows, is_negative, positive)
    rows = ops.sort(ops.where(real, rows, anchors), axis=1)
    return match, ops.minimum(rows, anchors - 1), rows < anchors


def _top_candidates(candidates, order, count):
    """The `count` candidates with the largest order, best first: rows [B, count] int32, and which are candidates."""
    values, rows = ops.top_k(ops.where(candidates, order, -1.0), count)
    return ops.cast(rows, "int32"), values >= 0


def _rows_to_flags(rows, real, like):
    """[B, A] int32, 1 at the rows [B, K] that are real; `like` is [B, A]."""
    zeros = ops.cast(ops.zeros_like(like), "int32")
    first = ops.arange(ops.shape(zeros)[0], dtype="int32")[:, None] * zeros.shape[1]
    places = ops.reshape(rows + first, (-1, 1))
    flat = ops.scatter_update(ops.reshape(zeros, (-1,)), places, ops.cast(ops.reshape(real, (-1,)), "int32"))
    return ops.reshape(flat, ops.shape(zeros))


def anchor_deltas(anchors: np.ndarray, rows: Tensor, gt_boxes: Tensor, std_dev: Sequence[float]) -> Tensor:
    """Deltas from anchors to boxes, `ops.boxes.compute_deltas` in float64, divided by the standard deviation.

    Args:
        anchors: [A, 4] float64.
        rows: [B, P] int32, into the anchors.
        gt_boxes: [B, P, 4].
        std_dev: [4].

    Returns:
        [B, P, 4] float32.
    """
    with double_precision():
        box = ops.take(ops.convert_to_tensor(np.asarray(anchors, np.float64)), rows, axis=0)  # [B, P, 4]
        gt_boxes = ops.cast(gt_boxes, "float64")
        size, gt_size = box[..., 2:] - box[..., :2], gt_boxes[..., 2:] - gt_boxes[..., :2]
        has_area = ops.all(ops.logical_and(size > 0, gt_size > 0), axis=-1, keepdims=True)
        size, gt_size = (ops.where(has_area, s, ops.ones_like(s)) for s in (size, gt_size))
        shift = ((gt_boxes[..., :2] + 0.5 * gt_size) - (box[..., :2] + 0.5 * size)) / size
        deltas = ops.concatenate([shift, ops.log(gt_size / size)], axis=-1)
        deltas = deltas / ops.convert_to_tensor(np.asarray(std_dev, np.float64))
        return ops.cast(ops.where(has_area, deltas, ops.zeros_like(deltas)), "float32")
