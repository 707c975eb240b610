"""Mask R-CNN on Keras 3: finds objects in images and returns a box, a class and a pixel mask for each.

    from mrcnn import Config, Dataset, MaskRCNN, open_dataset

matterport's imports work as well: `from mrcnn import model as modellib, utils, visualize`.

`import mrcnn` loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "1.0.0"
__all__ = ["Config", "Dataset", "Detections", "MaskRCNN", "open_dataset", "open_splits"]

_HOMES = {
    "Config": "mrcnn.config",
    "Dataset": "mrcnn.data.dataset",
    "Detections": "mrcnn.inference.results",
    "MaskRCNN": "mrcnn.model",
    "open_dataset": "mrcnn.data.format_detection",
    "open_splits": "mrcnn.data.format_detection",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'mrcnn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
