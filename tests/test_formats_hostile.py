"""Broken and hostile annotation files: an error that names the file and the entry, in little time and memory."""

from __future__ import annotations

import json
import re
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from formats_kit import H, W, photo
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn.data import image_reading, open_dataset, open_splits
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import BrokenAnnotation, coco, labelme, limits, m2nist, rasterize, via, voc, yolo
from mrcnn.data.formats.broken import brief, naming
from mrcnn.ops.rle import to_rle

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
def test_coordinates_far_outside_the_image_are_named_in_every_format(tmp_path, number):
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


def test_coordinates_slightly_outside_the_image_are_clipped(tmp_path):
    far = 5 * W
    dataset = open_dataset(write_coco(tmp_path, [[-far, 0, far, 0, far, far, -far, far]]))
    assert dataset.load_mask(0)[0].all()


@pytest.mark.parametrize(
    "counts", [[H * W + 1], [-1, H * W + 1], [2**40, 3], [5, 5], [True, "5"], "0" * 9, "\x00", [1e9]]
)
def test_run_lengths_of_the_wrong_total_are_named(tmp_path, counts):
    with pytest.raises(BrokenAnnotation, match=r"segmentation\.counts: expected"):
        open_dataset(write_coco(tmp_path, {"size": [H, W], "counts": counts})).load_mask(0)


def test_a_polygon_that_would_take_gigabytes_is_named(tmp_path):
    zigzag = [float(value) for i in range(20_000) for value in (-390 if i % 2 else 430, i % H)]
    with pytest.raises(BrokenAnnotation, match=r"segmentation: expected an outline of at most 2000000 pixels, got '16"):
        coco.CocoDataset().load_coco_format(write_coco(tmp_path, [zigzag]))


# ---- Sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(10**6, 10**6), (1, 10**9), (10**400, 1), (float("inf"), 1), (float("nan"), 1)])
def test_an_impossible_image_size_is_named(tmp_path, size):
    path = write_coco(tmp_path, height=size[0], width=size[1])
    with pytest.raises(BrokenAnnotation, match=r"a\.json: image 7: "):
        open_dataset(path)


def test_more_objects_than_fit_in_memory_are_named(tmp_path):
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
def test_invalid_json_is_named(tmp_path, text):
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
def test_every_error_while_opening_is_a_broken_annotation(tmp_path, break_it):
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


def test_errors_not_caused_by_the_file_are_not_converted(tmp_path):
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


def test_errors_of_a_custom_load_mask_are_not_converted(tmp_path):
    class Own(coco.CocoDataset):
        def load_mask(self, image_id):
            return super().load_mask(image_id)[0].no_such_attribute

    dataset = Own()
    dataset.load_coco_format(write_coco(tmp_path))
    dataset.prepare()
    with pytest.raises(AttributeError, match="no_such_attribute"):
        dataset.load_mask(0)


def test_an_unprepared_dataset_is_not_a_broken_annotation(tmp_path):
    dataset = coco.CocoDataset()
    dataset.load_coco_format(write_coco(tmp_path))
    with pytest.raises(AttributeError, match="class_from_source_map"):
        dataset.load_mask(0)


def test_long_values_are_shortened_in_messages():
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


# ---- Time ------------------------------------------------------------------------------------------------------------
def seconds(call, *args):
    start = time.process_time()
    call(*args)
    return time.process_time() - start


