"""Pictures of the instances of an evaluation, for the HTML report and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.typing import ColorType

from mrcnn.drawing.renderer import draw_instances
from mrcnn.evaluation.instances import Instances

PICTURE_SIDE = 480  # pixels, longer side of a picture in TensorBoard


def picture_of(
    image: np.ndarray, instances: Instances, captions: Sequence[str], colors: Sequence[ColorType], side: int
) -> np.ndarray:
    """Draws instances on an image, small ones over large ones. Boxes are drawn only where there are no masks.

    Args:
        image: [H, W] or [H, W, channels].
        instances: n true or detected instances of the image.
        captions: n texts.
        colors: n colors.
        side: Longer side of the picture, pixels.

    Returns:
        [h, w, 3] uint8.
    """
    order = np.argsort(-instances.areas, kind="stable")
    drawn = instances.take(order)
    masks = drawn.masks() if instances.rles else None
    boxes = drawn.corners() if masks is None else drawn.mask_corners()
    return draw_instances(
        image, boxes, masks, [captions[i] for i in order], [colors[i] for i in order], side=side, show_boxes=False
    )
