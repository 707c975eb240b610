"""Pasting masks into boxes that are not whole pixels, as torchvision and detectron2 do.

Both interpolate bilinearly, which is separable: pasted = Ay M Ax^T, with the mask M [h, w], and Ay and Ax the weights
of its rows and columns in each row and column of the image.

Shapes and units:
    mask    [h, w] float 0..1, such as 28 x 28
    box     (y1, x1, y2, x2) float, pixels of the image, where pixel i covers i to i + 1
    region  (y1, x1, y2, x2) int, pixels; y2 and x2 exclusive: all that a mask can touch
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Region = tuple[int, int, int, int]
Pasted = tuple[Region, Callable[[], np.ndarray]]


def padded_resize(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> Pasted | None:
    """Resizes the mask with a border of zeros to whole pixels, as torchvision does.

    The border is one pixel of the mask wide, and the box grows by it. Its corners are then cut to whole numbers, and
    it spans from the first to the last, both included.

    Args:
        mask: [h, w].
        box: (y1, x1, y2, x2) float32.
        height, width: Of the image.

    Returns:
        The region inside the image, and a function that computes its pixels, [rows, columns] float32. None if nothing
        is inside the image.
    """
    center, half = (box[:2] + box[2:]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.array([(n + 2) / n for n in mask.shape], np.float32)
    if not (np.all(np.isfinite(center)) and np.all(np.isfinite(half))):
        return None
    first = [int(v) for v in center - half]  # towards zero
    last = [int(v) for v in center + half]
    sides = [max(b - a + 1, 1) for a, b in zip(first, last)]
    low = [max(a, 0) for a in first]
    high = [min(b + 1, side) for b, side in zip(last, (height, width))]
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    rows, columns = (
        _resize_weights(n, side, a - start, b - start)
        for n, side, a, b, start in zip(mask.shape, sides, low, high, first)
    )
    return (*low, *high), lambda: rows @ mask @ columns.T


def _resize_weights(source: int, target: int, start: int, stop: int) -> np.ndarray:
    """[stop - start, source] float32: weights of a row of zeros, `source` pixels and a zero, resized to `target`."""
    padded = source + 2
    position = np.maximum((np.arange(start, stop) + 0.5) * (padded / target) - 0.5, 0)
    position = np.minimum(position, padded - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(1, source + 1)), 0).astype(np.float32)


def grid_sample(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> Pasted | None:
    """Samples the mask at the center of each pixel of the image, as detectron2 does. Outside of the mask is 0.

    Arguments and result as for `padded_resize`.
    """
    sides = box[2:] - box[:2]
    if not np.all(np.isfinite(box)) or np.any(sides == 0):
        return None
    margin = 0.5 * np.abs(sides) / mask.shape  # half a pixel of the mask, where it fades out
    low = np.floor(np.minimum(box[:2], box[2:]) - margin).clip(0, [height, width]).astype(int)
    high = np.ceil(np.maximum(box[:2], box[2:]) + margin).clip(0, [height, width]).astype(int)
    if np.any(low >= high):
        return None
    weights = []
    for axis, n in enumerate(mask.shape):
        position = (np.arange(low[axis], high[axis]) + 0.5 - box[axis]) / sides[axis] * n - 0.5
        weights.append(np.maximum(1 - np.abs(position[:, None] - np.arange(n)), 0).astype(np.float32))
    rows, columns = weights
    return (*low.tolist(), *high.tolist()), lambda: rows @ mask @ columns.T
