"""Non-maximum suppression (NMS): keeps only the highest-scoring one of several overlapping boxes.

Greedy, as in every detector: take the best remaining box, drop all others whose IoU with it exceeds the threshold,
repeat. `non_max_suppression` does this in NumPy for one image, `nms_graph` in `keras.ops` for a batch;
tests/test_nms.py compares them.

Shapes and units:
    B  images     K  candidates per image     M  `max_output_size`     T  candidates per tile
    boxes  (y1, x1, y2, x2), any unit; y2 and x2 exclusive. A box with y2 <= y1 or x2 <= x1 is empty: its IoU is 0
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from mrcnn.ops.boxes import iou_of_sides, overlaps_graph
from mrcnn.ops.kernels import is_exporting, tensorflow_nms
from mrcnn.ops.types import Tensor

TILE = 256  # candidates that are decided together; see `_greedy_in_tiles`
NOT_PICKED = -1


def non_max_suppression(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> np.ndarray:
    """Picks boxes by descending score; each picked box drops those that overlap it (NumPy, one image).

    Args:
        boxes: [K, (y1, x1, y2, x2)], any number type, any unit.
        scores: [K]. Ties go to the lower index.
        threshold: IoU in [0, 1]. Boxes with a larger IoU are dropped.

    Returns:
        [n] int32, indices of the picked boxes, best first.

    Raises:
        ValueError: if the shapes do not match.

    Example:

    >>> non_max_suppression([[0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6]], [0.9, 0.8, 0.7], threshold=0.3)
    array([0, 2], dtype=int32)
    """
    boxes, scores = np.asarray(boxes), np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"non_max_suppression got boxes of shape {boxes.shape} and scores of shape {scores.shape};"
            " expected [K, 4] and [K]."
        )
    if boxes.dtype.kind != "f":
        boxes = boxes.astype(np.float32)
    sides = np.ascontiguousarray(boxes.T)  # [4, K]
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    left = np.argsort(-scores.astype(np.float64), kind="stable")
    picked = []
    while left.size:
        best, left = left[0], left[1:]
        picked.append(best)
        iou = iou_of_sides(sides[:, best], sides.take(left, axis=1), (areas[best], areas[left]))
        left = left[iou <= threshold]
    return np.array(picked, np.int32)


def suppression_groups(
    nms: str | Sequence[Sequence[int | str]], num_classes: int, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """Which classes drop each other in NMS, from the setting `DETECTION_NMS`.

    Args:
        nms: "class": NMS within each class. "all": among all classes. Or lists of class ids or names: among the classes
            of each list; classes in no list only drop their own.
        num_classes: C, with the background.
        class_names: [C], the background's first; None: unknown, and `nms` may not have names.

    Returns:
        [C] int32: classes with the same number drop each other.

    Raises:
        ValueError: A class doesn't exist, or is in two lists.

    Example:

    >>> suppression_groups([["car", "truck"]], 4, ["BG", "car", "dog", "truck"])
    array([0, 1, 2, 1], dtype=int32)
    """
    if isinstance(nms, str) and nms not in ("class", "all"):
        raise ValueError(f"DETECTION_NMS is {nms!r}; expected 'class', 'all', or lists of class ids or names.")
    groups, seen = np.arange(num_classes, dtype=np.int32), set()
    if nms == "all":
        return np.zeros_like(groups)
    for group in () if nms == "class" else nms:
        ids = [_class_id(item, num_classes, class_names) for item in group]
        twice = seen.intersection(ids)
        if twice:
            raise ValueError(f"DETECTION_NMS is {nms!r}; expected class {min(twice)} in one list only.")
        seen.update(ids)
        groups[ids] = min(ids, default=0)
    return groups


def names_classes(nms: str | Sequence[Sequence[int | str]]) -> bool:
    """Whether `DETECTION_NMS` has class names, so that `suppression_groups` needs those of the model."""
    return not isinstance(nms, str) and any(isinstance(item, str) for group in nms for item in group)


def _class_id(item: int | str, num_classes: int, class_names: Sequence[str] | None) -> int:
    names = list(class_names or ())
    class_id = names.index(item) if item in names else item
    if isinstance(class_id, str) or not 1 <= class_id < num_classes:
        known = f", or one of {names[1:]}" if names else "; the model has no class names"
        raise ValueError(f"DETECTION_NMS has the class {item!r}; expected ids from 1 to {num_classes - 1}{known}.")
    return int(class_id)


def nms_graph(
    boxes: Tensor,
    scores: Tensor,
    max_output_size: int,
    iou_threshold: float | Tensor,
    class_ids: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Picks the best non-overlapping boxes of each image in a batch.

    Args:
        boxes: [B, K, (y1, x1, y2, x2)] float, any unit. Computed in float32.
        scores: [B, K] float. Ties go to the lower index.
        max_output_size: M, the largest number of boxes to pick. May exceed K.
        iou_threshold: IoU in [0, 1], number or scalar tensor. A box is dropped when its IoU with a picked one is
            larger.
        class_ids: [B, K] int. If given, boxes of different classes never drop each other.
        valid: [B, K] bool. Rows that are False are never picked; nor are rows whose score is NaN or -inf or whose box
            is not finite.

    Returns:
        [B, M] int32, indices into K, best first, then -1. No gradient flows through it.

    Example:

    >>> boxes = ops.convert_to_tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6]]])
    >>> ops.convert_to_numpy(nms_graph(boxes, ops.convert_to_tensor([[0.9, 0.8, 0.7]]), 3, 0.3)).tolist()
    [[0, 2, -1]]
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    scores = ops.stop_gradient(ops.cast(scores, "float32"))
    alive = ops.logical_and(ops.all(ops.isfinite(boxes), axis=-1), scores > -np.inf)  # NaN > -inf is False
    if valid is not None:
        alive = ops.logical_and(alive, ops.cast(valid, "bool"))
    boxes = ops.concatenate([boxes[..., :2], ops.maximum(boxes[..., :2], boxes[..., 2:])], axis=-1)
    scores = ops.where(alive, scores, -np.inf)
    tf = tensorflow_nms()
    if tf and class_ids is None:
        return _greedy_by_kernel(tf, boxes, scores, max_output_size, iou_threshold)
    class_ids = None if class_ids is None else ops.cast(class_ids, "int32")
    if is_exporting():
        return _greedy_box_by_box(boxes, scores, class_ids, max_output_size, iou_threshold)
    return _greedy_in_tiles(boxes, scores, class_ids, max_output_size, iou_threshold)


def _greedy_by_kernel(tf, boxes, scores, limit: int, threshold):
    """TensorFlow's compiled loop, image by image. Arguments and result as for `_greedy_in_tiles`."""

    def pick(image):
        with tf.device("CPU:0"):  # the GPU's kernel compares without a division, which can differ in the last bit
            picked, count = tf.raw_ops.NonMaxSuppressionV4(
                boxes=image[0],
                scores=image[1],
                max_output_size=limit,
                iou_threshold=threshold,
                score_threshold=-np.inf,
                pad_to_max_output_size=True,
            )
            return tf.where(tf.range(limit) < count, picked, NOT_PICKED)

    return tf.map_fn(pick, (boxes, scores), fn_output_signature=tf.TensorSpec([limit], tf.int32))


