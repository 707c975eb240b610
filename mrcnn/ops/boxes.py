"""Boxes: from masks, to and from deltas, overlaps, normalised and back.

Shapes and units:
    box         (y1, x1, y2, x2); y2 and x2 are the first row and column that no longer belong to it
    normalised  (box - [0, 0, 1, 1]) / (size - 1), so that the last pixel of an image has y2 = x2 = 1
    deltas      (dy, dx, log dh, log dw): shift of the centre in box sizes, and log of the growth
    N, M        boxes; ... any leading dimensions

A box without area overlaps nothing (IoU 0) and has deltas 0: no NaN, no infinity, in no gradient either.
Functions that end in `_graph` are the twins for tensors of any Keras backend.
"""

from __future__ import annotations

import cv2
import numpy as np
from keras import ops

LARGEST_LOG_GROWTH = 30.0  # exp(30) = 1e13 boxes high: far beyond any image, far below float32's largest number
CACHED_OVERLAPS = 16384  # pairs worked on at once: their arrays stay in the processor's cache
FAR_CORNER_SHIFT = (0.0, 0.0, 1.0, 1.0)  # y2 and x2 are exclusive in pixels, inclusive when normalised


# ---- From masks ------------------------------------------------------------------------------------------------------
def extract_bboxes(mask) -> np.ndarray:
    """The tightest box around each mask.

    Args:
        mask: [H, W, N]; a pixel that is not 0 belongs to the object.

    Returns:
        [N, (y1, x1, y2, x2)] int32, pixels. An empty mask has the box (0, 0, 0, 0).

    Raises:
        ValueError: mask has not three dimensions.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {mask.shape}; expected [height, width, instances].")
    if 0 in mask.shape:
        return np.zeros((mask.shape[-1], 4), np.int32)
    mask = mask if mask.dtype == bool else mask != 0
    layers = mask.transpose(2, 1, 0)
    if layers.flags.c_contiguous:  # layer after layer, column by column: as pycocotools has masks
        return np.array([_bounding_rectangle(layer) for layer in layers.view(np.uint8)], np.int32)
    y1, y2 = _first_and_end(_any_column(mask))
    x1, x2 = _first_and_end(mask.any(axis=0))
    return np.stack([y1, x1, y2, x2], axis=1).astype(np.int32)


def _bounding_rectangle(layer: np.ndarray) -> tuple:
    """The box around a mask's transpose, [W, H] uint8."""
    y, x, height, width = cv2.boundingRect(layer)
    return y, x, y + height, x + width


def _any_column(mask: np.ndarray) -> np.ndarray:
    """`mask.any(axis=1)`, by halves: whole rows are or-ed at once, where NumPy would step through short last axes."""
    while mask.shape[1] > 1:
        half = (mask.shape[1] + 1) // 2
        mask = mask[:, :half] | mask[:, -half:]
    return mask[:, 0]


