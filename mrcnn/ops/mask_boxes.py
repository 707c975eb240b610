"""Boxes around masks, in NumPy. Imports no Keras, unlike `ops.boxes`, so that reading and checking data starts quickly.

H, W: size of the image, pixels. N: masks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike


def extract_bboxes(mask: ArrayLike) -> np.ndarray:
    """Computes the smallest box around each mask.

    Args:
        mask: [H, W, N]. Pixels that are not 0 belong to the object.

    Returns:
        [N, (y1, x1, y2, x2)] int32, pixels. An empty mask gives (0, 0, 0, 0).

    Raises:
        ValueError: if `mask` does not have three dimensions.

    Example:

    >>> mask = np.zeros((5, 5, 1), bool)
    >>> mask[1:3, 2] = True
    >>> extract_bboxes(mask)
    array([[1, 2, 3, 3]], dtype=int32)
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {mask.shape}; expected [height, width, instances].")
    if 0 in mask.shape:
        return np.zeros((mask.shape[-1], 4), np.int32)
    mask = mask if mask.dtype == bool else mask != 0
    layers = mask.transpose(2, 1, 0)
    if layers.flags.c_contiguous:  # column-major layers, as pycocotools decodes them
        return np.array([_bounding_rectangle(layer) for layer in layers.view(np.uint8)], np.int32)
    y1, y2 = _first_and_end(any_column(mask))
    x1, x2 = _first_and_end(mask.any(axis=0))
    return np.stack([y1, x1, y2, x2], axis=1).astype(np.int32)


def _bounding_rectangle(layer: np.ndarray) -> tuple[int, int, int, int]:
    """(y1, x1, y2, x2) of a transposed mask, [W, H] uint8."""
    y, x, height, width = cv2.boundingRect(layer)
    return y, x, y + height, x + width


def any_column(mask: np.ndarray) -> np.ndarray:
    """Computes `np.bitwise_or.reduce(mask, axis=1)` by repeated halving: [H, W, N] bool or int -> [H, N].

    NumPy's reduction iterates along the short last axis; combining whole halves is several times faster
    (docs/performance.md, "loading").
    """
    while mask.shape[1] > 1:
        half = (mask.shape[1] + 1) // 2
        mask = mask[:, :half] | mask[:, -half:]
    return mask[:, 0]


def _first_and_end(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First True along axis 0 and one past the last, [N] each; (0, 0) if there is none. occupied: [L, N] bool."""
    found = occupied.any(axis=0)
    first = occupied.argmax(axis=0)
    end = len(occupied) - occupied[::-1].argmax(axis=0)
    return first * found, end * found


# ---- IoU -------------------------------------------------------------------------------------------------------------