def test_a_yaml_bomb_is_refused(tmp_path):
    # A list of lists of lists, each ten times: its repr, cut to 80 characters for the message, took 60 s to make.
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "train: *a29", "names: *a29"]))
    with pytest.raises(BrokenAnnotation, match=r"data\.yaml: the file: names: expected a list of names"):
        yolo.YoloSegDataset().load_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [" + "x, " * 200_000 + "]")
    with pytest.raises(BrokenAnnotation, match=r"data\.yaml: the file: size: expected at most 262144 bytes"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("text", ["[" * 1500, "a: " * 3000, "&a [*a]", "? [a]: b", "\0"])
def test_a_broken_yaml_is_named(tmp_path, text):
    (tmp_path / "data.yaml").write_text(f"names: {text}")
    with pytest.raises(BrokenAnnotation, match=r"data\.yaml"):
        open_dataset(tmp_path)
    with pytest.raises(BrokenAnnotation, match=r"data\.yaml"):
        open_splits(tmp_path)


def test_polygons_with_many_bridges_take_linear_time():
    def comb(count):  # squares in a row, each reached from the one before and left at the end
        there = [[(3 * i, 0), (3 * i + 2, 0), (3 * i + 2, 2), (3 * i, 2), (3 * i, 0)] for i in range(count)]
        return np.array(
            [*(point for square in there for point in square), *((3 * i, 0) for i in range(count)[::-1])], float
        )

    assert len(yolo.split_at_bridges(comb(300))) == 300
    assert seconds(yolo.split_at_bridges, comb(5_000)) < 3  # it took minutes, or a RecursionError


def test_a_bridge_of_several_edges_is_removed_completely():
    polygon = [(0, 0), (8, 0), (9, 0), (9, 5), (12, 5), (12, 9), (9, 9), (9, 5), (9, 0), (8, 0), (8, 8), (0, 8)]
    rings = yolo.split_at_bridges(np.array(polygon, float))
    assert sorted(map(len, rings)) == [4, 5]
    mask = rasterize.rings(12, 16, [(ring[:, 1], ring[:, 0]) for ring in rings])
    assert not mask[1:5, 9].any() and mask[5:10, 9].all() and mask[:9, :9].all()


def write_m2nist(folder, labels, lines=None):
    np.save(folder / "combined.npy", np.zeros(labels.shape[:3], np.uint8))
    np.save(folder / "segmented.npy", labels)
    if lines is not None:
        (folder / "bbox.txt").write_text("\n".join(lines))
    return folder


def test_m2nist_with_thousands_of_parts_or_boxes_is_named(tmp_path):
    # RecursionError, after a time that grew with the cube of the number of parts.
    labels = np.full((1, 64, 84), 10, np.uint8)
    labels[:, ::2, ::2] = 3
    with pytest.raises(BrokenAnnotation, match=r"combined\.npy: image 0: digit 3: expected at most 256 boxes or parts"):
        open_dataset(write_m2nist(tmp_path, labels)).load_mask(0)
    for box in ("1,1,9,9,3", f"1,1,{10**30},9,3", f"1,1,{10**12},9,3"):
        with pytest.raises(BrokenAnnotation, match=r"bbox\.txt: image 0: boxes|combined\.npy: image 0: digit 3"):
            open_dataset(write_m2nist(tmp_path, labels, ["0" + f"\t{box}" * 2000])).load_mask(0)


def test_m2nist_joins_many_boxes_like_a_few():
    boxes = np.array([[10 * i, 0, 10 * i + 8, 9] for i in range(200)])
    assert m2nist.join_boxes(boxes, 20).tolist() == [[20 * i, 0, 20 * i + 18, 9] for i in range(100)]


@pytest.mark.parametrize("shape", [(10**9, 64, 84), (10**9, 0, 84), (-1, 64, 84), (2, 10**5, 10**5), (0, 64, 84)])
def test_an_array_file_whose_header_promises_too_much_is_named(tmp_path, shape):
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    for name in ("combined.npy", "segmented.npy"):
        with open(tmp_path / name, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(b"\0" * 1000)
    with pytest.raises(BrokenAnnotation, match=r"combined\.npy: "):
        open_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "method", "encrypted", "bytes"])