def _greedy_in_tiles(boxes, scores, class_ids, limit: int, threshold):
    """Greedy suppression on any backend, T candidates at a time.

    Each step drops the candidates of one tile that overlap the boxes picked so far, decides the tile by itself, and
    appends its survivors to the picked boxes. It stops when all tiles are done or every image has `limit` boxes. The
    result equals that of the box-by-box loop, in at most K / T steps instead of K.

    Args: boxes [B, K, 4]; scores [B, K], -inf for rows that must not be picked; class_ids [B, K] or None.
    Returns: [B, limit] int32, indices into K, best first, then -1.
    """
    batch = ops.shape(scores)[0]
    boxes, alive, class_ids, rows = _in_tiles(boxes, scores, class_ids)
    tiles, _, tile = ops.shape(alive)
    slots = ops.arange(limit, dtype="int32")[None]  # [1, M]
    places = ops.arange(tile, dtype="int32")
    better = places[:, None] > places[None]  # [T, T]: the column's box is better than the row's

    def more(step, found, picked, picked_boxes, picked_classes):
        return ops.logical_and(step < tiles, ops.any(found < limit))

    def decide(step, found, picked, picked_boxes, picked_classes):
        box, keep, row = (ops.take(x, step, axis=0) for x in (boxes, alive, rows))
        classes = None if class_ids is None else ops.take(class_ids, step, axis=0)
        dropped = _overlapping(box, picked_boxes, threshold, classes, picked_classes)  # [B, T, M]
        keep = ops.logical_and(keep, ops.logical_not(ops.any(dropped, axis=-1)))
        inside = ops.logical_and(_overlapping(box, box, threshold, classes, classes), better)  # [B, T, T]
        keep = _decide_tile(inside, keep)  # [B, T]

        # Survivors move to the front of the tile; slot s of the picked boxes takes survivor number s - found.
        front = ops.argsort(ops.where(keep, places, places + tile), axis=-1)
        new_found = found + ops.sum(ops.cast(keep, "int32"), axis=1, keepdims=True)  # [B, 1]
        source = ops.take_along_axis(front, ops.clip(slots - found, 0, tile - 1), axis=1)  # [B, M]
        new = ops.logical_and(slots >= found, slots < new_found)
        picked = ops.where(new, ops.take_along_axis(row, source, axis=1), picked)
        new_boxes = ops.take_along_axis(box, source[..., None], axis=1)
        picked_boxes = ops.where(new[..., None], new_boxes, picked_boxes)
        if class_ids is not None:
            picked_classes = ops.where(new, ops.take_along_axis(classes, source, axis=1), picked_classes)
        return step + 1, ops.minimum(new_found, limit), picked, picked_boxes, picked_classes

    nothing = ops.full((batch, limit), NOT_PICKED, "int32")
    no_boxes = ops.zeros((batch, limit, 4), "float32")  # empty boxes overlap nothing
    start = (ops.convert_to_tensor(0, "int32"), ops.zeros((batch, 1), "int32"), nothing, no_boxes, nothing)
    return ops.while_loop(more, decide, start)[2]


