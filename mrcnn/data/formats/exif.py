"""Photos as annotation tools show them: upright.

A camera held on its side stores the pixels lying down, and a number in the EXIF data that says how to turn them.
labelme, labelImg and Ultralytics turn them, and their coordinates are those of the turned photo. (VIA and COCO files
are taken to mean the stored pixels, as matterport did.)
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats.parsing import BrokenAnnotation, image_size

TAG = 0x0112  # of the orientation in EXIF
TURNED = {  # [H, W, 3] as stored -> upright
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


class UprightDataset(Dataset):
    """A `Dataset` whose images are upright."""

    def load_image(self, image_id):
        """[H, W, 3] uint8, RGB, upright."""
        image, path = super().load_image(image_id), self.image_info[image_id]["path"]
        turned = None if is_url(path) else TURNED.get(orientation(path))
        return image if turned is None else np.ascontiguousarray(turned(image))


def orientation(path):
    """How the pixels of an image file are stored: 1 if upright, else a key of TURNED."""
    with Image.open(path) as image:
        try:
            return image.getexif().get(TAG, 1)
        except (SyntaxError, ValueError, struct.error):  # EXIF data that is none: viewers show such a photo as it lies
            return 1


def upright_size(path, where, told=(None, None)):
    """(height, width) in pixels of an image file once it is upright.

    Args:
        path: of the image.
        where: (annotation file, entry's name), for the errors.
        told: (height, width) that the annotation tells; None or 0 where it doesn't.

    Raises:
        BrokenAnnotation: no image, or one of another size than is told.
    """
    height, width = image_size(path, where)
    if orientation(path) > 4:
        height, width = width, height
    check_told_size(told, (height, width), where)
    return height, width


def check_told_size(told, found, where):
    """Raises BrokenAnnotation if the size (height, width) that an annotation tells isn't the image's."""
    for side, pixels, expected in zip(("height", "width"), told, found):
        if pixels not in (None, 0, expected):
            raise BrokenAnnotation(*where, f"image {side}", f"{expected}, as the image has it", pixels)
