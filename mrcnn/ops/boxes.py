"""Boxes: from masks, IoU, deltas, clipping, and conversion between pixels and normalized coordinates.

Shapes and units:
    box         (y1, x1, y2, x2). In pixels, y2 and x2 are exclusive: the first row and column outside the box
    normalized  (box - [0, 0, 1, 1]) / (size - 1), so y2 = x2 = 1 is the last pixel of the image; with `offset` 0
                box / size, so y2 = x2 = 1 is the end of the image (`Convention.box_offset`)
    deltas      (dy, dx, log dh, log dw): shift of the center in units of the box's size, and log of the scaling
    N, M        numbers of boxes; ... any leading dimensions

A box without area has IoU 0 with everything and deltas 0, so neither values nor gradients become NaN or infinite.
Functions ending in `_graph` compute the same for tensors of any Keras backend; tests/test_ops_boxes.py compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mrcnn.ops.keras_ops import ops
from mrcnn.ops.types import Tensor

MAX_LOG_SCALE = 30.0  # exp(30) = 1e13: far larger than any image, far below the largest float32
PAIRS_PER_BLOCK = 16384  # the working arrays of this many pairs fit into the processor's cache


def compute_iou(box: ArrayLike, boxes: ArrayLike, box_area: float, boxes_area: ArrayLike) -> np.ndarray:
    """Computes the IoU of one box with many.

    Args:
        box: [(y1, x1, y2, x2)].
        boxes: [N, (y1, x1, y2, x2)], in the same unit.
        box_area: Area of `box`.
        boxes_area: [N], areas of `boxes`. Passed in so that a loop computes them only once.

    Returns:
        [N] float64 in [0, 1]; 0 where both boxes have no area.
    """
    box, boxes, box_area, boxes_area = (_as_float(x) for x in (box, boxes, box_area, boxes_area))
    return iou_of_sides(box, boxes.T, (box_area, boxes_area), out=np.empty(len(boxes)))


def _as_float(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def compute_overlaps(boxes1: ArrayLike, boxes2: ArrayLike) -> np.ndarray:
    """Computes the IoU of each box in one set with each box in another.

    Args:
        boxes1: [N, (y1, x1, y2, x2)].
        boxes2: [M, (y1, x1, y2, x2)], in the same unit.

    Returns:
        [N, M] float64 in [0, 1].

    Example:

    >>> compute_overlaps([[0, 0, 2, 2]], [[0, 0, 2, 1], [5, 5, 6, 6]])
    array([[0.5, 0. ]])
    """
    boxes1 = np.reshape(np.asarray(boxes1, np.float64), (-1, 4))
    boxes2 = np.reshape(np.asarray(boxes2, np.float64), (-1, 4))
    if len(boxes1) < len(boxes2):
        return compute_overlaps(boxes2, boxes1).T
    overlaps = np.empty((len(boxes2), len(boxes1)))
    sides1 = np.ascontiguousarray(boxes1.T)[:, None]  # [4, 1, N]
    sides2 = boxes2.T[:, :, None]  # [4, M, 1]
    step = max(1, PAIRS_PER_BLOCK // max(1, len(boxes2)))
    for start in range(0, len(boxes1), step):  # 262,000 anchors x 9 boxes: 11 ms, 32 ms as a single block
        block = slice(start, start + step)
        iou_of_sides(sides1[..., block], sides2, out=overlaps[:, block])
    return overlaps.T


def iou_of_sides(
    sides1: Sequence[np.ndarray],
    sides2: Sequence[np.ndarray],
    areas: tuple[np.ndarray, np.ndarray] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Computes IoU from separate coordinates; every NumPy function that needs IoU calls this one.

    Args:
        sides1: (y1, x1, y2, x2), four float arrays (or one array [4, ...]).
        sides2: The same for the other boxes; they broadcast against `sides1`.
        areas: Areas of both, if they are known already.
        out: Array that receives the result.

    Returns:
        IoU in [0, 1], of the broadcast shape; 0 where both boxes have no area.
    """
    intersection = np.minimum(sides1[2], sides2[2])
    intersection -= np.maximum(sides1[0], sides2[0])
    width = np.minimum(sides1[3], sides2[3])
    width -= np.maximum(sides1[1], sides2[1])
    np.maximum(intersection, 0, out=intersection)
    intersection *= np.maximum(width, 0, out=width)
    union = np.add(_box_area(sides1), _box_area(sides2), out=width) if areas is None else areas[0] + areas[1]
    union -= intersection
    np.maximum(union, np.finfo(union.dtype).tiny, out=union)  # both without area: 0 / tiny = 0
    return np.divide(intersection, union, out=out)


def _box_area(sides: Sequence[np.ndarray]) -> np.ndarray:
    y1, x1, y2, x2 = sides
    return (y2 - y1) * (x2 - x1)


