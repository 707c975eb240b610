"""Training targets of one image: of the anchors for the RPN, and in NumPy of RoIs for the heads.

Shapes:
    A  anchors, all levels: 261,888 at 1024 x 1024
    T  config.RPN_TRAIN_ANCHORS_PER_IMAGE, the anchors used in the RPN's losses
    G  ground-truth objects; R candidate RoIs; N config.TRAIN_ROIS_PER_IMAGE, the RoIs chosen; C classes
    boxes are (y1, x1, y2, x2) in pixels of the molded image

`build_rpn_targets` gives the targets of the RPN's losses. `build_detection_targets` and `generate_random_rois` are the
NumPy forms of `nn.targets`, for notebooks and for training the heads without an RPN.

Reference: Ren et al., "Faster R-CNN", sections 3.1.2 and 3.1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.config import Config
from mrcnn.data.anchor_index import AnchorIndex, Pairs
from mrcnn.ops import boxes, images

CROWD_IOU = 0.001  # an anchor or RoI that overlaps a crowd more than this isn't used as background
FOREGROUND_IOU = 0.5  # of RoIs; Fast R-CNN, section 2.3
RANDOM_ROIS_NEAR_OBJECTS = 0.9  # share drawn around objects; the others are anywhere


# ---- Region proposals ------------------------------------------------------------------------------------------------
def build_rpn_targets(
    image_shape: Sequence[int] | None,
    anchors: ArrayLike | AnchorIndex,
    gt_class_ids: ArrayLike,
    gt_boxes: ArrayLike,
    config: Config,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels each anchor as object, background or ignored, and computes the deltas of the object anchors.

    An anchor is positive if its IoU with an object is at least RPN_POSITIVE_IOU. The anchors that overlap an object
    most are also positive, and belong to *this* object even if they overlap another one more (unless the convention has
    `best_anchors_choose`); an object that overlaps no anchor makes none positive. An anchor is negative if all its IoUs
    are below RPN_NEGATIVE_IOU and it doesn't touch a crowd. At most T / 2 positives and T anchors in total are used,
    chosen at random.

    Args:
        image_shape: unused, kept for matterport's signature.
        anchors: [A, (y1, x1, y2, x2)] pixels, or an `AnchorIndex` of them (saves 0.1 s per call).
        gt_class_ids: [G] int; negative for a crowd.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels.
        config: Config; RPN_TRAIN_ANCHORS_PER_IMAGE, RPN_BBOX_STD_DEV and the settings above are read.
        rng: source of randomness; None: `np.random`, as in matterport's code.

    Returns:
        rpn_match: [A] int32: 1 positive, -1 negative, 0 ignored.
        rpn_bbox: [T, (dy, dx, log dh, log dw)] float64, divided by RPN_BBOX_STD_DEV: one row per positive anchor, in
            the order of the anchors, then zeros.

    Example:
        >>> anchors = [[0, 0, 16, 16], [0, 8, 16, 24], [0, 32, 16, 48]]
        >>> rpn_match, rpn_bbox = build_rpn_targets(None, anchors, [1], [[0, 0, 16, 16]], Config())
        >>> rpn_match.tolist(), rpn_bbox.shape
        ([1, 0, -1], (256, 4))
    """
    index = anchors if isinstance(anchors, AnchorIndex) else AnchorIndex(anchors)
    positive, negative, deltas = choose_anchors(index, gt_class_ids, gt_boxes, config, rng)
    match = np.zeros(len(index), np.int32)
    match[positive], match[negative] = 1, -1
    rpn_bbox = np.zeros((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4))
    rpn_bbox[: len(deltas)] = deltas
    return match, rpn_bbox


