"""The cases in ../shared/cases open with the right values, which were determined without this package."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import SHARED

from mrcnn.data import open_dataset

CASES = SHARED / "cases"
OPTIONS = {"cvat_coco_brush_masks": {"crowds_as_objects": True}}
WARNINGS = {
    "cvat_coco_boxes": "2 of 2 objects have only a box",
    "voc_exif_orientation_65537": "the EXIF orientation is 65537; expected 1..8|2 of 2 objects have only a box",
    "yolo_labels_without_image": r"no image for 1 text files of labels.*000000000659\.txt",
}
FIRST_AREAS = ("area_of_annotation_0", "area_of_region_0", "area_of_shape_0", "area_of_row_0", "area_of_box_0")


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} does not exist")
@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("*/")) if CASES.is_dir() else [])
def test_a_case_opens_with_the_right_values(name, recwarn):
    right = json.loads((CASES / "right_values.json").read_text())[name]
    dataset = open_dataset(CASES / name, **OPTIONS.get(name, {}))
    objects = [dataset.load_mask(image_id) for image_id in dataset.image_ids]
    areas = [area for masks, _ in objects for area in masks.sum(axis=(0, 1)).tolist()]
    shown = [dataset.class_names[abs(i)] for _, class_ids in objects for i in class_ids.tolist()]
    assert len(shown) == len(areas) and all(i > 0 for _, class_ids in objects for i in class_ids)
    for masks, image_id in zip((masks for masks, _ in objects), dataset.image_ids):
        assert dataset.load_image(image_id).shape[:2] == masks.shape[:2] == tuple(right.get("size", masks.shape[:2]))
    warned = {(warning.filename, str(warning.message)) for warning in recwarn}
    assert {file for file, _ in warned} == ({__file__} if name in WARNINGS else set())
    assert all(re.search(WARNINGS[name], text) for _, text in warned)
    assert dataset.num_images == right["images"] and len(areas) == right.get("instances", len(areas))
    classes = right.get("classes", dataset.num_classes - 1)
    assert (dataset.class_names[1:] if isinstance(classes, list) else dataset.num_classes - 1) == classes
    if "num_classes" in right:
        assert dataset.num_classes == right["num_classes"] and set(shown) <= set(right["classes_in_use"])
    for key in FIRST_AREAS:
        assert areas[0] == right.get(key, areas[0]) if areas else key not in right
    assert {right[key] for key in ("area_of_polygon", "area_of_mask") if key in right} <= set(areas)
    if "objects" in right:
        assert [(thing["cls"], thing["area"]) for thing in right["objects"]] == list(zip(shown, areas))
    if "bbox_0" in right:
        ys, xs = np.nonzero(objects[0][0][..., 0])
        x, y, width, height = right["bbox_0"]
        found = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        np.testing.assert_allclose(found, [x, y, width, height], atol=1)
