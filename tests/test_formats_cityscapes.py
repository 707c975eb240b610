"""Cityscapes: which labels are objects, what covers what, and groups."""

from __future__ import annotations

import json

import numpy as np
import pytest
from formats_kit import H, W, photo

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.cityscapes import INSTANCES


def box(label, left, top, right, bottom, **more):
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]], **more}


def write(folder, *objects, subset="train", kind="gtFine", size=(H, W), stem="ulm_000001_000019"):
    photo(folder / "leftImg8bit" / subset / "ulm" / f"{stem}_leftImg8bit.png")
    path = folder / kind / subset / "ulm" / f"{stem}_{kind}_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": list(objects)}))
    return folder


def objects_of(dataset):
    masks, class_ids = dataset.load_mask(0)
    names = ["crowd of " * (i < 0) + dataset.class_names[abs(i)] for i in class_ids.tolist()]
    return dict(zip(names, np.moveaxis(masks, -1, 0)))


def test_later_polygons_cover_earlier_ones_of_any_label(tmp_path):
    road, car, pole = box("road", 0, 0, 39, 29), box("car", 2, 3, 11, 12), box("pole", 5, 0, 6, 29)
    person, hidden = box("person", 10, 8, 14, 20), box("bicycle", 11, 9, 13, 19)
    dataset = open_dataset(write(tmp_path, road, car, hidden, pole, person))
    found = objects_of(dataset)
    assert list(found) == ["car", "person"] and dataset.class_names == ["BG", *INSTANCES]
    assert found["car"].sum() == 100 - 20 - 2 * 5  # without the pole and the person
    assert found["person"].sum() == 5 * 13


def test_groups_are_crowds_and_deleted_polygons_are_ignored(tmp_path):
    gone = box("car", 0, 0, 39, 29, deleted=1)
    found = objects_of(open_dataset(write(tmp_path, box("cargroup", 2, 3, 5, 6), box("trailer", 9, 9, 12, 12), gone)))
    assert list(found) == ["crowd of car"] and found["crowd of car"].sum() == 16
    found = objects_of(open_dataset(tmp_path, classes=["trailer"]))
    assert list(found) == ["trailer"]


@pytest.mark.parametrize("kind", ["gtFine", "gtCoarse"])
@pytest.mark.parametrize("inner", ["", "{}", "{}/train", "{}/train/ulm"])
def test_any_folder_or_file_of_the_dataset_can_be_opened(tmp_path, kind, inner):
    write(tmp_path, box("car", 2, 3, 5, 6), kind=kind)
    dataset = open_dataset(tmp_path / inner.format(kind))
    assert dataset.num_images == 1 and dataset.load_mask(0)[0].sum() == 16


def test_splits_and_images_beside_the_polygons(tmp_path):
    for subset in ("train", "val"):
        write(tmp_path, box("bus", 2, 3, 5, 6), subset=subset)
    train, val = open_splits(tmp_path)
    assert train.class_names == val.class_names and val.num_images == 1
    image = tmp_path / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"
    image.rename(tmp_path / "gtFine/val/ulm/ulm_000001_000019.png")
    assert open_dataset(tmp_path / "gtFine/val").num_images == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (box("car", 2, 3, 5, float("inf")), r"objects\[0\]: points: expected numbers within 10 image sizes"),
        ({"label": "car", "polygon": [[1, 2]]}, "three or more points"),
        ({"polygon": [[1, 2]]}, "label: expected a label, got 'nothing'"),
        ([], "object: expected an object"),
    ],
)
def test_broken_objects_are_named(tmp_path, entry, message):
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(write(tmp_path, entry))


def test_broken_sets_are_named(tmp_path):
    with pytest.raises(BrokenAnnotation, match=f"width: expected {W}"):
        open_dataset(write(tmp_path, size=(H, W + 2)))
    write(tmp_path)
    next(tmp_path.rglob("*_leftImg8bit.png")).unlink()
    with pytest.raises(BrokenAnnotation, match=r"to find .*leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit\.png"):
        open_dataset(tmp_path)
