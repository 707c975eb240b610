"""Datasets and their formats, loading, augmentation, training targets and batches.

Uses NumPy and OpenCV only, apart from `keras.utils.PyDataset`, the base class of `generator.DataGenerator`.
"""

from __future__ import annotations


def __getattr__(name):
    # Imported on first use, because the formats import pycocotools and other packages.
    if name in ("open_dataset", "open_splits"):
        from mrcnn.data import format_detection

        return getattr(format_detection, name)
    if name == "check":
        from mrcnn.data import doctor

        return doctor.check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
