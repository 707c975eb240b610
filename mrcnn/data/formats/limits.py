"""Limits on the content of files. Files within these limits take time and memory in proportion to their size.

The limits are far above real datasets. A file that exceeds one raises a `BrokenAnnotation` that names the limit. They
are read at each call, so a program that needs more can set them: `limits.MAX_MASK_BYTES = 16 << 30`.

Shapes:
    V     corners of a polygon, line or other shape
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from mrcnn.data import image_reading
from mrcnn.data.formats.broken import BrokenAnnotation, Where

MAX_MASK_BYTES = 4 << 30  # of the masks of an image, [H, W, N] bool, or [H, W] bool for each shape
FAR = 10  # image sizes (the longer side) that a coordinate may be away from the image
MAX_OUTLINE = 2_000_000  # pixels, length of a polygon; pycocotools needs about 100 bytes for each
MAX_OVERLAPS = 2_000_000_000  # pixels that are compared to find which shapes of an object are inside others
MAX_CLASSES = 10_000  # of a dataset
MAX_SHAPES = 5_000  # of an object that has several
MAX_YAML_BYTES = 256 << 10  # of a data.yaml, which is read at about 100 kB a second
MAX_YAML_DEPTH = 8  # lists and maps in brackets, in each other; a data.yaml has two
MAX_PARTS = 256  # boxes or connected parts of one digit in an image of M2NIST
MAX_ARRAY_BYTES = 4 << 30  # of an array of M2NIST
MAX_CELL = 1 << 27  # characters of a cell of a CSV file, which may hold a mask; Python's own limit is 131,072
MAX_UNPACKED_BYTES = 1 << 28  # of a mask inside a JSON file, compressed by zlib, and of the boxes of M2NIST


def check_coordinates(values: Sequence[float], height: int, width: int, where: Where, field: str) -> None:
    """Checks that coordinates are finite and at most `FAR` image sizes outside of the image.

    Args:
        values: numbers, both x and y, in pixels.
        height, width: of the image, pixels.
        where: (annotation file, name of the entry), for the error.
        field: name of the field, for the error.

    Raises:
        BrokenAnnotation: names the first value that isn't.
    """
    side = max(height, width)
    low, high = -FAR * side, (1 + FAR) * side
    try:
        # NaN makes the sum NaN, and is neither smaller nor larger than anything.
        fits = math.isfinite(sum(values)) and (not len(values) or (low <= min(values) and max(values) <= high))
    except OverflowError:  # a whole number that no float can hold
        fits = False
    if not fits:
        wrong = next(value for value in values if not low <= value <= high)
        raise BrokenAnnotation(*where, field, f"numbers within {FAR} image sizes, {low} to {high}", wrong)


def check_outline(xs: Sequence[float], ys: Sequence[float], where: Where, field: str) -> None:
    """Checks that the outline of a polygon, whose coordinates are checked, is at most `MAX_OUTLINE` pixels long.

    Drawing takes time and memory in proportion to this length, which isn't that of the file: each corner may be at
    another end of the image.

    Args:
        xs, ys: [V] numbers, pixels.
        where, field: as in `check_coordinates`.

    Raises:
        BrokenAnnotation: it is longer.
    """
    if not len(xs) or len(xs) * ((max(xs) - min(xs)) + (max(ys) - min(ys))) <= MAX_OUTLINE:
        return
    edges = [np.abs(np.diff(np.asarray(axis, np.float64), append=axis[0])) for axis in (xs, ys)]
    length = np.maximum(*edges).sum()
    if length > MAX_OUTLINE:
        raise BrokenAnnotation(*where, field, f"an outline of at most {MAX_OUTLINE} pixels", f"{length:.0f} pixels")


def check_image_size(height: int, width: int, where: Where) -> None:
    """Raises BrokenAnnotation if an image has more than `image_reading.MAX_PIXELS` pixels."""
    if height * width > image_reading.MAX_PIXELS:
        raise BrokenAnnotation(
            *where, "size", f"at most {image_reading.MAX_PIXELS} pixels", f"{height} x {width} (height x width)"
        )


def check_classes(names: Collection[object], path: str | Path) -> None:
    """Raises BrokenAnnotation if a file has more than `MAX_CLASSES` classes."""
    if len(names) > MAX_CLASSES:
        raise BrokenAnnotation(path, "the file", "classes", f"at most {MAX_CLASSES}", len(names))


def check_masks(count: int, height: int, width: int, where: Where) -> None:
    """Raises BrokenAnnotation if `count` masks [height, width] need more than `MAX_MASK_BYTES`."""
    if count * height * width > MAX_MASK_BYTES:
        expected = f"masks of at most {MAX_MASK_BYTES} bytes (mrcnn.data.formats.limits.MAX_MASK_BYTES)"
        raise BrokenAnnotation(*where, "objects", expected, f"{count} of {height} x {width} pixels")
