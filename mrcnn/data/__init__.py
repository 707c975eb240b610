"""Data on its way to the network: data sets and their formats, loading, augmenting, targets, batches.

NumPy and OpenCV only, but for the `keras.utils.PyDataset` that `generator.DataGenerator` is.
"""

from __future__ import annotations


def __getattr__(name):
    # Only when it is asked for: the formats bring pycocotools and more.
    if name == "open_dataset":
        from mrcnn.data.format_detection import open_dataset

        return open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
