"""`Detections`: the dict that matterport's scripts index, its selections, and its masks in their three forms."""

from __future__ import annotations

import copy
import json
import pickle
import re
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from kit import photo, spread_scores, tiny_model
from PIL import Image
from pycocotools import mask as coco_mask
from shapely.geometry import Polygon, shape

from mrcnn import open_dataset
from mrcnn.evaluation import semantic_map
from mrcnn.evaluation.instances import detections_of
from mrcnn.inference.result_masks import RleMasks, SoftMasks
from mrcnn.inference.results import Detections
from mrcnn.ops.masks import paste_masks
from mrcnn.ops.outlines import signed_area, trace_polygons
from mrcnn.ops.rle import decode_crops, encode_crop, encode_masks, to_rle
from mrcnn.video import draw_frame

NAMES = ["BG", "cat", "dog"]
KEYS = ["rois", "class_ids", "scores", "masks"]


def make(shape=(20, 30), **options) -> Detections:
    """Three objects as `detect` returns them: a cat, a dog over it, a cat at the edge."""
    rois = np.array([[2, 3, 12, 15], [5, 10, 18, 25], [15, 20, 20, 30]], np.int32)
    soft = np.random.default_rng(0).random((3, 28, 28), np.float32)
    masks = SoftMasks(soft, rois, shape, "resize")
    return Detections(rois, [1, 2, 1], [0.9, 0.8, 0.4], masks, **{"class_names": NAMES, "path": "a.jpg", **options})


def plain(found: Detections) -> dict:
    """matterport's result."""
    masks = super(Detections, found).__getitem__("masks")
    pasted = paste_masks(masks.masks, masks.boxes, masks.image_shape)
    return {"rois": found.rois, "class_ids": found.class_ids, "scores": found.scores, "masks": pasted}


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], strict=True)


# ---- The dict of matterport's scripts --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "convert",
    [
        dict,
        lambda r: {**r},
        lambda r: (lambda **keys: keys)(**r),
        lambda r: dict(r.items()),
        lambda r: dict(zip(r.keys(), r.values())),
        lambda r: {key: r[key] for key in r},
        lambda r: {key: r.get(key) for key in KEYS},
        lambda r: {key: r.pop(key) for key in KEYS},
        lambda r: {key: r.setdefault(key) for key in KEYS},
        lambda r: dict([r.popitem() for _ in KEYS][::-1]),
        lambda r: {} | r,
        lambda r: r | {},
        lambda r: dict(r.copy()),
        lambda r: dict(copy.copy(r)),
        lambda r: dict(copy.deepcopy(r)),
        lambda r: dict(pickle.loads(pickle.dumps(r))),
        lambda r: {k: v for d in ({}, r) for k, v in d.items()},
    ],
)
def test_every_dict_access_gives_pasted_masks(convert):
    assert_same(convert(make()), plain(make()))


def test_update_of_a_plain_dict_gets_the_pasted_masks():
    target = {}
    target.update(make())
    assert_same(target, plain(make()))


def test_it_is_a_dict_with_four_keys():
    found = make()
    assert isinstance(found, dict)
    assert list(found) == list(found.keys()) == KEYS
    assert "masks" in found and "mask" not in found
    assert len(found.items()) == len(found.values()) == 4
    assert found.get("nothing", 5) == 5
    with pytest.raises(KeyError, match="nothing"):
        found["nothing"]


def test_masks_are_pasted_once():
    """A script that loops over r["masks"][:, :, i] must not paste all masks each time, and what it writes must stay."""
    found = make()
    assert found["masks"] is found["masks"] is found.masks is found.copy()["masks"]
    found["masks"][..., 0] = False
    found["masks"][3:5, 4, 0] = True
    assert found["masks"][..., 0].sum() == 2
    assert coco_mask.area(found.rle).tolist()[0] == 2
    assert next(found.crops())[0] == (3, 4, 5, 5)
    assert found[:1]["masks"].sum() == 2


