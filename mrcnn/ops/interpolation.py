"""Bilinear resizing of arrays with OpenCV, with scikit-image's rule for values outside the image.

Row r of L rows has its center at (r + 0.5) / L of the height. Outside the image the value is 0: rows whose center falls
beyond the outermost centers of the source blend towards it, as in scikit-image's `resize` with mode "constant".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

# Interpolation gives whole numbers minus a rounding error; this small lift keeps truncation from losing one.
ROUNDING_LIFT = 1e-4
FIXED_BITS = 8  # bytes are interpolated as uint16, in steps of 1 / 256
FIXED_POINT = 2**FIXED_BITS


def bilinear(image: np.ndarray, shape: Sequence[int], limits: tuple | None = None) -> np.ndarray:
    """Resizes [H, W(, C)] uint16 or float to [height, width(, C)].

    Args:
        image: Array to resize.
        shape: (height, width).
        limits: (low, high) to clip the blended margins to, as scikit-image clips to the range of the image; None does
            not clip. Between centers no value exceeds its neighbors, so only the margins need it.
    """
    height, width = (int(side) for side in shape)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    resized = resized.reshape((height, width) + image.shape[2:])  # OpenCV drops the axis of a single channel
    floats = np.float64 if image.dtype == np.float64 else np.float32
    for axis, source in enumerate(image.shape[:2]):
        lanes = resized.swapaxes(axis, 0)  # a view
        for edge, keep in _blended_margins(source, len(lanes)):
            blended = lanes[edge] * keep.astype(floats).reshape((-1,) + (1,) * (lanes.ndim - 1))
            lanes[edge] = blended if limits is None else np.clip(blended, *limits)
    return resized


@lru_cache(maxsize=256)
def _blended_margins(source: int, target: int) -> list[tuple[slice, np.ndarray]]:
    """The rows (or columns) at both edges that blend with the outside: slice, and the share [rows] they keep."""
    outside = _outside_share(source, target)
    margin = np.count_nonzero(outside) // 2
    edges = (slice(0, margin), slice(target - margin, target))
    return [(edge, 1 - outside[edge]) for edge in edges if margin]


def _outside_share(source: int, target: int) -> np.ndarray:
    """[target] float64 in [0, 0.5]: the distance of each pixel center outside the outermost centers of the source."""
    positions = source_positions(source, target)
    return np.maximum(np.maximum(-positions, positions - (source - 1)), 0)


def source_positions(source: int | np.ndarray, target: int) -> np.ndarray:
    """Positions of the centers of `target` pixels in a source whose centers are 0..source-1: [target] float64.

    source: int, or [..., 1] for [..., target].
    """
    return (np.arange(target) + 0.5) * (source / target) - 0.5


def nearest_sources(source: int, target: int) -> np.ndarray:
    """[target] int: the source pixel that each target pixel takes; first to first and last to last.

    This is the grid of `scipy.ndimage.zoom`, which matterport used for masks. It differs from that of images: at the
    border of an image that is scaled up 8 times, by 2.5 pixels.
    """
    step = (source - 1) / (target - 1) if target > 1 else 1.0
    return np.floor(np.arange(target) * step + 0.5).astype(np.intp)


def image_sources(source: int, target: int) -> np.ndarray:
    """[target] int: the source pixel under the center of each target pixel. This is the grid of images.

    Where a center is exactly between two source pixels, as in halving an image, the lower and the upper one are taken
    alternately; one of them alone would shift the whole mask.
    """
    targets = np.arange(target)
    sources, rests = np.divmod((2 * targets + 1) * source, 2 * target)  # of centers, (targets + 0.5) source / target
    lower = (rests == 0) & (targets % 2 == 0)
    return (sources - lower).clip(0, source - 1)


def value_limits(image: np.ndarray) -> tuple:
    """Smallest and largest value, ignoring NaN."""
    if image.dtype == np.uint8:
        return cv2.minMaxLoc(image.reshape(len(image), -1))[:2]
    return np.fmin.reduce(image, axis=None), np.fmax.reduce(image, axis=None)


def fine_bilinear(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resizes to (height, width) in a finer type: uint8 as uint16 times `FIXED_POINT`, other types as floats.

    This is limited by memory traffic, and uint16 needs half the memory of floats: 0.8 instead of 1.4 ms for 1024 x 1024
    (docs/performance.md, "loading").
    """
    limits = value_limits(image) if max(shape) > max(image.shape[:2]) else None
    if image.dtype == np.uint8:
        fixed = np.multiply(image, FIXED_POINT, dtype=np.uint16, order="C")
        return bilinear(fixed, shape, limits and tuple(FIXED_POINT * int(limit) for limit in limits))
    floats = np.float32 if image.dtype in (np.int8, np.float16, np.float32) else np.float64
    lift = ROUNDING_LIFT if image.dtype.kind in "iu" else 0
    if image.dtype.kind == "i":
        lift = lift * np.sign(image)  # truncation goes towards zero
    return bilinear(np.add(image, lift, dtype=floats, order="C"), shape, limits)
