"""matterport's measures of one image: golden values, and defined values where the original had none."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn.evaluation import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_overlaps_masks,
    compute_recall,
    trim_zeros,
)

SIZE = 10


def masks_of(boxes, size=SIZE):
    """[size, size, n] bool: each mask fills its box (y1, x1, y2, x2)."""
    masks = np.zeros((size, size, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    return masks


def truth(boxes, class_ids):
    return np.array(boxes, np.int32).reshape(-1, 4), np.array(class_ids, np.int32), masks_of(boxes)


def predicted(boxes, class_ids, scores):
    boxes, class_ids, masks = truth(boxes, class_ids)
    return boxes, class_ids, np.array(scores, np.float32), masks


LEFT, RIGHT = (0, 0, 10, 4), (0, 5, 10, 10)
NO_TRUTH, NO_PREDICTION = truth([], []), predicted([], [], [])


# ---- Empty inputs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("true", "found", "expected"),
    [
        (NO_TRUTH, NO_PREDICTION, 1.0),  # nothing was there and nothing was claimed
        (NO_TRUTH, predicted([LEFT], [1], [0.9]), 0.0),
        (truth([LEFT], [1]), NO_PREDICTION, 0.0),
        (truth([LEFT], [1]), predicted([LEFT], [1], [0.9]), 1.0),
    ],
)
def test_issue_1476_ap_is_defined_without_ground_truth_or_predictions(true, found, expected):
    average, precisions, recalls, overlaps = compute_ap(*true, *found)
    assert average == expected
    assert np.isfinite(precisions).all() and np.isfinite(recalls).all()
    assert precisions.shape == recalls.shape
    assert overlaps.shape == (len(found[0]), len(true[0]))


def test_issue_532_no_masks_give_empty_overlaps():
    assert compute_overlaps_masks(np.zeros((0, 0, 0)), np.ones((5, 5, 2))).shape == (0, 2)
    assert compute_overlaps_masks(np.ones((5, 5, 2)), np.zeros((5, 5, 0))).shape == (2, 0)


def test_issue_960_empty_masks_have_iou_0_not_nan():
    overlaps = compute_overlaps_masks(np.zeros((5, 5, 2)), np.dstack([np.zeros((5, 5)), np.ones((5, 5))]))
    np.testing.assert_array_equal(overlaps, np.zeros((2, 2)))


def test_recall_without_boxes():
    box = np.array([[0, 0, 5, 5]])
    none = np.zeros((0, 4))
    assert compute_recall(none, none, 0.5)[0] == 1.0
    assert compute_recall(box, none, 0.5)[0] == 1.0
    assert compute_recall(none, box, 0.5)[0] == 0.0


# ---- By hand ------------------------------------------------------------------------------------------------------
def test_overlap_of_two_masks():
    half, third = masks_of([(0, 0, 10, 5)]), masks_of([(0, 0, 10, 3)])
    np.testing.assert_allclose(compute_overlaps_masks(half, third), [[0.6]])
    np.testing.assert_allclose(compute_overlaps_masks(half * 255, third.astype(float)), [[0.6]])


def test_a_match_needs_the_class_and_takes_the_best_free_one():
    true = truth([LEFT, RIGHT], [1, 2])
    found = predicted([RIGHT, LEFT, LEFT], [2, 1, 2], [0.5, 0.9, 0.8])
    gt_match, pred_match, overlaps = compute_matches(*true, *found)
    np.testing.assert_array_equal(gt_match, [0, 2])  # sorted by score: left 0.9, wrong class 0.8, right 0.5
    np.testing.assert_array_equal(pred_match, [0, -1, 1])
    np.testing.assert_array_equal(overlaps, [[1, 0], [1, 0], [0, 1]])


def test_padding_rows_are_not_instances():
    boxes, class_ids, masks = truth([LEFT], [1])
    padded = np.vstack([boxes, np.zeros((3, 4), np.int32)])
    gt_match, pred_match, _ = compute_matches(padded, np.array([1, 0, 0, 0]), masks, *predicted([LEFT], [1], [0.9]))
    np.testing.assert_array_equal(gt_match, [0])
    np.testing.assert_array_equal(pred_match, [0])


@pytest.mark.parametrize("issue", [252, 551])
def test_issue_252_551_ap_never_exceeds_1(issue):
    # Several predictions of one object, the best of them first: only one may count.
    rng = np.random.default_rng(issue)
    copies = 5
    average, _, recalls, _ = compute_ap(
        *truth([LEFT], [1]), *predicted([LEFT] * copies, [1] * copies, rng.uniform(size=copies))
    )
    assert average == 1.0
    assert recalls.max() == 1.0


def test_compute_ap_range_accepts_arrays_lists_and_no_objects(capsys):
    arguments = (*truth([LEFT], [1]), *predicted([(0, 0, 10, 5)], [1], [0.9]))  # IoU 0.8
    assert compute_ap_range(*arguments, iou_thresholds=np.array([0.5, 0.9]), verbose=0) == 0.5
    assert compute_ap_range(*arguments, iou_thresholds=[0.5], verbose=0) == 1.0
    assert compute_ap_range(*arguments, iou_thresholds=[], verbose=0) == compute_ap_range(*arguments, verbose=0)
    assert capsys.readouterr().out == ""
    compute_ap_range(*arguments)
    assert "AP @0.50-0.95:\t 0.700" in capsys.readouterr().out


def test_issue_2165_recall_counts_each_true_box_once():
    gt = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    predictions = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    recall, ids = compute_recall(predictions, gt, 0.5)
    assert recall == 0.5
    np.testing.assert_array_equal(ids, [0, 1])


# ---- Bad input ------------------------------------------------------------------------------------------------------
def test_masks_of_different_sizes_are_refused_by_their_sizes():
    with pytest.raises(ValueError, match=r"\(5, 5\) and of \(6, 5\)"):
        compute_overlaps_masks(np.ones((5, 5, 1)), np.ones((6, 5, 1)))


def test_a_nan_score_is_named_by_its_index():
    with pytest.raises(ValueError, match=r"pred_scores\[1\] is NaN"):
        compute_matches(*truth([LEFT], [1]), *predicted([LEFT, RIGHT], [1, 1], [0.5, np.nan]))


def test_trim_zeros_refuses_1d_arrays():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        trim_zeros(np.zeros(3))


# ---- matterport's values ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def reference(golden):
    return golden("utils_golden.npz")


@pytest.fixture(scope="module")
def arguments(reference):
    return [
        reference[name]
        for name in (
            "ap_gt_boxes",
            "ap_gt_class",
            "masks1",
            "ap_pred_boxes",
            "ap_pred_class",
            "ap_pred_scores",
            "masks2",
        )
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_golden_ap(reference, arguments, threshold):
    results = compute_ap(*arguments, iou_threshold=threshold)
    for name, value in zip(("mAP", "precisions", "recalls", "overlaps"), results):
        np.testing.assert_array_equal(value, reference[f"ap_{threshold}_{name}"], err_msg=name)


def test_golden_matches_range_overlaps_recall_trim(reference, arguments):
    gt_match, pred_match, overlaps = compute_matches(*arguments)
    np.testing.assert_array_equal(gt_match, reference["matches_gt"])
    np.testing.assert_array_equal(pred_match, reference["matches_pred"])
    np.testing.assert_array_equal(overlaps, reference["matches_overlaps"])
    assert compute_ap_range(*arguments, verbose=0) == pytest.approx(float(reference["ap_range"]), abs=1e-12)
    np.testing.assert_array_equal(
        compute_overlaps_masks(reference["masks1"], reference["masks2"]), reference["ovmasks_out"]
    )
    recall, ids = compute_recall(reference["ov_b1"], reference["ov_b2"], 0.2)
    assert recall == reference["recall_out"]
    np.testing.assert_array_equal(ids, reference["recall_ids"])
    np.testing.assert_array_equal(trim_zeros(reference["trim_in"]), reference["trim_out"])
