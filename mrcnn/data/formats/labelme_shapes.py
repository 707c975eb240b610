"""labelme's shapes: checking them, drawing them as masks, and masks as shapes; see `labelme` for the format.

Shapes:
    V     corners of a shape
    K     shapes of an object
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.formats import limits, rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.parsing import field
from mrcnn.data.image_reading import UnreadableImage, read_stored_values

POINTS = {  # least and most points of each kind of shape
    "polygon": (3, math.inf),
    "rectangle": (2, 4),  # two opposite corners, or all four
    "oriented_rectangle": (4, 4),
    "rotation": (4, 4),  # X-AnyLabeling's name for it
    "circle": (2, 2),  # center, and a point on the border
    "mask": (2, 2),  # first and last pixel
    "line": (2, 2),
    "linestrip": (2, math.inf),
    "point": (1, 1),
}
THIN = ("line", "linestrip", "point")
PIXELS_OF_A_COMPARISON = 10_000  # a comparison of smaller masks takes as long as one of this many pixels


def parse_shape(entry: dict, size: tuple[int, int], where: Where) -> dict[str, Any] | None:
    """Checks an entry of "shapes" of an image of `size`, (height, width) in pixels.

    Returns:
        {"kind": str, "points": [V, (x, y)] float, and for masks "png": bytes}; None if the shape has too few points,
        as after a click by mistake.

    Raises:
        BrokenAnnotation: the shape is of an unknown kind, or its points or mask are broken.
    """
    kind = entry.get("shape_type") or "polygon"  # all that older versions had
    if kind not in POINTS:
        raise BrokenAnnotation(*where, "shape_type", f"one of {', '.join(POINTS)}", kind)
    points = field(entry, "points", list, "a list of [x, y]", where)
    for point in points:
        pair = isinstance(point, list) and len(point) == 2
        if not pair or not all(isinstance(v, (int, float)) for v in point):
            raise BrokenAnnotation(*where, "points", "points [x, y], two numbers each", point)
    least, most = POINTS[kind]
    if len(points) < least and kind != "mask":
        return None
    if not least <= len(points) <= most:
        count = f"{least}" if least == most else f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise BrokenAnnotation(*where, "points", f"{count} points of a {kind}", points)
    for axis in range(2):
        limits.check_coordinates([point[axis] for point in points], *size, where, "points")
    shape = {"kind": kind, "points": np.array(points, np.float64)}
    limits.check_outline(*shape["points"].T, where, "points")
    if kind == "mask":
        shape["png"] = _check_mask(entry, shape["points"], where)
    return shape


def _check_mask(entry: dict, points: np.ndarray, where: Where) -> bytes:
    """The PNG of a mask shape, which must have the size given by its points."""
    text = field(entry, "mask", str, "a PNG in base64", where)
    try:
        png = base64.b64decode(text, validate=True)
        height, width = _decode_mask(png).shape
    except (binascii.Error, UnreadableImage) as error:
        raise BrokenAnnotation(*where, "mask", "a PNG in base64", str(error)) from error
    # Corners that aren't whole may be rounded either way.
    expected = np.abs(points[1] - points[0]) + 1
    if np.any(np.abs(expected - (width, height)) > 1):
        size = f"{round(expected[1])} x {round(expected[0])} pixels (height x width), from its first point to its last"
        raise BrokenAnnotation(*where, "mask", size, f"{height} x {width}")
    return png


# ---- From shapes to masks --------------------------------------------------------------------------------------------
def draw(shape: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Draws a shape, as `parse_shape` returns it, as a mask [height, width] bool."""
    xs, ys = shape["points"].T
    kind = shape["kind"]
    if kind == "mask":
        return rasterize.paste(_decode_mask(shape["png"]), round(ys.min()), round(xs.min()), height, width)
    if kind == "rectangle":
        (top, bottom), (left, right) = (ys.min(), ys.max()), (xs.min(), xs.max())
        return rasterize.polygon(height, width, [top, top, bottom, bottom], [left, right, right, left])
    if kind == "circle":
        radius = math.hypot(ys[1] - ys[0], xs[1] - xs[0])
        return rasterize.ellipse(height, width, ys[0], xs[0], radius, radius)
    if kind == "point":
        return rasterize.point(height, width, ys[0], xs[0])
    if kind in THIN:
        return rasterize.line(height, width, ys, xs)
    return rasterize.polygon(height, width, ys, xs)