def test_assigned_keys_are_kept_and_attributes_follow():
    found = make()
    found["masks"] = np.ones((20, 30, 3), bool)
    found["scores"] = np.array([0.1, 0.2, 0.3], np.float32)
    found["note"] = "checked"
    assert found.masks.all() and coco_mask.area(found.rle).tolist() == [600] * 3
    np.testing.assert_array_equal(found.scores, np.float32([0.1, 0.2, 0.3]))
    assert found[1]["note"] == found.copy()["note"] == pickle.loads(pickle.dumps(found))["note"] == "checked"
    del found["masks"]
    assert "masks" not in found and len(found) == 3


def test_selecting_also_selects_added_arrays():
    found = make()
    found["track"] = np.array([7, 8, 9])
    found["size"] = [20, 30, 3]
    part = found[[2, 0]]
    assert part["track"].tolist() == [9, 7] and part["size"] == [20, 30, 3]
    assert found["track"].tolist() == [7, 8, 9]


def test_equal_results_are_equal():
    assert make() == make() == plain(make())
    assert plain(make()) == make()
    assert make() != make()[:2]
    other = make()
    other["scores"] = other.scores + 0.1
    assert make() != other
    assert make() != {"rois": 1}
    assert make() != 3


def test_json_refuses_arrays_as_for_a_plain_dict():
    with pytest.raises(TypeError, match="ndarray"):
        json.dumps(make())


def test_json_and_npz_files_hold_the_pasted_masks(tmp_path):
    text = json.dumps(make(), default=lambda array: array.tolist())
    assert json.loads(text) == {key: value.tolist() for key, value in plain(make()).items()}
    np.savez(tmp_path / "found.npz", **make())
    assert_same(dict(np.load(tmp_path / "found.npz")), plain(make()))


def test_pickling_does_not_paste():
    found = make(shape=(4000, 4000))
    text = pickle.dumps(found)
    assert len(text) < 20_000
    back = pickle.loads(text)
    assert (back.path, back.class_names, back.image_shape) == ("a.jpg", NAMES, (4000, 4000))
    assert back.rle == found.rle


def test_a_deep_copy_shares_nothing():
    found = make()
    other = copy.deepcopy(found)
    other["masks"][:] = False
    other.rois[:] = 0
    other.class_names.append("bird")
    assert found["masks"].any() and found.rois.any() and found.class_names == NAMES


# ---- Attributes and selections ---------------------------------------------------------------------------------------
def test_attributes():
    found = make()
    assert len(found) == 3
    assert found.names == ["cat", "dog", "cat"]
    assert found.image_shape == (20, 30)
    assert found.boxes is found.rois is found["rois"]
    assert found.rois.dtype == np.int32 and found.class_ids.dtype == np.int32 and found.scores.dtype == np.float32
    assert make(class_names=None).names == ["1", "2", "1"]
    assert make(class_names=["BG", "cat"]).names == ["cat", "2", "cat"]
    assert repr(found) == "Detections(3 objects in 20 x 30 pixels: cat 0.90, dog 0.80, cat 0.40)"


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(2), [2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ([], []),
        (np.array([], int), []),
        ([True, False, True], [0, 2]),
        (np.array([False, False, False]), []),
        (np.array([1, 1]), [1, 1]),
    ],
)
@pytest.mark.parametrize("form", ["soft", "rle", "dense"])
def test_indexing_selects_rows_of_every_array(key, rows, form):
    found, expected = make(), plain(make())
    if form == "rle":
        found = Detections(*(expected[k] for k in KEYS[:3]), RleMasks(found.rle, found.image_shape), path="a.jpg")
    elif form == "dense":
        assert found["masks"].any()
    part = found[key]
    assert isinstance(part, Detections) and len(part) == len(rows) and part.path == "a.jpg"
    for name in KEYS[:3]:
        np.testing.assert_array_equal(part[name], expected[name][rows], strict=True)
    assert part.rle == encode_masks(expected["masks"][..., rows])
    np.testing.assert_array_equal(part["masks"], expected["masks"][..., rows])


@pytest.mark.parametrize("key", [3, -4, np.array([True, False]), [0, 5]])
def test_a_missing_row_is_an_index_error(key):
    with pytest.raises(IndexError):
        make()[key]


