"""Label Studio's JSON: shapes in percent, the brush's bit stream, and the names of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from formats_kit import H, W, parts, photo, ring

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.label_studio_rle import decode_alpha


def percent(x, y):
    return [x / W * 100, y / H * 100]


def region(kind, label="cat", **value):
    return {"id": "r1", "type": kind, "from_name": "label", "to_name": "image", "original_width": W,
            "original_height": H, "image_rotation": 0, "value": {**value, kind: [label]}}  # fmt: skip


def polygon(label="cat"):
    return region("polygonlabels", label, points=[percent(*p) for p in ((3, 2), (9, 2), (9, 8), (3, 8))], closed=True)


def task(*regions, image="/data/upload/1/0a1b2c3d-a.png", **annotation):
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": list(regions), **annotation}]}


def write(folder, *tasks, name="a.png"):
    photo(folder / "images" / name)
    path = folder / "export.json"
    path.write_text(json.dumps(list(tasks)))
    return path


def masks_of(path, **options):
    dataset = open_dataset(path, **options)
    masks, class_ids = dataset.load_mask(0)
    return [masks[..., i] for i in range(masks.shape[-1])], [dataset.class_names[i] for i in class_ids]


def pack(mask, literals):
    """A bit stream of the brush, written bit by bit: runs of one value, or blocks of different values."""
    values = np.repeat((mask * 255).ravel(), 4)
    bits = f"{len(values):032b}" + "00111" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    place = 0
    while place < len(values):
        if literals:
            block = values[place : place + 7]
            bits += "0" + "00" + f"{len(block) - 1:03b}" + "".join(f"{value:08b}" for value in block)
        else:
            end = place + 1
            while end < len(values) and values[end] == values[place] and end - place < 1 << 16:
                end += 1
            block = values[place:end]
            kind, size = (2, 8) if len(block) <= 256 else (3, 16)
            bits += "1" + f"{kind:02b}" + f"{len(block) - 1:0{size}b}" + f"{values[place]:08b}"
        place += len(block)
    return np.packbits([int(bit) for bit in bits])


# ---- Shapes ----------------------------------------------------------------------------------------------------------
def test_hand_computed_masks_of_every_shape(tmp_path):
    x, y = percent(1, 2)
    w, h = percent(4, 2)
    rectangle = region("rectanglelabels", "dog", x=x, y=y, width=w, height=h, rotation=0)
    cx, cy = percent(20, 15)
    rx, ry = percent(6, 3)
    round_one = region("ellipselabels", x=cx, y=cy, radiusX=rx, radiusY=ry, rotation=0)
    brush = region("brushlabels", "dog", format="rle", rle=pack(ring(), literals=False).tolist())
    masks, names = masks_of(write(tmp_path, task(polygon(), rectangle, round_one, brush)))
    assert names == ["cat", "dog", "cat", "dog"]
    assert masks[0][2:9, 3:10].all() and masks[0].sum() == 49
    assert masks[1][2:4, 1:5].all() and masks[1].sum() == 8
    assert masks[2][15, 14:27].all() and masks[2][12:19, 20].all() and masks[2].sum() < 13 * 7
    assert np.array_equal(masks[3], ring())


@pytest.mark.parametrize("literals", [False, True])
@pytest.mark.parametrize("mask", [ring(), parts(), np.random.default_rng(0).random((H, W)) < 0.5], ids=["a", "b", "c"])
def test_the_brush_format_is_decoded(mask, literals):
    assert np.array_equal(decode_alpha(pack(mask, literals), H, W) > 0, mask)


def test_rectangles_rotate_about_their_top_left_corner(tmp_path):
    """A quarter turn of a box that is 6 wide and 2 high, at (20, 10): its 2 now reach to the left, its 6 down."""
    x, y = percent(20, 10)
    w, h = percent(6, 2)
    (mask,), _ = masks_of(write(tmp_path, task(region("rectanglelabels", x=x, y=y, width=w, height=h, rotation=90))))
    assert mask[10:16, 18:20].all() and mask.sum() == 12


def test_a_shape_and_its_label_may_be_two_regions(tmp_path):
    shape, label = polygon(), polygon()
    shape["type"], shape["value"] = "polygon", {"points": shape["value"]["points"]}
    label["type"], label["value"]["labels"] = "labels", label["value"].pop("polygonlabels")
    masks, names = masks_of(write(tmp_path, task(shape, label)))
    assert names == ["cat"] and masks[0].sum() == 49


@pytest.mark.parametrize("kind", ["choices", "textarea", "rating", "number", "taxonomy"])
def test_a_per_region_answer_is_not_a_second_object(tmp_path, kind):
    """Each control of a region repeats its shape, and became a separate object."""
    shape, answer = polygon(), polygon()
    answer["type"] = kind
    answer["value"] = {"points": shape["value"]["points"], kind: ["good"]}
    masks, names = masks_of(write(tmp_path, task(shape, answer)))
    assert names == ["cat"] and masks[0].sum() == 49


def test_percentages_are_rounded_to_whole_pixels(tmp_path):
    """29 pixels of 30 are 96.66666666666667 %, which is 29.000000000000004 pixels, or 28.999999999999996."""
    for i, (right, bottom) in enumerate([(9, 7), (35, 29), (39, 23), (31, 14)]):
        shape = region(
            "polygonlabels", points=[percent(*p) for p in ((3, 2), (right, 2), (right, bottom), (3, bottom))]
        )
        (mask,), _ = masks_of(write(tmp_path / str(i), task(shape)))
        assert mask[2 : bottom + 1, 3 : right + 1].all() and mask.sum() == (bottom - 1) * (right - 2)


def test_regions_without_area_are_named_and_other_results_ignored(tmp_path):
    point = region("keypointlabels", x=5, y=5, width=0.3)
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2"}
    with pytest.warns(UserWarning, match=r"without an area are left out: keypointlabels \(1\)"):
        assert masks_of(write(tmp_path, task(point, choice, relation, polygon())))[1] == ["cat"]


# ---- Tasks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "0a1b2c3d-a.png"),
        ("/data/local-files/?d=photos/some%20cat.png", "some cat.png"),
        ("http://localhost:8080/data/upload/0a1b2c3d-a.png?x=1", "a.png"),
        ("s3://bucket/deep/a.png", "a.png"),
        ("upload\\1\\0a1b2c3d-a.png", "a.png"),
    ],
)
def test_image_names_are_resolved(tmp_path, image, name):
    assert masks_of(write(tmp_path, task(polygon(), image=image), name=name))[1] == ["cat"]


def test_one_of_several_annotations_is_chosen(tmp_path):
    many = task(polygon("old"), updated_at="2024-01-01")
    many["annotations"] += [
        {"result": [polygon("new")], "updated_at": "2024-02-01"},
        {"result": [polygon("cancelled")], "updated_at": "2024-03-01", "was_cancelled": True},
    ]
    with pytest.warns(UserWarning, match="1 tasks have several annotations"):
        assert masks_of(write(tmp_path, many))[1] == ["new"]
    many["annotations"][0]["ground_truth"] = True
    with pytest.warns(UserWarning, match="the ground truth"):
        assert masks_of(write(tmp_path, many))[1] == ["old"]


def test_json_min(tmp_path):
    value = {**polygon()["value"], "original_width": W, "original_height": H}
    content = {"image": "/data/upload/0a1b2c3d-a.png", "id": 1, "label": [value], "annotator": 1, "annotation_id": 2}
    masks, names = masks_of(write(tmp_path, content))
    assert names == ["cat"] and masks[0].sum() == 49


def bad(**changes):
    wrong = polygon()
    wrong.update(changes)
    return wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (bad(image_rotation=90), "image_rotation: expected 0"),
        (bad(original_width=W + 1), f"width: expected {W}"),
        (region("polygonlabels", points=[[1, 2], [3, 4]]), "three or more points"),
        (region("polygonlabels", points=[[1, 2], [3, 4], [5, "x"]]), "points: expected points"),
        (region("polygonlabels", points=[[1, 2], [3, 4], [5, 1e300]]), "within 10 image sizes"),
        (region("rectanglelabels", x=1, y=2, width=0, height=5), "a width and a height above 0"),
        (region("rectanglelabels", x=None, y=2, width=3, height=5), "x: expected a number"),
        (region("brushlabels", rle=[1, 2, 300]), "rle: expected whole numbers 0..255"),
        (region("brushlabels", rle=[0, 0, 0, 1]), "1 values; expected 30 x 40 x 4"),
        (region("brushlabels", rle=pack(ring(), True)[:90].tolist()), "the data end too early"),
    ],
)
def test_broken_regions_are_named(tmp_path, wrong, message):
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(write(tmp_path, task(wrong)))


def test_broken_tasks_are_named(tmp_path):
    with pytest.raises(BrokenAnnotation, match=r"tasks\[1\]: image: expected to find .*b\.png"):
        open_dataset(write(tmp_path, task(polygon()), task(polygon(), image="/data/upload/1/0a1b2c3d-b.png")))
    with pytest.raises(BrokenAnnotation, match=r"tasks\[0\]: data: expected the path of an image"):
        open_dataset(write(tmp_path, {"data": {"text": 3}, "annotations": []}))
    with pytest.raises(BrokenAnnotation, match=r"tasks\[1\]: task: expected an object"):
        open_dataset(write(tmp_path, task(polygon()), 7))