def merge(parts: Sequence[NDArray[np.bool_]], may_cut: Sequence[bool]) -> NDArray[np.bool_]:
    """Merges the shapes of one object to its mask.

    Args:
        parts: K masks [H, W] bool.
        may_cut: K bool. These are holes if they are completely inside another one, islands if they are inside a hole,
            and so on.

    Returns:
        [H, W] bool.
    """
    if len(parts) == 1:
        return parts[0]
    if len(parts) > limits.MAX_SHAPES:
        raise ValueError(f"an object has {len(parts)} shapes; expected at most {limits.MAX_SHAPES}")
    areas, boxes = np.array([np.count_nonzero(part) for part in parts]), np.array([_mask_box(part) for part in parts])
    by_area = sorted(np.flatnonzero(areas).tolist(), key=lambda i: -areas[i])
    depths = _nesting_depths(parts, areas, boxes, [i for i in by_area if may_cut[i]])
    mask = np.zeros_like(parts[0])
    for i in sorted(by_area, key=lambda i: depths[i]):
        y1, x1, y2, x2 = boxes[i]
        mask[y1:y2, x1:x2][parts[i][y1:y2, x1:x2]] = depths[i] % 2 == 0
    return mask


def _nesting_depths(
    parts: Sequence[NDArray[np.bool_]], areas: np.ndarray, boxes: np.ndarray, by_area: list[int]
) -> np.ndarray:
    """[K] number of shapes that each is completely inside of, one inside the other; 0 for those not in `by_area`.

    Args:
        parts: K masks [H, W] bool.
        areas, boxes: [K] pixels, [K, (y1, x1, y2, x2)].
        by_area: indices of the shapes that count, the largest first.
    """
    depths, compared = np.zeros(len(parts), int), 0
    firsts: dict[tuple, int] = {}  # equal shapes are compared once
    same = {}
    for i in by_area:
        y1, x1, y2, x2 = boxes[i]
        key = (y1, x1, y2, x2, np.packbits(parts[i][y1:y2, x1:x2]).tobytes())
        same[i] = firsts.setdefault(key, i)
    outer = np.array(list(firsts.values()), int)
    for i in outer:
        y1, x1, y2, x2 = boxes[i]
        around = (boxes[outer, :2] <= boxes[i, :2]).all(axis=1) & (boxes[outer, 2:] >= boxes[i, 2:]).all(axis=1)
        for j in outer[around & (areas[outer] > areas[i])]:
            compared += max((y2 - y1) * (x2 - x1), PIXELS_OF_A_COMPARISON)
            if compared > limits.MAX_OVERLAPS:
                raise ValueError(f"an object has {len(parts)} shapes inside each other; expected fewer or smaller ones")
            if depths[j] >= depths[i] and not np.any(parts[i][y1:y2, x1:x2] & ~parts[j][y1:y2, x1:x2]):
                depths[i] = depths[j] + 1
    for i, first in same.items():
        depths[i] = depths[first]
    return depths


def _mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(y1, x1, y2, x2) around the pixels of a mask, y2 and x2 exclusive; zeros if it has none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if len(rows) else (0, 0, 0, 0)


def _decode_mask(png: bytes) -> NDArray[np.bool_]:
    values = read_stored_values(png, "the PNG")
    return (values if values.ndim == 2 else values[..., :3].max(axis=-1)) != 0


# ---- From masks to shapes --------------------------------------------------------------------------------------------
def shapes_of(
    mask: NDArray[np.bool_], group_id: int, corner: tuple[int, int] = (0, 0), **common: Any
) -> list[dict[str, Any]]:
    """Shapes that are drawn as exactly this mask: polygons if possible, otherwise one mask shape.

    Args:
        mask: [H, W] bool, not all False.
        group_id: number of the object; its shapes have it if there are several.
        corner: (y, x), where `mask` begins in the image, pixels.
        **common: fields of each shape, such as its label.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    small = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    top, left = int(rows[0]) + corner[0], int(columns[0]) + corner[1]
    outlines, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [outline[:, 0] for outline in outlines]
    if all(len(outline) >= 3 for outline in outlines):
        parts = [rasterize.polygon(*small.shape, outline[:, 1], outline[:, 0]) for outline in outlines]
        if np.array_equal(np.any(parts, axis=0), small):
            group = group_id if len(outlines) > 1 else None
            return [{**common, **_as_shape("polygon", outline + (left, top), group)} for outline in outlines[::-1]]
    last = [left + small.shape[1] - 1, top + small.shape[0] - 1]
    return [{**common, **_as_shape("mask", np.array([[left, top], last]), None, _as_png(small))}]


def _as_shape(kind: str, points: np.ndarray, group: int | None, png: str | None = None) -> dict[str, Any]:
    points = points.astype(float).tolist()
    return {"points": points, "group_id": group, "shape_type": kind, "mask": png}


def as_file(shapes: list[dict[str, Any]], image_path: str, size: tuple[int, int]) -> dict[str, Any]:
    """The content of a labelme file without the image; `size` is (height, width) in pixels."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": int(size[0]),
        "imageWidth": int(size[1]),
    }


def _as_png(mask: NDArray[np.bool_]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
