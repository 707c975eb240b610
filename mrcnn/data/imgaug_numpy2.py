"""Repairs of imgaug for NumPy 2. imgaug itself is no longer maintained.

`pyimgaug` 0.5.0, which the extra `imgaug` installs, is imgaug's last development state, made importable on NumPy 2.
imgaug 0.4.0, its last release, cannot be imported there without `np.sctypes`.
"""

from __future__ import annotations

import functools

import numpy as np


def restore_sctypes() -> None:
    """Gives NumPy the table `np.sctypes` back, so that imgaug 0.4.0 can be imported."""
    if hasattr(np, "sctypes"):
        return
    np.sctypes = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
        "complex": [np.complex64, np.complex128, np.clongdouble],
        "others": [bool, object, bytes, str, np.void],
    }


@functools.cache
def repair_augmenters() -> None:
    """Repairs `Crop`, `CropAndPad` and `RandAugment` of pyimgaug 0.5.0.

    They convert arrays of one element to Python numbers, which NumPy 2.4 refuses.
    """
    from imgaug.augmenters import size

    if hasattr(size, "_prevent_zero_sizes_after_crops_"):
        size._prevent_zero_size_after_crop_ = functools.partial(_crop_of_one_axis, size)


def _crop_of_one_axis(size, axis_size, crop_start, crop_end):
    arrays = (np.array([value], np.int32) for value in (axis_size, crop_start, crop_end))
    return (int(values[0]) for values in size._prevent_zero_sizes_after_crops_(*arrays))
