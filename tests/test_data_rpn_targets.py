"""RPN targets, detection targets, random RoIs: by hand, against golden data, and the index against all overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.data.rpn_targets import (
    _choose_free,
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)
from mrcnn.ops import anchors as ops_anchors
from mrcnn.ops.boxes import compute_overlaps

SHAPE = (128, 128, 3)


class TinyConfig(Config):
    NUM_CLASSES = 4
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    RPN_TRAIN_ANCHORS_PER_IMAGE = 8
    TRAIN_ROIS_PER_IMAGE = 32


def rpn_targets(anchors, gt_boxes, class_ids=None, limit=8, seed=0, **settings):
    config = TinyConfig(**settings)
    config.RPN_TRAIN_ANCHORS_PER_IMAGE = limit
    class_ids = np.ones(len(gt_boxes), int) if class_ids is None else class_ids
    return build_rpn_targets(SHAPE, np.array(anchors, float), class_ids, gt_boxes, config, np.random.default_rng(seed))


def pyramid(height, width, config=None):
    config = config or Config()
    shapes = ops_anchors.backbone_shapes((height, width), config.BACKBONE_STRIDES)
    scales, ratios, strides = config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, config.BACKBONE_STRIDES
    return ops_anchors.generate_pyramid_anchors(scales, ratios, shapes, strides, config.RPN_ANCHOR_STRIDE)


# A and B overlap by 0.45 / 0.55 = 0.818; C stands alone.
A, B, C = [0, 0, 50, 100], [5, 0, 55, 100], [80, 80, 90, 90]


# ---- RPN: no objects -------------------------------------------------------------------------------------------------
def test_without_objects_all_anchors_are_negative():
    match, bbox = rpn_targets([A, B, C], np.zeros((0, 4), int))
    assert match.tolist() == [-1, -1, -1] and match.dtype == np.int32
    assert bbox.shape == (8, 4) and not bbox.any()


def test_anchors_that_touch_a_crowd_are_ignored():
    match, bbox = rpn_targets([A, B, C], [[0, 0, 20, 20]], class_ids=[-1])
    assert match.tolist() == [0, 0, -1] and not bbox.any()


def test_an_object_without_area_makes_no_anchor_positive():
    match, bbox = rpn_targets([A, C], [[30, 30, 30, 40], [0, 0, 0, 0]])
    assert match.tolist() == [-1, -1] and not bbox.any()


def test_issue_2014_an_object_that_overlaps_no_anchor_makes_none_positive():
    match, _ = rpn_targets([A, B, C], [[100, 100, 110, 110]])
    assert match.tolist() == [-1, -1, -1]  # matterport: all positive, since all tie at IoU 0


# ---- RPN: by hand ----------------------------------------------------------------------------------------------------
def test_same_box_is_positive_with_zero_deltas():
    match, bbox = rpn_targets([C, A], [A])
    assert match.tolist() == [-1, 1]
    np.testing.assert_array_equal(bbox, np.zeros((8, 4)))


def test_thresholds_positive_neutral_negative():
    # IoU with A: 1, 0.818, 0.5 / 1.0, 0.2
    anchors = [A, B, [0, 0, 50, 50], [0, 0, 50, 20]]
    assert rpn_targets(anchors, [A])[0].tolist() == [1, 1, 0, -1]


def test_the_best_anchor_of_an_object_is_positive_whatever_its_iou():
    match, bbox = rpn_targets([[0, 0, 10, 10], [20, 20, 30, 30]], [[8, 8, 18, 18]])
    assert match.tolist() == [1, -1]
    np.testing.assert_allclose(bbox[0], [8, 8, 0, 0])  # 0.8 of the anchor's side, over a std dev of 0.1


def test_hand_computed_deltas():
    _, bbox = rpn_targets([[0, 0, 10, 20]], [[2, 1, 12, 11]])
    # center (5, 10) -> (7, 6); size (10, 20) -> (10, 10)
    np.testing.assert_allclose(bbox[0], [0.2 / 0.1, -0.2 / 0.1, 0, np.log(0.5) / 0.2])


def test_issue_2014_forced_match_takes_its_own_object():
    # The anchor is the best of the small object (IoU 0.28) but overlaps the large one more (0.72).
    anchor, large, small = [0, 0, 10, 10], [0, 0, 10, 7.2], [0, 6, 10, 8.8]
    other = [0, 0, 10, 7.3]  # the best of the large one
    match, bbox = rpn_targets([anchor, other], [large, small])
    assert match.tolist() == [1, 1]
    np.testing.assert_allclose(bbox[0], [0, (7.4 - 5) / 10 / 0.1, 0, np.log(0.28) / 0.2])


def test_best_anchors_take_the_object_they_overlap_most():
    # As above, but under a convention in which the anchor belongs to the large object (IoU 0.72).
    anchor, large, small, other = [0, 0, 10, 10], [0, 0, 10, 7.2], [0, 6, 10, 8.8], [0, 0, 10, 7.3]
    match, bbox = rpn_targets([anchor, other], [large, small], CONVENTION="torchvision")
    assert match.tolist() == [1, 1]
    np.testing.assert_allclose(bbox[0], [0, (3.6 - 5) / 10, 0, np.log(0.72)])  # its std dev is 1
    for boxes in (np.zeros((0, 4)), [[100, 100, 110, 110]]):
        assert rpn_targets([anchor, other], boxes, CONVENTION="torchvision")[0].tolist() == [-1, -1]


def test_iou_thresholds_are_settings():
    anchors = [A, B, [0, 0, 50, 50], [0, 0, 50, 20]]  # IoU with A: 1, 0.818, 0.5, 0.2
    for positive, negative, expected in (
        (0.9, 0.1, [1, 0, 0, 0]),
        (0.5, 0.5, [1, 1, 1, -1]),
        (0.9, 0.6, [1, 0, -1, -1]),
    ):
        match, _ = rpn_targets(anchors, [A], RPN_POSITIVE_IOU=positive, RPN_NEGATIVE_IOU=negative)
        assert match.tolist() == expected
    with pytest.raises(ValueError, match=r"RPN_NEGATIVE_IOU is 0.8; expected at most RPN_POSITIVE_IOU = 0.7"):
        TinyConfig(RPN_NEGATIVE_IOU=0.8)


@pytest.mark.parametrize("convention", ["torchvision", "detectron2"])
def test_the_index_finds_the_anchors_of_every_convention(convention):
    """Their anchors are rounded, and their strides differ between the axes; the index searches by distance."""
    config = TinyConfig(CONVENTION=convention)
    anchors = ops_anchors.anchors_of_image((224, 416), **config.anchor_settings())
    boxes = np.random.default_rng(0).integers(0, 100, (7, 4)) * [1, 2, 1, 2] + [0, 0, 110, 200]
    overlaps = compute_overlaps(anchors, boxes)
    for iou in (0.3, 0.7):
        found = np.zeros(overlaps.shape, bool)
        found[AnchorIndex(anchors).pairs(boxes, iou)[:2]] = True
        np.testing.assert_array_equal(found, overlaps >= iou)


def test_an_anchor_best_for_two_objects_takes_the_larger_iou():
    match, bbox = rpn_targets([[0, 0, 10, 10]], [[0, 0, 10, 2], [0, 0, 10, 5]])
    assert match.tolist() == [1]
    np.testing.assert_allclose(bbox[0], [0, -2.5, 0, np.log(0.5) / 0.2])


def test_all_anchors_that_tie_as_the_best_are_positive():
    match, _ = rpn_targets([[0, 0, 10, 10], [0, 12, 10, 22], C], [[0, 8, 10, 14]])
    assert match.tolist() == [1, 1, -1]


def test_no_more_than_half_positive_and_the_rest_negative():
    anchors = [A] * 10 + [C] * 20
    match, bbox = rpn_targets(anchors, [A], limit=8)
    assert (match == 1).sum() == 4 and (match == -1).sum() == 4 and len(bbox) == 8
    assert not match[10:].max() > 0
    again, _ = rpn_targets(anchors, [A], limit=8)
    other, _ = rpn_targets(anchors, [A], limit=8, seed=1)
    assert (again == match).all() and (other != match).any()


def test_rpn_bbox_rows_are_in_anchor_order():
    _, bbox = rpn_targets([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [[50, 50, 61, 60], [1, 0, 11, 10]])
    np.testing.assert_allclose(bbox[:2], [[1, 0, 0, 0], [0.5, 0, np.log(1.1) / 0.2, 0]])


@pytest.mark.parametrize("taken", [[], [0, 5, 999], list(range(0, 90, 3))])
def test_negatives_are_drawn_uniformly_without_replacement(taken):
    times, free = np.zeros(1000), np.ones(1000, bool)
    free[taken] = False
    for seed in range(200):
        drawn = _choose_free(free, 200, np.random.default_rng(seed))
        assert len(drawn) == 200 and (np.diff(drawn) > 0).all()
        times[drawn] += 1
    assert not times[~free].any()
    times = times[free]  # each is drawn 40 times on average, std dev 6
    assert times.min() > 15 and times.max() < 70 and abs(times[:400].mean() - times[400:].mean()) < 2


# ---- RPN: against the reference and all overlaps ---------------------------------------------------------------------
@pytest.mark.parametrize("case", ["plain", "crowd", "many"])
def test_golden_rpn_targets(golden, case):
    data = golden("utils_golden.npz")
    anchors, class_ids, gt_boxes = data["anchors_128"], data[f"rpnt_{case}_class"], data[f"rpnt_{case}_boxes"]
    np.random.seed(42)
    match, bbox = build_rpn_targets(SHAPE, anchors, class_ids, gt_boxes, Config())
    np.testing.assert_array_equal(match, data[f"rpnt_{case}_match"])
    differs = np.abs(bbox - data[f"rpnt_{case}_bbox"]).max(axis=1) > 1e-9
    # Where they differ (#2014), the anchor is the best of an object that isn't its own best.
    overlaps = compute_overlaps(anchors[match == 1], gt_boxes)
    best = compute_overlaps(anchors, gt_boxes).max(axis=0)
    forced_for_another = ((overlaps == best) & (overlaps < overlaps.max(axis=1, keepdims=True))).any(axis=1)
    assert not (differs[: len(overlaps)] & ~forced_for_another).any() and not differs[len(overlaps) :].any()
    assert differs.sum() == {"plain": 0, "crowd": 0, "many": 7}[case]


def test_golden_rpn_targets_without_limit(golden):
    data, config = golden("utils_golden.npz"), Config()
    config.RPN_TRAIN_ANCHORS_PER_IMAGE = 100_000
    class_ids, gt_boxes = data["rpnt_plain_class"], data["rpnt_plain_boxes"]
    match, bbox = build_rpn_targets(SHAPE, data["anchors_128"], class_ids, gt_boxes, config)
    np.testing.assert_array_equal(match, data["rpnt_nolimit_match"])
    np.testing.assert_array_equal(bbox[:4], data["rpnt_nolimit_bbox_firstrows"])


def random_boxes(rng, count, side):
    corner = rng.uniform(-20, side, (count, 2))
    size = np.exp(rng.uniform(np.log(0.5), np.log(2 * side), (count, 2)))
    boxes = np.concatenate([corner, corner + size], axis=1)
    return np.around(boxes) if rng.random() < 0.5 else boxes


@pytest.mark.parametrize("kind", ["pyramid", "stride 2", "a part", "shuffled", "random", "none"])
def test_the_anchor_index_equals_the_dense_ious(kind):
    rng = np.random.default_rng(0)
    config = Config()
    config.RPN_ANCHOR_STRIDE = 2 if kind == "stride 2" else 1
    anchors = pyramid(192, 320, config)
    if kind == "a part":
        anchors = anchors[rng.random(len(anchors)) < 0.3]
    if kind == "shuffled":
        anchors = rng.permutation(anchors)
    if kind in ("random", "none"):
        anchors = random_boxes(rng, 500 if kind == "random" else 0, 256)
    index = AnchorIndex(anchors)
    assert len(index) == len(anchors)
    assert index.best_iou([[3, 3, 3, 3]]).tolist() == [0] and index.best_iou([]).shape == (0,)
    for threshold in (0.7, 0.3, 0.05, 0.001, 0.0):
        boxes = random_boxes(rng, 12, 256)
        plain = compute_overlaps(anchors, boxes)
        anchor, box, iou = index.pairs(boxes, threshold)
        found = np.zeros_like(plain)
        found[anchor, box] = iou
        np.testing.assert_array_equal(found, np.where(plain >= threshold, plain, 0))
        assert len(anchor) == np.count_nonzero(found)  # no duplicates

        anchor, box, iou = index.best(boxes, (anchor, box, iou))
        best = np.zeros(plain.shape, bool)
        best[anchor, box] = True
        np.testing.assert_array_equal(best, (plain == plain.max(axis=0, initial=0)) & (plain > 0))
        np.testing.assert_array_equal(iou, plain[anchor, box])
        np.testing.assert_array_equal(index.best_iou(boxes), plain.max(axis=0, initial=0))


def test_full_size_rpn_targets_equal_the_dense_computation():
    anchors, rng = pyramid(512, 640), np.random.default_rng(1)
    index, config = AnchorIndex(anchors), Config()
    config.RPN_TRAIN_ANCHORS_PER_IMAGE = 10_000_000
    for _ in range(3):
        gt_boxes, class_ids = random_boxes(rng, 20, 512), rng.choice([1, 2, 3, -1], 20, p=[0.4, 0.3, 0.2, 0.1])
        match, bbox = build_rpn_targets((512, 640, 3), index, class_ids, gt_boxes, config)
        overlaps = compute_overlaps(anchors, gt_boxes[class_ids > 0])
        crowd = compute_overlaps(anchors, gt_boxes[class_ids < 0]).max(axis=1, initial=0)
        highest = overlaps.max(axis=1)
        expected = np.where((highest < 0.3) & (crowd < 0.001), -1, 0)
        expected[(highest >= 0.7) | ((overlaps == overlaps.max(axis=0)) & (overlaps > 0)).any(axis=1)] = 1
        np.testing.assert_array_equal(match, expected)
        assert np.isfinite(bbox).all() and (bbox.any(axis=1).sum() <= (match == 1).sum())


# ---- Detection targets -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["full", "mini"])
def test_golden_detection_targets(golden, case):
    data, config = golden("utils_golden.npz"), TinyConfig()
    config.USE_MINI_MASK = case == "mini"
    class_ids, gt_boxes = data["rpnt_plain_class"], data["rpnt_plain_boxes"]
    masks = np.ones((56, 56, 3), bool)  # the reference ran on filled boxes
    if case == "full":
        masks = np.zeros((128, 128, 3), bool)
        for i, (y1, x1, y2, x2) in enumerate(gt_boxes):
            masks[y1:y2, x1:x2, i] = True
    np.random.seed(6)
    targets = build_detection_targets(data["random_rois_out"], class_ids, gt_boxes, masks, config)
    for part, tolerance, got in zip(("rois", "class_ids", "bboxes", "masks"), (0, 0, 1e-6, 0), targets):
        expected = data[f"bdt_{case}_{part}"]
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0)


def detection_targets(rois, gt_boxes, class_ids, count=4, ratio=0.5):
    config = TinyConfig()
    config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO, config.USE_MINI_MASK = count, ratio, False
    masks = np.ones((128, 128, len(gt_boxes)), bool)
    rng = np.random.default_rng(0)
    return build_detection_targets(np.array(rois), class_ids, np.reshape(gt_boxes, (-1, 4)), masks, config, rng)


def test_detection_targets_without_objects_are_background():
    rois, class_ids, bboxes, masks = detection_targets([A, C], [], [])
    assert rois.shape == (4, 4) and not class_ids.any() and not bboxes.any() and not masks.any()


def test_detection_targets_ignore_padding_and_crowds():
    _, class_ids, _, _ = detection_targets([A, C], [[0, 0, 0, 0], A], [0, -2])
    assert not class_ids.any()
    rois, _, _, _ = detection_targets([A, B, C], [A], [-2])
    np.testing.assert_array_equal(rois, [C] * 4)  # RoIs that touch a crowd are not background


def test_detection_targets_without_negatives_repeat_positives():
    rois, class_ids, _, _ = detection_targets([A], [A], [3])
    np.testing.assert_array_equal(rois, [A] * 4)
    assert class_ids.tolist() == [3] * 4


def test_detection_targets_keep_the_share_of_positives():
    _, class_ids, bboxes, masks = detection_targets([A] * 5 + [C] * 5, [A], [3])
    assert class_ids.tolist() == [3, 3, 0, 0]
    assert masks[:2, ..., 3].min() == 1 and not masks[2:].any() and not masks[..., :3].any() and not bboxes.any()


def test_detection_targets_without_rois_are_refused():
    with pytest.raises(ValueError, match="rpn_rois is empty"):
        detection_targets(np.zeros((0, 4), int), [A], [1])


# ---- Random RoIs -----------------------------------------------------------------------------------------------------
def test_golden_random_rois(golden):
    data = golden("utils_golden.npz")
    np.random.seed(5)
    rois = generate_random_rois(SHAPE, 60, data["rpnt_plain_class"], data["rpnt_plain_boxes"])
    np.testing.assert_array_equal(rois, data["random_rois_out"])


@pytest.mark.parametrize(
    "gt_boxes", [np.zeros((0, 4), int), [[5, 5, 6, 6]], [[0, 0, 1, 1], [40, 60, 41, 64]], [[0] * 4]]
)
def test_random_rois_lie_inside_and_have_an_area(gt_boxes):
    rois = generate_random_rois((41, 64, 3), 50, None, gt_boxes, np.random.default_rng(0))
    assert rois.shape == (50, 4) and rois.dtype == np.int32
    assert (rois[:, :2] < rois[:, 2:]).all() and rois.min() >= 0 and (rois.max(axis=0) <= [41, 64, 41, 64]).all()


def test_random_rois_in_an_image_of_one_row_are_refused():
    with pytest.raises(ValueError, match="at least two pixels"):
        generate_random_rois((1, 64, 3), 5, None, np.zeros((0, 4)))
