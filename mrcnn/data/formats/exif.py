"""Photos with an EXIF orientation: whether annotations refer to the upright photo or to the stored pixels.

A camera held on its side stores rotated pixels, and a number in the EXIF data that says how to rotate them back. Most
annotation tools show the photo upright; some older ones, and programs that ignore EXIF, use the stored pixels. One rule
holds for all formats:

1. The size in the annotation, or of a mask, decides if only one of the two has this size.
2. Otherwise, in a format without sizes (VIA), coordinates decide: the stored pixels if only they contain all points.
3. Otherwise the photo is upright. This is a guess for square photos and for the orientations 2 to 4, which keep the
   size: it gives a warning, unless the tools of the format are known to rotate photos.

The size of an image in its dataset is the one that was found by this rule, so that `load_image` follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.image_files import check_size
from mrcnn.data.formats.parsing import image_header
from mrcnn.data.image_reading import ImageHeader, read_image
from mrcnn.data.user_warnings import warn

Size = Sequence[int | None]  # (height, width) in pixels; None or 0: unknown


class UprightDataset(Dataset):
    """A `Dataset` that loads photos upright, or as stored if only the stored pixels have the size in `image_info`."""

    def load_image(self, image_id: int) -> np.ndarray:
        """Loads an image as `image_reading.read_image`, turned by the rule above."""
        info = self.image_info[image_id]
        if info["path"] is None:
            return super().load_image(image_id)
        size = info.get("height"), info.get("width")
        return read_image(info["path"], upright=size if all(size) else True, download=self.download)


def upright_size(
    path: str | Path,
    where: Where,
    stated: Size = (None, None),
    extent: tuple[float, float] | None = None,
    tools_turn: bool = True,
) -> tuple[int, int]:
    """`size_for_annotation` of an image file. Raises BrokenAnnotation also if there is no image."""
    return size_for_annotation(image_header(path, where), where, stated, extent, tools_turn)


def size_for_annotation(
    header: ImageHeader,
    where: Where,
    stated: Size = (None, None),
    extent: tuple[float, float] | None = None,
    tools_turn: bool = True,
) -> tuple[int, int]:
    """(height, width) in pixels that an image has for its annotations, by the rule above.

    Args:
        header: of the image.
        where: (annotation file, name of the entry), for the errors.
        stated: (height, width) in the annotation, or of its mask.
        extent: largest (y, x) of the annotation's coordinates, if it has no size.
        tools_turn: whether the tools of this format are known to turn photos upright. False: warn of a guess.

    Raises:
        BrokenAnnotation: the image has another size than the annotation says.
    """
    stored, upright = header.stored, header.upright
    if header.orientation == 1:
        check_stated_size(stated, upright, where)
        return upright
    if stored != upright and _has_size(stated, stored) and not _has_size(stated, upright):
        return stored
    _check_turned_size(stated, header, where)
    distinguishable = stored != upright and any(stated)
    if (
        extent is not None
        and not distinguishable
        and _contains_point(stored, extent)
        and not _contains_point(upright, extent)
    ):
        return stored
    if (
        not distinguishable
        and not tools_turn
        and (extent is None or stored == upright or _contains_point(stored, extent))
    ):
        warn(
            "A photo has an EXIF orientation, and the annotation doesn't tell whether it means the stored pixels or the"
            " upright photo; it is taken as upright. Save photos without EXIF orientation to be sure (docs/data.md,"
            ' "Images").'
        )
    return upright


def size_of_masks(path: str | Path, masks: Sequence[str | Path], where: Where) -> tuple[int, int]:
    """`upright_size` of an image whose masks are image files, all of its size. Raises BrokenAnnotation."""
    sizes = [image_header(mask, where).stored for mask in masks]
    header = image_header(path, where)
    fitting = {header.stored, header.upright} & set(sizes[:1])
    size = size_for_annotation(header, where, min(fitting, default=(None, None)), tools_turn=False)
    for mask, mask_size in zip(masks, sizes):
        check_size(mask, where, mask_size, size)
    return size


def _has_size(stated: Size, size: tuple[int, int]) -> bool:
    return all(pixels in (None, 0, side) for pixels, side in zip(stated, size))


def _contains_point(size: tuple[int, int], extent: tuple[float, float]) -> bool:
    """Whether an image of this (height, width) holds a point (y, x)."""
    return extent[0] <= size[0] and extent[1] <= size[1]


def _check_turned_size(stated: Size, header: ImageHeader, where: Where) -> None:
    if not _has_size(stated, header.upright):
        (height, width), (stored_height, stored_width) = header.upright, header.stored
        sizes = f"{height} x {width} (height x width)"
        if header.stored != header.upright:
            sizes += (
                f", as EXIF orientation {header.orientation} turns it, or {stored_height} x {stored_width}, as stored"
            )
        raise BrokenAnnotation(*where, "image size", sizes, f"{stated[0]} x {stated[1]}")


def check_stated_size(stated: Size, found: tuple[int, int], where: Where) -> None:
    """Raises BrokenAnnotation if the size (height, width) in an annotation isn't the image's."""
    for side, pixels, expected in zip(("height", "width"), stated, found):
        if pixels not in (None, 0, expected):
            raise BrokenAnnotation(*where, f"image {side}", f"{expected}, as the image has it", pixels)
