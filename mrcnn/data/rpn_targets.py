"""What the network shall answer for one image: which anchors hold an object, and, in NumPy, which RoIs.

Shapes:
    A  anchors, all levels: 261,888 at 1024 x 1024
    T  config.RPN_TRAIN_ANCHORS_PER_IMAGE, the anchors that count in the RPN's losses
    G  true objects; R RoIs offered; N config.TRAIN_ROIS_PER_IMAGE, the RoIs chosen; C classes
    boxes are (y1, x1, y2, x2) in pixels of the molded image

`build_rpn_targets` feeds the RPN's losses. `build_detection_targets` and `generate_random_rois` are NumPy twins of what
`nn.targets` does in the graph, for notebooks and for training heads alone.

Reference: Ren et al., "Faster R-CNN", sections 3.1.2 and 3.1.3.
"""

from __future__ import annotations

import numpy as np

from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.ops import boxes, images

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3  # Faster R-CNN, section 3.1.2
CROWD_IOU = 0.001  # an anchor that touches a crowd more than that is no good negative
FOREGROUND_IOU = 0.5  # of RoIs
RANDOM_ROIS_NEAR_OBJECTS = 0.9  # the share drawn around true objects; the rest lies anywhere


# ---- Region proposals ------------------------------------------------------------------------------------------------
def build_rpn_targets(image_shape, anchors, gt_class_ids, gt_boxes, config, rng=None):
    """Says of each anchor whether the RPN shall call it an object, and for the objects, where their box is.

    An anchor is positive if its IoU with an object is 0.7 or more; so are, for each object, the anchors that overlap it
    most, which then belong to *this* object even if they overlap another one more. An object that overlaps no anchor
    makes none positive. Below 0.3 an anchor is negative, unless it touches a crowd. Of too many positives (more than
    half of T) and negatives a random part is left out.

    Args:
        image_shape: (height, width, channels); not needed, kept for matterport's call form.
        anchors: [A, (y1, x1, y2, x2)] pixels, or an `AnchorIndex` of them (saves 0.1 s of preparation a call).
        gt_class_ids: [G] int; negative for a crowd.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels.
        config: Config, of which RPN_TRAIN_ANCHORS_PER_IMAGE and RPN_BBOX_STD_DEV are read.
        rng: numpy.random.Generator; None draws from `np.random` as matterport did.

    Returns:
        rpn_match: [A] int32: 1 positive, -1 negative, 0 doesn't count.
        rpn_bbox: [T, (dy, dx, log dh, log dw)] float64, divided by RPN_BBOX_STD_DEV: one row for each positive anchor
            in the order of the anchors, then zeros.
    """
    index = anchors if isinstance(anchors, AnchorIndex) else AnchorIndex(anchors)
    positive, negative, deltas = choose_anchors(index, gt_class_ids, gt_boxes, config, rng)
    match = np.zeros(len(index), np.int32)
    match[positive], match[negative] = 1, -1
    rpn_bbox = np.zeros((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4))
    rpn_bbox[: len(deltas)] = deltas
    return match, rpn_bbox


