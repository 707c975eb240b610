"""Writes a copy of a dataset that fixes the doctor's errors and warnings.

    <folder>/annotations/instances_train.json, instances_val.json     COCO, masks as run lengths, boxes from the masks
    <folder>/train/, <folder>/val/                                    the photos

Left out are images that can't be read, are blank, or are copies; and objects without a pixel, of one pixel, of the
whole image, or that are there twice. Near-equal class names become the most frequent of them, classes that no training
image shows are left out, and crowds become objects where most objects are crowds.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.doctor.dataset_checks import Splits, name_key
from mrcnn.data.doctor.findings import Findings
from mrcnn.data.doctor.image_checks import ImageRecord
from mrcnn.data.formats import writers
from mrcnn.data.formats.coco import save_coco
from mrcnn.data.ground_truth import load_masks
from mrcnn.io import replacing

SOURCE = "clean"
OF_ENTRIES = ("missing-image", "unreadable-image", "wrong-size", "broken-annotation")  # that readers leave out


class CleanDataset(Dataset):
    """The images and objects of a dataset that are kept, under the names of classes that are kept.

    Args:
        dataset: the dataset.
        records: of the images that are kept.
        names: {name of a class in the dataset: its name here}, without the classes that are left out.
        crowds_as_objects: whether crowds become objects.
    """

    def __init__(self, dataset: Dataset, records: list[ImageRecord], names: dict[str, str], crowds_as_objects: bool):
        super().__init__()
        self.original, self.records, self.crowds_as_objects = dataset, records, crowds_as_objects
        ids = {name: i for i, name in enumerate(dict.fromkeys(names.values()), start=1)}
        for name, i in ids.items():
            self.add_class(SOURCE, i, name)
        own = [ids.get(names.get(name, ""), 0) for name in dataset.class_names]
        self.new_ids = np.array(own, np.int32)  # of each class of the dataset; 0: left out
        for record in records:
            info = dataset.image_info[record.image_id]
            size = {side: info[side] for side in ("height", "width") if info.get(side)}
            self.add_image(SOURCE, record.name, info["path"], **size)
        self.prepare()

    def load_image(self, image_id: int) -> NDArray:
        """Same as for the dataset."""
        return self.original.load_image(self.records[image_id].image_id)

    def load_mask(self, image_id: int) -> tuple[NDArray, NDArray[np.int32]]:
        """Same as for the dataset, without the objects that are left out."""
        record = self.records[image_id]
        masks, class_ids = load_masks(self.original, record.image_id)
        new_ids = np.sign(class_ids) * self.new_ids[np.abs(class_ids)]
        new_ids = np.abs(new_ids) if self.crowds_as_objects else new_ids
        kept = record.kept & (new_ids != 0)
        return masks[..., kept], new_ids[kept].astype(np.int32)


def write_clean(
    folder: Path, datasets: dict[str, Dataset], splits: Splits, copied: list[ImageRecord], found: Findings,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes the copy.

    Args:
        folder: to write to.
        datasets, splits: datasets and records of their images, by split.
        copied: records of the images that are copies of others.
        found: what was found.
        progress: whether to show progress bars.

    Returns:
        {"folder", "files", "images", "objects": {split: how many are left}, "images_left_out", "objects_left_out":
        {split: how many; objects of images that can't be read aren't known}, "classes": names, "renamed",
        "classes_left_out"}.

    Raises:
        ValueError: no image of a split is left.
    """
    out = {id(record) for record in copied}
    kept = {split: [one for one in records if one.usable and id(one) not in out] for split, records in splits.items()}
    names = _class_names(datasets, kept)
    crowds = {finding.split for finding in found if finding.code == "crowds"}
    report: dict[str, Any] = {"folder": str(folder), "files": [], "classes": list(dict.fromkeys(names.values()))}
    every = {name for dataset in datasets.values() for name in dataset.class_names[1:]}
    report["renamed"] = {old: new for old, new in names.items() if old != new}
    report["classes_left_out"] = sorted(every - set(names))
    for split, records in kept.items():
        if not records:
            raise ValueError(f"No image of {split} is left, so {folder} isn't written; see the errors.")
        clean = CleanDataset(datasets[split], records, names, split in crowds)
        _copy_photos(clean, folder / split)
        file = save_coco(clean, folder / "annotations" / f"instances_{split}.json", progress=progress)
        objects = sum(len(clean.load_mask(i)[1]) for i in clean.image_ids)
        before = sum(len(record.kept) for record in splits[split])
        unread = {
            (one.file, one.entry) for one in found if one.split == split and not one.image and one.code in OF_ENTRIES
        }
        report["files"].append(str(file))
        for key, number in (
            ("images", len(records)),
            ("objects", objects),
            ("images_left_out", len(unread) + len(splits[split]) - len(records)),
            ("objects_left_out", before - objects),
        ):
            report.setdefault(key, {})[split] = number
    return report


def _class_names(datasets: dict[str, Dataset], kept: dict[str, list[ImageRecord]]) -> dict[str, str]:
    """{name: name in the copy} of the classes that training images show, in their order."""
    counts = {split: _count_objects(datasets[split], records) for split, records in kept.items()}
    total = sum(counts.values(), Counter())
    groups: dict[str, list[str]] = {}
    for dataset in datasets.values():
        for name in dataset.class_names[1:]:
            groups.setdefault(name_key(name), []).append(name)
    trained = next(iter(counts.values()))  # the training split, if there is one
    names = {}
    for group in groups.values():
        if any(trained[name] for name in group):
            best = max(dict.fromkeys(group), key=lambda name: total[name])
            names |= dict.fromkeys(group, best)
    return names


def _count_objects(dataset: Dataset, records: list[ImageRecord]) -> Counter:
    """Number of objects that are kept, by class."""
    counts: Counter = Counter()
    for record in records:
        counts.update(dataset.class_names[i] for i in record.measured["class_ids"][record.kept].tolist())
    return counts


def _copy_photos(clean: CleanDataset, folder: Path) -> None:
    """Copies the photos and sets their paths. Images without their own file, and rotated ones, become PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for image_id in clean.image_ids.tolist():
        stem = writers.file_stem(clean, image_id, taken)
        size = clean.records[image_id].measured["image_sizes"][0].tolist()
        file = writers.image_file(clean, image_id, tuple(size), folder / f"{stem}.png")
        if is_url(file):
            raise ValueError(
                f"{clean.image_info[image_id]['path']} is a URL; expected files, to copy them to {folder}."
            )
        copy = folder / f"{stem}{Path(file).suffix}"
        if Path(file) != copy:
            with replacing(copy) as unfinished:
                shutil.copyfile(file, unfinished)
        clean.image_info[image_id]["path"] = str(copy)