def test_a_damaged_zip_is_named(tmp_path, damage):
    write_m2nist(tmp_path, np.full((1, 64, 84), 10, np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("combined.npy", "segmented.npy"):
            archive.write(tmp_path / name, name)
            (tmp_path / name).unlink()
    content = bytearray((tmp_path / "a.zip").read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 8] |= damage == "encrypted"
    content[entry + 10] = content[8] = 99 if damage == "method" else 8
    if damage == "bytes":
        content[45:60] = b"\xff" * 15
    (tmp_path / "a.zip").write_bytes(content[: -30 if damage == "cut" else None])
    with pytest.raises(ValueError, match=r"a\.zip"):
        open_dataset(tmp_path / "a.zip")


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path):
    write_m2nist(tmp_path, np.full((1, 64, 84), 10, np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("combined.npy", "segmented.npy"):
            archive.write(tmp_path / name, name)
        archive.writestr("bbox.txt", "0\n")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 20 : entry + 28] = b"\xf0\xff\xff\xff" * 2  # its sizes, compressed and not
    (tmp_path / "a.zip").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BrokenAnnotation, match=r"a\.zip"):
        open_dataset(tmp_path / "a.zip")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_labelme_objects_of_many_shapes_are_fast_or_refused(tmp_path):
    def grid(count):
        return [[[i % 5 * 8, i // 5 % 4 * 7], [i % 5 * 8 + 3, i // 5 % 4 * 7 + 3]] for i in range(count)]

    path = write_labelme(tmp_path, grid(1)[0], "rectangle", count=800)
    content = json.loads(path.read_text())
    for shape, points in zip(content["shapes"], grid(800)):
        shape["points"] = points
    path.write_text(json.dumps(content))
    dataset = open_dataset(path)
    assert seconds(dataset.load_mask, 0) < 3
    assert dataset.load_mask(0)[0].sum() == 20 * 16
    content["shapes"] = [shape | {"points": [[1, 1], [9 - i % 2 * 2, 5]]} for i in range(2000)]  # 1,000 times two
    path.write_text(json.dumps(content))
    dataset = open_dataset(path)
    assert seconds(dataset.load_mask, 0) < 3  # 1,000,000 comparisons would take ten
    assert dataset.load_mask(0)[0].sum() == 2 * 5  # both corners belong to a rectangle
    dataset = open_dataset(write_labelme(tmp_path, grid(1)[0], "rectangle", count=5001))
    with pytest.raises(BrokenAnnotation, match=r"a\.png: image a: content: .*5001 shapes; expected at most 5000"):
        dataset.load_mask(0)


def test_coco_objects_of_many_polygons_take_linear_time():
    parts = [[x, y, x + 1, y, x + 1, y + 1, x, y + 1] for x in range(0, 400, 2) for y in range(0, 400, 2)]  # 40,000
    start = time.process_time()
    drawn = to_rle(parts, 400, 400)
    assert time.process_time() - start < 3  # 0.15 s; 6 s when all were merged at once
    mask = coco_mask.decode(drawn)
    assert mask[::2, ::2].all() and mask.sum() == 200 * 200


def test_the_rasteriser_refuses_polygons_that_would_overflow():
    for xs in ([1, 5, float("nan")], [1, 5, float("inf")], [1, 5, 1e9]):
        for draw in (rasterize.polygon, rasterize.line):
            with pytest.raises(ValueError, match="further away than 440 pixels, or no number"):
                draw(H, W, [1, 2, 3], xs)
    with pytest.raises(ValueError, match="expected 2000000 or less"):
        rasterize.polygon(H, W, [0, 29] * 10_000, [-400, 400] * 10_000)


def test_too_many_classes_are_refused(tmp_path):
    # Registering takes a time quadratic in the number of classes.
    for count, refused in ((100_000, True), (2_000, False)):
        path = write_coco(tmp_path)
        content = json.loads(path.read_text())
        content["categories"] = [{"id": i, "name": f"c{i}"} for i in range(count)]
        path.write_text(json.dumps(content))
        if refused:
            with pytest.raises(BrokenAnnotation, match="classes: expected at most 10000, got 100000"):
                open_dataset(path)
        else:
            assert seconds(open_dataset, path) < 3


@pytest.mark.parametrize("number", ["1e12", "10000", "-1", "0.5", "nan", "1e999"])
def test_a_huge_yolo_class_number_is_refused(tmp_path, number):
    photo(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"{number} 0.5 0.5 0.1 0.1")
    with pytest.raises(BrokenAnnotation, match=r"a\.txt: line 1: class: expected a whole number of 0 to 10000"):
        yolo.YoloSegDataset().load_yolo(tmp_path, images_dir=tmp_path)


# ---- Paths -----------------------------------------------------------------------------------------------------------
def write_naming(folder, form, name):
    """A dataset of a format whose annotations name this image file. Returns what opens it."""
    shape = {"name": "point", "cx": 3, "cy": 3}
    corner = {"label": "cat", "points": [[3, 3]], "shape_type": "point"}
    if form == "yolo":
        folder.mkdir()
        (folder / "data.yaml").write_text("train: list.txt\nnames: [cat]")
        (folder / "list.txt").write_text(name)
        return lambda **kwargs: open_dataset(folder, **kwargs)
    if form == "coco":
        path = write_coco(folder, file_name=name)
    elif form == "via":
        path = write_via(folder, shape)
        path.write_text(path.read_text().replace('"a.png"', json.dumps(name)))
    elif form == "labelme":
        path = folder / "b.json"
        write_labelme(folder, [[3, 3]]).unlink()
        path.write_text(json.dumps({"imagePath": name, "shapes": [corner]}))
    (folder / "a.png").unlink()
    return {
        "coco": lambda **kwargs: load(coco.CocoDataset().load_coco_format, path, **kwargs),
        "via": lambda **kwargs: load(via.ViaDataset().load_via, path, **kwargs),
        "labelme": lambda **kwargs: load(labelme.LabelmeDataset().load_labelme, path, **kwargs),
    }[form]


def load(loader, path, **kwargs):
    loader(path, **kwargs)
    loader.__self__.prepare()
    return loader.__self__


FORMS = pytest.mark.parametrize("form", ["coco", "via", "labelme", "yolo"])


@FORMS
@pytest.mark.parametrize("absolute", [True, False])
def test_images_outside_the_dataset_need_an_allowed_folder(tmp_path, form, absolute):
    secret = photo(tmp_path / "private" / "secret.png")
    name = str(secret) if absolute else "../private/secret.png"
    opened = write_naming(tmp_path / "set", form, name)
    with pytest.raises(
        BrokenAnnotation, match=r"expected a file inside .*secret\.png is meant.* root=.*private'"
    ) as caught:
        opened()
    assert str(tmp_path / "set") in str(caught.value)
    dataset = opened(root=tmp_path / "private")
    assert dataset.load_image(0).shape == (H, W, 3) and dataset.image_info[0]["path"] == str(secret)
    with pytest.raises(BrokenAnnotation):  # what one call allows, the next doesn't
        opened()


@FORMS
def test_relative_paths_inside_the_dataset_are_followed(tmp_path, form):
    opened = write_naming(tmp_path / "set", form, "x/../photos/a.png")
    photo(tmp_path / "set" / "photos" / "a.png")
    (tmp_path / "set" / "x").mkdir()
    assert opened().load_image(0).shape == (H, W, 3)


def test_the_parent_of_the_annotations_folder_is_part_of_the_dataset(tmp_path):
    photo(tmp_path / "set" / "images" / "a.png")
    opened = write_naming(tmp_path / "set" / "labels", "labelme", "../images/a.png")
    assert opened().load_image(0).shape == (H, W, 3)


def test_coco_file_names_outside_are_refused_without_reading_images(tmp_path):
    path = write_coco(tmp_path / "set", file_name="../../etc/hostname")
    with pytest.raises(BrokenAnnotation, match=r"image 7: file_name: expected a file inside"):
        coco.CocoDataset().load_coco_format(path, check_images=False)


def test_voc_image_lists_cannot_name_files_outside_the_dataset(tmp_path):
    for folder in ("set/Annotations", "set/ImageSets/Main", "other"):
        (tmp_path / folder).mkdir(parents=True)
    write_voc(tmp_path / "other", 6)
    (tmp_path / "set" / "ImageSets" / "Main" / "train.txt").write_text("../../other/a")
    with pytest.raises(BrokenAnnotation, match=r"set: \.\./\.\./other/a: image: expected a file inside"):
        voc.VocDataset().load_voc(tmp_path / "set", subset="train")


@pytest.mark.parametrize("form", ["coco", "via"])
def test_a_url_needs_allowed_downloads(tmp_path, form):
    opened = write_naming(tmp_path / "set", form, "http://127.0.0.1:9/a.png")
    with pytest.raises(BrokenAnnotation, match=r"expected a file; download=True fetches URLs, got 'http://127"):
        opened()
    if form == "coco":  # VIA files don't tell the image's size
        assert opened(download=True).download
    assert not coco.CocoDataset().download


def test_a_custom_dataset_may_name_any_file(tmp_path):
    dataset = Dataset()
    dataset.add_image("own", 1, path=tmp_path / "set" / ".." / "a.png")
    photo(tmp_path / "a.png")
    (tmp_path / "set").mkdir()
    assert dataset.load_image(0).shape == (H, W, 3)


# ---- Documentation ---------------------------------------------------------------------------------------------------
def test_the_documentation_lists_all_limits_and_their_values():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(?:image_reading\.)?([A-Z_]+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE))
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "Mi": 1 << 20, "KiB": 1 << 10}
    documented = {}
    for name, value in rows.items():
        number, _, unit = value.replace(",", "").partition(" ")
        documented[name] = int(number) * units.get(unit, 1)
    found = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert documented == {**found, "MAX_PIXELS": image_reading.MAX_PIXELS}
