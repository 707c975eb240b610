"""The image_meta vector: what was done to an image before the network saw it, as one row of numbers.

A batch of them travels through the graph beside the images:

    [B, image_id 1 | original_image_shape 3 | image_shape 3 | window 4 | scale 1 | active_class_ids C]

    original_image_shape  (height, width, channels) as loaded
    image_shape           (height, width, channels) after resizing and padding: what the network sees
    window                (y1, x1, y2, x2) pixels of it: the part that is not padding
    scale                 resized / original
    active_class_ids      [C], 1 for each class that the image's dataset has, else 0
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops.boxes import norm_boxes_graph
from mrcnn.ops.keras_ops import ops
from mrcnn.ops.types import Tensor

ORIGINAL_SHAPE, SHAPE, WINDOW, SCALE, CLASSES = slice(1, 4), slice(4, 7), slice(7, 11), 11, slice(12, None)


def compose_image_meta(
    image_id: int,
    original_image_shape: Sequence[int],
    image_shape: Sequence[int],
    window: Sequence[int],
    scale: float,
    active_class_ids: ArrayLike,
) -> np.ndarray:
    """Packs one image's row. Inverse of `parse_image_meta`.

    Args:
        image_id: Position in the dataset; 0 if there is none.
        original_image_shape: (height, width, channels) as loaded.
        image_shape: (height, width, channels) after resizing and padding.
        window: (y1, x1, y2, x2) pixels: the part that is not padding.
        scale: Resized / original.
        active_class_ids: [C]. 1 for each class that the image's dataset has, else 0.

    Returns:
        [12 + C] float64.

    Raises:
        ValueError: if a part has the wrong number of entries, which would shift the others.

    Example:

    >>> meta = compose_image_meta(7, (480, 640, 3), (1024, 1024, 3), (128, 0, 896, 1024), 1.6, [1, 1])
    >>> parse_image_meta(meta)["window"]
    array([ 128,    0,  896, 1024], dtype=int32)
    """
    for name, part, length in (
        ("original_image_shape", original_image_shape, 3),
        ("image_shape", image_shape, 3),
        ("window", window, 4),
    ):
        if len(part) != length:
            raise ValueError(f"{name} is {tuple(part)}; expected {length} entries.")
    parts = [[image_id], original_image_shape, image_shape, window, [scale], active_class_ids]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def parse_image_meta(meta: ArrayLike) -> dict[str, np.ndarray]:
    """Unpacks rows of image_meta.

    Args:
        meta: [B, 12 + C], or one row.

    Returns:
        dict of image_id [B], original_image_shape [B, 3], image_shape [B, 3], window [B, 4] and
        active_class_ids [B, C], all int32, and scale [B] float32.
    """
    parts = parse_image_meta_graph(np.asarray(meta))
    return {name: part.astype(np.float32 if name == "scale" else np.int32) for name, part in parts.items()}


def parse_image_meta_graph(meta: Tensor) -> dict[str, Tensor]:
    """`parse_image_meta` for tensors: the same parts, in the dtype of `meta`."""
    return {
        "image_id": meta[..., 0],
        "original_image_shape": meta[..., ORIGINAL_SHAPE],
        "image_shape": meta[..., SHAPE],
        "window": meta[..., WINDOW],
        "scale": meta[..., SCALE],
        "active_class_ids": meta[..., CLASSES],
    }


def normalized_window_graph(meta: Tensor, box_offset: int = 1) -> tuple[Tensor, Tensor]:
    """The part of each image that is not padding, as a normalized box.

    Args:
        meta: [B, 12 + C]. All images of a batch have the same size.
        box_offset: See `ops.boxes.norm_boxes`.

    Returns:
        windows [B, (y1, x1, y2, x2)], and the size (height, width) in pixels that they are normalized to; float32.
    """
    parts = parse_image_meta_graph(meta)
    size = ops.cast(parts["image_shape"][0, :2], "float32")
    return norm_boxes_graph(ops.cast(parts["window"], "float32"), size, box_offset), size