def _greedy_box_by_box(boxes, scores, class_ids, limit: int, threshold):
    """Greedy suppression with one simple loop, for exports: some runtimes can't run nested loops.

    Arguments and result as for `_greedy_in_tiles`.
    """
    batch, count = ops.shape(scores)
    rows = ops.arange(count, dtype="int32")[None]  # [1, K]
    slots = ops.arange(limit, dtype="int32")[None]  # [1, M]

    def more(step, scores, picked):
        return ops.logical_and(step < limit, ops.any(scores > -np.inf))

    def pick(step, scores, picked):
        best = ops.max(scores, axis=1, keepdims=True)  # [B, 1]
        row = ops.min(ops.where(scores == best, rows, count), axis=1, keepdims=True)  # [B, 1]
        is_best = rows == row  # [B, K]
        box = ops.sum(ops.where(is_best[..., None], boxes, 0.0), axis=1, keepdims=True)  # [B, 1, 4]
        dropped = overlaps_graph(boxes, box)[..., 0] > threshold
        if class_ids is not None:
            class_id = ops.sum(ops.where(is_best, class_ids, 0), axis=1, keepdims=True)
            dropped = ops.logical_and(dropped, class_ids == class_id)
        found = ops.logical_and(slots == step, best > -np.inf)
        scores = ops.where(ops.logical_or(is_best, dropped), -np.inf, scores)
        return step + 1, scores, ops.where(found, row, picked)

    start = (ops.convert_to_tensor(0, "int32"), scores, ops.full((batch, limit), NOT_PICKED, "int32"))
    return ops.while_loop(more, pick, start)[2]


def _in_tiles(boxes, scores, class_ids):
    """Sorts candidates by score and cuts them into tiles of T; arguments as for `_greedy_in_tiles`.

    Returns: boxes [tiles, B, T, 4], alive [tiles, B, T] bool, class_ids [tiles, B, T] or None, and the row in K of
        each candidate, [tiles, B, T] int32.
    """
    batch, count = ops.shape(scores)
    tile = min(TILE, count + 1) if isinstance(count, int) else TILE
    tiles = count // tile + 1  # at least one row of padding, so an image without candidates is no special case
    padding = tiles * tile - count
    order = ops.pad(scores, [[0, 0], [0, padding]], constant_values=-np.inf)
    order = ops.cast(ops.argsort(-order, axis=1), "int32")  # [B, tiles * T], stable on every backend

    def tiled(x):
        return ops.swapaxes(ops.reshape(x, (batch, tiles, tile, *x.shape[2:])), 0, 1)

    def sort(x):
        x = ops.pad(x, [[0, 0], [0, padding]] + [[0, 0]] * (len(x.shape) - 2))
        return tiled(ops.take_along_axis(x, order[..., None] if len(x.shape) == 3 else order, axis=1))

    return sort(boxes), sort(scores > -np.inf), None if class_ids is None else sort(class_ids), tiled(order)


def _decide_tile(overlapping, keep):
    """Greedy suppression within one tile, all rows at once, repeated until nothing changes.

    A row stays if it was alive and no better row that stays overlaps it. The best row is right from the start and each
    pass settles at least one more, so the fixed point exists and is the greedy answer. In practice few passes suffice.

    Args: overlapping [B, T, T] bool, True only where the column's box is the better one; keep [B, T] bool.
    Returns: [B, T] bool.
    """

    def changed(now, before):
        return ops.any(ops.not_equal(now, before))

    def again(now, before):
        dropped = ops.any(ops.logical_and(overlapping, now[:, None, :]), axis=-1)
        return ops.logical_and(keep, ops.logical_not(dropped)), now

    return ops.while_loop(changed, again, again(keep, keep))[0]


def _overlapping(boxes1, boxes2, threshold, classes1, classes2):
    """IoU > threshold, and the same class if classes are given: [B, N1, 4] x [B, N2, 4] -> [B, N1, N2] bool."""
    over = overlaps_graph(boxes1, boxes2) > threshold
    if classes1 is None:
        return over
    return ops.logical_and(over, ops.equal(classes1[:, :, None], classes2[:, None, :]))
