"""LVIS, COCO panoptic, darknet's lists; and formats that aren't read, but named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from formats_kit import H, W, parts, photo, ring
from PIL import Image

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.format_detection import UnknownFormat
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.panoptic import PanopticDataset


# ---- LVIS ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["train2017", "coco/train2017", ""])
def test_lvis_finds_images_by_the_url_of_coco(tmp_path, place):
    photo(tmp_path / place / "000000000009.png")
    image = {"id": 9, "height": H, "width": W, "coco_url": "http://images.cocodataset.org/train2017/000000000009.png",
             "neg_category_ids": [1], "not_exhaustive_category_ids": []}  # fmt: skip
    annotation = {
        "id": 1,
        "image_id": 9,
        "category_id": 2,
        "segmentation": [[3, 2, 9, 2, 9, 8, 3, 8]],
        "bbox": [3, 2, 6, 6],
    }
    categories = [{"id": 1, "name": "cat", "frequency": "c"}, {"id": 2, "name": "dog", "frequency": "r"}]
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps({"annotations": [annotation], "images": [image], "categories": categories}))
    with pytest.warns(UserWarning, match="in LVIS, an image has all objects only of some classes"):
        dataset = open_dataset(path)
    assert dataset.load_mask(0)[0].sum() == 36 and dataset.load_mask(0)[1].tolist() == [2]


# ---- COCO panoptic ---------------------------------------------------------------------------------------------------
def write_panoptic(folder, name="panoptic_val2017", padding=0, **changes):
    numbers = np.full((H, W), 3_000_000)
    numbers[ring()], numbers[parts()] = 70_000, 300
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)
    photo(folder / "val2017" / "a.png")
    (folder / "annotations" / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors).save(folder / "annotations" / name / "a.png")
    segments = [{"id": 70_000, "category_id": 1}, {"id": 300, "category_id": 2, "iscrowd": 1},
                {"id": 3_000_000, "category_id": 9}]  # fmt: skip
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": H, "width": W, "padding": "x" * padding}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 1},
                       {"id": 9, "name": "sky", "isthing": 0}],
        **changes,
    }  # fmt: skip
    path = folder / "annotations" / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("padding", [0, 1 << 17])
def test_panoptic_things_are_objects(tmp_path, padding):
    """Also if the beginning of the file has nothing but images, as that of COCO's own ones."""
    path = write_panoptic(tmp_path, padding=padding)
    for place in (path, tmp_path):
        dataset = open_dataset(place)
        masks, class_ids = dataset.load_mask(0)
        assert isinstance(dataset, PanopticDataset) and dataset.class_names == ["BG", "cat", "dog"]
        assert class_ids.tolist() == [1, -2]
        np.testing.assert_array_equal(masks, np.stack([ring(), parts()], axis=-1))


def test_instances_come_before_panoptic_files(tmp_path):
    write_panoptic(tmp_path)
    square = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[3, 2, 9, 2, 9, 8, 3, 8]]}
    content = {"images": [{"id": 7, "file_name": "a.png", "height": H, "width": W}], "annotations": [square],
               "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert type(open_dataset(tmp_path)).__name__ == "CocoDataset"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [{"image_id": 8, "segments_info": []}]},
            r"annotations\[0\]: image_id: expected the id of one",
        ),
        ({"annotations": [{"image_id": 7, "file_name": "b.png", "segments_info": []}]}, r"to find .*b\.png"),
        ({"annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": [{"id": 1}]}]}, "segments_info"),
        ({"categories": [{"id": 1}]}, "name: expected a text"),
    ],
)
def test_broken_panoptic_files_are_named(tmp_path, changes, message):
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(write_panoptic(tmp_path, **changes))


# ---- Darknet ---------------------------------------------------------------------------------------------------------
def write_darknet(folder, **lists):
    lists = {"train": "data/obj_train_data/a.png\n", "valid": "data/obj_train_data/b.png\n", **lists}
    for name in "ab":
        photo(folder / "obj_train_data" / f"{name}.png")
    (folder / "obj_train_data" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (folder / "obj.names").write_text("cat\ndog\n")
    for key, text in lists.items():
        (folder / f"{key}.txt").write_text(text)
    keys = "".join(f"{key} = data/{key}.txt\n" for key in lists)
    (folder / "obj.data").write_text(f"classes = 2\n{keys}names = data/obj.names\nbackup = backup/\n")
    return folder / "obj.data"


def test_darknet_lists_as_cvat_exports_them(tmp_path):
    path = write_darknet(tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 1 objects have only a box"):
        for place in (path, tmp_path):
            dataset = open_dataset(place)
            masks, class_ids = dataset.load_mask(0)
            assert (
                dataset.class_names == ["BG", "cat", "dog"] and class_ids.tolist() == [2] and masks.sum() == 14 * 20
            )  # 7.5..22.5 x 10..30
        train, val = open_splits(tmp_path)
    assert (train.num_images, val.num_images) == (1, 1) and val.load_mask(0)[0].shape[-1] == 0


def test_broken_darknet_lists_are_named(tmp_path):
    path = write_darknet(tmp_path, train="data/obj_train_data/c.png\n")
    with pytest.raises(BrokenAnnotation, match=r"to find .*c\.png"):
        open_dataset(path)
    (tmp_path / "obj.names").unlink()
    with pytest.raises(BrokenAnnotation, match=r"names: expected to find data/obj\.names"):
        open_dataset(path)


# ---- Not read --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "v1", "dataset": {"name": "u/d", "task_type": "segmentation-bitmap", "samples": []}}, "Segments.ai"),
        (
            {"images": [{"image_id": 1, "file_name": "a.jpg", "annotations": []}]},
            "OCHuman's own form: open ochuman_coco",
        ),
        ([{"ID": "x", "Labeled Data": "u", "Label": {}}], "Labelbox export: convert it to COCO"),
        ({"version": "2.0", "item": {"name": "a"}, "annotations": []}, "V7 Darwin JSON: export it as COCO"),
        ({"info": {}, "categories": {}, "items": []}, "Datumaro's own JSON"),
        ([{"version": 0, "tags": [], "shapes": [], "tracks": []}], "CVAT task backup"),
        ([{"image": "a.jpg", "annotations": [{"label": "cat"}]}], "CreateML"),
        ([{"name": "a.jpg", "labels": []}], "Scalabel"),
        ([{"image_id": 1, "category_id": 2, "score": 0.5, "bbox": []}], "results format, not annotations"),
    ],
)
def test_unsupported_exports_are_named_with_an_alternative(tmp_path, content, message):
    (tmp_path / "x.json").write_text(json.dumps(content))
    for place in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(UnknownFormat, match=rf"x\.json is .*{message}"):
            open_dataset(place)


@pytest.mark.parametrize(("name", "message"), [("a.tfrecord", "TFRecord: export it as COCO"), ("a.zip", "unpack it")])
def test_unsupported_files_are_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UnknownFormat, match=message):
        open_dataset(tmp_path)
