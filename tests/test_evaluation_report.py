"""The report object, its HTML file and figures, and the comparison of two reports."""

from __future__ import annotations

import base64
import html
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from evaluate_kit import AnnotationSet, FakeModel, MaskSet, made_up_detections, made_up_truth, rectangle, result

from mrcnn.evaluation import compare, evaluate_dataset, evaluate_predictions


@pytest.fixture(scope="module")
def truth():
    return made_up_truth(np.random.default_rng(7), images=12)


def make_report(truth, seed, **keywords):
    results = made_up_detections(truth, np.random.default_rng(seed), per_truth=3)
    return evaluate_predictions(AnnotationSet(truth), results, progress=False, **keywords)


@pytest.fixture(scope="module")
def report(truth):
    return make_report(truth, 1)


@pytest.fixture(scope="module")
def nothing():
    dataset = MaskSet([(np.zeros((20, 20, 0), bool), np.zeros(0, int))])
    return evaluate_dataset(FakeModel([result(np.zeros((20, 20, 0)), [], [])]), dataset, progress=False)


def test_an_empty_report_can_be_printed_drawn_and_saved(nothing, tmp_path):
    assert "0 true instances, 0 detections" in str(nothing) and "–" in str(nothing)
    json.dumps(nothing.to_dict(), allow_nan=False)
    for what in ("overview", "curves", "classes", "confusion", "errors", "calibration", "cuts"):
        nothing.plot(what).savefig(tmp_path / f"{what}.png")
    assert nothing.report(tmp_path / "out.html").stat().st_size > 1000
    assert nothing.to_coco_json() == []
    nothing.to_coco_json(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert nothing.intervals["mask_ap"] == (-1.0, -1.0)
    assert nothing.image_scores.tolist() == [1.0]
    assert nothing.semantic().pixel_accuracy == 1.0


def test_numbers_are_attributes_and_in_the_dict(report):
    assert report.mask_ap == report.numbers["mask_ap"] == report.to_dict()["mask_ap"]
    low, high = report.intervals["mask_ap"]
    assert 0 <= low <= report.mask_ap <= high <= 1
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_table_holds_the_numbers(report):
    text = str(report)
    assert f"{report.mask_ap:.3f}" in text and f"{report.boundary_ap:.3f}" in text
    assert all(row["name"] in text for row in report.per_class)
    assert max(len(line) for line in text.splitlines()) <= 110


def test_curves(report):
    mean = report.curve()
    assert mean["precision"].mean() == pytest.approx(report.mask_ap)
    one = report.curve(class_id=1, iou=0.5, kind="box")
    assert one["precision"].mean() == pytest.approx(report.per_class[0]["box_ap50"])
    reached = one["score"][one["precision"] > 0]
    assert (np.diff(reached) <= 0).all() and reached.min() > 0
    with pytest.raises(ValueError, match=r"0\.52"):
        report.curve(iou=0.52)


def test_figures(report, tmp_path):
    for what in ("overview", "curves", "classes", "confusion", "errors", "calibration", "cuts"):
        figure = report.plot(what)
        figure.savefig(tmp_path / f"{what}.png")
        assert figure.axes
    with pytest.raises(ValueError, match="curves"):
        report.plot("pie")


def test_the_html_report_is_self_contained(report, tmp_path):
    page = report.report(tmp_path / "deep" / "out.html", images=2)
    text = page.read_text()
    assert [p.name for p in page.parent.iterdir()] == ["out.html"]
    assert f"{report.mask_ap:.3f}" in text
    assert not re.search(r"(src|href)=['\"](?!data:)", text)  # nothing is loaded from elsewhere
    assert "Worst" in text and "Best" in text and "Most confident errors" in text
    assert text.count("data:image/svg+xml") == 6
    assert 2 <= text.count("data:image/jpeg") <= 6


def test_names_in_the_html_report_are_escaped(tmp_path):
    dataset = MaskSet([(rectangle(20, 20, (0, 0, 9, 9))[..., None], np.array([1]))], classes=("<b>bold</b>",))
    found = result(rectangle(20, 20, (0, 0, 9, 9))[..., None], [1], [0.9])
    report = evaluate_dataset(FakeModel([found]), dataset, progress=False)
    text = report.report(tmp_path / "out.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in text and "<b>bold</b>" not in text


def test_unprintable_names_are_drawn_and_written(tmp_path):
    name = "$\\frac$ \ud800 \x0b <i>"
    mask = rectangle(20, 20, (0, 0, 9, 9))[..., None]
    dataset = MaskSet([(mask, np.array([1]))], classes=(name,))
    report = evaluate_dataset(FakeModel([result(mask, [1], [0.9])]), dataset, progress=False)
    report.dataset.image_info[0]["id"] = "\ud800.jpg"
    text = report.report(tmp_path / "out.html").read_text(encoding="utf-8")
    assert "$\\frac$ \ufffd \ufffd &lt;i&gt;" in text
    for figure in re.findall(r"data:image/svg\+xml;base64,([^'\"]+)", text):
        ElementTree.fromstring(base64.b64decode(figure))
    str(report).encode()
    str(compare(report, report)).encode()


def test_an_unreadable_image_is_drawn_gray_with_a_note(truth, tmp_path):
    report = make_report(truth, 2)

    def load_image(image_id):
        raise FileNotFoundError("gone.jpg")

    report.dataset.load_image = load_image
    text = report.report(tmp_path / "out.html", images=1).read_text()
    assert "can't be read: gone.jpg" in html.unescape(text)


def test_image_scores_by_hand():
    square, disc = rectangle(40, 40, (0, 0, 20, 20)), rectangle(40, 40, (20, 20, 40, 40))
    images = [(np.stack([square, disc], -1), np.array([1, 2])), (square[..., None], np.array([1]))]
    found = [result(square[..., None], [1], [0.9]), result(square[..., None], [1], [0.9])]
    report = evaluate_dataset(FakeModel(found), MaskSet(images), progress=False)
    np.testing.assert_allclose(report.image_scores, [2 / 3, 1])


def test_semantic_view_of_a_dataset():
    square = rectangle(10, 10, (0, 0, 10, 5))
    report = evaluate_dataset(
        FakeModel([result(rectangle(10, 10, (0, 0, 10, 4))[..., None], [1], [0.9])]),
        MaskSet([(square[..., None], np.array([1]))]),
        progress=False,
    )
    view = report.semantic()
    np.testing.assert_allclose(view.iou, [50 / 60, 40 / 50, -1])
    assert view.pixel_accuracy == pytest.approx(0.9)
    assert report.semantic(0.95).iou[1] == 0
    assert report.to_dict()["semantic"]["0.5"]["miou"] == view.miou


def test_boxes_only(truth):
    results = made_up_detections(truth, np.random.default_rng(1))
    for entry in results:
        del entry["segmentation"]
    report = evaluate_predictions(AnnotationSet(truth), results, progress=False)
    assert report.kinds == ["box"] and report.main == "box" and "boxes" in report.notes[0]
    assert not hasattr(report, "mask_ap")
    assert "box" in str(report)
    with pytest.raises(ValueError, match="masks"):
        report.semantic()


# ---- Two models ------------------------------------------------------------------------------------------------
def test_a_model_compared_with_itself(report):
    same = compare(report, report)
    assert all(d.difference == d.low == d.high == 0 and not d.certain for d in same.differences.values())
    assert all(image["difference"] == 0 for image in same.images)
    json.dumps(same.to_dict(), allow_nan=False)


def test_a_better_model_is_certainly_better(truth):
    good = made_up_detections(truth, np.random.default_rng(3), per_truth=1, noise=0)
    exact = []
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"]:
            keys = ("image_id", "category_id", "bbox", "segmentation")
            exact.append({**{k: annotation[k] for k in keys}, "score": 0.9})
    dataset = AnnotationSet(truth)
    worse, better = (evaluate_predictions(dataset, results, progress=False) for results in (good, exact))
    comparison = compare(worse, better, ("old", "new"))
    ap = comparison.differences["mask_ap"]
    assert ap.difference == pytest.approx(better.mask_ap - worse.mask_ap)
    assert ap.certain and ap.low > 0 and ap.b_better == 1
    text = str(comparison)
    assert "old" in text and "new" in text and "mask_ap " in text
    changes = [abs(image["difference"]) for image in comparison.images]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    first = comparison.images[0]
    position = worse.image_ids.index(first["image_id"])
    assert first["difference"] == pytest.approx(better.image_scores[position] - worse.image_scores[position])


def test_reports_on_different_images_are_not_compared(truth, report):
    with pytest.raises(ValueError, match="12 and 11 images"):
        compare(report, make_report({**truth, "images": truth["images"][1:], "annotations": []}, 1))
    fewer = {**truth, "annotations": truth["annotations"][1:]}
    with pytest.raises(ValueError, match="different true instances"):
        compare(report, make_report(fewer, 1))
    renamed = [{**c, "name": "x" + c["name"]} for c in truth["categories"]]
    with pytest.raises(ValueError, match="classes differ"):
        compare(report, make_report({**truth, "categories": renamed}, 1))