def _first_and_end(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First True along axis 0 and one past the last, [N] each; (0, 0) where there is none. occupied: [L, N]."""
    there = occupied.any(axis=0)
    first = occupied.argmax(axis=0)
    end = len(occupied) - occupied[::-1].argmax(axis=0)
    return first * there, end * there


# ---- Overlaps --------------------------------------------------------------------------------------------------------
def compute_iou(box, boxes, box_area, boxes_area) -> np.ndarray:
    """Intersection over union of one box with many.

    Args:
        box: [(y1, x1, y2, x2)].
        boxes: [N, (y1, x1, y2, x2)].
        box_area: number. Area of box.
        boxes_area: [N]. Areas of boxes, handed in so that they are computed once.

    Returns:
        [N] float64 in [0, 1]; 0 where neither has an area.
    """
    height = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    width = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    intersection = np.maximum(height, 0) * np.maximum(width, 0)
    union = box_area + boxes_area - intersection
    return np.divide(intersection, union, out=np.zeros(len(boxes)), where=union > 0)


def compute_overlaps(boxes1, boxes2) -> np.ndarray:
    """Intersection over union of each box of one set with each of another.

    Args:
        boxes1: [N, (y1, x1, y2, x2)].
        boxes2: [M, (y1, x1, y2, x2)], in the same unit.

    Returns:
        [N, M] float64 in [0, 1].
    """
    boxes1 = np.reshape(np.asarray(boxes1, np.float64), (-1, 4))
    boxes2 = np.reshape(np.asarray(boxes2, np.float64), (-1, 4))
    if len(boxes1) < len(boxes2):
        return compute_overlaps(boxes2, boxes1).T
    overlaps = np.empty((len(boxes2), len(boxes1)))
    columns = np.ascontiguousarray(boxes1.T)[:, None]  # [4, 1, N]: each coordinate of all boxes in one piece
    others = boxes2.T[:, :, None]  # [4, M, 1]
    step = max(1, CACHED_OVERLAPS // max(1, len(boxes2)))
    for start in range(0, len(boxes1), step):  # 262,000 anchors, 9 boxes: 11 ms, and 32 ms in one piece
        part = slice(start, start + step)
        _overlaps_into(overlaps[:, part], columns[..., part], others)
    return overlaps.T


def _overlaps_into(overlaps: np.ndarray, boxes1: np.ndarray, boxes2: np.ndarray) -> None:
    """IoU of boxes1 [4, 1, N] with boxes2 [4, M, 1], written into overlaps [M, N]; few working arrays, used again."""
    intersection = np.minimum(boxes1[2], boxes2[2])
    intersection -= np.maximum(boxes1[0], boxes2[0])
    width = np.minimum(boxes1[3], boxes2[3])
    width -= np.maximum(boxes1[1], boxes2[1])
    np.maximum(intersection, 0, out=intersection)
    intersection *= np.maximum(width, 0, out=width)
    union = np.add(_area(boxes1), _area(boxes2), out=width)
    union -= intersection
    np.maximum(union, np.finfo(np.float64).tiny, out=union)  # where neither has an area: 0 / tiny = 0
    np.divide(intersection, union, out=overlaps)


def _area(coordinates: np.ndarray) -> np.ndarray:
    y1, x1, y2, x2 = coordinates
    return (y2 - y1) * (x2 - x1)


def overlaps_graph(boxes1, boxes2):
    """`compute_overlaps` for tensors: [..., N, 4] and [..., M, 4] -> [..., N, M], float like the boxes."""
    boxes1, boxes2 = ops.expand_dims(boxes1, -2), ops.expand_dims(boxes2, -3)  # [..., N, 1, 4] and [..., 1, M, 4]
    near = ops.maximum(boxes1[..., :2], boxes2[..., :2])
    far = ops.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = _area_graph(far - near)
    union = _area_graph(boxes1[..., 2:] - boxes1[..., :2]) + _area_graph(boxes2[..., 2:] - boxes2[..., :2])
    union = union - intersection
    there = union > 0
    return ops.where(there, intersection / ops.where(there, union, ops.ones_like(union)), ops.zeros_like(union))


def _area_graph(sizes):
    sizes = ops.maximum(sizes, 0)
    return sizes[..., 0] * sizes[..., 1]


# ---- Deltas ----------------------------------------------------------------------------------------------------------
def apply_box_deltas(boxes, deltas) -> np.ndarray:
    """Moves and stretches boxes.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        deltas: [N, (dy, dx, log dh, log dw)], already multiplied by the standard deviation.

    Returns:
        [N, (y1, x1, y2, x2)] float32, in the unit of boxes. Inverse of `box_refinement`.
    """
    boxes, deltas = np.asarray(boxes, np.float32), np.asarray(deltas)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * np.exp(np.minimum(deltas[..., 2:], LARGEST_LOG_GROWTH))
    near = centre - 0.5 * size
    return np.concatenate([near, near + size], axis=-1).astype(np.float32)


def apply_box_deltas_graph(boxes, deltas):
    """`apply_box_deltas` for tensors: [..., 4] and [..., 4] -> [..., 4]."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * ops.exp(ops.minimum(deltas[..., 2:], LARGEST_LOG_GROWTH))
    near = centre - 0.5 * size
    return ops.concatenate([near, near + size], axis=-1)


def box_refinement(box, gt_box) -> np.ndarray:
    """The deltas that turn `box` into `gt_box`.

    Args:
        box: [N, (y1, x1, y2, x2)].
        gt_box: [N, (y1, x1, y2, x2)], in the same unit.

    Returns:
        [N, (dy, dx, log dh, log dw)] float32, not yet divided by the standard deviation; zeros where one of the two
        has no area. Inverse of `apply_box_deltas`.
    """
    box, gt_box = np.asarray(box, np.float32), np.asarray(gt_box, np.float32)
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    there = np.all((size > 0) & (gt_size > 0), axis=-1, keepdims=True)
    size, gt_size = np.where(there, size, 1), np.where(there, gt_size, 1)
    shift = ((gt_box[..., :2] + 0.5 * gt_size) - (box[..., :2] + 0.5 * size)) / size
    return np.where(there, np.concatenate([shift, np.log(gt_size / size)], axis=-1), 0).astype(np.float32)


def box_refinement_graph(box, gt_box):
    """`box_refinement` for tensors: [..., 4] and [..., 4] -> [..., 4]."""
    box, gt_box = ops.cast(box, "float32"), ops.cast(gt_box, "float32")
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    there = ops.all(ops.logical_and(size > 0, gt_size > 0), axis=-1, keepdims=True)
    size, gt_size = (ops.where(there, s, ops.ones_like(s)) for s in (size, gt_size))
    shift = ((gt_box[..., :2] + 0.5 * gt_size) - (box[..., :2] + 0.5 * size)) / size
    deltas = ops.concatenate([shift, ops.log(gt_size / size)], axis=-1)
    return ops.where(there, deltas, ops.zeros_like(deltas))


def clip_boxes_graph(boxes, window):
    """Cuts boxes off at a window.

    Args:
        boxes: [..., (y1, x1, y2, x2)] tensor.
        window: [(y1, x1, y2, x2)], or one for each image: [B, 4] against boxes [B, ..., 4].

    Returns:
        [..., (y1, x1, y2, x2)]. A box outside the window becomes a line on its border, without area.
    """
    window = _spread(ops.cast(window, boxes.dtype), boxes)
    near = ops.concatenate([window[..., :2], window[..., :2]], axis=-1)
    far = ops.concatenate([window[..., 2:], window[..., 2:]], axis=-1)
    return ops.maximum(ops.minimum(boxes, far), near)


def _spread(values, boxes):
    """Values of the whole [4], or of each image [B, 4], so shaped that they broadcast against boxes [B, ..., 4]."""
    rank, boxes_rank = len(values.shape), len(boxes.shape)
    for _ in range(boxes_rank - rank if rank > 1 else 0):
        values = ops.expand_dims(values, 1)
    return values


# ---- Normalised and back ---------------------------------------------------------------------------------------------
def norm_boxes(boxes, shape) -> np.ndarray:
    """Pixels to normalised coordinates.

    Args:
        boxes: [N, (y1, x1, y2, x2)], pixels.
        shape: (height, width), pixels, of the molded image; more entries are ignored.

    Returns:
        [N, (y1, x1, y2, x2)] float32; within the image they lie in [0, 1]. Inverse of `denorm_boxes`.
    """
    height, width = shape[0], shape[1]
    scale = np.maximum(np.array([height, width, height, width]) - 1, 1)  # an image of one pixel has no extent
    return ((np.asarray(boxes) - FAR_CORNER_SHIFT) / scale).astype(np.float32)


def denorm_boxes(boxes, shape) -> np.ndarray:
    """Normalised coordinates to pixels.

    Args:
        boxes: [N, (y1, x1, y2, x2)], normalised.
        shape: (height, width), pixels, of the molded image; more entries are ignored.

    Returns:
        [N, (y1, x1, y2, x2)] int32, rounded. Inverse of `norm_boxes`.
    """
    height, width = shape[0], shape[1]
    scale = np.maximum(np.array([height, width, height, width]) - 1, 1)
    return np.around(np.asarray(boxes) * scale + FAR_CORNER_SHIFT).astype(np.int32)


def norm_boxes_graph(boxes, shape):
    """`norm_boxes` for tensors. shape: (height, width), or [B, 2] against boxes [B, ..., 4]."""
    return (ops.cast(boxes, "float32") - np.array(FAR_CORNER_SHIFT, "float32")) / _extent_graph(shape, boxes)


def denorm_boxes_graph(boxes, shape):
    """`denorm_boxes` for tensors, int32. shape: (height, width), or [B, 2] against boxes [B, ..., 4]."""
    pixels = boxes * _extent_graph(shape, boxes) + np.array(FAR_CORNER_SHIFT, "float32")
    return ops.cast(ops.round(pixels), "int32")


def _extent_graph(shape, boxes):
    size = ops.cast(ops.convert_to_tensor(shape), "float32")[..., :2]
    return _spread(ops.maximum(ops.concatenate([size, size], axis=-1) - 1, 1), boxes)


# ---- Padding ---------------------------------------------------------------------------------------------------------
def trim_zeros_graph(boxes, name="trim_zeros"):
    """Drops the all-zero rows of boxes.

    Args:
        boxes: [N, 4] tensor, padded with zero rows.
        name: str. Kept for matterport's call form.

    Returns:
        boxes [K, 4] without them, and the mask [N] bool of the rows kept. K depends on the data, so that this can't be
        compiled by XLA; our own layers mask instead.
    """
    del name  # tensors are not named any more
    kept = ops.any(ops.not_equal(boxes, 0), axis=-1)
    return ops.take(boxes, ops.nonzero(kept)[0], axis=0), kept