def choose_anchors(index, gt_class_ids, gt_boxes, config, rng=None):
    """`build_rpn_targets`, told by the anchors that count: no step but a look at a flag each looks at all A of them.

    Args:
        index: AnchorIndex; the others as in `build_rpn_targets`.

    Returns:
        positive: [P] int, sorted, P <= T / 2; negative: [Q] int, P + Q <= T.
        deltas: [P, (dy, dx, log dh, log dw)] float64 of the positive ones, divided by RPN_BBOX_STD_DEV.
    """
    gt_class_ids, gt_boxes = np.asarray(gt_class_ids), np.reshape(gt_boxes, (-1, 4))
    objects = gt_boxes[gt_class_ids >= 0]
    crowded, _, _ = index.pairs(gt_boxes[gt_class_ids < 0], CROWD_IOU)
    overlapping, owner, iou = index.pairs(objects, NEGATIVE_IOU)
    forced = index.best(objects, known=(overlapping, owner, iou))
    strong = iou >= POSITIVE_IOU
    positive, owner = _owners(forced, (overlapping[strong], owner[strong], iou[strong]))
    free = np.ones(len(index), bool)  # to be negative
    for taken in (crowded, overlapping, positive):
        free[taken] = False

    limit = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    kept = _choose(np.arange(len(positive)), limit // 2, rng)
    positive, owner = positive[kept], owner[kept]
    negative = _choose_free(free, limit - len(positive), rng)
    deltas = boxes.box_refinement(index.anchors[positive], objects[owner], np.float64)
    deltas = deltas / np.asarray(config.RPN_BBOX_STD_DEV)
    return positive, negative, deltas


def _owners(forced, strong):
    """Positive anchors, sorted and each once, and their object: the one that forces it, else the one of highest IoU.

    Args: two triples (anchor, object, iou), each [pairs].
    """
    anchor, owner, iou = (np.concatenate(columns) for columns in zip(forced, strong))
    is_strong = np.arange(len(anchor)) >= len(forced[0])
    order = np.lexsort((owner, -iou, is_strong, anchor))
    anchor, owner = anchor[order], owner[order]
    first = np.append(True, anchor[1:] != anchor[:-1])[: len(anchor)]  # of each anchor
    return anchor[first], owner[first]


def _choose(ids, count, rng):
    """count of ids at random, or all if there are no more; in their order."""
    if len(ids) <= count:
        return ids
    if rng is not None:
        return np.sort(rng.choice(ids, count, replace=False, shuffle=False))
    # Drawn like matterport's, what to leave out, so that one seed of np.random chooses the same anchors.
    return np.setdiff1d(ids, np.random.choice(ids, len(ids) - count, replace=False), assume_unique=True)


def _choose_free(free, count, rng):
    """count of the numbers whose flag is True, at random and sorted, or all if there are no more."""
    total = len(free)
    if rng is not None and 4 * (total - np.count_nonzero(free) + count) < total:
        # Most numbers are free: draw until enough different free ones are found, without listing them all.
        drawn = rng.integers(total, size=2 * count + 32)
        drawn = drawn[free[drawn]]
        chosen = np.sort(drawn[:count])
        if len(chosen) == count and (chosen[1:] != chosen[:-1]).all():
            return chosen
        _, first = np.unique(drawn, return_index=True)
        if len(first) >= count:
            return np.sort(drawn[np.sort(first)[:count]])
    return _choose(np.flatnonzero(free), count, rng)


# ---- Regions of interest, in NumPy -----------------------------------------------------------------------------------
def build_detection_targets(rpn_rois, gt_class_ids, gt_boxes, gt_masks, config, rng=None):
    """Chooses RoIs to train the heads on and says what the heads shall answer for them. Twin of `nn.targets`.

    At most ROI_POSITIVE_RATIO of the chosen overlap an object by an IoU above 0.5; the others overlap each object less
    and touch no crowd. Where there are too few of those, some are repeated.

    Args:
        rpn_rois: [R, (y1, x1, y2, x2)] pixels.
        gt_class_ids: [G] int; negative for a crowd, 0 for padding.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels.
        gt_masks: [H, W, G], or mini masks [h, w, G] if config.USE_MINI_MASK.
        config: Config.
        rng: numpy.random.Generator; None draws from `np.random` as matterport did.

    Returns:
        rois: [N, (y1, x1, y2, x2)], of the type of rpn_rois.
        roi_gt_class_ids: [N] int32, 0 for background.
        bboxes: [N, C, (dy, dx, log dh, log dw)] float32, divided by BBOX_STD_DEV; zero but in the row of the class.
        masks: [N, height, width, C] float32, config.MASK_SHAPE; zero but in the layer of the class.

    Raises:
        ValueError: there are no RoIs.
    """
    rpn_rois, gt_class_ids, gt_boxes = np.asarray(rpn_rois), np.asarray(gt_class_ids), np.asarray(gt_boxes)
    if not len(rpn_rois):
        raise ValueError("rpn_rois is empty; expected at least one RoI [R, (y1, x1, y2, x2)] to choose from.")
    there = np.flatnonzero(gt_class_ids > 0)
    overlaps = boxes.compute_overlaps(rpn_rois, gt_boxes[there])  # [R, G]
    iou = overlaps.max(axis=1, initial=0)
    crowd_iou = boxes.compute_overlaps(rpn_rois, gt_boxes[gt_class_ids < 0]).max(axis=1, initial=0)
    kept, positives = _choose_rois(iou, crowd_iou, config, rng or np.random)

    rois, count = rpn_rois[kept], config.TRAIN_ROIS_PER_IMAGE
    class_ids = np.zeros(count, np.int32)
    bboxes = np.zeros((count, config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((count, *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    if positives:
        rows = np.arange(positives)
        owner = there[overlaps[kept[:positives]].argmax(axis=1)]
        class_ids[rows] = gt_class_ids[owner]
        deltas = boxes.box_refinement(rois[rows], gt_boxes[owner]) / np.asarray(config.BBOX_STD_DEV)
        bboxes[rows, class_ids[rows]] = deltas
        for row, instance in zip(rows, owner):
            masks[row, :, :, class_ids[row]] = _roi_mask(rois[row], gt_boxes[instance], gt_masks[..., instance], config)
    return rois, class_ids, bboxes, masks


def _choose_rois(iou, crowd_iou, config, rng):
    """Which RoIs to train on: [N] int, the positives first, and how many of them are positive."""
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
        # None of either: the least overlapping one there is.
        pool = background if len(background) else np.array([np.maximum(iou, crowd_iou).argmin()])
        background = np.concatenate([background, rng.choice(pool, missing, replace=True)])
    elif missing:
        foreground = np.concatenate([foreground, rng.choice(foreground, missing, replace=True)])
    return np.concatenate([foreground, background]).astype(np.int64), len(foreground)


def _roi_mask(roi, gt_box, gt_mask, config):
    """The part of an object's mask inside a RoI, resized to config.MASK_SHAPE, float32 0..1."""
    y1, x1, y2, x2 = (int(v) for v in roi)
    if not config.USE_MINI_MASK:
        return images.resize(gt_mask[y1:y2, x1:x2], config.MASK_SHAPE)
    top, left, bottom, right = (int(v) for v in gt_box)
    whole = np.zeros((max(y2, bottom), max(x2, right)), bool)
    whole[top:bottom, left:right] = np.around(images.resize(gt_mask, (bottom - top, right - left))).astype(bool)
    return images.resize(whole[y1:y2, x1:x2], config.MASK_SHAPE)


def generate_random_rois(image_shape, count, gt_class_ids, gt_boxes, rng=None):
    """RoIs to train the heads without a RPN: nine of ten around the objects, the others anywhere.

    Args:
        image_shape: (height, width, ...) pixels.
        count: int. RoIs wanted.
        gt_class_ids: [G]; not needed, kept for matterport's call form.
        gt_boxes: [G, (y1, x1, y2, x2)] pixels; [0, 4] is fine.
        rng: numpy.random.Generator; None draws from `np.random` as matterport did.

    Returns:
        [count, (y1, x1, y2, x2)] int32, each at least a pixel high and wide and inside the image.

    Raises:
        ValueError: the image is less than two pixels high or wide.
    """
    height, width = (int(side) for side in image_shape[:2])
    if min(height, width) < 2:
        raise ValueError(f"image_shape is {tuple(image_shape)}; expected two pixels or more in each direction.")
    gt_boxes = np.reshape(gt_boxes, (-1, 4)).astype(int)
    each = int(RANDOM_ROIS_NEAR_OBJECTS * count / len(gt_boxes)) if len(gt_boxes) else 0
    regions = [(_around(y1, y2, height), _around(x1, x2, width), each) for y1, x1, y2, x2 in gt_boxes]
    regions.append(((0, height), (0, width), count - each * len(gt_boxes)))
    rois = [_random_boxes(rows, columns, wanted, rng) for rows, columns, wanted in regions]
    return np.concatenate(rois).astype(np.int32)


def _around(low, high, side):
    """The pixels around low..high, as far again to both ends; all of the side where those are less than two."""
    start, stop = max(low - (high - low), 0), min(high + (high - low), side)
    return (start, stop) if stop - start > 1 else (0, side)


def _random_boxes(rows, columns, wanted, rng):
    """[wanted, (y1, x1, y2, x2)] with corners drawn from the half-open ranges rows and columns."""
    draw = np.random.randint if rng is None else rng.integers
    found = np.zeros((0, 4), int)
    while len(found) < wanted:
        ys, xs = draw(*rows, (wanted * 2, 2)), draw(*columns, (wanted * 2, 2))
        # Two corners in the same row or column make no box.
        ys, xs = (np.sort(ends[ends[:, 0] != ends[:, 1]][:wanted], axis=1) for ends in (ys, xs))
        enough = min(len(ys), len(xs))
        found = np.concatenate([found, np.stack([ys[:enough], xs[:enough]], axis=2).reshape(-1, 4)])
    return found[:wanted]
