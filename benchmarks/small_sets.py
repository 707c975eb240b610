"""Small sets of photos for `benchmarks/training.py`, each split into training and validation photos.

    balloon   matterport's: 61 and 13 photos, polygons of the VGG Image Annotator
    nuclei    Data Science Bowl 2018: 36 and 12 microscope images, one PNG per nucleus
    person    the photos of COCO val2017 with people that are at hand: three quarters and one quarter
    mammals   labelme files of those COCO photos that have cats, dogs, sheep, elephants..., written here with one class
              for all of them: likewise
    shapes    200 and 100 images of samples/shapes.py; every twentieth training image has triangles, to measure what is
              meant for several classes and for rare ones

DATA is a folder like `../shared/data`. Every fourth image, in the order of the files, is for validation; balloon and
shapes have their own splits.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.labelme import save_labelme
from samples.shapes import EVALUATION, TRAINING, shapes_dataset

PHOTO_SETS = ("balloon", "nuclei", "person", "mammals")
SETS = (*PHOTO_SETS, "shapes")
VALIDATION_EVERY = 4
SHAPES, SHAPES_VALIDATION, TRIANGLES_EVERY = 200, 100, 20  # images
MAMMALS = ["cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"]


def small_set(name: str, data: Path, folder: Path) -> tuple[Dataset, Dataset]:
    """Training and validation images of one of `SETS`; `folder` receives the files that are written."""
    if name == "balloon":
        return tuple(open_splits(data / "balloon"))
    if name == "nuclei":
        return split(open_dataset(data / "nuclei" / "stage1_train"))
    if name == "person":
        return split(open_dataset(data / "coco_val", classes=["person"]))
    if name == "shapes":
        return few_triangles(), shapes_dataset(SHAPES_VALIDATION, EVALUATION)
    write_mammals(data, folder / "mammals")
    return split(open_dataset(folder / "mammals", classes=["mammal"], root=data.resolve()))


def write_mammals(data: Path, folder: Path) -> None:
    for path in save_labelme(open_dataset(data / "coco_val", classes=MAMMALS), folder):
        annotation = json.loads(path.read_text(encoding="utf-8"))
        for shape in annotation["shapes"]:
            shape["label"] = "mammal"
        path.write_text(json.dumps(annotation), encoding="utf-8")


def few_triangles() -> Dataset:
    dataset = shapes_dataset(5 * SHAPES, TRAINING)
    has = [any(shape == "triangle" for shape, _, _ in info["shapes"]) for info in dataset.image_info]
    rare = SHAPES // TRIANGLES_EVERY
    chosen = [*np.flatnonzero(has)[:rare], *np.flatnonzero(np.logical_not(has))[: SHAPES - rare]]
    dataset.image_info = [dataset.image_info[i] for i in chosen]
    dataset.prepare()
    return dataset


def split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Every fourth image is for validation."""
    training, validation = copy.copy(dataset), copy.copy(dataset)
    training.image_info = [info for i, info in enumerate(dataset.image_info) if i % VALIDATION_EVERY]
    validation.image_info = dataset.image_info[::VALIDATION_EVERY]
    for part in (training, validation):
        part.prepare()
    return training, validation
