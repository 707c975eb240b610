"""The masks of an image from its annotated objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.dataset import Dataset

Drawable = TypeVar("Drawable")


def draw_objects(
    dataset: Dataset, info: dict[str, Any], objects: Sequence[tuple[Any, Drawable]], draw: Callable[[Drawable], Any]
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Draws the objects of an image.

    Args:
        dataset: a prepared Dataset.
        info: the image's entry of `dataset.image_info`, with "height" and "width".
        objects: (class id in the source, what `draw` takes) of each object.
        draw: returns the mask [H, W] bool of an object.

    Returns:
        masks: [H, W, N] bool. Objects without a pixel are left out.
        class_ids: [N] int32.
    """
    masks = np.zeros((len(objects), info["height"], info["width"]), bool)
    class_ids = np.zeros(len(objects), np.int32)
    for i, (source_id, drawable) in enumerate(objects):
        masks[i] = draw(drawable)
        class_ids[i] = dataset.map_source_class_id(f"{info['source']}.{source_id}")
    kept = masks.any(axis=(1, 2))
    if not kept.all():
        masks, class_ids = masks[kept], class_ids[kept]
    return np.moveaxis(masks, 0, -1), class_ids
