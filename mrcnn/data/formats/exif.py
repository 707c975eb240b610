"""Photos with an EXIF orientation, shown upright as annotation tools show them.

A camera held on its side stores rotated pixels, and a number in the EXIF data that says how to rotate them back.
labelme, labelImg and Ultralytics do so, and their coordinates are those of the upright photo. VIA and COCO files have
coordinates of the stored pixels, as in matterport.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.parsing import image_size

ORIENTATION_TAG = 0x0112
TO_UPRIGHT = {  # [H, W, 3] as stored -> upright
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


class UprightDataset(Dataset):
    """A `Dataset` that loads images upright."""

    def load_image(self, image_id: int) -> np.ndarray:
        """Loads an image: [H, W, 3] uint8, RGB, upright."""
        image, path = super().load_image(image_id), self.image_info[image_id]["path"]
        to_upright = None if is_url(path) else TO_UPRIGHT.get(orientation(path))
        return image if to_upright is None else np.ascontiguousarray(to_upright(image))


def orientation(path: str | Path) -> int:
    """How the pixels of an image file are stored: 1 if upright, else a key of TO_UPRIGHT."""
    with Image.open(path) as image:
        try:
            return image.getexif().get(ORIENTATION_TAG, 1)
        except (SyntaxError, ValueError, struct.error):  # broken EXIF data, which viewers ignore
            return 1


def upright_size(path: str | Path, where: Where, told: Sequence[int | None] = (None, None)) -> tuple[int, int]:
    """(height, width) in pixels of an image file once it is upright.

    Args:
        path: of the image.
        where: (annotation file, name of the entry), for the errors.
        told: (height, width) in the annotation; None or 0 where it has none.

    Raises:
        BrokenAnnotation: there is no image, or it has another size than the annotation says.
    """
    height, width = image_size(path, where)
    if orientation(path) > 4:
        height, width = width, height
    check_told_size(told, (height, width), where)
    return height, width


def check_told_size(told: Sequence[int | None], found: tuple[int, int], where: Where) -> None:
    """Raises BrokenAnnotation if the size (height, width) in an annotation isn't the image's."""
    for side, pixels, expected in zip(("height", "width"), told, found):
        if pixels not in (None, 0, expected):
            raise BrokenAnnotation(*where, f"image {side}", f"{expected}, as the image has it", pixels)
