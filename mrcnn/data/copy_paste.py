"""Copy-paste: objects of one image are pasted onto another one, whose objects they may cover.

Shapes:
    image   [H, W, C], any number type;  other [H, W, C], the image that the objects come from, on the same canvas
    masks   [H, W, N] bool, the objects of the image;  pasted [H, W, K] bool, those of the other one

Reference: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021,
section 3.
"""

from __future__ import annotations

import cv2
import numpy as np

BLEND_SIGMA = 1.0  # pixels; softens edges, so that sharp ones don't give pasted objects away
MARGIN = 3  # pixels around the objects in which the Gaussian is above 0.1 %
# An object of which a smaller share is visible is removed. (Objects that nothing covers always stay.)
MIN_VISIBLE = 0.1


def paste(image: np.ndarray, other: np.ndarray, pasted: np.ndarray) -> np.ndarray:
    """Blends the objects of `other` into a copy of `image`.

    Args:
        image: [H, W, C].
        other: [H, W, C] of the same type.
        pasted: [H, W, K] bool.

    Returns:
        [H, W, C] of the same type.

    Example:
        >>> mask = np.zeros((9, 9, 1), bool)
        >>> mask[:, 5:] = True
        >>> black, white = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
        >>> paste(black, white, mask)[4, :, 0].tolist()
        [0, 0, 1, 15, 77, 178, 240, 254, 255]
    """
    union = pasted.any(axis=-1)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    result = image.copy()
    if not len(rows):
        return result
    part = (
        slice(max(rows[0] - MARGIN, 0), rows[-1] + MARGIN + 1),
        slice(max(columns[0] - MARGIN, 0), columns[-1] + MARGIN + 1),
    )
    alpha = cv2.GaussianBlur(
        union[part].astype(np.float32), (0, 0), BLEND_SIGMA, borderType=cv2.BORDER_REPLICATE
    )[..., None]  # fmt: skip
    blended = image[part] * (1 - alpha) + other[part] * alpha
    result[part] = np.around(blended) if image.dtype.kind in "iu" else blended
    return result


def visible_masks(masks: np.ndarray, class_ids: np.ndarray, pasted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Removes the pixels that pasted objects cover from the masks, and decides which objects stay.

    Args:
        masks: [H, W, N] bool.
        class_ids: [N]; a crowd (negative) stays as long as one pixel of it is visible.
        pasted: [H, W, K] bool.

    Returns:
        masks [H, W, N] bool, and [N] bool: False for objects of which less than `MIN_VISIBLE` is left.
    """
    before = masks.sum(axis=(0, 1))
    masks = masks & ~pasted.any(axis=-1, keepdims=True)
    left = masks.sum(axis=(0, 1))
    enough = (left >= MIN_VISIBLE * before) | (np.asarray(class_ids) < 0)
    return masks, (left > 0) & enough
