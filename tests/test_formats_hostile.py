"""Broken and hostile annotation files: an error that names the file and the entry, in little time and memory."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from formats_kit import H, W, photo
from PIL import Image

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation, coco, labelme, via, voc, yolo
from mrcnn.data.formats.broken import brief, naming

CORNERS = [2, 1, 6, 1, 6, 4, 2, 4]
HUGE = [float("nan"), float("inf"), -float("inf"), 1e300, 1e9, -1e9, 10**400, 11 * max(H, W) + 1]


def write_coco(folder, segmentation=(CORNERS,), **image):
    photo(folder / "a.png")
    images = [{"id": 7, "file_name": "a.png", "height": H, "width": W, **image}]
    annotations = [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def write_via(folder, shape):
    photo(folder / "a.png")
    region = {"shape_attributes": shape, "region_attributes": {}}
    (folder / "a.json").write_text(json.dumps({"a": {"filename": "a.png", "regions": [region]}}))
    return folder / "a.json"


def write_labelme(folder, points, kind="polygon", count=1):
    photo(folder / "a.png")
    shape = {"label": "cat", "points": points, "shape_type": kind, "group_id": 1}
    (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape] * count}))
    return folder / "a.json"


def write_voc(folder, number):
    photo(folder / "a.png")
    box = f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{number}</xmax><ymax>4</ymax></bndbox>"
    text = f"<annotation><filename>a.png</filename><object><name>cat</name>{box}</object></annotation>"
    (folder / "a.xml").write_text(text)
    return folder / "a.xml"


def via_shapes(number):
    """A VIA shape of each kind, with one bad number."""
    yield {"name": "polygon", "all_points_x": [1, 9, number], "all_points_y": [1, 2, 9]}
    yield {"name": "polyline", "all_points_x": [1, 9, 9], "all_points_y": [1, number, 9]}
    yield {"name": "rect", "x": 1, "y": 1, "width": number, "height": 3}
    yield {"name": "circle", "cx": 1, "cy": number, "r": 3}
    yield {"name": "ellipse", "cx": 1, "cy": 2, "rx": number, "ry": 3}
    yield {"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 3, "theta": number}
    yield {"name": "point", "cx": number, "cy": 3}


# ---- Numbers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", HUGE, ids=lambda number: f"{str(number)[:8]}")
def test_a_coordinate_that_is_no_place_near_the_image_is_named_in_every_format(tmp_path, number):
    # NaN, Infinity, 1e300 and 1e9 in a COCO polygon crashed the interpreter, inside pycocotools.
    with pytest.raises(BrokenAnnotation, match=r"a\.json: annotations\[0\].*segmentation: expected numbers within 10"):
        coco.CocoDataset().load_coco_format(write_coco(tmp_path, [CORNERS, [*CORNERS[:-1], number]]))
    for shape in via_shapes(number):
        with pytest.raises(BrokenAnnotation, match=r"a\.json: a, region 0: .*expected numbers within 10 image sizes"):
            via.ViaDataset().load_via(write_via(tmp_path, shape))
    for kind, count in (("polygon", 3), ("rectangle", 2), ("circle", 2), ("line", 2), ("point", 1)):
        with pytest.raises(BrokenAnnotation, match=r"a\.json: shapes\[0\]: points: expected numbers within 10"):
            labelme.LabelmeDataset().load_labelme(write_labelme(tmp_path, [[1, 2], [5, 6], [number, 3]][-count:], kind))
    with pytest.raises(BrokenAnnotation, match=r"a\.xml: object 0 \(cat\): bndbox"):
        voc.VocDataset().load_voc(write_voc(tmp_path, number))
    (tmp_path / "a.txt").write_text(f"0 0.1 0.1 0.5 0.1 0.5 {number}")
    with pytest.raises(BrokenAnnotation, match=r"a\.txt: line 1: coordinates: expected shares"):
        yolo.YoloSegDataset().load_yolo(tmp_path, images_dir=tmp_path)


def test_coordinates_somewhat_outside_of_the_image_are_cut_off(tmp_path):
    far = 5 * W
    dataset = open_dataset(write_coco(tmp_path, [[-far, 0, far, 0, far, far, -far, far]]))
    assert dataset.load_mask(0)[0].all()


@pytest.mark.parametrize(
    "counts", [[H * W + 1], [-1, H * W + 1], [2**40, 3], [5, 5], [True, "5"], "0" * 9, "\x00", [1e9]]
)
def test_run_lengths_that_do_not_fill_the_image_are_named(tmp_path, counts):
    with pytest.raises(BrokenAnnotation, match=r"segmentation\.counts: expected"):
        open_dataset(write_coco(tmp_path, {"size": [H, W], "counts": counts})).load_mask(0)


def test_a_zigzag_whose_drawing_takes_gigabytes_is_named(tmp_path):
    zigzag = [float(value) for i in range(20_000) for value in (-390 if i % 2 else 430, i % H)]
    with pytest.raises(BrokenAnnotation, match=r"segmentation: expected an outline of at most 2000000 pixels, got '16"):
        coco.CocoDataset().load_coco_format(write_coco(tmp_path, [zigzag]))


# ---- Sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(10**6, 10**6), (1, 10**9), (10**400, 1), (float("inf"), 1), (float("nan"), 1)])
def test_a_told_size_that_no_image_has_is_named(tmp_path, size):
    path = write_coco(tmp_path, height=size[0], width=size[1])
    with pytest.raises(BrokenAnnotation, match=r"a\.json: image 7: "):
        open_dataset(path)


def test_more_objects_than_memory_has_room_for_are_named(tmp_path):
    # 64,000 object numbers in one PNG made masks of 15 GB.
    for folder in ("PNGImages/a.png", "PedMasks/a_mask.png"):
        (tmp_path / folder).parent.mkdir()
        numbers = np.arange(300 * 300).reshape(300, 300) % 60_000
        Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / folder)
    dataset = open_dataset(tmp_path)
    with pytest.raises(BrokenAnnotation, match=r"a_mask\.png: the file: objects: expected masks of at most 4294967296"):
        dataset.load_mask(0)


# ---- Errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1" + "1" * 5000 + "]", '"\\ud800"', "\ufeff{"])
def test_json_that_no_parser_takes_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    for load in (coco.CocoDataset().load_coco_format, via.ViaDataset().load_via, labelme.LabelmeDataset().load_labelme):
        with pytest.raises(BrokenAnnotation, match=r"a\.json"):
            load(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json"):
        open_dataset(tmp_path / "a.json")


@pytest.mark.parametrize(
    "break_it",
    [lambda c: c["images"][0].update(file_name="a\0.png"), lambda c: c["annotations"][0].update(image_id=[])],
)
def test_whatever_fails_while_opening_is_a_broken_annotation_and_can_be_skipped(tmp_path, break_it):
    path = write_coco(tmp_path, height=None, width=None)
    content = json.loads(path.read_text())
    break_it(content)
    path.write_text(json.dumps(content))
    with pytest.raises(BrokenAnnotation, match=r"a\.json"):
        coco.CocoDataset().load_coco_format(path)


def test_an_error_of_a_library_while_reading_masks_names_the_image(tmp_path):
    folder = tmp_path / "a"
    photo(folder / "images" / "a.png")
    photo(folder / "masks" / "1.png")
    dataset = open_dataset(tmp_path)
    content = (folder / "masks" / "1.png").read_bytes()
    (folder / "masks" / "1.png").write_bytes(content[:60] + b"\xff" * 40 + content[100:])
    with pytest.raises(BrokenAnnotation, match=r"a\.png|1\.png"):
        dataset.load_mask(0)


def test_errors_that_are_not_the_files_stay_what_they_are(tmp_path):
    for error in (MemoryError(), NameError("x"), UserWarning("x"), FileNotFoundError("a.json is missing")):
        with pytest.raises(type(error)), naming("a.json"):
            raise error
    with pytest.raises(ValueError, match="two arguments") as caught, naming("a.json"):
        raise ValueError("a.json: two arguments exclude each other")
    assert not isinstance(caught.value, BrokenAnnotation)
    with pytest.raises(KeyboardInterrupt), naming("a.json"):
        raise KeyboardInterrupt
    message = r"a\.json: image 3: content: .*ZeroDivisionError"
    with pytest.raises(BrokenAnnotation, match=message) as caught, naming("a.json", "image 3"):
        raise ZeroDivisionError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_errors_of_a_users_own_load_mask_stay_what_they_are(tmp_path):
    class Own(coco.CocoDataset):
        def load_mask(self, image_id):
            return super().load_mask(image_id)[0].no_such_attribute

    dataset = Own()
    dataset.load_coco_format(write_coco(tmp_path))
    dataset.prepare()
    with pytest.raises(AttributeError, match="no_such_attribute"):
        dataset.load_mask(0)


def test_an_unprepared_dataset_is_no_broken_file(tmp_path):
    dataset = coco.CocoDataset()
    dataset.load_coco_format(write_coco(tmp_path))
    with pytest.raises(AttributeError, match="class_from_source_map"):
        dataset.load_mask(0)


def test_a_message_shows_the_beginning_of_a_value_of_any_size():
    bomb = ["lol"]
    for _ in range(40):
        bomb = [bomb] * 10  # its repr has 10^40 characters
    deep = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    for value in (bomb, deep, {"a": bomb}, "x" * 10**7, 10**5000, [10**5000], {i: i for i in range(10**5)}):
        assert len(brief(value)) <= 80
    for value in (None, 3, "cat", [1, "a"], {"a": (1,), "b": {}}, (1, 2), b"x", 1.5, True):
        assert brief(value) == repr(value)
