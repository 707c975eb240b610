"""Shapes, and the dataset that draws them, for formats with several kinds of shapes.

A reader checks a file and describes each object by one or more shapes, which `ShapeDataset.load_mask` draws when it is
needed. The mask of an object is the union of its shapes.

Shapes:
    V     corners of a ring
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits, rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, Where, names_image
from mrcnn.data.formats.exif import UprightDataset
from mrcnn.data.formats.parsing import name_classes
from mrcnn.ops.rle import draw_rles, encode_masks, to_rle

Points = Sequence[Sequence[float]]  # (x, y) in pixels


@dataclass(frozen=True)
class Rings:
    """A polygon; rings inside a ring are holes. `rings`: [V, (x, y)] float each, pixels."""

    rings: tuple[NDArray[np.float64], ...]

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """[height, width] bool."""
        return rasterize.rings(height, width, [(ring[:, 1], ring[:, 0]) for ring in self.rings])


@dataclass(frozen=True)
class Box:
    """An upright box, `h` x `w` pixels, from its upper left corner."""

    y: float
    x: float
    h: float
    w: float

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """[height, width] bool."""
        return rasterize.rectangle(height, width, self.y, self.x, self.h, self.w)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse around (y, x) with half axes `ry` and `rx`, rotated by `angle` (radians, clockwise)."""

    y: float
    x: float
    ry: float
    rx: float
    angle: float = 0.0

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """[height, width] bool."""
        return rasterize.ellipse(height, width, self.y, self.x, self.ry, self.rx, self.angle)


@dataclass(frozen=True)
class Patch:
    """A mask whose upper left pixel is at (top, left), as run lengths; what is outside of the image is cut off.

    `by_rows`: the run lengths are those of the transposed mask, so they go along the rows.
    """

    top: int
    left: int
    rle: dict
    by_rows: bool = False

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """[height, width] bool."""
        layer = np.zeros((1, *self.rle["size"][::-1]), bool)
        draw_rles([self.rle], layer)
        return rasterize.paste(layer[0] if self.by_rows else layer[0].T, self.top, self.left, height, width)


Shape = Rings | Box | Ellipse | Patch


class ParsedObject(NamedTuple):
    """An object of an image: name of its class, whether it is a crowd, and its shapes."""

    name: str
    crowd: bool
    shapes: list[Shape]


class ParsedImage(NamedTuple):
    """An image as a reader returns it: its id, its file, (height, width) in pixels, and its objects."""

    own_id: str | int
    photo: str | Path
    size: tuple[int, int]
    objects: list[ParsedObject]


class ShapeDataset(UprightDataset):
    """A `Dataset` whose objects are shapes. Subclasses fill it with `add_parsed`."""

    def add_parsed(
        self, images: Iterable[ParsedImage], source: str, classes: Sequence[str] | None, path: str | Path
    ) -> None:
        """Adds images and their classes; see `parsing.name_classes` for `classes` and `path`."""
        images = list(images)
        ids = name_classes(self, source, [one.name for image in images for one in image.objects], classes, path)
        for own_id, photo, (height, width), objects in images:
            kept = [(ids[name], crowd, shapes) for name, crowd, shapes in objects if name in ids]
            self.add_image(source, own_id, str(photo), height=height, width=width, objects=kept)

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Draws the masks of an image.

        Returns:
            masks: [H, W, N] bool. Objects without a pixel are left out.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "objects" not in info:
            return super().load_mask(image_id)
        layers = np.zeros((len(info["objects"]), info["height"], info["width"]), bool)
        class_ids = np.zeros(len(layers), np.int32)
        for i, (own_id, crowd, shapes) in enumerate(info["objects"]):
            for shape in shapes:
                layers[i] |= shape.draw(info["height"], info["width"])
            class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
            class_ids[i] = -class_id if crowd else class_id
        kept = layers.any(axis=(1, 2))
        return np.moveaxis(layers[kept], 0, -1), class_ids[kept]


