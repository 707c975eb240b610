"""The box and extent that annotations give for each object, before it is drawn.

Masks don't show these: parts outside the image are cut off, and most readers drop objects without a pixel.

Boxes are (y1, x1, y2, x2) in pixels; y2 and x2 are just outside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import shapes

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotated:
    """The box and extent of an object in its annotation.

    Attributes:
        entry: its name in its file.
        box: the box that the annotation has besides the mask; None: it has none.
        extent: the box around its points; None: it has no points.
    """

    entry: str
    box: Box | None = None
    extent: Box | None = None


def annotated_objects(dataset: Dataset, image_id: int) -> tuple[str, list[Annotated]] | None:
    """(key of the objects in `image_info`, their boxes and extents) of an image; None if a dataset keeps only masks."""
    info = dataset.image_info[image_id]
    for key, describe in READERS.items():
        if isinstance(info.get(key), list):
            return key, [describe(info, i) for i in range(len(info[key]))]
    return None


def without_pixel(dataset: Dataset, image_id: int, key: str) -> list[int]:
    """Indices of the objects in `image_info[image_id][key]` that have no pixel. Draws each of them alone."""
    info, alone = dataset.image_info[image_id], copy.copy(dataset)
    empty = []
    for i, entry in enumerate(info[key]):
        alone.image_info = [{**info, key: [entry]}]
        masks, _ = alone.load_mask(0)
        if not masks.any():
            empty.append(i)
    return empty


# ---- One function for each kind of `image_info` ----------------------------------------------------------------------
def _coco(info: dict[str, Any], i: int) -> Annotated:
    annotation = info["annotations"][i]
    points = annotation["segmentation"]
    xs, ys = ([], []) if isinstance(points, dict) else ([v for p in points for v in p[axis::2]] for axis in (0, 1))
    box, attributes = annotation.get("bbox"), annotation.get("attributes")
    stated_box = None
    rotated = isinstance(attributes, dict) and attributes.get("rotation")  # of CVAT: the box before the rotation
    if isinstance(box, list) and len(box) == 4 and not rotated:
        numbers = [v for v in box if isinstance(v, (int, float)) and math.isfinite(v)]
        if len(numbers) == 4 and any(numbers):
            stated_box = (box[1], box[0], box[1] + box[3], box[0] + box[2])
    return Annotated(f"annotation {annotation.get('id', i)}", stated_box, _box_around(ys, xs))


def _via(info: dict[str, Any], i: int) -> Annotated:
    shape, _ = info["shapes"][i]
    if "all_points_x" in shape:
        extent = _box_around(shape["all_points_y"], shape["all_points_x"])
    elif shape["name"] == "rect":
        y, x = float(shape["y"]), float(shape["x"])
        extent = (y, x, y + float(shape["height"]), x + float(shape["width"]))
    else:
        radius = max(float(shape.get(name, 0)) for name in ("r", "rx", "ry"))
        extent = _circle_box(float(shape["cy"]), float(shape["cx"]), radius)
    return Annotated(f"region {i}", extent=extent)


def _shapes(info: dict[str, Any], i: int) -> Annotated:
    """Of labelme, of formats that draw with `formats.shapes`, and of Open Images, which names the file of a mask."""
    parts = info["objects"][i][-1]
    found = [_extent_of(part) for part in parts] if isinstance(parts, list) else []
    return Annotated(f"object {i}", extent=_join_boxes([extent for extent in found if extent]))


def _extent_of(part: Any) -> Box | None:
    if isinstance(part, shapes.Rings):
        return _box_around(*np.concatenate(part.rings).T[::-1])
    if isinstance(part, shapes.Box):
        return part.y, part.x, part.y + part.h, part.x + part.w
    if isinstance(part, shapes.Ellipse):
        return _circle_box(part.y, part.x, max(part.ry, part.rx))
    if not isinstance(part, dict) or part["kind"] == "mask":
        return None
    points = part["points"]  # of labelme
    if part["kind"] == "circle":
        return _circle_box(*points[0][::-1], float(np.hypot(*(points[1] - points[0]))))
    return _box_around(points[:, 1], points[:, 0])


def _yolo(info: dict[str, Any], i: int) -> Annotated:
    values = np.asarray(info["rows"][i][1], np.float64)
    if len(values) == 4:
        x, y, w, h = values * (info["width"], info["height"], info["width"], info["height"])
        return Annotated(f"line {i + 1}", extent=(y - h / 2, x - w / 2, y + h / 2, x + w / 2))
    xs, ys = values.reshape(-1, 2).T * [[info["width"]], [info["height"]]]
    return Annotated(f"line {i + 1}", extent=_box_around(ys, xs))


def _voc(info: dict[str, Any], i: int) -> Annotated:
    outline = info["outlines"][i]
    if outline is None:
        return Annotated(f"object {i}")
    return Annotated(f"object {i}", info["boxes"][i][1], _box_around(*outline))


def _panoptic(info: dict[str, Any], i: int) -> Annotated:
    return Annotated(f"segment {info['segments'][i][0]}")


READERS: dict[str, Callable[[dict[str, Any], int], Annotated]] = {
    "annotations": _coco,
    "shapes": _via,
    "objects": _shapes,
    "rows": _yolo,
    "outlines": _voc,
    "segments": _panoptic,
}


# ---- Boxes -----------------------------------------------------------------------------------------------------------
def _box_around(ys: Sequence[float], xs: Sequence[float]) -> Box | None:
    return (float(min(ys)), float(min(xs)), float(max(ys)), float(max(xs))) if len(ys) and len(xs) else None


def _circle_box(y: float, x: float, radius: float) -> Box:
    return float(y - radius), float(x - radius), float(y + radius), float(x + radius)


def _join_boxes(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])