def overlaps_graph(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """`compute_overlaps` for tensors: [..., N, 4] and [..., M, 4] -> [..., N, M], in the dtype of the boxes.

    Gradients are finite for boxes without area.
    """
    boxes1, boxes2 = ops.convert_to_tensor(boxes1), ops.convert_to_tensor(boxes2)  # torch can't mix tensors and NumPy
    y1, x1, y2, x2 = (boxes1[..., None, i] for i in range(4))  # [..., N, 1]
    v1, u1, v2, u2 = (boxes2[..., None, :, i] for i in range(4))  # [..., 1, M]
    height = ops.maximum(ops.minimum(y2, v2) - ops.maximum(y1, v1), 0.0)
    width = ops.maximum(ops.minimum(x2, u2) - ops.maximum(x1, u1), 0.0)
    intersection = height * width
    union = (y2 - y1) * (x2 - x1) + (v2 - v1) * (u2 - u1) - intersection
    return intersection / ops.where(union > 0, union, 1.0)  # union <= 0 only where the intersection is 0


# ---- Deltas ----------------------------------------------------------------------------------------------------------
def apply_box_deltas(boxes: ArrayLike, deltas: ArrayLike) -> np.ndarray:
    """Moves and scales boxes. Inverse of `box_refinement`.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        deltas: [N, (dy, dx, log dh, log dw)], already multiplied by the standard deviation.

    Returns:
        [N, (y1, x1, y2, x2)] float32, in the unit of `boxes`.

    Example:

    >>> apply_box_deltas([[0, 0, 2, 4]], [[0.5, -0.25, np.log(2), 0]]).round(3)
    array([[ 0., -1.,  4.,  3.]], dtype=float32)
    """
    boxes, deltas = np.asarray(boxes, np.float32), np.asarray(deltas)
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * np.exp(np.minimum(deltas[..., 2:], MAX_LOG_SCALE))
    near = center - 0.5 * size
    return np.concatenate([near, near + size], axis=-1).astype(np.float32)


def apply_box_deltas_graph(boxes: Tensor, deltas: Tensor, max_log_scale: float = MAX_LOG_SCALE) -> Tensor:
    """`apply_box_deltas` for tensors: [..., 4] and [..., 4] -> [..., 4]. `max_log_scale` bounds log dh and log dw."""
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * ops.exp(ops.minimum(deltas[..., 2:], max_log_scale))
    near = center - 0.5 * size
    return ops.concatenate([near, near + size], axis=-1)


def box_refinement(box: ArrayLike, gt_box: ArrayLike) -> np.ndarray:
    """Computes the deltas that turn `box` into `gt_box`. Inverse of `apply_box_deltas`.

    Args:
        box: [N, (y1, x1, y2, x2)].
        gt_box: [N, (y1, x1, y2, x2)], in the same unit.

    Returns:
        [N, (dy, dx, log dh, log dw)] float32, not yet divided by the standard deviation; zeros where either box has no
        area.
    """
    return compute_deltas(box, gt_box, np.float32)


def compute_deltas(box: ArrayLike, gt_box: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """`box_refinement`, computed and returned in a given float type."""
    box, gt_box = np.asarray(box, dtype), np.asarray(gt_box, dtype)
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    has_area = np.all((size > 0) & (gt_size > 0), axis=-1, keepdims=True)
    size, gt_size = np.where(has_area, size, 1), np.where(has_area, gt_size, 1)
    shift = ((gt_box[..., :2] + 0.5 * gt_size) - (box[..., :2] + 0.5 * size)) / size
    return np.where(has_area, np.concatenate([shift, np.log(gt_size / size)], axis=-1), 0).astype(dtype)


def box_refinement_graph(box: Tensor, gt_box: Tensor) -> Tensor:
    """`box_refinement` for tensors, in float32: [..., 4] and [..., 4] -> [..., 4]."""
    box, gt_box = ops.cast(box, "float32"), ops.cast(gt_box, "float32")
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    has_area = ops.all(ops.logical_and(size > 0, gt_size > 0), axis=-1, keepdims=True)
    size, gt_size = (ops.where(has_area, s, ops.ones_like(s)) for s in (size, gt_size))
    shift = ((gt_box[..., :2] + 0.5 * gt_size) - (box[..., :2] + 0.5 * size)) / size
    deltas = ops.concatenate([shift, ops.log(gt_size / size)], axis=-1)
    return ops.where(has_area, deltas, ops.zeros_like(deltas))


# ---- Clipping and normalizing ----------------------------------------------------------------------------------------
def clip_boxes_graph(boxes: Tensor, window: Tensor) -> Tensor:
    """Clips boxes to a window.

    Args:
        boxes: [..., (y1, x1, y2, x2)].
        window: [(y1, x1, y2, x2)], or one per image: [B, 4] for boxes [B, ..., 4].

    Returns:
        [..., (y1, x1, y2, x2)]. A box outside the window becomes a line on its border, without area.
    """
    window = _broadcast_to_boxes(ops.cast(window, boxes.dtype), boxes)
    near = ops.concatenate([window[..., :2], window[..., :2]], axis=-1)
    far = ops.concatenate([window[..., 2:], window[..., 2:]], axis=-1)
    return ops.maximum(ops.minimum(boxes, far), near)


def _broadcast_to_boxes(values: Tensor, boxes: Tensor) -> Tensor:
    """Inserts axes so that values [4] or [B, 4] broadcast against boxes [B, ..., 4]."""
    rank, boxes_rank = len(values.shape), len(boxes.shape)
    for _ in range(boxes_rank - rank if rank > 1 else 0):
        values = ops.expand_dims(values, 1)
    return values


def norm_boxes(boxes: ArrayLike, shape: Sequence[int], offset: int = 1) -> np.ndarray:
    """Converts pixels to normalized coordinates. Inverse of `denorm_boxes`.

    Args:
        boxes: [N, (y1, x1, y2, x2)], pixels.
        shape: (height, width) of the molded image, pixels; further entries are ignored.
        offset: 1: y2 and x2, exclusive in pixels, become inclusive. 0: they stay exclusive.

    Returns:
        [N, (y1, x1, y2, x2)] float32; in [0, 1] for boxes inside the image.

    Example:

    >>> norm_boxes([[0, 0, 11, 21]], (11, 21))
    array([[0., 0., 1., 1.]], dtype=float32)
    """
    return ((np.asarray(boxes) - _offset_corners(offset)) / _image_extent(shape, offset)).astype(np.float32)


def denorm_boxes(boxes: ArrayLike, shape: Sequence[int], offset: int = 1, whole: bool = True) -> np.ndarray:
    """Converts normalized coordinates to pixels. Inverse of `norm_boxes`.

    Args:
        boxes: [N, (y1, x1, y2, x2)], normalized.
        shape: (height, width) of the molded image, pixels; further entries are ignored.
        offset: As for `norm_boxes`.
        whole: False: not rounded.

    Returns:
        [N, (y1, x1, y2, x2)], int32, or float32 if not rounded.
    """
    pixels = np.asarray(boxes) * _image_extent(shape, offset) + _offset_corners(offset)
    return np.around(pixels).astype(np.int32) if whole else pixels.astype(np.float32)


def _offset_corners(offset: int) -> np.ndarray:
    return np.array([0.0, 0.0, offset, offset])


def _image_extent(shape: Sequence[int], offset: int) -> np.ndarray:
    """(height, width, height, width) - offset; at least 1, because an image of one pixel has no extent."""
    return np.maximum(np.tile(np.asarray(shape[:2]), 2) - offset, 1)


def norm_boxes_graph(boxes: Tensor, shape: Tensor, offset: int = 1) -> Tensor:
    """`norm_boxes` for tensors, float32. shape: (height, width), or [B, 2] for boxes [B, ..., 4]."""
    corners = ops.convert_to_tensor(_offset_corners(offset), "float32")
    return (ops.cast(boxes, "float32") - corners) / _extent_graph(shape, boxes, offset)


def denorm_boxes_graph(boxes: Tensor, shape: Tensor, offset: int = 1, whole: bool = True) -> Tensor:
    """`denorm_boxes` for tensors: int32, or float32 if not `whole`. shape: as for `norm_boxes_graph`."""
    corners = ops.convert_to_tensor(_offset_corners(offset), "float32")
    pixels = boxes * _extent_graph(shape, boxes, offset) + corners
    return ops.cast(ops.round(pixels), "int32") if whole else pixels


def _extent_graph(shape: Tensor, boxes: Tensor, offset: int) -> Tensor:
    size = ops.cast(ops.convert_to_tensor(shape), "float32")[..., :2]
    return _broadcast_to_boxes(ops.maximum(ops.concatenate([size, size], axis=-1) - offset, 1), boxes)


# ---- Padding ---------------------------------------------------------------------------------------------------------
def trim_zeros_graph(boxes: Tensor, name: str = "trim_zeros") -> tuple[Tensor, Tensor]:
    """Removes the all-zero rows of boxes.

    The number of rows left depends on the data, so XLA can't compile this; this package's layers mask rows instead.

    Args:
        boxes: [N, 4], padded with zero rows.
        name: Unused; part of matterport's signature.

    Returns:
        boxes [K, 4] without the zero rows, and [N] bool, True for the rows kept.
    """
    del name
    kept = ops.any(ops.not_equal(boxes, 0), axis=-1)
    return ops.take(boxes, ops.nonzero(kept)[0], axis=0), kept
