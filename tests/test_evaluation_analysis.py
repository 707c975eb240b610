"""Boundary AP, kinds of errors, confusion, calibration, intervals and semantic view, compared with handmade results."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate_kit import AnnotationSet, FakeModel, MaskSet, made_up_detections, made_up_truth, rectangle, result
from pycocotools import mask as coco_mask

from mrcnn.evaluation import evaluate_dataset, evaluate_predictions
from mrcnn.evaluation.bootstrap import _levels_reached, draw, interval, resampled_ap
from mrcnn.evaluation.boundary import band, band_width, boundary_ious
from mrcnn.evaluation.calibration import best_threshold, best_thresholds, calibrate, min_scores
from mrcnn.evaluation.coco_protocol import RECALLS
from mrcnn.evaluation.errors import break_down, confusion_matrix
from mrcnn.evaluation.semantic import count_pixels, semantic_map, semantic_scores
from mrcnn.ops.rle import check_rles, encode_masks, to_rle

SIZE = 100


def evaluation(true, found, classes=("a", "b", "c")):
    """Report of one image of 100 x 100; `true`: (box, class), `found`: (box, class, score)."""
    masks, class_ids = _masks([b for b, _ in true]), np.array([c for _, c in true], int)
    detected = result(_masks([b for b, _, _ in found]), [c for _, c, _ in found], [s for _, _, s in found])
    return evaluate_dataset(FakeModel([detected]), MaskSet([(masks, class_ids)], classes), progress=False)


def _masks(boxes):
    if not boxes:
        return np.zeros((SIZE, SIZE, 0), bool)
    return np.stack([rectangle(SIZE, SIZE, box) for box in boxes], axis=-1).astype(bool)


def columns(report, kind="mask"):
    return report.detections, report.truths, report.matches[kind], len(report.class_names)


# ---- Boundaries ----------------------------------------------------------------------------------------------------
def test_the_boundary_band_of_a_square():
    square = rectangle(20, 20, (5, 5, 15, 15)).astype(bool)
    assert band(square, 1).sum() == 100 - 64
    assert band(square, 5).sum() == 100  # nothing is further inside
    assert band(np.ones((6, 6), bool), 1).sum() == 36 - 16  # the image's edge is an edge


def test_band_width_is_two_percent_of_the_diagonal():
    assert band_width(480, 640) == 16
    assert band_width(10, 10) == 1


def slow_boundary_iou(a, b, distance):
    """The definition in the paper, pixel by pixel."""

    def edge(mask):
        padded = np.pad(mask, distance)
        inner = np.ones(mask.shape, bool)
        for dy in range(2 * distance + 1):
            for dx in range(2 * distance + 1):
                inner &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
        return mask & ~inner

    a, b = edge(a), edge(b)
    return (a & b).sum() / (a | b).sum()


def test_boundary_iou_matches_the_paper():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :70]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 < r**2 for cy, cx, r in rng.uniform([20, 20, 8], [40, 50, 25], (8, 3))]
    rles = encode_masks(np.stack(discs, axis=-1))
    masks_iou = coco_mask.iou(rles[:4], rles[4:], [0] * 4)
    ious = boundary_ious(rles[:4], rles[4:], np.zeros(4, bool), masks_iou, masks_iou >= 0.1, (60, 70))
    for i in range(4):
        for j in range(4):
            expected = 0.0
            if masks_iou[i, j] >= 0.1:
                expected = min(masks_iou[i, j], slow_boundary_iou(discs[i], discs[4 + j], band_width(60, 70)))
            assert ious[i, j] == pytest.approx(expected, abs=1e-12)


def test_a_ring_and_a_square_have_a_low_boundary_iou():
    square, ring = rectangle(SIZE, SIZE, (20, 20, 80, 80)), rectangle(SIZE, SIZE, (20, 20, 80, 80))
    ring[30:70, 30:70] = 0
    square, ring = encode_masks(np.stack([square, ring], axis=-1))
    mask_iou = coco_mask.iou([square], [ring], [0])
    assert mask_iou[0, 0] == pytest.approx(2000 / 3600)  # the bands alone: 684 / (684 + 516) = 0.57
    ious = boundary_ious([square], [ring], np.zeros(1, bool), mask_iou, mask_iou >= 0.5, (SIZE, SIZE))
    assert ious[0, 0] == mask_iou[0, 0]


def test_boundary_ap_is_more_sensitive_to_contours_than_mask_ap():
    report = evaluation([((10, 10, 90, 90), 1)], [((13, 13, 87, 87), 1, 0.9)])  # 3 pixels short: IoU 0.86
    assert report.mask_ap == pytest.approx(0.8)
    assert report.boundary_ap == pytest.approx(0.0)  # the bands, 3 pixels wide, only touch


# ---- Kinds of errors ------------------------------------------------------------------------------------------------
BIG, FAR = (0, 0, 40, 40), (60, 60, 90, 90)
OFF = (0, 20, 40, 60)  # IoU 1/3 with BIG


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([(OFF, 1, 0.9)], "localization"),
        ([(BIG, 2, 0.9)], "class"),
        ([(OFF, 2, 0.9)], "both"),
        ([(BIG, 1, 0.95), (BIG, 1, 0.9)], "duplicate"),
        ([(FAR, 1, 0.9)], "background"),
    ],
)
def test_each_error_type_is_counted(found, kind):
    report = evaluation([(BIG, 1)], found)
    errors = break_down(*columns(report))
    wrong = {name: n for name, n in errors.counts.items() if n and name != "missed"}
    assert wrong == {kind: 1}
    assert errors.counts["missed"] == (kind in ("both", "background"))  # the others account for it


def test_nothing_at_all_has_no_errors():
    errors = break_down(*columns(evaluation([], [])))
    assert set(errors.counts.values()) == {0} and set(errors.costs.values()) == {0.0}


def test_the_cost_of_each_error_type():
    # Class 1: one of two found, and before it a duplicate-free background error; the other is misnamed as class 2.
    true = [(BIG, 1), (FAR, 1), ((0, 60, 30, 90), 2)]
    found = [((60, 0, 90, 30), 1, 0.9), (BIG, 1, 0.8), (FAR, 2, 0.7), ((0, 60, 30, 90), 2, 0.6)]
    errors = break_down(*columns(evaluation(true, found)))
    # Precision 1/2 up to recall 1/2 in class 1 (51 of 101 levels), 1/2 up to 1 in class 2.
    base = (0.5 * 51 / 101 + 0.5) / 2
    assert errors.ap50 == pytest.approx(base)
    # Without the background error class 1 has precision 1 up to 1/2.
    assert errors.costs["background"] == pytest.approx((51 / 101 + 0.5) / 2 - base)
    # Named rightly, FAR is a hit of class 1: precision 2/3 up to recall 1; and class 2 is perfect.
    assert errors.costs["class"] == pytest.approx((2 / 3 + 1) / 2 - base)
    assert errors.costs["localization"] == errors.costs["duplicate"] == errors.costs["missed"] == 0
    assert errors.costs["false positives"] == pytest.approx((51 / 101 + 1) / 2 - base)
    assert errors.costs["false negatives"] == pytest.approx((0.5 + 0.5) / 2 - base)


def test_fixing_an_error_never_matches_an_instance_twice():
    # The badly placed one refers to BIG, which the second has matched: an oracle can only remove it.
    errors = break_down(*columns(evaluation([(BIG, 1), (FAR, 1)], [(OFF, 1, 0.95), (BIG, 1, 0.9)])))
    assert errors.costs["localization"] == pytest.approx(51 / 101 - 0.5 * 51 / 101)


def test_the_higher_scored_of_two_errors_on_an_instance_is_fixed():
    errors = break_down(*columns(evaluation([(BIG, 1), ((0, 60, 30, 90), 2)], [(BIG, 2, 0.9), (OFF, 1, 0.8)])))
    assert errors.counts["class"] == errors.counts["localization"] == 1
    assert errors.costs["class"] == pytest.approx(0.5)  # a hit of class 1 before a false one
    assert errors.costs["localization"] == 0


def test_an_error_refers_to_the_instance_it_overlaps_most():
    near, nearer = (0, 0, 40, 20), (0, 50, 40, 80)
    detected = (0, 10, 40, 70)  # IoU 10 / 70 and 20 / 70
    for true in ([near, nearer], [nearer, near]):
        errors = break_down(*columns(evaluation([(box, 1) for box in true], [(detected, 1, 0.9)])))
        assert errors.meant.tolist() == [true.index(nearer)]
        assert errors.missed.tolist() == [box is near for box in true]


def test_missed_instances_are_those_without_an_error():
    errors = break_down(*columns(evaluation([(BIG, 1), (FAR, 1)], [(BIG, 1, 0.9)])))
    assert errors.counts["missed"] == 1
    assert errors.costs["missed"] == pytest.approx(1 - 51 / 101)


@pytest.mark.parametrize(
    ("seed", "counts", "costs"),
    [  # what tidecv 1.0.1 gives for masks: Cls, Loc, Both, Dupe, Bkg, Miss, then FalsePos and FalseNeg, in percent
        (1, (5, 17, 3, 27, 38, 28), (1.946, 6.350, 0.216, 2.936, 8.825, 16.383, 23.548, 26.201)),
        (5, (6, 36, 16, 28, 34, 31), (1.352, 18.994, 1.734, 1.265, 4.057, 10.973, 28.817, 21.222)),
        (6, (7, 25, 9, 15, 38, 18), (5.316, 13.349, 1.517, 0.438, 5.555, 10.391, 21.395, 26.310)),
    ],
)
def test_errors_match_tidecv(seed, counts, costs):
    rng = np.random.default_rng(seed)
    truth = made_up_truth(rng, images=30, crowds=False)
    report = evaluate_predictions(AnnotationSet(truth), made_up_detections(truth, rng, per_truth=3), progress=False)
    errors = break_down(*columns(report))
    names = ("class", "localization", "both", "duplicate", "background", "missed", "false positives", "false negatives")
    assert tuple(errors.counts[name] for name in names[:6]) == counts
    assert [100 * errors.costs[name] for name in names] == pytest.approx(costs, abs=0.05)


def test_costs_are_never_negative_and_fixing_all_helps_most():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = made_up_truth(rng)
        report = evaluate_predictions(AnnotationSet(truth), made_up_detections(truth, rng), progress=False)
        errors = break_down(*columns(report))
        assert errors.ap50 == pytest.approx(report.mask_ap50, abs=1e-12)
        assert min(errors.costs.values()) > -1e-12
        single = [errors.costs[k] for k in ("duplicate", "both", "background")]
        assert errors.costs["false positives"] >= max(single) - 1e-12


# ---- Confusion ------------------------------------------------------------------------------------------------------
def test_confusion_matrix():
    true = [(BIG, 1), (FAR, 2), ((0, 60, 30, 90), 3)]
    found = [(BIG, 1, 0.9), (BIG, 2, 0.85), (FAR, 3, 0.8), ((60, 0, 90, 30), 2, 0.7), ((0, 60, 30, 90), 3, 0.2)]
    matrix = confusion_matrix(*columns(evaluation(true, found)), np.full(4, 0.5))
    expected = np.zeros((4, 4), int)
    expected[1, 1] = 1  # BIG
    expected[2, 3] = 1  # FAR taken for class 3
    expected[0, 2] = 2  # a second one on BIG, which is taken, and one where nothing is
    expected[3, 0] = 1  # the last, whose detection is below 0.5
    np.testing.assert_array_equal(matrix, expected)


def test_confusion_of_nothing():
    np.testing.assert_array_equal(confusion_matrix(*columns(evaluation([], [])), np.zeros(4)), np.zeros((4, 4)))


# ---- Calibration and thresholds --------------------------------------------------------------------------------------
def test_calibration_by_hand():
    found = [(BIG, 1, 0.95), (FAR, 1, 0.95), ((60, 0, 90, 30), 2, 0.05)]
    report = evaluation([(BIG, 1)], found)
    calibration = calibrate(report.detections, report.matches["mask"])
    assert calibration.counts[14] == 2 and calibration.counts[0] == 1
    assert calibration.precision[14] == 0.5
    assert calibration.ece == pytest.approx((2 * 0.45 + 0.05) / 3, abs=1e-6)
    assert calibration.mce == pytest.approx(0.45, abs=1e-6)
    assert calibration.to_dict()["precision"][5] is None


def test_no_calibration_without_probabilities():
    assert calibrate(*_det_and_match(evaluation([(BIG, 1)], []))) is None
    assert calibrate(*_det_and_match(evaluation([(BIG, 1)], [(BIG, 1, 7.0)]))) is None


def _det_and_match(report):
    return report.detections, report.matches["mask"]


def test_best_threshold():
    score, hit = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, False])
    cut = best_threshold(score, hit, 2)
    assert (cut.score, cut.f1, cut.precision, cut.recall) == pytest.approx((0.7, 0.8, 2 / 3, 1.0))
    assert best_threshold(score, hit, 0).score is None
    assert best_threshold(score, np.zeros(5, bool), 3).score is None
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 3).score is None


def test_thresholds_do_not_split_equal_scores():
    assert best_threshold(np.array([0.9, 0.9]), np.array([True, False]), 1).f1 == pytest.approx(2 / 3)


def test_a_class_without_a_threshold_has_the_common_one():
    together, single = best_thresholds(*columns(evaluation([(BIG, 1)], [(BIG, 1, 0.9), (FAR, 2, 0.8)])))
    assert single[0].score == pytest.approx(0.9) and single[1].score is None
    np.testing.assert_allclose(min_scores(together, single), 0.9)


# ---- Intervals -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_a_weight_equals_repeating_the_image(seed):
    rng = np.random.default_rng(seed)
    truth = made_up_truth(rng, images=5)
    results = made_up_detections(truth, rng, per_truth=3)
    report = evaluate_predictions(AnnotationSet(truth), results, boundary=False, progress=False)
    weights = draw(5, 3, seed)
    assert weights.sum(axis=1).tolist() == [5, 5, 5]
    sampled = resampled_ap(*columns(report), weights, 100)
    for sample, expected in zip(weights, sampled):
        copied_truth, copied = repeat_images(truth, results, dict(zip([_key(report, i) for i in range(5)], sample)))
        copied_report = evaluate_predictions(AnnotationSet(copied_truth), copied, boundary=False, progress=False)
        assert copied_report.mask_ap == pytest.approx(expected.mean(), abs=1e-9)
        assert copied_report.mask_ap50 == pytest.approx(expected[0], abs=1e-9)


def _key(report, position):
    return report.dataset.image_info[report.image_ids[position]]["id"]


def repeat_images(truth, results, times):
    new = {"images": [], "annotations": [], "categories": truth["categories"]}
    found = []
    for image in truth["images"]:
        for copy in range(times[image["id"]]):
            number = image["id"] * 10 + copy
            new["images"].append({**image, "id": number})
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    count = len(new["annotations"]) + 1
                    new["annotations"].append({**annotation, "id": count, "image_id": number})
            found += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    return new, found


@pytest.mark.parametrize("count", [1, 3, 7, 29, 100, 101, 997])
def test_recall_levels_equal_a_binary_search(count):
    recall = np.arange(count + 1) / count
    np.testing.assert_array_equal(_levels_reached(recall), np.searchsorted(RECALLS, recall, side="right"))


def test_the_interval_is_the_reversed_percentile_interval():
    assert interval(60.0, np.arange(101.0), 0.9) == pytest.approx((25, 115))
    assert interval(99.0, np.arange(101.0), 0.9) == pytest.approx((99, 193))  # the value itself is always inside
    assert interval(0.5, np.full(3, np.nan)) == (0.5, 0.5)


# ---- Semantic view --------------------------------------------------------------------------------------------------
def test_semantic_map_gives_overlaps_to_the_higher_score():
    masks = np.stack([rectangle(4, 4, (0, 0, 4, 3)), rectangle(4, 4, (0, 2, 4, 4))], axis=-1).astype(bool)
    row = [1, 1, 2, 2]
    np.testing.assert_array_equal(
        semantic_map({"masks": masks, "class_ids": [1, 2], "scores": [0.5, 0.9]}), np.tile(row, (4, 1))
    )
    kept = semantic_map({"masks": masks, "class_ids": [1, 2], "scores": [0.5, 0.9]}, min_score=0.6)
    np.testing.assert_array_equal(kept, np.tile([0, 0, 2, 2], (4, 1)))
    without_scores = semantic_map({"masks": masks, "class_ids": [1, 2]})
    np.testing.assert_array_equal(without_scores, np.tile(row, (4, 1)))  # the smaller one lies in front


def test_semantic_map_without_objects_and_with_crowds():
    assert not semantic_map({"masks": np.zeros((3, 3, 0)), "class_ids": [], "scores": []}).any()
    masks = np.stack([rectangle(2, 2, (0, 0, 2, 2)), rectangle(2, 2, (0, 0, 1, 2))], axis=-1)
    np.testing.assert_array_equal(semantic_map({"masks": masks, "class_ids": [-2, 1]}), [[1, 1], [-1, -1]])
    with pytest.raises(ValueError, match="2 class ids"):
        semantic_map({"masks": np.zeros((3, 3, 1)), "class_ids": [1, 2]})


def test_semantic_scores_by_hand():
    true, detected = np.array([[0, 0, 1, 1], [0, 0, 1, -1]]), np.array([[0, 1, 1, 1], [0, 0, 1, 1]])
    scores = semantic_scores(count_pixels(true, detected, 3))
    np.testing.assert_allclose(scores.iou, [3 / 4, 3 / 4, -1])
    np.testing.assert_allclose(scores.class_dice, [6 / 7, 6 / 7, -1])
    assert scores.pixel_accuracy == pytest.approx(6 / 7)
    assert (scores.miou, scores.miou_foreground) == pytest.approx((0.75, 0.75))
    assert semantic_scores(np.zeros((3, 3), int)).miou == -1


# ---- Run lengths ------------------------------------------------------------------------------------------------
def test_invalid_counts_are_refused():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 40, 2)
        rles = encode_masks(rng.random((height, width, 3)) < rng.random())
        assert check_rles(rles) is None
        for damaged in (b"", rles[1]["counts"][:-1], rles[1]["counts"] + b"1", b"\x7f\x7f", b"o" * 50):
            if damaged in (b"", b"\x7f\x7f", b"o" * 50) or damaged != rles[1]["counts"]:
                bad = [rles[0], {"size": rles[1]["size"], "counts": damaged}, rles[2]]
                assert check_rles(bad) == 1, damaged


def test_every_mask_encoding_is_read():
    mask = rectangle(6, 8, (1, 2, 4, 7))
    (expected,) = encode_masks(mask[..., None].astype(bool))
    plain = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]}
    assert to_rle(plain, 6, 8)["counts"] == expected["counts"]
    assert to_rle({"size": [6, 8], "counts": expected["counts"].decode()}, 6, 8) == expected
    assert to_rle([[2, 1, 7, 1, 7, 4, 2, 4]], 6, 8)["counts"] == expected["counts"]
