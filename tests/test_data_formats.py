"""VIA and COCO files: all variants, drawn as in the tools that write them; errors name the place in the file."""

from __future__ import annotations

import copy
import json
import pickle

import cv2
import numpy as np
import pytest
import skimage.draw
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mrcnn.data.formats import BrokenAnnotation, rasterize, read_json
from mrcnn.data.formats.coco import CocoDataset
from mrcnn.data.formats.via import ViaDataset

H, W = 30, 40


@pytest.fixture
def folder(tmp_path):
    """With two images of 30 x 40 pixels, a.png and b.png."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((H, W, 3), np.uint8))
    return tmp_path


def write(folder, content, name="x.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- Drawing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("whole", [True, False])
def test_polygons_match_scikit_image(whole):
    rng = np.random.default_rng(0)
    for _ in range(150):
        ys, xs = (rng.uniform(-8, 38, rng.integers(1, 9)) for _ in range(2))
        count = min(len(ys), len(xs))
        ys, xs = (np.around(v[:count]) if whole else v[:count] for v in (ys, xs))
        expected = np.zeros((25, 35), bool)
        expected[skimage.draw.polygon(ys, xs, (25, 35))] = True
        if count > 2:
            np.testing.assert_array_equal(rasterize.polygon(25, 35, ys, xs), expected)


def test_polygons_that_cross_themselves_or_lie_outside():
    bow = rasterize.polygon(11, 11, [0, 10, 0, 10], [0, 10, 10, 0])
    assert bow[5, 5] and bow[:, 0].all() and bow[:, 10].all() and not bow[0, 5] and not bow[10, 5]
    assert not rasterize.polygon(10, 10, [20, 30, 30], [20, 20, 30]).any()
    assert not rasterize.polygon(10, 10, [], []).any()


def test_hand_computed_shapes():
    assert np.argwhere(rasterize.point(5, 5, 1, 2)).tolist() == [[1, 2]]
    assert np.argwhere(rasterize.rectangle(5, 5, 1, 2, 2, 1)).tolist() == [[1, 2], [2, 2]]
    assert not rasterize.rectangle(5, 5, -4, -4, 2, 2).any()
    y, x = np.mgrid[:60, :80]
    circle = rasterize.ellipse(60, 80, 30, 40, 20, 20)
    assert (circle ^ ((y - 30) ** 2 + (x - 40) ** 2 <= 400)).sum() <= 20
    lying, standing = rasterize.ellipse(60, 80, 30, 40, 5, 20), rasterize.ellipse(60, 80, 30, 40, 5, 20, np.pi / 2)
    assert lying.any(axis=0).sum() == standing.any(axis=1).sum() == 41
    assert rasterize.ellipse(60, 80, 30, 40, 5, 20, np.pi / 4)[42, 52]  # clockwise, as y points down


# ---- VIA -------------------------------------------------------------------------------------------------------------
SQUARE = {"name": "polygon", "all_points_y": [2, 2, 8, 8], "all_points_x": [3, 9, 9, 3]}
SHAPES = [
    SQUARE,
    dict(SQUARE, name="polyline"),
    {"name": "rect", "y": 1, "x": 2, "height": 5, "width": 7},
    {"name": "circle", "cy": 10, "cx": 11, "r": 4},
    {"name": "ellipse", "cy": 10, "cx": 11, "ry": 4, "rx": 6, "theta": 0.5},
    {"name": "point", "cy": 5, "cx": 6},
]


def region(shape=SQUARE, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(*regions, filename="a.png"):
    return {"filename": filename, "size": 1, "regions": list(regions), "file_attributes": {}}


def load_via(folder, content, **kwargs):
    dataset = ViaDataset()
    dataset.load_via(write(folder, content), **kwargs)
    dataset.prepare()
    return dataset


def as_version_1(e):
    return dict(e, regions={str(i): r for i, r in enumerate(e["regions"])})


@pytest.mark.parametrize("form", ["1.x", "2.x", "project", "list"])
def test_via_file_layouts(folder, form):
    entries = [entry(region(), region(SHAPES[3])), entry(filename="b.png")]
    named = {f"{e['filename']}123": e for e in entries}
    content = {
        "1.x": {name: as_version_1(e) for name, e in named.items()},
        "2.x": named,
        "project": {"_via_settings": {}, "_via_img_metadata": named, "_via_attributes": {"region": {}, "file": {}}},
        "list": entries,
    }[form]
    dataset = load_via(folder, content, source="toys", class_name="ball")
    assert dataset.class_names == ["BG", "ball"] and dataset.num_images == 2
    assert dataset.image_info[0]["id"] == "a.png" and dataset.load_image(0).shape == (H, W, 3)
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (H, W, 2) and masks.dtype == bool and class_ids.tolist() == [1, 1]
    assert np.argwhere(masks[..., 0]).min(axis=0).tolist() == [2, 3] and masks[..., 0].sum() == 49
    masks, class_ids = dataset.load_mask(1)
    assert masks.shape == (H, W, 0) and len(class_ids) == 0


def test_via_all_shapes(folder):
    dataset = load_via(folder, [entry(*(region(shape) for shape in SHAPES))])
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape[-1] == 6 and dataset.class_names == ["BG", "object"]
    areas = masks.sum(axis=(0, 1))
    assert areas[:3].tolist() == [49, 49, 35] and areas[5] == 1
    np.testing.assert_allclose(areas[3:5], [np.pi * 16, np.pi * 24], rtol=0.1)
    assert np.argwhere(masks[..., 2]).min(axis=0).tolist() == [1, 2]


def test_via_classes_by_an_attribute(folder):
    regions = [region(kind="dog"), region(kind={"cat": True, "dog": False}), region(kind="dog")]
    dataset = load_via(folder, [entry(*regions)])  # the only attribute there is
    assert dataset.class_names == ["BG", "cat", "dog"] and dataset.load_mask(0)[1].tolist() == [2, 1, 2]
    dataset = load_via(folder, [entry(*regions)], classes=["dog", "bird", "cat"])
    assert dataset.class_names == ["BG", "dog", "bird", "cat"] and dataset.load_mask(0)[1].tolist() == [1, 3, 1]
    options = {"kind": {"type": "radio", "options": {"owl": "", "dog": "", "cat": ""}}}
    project = {"_via_img_metadata": {"a": entry(*regions)}, "_via_attributes": {"region": options}}
    assert load_via(folder, project).class_names == ["BG", "owl", "dog", "cat"]

    both = [entry(region(kind="dog", age="old"))]
    with pytest.raises(BrokenAnnotation, match=r"region_attributes: .*'kind'.*open_dataset\(path, attribute='age'\)"):
        load_via(folder, both)
    assert load_via(folder, both, attribute="age").class_names == ["BG", "old"]
    assert load_via(folder, both, class_name="pet").class_names == ["BG", "pet"]


def test_via_folder_and_images_elsewhere(folder, tmp_path_factory):
    dataset = ViaDataset()
    with pytest.raises(FileNotFoundError, match="no JSON file"):
        dataset.load_via(folder)
    write(folder, [entry(region())], "only.json")
    dataset.load_via(folder)
    write(folder, [entry(), entry(filename="b.png")], "via_region_data.json")
    dataset.load_via(folder, source="second")
    dataset.prepare()
    assert dataset.num_images == 3
    other = tmp_path_factory.mktemp("other")
    write(other, [entry(region())])
    dataset.load_via(other / "x.json", images_dir=folder, source="third")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x.json: line 1, column 2: text: expected JSON"),
        ("5", "the file: content: expected an object or a list of image entries, got 5"),
        ([7], "entry 0: entry: expected an object .*got 7"),
        ([{"regions": []}], "entry 0: filename: expected the image's file name, got 'nothing'"),
        ([entry(filename="c.png")], "entry 0: image file: expected to find .*c.png, got 'nothing there'"),
        ([entry(filename="x.json")], "entry 0: image file: expected .*x.json to be an image"),
        ([{"filename": "a.png", "regions": 3}], "entry 0: regions: expected an object or a list"),
        ([entry(3)], "entry 0, region 0: region: expected an object, got 3"),
        ([entry({"region_attributes": {}})], "region 0: shape_attributes: expected an object, got 'nothing'"),
        ([entry(region(), region({"name": "star"}))], "region 1: shape_attributes.name: expected one of .*got 'star'"),
        ([entry(region({"name": "circle", "cy": 1, "cx": 2}))], "region 0: r: expected a number, got 'nothing'"),
        ([entry(region(dict(SQUARE, all_points_x=[1, 2])))], "all_points_y: expected 2 numbers, as many"),
        ([entry(region(dict(SQUARE, all_points_y=[1, 2, "3", 4])))], "all_points_y: expected numbers, got '3'"),
        ([entry(region(kind="dog"), region())], "region 1: region_attributes.kind: expected one of dog, got 'nothing'"),
        ({"project": {}, "view": {}, "file": {}}, "expected a VIA 1.x or 2.x file, got 'a VIA 3 project'"),
    ],
)
def test_via_errors_name_file_and_entry(folder, content, message):
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        load_via(folder, content)
    assert str(folder / "x.json") in str(caught.value)


def test_broken_images_can_be_skipped_with_a_warning(folder):
    content = [entry(region()), entry(region({"name": "star"}), filename="b.png")]
    with pytest.warns(UserWarning, match=r"1 images are left out.*\n.*star"):
        assert load_via(folder, content, skip_broken=True).num_images == 1


def test_balloons(shared):
    """The real set: all its objects, drawn as scikit-image draws them."""
    for subset, images, objects in (("train", 61, 255), ("val", 13, 50)):
        dataset = ViaDataset()
        dataset.load_via(shared / "data" / "balloon" / subset, source="balloon", class_name="balloon")
        dataset.prepare()
        assert dataset.num_images == images
        assert sum(len(info["shapes"]) for info in dataset.image_info) == objects
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape[:2] == dataset.load_image(0).shape[:2] and (class_ids == 1).all()
    for i, (shape, _) in enumerate(dataset.image_info[0]["shapes"]):
        expected = np.zeros(masks.shape[:2], bool)
        expected[skimage.draw.polygon(shape["all_points_y"], shape["all_points_x"], expected.shape)] = True
        np.testing.assert_array_equal(masks[..., i], expected)


# ---- COCO ------------------------------------------------------------------------------------------------------------
POLYGON = [[3, 2, 9, 2, 9, 8, 3, 8]]
HOLE = np.zeros((H, W), np.uint8)
HOLE[4:20, 5:25] = 1
HOLE[8:12, 10:15] = 0


def run_lengths(mask):
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


def compressed(mask):
    code = rle.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def annotation(segmentation, image_id=1, category_id=7, **more):
    return {"id": 5, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


def coco_file(*annotations, **more):
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in ((1, "a.png"), (2, "b.png"))]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": list(annotations), "categories": categories, **more}


def load_coco(folder, content, **kwargs):
    dataset = CocoDataset()
    dataset.load_coco_format(write(folder, content), **kwargs)
    dataset.prepare()
    return dataset


@pytest.mark.parametrize("form", [run_lengths, compressed])
def test_coco_run_lengths_keep_holes(folder, form):
    masks, class_ids = load_coco(folder, coco_file(annotation(form(HOLE)))).load_mask(0)
    np.testing.assert_array_equal(masks[..., 0], HOLE)
    assert masks.dtype == bool and class_ids.tolist() == [2] and class_ids.dtype == np.int32


def test_coco_run_lengths_of_every_kind_of_mask(folder):
    rng = np.random.default_rng(0)
    masks = [rng.random((H, W)) < share for share in (0.01, 0.5, 0.99)]
    masks += [np.ones((H, W), bool), np.eye(H, W, dtype=bool)]
    for form in (run_lengths, compressed):
        content = coco_file(*(annotation(form(mask.astype(np.uint8))) for mask in masks))
        np.testing.assert_array_equal(load_coco(folder, content).load_mask(0)[0], np.stack(masks, axis=-1))


def test_coco_parts_crowds_and_any_category_ids(folder):
    parts = POLYGON + [[20.5, 10, 30.5, 10, 25.5, 20]]
    content = coco_file(
        annotation(parts), annotation(compressed(HOLE), iscrowd=1), annotation(POLYGON, 2, 3, iscrowd=0)
    )
    dataset = load_coco(folder, content)
    assert dataset.class_names == ["BG", "dog", "cat"] and dataset.map_source_class_id("coco.7") == 2
    masks, class_ids = dataset.load_mask(0)
    assert class_ids.tolist() == [2, -2]
    truth = COCO()
    truth.dataset = {"info": {}, **content}
    truth.createIndex()
    for i, a in enumerate(content["annotations"][:2]):
        np.testing.assert_array_equal(masks[..., i], truth.annToMask(a))
    assert dataset.load_mask(1)[1].tolist() == [1]


def test_coco_categories_can_be_selected(folder):
    content = coco_file(annotation(POLYGON), annotation(POLYGON, category_id=3), annotation(POLYGON, 2, 3))
    dataset = load_coco(folder, content, category_ids=[7])
    assert dataset.class_names == ["BG", "cat"] and dataset.num_images == 1
    assert dataset.load_mask(0)[1].tolist() == [1]
    with pytest.raises(BrokenAnnotation, match=r"categories: id: expected to find 9, got \[3, 7\]"):
        load_coco(folder, content, category_ids=[9])


def test_coco_without_info_sizes_or_pixels(folder):
    content = coco_file(annotation([[1, 1, 2, 2]]), annotation([[50, 50, 60, 50, 60, 60]]), annotation(POLYGON))
    for image in content["images"]:
        del image["height"], image["width"]
    dataset = load_coco(folder, content)
    assert (dataset.image_info[0]["height"], dataset.image_info[0]["width"]) == (H, W)
    assert dataset.load_mask(0)[0].shape == (H, W, 1)  # two points and a polygon outside have no pixel
    assert dataset.load_mask(1)[0].shape == (H, W, 0)


def test_coco_returns_an_object_for_pycocotools(folder):
    dataset = CocoDataset()
    coco = dataset.load_coco_format(write(folder, coco_file(annotation(POLYGON, area=49, iscrowd=0))))
    assert coco.getImgIds() == [1, 2] and coco.getCatIds(catNms=["dog"]) == [3] and len(coco.getAnnIds([1])) == 1
    results = coco.loadRes([{"image_id": 1, "category_id": 7, "bbox": [3, 2, 6, 6], "score": 1.0}])
    assert len(results.anns) == 1
    again = CocoDataset()
    assert again.load_coco_format(coco, folder) is coco
    again.prepare()
    assert again.num_images == 2 and again.load_image(0).shape == (H, W, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"the file: content: expected lists images, annotations, categories"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\]: name: expected a text, got 'nothing'"),
        (lambda c: c["images"].append(3), r"images\[2\]: entry: expected an object, got 3"),
        (lambda c: c["images"][1].pop("id"), r"images\[1\]: id: expected a number or text"),
        (lambda c: c["images"][1].pop("file_name"), r"image 2: file_name: expected the image's file name"),
        (lambda c: c["images"][1].update(height=0), r"image 2: height: expected pixels"),
        (lambda c: c["images"][1].update(width="7"), r"image 2: width: expected pixels.*got '7'"),
        (lambda c: c["annotations"][0].update(image_id=9), r"annotations\[0\]: image_id: expected the id of one"),
        (lambda c: c["annotations"][0].pop("category_id"), r"annotations\[0\]: category_id: .*got 'nothing'"),
        (lambda c: c["annotations"][0].update(category_id=9), r"\(id 5\): category_id: expected one of .*\[7, 3\]"),
        (lambda c: c["annotations"][0].update(segmentation=3), r"segmentation: expected polygons .*got 3"),
        (lambda c: c["annotations"][0].update(segmentation=[], bbox=[1, 2]), r"segmentation: .*a bbox .*got \[1, 2\]"),
        (lambda c: c["annotations"][0].update(iscrowd="maybe"), r"iscrowd: expected 0 or 1, got 'maybe'"),
        (lambda c: c["categories"][1].update(id=7), r"categories\[1\]: id: expected another id for 'dog'"),
        (lambda c: c["images"][1].update(height=31), r"image 2: image height: expected 30, as the image.*got 31"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), r"polygons .*got \[1, 2, 3\]"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, None, 4]]), r"segmentation: expected polygons"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [W, H], "counts": [5]}),
         r"segmentation.size: expected .*\[30, 40\], got \[40, 30\]"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [H, W], "counts": [5, 6]}),
         r"segmentation.counts: expected run lengths with a sum of 30 x 40 = 1200, got 11"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [H, W], "counts": ""}), r"counts: .*or a string"),
    ],
)  # fmt: skip
def test_coco_errors_name_file_and_entry(folder, change, message):
    content = copy.deepcopy(coco_file(annotation(POLYGON)))
    change(content)
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        load_coco(folder, content)
    assert str(folder / "x.json") in str(caught.value)


@pytest.mark.parametrize("counts", ["04L", "zzzz", "\x01", "ab`"])
def test_broken_coco_run_lengths_are_reported_when_read(folder, counts):
    dataset = load_coco(folder, coco_file(annotation({"size": [H, W], "counts": counts})))
    with pytest.raises(BrokenAnnotation, match=r"annotation 5: segmentation.counts: expected run lengths"):
        dataset.load_mask(0)


def test_broken_coco_images_can_be_skipped_with_a_warning(folder):
    content = coco_file(annotation(POLYGON), annotation([[1, 2, 3]], image_id=2))
    with pytest.warns(UserWarning, match=r"1 images are left out.*\n.*annotations\[1\]"):
        assert load_coco(folder, content, skip_broken=True).num_images == 1


def test_coco_auto_download_is_refused_outside_the_sample(folder):
    with pytest.raises(ValueError, match=r"samples/coco\.py"):
        CocoDataset().load_coco(folder, "val", "2017", auto_download=True)
    with pytest.raises(FileNotFoundError, match=r"instances_minival2014\.json"):
        CocoDataset().load_coco(folder, "minival")


def test_coco_real_images(shared):
    """206 images of COCO: every mask equal to pycocotools', crowds negative."""
    dataset = CocoDataset()
    coco = dataset.load_coco(shared / "data" / "coco_val", "val", year=2017, return_coco=True)
    dataset.prepare()
    assert dataset.num_images == 206 and dataset.num_classes == 81 and len(coco.anns) == 1786
    crowds = 0
    for image_id in dataset.image_ids:
        info = dataset.image_info[image_id]
        masks, class_ids = dataset.load_mask(image_id)
        crowds += (class_ids < 0).sum()
        assert masks.shape == (info["height"], info["width"], len(info["annotations"]))
        for i, a in enumerate(info["annotations"]):
            np.testing.assert_array_equal(masks[..., i], coco.annToMask(a))
            assert dataset.get_source_class_id(abs(class_ids[i]), "coco") == a["category_id"]
    assert crowds == 21
    assert dataset.image_reference(0).endswith(str(dataset.image_info[0]["id"]))


# ---- Errors ----------------------------------------------------------------------------------------------------------
def test_broken_annotation_keeps_its_fields_when_pickled():
    error = BrokenAnnotation("f.json", "image 3", "id", "a number", "x" * 200)
    assert (error.file, error.entry, error.field, error.expected) == ("f.json", "image 3", "id", "a number")
    assert len(str(error)) < 130
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_read_json_refuses_binary_files(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BrokenAnnotation, match="byte 0: text: expected JSON in UTF-8"):
        read_json(tmp_path / "x.json")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "bom.json") == [1]