def test_filters():
    found = make()
    assert found.of_class("cat").scores.tolist() == found[[0, 2]].scores.tolist()
    assert found.of_class("dog", 1) == found
    assert found.above(np.float32(0.8)).names == ["cat", "dog"]
    assert [one.names for one in found.objects()] == [["cat"], ["dog"], ["cat"]]
    assert len(found.above(2)) == 0
    with pytest.raises(ValueError, match="no class 'bird'; expected one of .*'dog'"):
        found.of_class("bird")
    with pytest.raises(ValueError, match="no class names"):
        make(class_names=None).of_class("cat")


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 rois, 1 class_ids, 2 scores and 2 masks"):
        Detections(np.zeros((2, 4)), [1], [1, 1], np.zeros((5, 5, 2), bool))
    with pytest.raises(ValueError, match=r"\(5, 5\); expected \[height, width, objects\]"):
        Detections(np.zeros((1, 4)), [1], [1], np.zeros((5, 5), bool))


NO_MASKS = SoftMasks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (6, 7), "resize")


@pytest.mark.parametrize("masks", [np.zeros((6, 7, 0), bool), NO_MASKS, RleMasks([], (6, 7))])
def test_results_without_objects(masks):
    found = Detections([], [], [], masks, class_names=NAMES)
    assert len(found) == 0 and not found
    assert found["masks"].shape == (6, 7, 0) and found["masks"].dtype == bool
    assert found.rois.shape == (0, 4) and found.rois.dtype == np.int32
    assert found.rle == [] and list(found.crops()) == [] and found.names == [] and found.to_coco() == []
    assert found[:] == found and found.above(0) == found
    assert repr(found) == "Detections(0 objects in 6 x 7 pixels)"


# ---- Masks: soft, RLE and dense are the same -------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["resize", "padded_resize", "grid_sample"])
def test_rle_equals_pasting_and_pycocotools(method):
    """Random boxes, also across the edges, outside, of one pixel and without area; empty, full and noisy masks."""
    rng = np.random.default_rng(1)
    for turn in range(80):
        (height, width), count = rng.integers(1, 40, 2).tolist(), int(rng.integers(1, 6))
        corner, sides = rng.integers(-20, 45, (count, 2)), rng.integers(0, 50, (count, 2)) // rng.integers(1, 25)
        boxes = np.concatenate([corner, corner + sides], 1)
        boxes = boxes if method == "resize" else boxes + rng.random((count, 4)).astype(np.float32)
        soft = rng.random((count, 7, 7), np.float32) * np.float32([0.4, 1, 3][turn % 3]) + np.float32(turn % 5 == 0)
        masks = SoftMasks(soft, boxes, (height, width), method)
        dense = paste_masks(soft, boxes, (height, width), method=method)
        rles = masks.rles()
        assert rles == coco_mask.encode(np.asfortranarray(dense.view(np.uint8))), (boxes, height, width)
        for form in (SoftMasks(soft, boxes, (height, width), method), RleMasks(rles, (height, width))):
            drawn = np.zeros_like(dense)
            for i, ((y1, x1, y2, x2), pixels) in enumerate(form.crops()):
                drawn[y1:y2, x1:x2, i] = pixels
            np.testing.assert_array_equal(drawn, dense)
            np.testing.assert_array_equal(form.dense(), dense)


def test_crops_of_run_lengths_with_runs_of_length_0_are_tight():
    text = coco_mask.frPyObjects({"size": [4, 5], "counts": [1, 0, 5, 2, 4, 0, 8]}, 4, 5)
    ((region, pixels),) = decode_crops([text])
    assert region == (2, 1, 4, 2) and pixels.all()
    ((region, pixels),) = decode_crops([{"size": [4, 5], "counts": encode_masks(np.zeros((4, 5, 1)))[0]["counts"]}])
    assert region == (0, 0, 0, 0) and pixels.shape == (0, 0)


