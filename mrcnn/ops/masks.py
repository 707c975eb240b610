"""Masks: shrunk into their box and back, and pasted into the image.

Shapes and units:
    mask        [H, W, N] bool, one layer an instance, of the size of the image
    mini mask   [h, w, N] bool: what lies in the box of each mask, resized to one size (Config.MINI_MASK_SHAPE)
    box         (y1, x1, y2, x2) int, pixels; y2 and x2 exclusive

Resizing is bilinear as in `ops.images`; 0.5 decides, and a tie is background in mini masks, object in detections.
"""

from __future__ import annotations

import numpy as np

from mrcnn.ops import images


def minimize_mask(bbox, mask, mini_shape) -> np.ndarray:
    """Cuts each mask out at its box and resizes it: less memory for training, at coarser edges.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels, as `extract_bboxes` gives them.
        mask: [H, W, N] of any type; a pixel that is not 0 belongs to the object.
        mini_shape: (h, w), pixels.

    Returns:
        [h, w, N] bool. Inverse, but for coarseness: `expand_mask`.

    Raises:
        ValueError: a box without area, such as that of an empty mask.
    """
    mini = np.zeros(tuple(mini_shape) + (mask.shape[-1],), bool)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(bbox)[:, :4]):
        piece = mask[y1:y2, x1:x2, i] != 0
        if piece.size == 0:
            raise ValueError(
                f"Instance {i} has the box {[int(v) for v in (y1, x1, y2, x2)]} without area in a mask of"
                f" {mask.shape[0]} x {mask.shape[1]} pixels; drop instances with an empty mask first."
            )
        mini[:, :, i] = images.resize(piece, mini_shape) > 0.5
    return mini


def expand_mask(bbox, mini_mask, image_shape) -> np.ndarray:
    """Resizes mini masks to their box and sets them into the image.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels.
        mini_mask: [h, w, N] bool, or 0..1.
        image_shape: (height, width), pixels; more entries are ignored.

    Returns:
        [height, width, N] bool.
    """
    layers = np.moveaxis(np.asarray(mini_mask), -1, 0)
    return _paste(layers.astype(np.float64), bbox, image_shape, lambda pixels: pixels > 0.5)


def unmold_mask(mask, bbox, image_shape) -> np.ndarray:
    """One predicted mask in the image.

    Args:
        mask: [h, w] float 0..1, such as 28 x 28.
        bbox: (y1, x1, y2, x2) int, pixels.
        image_shape: (height, width), pixels; more entries are ignored.

    Returns:
        [height, width] bool: where the resized mask is 0.5 or more.
    """
    return paste_masks(np.asarray(mask)[None], np.reshape(bbox, (1, 4)), image_shape)[..., 0]


def paste_masks(masks, boxes, image_shape, threshold=0.5) -> np.ndarray:
    """Predicted masks in the image, each worked on only inside its box.

    Args:
        masks: [N, h, w] float 0..1.
        boxes: [N, (y1, x1, y2, x2)] int, pixels. What lies outside the image is cut off; without area: nothing.
        image_shape: (height, width), pixels; more entries are ignored.
        threshold: number. A pixel belongs to the object from this value on; NaN never does.

    Returns:
        [height, width, N] bool. The memory lies layer by layer: `result[..., i]` is one piece.
    """
    return _paste(np.asarray(masks), boxes, image_shape, lambda pixels: pixels >= threshold)


def _paste(layers, boxes, image_shape, is_object) -> np.ndarray:
    height, width = (int(side) for side in image_shape[:2])
    pasted = np.zeros((len(layers), height, width), bool)
    for layer, canvas, (y1, x1, y2, x2) in zip(layers, pasted, np.asarray(boxes).tolist()):
        if y2 <= y1 or x2 <= x1:
            continue
        pixels = is_object(images.resize(layer, (y2 - y1, x2 - x1)))
        top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, height), min(x2, width)
        if top < bottom and left < right:
            canvas[top:bottom, left:right] = pixels[top - y1 : bottom - y1, left - x1 : right - x1]
    return np.moveaxis(pasted, 0, -1)
