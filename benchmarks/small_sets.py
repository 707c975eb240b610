"""Four small sets of photos for `benchmarks/training.py`, each split into training and validation photos.

    balloon   matterport's: 61 and 13 photos, polygons of the VGG Image Annotator
    nuclei    Data Science Bowl 2018: 36 and 12 microscope images, one PNG per nucleus
    person    the photos of COCO val2017 with people that are at hand: three quarters and one quarter
    kitchen   labelme files of those COCO photos that have cups, bottles or bowls, written here: likewise

DATA is a folder like `../shared/data`. Every fourth image, in the order of the files, is for validation; balloon has
its own split.
"""

from __future__ import annotations

import copy
from pathlib import Path

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.labelme import save_labelme

SETS = ("balloon", "nuclei", "person", "kitchen")
VALIDATION_EVERY = 4
KITCHEN = ["cup", "bottle", "bowl"]


def small_set(name: str, data: Path, folder: Path) -> tuple[Dataset, Dataset]:
    """Training and validation images of one of `SETS`; `folder` receives the files that are written."""
    if name == "balloon":
        return tuple(open_splits(data / "balloon"))
    if name == "nuclei":
        return split(open_dataset(data / "nuclei" / "stage1_train"))
    if name == "person":
        return split(open_dataset(data / "coco_val", classes=["person"]))
    save_labelme(open_dataset(data / "coco_val", classes=KITCHEN), folder / "kitchen")
    return split(open_dataset(folder / "kitchen", classes=KITCHEN, root=data.resolve()))


def split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Every fourth image is for validation."""
    training, validation = copy.copy(dataset), copy.copy(dataset)
    training.image_info = [info for i, info in enumerate(dataset.image_info) if i % VALIDATION_EVERY]
    validation.image_info = dataset.image_info[::VALIDATION_EVERY]
    for part in (training, validation):
        part.prepare()
    return training, validation
