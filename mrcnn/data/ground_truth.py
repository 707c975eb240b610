"""Calls `Dataset.load_mask` and checks the masks and class ids that it returns; errors name the image.

Shapes:
    H0, W0  height and width of the image file, pixels
    N       objects of the image
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from mrcnn.data.dataset import Dataset, describe_image, image_size


def load_masks(dataset: Dataset, image_id: int, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Calls `dataset.load_mask` and checks what it returned, except the range of the class ids.

    Args:
        dataset: prepared Dataset.
        image_id: int, one of dataset.image_ids.
        size: (H0, W0), the image's height and width, which the masks must have; None: any size.

    Returns:
        masks: [H0, W0, N] bool or any number type; a pixel that isn't 0 belongs to the object. H0 and W0 are the
            image's even if N is 0.
        class_ids: [N] int32; negative for a crowd.

    Raises:
        ValueError: masks and class ids don't fit together or don't fit the image. The message names the dataset and
            the image, what was returned and what was expected.

    Example:
        >>> from mrcnn.data.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.add_image("toys", 0, path=None, height=4, width=6)
        >>> dataset.prepare()
        >>> masks, class_ids = load_masks(dataset, 0)
        >>> masks.shape, class_ids.shape
        ((4, 6, 0), (0,))
    """
    loaded = dataset.load_mask(image_id)
    if not isinstance(loaded, (tuple, list)) or len(loaded) != 2:
        _refuse(dataset, image_id, f"a {type(loaded).__name__}", "a pair (masks, class_ids)")
    masks, class_ids = np.asarray(loaded[0]), np.asarray(loaded[1])
    if masks.dtype.kind not in "biuf":
        _refuse(dataset, image_id, f"masks of type {masks.dtype}", "bool or numbers")
    class_ids = _whole_numbers(class_ids, dataset, image_id)
    if masks.ndim != 3 or masks.shape[-1] != len(class_ids):
        got = f"masks of shape {masks.shape} and {len(class_ids)} class ids"
        _refuse(dataset, image_id, got, "masks [height, width, N] and N class ids")
    if not len(class_ids):  # matterport's base class returns masks of shape [0, 0, 0]
        known = masks.shape[:2] if size is None and 0 not in masks.shape[:2] else size
        return np.zeros((*(known or image_size(dataset, image_id)), 0), bool), class_ids
    if size is not None and masks.shape[:2] != tuple(size):
        got = f"masks of {masks.shape[0]} x {masks.shape[1]} pixels (height x width)"
        _refuse(dataset, image_id, got, f"{size[0]} x {size[1]}, the size of the image")
    if masks.dtype.kind == "f" and np.isnan(masks).any():
        _refuse(dataset, image_id, "masks with NaN", "0 and 1, or bool")
    return masks, class_ids


def check_class_ids(class_ids: np.ndarray, dataset: Dataset, image_id: int, which: np.ndarray | bool = True) -> None:
    """Raises an error if a class id is neither that of a class of the dataset nor the negative of one.

    Args:
        class_ids: [N] int, as `load_masks` returned them.
        dataset, image_id: as in `load_masks`.
        which: [N] bool, the objects to check; True: all.

    Raises:
        ValueError: the message names the dataset, the image and the first wrong object.
    """
    wrong = np.flatnonzero(which & ((class_ids == 0) | (np.abs(class_ids) >= dataset.num_classes)))
    if len(wrong):
        expected = f"1..{dataset.num_classes - 1} (0 is the background; a crowd's is negative)"
        _refuse(dataset, image_id, f"class id {class_ids[wrong[0]]} (object {wrong[0]})", expected)


def _whole_numbers(class_ids: np.ndarray, dataset: Dataset, image_id: int) -> np.ndarray:
    if class_ids.size == 0:
        return np.zeros(0, np.int32)
    if class_ids.dtype.kind not in "biuf" or class_ids.ndim != 1 or (class_ids != np.floor(class_ids)).any():
        _refuse(dataset, image_id, f"class ids {class_ids.tolist()}", "whole numbers [N]")
    return class_ids.astype(np.int32)


def _refuse(dataset: Dataset, image_id: int, got: str, expected: str) -> NoReturn:
    name = type(dataset).__name__
    raise ValueError(f"{name}.load_mask returned {got} for {describe_image(dataset, image_id)}; expected {expected}.")