def test_a_full_height_crop_joins_its_columns():
    dense = np.ones((3, 4, 1), bool)
    assert encode_crop(dense[..., 0], (0, 0), (3, 4)) == encode_masks(dense)[0]
    assert encode_crop(dense[:, 1:3, 0], (0, 1), (3, 4))["counts"] == b"363"


def test_run_lengths_of_another_size_or_damaged_ones_are_refused():
    rles = make().rle
    with pytest.raises(ValueError, match=r"mask 0 has the size \[20, 30\]; expected \[30, 20\]"):
        RleMasks(rles, (30, 20))
    rles[1]["counts"] = rles[1]["counts"][:-2]
    with pytest.raises(ValueError, match="mask 1: its counts are damaged"):
        RleMasks(rles, (20, 30))


# ---- COCO ------------------------------------------------------------------------------------------------------------
def test_coco_results_round_trip():
    found = make()
    results = json.loads(json.dumps(found.to_coco(image_id=7)))
    assert [sorted(entry) for entry in results] == [["bbox", "category_id", "image_id", "score", "segmentation"]] * 3
    assert results[1]["bbox"] == [10, 5, 15, 13] and results[1]["image_id"] == 7 and results[1]["category_id"] == 2
    np.testing.assert_array_equal(coco_mask.decode(results[1]["segmentation"]), found["masks"][..., 1])
    back = Detections.from_coco(results[::-1], found.image_shape, NAMES, "a.jpg")
    assert back == found and back.names == found.names and back.path == found.path
    assert found.to_coco(category_ids=[0, 17, 18])[1]["category_id"] == 18
    assert found.to_coco()[0]["image_id"] == "a.jpg" and make(path=None).to_coco()[0]["image_id"] == 0


