"""Scale jitter: an image is drawn smaller or larger on a canvas of its usual size, padded or cropped.

Shapes and units:
    image    [H, W, C], or [H, W]
    canvas   (height, width) pixels of the result
    window, padding, crop   as in `ops.images`

Reference: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn.ops.images import image_scale, scale_into, scaled
from mrcnn.ops.resize_modes import SIZE_MULTIPLE, TOP_LEFT_MODES
from mrcnn.ops.shorter_side import RESIZE, scaled_sides

# Below this share of its usual scale, an image is shrunk with antialiasing. Skipping pixels would turn fine structures
# into noise, which distant objects in photos do not show.
ANTIALIASED_BELOW = 0.5
AREA_TYPES = (np.uint8, np.uint16, np.float32, np.float64)  # that OpenCV can shrink with antialiasing


class Placement(NamedTuple):
    """Where a scaled image is on its canvas."""

    size: tuple[int, int]  # (height, width) of the whole scaled image
    crop: tuple[int, int, int, int]  # (y, x, height, width) of the visible part, in pixels of the scaled image
    padding: list[tuple[int, int]]  # around that part
    scale: float  # of the image's sides, jitter included
    factor: float = 1.0  # the jitter

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(y1, x1, y2, x2) of the image on the canvas."""
        (top, _), (left, _) = self.padding[:2]
        return top, left, top + self.crop[2], left + self.crop[3]


def canvas_and_scale(
    size: Sequence[int], min_dim: int | None, max_dim: int | None, min_scale: float | None, mode: str,
    rounding: str = "round",
) -> tuple[tuple[int, int], float]:  # fmt: skip
    """The size of the result of `ops.images.resize_image` with these arguments, and the scale of the image in it.

    >>> canvas_and_scale((50, 100), min_dim=64, max_dim=128, min_scale=None, mode="square")
    ((128, 128), 1.28)
    """
    height, width = size
    if mode == "none":
        return (height, width), 1.0
    if mode in TOP_LEFT_MODES:
        sides, scale = scaled_sides(size, min_dim, max_dim, rounding)
        multiple = 32 if mode == "pad32" else 1
    else:
        scale = image_scale(height, width, min_dim, max_dim, min_scale, mode)
        sides, multiple = (scaled(height, scale), scaled(width, scale)), SIZE_MULTIPLE
    if mode in ("square", "crop"):
        side = max_dim if mode == "square" else min_dim
        return (side, side), scale
    return tuple(-(-side // multiple) * multiple for side in sides), scale


def place(
    size: Sequence[int], canvas: Sequence[int], scale: float, rng: np.random.Generator, factor: float = 1.0,
    top_left: bool = False,
) -> Placement:  # fmt: skip
    """Places a scaled image: a random part of it if it is larger than the canvas, otherwise at a random place.

    Args:
        size: (H, W) of the image before scaling, pixels.
        canvas: (height, width), pixels.
        scale: Usual scale of both sides.
        rng: Random generator for the position.
        factor: The jitter, by which the scale is multiplied.
        top_left: Whether a smaller image is always in the top left corner.

    >>> place((50, 100), (64, 64), 1.28, np.random.default_rng(0)).window
    (0, 0, 64, 64)
    """
    sides, starts, seen, padding = [], [], [], []
    scale = scale * factor
    for side, space in zip(size, canvas):
        side = scaled(side, scale)
        room = space - side
        offset = int(rng.integers(0, abs(room) + 1))
        before = 0 if room < 0 or top_left else offset
        sides.append(side)
        starts.append(offset if room < 0 else 0)
        seen.append(min(side, space))
        padding.append((before, max(room, 0) - before))
    return Placement((sides[0], sides[1]), (*starts, *seen), [*padding, (0, 0)], scale, factor)


def draw(image: np.ndarray, placement: Placement, resampling: str = "opencv") -> np.ndarray:
    """Draws the image on its canvas: the image's dtype, zero around it.

    Args:
        image: [H, W, C] or [H, W].
        placement: Result of `place`.
        resampling: See `ops.shorter_side.fit_shorter_side`.
    """
    y, x, height, width = placement.crop
    if placement.factor < ANTIALIASED_BELOW and placement.scale < 1 and image.dtype in AREA_TYPES:
        sides = placement.size[1], placement.size[0]
        small = cv2.resize(np.ascontiguousarray(image), sides, interpolation=cv2.INTER_AREA)
        small = small.reshape(placement.size + image.shape[2:])  # OpenCV drops the axis of a single channel
    elif resampling == "opencv":
        return scale_into(image, placement.size, placement.padding, placement.crop)
    else:
        small = RESIZE[resampling](image, placement.size)
    if small.dtype != image.dtype:
        small = np.around(small).astype(image.dtype)
    return np.pad(small[y : y + height, x : x + width], placement.padding[: image.ndim])


def mask_arguments(size: Sequence[int], placement: Placement) -> tuple[tuple[float, float], list, tuple]:
    """Scale of each axis, padding and crop, with which `ops.images.resize_mask_like_image` makes masks fit the image.

    size: (H, W) of the image before scaling, pixels.
    """
    scales = placement.size[0] / size[0], placement.size[1] / size[1]
    return scales, placement.padding, placement.crop
