"""Masks of many objects in few planes: bit i % 8 of plane i // 8 says whether a pixel belongs to object i.

Eight objects share a byte of each pixel, so that resizing, flipping and warping all of them costs what it costs for
one, as long as pixels are picked and never blended (nearest neighbour). What comes out equals the same steps done to
each mask alone.

Shapes:
    masks   [H, W, N] bool
    planes  [H, W, P] uint8, P = ceil(N / 8)
    boxes   [N, (y1, x1, y2, x2)] int32, pixels; y2 and x2 exclusive
"""

from __future__ import annotations

import numpy as np

from mrcnn.ops.boxes import any_column, extract_bboxes
from mrcnn.ops.masks import minimize_mask

BITS = 8


def pack(masks):
    """[H, W, N] of any number type, where not 0 is object -> planes [H, W, P]."""
    masks = masks if masks.dtype in (bool, np.uint8) else masks != 0
    if masks.size and masks.strides[2] > max(masks.strides[:2]):
        return _pack_layers(masks)
    return np.packbits(masks, axis=-1, bitorder="little")


def _pack_layers(masks):
    """`pack` for masks that lie in memory one after the other, as pycocotools makes them: several times faster."""
    by_column = masks.strides[0] < masks.strides[1]
    layers = masks.transpose(2, 1, 0) if by_column else masks.transpose(2, 0, 1)
    planes = np.zeros((-(-len(layers) // BITS), *layers.shape[1:]), np.uint8)
    for i, layer in enumerate(layers):
        planes[i // BITS] |= (layer != 0).view(np.uint8) << np.uint8(i % BITS)
    return np.ascontiguousarray(planes.transpose((2, 1, 0) if by_column else (1, 2, 0)))


def unpack(planes, count):
    """planes [H, W, P] -> masks [H, W, count] bool. Inverse of `pack`."""
    return np.unpackbits(planes, axis=-1, count=count, bitorder="little").view(bool)


def layer(planes, i):
    """The mask of object i: [H, W] bool."""
    return (planes[..., i // BITS] & np.uint8(1 << i % BITS)) != 0


def boxes(planes, count):
    """The tightest box around each mask: [count, 4] int32; zeros around an empty one. As `extract_bboxes`."""
    if not count:
        return np.zeros((0, 4), np.int32)
    columns = np.bitwise_or.reduce(planes, axis=0)  # [W, P]
    rows = any_column(planes)[:, None]  # [H, 1, P]
    # The box of a mask is that of the cross of its rows and columns.
    y1, _, y2, _ = extract_bboxes(unpack(rows, count)).T
    _, x1, _, x2 = extract_bboxes(unpack(columns[None], count)).T
    return np.stack([y1, x1, y2, x2], axis=1)


def minimize(planes, boxes, mini_shape):
    """Mini masks, as `minimize_mask`: [h, w, N] bool; all False where a box has no area.

    Args:
        planes: [H, W, P] of N objects; boxes: [N, 4], as `boxes` gives them; mini_shape: (h, w).
    """
    mini = np.zeros((*mini_shape, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        if y2 == y1:
            continue
        piece = layer(planes[y1:y2, x1:x2], i)
        mini[:, :, i] = minimize_mask([[0, 0, y2 - y1, x2 - x1]], piece[..., None], mini_shape)[..., 0]
    return mini
