"""The converter of any format to COCO, YOLO, labelme or CVAT: the masks stay the same, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from formats_kit import H, W, objects, parts, photo, ring

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.convert import convert

CASES = [
    "cvat_images_xml",
    "kaggle_rle_csv",
    "cvat_coco_boxes",
    "roboflow_coco_category_0",
    "via2_coco_export",
    "labelme_imagepath_is_the_json",
    "voc_exif_orientation_65537",
    "voc_segmentation_object",
]


def by_file(dataset):
    """{file stem: (masks, names)}"""
    return {str(info["path"]).replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]: objects(dataset, i)
            for i, info in enumerate(dataset.image_info)}  # fmt: skip


def assert_same(dataset, other):
    first, second = by_file(dataset), by_file(other)
    assert first.keys() == second.keys()
    for name, (masks, names) in first.items():
        np.testing.assert_array_equal(masks, second[name][0])
        assert names == second[name][1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_real_exports_are_converted(shared, tmp_path, case):
    dataset = open_dataset(shared / "cases" / case)
    for to in ("coco", "yolo", "labelme", "cvat"):
        (written,) = convert(shared / "cases" / case, tmp_path / to, to)
        assert_same(dataset, open_dataset(written, root=shared / "cases" / case))


def write_coco(folder, split):
    photo(folder / split / "a.png")
    pixels = [np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0])) for mask in (ring(), parts())]
    counts = [np.diff(np.r_[0, edges, H * W]).tolist() for edges in pixels]
    annotations = [
        {"id": i, "image_id": 1, "category_id": i, "segmentation": {"size": [H, W], "counts": count}, "iscrowd": i - 1}
        for i, count in enumerate(counts, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / split / "x.json").write_text(json.dumps(content))


@pytest.mark.parametrize("to", ["coco", "labelme", "yolo", "cvat"])
def test_splits(tmp_path, to):
    for split in ("train", "valid"):
        write_coco(tmp_path / "in", split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of crowds, which YOLO hasn't
        written = convert(tmp_path / "in", tmp_path / "out", to, splits=["train", "val"])
    assert len(written) == 2
    for dataset in open_splits(tmp_path / "out", classes=["cat", "dog"], root=tmp_path / "in"):
        masks, names = objects(dataset, 0)
        np.testing.assert_array_equal(masks[..., 0], ring())
        assert names == [("cat", False), ("dog", True)][: 1 if to == "yolo" else 2]


def test_the_converter_needs_no_tensorflow(tmp_path):
    code = "import sys, mrcnn.data.convert; print({'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