def choose_anchors(
    index: AnchorIndex,
    gt_class_ids: ArrayLike,
    gt_boxes: ArrayLike,
    config: Config,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse form of `build_rpn_targets`: returns only the sampled anchors.

    Args:
        index: AnchorIndex of the image's anchors; the others as in `build_rpn_targets`.

    Returns:
        positive: [P] int, indices of anchors, sorted; P <= T / 2.
        negative: [Q] int, indices of anchors, sorted; P + Q <= T.
        deltas: [P, (dy, dx, log dh, log dw)] float64 of the positive anchors, divided by RPN_BBOX_STD_DEV.
    """
    gt_class_ids, gt_boxes = np.asarray(gt_class_ids), np.reshape(gt_boxes, (-1, 4))
    objects = gt_boxes[gt_class_ids >= 0]
    crowded, _, _ = index.pairs(gt_boxes[gt_class_ids < 0], CROWD_IOU)
    overlapping, owner, iou = index.pairs(objects, config.RPN_NEGATIVE_IOU)
    forced = index.best(objects, known=(overlapping, owner, iou))
    if config.convention.best_anchors_choose and len(objects):
        overlaps = boxes.compute_overlaps(index.anchors[forced[0]], objects)
        forced = forced[0], overlaps.argmax(axis=1), overlaps.max(axis=1)
    strong = iou >= config.RPN_POSITIVE_IOU
    positive, owner = _choose_owners(forced, (overlapping[strong], owner[strong], iou[strong]))
    free = np.ones(len(index), bool)  # which may be negative
    for taken in (crowded, overlapping, positive):
        free[taken] = False

    limit = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    kept = _choose_at_random(np.arange(len(positive)), limit // 2, rng)
    positive, owner = positive[kept], owner[kept]
    negative = _choose_free(free, limit - len(positive), rng)
    deltas = boxes.compute_deltas(index.anchors[positive], objects[owner], np.float64)
    deltas = deltas / np.asarray(config.RPN_BBOX_STD_DEV)
    return positive, negative, deltas


def _choose_owners(forced: Pairs, strong: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Positive anchors, sorted and unique, and the object of each: that of `forced`, else that of highest IoU.

    Args:
        forced: pairs (anchor, object, IoU) of anchors that are the best of an object.
        strong: pairs with an IoU of at least RPN_POSITIVE_IOU.
    """
    anchor, owner, iou = (np.concatenate(columns) for columns in zip(forced, strong))
    is_strong = np.arange(len(anchor)) >= len(forced[0])
    order = np.lexsort((owner, -iou, is_strong, anchor))
    anchor, owner = anchor[order], owner[order]
    first = np.append(True, anchor[1:] != anchor[:-1])[: len(anchor)]  # the first pair of each anchor
    return anchor[first], owner[first]


def _choose_at_random(ids: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """At most count of the ids, chosen at random, in their order."""
    if len(ids) <= count:
        return ids
    if rng is not None:
        return np.sort(rng.choice(ids, count, replace=False, shuffle=False))
    # Draws which ones to leave out, as matterport's code does, so that a seed of np.random gives the same anchors.
    return np.setdiff1d(ids, np.random.choice(ids, len(ids) - count, replace=False), assume_unique=True)


def _choose_free(free: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """At most count of the indices at which free [A] is True, chosen at random, sorted."""
    total = len(free)
    if rng is not None and 4 * (total - np.count_nonzero(free) + count) < total:
        # Most are free: draw some until enough different free ones are found, instead of listing all of them.
        drawn = rng.integers(total, size=2 * count + 32)
        drawn = drawn[free[drawn]]
        chosen = np.sort(drawn[:count])
        if len(chosen) == count and (chosen[1:] != chosen[:-1]).all():
            return chosen
        _, first = np.unique(drawn, return_index=True)
        if len(first) >= count:
            return np.sort(drawn[np.sort(first)[:count]])
    return _choose_at_random(np.flatnonzero(free), count, rng)


# ---- Regions of interest, in NumPy -----------------------------------------------------------------------------------
def build_detection_targets(
    rpn_rois: ArrayLike,
    gt_class_ids: ArrayLike,
    gt_boxes: ArrayLike,
    gt_masks: np.ndarray,
    config: Config,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chooses RoIs to train the heads with and computes their targets. NumPy form of `nn.targets`.

    At most ROI_POSITIVE_RATIO of the chosen RoIs have an IoU above 0.5 with an object; the others overlap every object
    less and touch no crowd. If there are too few RoIs, some are repeated.

    Args:
        rpn_rois: [R, (y1, x1, y2, x2)] pixels.
        gt_class_ids: [G] int; negative for a crowd, 0 for padding.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels.
        gt_masks: [H, W, G], or mini masks [h, w, G] if config.USE_MINI_MASK.
        config: Config.
        rng: source of randomness; None: `np.random`, as in matterport's code.

    Returns:
        rois: [N, (y1, x1, y2, x2)], of the type of rpn_rois.
        roi_gt_class_ids: [N] int32, 0 for background.
        bboxes: [N, C, (dy, dx, log dh, log dw)] float32, divided by BBOX_STD_DEV; zero except for the RoI's class.
        masks: [N, height, width, C] float32, config.MASK_SHAPE; zero except for the RoI's class.

    Raises:
        ValueError: rpn_rois is empty.
    """
    rpn_rois, gt_class_ids, gt_boxes = np.asarray(rpn_rois), np.asarray(gt_class_ids), np.asarray(gt_boxes)
    if not len(rpn_rois):
        raise ValueError("rpn_rois is empty; expected at least one RoI [R, (y1, x1, y2, x2)].")
    objects = np.flatnonzero(gt_class_ids > 0)
    overlaps = boxes.compute_overlaps(rpn_rois, gt_boxes[objects])  # [R, G]
    iou = overlaps.max(axis=1, initial=0)
    crowd_iou = boxes.compute_overlaps(rpn_rois, gt_boxes[gt_class_ids < 0]).max(axis=1, initial=0)
    kept, positives = _choose_rois(iou, crowd_iou, config, rng or np.random)

    rois, count = rpn_rois[kept], config.TRAIN_ROIS_PER_IMAGE
    class_ids = np.zeros(count, np.int32)
    bboxes = np.zeros((count, config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((count, *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    if positives:
        rows = np.arange(positives)
        owner = objects[overlaps[kept[:positives]].argmax(axis=1)]
        class_ids[rows] = gt_class_ids[owner]
        deltas = boxes.box_refinement(rois[rows], gt_boxes[owner]) / np.asarray(config.BBOX_STD_DEV)
        bboxes[rows, class_ids[rows]] = deltas
        for row, instance in zip(rows, owner):
            masks[row, :, :, class_ids[row]] = _roi_mask(rois[row], gt_boxes[instance], gt_masks[..., instance], config)
    return rois, class_ids, bboxes, masks


def _choose_rois(
    iou: np.ndarray, crowd_iou: np.ndarray, config: Config, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Indices of the RoIs to train with, [N] int, positives first, and how many of them are positive."""
    count = config.TRAIN_ROIS_PER_IMAGE
    foreground = np.flatnonzero(iou > FOREGROUND_IOU)
    background = np.flatnonzero((iou < FOREGROUND_IOU) & (crowd_iou < CROWD_IOU))
    most = int(count * config.ROI_POSITIVE_RATIO)
    if len(foreground) > most:
        foreground = rng.choice(foreground, most, replace=False)
    if len(background) > count - len(foreground):
        background = rng.choice(background, count - len(foreground), replace=False)
    missing = count - len(foreground) - len(background)
    if missing and (len(background) or not len(foreground)):
        # Without either, the RoI that overlaps least serves as background.
        pool = background if len(background) else np.array([np.maximum(iou, crowd_iou).argmin()])
        background = np.concatenate([background, rng.choice(pool, missing, replace=True)])
    elif missing:
        foreground = np.concatenate([foreground, rng.choice(foreground, missing, replace=True)])
    return np.concatenate([foreground, background]).astype(np.int64), len(foreground)


def _roi_mask(roi: np.ndarray, gt_box: np.ndarray, gt_mask: np.ndarray, config: Config) -> np.ndarray:
    """The part of an object's mask inside a RoI, resized to config.MASK_SHAPE, float 0..1."""
    y1, x1, y2, x2 = (int(v) for v in roi)
    if not config.USE_MINI_MASK:
        return images.resize(gt_mask[y1:y2, x1:x2], config.MASK_SHAPE)
    top, left, bottom, right = (int(v) for v in gt_box)
    whole = np.zeros((max(y2, bottom), max(x2, right)), bool)
    whole[top:bottom, left:right] = np.around(images.resize(gt_mask, (bottom - top, right - left))).astype(bool)
    return images.resize(whole[y1:y2, x1:x2], config.MASK_SHAPE)


def generate_random_rois(
    image_shape: Sequence[int],
    count: int,
    gt_class_ids: ArrayLike | None,
    gt_boxes: ArrayLike,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Random RoIs, for training the heads without an RPN: 90 % around the objects, the others anywhere.

    Args:
        image_shape: (height, width) pixels; further entries are ignored.
        count: int, number of RoIs.
        gt_class_ids: unused, kept for matterport's signature.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels; G may be 0.
        rng: source of randomness; None: `np.random`, as in matterport's code.

    Returns:
        [count, (y1, x1, y2, x2)] int32, inside the image and at least one pixel high and wide.

    Raises:
        ValueError: the image is less than two pixels high or wide.

    Example:
        >>> generate_random_rois((128, 128), 20, None, [[10, 10, 50, 60]]).shape
        (20, 4)
    """
    height, width = (int(side) for side in image_shape[:2])
    if min(height, width) < 2:
        raise ValueError(f"image_shape is {tuple(image_shape)}; expected at least two pixels in each direction.")
    gt_boxes = np.reshape(gt_boxes, (-1, 4)).astype(int)
    each = int(RANDOM_ROIS_NEAR_OBJECTS * count / len(gt_boxes)) if len(gt_boxes) else 0
    regions = [(_extend_range(y1, y2, height), _extend_range(x1, x2, width), each) for y1, x1, y2, x2 in gt_boxes]
    regions.append(((0, height), (0, width), count - each * len(gt_boxes)))
    rois = [_random_boxes(rows, columns, wanted, rng) for rows, columns, wanted in regions]
    return np.concatenate(rois).astype(np.int32)


def _extend_range(low: int, high: int, side: int) -> tuple[int, int]:
    """The range low..high extended by its length at both ends; 0..side if that is less than two pixels."""
    start, stop = max(low - (high - low), 0), min(high + (high - low), side)
    return (start, stop) if stop - start > 1 else (0, side)


def _random_boxes(
    rows: tuple[int, int], columns: tuple[int, int], wanted: int, rng: np.random.Generator | None
) -> np.ndarray:
    """[wanted, (y1, x1, y2, x2)] with corners drawn from the half-open ranges rows and columns."""
    draw = np.random.randint if rng is None else rng.integers
    found = np.zeros((0, 4), int)
    while len(found) < wanted:
        ys, xs = draw(*rows, (wanted * 2, 2)), draw(*columns, (wanted * 2, 2))
        # Two corners in the same row or column give no box.
        ys, xs = (np.sort(ends[ends[:, 0] != ends[:, 1]][:wanted], axis=1) for ends in (ys, xs))
        enough = min(len(ys), len(xs))
        found = np.concatenate([found, np.stack([ys[:enough], xs[:enough]], axis=2).reshape(-1, 4)])
    return found[:wanted]
