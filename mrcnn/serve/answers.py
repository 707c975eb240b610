"""Detections as JSON or PNG.

Boxes in answers are COCO's [x, y, width, height] in pixels of the upright photo; masks are COCO's run lengths or
polygons of it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from starlette.datastructures import QueryParams

from mrcnn.drawing.renderer import encode
from mrcnn.inference.results import Detections
from mrcnn.ops.pixel_values import to_rgb_uint8
from mrcnn.serve.limits import Refused

OUTPUTS = ("rle", "polygons", "boxes", "png", "instances")
PARAMETERS = ("output", "min_score", "classes", "max_objects")

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Wanted:
    """The query of a request to /detect.

    Attributes:
        output: One of `OUTPUTS`.
        min_score: Lowest score of an object, in [0, 1].
        class_ids: Only objects of these classes; None: of all.
        max_objects: Maximum number of objects, best first; None: all.
    """

    output: str = "rle"
    min_score: float = 0.0
    class_ids: frozenset[int] | None = None
    max_objects: int | None = None

    @classmethod
    def read(cls, query: QueryParams, class_names: Sequence[str]) -> Wanted:
        """Checks the parameters of a query.

        Raises:
            Refused: 400 that names the parameter, what was found and what was expected.
        """
        for name in query:
            if name not in PARAMETERS:
                raise Refused(400, f"There is no parameter {name[:40]!r}; expected {', '.join(PARAMETERS)}.")
        output = query.get("output", "rle")
        if output not in OUTPUTS:
            raise Refused(400, f"output is {output[:40]!r}; expected one of {', '.join(OUTPUTS)}.")
        most = read_number(query, "max_objects", None, int, 1, 100_000)
        return cls(output, read_number(query, "min_score", 0.0, float, 0, 1), read_classes(query, class_names), most)

    def choose(self, found: Detections) -> Detections:
        """Selects from `Detections` those that the query asks for."""
        chosen = np.asarray(found["scores"]) >= self.min_score
        if self.class_ids is not None:
            chosen &= np.isin(found["class_ids"], list(self.class_ids))
        if self.max_objects is not None:
            chosen &= np.cumsum(chosen) <= self.max_objects
        return found[chosen]


def read_number(query: QueryParams, name: str, default: T | None, kind: type[T], low: float, high: float) -> T | None:
    """A number of a query. Raises `Refused` (400)."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:  # NaN compares as False
        what = "a whole number" if kind is int else "a number"
        raise Refused(400, f"{name} is {text[:40]!r}; expected {what} from {low} to {high}.")
    return value


def read_classes(query: QueryParams, class_names: Sequence[str]) -> frozenset[int] | None:
    """The ids of `classes=cat,dog`. Raises `Refused` (400)."""
    text = query.get("classes")
    if text is None:
        return None
    ids = {name: i for i, name in enumerate(class_names) if i > 0}
    wanted = [name.strip() for name in text.split(",")]
    unknown = [name[:40] for name in wanted if name not in ids]
    if unknown:
        raise Refused(400, f"There is no class {unknown[0]!r}; GET /model lists the names.")
    return frozenset(ids[name] for name in wanted)


def as_json(found: Detections, class_names: Sequence[str], output: str) -> dict:
    """The answer of /detect.

    Args:
        found: `Detections`.
        class_names: By class id.
        output: "rle", "polygons" or "boxes".
    """
    areas = coco_mask.area(found.rle).tolist() if len(found) else []
    objects = []
    for entry, area in zip(found.to_coco(polygons=output == "polygons"), areas, strict=True):
        class_id = entry["category_id"]
        item = {"class_id": class_id, "class_name": class_names[class_id], "score": entry["score"],
                "bbox": entry["bbox"], "area": area, "segmentation": entry["segmentation"]}  # fmt: skip
        if output == "boxes":
            del item["segmentation"]
        objects.append(item)
    height, width = found.image_shape
    return {"image": {"height": height, "width": width}, "objects": objects}


def as_png(photo: np.ndarray, found: Detections, output: str) -> bytes:
    """The photo with the objects drawn on it, or for "instances" a 16-bit image: 0 background, i the i-th object.

    Where objects overlap, the one with the higher score is on top.
    """
    if output == "png":
        return encode(found.plot(photo), ".png")
    numbers = np.zeros(photo.shape[:2], np.uint16)
    for i, ((y1, x1, y2, x2), mask) in reversed(list(enumerate(found.crops()))):
        numbers[y1:y2, x1:x2][mask] = i + 1
    return cv2.imencode(".png", numbers)[1].tobytes()


def as_data_url(photo: np.ndarray) -> str:
    """The photo as a JPEG in a URL, for browsers that can't show its file, such as TIFF."""
    content = encode(to_rgb_uint8(photo), ".jpg")
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
