"""Annotation formats. Each module is one format, with a `Dataset` subclass that reads it and a `FORMAT` that lets
`open_dataset` recognize and open it.

To add a format, write such a module and add its name to `MODULES`. Shared code is in `parsing` (errors, JSON,
class names), `recognition` (`Format`, `Place`), `image_files`, `exif`, `rasterize` and `writers`.
"""

from __future__ import annotations

from mrcnn.data.formats.broken import BrokenAnnotation
from mrcnn.data.formats.parsing import read_json

__all__ = ["MODULES", "BrokenAnnotation", "read_json"]

MODULES = (
    "via",
    "label_studio",
    "supervisely",
    "cityscapes",
    "panoptic",
    "coco",
    "labelme",
    "cvat",
    "voc",
    "yolo",
    "rle_csv",
    "open_images",
    "instance_pngs",
    "id_png",
    "m2nist",
)
