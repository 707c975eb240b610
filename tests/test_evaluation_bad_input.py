"""Invalid input of an evaluation gives an error that names it, with its index."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from evaluate_kit import FakeModel, MaskSet, rectangle, result

from mrcnn.evaluation import coco_results as results_module
from mrcnn.evaluation import evaluate_dataset, evaluate_predictions

MASK = rectangle(30, 40, (5, 5, 25, 35))


@pytest.fixture
def dataset():
    return MaskSet([(MASK[..., None], np.array([1])), (np.zeros((30, 40, 0), bool), np.zeros(0, int))])


GOOD = {"image_id": 100, "category_id": 1, "score": 0.5, "bbox": [5, 5, 30, 20],
        "segmentation": {"size": [30, 40], "counts": [155] + [20, 10] * 29 + [20, 165 - 10 + 0]}}  # fmt: skip


def good(**changes):
    entry = {**copy.deepcopy(GOOD), **changes}
    return {key: value for key, value in entry.items() if value is not None}


def evaluate(dataset, results, **keywords):
    return evaluate_predictions(dataset, results, progress=False, **keywords)


def test_the_valid_input_is_accepted(dataset):
    assert evaluate(dataset, [good()]).mask_ap == pytest.approx(1)
    outside = good(bbox=[-0.5, 5, 30, 20])  # by less than a pixel: tools round
    assert evaluate(dataset, [outside]).mask_ap == pytest.approx(1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"image_id": 7}, r"predictions\[1\]: image_id 7 is unknown; the dataset has 2 images, such as \[100, 101\]"),
        ({"image_id": None}, r"predictions\[1\] is .*expected a dict with \"image_id\""),
        ({"category_id": 3}, r"predictions\[1\]: category_id 3 is out of range; the classes of 'toys' are \[1, 2\]"),
        ({"category_id": None}, r"predictions\[1\]: category_id None is out of range"),
        ({"category_id": [1]}, r"predictions\[1\]: category_id \[1\] is out of range"),
        ({"score": float("nan")}, r"index 1: score is nan; expected a finite number"),
        ({"score": "high"}, r"predictions\[1\]: score is 'high'; expected a number"),
        ({"score": None}, r"predictions\[1\]: score is None"),
        ({"bbox": [5, 5, float("nan"), 20]}, r"index 1: box is .*expected finite numbers"),
        ({"bbox": [5, 5, 30]}, r"predictions\[1\]: bbox is \[5, 5, 30\]; expected \[x, y, width, height\]"),
        ({"bbox": [5, 5, -3, 20]}, r"index 1: box is .*width and height of at least 0"),
        ({"bbox": [5, 5, 40, 20]}, r"image 0 \(toys.100\), index 1: box .*inside its image of 40 x 30"),
        ({"bbox": [5, -2, 30, 20]}, r"index 1: box .*inside its image"),
        (
            {"segmentation": {"size": [40, 30], "counts": [1200]}},
            r"predictions\[1\]: the mask is \[40, 30\] pixels, its",
        ),
        ({"segmentation": {"size": [30, 40], "counts": [100]}}, r"predictions\[1\]: the counts make 100 pixels"),
        (
            {"segmentation": {"size": [30, 40], "counts": "oooooo"}},
            r"predictions\[1\]: the counts of its mask are damaged",
        ),
        ({"segmentation": {"size": [30, 40], "counts": "ä"}}, r"predictions\[1\]: the counts of its mask are damaged"),
        ({"segmentation": {"counts": [1200]}}, r"predictions\[1\]: a mask is a list of polygons or a dict"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"predictions\[1\]: polygons must be lists"),
        ({"segmentation": None}, r"predictions\[1\] has no segmentation, though others have one"),
        ({"segmentation": None, "bbox": None}, r"predictions\[1\] has no|predictions\[1\] has neither"),
    ],
)
def test_a_bad_result_is_named_by_its_index(dataset, bad, message, tmp_path, monkeypatch):
    results = [good(image_id=101), good(**bad), good()]
    with pytest.raises(ValueError, match=message):
        evaluate(dataset, results)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    for largest in (results_module.WHOLE, 0):
        monkeypatch.setattr(results_module, "WHOLE", largest)
        with pytest.raises(ValueError, match=message):
            evaluate(dataset, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' where '\\[' was expected"),
        ("{}", "'{' where '\\[' was expected; results are a JSON list"),
        ('[{"image_id": 100', "result 0, byte"),
        ('[{"image_id": 100} {"image_id": 100}]', "'{' where ',' was expected"),
        ("[1]", r"predictions\[0\] is 1; expected a dict"),
    ],
)
def test_a_bad_file_is_named_with_the_place(dataset, text, message, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        evaluate(dataset, path)
    assert "broken.json" in str(error.value) or "predictions[0]" in str(error.value)


def test_a_missing_file(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate(dataset, tmp_path / "absent.json")


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
def test_files_are_read_in_pieces_of_any_size(chunk, tmp_path, monkeypatch):
    dataset = MaskSet([(MASK[..., None], np.array([1]))] * 3)
    names = ("größe.jpg", "日本.jpg", "plain.jpg")
    for info, name in zip(dataset.image_info, names):
        info["id"] = name
    dataset.prepare()
    results = [good(image_id=name, score=0.1 * i + 0.1) for i, name in enumerate(names * 4)]
    monkeypatch.setattr(results_module, "CHUNK", chunk)
    monkeypatch.setattr(results_module, "WHOLE", 0)  # as if the file were large
    for number, text in enumerate((json.dumps(results), json.dumps(results, ensure_ascii=False, indent=2) + " \n\n")):
        path = tmp_path / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        report = evaluate(dataset, path)
        assert report.to_dict() == evaluate(dataset, results).to_dict()
        assert report.to_coco_json() == results
    (tmp_path / "none.json").write_text(" [ ] ")
    assert evaluate(dataset, tmp_path / "none.json").mask_ap == 0


def test_numpy_numbers_and_ids_with_a_source_are_accepted(dataset):
    entry = good(
        image_id="toys.100", category_id=np.int64(1), score=np.float32(0.5), bbox=np.array([5, 5, 30, 20]).tolist()
    )
    assert evaluate(dataset, [entry]).mask_ap == pytest.approx(1)
    assert evaluate(dataset, [good(image_id=np.int64(100))]).mask_ap == pytest.approx(1)


# ---- From a model ---------------------------------------------------------------------------------------------------
def detect(dataset, found, **keywords):
    return evaluate_dataset(FakeModel([found, found]), dataset, progress=False, **keywords)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.array([0.9, np.nan])}, r"image 0 \(toys.100\), index 1: score is nan"),
        ({"rois": np.array([[5, 5, 25, 35], [5, 5, 25, 60]])}, r"index 1: box .*inside its image of 40 x 30"),
        ({"rois": np.array([[5, 5, 25, 35], [5, np.nan, 25, 30]])}, r"index 1: box is .*finite"),
        ({"rois": np.array([[5, 5, 25, 35], [5, 5, 2, 30]])}, r"index 1: box is .*at least 0"),
        ({"rois": np.zeros((3, 4))}, r"2 class_ids, rois of shape \(3, 4\), 2 scores"),
        ({"class_ids": np.array([1, 0])}, r"index 1: class_ids is 0; expected 1 to 2"),
        ({"class_ids": np.array([1, 3])}, r"index 1: class_ids is 3; expected 1 to 2"),
        ({"masks": np.zeros((40, 30, 2), bool)}, r"masks of shape \(40, 30, 2\); expected \(30, 40, 2\)"),
        ({"masks": np.zeros((28, 28, 2), bool)}, r"masks of shape \(28, 28, 2\)"),
    ],
)
def test_a_bad_detection_is_named_by_image_and_index(dataset, changes, message):
    found = {**result(np.stack([MASK, MASK], -1), [1, 1], [0.9, 0.8]), **changes}
    with pytest.raises(ValueError, match=message):
        detect(dataset, found)


def test_missing_masks_or_results_are_refused(dataset):
    found = result(MASK[..., None], [1], [0.9])
    del found["masks"]
    with pytest.raises(ValueError, match="has no 'masks'"):
        detect(dataset, found)
    with pytest.raises(ValueError, match="detect gave 1 results for 2 images"):
        evaluate_dataset(FakeModel([found]), dataset, batch_size=2, progress=False)


def test_no_file_is_left_after_an_error(dataset, tmp_path):
    found = {**result(MASK[..., None], [1], [0.9]), "scores": np.array([np.nan])}
    with pytest.raises(ValueError, match="nan"):
        detect(dataset, found, save=tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("masks", "class_ids", "message"),
    [
        (np.ones((30, 40, 1)), [3], r"load_mask returned class id 3 \(object 0\) for image 0 \(toys.100\)"),
        (np.ones((30, 40, 1)), [0], r"class id 0 \(object 0\)"),
        (np.ones((30, 40, 2)), [1], r"masks of shape \(30, 40, 2\) and 1 class ids"),
        (np.ones((20, 20, 1)), [1], r"masks of \(20, 20\) pixels, image of \(30, 40\)"),
    ],
)
def test_bad_ground_truth_is_named(dataset, masks, class_ids, message):
    dataset.load_mask = lambda image_id: (masks, np.array(class_ids))
    with pytest.raises(ValueError, match=message):
        detect(dataset, result(MASK[..., None], [1], [0.9]))


def test_invalid_settings_are_refused(dataset):
    with pytest.raises(ValueError, match="detection_area is 'ellipse'"):
        evaluate(dataset, [], detection_area="ellipse")
    with pytest.raises(ValueError, match="image_ids has 2; the dataset's images are 0 to 1"):
        evaluate(dataset, [], image_ids=[0, 2])
    only_boxes = [good(segmentation=None)]
    with pytest.raises(ValueError, match='no "segmentation"'):
        evaluate(dataset, only_boxes, detection_area="mask")
    unprepared = type(dataset).__mro__[1]()
    with pytest.raises(ValueError, match="prepare"):
        evaluate(unprepared, [])


def test_a_model_with_other_classes_is_refused(dataset):
    class Config:
        NUM_CLASSES, DETECTION_MIN_CONFIDENCE, BATCH_SIZE = 81, 0.7, 1

    model = FakeModel([])
    model.config = Config()
    with pytest.raises(ValueError, match="81 classes"):
        evaluate_dataset(model, dataset, progress=False)


def test_an_image_from_a_source_without_classes(dataset):
    dataset.add_image("elsewhere", image_id=1, path=None)
    dataset.prepare()
    with pytest.raises(ValueError, match=r"image 2 \(elsewhere\.1\): its source has no class"):
        evaluate(dataset, [])
