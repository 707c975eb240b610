"""The training and validation images of `mrcnn train`."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mrcnn.data.dataset import Dataset

SPLITS = ("train", "val")
VALIDATION_SHARE = 0.2


@dataclass
class Split:
    """Training and validation images.

    Attributes:
        train, val: Prepared datasets with the same classes.
        kind: "given" (two datasets), "splits" (of the dataset itself), "hash", or "one" (a single image for both).
        choice, reason: What was chosen, in words.
    """

    train: Dataset
    val: Dataset
    kind: str
    choice: str
    reason: str


def open_split(data: Path, val: Path | None, seed: int, **options: Any) -> Split:
    """Opens a dataset of any format for training.

    Args:
        data: Folder or file. If it has the splits train and val, they are used; otherwise a fifth of the images,
            chosen by a hash of `seed` and the image's id, are for validation.
        val: Another dataset for validation; None: from `data`.
        **options: Of `open_dataset`.

    Raises:
        Exception: those of `open_dataset`.
    """
    from mrcnn.data.format_detection import open_dataset, open_splits
    from mrcnn.data.formats.recognition import UnknownFormat

    if val is not None:
        train = open_dataset(data, **options)
        validation = open_dataset(val, **{**options, "classes": train})
        return with_reason(train, validation, "given", f"{data} and {val}", "as given")
    try:
        train, validation = open_splits(data, SPLITS, **options)
    except UnknownFormat as no_splits:
        try:
            whole = open_dataset(data, **options)
        except UnknownFormat as no_dataset:
            message = f"{no_dataset}\nIt has no splits either: {no_splits}"
            raise UnknownFormat(message, no_dataset.short) from no_dataset
        return split_by_hash(whole, seed)
    return with_reason(train, validation, "splits", "train and val", f"{data} has these splits")


def with_reason(train: Dataset, val: Dataset, kind: str, choice: str, reason: str) -> Split:
    return Split(train, val, kind, f"{choice}: {train.num_images} and {val.num_images} images", reason)


def split_by_hash(whole: Dataset, seed: int) -> Split:
    """Takes a fifth of the images, at least one, for validation. The same images give the same split everywhere."""
    keys = [zlib.crc32(f"{seed}/{info['source']}.{info['id']}".encode()) for info in whole.image_info]
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    count = max(1, round(VALIDATION_SHARE * len(order)))
    if len(order) < 2:
        return with_reason(whole, whole, "one", "the same image for both", "there is only one; the AP is meaningless")
    val, train = sorted(order[:count]), sorted(order[count:])
    reason = f"there are no splits train and val; a fifth is for validation, by a hash of the image and the seed {seed}"
    return with_reason(part_of(whole, train), part_of(whole, val), "hash", "by image", reason)


def part_of(dataset: Dataset, image_ids: Sequence[int]) -> Dataset:
    """A prepared dataset with a subset of another one's images and all of its classes."""
    part = copy.copy(dataset)
    part.image_info = [dataset.image_info[i] for i in image_ids]
    part.prepare()
    return part


def reading_masks_once(dataset: Dataset) -> Dataset:
    """A copy of a prepared dataset that keeps the masks it has read, as run lengths."""
    import numpy as np

    from mrcnn.data.ground_truth import load_masks
    from mrcnn.ops.rle import decode_crops, encode_masks

    kept: dict[int, tuple] = {}

    def load_mask(image_id: int) -> tuple[np.ndarray, np.ndarray]:
        if image_id not in kept:
            masks, class_ids = load_masks(dataset, image_id)
            kept[image_id] = masks.shape, encode_masks(masks != 0), class_ids
            return masks, class_ids
        shape, rles, class_ids = kept[image_id]
        masks = np.zeros(shape, bool)
        for i, ((y1, x1, y2, x2), mask) in enumerate(decode_crops(rles)):
            masks[y1:y2, x1:x2, i] = mask
        return masks, class_ids

    copied = copy.copy(dataset)
    copied.load_mask = load_mask
    return copied