# ---- Making checked shapes -------------------------------------------------------------------------------------------
def rings(
    polygons: Sequence[Points | NDArray[np.float64]], size: tuple[int, int], where: Where, field: str = "points"
) -> Rings:
    """A polygon of one or more rings.

    Args:
        polygons: lists of [x, y], pixels; the first is the outline, others are holes.
        size: (height, width) of the image.
        where, field: for the errors.

    Raises:
        BrokenAnnotation: a ring has fewer than three points or values that aren't numbers, or exceeds the limits.
    """
    checked = []
    for points in polygons:
        try:
            ring = np.array(points, np.float64)
        except (TypeError, ValueError, OverflowError):
            ring = np.zeros(0)
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
            raise BrokenAnnotation(*where, field, "three or more points [x, y], two numbers each", points)
        limits.check_coordinates(ring.ravel().tolist(), *size, where, field)
        limits.check_outline(ring[:, 0], ring[:, 1], where, field)
        checked.append(ring)
    return Rings(tuple(checked))


def box(
    y: float, x: float, h: float, w: float, angle: float, size: tuple[int, int], where: Where, center: bool = True
) -> Box | Rings:
    """A box, upright or rotated.

    Args:
        y, x: its upper left corner before it is rotated, pixels.
        h, w: pixels, above 0.
        angle: radians, clockwise.
        size: (height, width) of the image.
        where: for the errors.
        center: whether it is rotated around its center; False: around its upper left corner.

    Raises:
        BrokenAnnotation: it has no area, or is outside the limits.
    """
    limits.check_coordinates([y, x, y + h, x + w, angle], *size, where, "box")
    if h <= 0 or w <= 0:
        raise BrokenAnnotation(*where, "box", "a width and a height above 0", f"width {w:g}, height {h:g}")
    if not angle % (2 * math.pi):
        return Box(y, x, h, w)
    middle_y, middle_x = (y + h / 2, x + w / 2) if center else (y, x)
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]) - (middle_x, middle_y)
    cos, sin = math.cos(angle), math.sin(angle)
    rotated = corners @ np.array([[cos, sin], [-sin, cos]]) + (middle_x, middle_y)
    return rings([rotated - 0.5], size, where, "box")  # from corners of pixels to centers


def ellipse(y: float, x: float, ry: float, rx: float, angle: float, size: tuple[int, int], where: Where) -> Ellipse:
    """An ellipse, see `Ellipse`.

    Raises:
        BrokenAnnotation: a half axis isn't above 0, or it is outside the limits.
    """
    limits.check_coordinates([y - ry, y + ry, x - rx, x + rx, angle], *size, where, "ellipse")
    if ry <= 0 or rx <= 0:
        raise BrokenAnnotation(*where, "ellipse", "half axes above 0", f"{rx:g}, {ry:g}")
    return Ellipse(y, x, ry, rx, angle)


def patch(mask: NDArray[np.bool_], top: int = 0, left: int = 0) -> Patch:
    """A mask [h, w] bool whose upper left pixel is at (top, left) of the image."""
    return Patch(top, left, encode_masks(np.ascontiguousarray(mask)[..., None])[0])


def from_runs(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], height: int, width: int, by_rows: bool,
    top: int = 0, left: int = 0,
) -> Patch:  # fmt: skip
    """A mask [height, width] from runs of pixels, in a time that doesn't depend on its size.

    Args:
        starts: [R] int, first pixel of each run, counted from 0.
        lengths: [R] int, pixels; a run ends in the mask. Runs may overlap.
        height, width: of the mask.
        by_rows: whether pixels are counted along the rows; False: down the columns.
        top, left: of the mask in the image.
    """
    order = np.argsort(starts, kind="stable")
    begins, ends = starts[order], np.maximum.accumulate((starts + lengths)[order])
    is_new = np.append(True, begins[1:] > ends[:-1])[: len(begins)]
    begins, ends = begins[is_new], ends[np.append(is_new[1:], True)[: len(ends)]]
    edges = np.stack([begins, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    size = (width, height) if by_rows else (height, width)
    return Patch(top, left, to_rle({"size": list(size), "counts": counts}, *size), by_rows)
