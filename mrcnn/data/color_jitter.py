"""Color jitter: random brightness, contrast, saturation and hue, as one linear map of the colors.

Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, appendix A:
brightness, contrast and saturation by the same strength, hue by a quarter of it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G and B in perceived brightness (ITU-R BT.601)
HUE_SHARE = 0.25


def jitter_colors(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Changes the colors of an image.

    Args:
        image: [H, W, C], any number type. Saturation and hue change only if there are 3 channels.
        strength: s in [0, 1]. Brightness, contrast and saturation are multiplied by factors in [1 - s, 1 + s]; the hue
            turns by up to s / 4 of a full turn.
        rng: Random generator; four numbers are drawn.

    Returns:
        [H, W, C] of the same type; integers are rounded and clipped.

    Example:
        >>> gray = np.full((2, 2, 3), 100, np.uint8)
        >>> np.ptp(jitter_colors(gray, 0.4, np.random.default_rng(0)), axis=-1).max()  # gray stays gray
        np.uint8(0)
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    turn = 2 * math.pi * HUE_SHARE * strength * rng.uniform(-1, 1)
    matrix = color_matrix(image.shape[-1], brightness * contrast, saturation, turn)
    # Contrast is the distance from the mean brightness, which does not change.
    means = image.reshape(-1, image.shape[-1]).mean(axis=0, dtype=np.float64)
    mean = means @ LUMA if len(means) == 3 else means.mean()
    changed = cv2.transform(image.astype(np.float32), np.float32(matrix)).reshape(image.shape)
    changed += np.float32(brightness * (1 - contrast) * mean)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        changed = np.clip(np.around(changed), limits.min, limits.max)
    return changed.astype(image.dtype)


def color_matrix(channels: int, factor: float, saturation: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """Matrix [C, C] that scales colors and, for 3 channels, saturation, and rotates the hue by `turn` radians.

    Grays are on the axis of rotation, so only the factor changes them.
    """
    if channels != 3:
        return factor * np.eye(channels)
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    hue = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * np.outer(axis, axis)
    gray = np.tile(LUMA, (3, 1))
    return factor * (gray + saturation * (np.eye(3) - gray)) @ hue
