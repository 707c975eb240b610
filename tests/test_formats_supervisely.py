"""Supervisely projects: polygons with holes, bitmaps, rectangles, datasets inside others."""

from __future__ import annotations

import base64
import io
import json
import zlib

import numpy as np
import pytest
from formats_kit import H, W, photo, ring
from PIL import Image

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.supervisely import SuperviselyDataset


def polygon(title="cat", interior=()):
    points = {"exterior": [[3, 2], [12, 2], [12, 10], [3, 10]], "interior": list(interior)}
    return {"classTitle": title, "geometryType": "polygon", "points": points, "tags": []}


def bitmap(mask, origin, mode="RGBA"):
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = 255
    picture = (
        Image.fromarray(pixels) if mode == "RGBA" else Image.fromarray((mask * 255).astype(np.uint8)).convert(mode)
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    return {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": origin}}


def write(folder, *objects, subset="ds", name="a.png", ann="a.png.json", size=(H, W)):
    photo(folder / subset / "img" / name)
    meta = {"classes": [{"title": t, "shape": s} for t, s in (("dog", "bitmap"), ("cat", "polygon"), ("eye", "point"))]}
    (folder / "meta.json").write_text(json.dumps(meta))
    path = folder / subset / "ann" / ann
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"description": "", "size": {"height": size[0], "width": size[1]}, "objects": objects}))
    return folder


def masks_of(path):
    dataset = open_dataset(path)
    masks, class_ids = dataset.load_mask(0)
    return [masks[..., i] for i in range(masks.shape[-1])], [dataset.class_names[i] for i in class_ids]


def test_hand_computed_masks_of_every_shape(tmp_path):
    hole = [[5, 4], [9, 4], [9, 8], [5, 8]]
    rectangle = {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[20, 15], [22, 18]]}}
    objects = polygon(interior=[hole]), rectangle, bitmap(ring()[3:21, 4:30], [4, 3])
    (outer, box, drawn), names = masks_of(write(tmp_path, *objects))
    assert names == ["cat", "cat", "dog"]
    assert outer[2:11, 3:13].sum() == 90 - 9 and not outer[5:8, 6:9].any()  # the border of a hole isn't in it
    assert box[15:19, 20:23].all() and box.sum() == 12
    assert np.array_equal(drawn, ring())


@pytest.mark.parametrize("mode", ["RGBA", "L", "1", "P"])
def test_every_kind_of_bitmap_is_decoded(tmp_path, mode):
    (drawn,), _ = masks_of(write(tmp_path, bitmap(ring(), [0, 0], mode)))
    assert np.array_equal(drawn, ring())


def test_a_bitmap_beyond_the_image_is_clipped(tmp_path):
    (drawn,), _ = masks_of(write(tmp_path, bitmap(np.ones((6, 7), bool), [W - 3, H - 2])))
    assert drawn[H - 2 :, W - 3 :].all() and drawn.sum() == 6


@pytest.mark.parametrize("ann", ["a.png.json", "a.json"])
@pytest.mark.parametrize("inner", ["", "ds", "ds/ann", "meta.json"])
def test_any_folder_or_file_of_the_dataset_can_be_opened(tmp_path, inner, ann):
    dataset = open_dataset(write(tmp_path, polygon(), ann=ann) / inner)
    assert dataset.num_images == 1 and dataset.class_names == ["BG", "dog", "cat"]


def test_datasets_are_splits_and_may_be_nested(tmp_path):
    write(tmp_path, polygon(), subset="train")
    write(tmp_path, polygon(), bitmap(ring(), [0, 0]), subset="val")
    write(tmp_path, polygon(), subset="train/datasets/more", name="b.png", ann="b.png.json")
    train, val = open_splits(tmp_path)
    assert (train.num_images, val.num_images, open_dataset(tmp_path).num_images) == (2, 1, 3)
    assert train.class_names == val.class_names == ["BG", "dog", "cat"]


def test_shapes_without_a_mask_are_named(tmp_path):
    point = {"classTitle": "eye", "geometryType": "point", "points": {"exterior": [[3, 4]], "interior": []}}
    with pytest.warns(UserWarning, match=r"no mask are left out: point \(1\)"):
        assert masks_of(write(tmp_path, point, polygon()))[1] == ["cat"]


def broken_bitmap(**changes):
    entry = bitmap(ring(), [0, 0])
    entry["bitmap"].update(changes)
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (broken_bitmap(data="@@"), r"objects\[0\]: bitmap.data: expected a PNG, compressed by zlib"),
        (broken_bitmap(data=base64.b64encode(b"abc").decode()), "bitmap.data"),
        (broken_bitmap(data=base64.b64encode(zlib.compress(b"abc")).decode()), "bitmap.data"),
        (
            broken_bitmap(data=base64.b64encode(zlib.compress(bytes((1 << 28) + 1), 1)).decode()),
            "more than 268435456 bytes",
        ),
        (broken_bitmap(data=bitmap(np.ones((H + 1, W), bool), [0, 0])["bitmap"]["data"]), "31 x 40 pixels in an image"),
        (broken_bitmap(origin=[1]), r"bitmap.origin: expected \[x, y\]"),
        (broken_bitmap(origin=[10**9, 0]), "within 10 image sizes"),
        (polygon() | {"points": {"exterior": [[1, 2], [3, 4]]}}, "three or more points"),
        (polygon() | {"points": {"exterior": [[1, 2], [3, 4], [5, None]]}}, "three or more points|within 10"),
        (polygon(interior=[[[1, 2]]]), "three or more points"),
        (polygon() | {"geometryType": "blob"}, "geometryType: expected one of polygon, rectangle"),
        ({"geometryType": "polygon", "points": polygon()["points"]}, "classTitle: expected the class's name"),
        (7, r"objects\[0\]: object: expected an object"),
    ],
)
def test_broken_objects_are_named(tmp_path, entry, message):
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(write(tmp_path, entry))


def test_broken_projects_are_named(tmp_path):
    with pytest.raises(BrokenAnnotation, match=f"height: expected {H}"):
        open_dataset(write(tmp_path, size=(H + 1, W)))
    write(tmp_path, polygon())
    write(tmp_path, polygon(), ann="b.png.json")
    with pytest.raises(BrokenAnnotation, match=r"to find .*img/b\.png"):
        SuperviselyDataset().load_supervisely(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no ann/\*\.json"):
        SuperviselyDataset().load_supervisely(tmp_path / "ds" / "img")
