"""COCO's protocol: the numbers equal those of pycocotools."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evaluate_kit import (
    NAMES,
    AnnotationSet,
    FakeModel,
    MaskSet,
    made_up_detections,
    made_up_truth,
    pycoco,
    rectangle,
    result,
)

from mrcnn.data.formats.coco import CocoDataset
from mrcnn.evaluation import evaluate_dataset, evaluate_predictions
from mrcnn.evaluation.coco_protocol import RECALLS, THRESHOLDS, match


def assert_same_as_pycocotools(truth, results, report):
    for kind, word in (("box", "bbox"), ("mask", "segm")):
        theirs = pycoco(truth, results, word)
        ours = [report.numbers[f"{kind}_{name}"] for name in NAMES]
        np.testing.assert_allclose(ours, theirs.stats, rtol=0, atol=1e-9, err_msg=word)
        result = report.accumulated[kind]
        np.testing.assert_allclose(result.precision, theirs.eval["precision"][..., 2], rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.recall, theirs.eval["recall"], rtol=0, atol=1e-9)


def evaluate(truth, results, **keywords):
    return evaluate_predictions(AnnotationSet(truth), results, progress=False, **keywords)


def test_thresholds_match_pycocotools():
    parameters = pycoco(made_up_truth(np.random.default_rng(0)), [], "bbox").params
    np.testing.assert_array_equal(THRESHOLDS, parameters.iouThrs)
    np.testing.assert_array_equal(RECALLS, parameters.recThrs)


# ---- Empty inputs ------------------------------------------------------------------------------------------------
def test_no_detection():
    truth = made_up_truth(np.random.default_rng(1))
    report = evaluate(truth, [])
    assert report.mask_ap == report.box_ap == 0.0
    assert_same_as_pycocotools(truth, [], report)


def test_no_ground_truth():
    truth = made_up_truth(np.random.default_rng(2))
    results = made_up_detections(truth, np.random.default_rng(2))
    truth["annotations"] = []
    report = evaluate(truth, results)
    assert report.mask_ap == -1  # as in pycocotools: nothing to measure by
    assert_same_as_pycocotools(truth, results, report)


def test_neither_ground_truth_nor_detection():
    truth = {**made_up_truth(np.random.default_rng(3)), "annotations": []}
    report = evaluate(truth, [])
    assert report.mask_ap == report.boundary_ap == -1


# ---- Generated cases -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_generated_sets_match_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth = made_up_truth(rng)
    results = made_up_detections(truth, rng)
    assert_same_as_pycocotools(truth, results, evaluate(truth, results))


@pytest.mark.parametrize(
    "why",
    ["ties", "one class only", "one image", "no crowds", "more than 100 of a class", "results without boxes"],
)
def test_generated_edge_cases_match_pycocotools(why):
    rng = np.random.default_rng(len(why))
    truth = made_up_truth(
        rng,
        images=1 if why == "one image" else 5,
        categories=(5,) if why in ("one class only", "more than 100 of a class") else (1, 2, 3),
        crowds=why != "no crowds",
    )
    results = made_up_detections(
        truth,
        rng,
        per_truth=60 if why == "more than 100 of a class" else 4,
        scores=(0.5, 0.75) if why == "ties" else None,
        boxes=why != "results without boxes",
    )
    assert_same_as_pycocotools(truth, results, evaluate(truth, results))


def test_a_class_without_ground_truth_and_one_without_detections():
    rng = np.random.default_rng(4)
    truth = made_up_truth(rng, categories=(1, 2))
    results = made_up_detections(truth, rng)
    truth["categories"] += [{"id": 9, "name": "unseen"}]
    results = [r for r in results if r["category_id"] == 1] + [{**results[0], "category_id": 9}]
    report = evaluate(truth, results)
    assert report.per_class[2]["mask_ap"] == -1 and report.per_class[1]["mask_ap"] == 0
    assert_same_as_pycocotools(truth, results, report)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_real_annotations(shared, seed):
    truth = json.loads((shared / "data/coco_val/annotations/instances_val2017.json").read_text())
    rng = np.random.default_rng(seed)
    results = made_up_detections(truth, rng, per_truth=3)
    assert_same_as_pycocotools(truth, results, evaluate(truth, results, boundary=False))


def test_the_real_annotations_read_by_our_coco_dataset(shared):
    folder = shared / "data/coco_val"
    dataset = CocoDataset()
    dataset.load_coco(str(folder), "val", year="2017")
    dataset.prepare()
    truth = json.loads((folder / "annotations/instances_val2017.json").read_text())
    results = made_up_detections(truth, np.random.default_rng(5))
    # What the dataset leaves out, pycocotools leaves out as well.
    known = {info["id"] for info in dataset.image_info}
    truth["images"] = [image for image in truth["images"] if image["id"] in known]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in known]
    results = [r for r in results if r["image_id"] in known]
    assert len(known) > 200
    report = evaluate_predictions(dataset, results, boundary=False, progress=False)
    assert_same_as_pycocotools(truth, results, report)


def test_perfect_detections_of_the_real_annotations_have_ap_1(shared):
    truth = json.loads((shared / "data/coco_val/annotations/instances_val2017.json").read_text())
    dataset = AnnotationSet(truth)
    results = []
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"]:
            rle = dataset.coco.annToRLE(annotation)
            results.append({"image_id": annotation["image_id"], "category_id": annotation["category_id"],
                            "bbox": annotation["bbox"], "score": 0.9,
                            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})  # fmt: skip
    report = evaluate_predictions(dataset, results, progress=False)
    assert report.mask_ap == report.box_ap == report.boundary_ap == pytest.approx(1, abs=1e-9)
    assert_same_as_pycocotools(truth, results, report)


# ---- The matching, by hand -------------------------------------------------------------------------------------------
def settle(ious, crowd=None, gt_areas=None, det_areas=None):
    ious = np.array(ious, float)
    crowd = np.zeros(ious.shape[1], bool) if crowd is None else np.array(crowd)
    gt_areas = np.full(ious.shape[1], 500.0) if gt_areas is None else np.array(gt_areas)
    det_areas = np.full(ious.shape[0], 500.0) if det_areas is None else np.array(det_areas)
    hits, ignored, taken = match(ious, np.ones(ious.shape, bool), det_areas, gt_areas, crowd)
    return [int(h) & 1023 for h in hits], [int(i) & 1023 for i in ignored], taken.tolist()


def test_nothing_to_match():
    assert settle(np.zeros((0, 3))) == ([], [], [])
    assert settle(np.zeros((2, 0))) == ([0, 0], [0, 0], [-1, -1])


def test_iou_0_72_matches_up_to_threshold_0_70():
    assert settle([[0.72]]) == ([0b11111], [0], [0])


def test_the_higher_score_is_matched_first_even_if_the_other_fits_better():
    hits, _, taken = settle([[0.6], [0.9]])
    assert taken == [0, -1]
    assert hits == [0b111, 0b111111000]  # from 0.65 on the first doesn't reach it, and the second may have it


def test_equal_ious_match_the_last_instance():
    assert settle([[0.8, 0.8]])[2] == [1]


def test_a_crowd_absorbs_any_number_of_detections_but_is_matched_last():
    hits, ignored, taken = settle([[0.5, 0.9], [0.0, 0.9], [0.0, 0.9]], crowd=[False, True])
    assert hits == [1, 0, 0]
    assert taken == [0, -1, -1]
    assert ignored == [0b111111110, 0b111111111, 0b111111111]


# ---- A model on a dataset -------------------------------------------------------------------------------------------
def toy_images():
    """Three images of 40 x 50: two objects and a crowd; none; one."""
    first = np.stack([rectangle(40, 50, b) for b in [(0, 0, 10, 10), (20, 20, 40, 50), (0, 30, 12, 50)]], axis=-1)
    none = np.zeros((40, 50, 0), np.uint8)
    last = np.stack([rectangle(40, 50, (5, 5, 30, 30))], axis=-1)
    return [(first, np.array([1, 2, -1])), (none, np.array([], int)), (last, np.array([2]))]


def perfect_results(images):
    return [result(m[..., c > 0], c[c > 0], np.linspace(0.9, 0.8, (c > 0).sum())) for m, c in images]


def test_perfect_detections_have_ap_1():
    images = toy_images()
    model = FakeModel(perfect_results(images))
    report = evaluate_dataset(model, MaskSet(images), batch_size=2, progress=False)
    assert report.mask_ap == report.box_ap == report.boundary_ap == pytest.approx(1)
    assert model.batches == [2, 1]
    assert report.notes == []


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, "0/255"])
def test_masks_of_any_type_count_the_same(kind):
    images = toy_images()
    scale, dtype = (255, np.uint8) if kind == "0/255" else (1, kind)
    dataset = MaskSet([((m * scale).astype(dtype), c) for m, c in images])
    report = evaluate_dataset(FakeModel(perfect_results(images)), dataset, progress=False)
    assert report.mask_ap == pytest.approx(1)


def test_images_without_objects_may_have_zero_size_masks():
    images = toy_images()
    dataset = MaskSet(images)
    original = dataset.load_mask
    dataset.load_mask = lambda i: (np.zeros((0, 0, 0)), np.zeros(0)) if i == 1 else original(i)
    report = evaluate_dataset(FakeModel(perfect_results(images)), dataset, progress=False)
    assert report.mask_ap == pytest.approx(1)


def test_saved_detections_give_the_same_report(tmp_path):
    images = toy_images()
    results = perfect_results(images)
    results[0]["scores"][1] = 0.1
    results[2]["masks"][:12] = False
    saved = tmp_path / "out" / "results.json"
    report = evaluate_dataset(FakeModel(results), MaskSet(images), save=saved, progress=False)
    assert 0 < report.mask_ap < 1
    listed = report.to_coco_json()
    assert listed == json.loads(saved.read_text())
    assert len(listed) == 3 and listed[0]["image_id"] == 100
    for source in (listed, saved, str(saved)):
        again = evaluate_predictions(MaskSet(images), source, progress=False)
        assert again.to_dict() == report.to_dict()
    again.to_coco_json(tmp_path / "copy.json")
    assert json.loads((tmp_path / "copy.json").read_text()) == listed
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["results.json"]


def test_a_subset_of_the_images():
    images = toy_images()
    results = perfect_results(images)
    report = evaluate_dataset(FakeModel([results[2]]), MaskSet(images), image_ids=[2], progress=False)
    assert report.image_ids == [2] and report.per_class[0]["truths"] == 0 and report.mask_ap == pytest.approx(1)


def test_area_by_mask_or_by_box():
    # A ring: the box is large, the mask medium. Unmatched, it counts in the range its area is in.
    ring = rectangle(200, 200, (0, 0, 120, 120)) - rectangle(200, 200, (10, 10, 110, 110))
    true = rectangle(200, 200, (150, 150, 190, 190))
    dataset = MaskSet([(true[..., None], np.array([1]))])
    for area, medium in (("box", 1.0), ("mask", 0.5), ("auto", 1.0)):
        model = FakeModel([result(np.stack([ring, true], -1), [1, 1], [0.9, 0.8])])
        report = evaluate_dataset(model, dataset, detection_area=area, progress=False)
        assert report.mask_ap_medium == pytest.approx(medium), area


def test_each_source_counts_only_its_own_classes():
    images = toy_images()[2:]
    dataset = MaskSet(images)
    dataset.add_class("other", 1, "cat")
    dataset.add_image("other", image_id=100, path=None)
    dataset.images = images + [(np.zeros((40, 50, 0), bool), np.zeros(0, int))]
    dataset.prepare()
    found = result(images[0][0], [3], [0.9])  # a cat in an image that is not annotated with cats
    report = evaluate_dataset(FakeModel([perfect_results(images)[0], found]), dataset, progress=False)
    assert len(report.detections.score) == 2  # the cat is in an image annotated with cats
    report = evaluate_dataset(FakeModel([found, found]), dataset, progress=False)
    assert len(report.detections.score) == 1 and "1 detections" in report.notes[0]
    assert {r["image_id"] for r in report.to_coco_json()} == {"other.100"}


# ---- Other limits and ranges -----------------------------------------------------------------------------------------
def many_squares(count: int = 150) -> dict:
    """`count` squares of 4 x 4 pixels in one image, with scores that fall from 0.99 to 0.5."""
    places = [(5 * (i // 20), 5 * (i % 20)) for i in range(count)]
    masks = np.stack([rectangle(100, 100, (y, x, y + 4, x + 4)) for y, x in places], axis=-1).astype(bool)
    return result(masks, np.ones(count, int), np.linspace(0.99, 0.5, count))


def test_without_a_limit_all_detections_count():
    found = many_squares()
    dataset = MaskSet([(found["masks"], found["class_ids"])])
    report = evaluate_dataset(FakeModel([found]), dataset, boundary=False, progress=False)
    assert report.mask_ar100 == pytest.approx(100 / 150) and report.mask_ap < 0.7  # COCO's limit
    assert report.errors.counts["missed"] == 0 and report.errors.costs["missed"] == 0
    assert report.best_cut.f1 == 1 and report.confusion[1].tolist() == [0, 150, 0]
    assert report.calibration.counts.sum() == 150 and report.image_scores.tolist() == [1]
    assert "150 detections" in str(report)
    low, high = report.intervals["mask_ap"]
    assert low <= report.mask_ap <= high < 0.7


def test_other_limits_and_ranges(tmp_path):
    found = many_squares()
    dataset = MaskSet([(found["masks"], found["class_ids"])])
    ranges = {"tiny": (0, 20), "huge": (5000, 1e6)}
    report = evaluate_dataset(FakeModel([found]), dataset, max_detections=(1, 200), area_ranges=ranges, progress=False)
    assert report.mask_ap == report.mask_ar200 == report.mask_ap_tiny == report.box_ar_tiny == 1
    assert report.mask_ap_huge == -1 and not hasattr(report, "mask_ar100") and not hasattr(report, "mask_ap_small")
    assert "tiny" in str(report) and "AR200" in str(report)
    assert "AR200" in report.report(tmp_path / "page.html", images=0).read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_detections": (100, 10)}, r"max_detections is \(100, 10\); expected whole numbers"),
        ({"max_detections": ()}, r"max_detections is \(\)"),
        ({"max_detections": 100}, r"max_detections is 100"),
        ({"max_detections": (0, 10)}, r"max_detections is \(0, 10\)"),
        ({"area_ranges": {"small": (50, 10)}}, r"area_ranges\['small'\] is \(50, 10\)"),
        ({"area_ranges": {"all": (0, 10)}}, r"area_ranges\['all'\]"),
        ({"area_ranges": {"small": 10}}, r"area_ranges\['small'\] is 10"),
        ({"area_ranges": {f"r{i}": (0, 10) for i in range(9)}}, r"area_ranges has 9 ranges; expected at most 5"),
    ],
)
def test_invalid_limits_and_ranges_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_dataset(FakeModel([]), MaskSet([]), progress=False, **settings)