def test_coco_results_of_boxes_or_masks_alone():
    box = {"category_id": 1, "score": 0.5, "bbox": [2.5, 1, 3, 2]}
    mask = {"category_id": 1, "score": 0.6, "segmentation": [[2, 1, 5, 1, 5, 3, 2, 3]]}
    found = Detections.from_coco([box, mask], (4, 6))
    np.testing.assert_array_equal(found.rois, np.float32([[1, 2, 3, 5], [1, 2.5, 3, 5.5]]), strict=True)
    assert found.masks[1:3, 2:5, 0].all() and found.masks[..., 0].sum() == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, 'results.1. has no "score"'),
        ({"bbox": None, "segmentation": None}, 'results.1. has no "bbox" or "segmentation"'),
        ({"segmentation": {"size": [5, 5], "counts": "0"}}, r"results.1.: the mask is \[5, 5\]"),
    ],
)
def test_coco_results_that_are_incomplete_are_refused_with_their_index(change, message):
    results = make().to_coco()
    results[1] = {key: value for key, value in {**results[1], **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Detections.from_coco(results, (20, 30))


# ---- Pictures --------------------------------------------------------------------------------------------------------
def test_plot_without_pasting_draws_the_same_as_with_dense_masks():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    found, dense = make(), make()
    assert dense["masks"].any()
    for side in (None, 60, 13, 29):
        np.testing.assert_array_equal(found.plot(image, side=side), dense.plot(image, side=side))
    assert found.plot(image).shape == (20, 30, 3) and (found.plot(image) != image).any()
    assert (found.plot(image, side=300) != found.plot(image, side=300, show_masks=False)).any()
    np.testing.assert_array_equal(found[:0].plot(image), image)


def test_save_reads_the_detected_photo(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = make(path=tmp_path / "a.png")
    assert found.save(tmp_path / "out.PNG") == tmp_path / "out.PNG"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.PNG")), found.plot(image))
    assert Image.open(found.save(tmp_path / "out.jpg", image)).format == "JPEG"


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (None, "out.png", "need the image"),
        (np.zeros((30, 20, 3), np.uint8), "out.png", r"30 x 20 .* expected .* 20 x 30"),
        (np.zeros((20, 30, 3), np.uint8), "out.gif", "out.gif: expected a name that ends with .png"),
    ],
)
def test_an_impossible_picture_is_refused(image, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(path=None).save(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_a_frame_of_a_video_is_drawn_as_with_dense_masks():
    frame = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    drawn = [draw_frame(frame, found, [3, 1, 2], NAMES) for found in (make(), plain(make()))]
    np.testing.assert_array_equal(*drawn)


# ---- Large photos and evaluation -------------------------------------------------------------------------------------
def test_masks_of_a_large_photo_are_not_pasted_at_once():
    """The dense array of these 300 objects has 2.7 GB; with runs, crops and outlines it is never made."""
    rng, side, count = np.random.default_rng(0), 3000, 300
    corners = rng.integers(0, side - 40, (count, 2))
    rois = np.concatenate([corners, corners + rng.integers(1, 40, (count, 2))], axis=1).astype(np.int32)
    soft = SoftMasks(rng.random((count, 28, 28), np.float32), rois, (side, side), "resize")
    found = Detections(rois, np.ones(count, int), np.linspace(1, 0, count), soft, class_names=NAMES)
    image = np.zeros((side, side, 3), np.uint8)
    tracemalloc.start()
    try:
        results = found.to_coco()
        again = Detections.from_coco(results, found.image_shape)
        np.testing.assert_array_equal(found.semantic_map(), again.semantic_map())
        assert found[::-1].plot(image).shape == image.shape
        assert detections_of(found, (side, side), 3, "photo").rles == again.rle == found.rle
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6  # label maps of 36 MB each, what compares them, and a picture of 27 MB
    assert len(pickle.dumps(found)) < 2e6


def test_evaluation_accepts_detections_and_dicts():
    found = make()
    ours, theirs = (detections_of(result, (20, 30), 3, "photo", area="mask") for result in (found, plain(found)))
    assert ours.rles == theirs.rles and ours.areas.tolist() == theirs.areas.tolist()
    np.testing.assert_array_equal(semantic_map(found, 0.5), semantic_map(plain(found), 0.5))
    with pytest.raises(ValueError, match=r"masks of shape \(20, 30, 3\); expected \(30, 20, 3\)"):
        detections_of(make(), (30, 20), 3, "photo")
    with pytest.raises(ValueError, match="no 'scores'"):
        incomplete = make()
        del incomplete["scores"]
        detections_of(incomplete, (20, 30), 3, "photo")


# ---- Other formats ---------------------------------------------------------------------------------------------------
def hard_cases(shape=(40, 50)) -> Detections:
    """A ring, two parts, parts that touch at a corner, a line, a pixel, all of the image, noise, and nothing."""
    masks = np.zeros((*shape, 8), bool)
    masks[5:15, 5:20, 0] = True
    masks[8:12, 8:15, 0] = False
    masks[9:11, 10:12, 0] = True
    masks[2:6, 30:40, 1] = masks[20:25, 30:45, 1] = True
    masks[20:23, 5:8, 2] = masks[23:26, 8:11, 2] = True
    masks[30, 4:30, 3] = masks[39, 49, 4] = True
    masks[..., 5] = True
    masks[10:30, 10:30, 6] = np.random.default_rng(0).random((20, 20)) < 0.5
    rois = np.array([[0, 0, *shape]] * 8)
    return Detections(rois, [1, 2, 1, 2, 1, 2, 1, 2], np.linspace(0.9, 0.2, 8), masks, class_names=NAMES)


def compact(found: Detections) -> Detections:
    """The same from run lengths, whose crops begin in the middle of the image."""
    return Detections.from_coco(found.to_coco(), found.image_shape, NAMES)


def read_back(folder) -> dict[str, list]:
    """The masks that `open_dataset` reads, by class name, as run lengths in any order."""
    dataset = open_dataset(folder, classes=NAMES[1:])
    dataset.prepare()
    masks, class_ids = dataset.load_mask(0)
    rles = encode_masks(np.asfortranarray(masks))
    names = [dataset.class_names[i] for i in class_ids]
    return {name: sorted(r["counts"] for r, own in zip(rles, names) if own == name) for name in NAMES[1:]}


def by_class(found: Detections) -> dict[str, list]:
    objects = [(name, rle) for name, rle in zip(found.names, found.rle) if coco_mask.area(rle)]
    return {name: sorted(rle["counts"] for own, rle in objects if own == name) for name in NAMES[1:]}


@pytest.mark.parametrize("form", [lambda found: found, compact], ids=["dense", "rle"])
@pytest.mark.parametrize("kind", ["coco", "coco polygons", "labelme", "yolo"])
def test_saved_files_open_with_the_same_masks(kind, form, tmp_path):
    found = form(hard_cases())
    Image.fromarray(np.zeros((*found.image_shape, 3), np.uint8)).save(tmp_path / "a.png")
    if kind == "labelme":
        (tmp_path / "a.json").write_text(json.dumps(found.to_labelme("a.png")))
    elif kind == "yolo":
        (tmp_path / "a.txt").write_text(found.to_yolo())
    else:
        annotations = [
            {"id": i, "iscrowd": 0, "area": 1, **entry}
            for i, entry in enumerate(found.to_coco(image_id=1, polygons="polygons" in kind))
        ]
        kinds = [isinstance(a["segmentation"], list) for a in annotations]
        assert kinds == [kind == "coco polygons" and i not in (0, 6, 7) for i in range(8)]  # ring, noise, nothing
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}],
            "annotations": annotations,
            "categories": [{"id": i, "name": NAMES[i]} for i in (1, 2)],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_back(tmp_path) == by_class(found)


def test_labelme_needs_the_name_of_the_image():
    found = hard_cases()
    with pytest.raises(ValueError, match="to_labelme needs image_path"):
        found.to_labelme()
    found.path = "photos/a.jpg"
    content = found.to_labelme()
    assert content["imagePath"] == "a.jpg" and (content["imageHeight"], content["imageWidth"]) == (40, 50)
    assert content["shapes"][0]["description"] == "0.900"


def test_outlines_have_the_area_of_the_mask_and_are_valid_polygons():
    rng = np.random.default_rng(0)
    for turn in range(200):
        mask = rng.random(rng.integers(1, 12, 2)) < (0.3, 0.5, 0.7, 0.9)[turn % 4]
        polygons = trace_polygons(mask)
        shapes = [Polygon(rings[0], rings[1:]) for rings in polygons]
        assert all(shape.is_valid for shape in shapes), mask
        assert sum(shape.area for shape in shapes) == mask.sum(), mask
        assert all(signed_area(ring) * (1 if i == 0 else -1) > 0 for rings in polygons for i, ring in enumerate(rings))
        if all(len(rings) == 1 for rings in polygons) and polygons:
            segmentation = [ring.ravel().tolist() for (ring,) in polygons]
            np.testing.assert_array_equal(coco_mask.decode(to_rle(segmentation, *mask.shape)), mask)


def test_geojson_has_holes_parts_and_coordinates():
    found = hard_cases()
    features = json.loads(json.dumps(found.to_geojson()))["features"]
    shapes = [feature["geometry"] and shape(feature["geometry"]) for feature in features]
    assert [s.area if s else 0 for s in shapes] == coco_mask.area(found.rle).tolist()
    assert all(s.is_valid for s in shapes if s)
    assert [f["geometry"] and f["geometry"]["type"] for f in features[:4]] == ["MultiPolygon"] * 3 + ["Polygon"]
    assert features[7]["geometry"] is None
    assert features[1]["properties"] == {"class_id": 2, "class_name": "dog", "score": float(found.scores[1])}
    outer, hole = features[0]["geometry"]["coordinates"][0]
    assert outer[0] == outer[-1] and hole[0] == hole[-1]
    # 0.5 m a pixel, north upwards, as rasterio gives it; all of the image is 25 m wide and 20 m high.
    placed = found.to_geojson(transform=(0.5, 0, 100, 0, -0.5, 200, 0, 0, 1))["features"]
    assert shape(placed[5]["geometry"]).bounds == (100, 180, 125, 200)
    for feature in (*features[:7], *placed[:7]):
        polygon = feature["geometry"]["coordinates"]
        for rings in polygon if feature["geometry"]["type"] == "MultiPolygon" else [polygon]:
            assert [signed_area(np.array(ring)) > 0 for ring in rings] == [True] + [False] * (len(rings) - 1)
    with pytest.raises(ValueError, match="no inverse"):
        found.to_geojson(transform=(1, 0, 0, 2, 0, 0))


@pytest.mark.parametrize("form", [lambda found: found, compact], ids=["dense", "rle"])
def test_semantic_map(form):
    found = form(hard_cases())
    labels = found.semantic_map()
    np.testing.assert_array_equal(labels, semantic_map(dict(found)))
    np.testing.assert_array_equal(found.semantic_map(0.35), semantic_map(dict(found), 0.35))
    assert labels.dtype == np.int32 and set(np.unique(labels)) == {1, 2}
    assert labels[9, 9] == 2 and labels[5, 5] == 1
    assert not found[:0].semantic_map().any()


def test_supervision_gets_compact_masks():
    supervision = pytest.importorskip("supervision")
    for found in (hard_cases(), compact(hard_cases()), make(), make()[:0]):
        theirs = found.to_supervision()
        assert len(theirs) == len(found) and isinstance(theirs.mask, supervision.CompactMask)
        np.testing.assert_array_equal(np.moveaxis(theirs.mask.to_dense(), 0, -1), found.masks)
        np.testing.assert_array_equal(theirs.xyxy, found.rois[:, [1, 0, 3, 2]])
        assert theirs.data["class_name"].tolist() == found.names


def test_pandas_has_a_row_for_each_object():
    pytest.importorskip("pandas")
    found = hard_cases()
    table = found.to_pandas()
    assert table.columns.tolist() == ["class_id", "class_name", "score", "y1", "x1", "y2", "x2", "area"]
    assert table["area"].tolist() == coco_mask.area(found.rle).tolist()
    assert table[table.score > 0.75].class_name.tolist() == ["cat", "dog"]
    assert len(found[:0].to_pandas()) == 0


# ---- From the model --------------------------------------------------------------------------------------------------
def test_detect_gives_names_paths_and_up_to_thousands_of_objects(tmp_path):
    """Every proposal is a detection: 2,000 of them, as on a photo full of cells."""
    many = {"POST_NMS_ROIS_INFERENCE": 2000, "PRE_NMS_LIMIT": 6000, "RPN_NMS_THRESHOLD": 1.0}
    thresholds = {"DETECTION_MIN_CONFIDENCE": 0, "DETECTION_NMS_THRESHOLD": 1.0}
    sizes = {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128, "DETECTION_MAX_INSTANCES": 2000}
    model = tiny_model("inference", tmp_path, **many, **thresholds, **sizes)
    spread_scores(model)
    model.class_names = NAMES
    Image.fromarray(photo(100, 128)).save(tmp_path / "a.png")
    first, second = model.detect([tmp_path / "a.png", photo(100, 128)])
    assert isinstance(first, Detections) and (first.path, second.path) == (str(tmp_path / "a.png"), None)
    assert first.class_names == NAMES and first.image_shape == (100, 128)
    assert len(first) > 1900 and (np.diff(first.scores) <= 0).all()
    assert first.rle == encode_masks(second["masks"]) and first == second


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, capsys):
    image = np.full((128, 128, 3), (30, 60, 200), np.uint8)
    cv2.rectangle(image, (20, 20), (60, 60), (230, 120, 30), -1)
    cv2.circle(image, (90, 85), 22, (240, 240, 90), -1)
    Image.fromarray(image).save(tmp_path / "photo.jpg", quality=95)
    text = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    found = names["found"]
    assert sorted(found.names) == ["circle", "square"] and names["squares"].names == ["square"]
    assert "Detections(2 objects in 128 x 128 pixels: " in capsys.readouterr().out
    written = {"found.png", "found.json", "photo.json", "photo.txt", "found.geojson"}
    assert written <= {path.name for path in tmp_path.iterdir()}
    assert names["picture"].shape == (800, 800, 3)
