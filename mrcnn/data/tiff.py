"""Reads TIFF files with all their bands and in their own number type; see `image_reading`.

OpenCV and Pillow convert what they decode: colors are multiplied by a fourth band, 16 bits are cut, signs are lost.
tifffile, which comes with scikit-image, gives the numbers that are stored. Some compressions need the package
`imagecodecs`; without it, OpenCV and Pillow decode what they don't convert.

Shapes:
    values  [H, W] or [H, W, bands], the file's number type
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from typing import BinaryIO

import cv2
import numpy as np
import tifffile
from PIL import TiffImagePlugin

from mrcnn.data.image_reading import (
    ORIENTATION_TAG,
    ImageHeader,
    UnreadableImage,
    as_rgb,
    check_pixels,
    checked_orientation,
    turn_upright,
)
from mrcnn.data.user_warnings import warn

BANDS = set("SC")  # tifffile's letters of axes: samples of a pixel, channels
MAX_BANDS = 64
REDUCED, MASK = 1, 4  # bits of NewSubfileType: a thumbnail, a transparency mask
GRAY_BITS = (2, 4)  # tifffile leaves these numbers as they are, other programs show them scaled to 8 bits
PREMULTIPLIED = 1  # ExtraSamples: colors are multiplied by alpha
PHOTOMETRIC = tifffile.PHOTOMETRIC
INFLATERS = {  # of compressions that tifffile decodes by itself
    tifffile.COMPRESSION.ADOBE_DEFLATE: zlib.decompressobj,
    tifffile.COMPRESSION.DEFLATE: zlib.decompressobj,
    tifffile.COMPRESSION.LZMA: lzma.LZMADecompressor,
}
SEGMENT_SLACK = 1 << 16  # bytes


def read(data: bytes, name: str, stored: bool = False) -> tuple[np.ndarray, ImageHeader]:
    """Reads the image of a TIFF file.

    Args:
        data: the bytes of the file.
        name: of the file, for errors.
        stored: return the stored numbers without interpreting them (palette, inverted gray, 1 bit).

    Returns:
        values, and the header.

    Raises:
        UnreadableImage: it holds several images, or its compression or color space isn't supported.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = only_image(file, name)
        page, header = series.keyframe, header_of(series, name)
        check_pixels(*header.stored, name)
        if page.photometric in (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.YCBCR):
            return _converted_to_rgb(data, page, name), header
        for each in series.pages:
            _check_inflated_size(file.filehandle, each, name)
        try:
            values = series.asarray()
        except ValueError as error:  # a compression, or a number of bits
            if "imagecodecs" not in str(error):
                raise
            return _decode_otherwise(data, page, name, stored, error), header
        values = np.moveaxis(values, [series.axes.index("Y"), series.axes.index("X")], [0, 1])
        values = values.reshape(*values.shape[:2], -1) if values.ndim > 2 else values
        return (values if stored else with_meaning(values, page, name)), header


def read_header(file: BinaryIO, name: str) -> ImageHeader:
    """The header of a TIFF file. Raises UnreadableImage as `read`."""
    with tifffile.TiffFile(file) as opened:
        header = header_of(only_image(opened, name), name)
    check_pixels(*header.stored, name)
    return header


def header_of(series: tifffile.TiffPageSeries, name: str) -> ImageHeader:
    """The header of an image; its number of pixels isn't checked, as not all of them need to be decoded."""
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    if series.size > MAX_BANDS * height * width:
        raise UnreadableImage(f"{name} has {series.size // (height * width)} bands; expected at most {MAX_BANDS}.")
    tag = series.keyframe.tags.get(ORIENTATION_TAG)
    return ImageHeader("TIFF", height, width, checked_orientation(1 if tag is None else tag.value, name))


def only_image(file: tifffile.TiffFile, name: str) -> tifffile.TiffPageSeries:
    """The image of a file. Several pages are one image if the file says that they are its channels."""
    images = [series for series in file.series if not series.keyframe.subfiletype & (REDUCED | MASK)]
    if not images:
        raise UnreadableImage(f"{name} holds no image.")
    others = set(images[0].axes) - BANDS - set("YX")
    if others or not set("YX") <= set(images[0].axes):
        count = "x".join(str(n) for n, axis in zip(images[0].shape, images[0].axes) if axis not in "YXSC")
        raise UnreadableImage(
            f"{name} holds {count} images (pages, slices or times; shape {images[0].shape}); expected one. Split the"
            " file, or choose a page in your own load_image: tifffile.imread(path, key=0)."
        )
    if len(images) > 1:
        warn(f"{name} holds {len(images)} images of different sizes; the first one is read.")
    return images[0]


def _check_inflated_size(file: BinaryIO, page: tifffile.TiffPage, name: str) -> None:
    """`check_segment` of all segments of a page."""
    page = getattr(page, "aspage", lambda: page)()
    if page.compression in INFLATERS:
        for offset, count in zip(page.dataoffsets, page.databytecounts):
            file.seek(offset)
            check_segment(file.read(count), page, name)


def check_segment(encoded: bytes, page: tifffile.TiffPage, name: str) -> None:
    """Raises UnreadableImage if a compressed segment holds more than its part of the image; tifffile has no limit."""
    make = INFLATERS.get(page.compression)
    limit = SEGMENT_SLACK + 2 * math.prod(page.chunks) * page.dtype.itemsize
    if make is not None and len(make().decompress(encoded, limit)) >= limit:
        raise UnreadableImage(f"{name} is damaged: a part of {math.prod(page.chunks)} pixels holds far more.")


# ---- Meaning of the numbers ------------------------------------------------------------------------------------------
def with_meaning(values: np.ndarray, page: tifffile.TiffPage, name: str) -> np.ndarray:
    """Stored values as those of a photo: colors of a palette; black is 0; 1, 2 and 4 bits reach 255."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        return (np.moveaxis(page.colormap, 0, -1) >> 8).astype(np.uint8)[values]  # colormap: [3, 2 ** bits] uint16
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB):
        raise UnreadableImage(f"{name} has {page.photometric.name} colors; expected gray, RGB, a palette or CMYK.")
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif page.bitspersample in GRAY_BITS:
        values = values * np.uint8(255 // (2**page.bitspersample - 1))
    if page.photometric == PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return values


def _converted_to_rgb(data: bytes, page: tifffile.TiffPage, name: str) -> np.ndarray:
    """CMYK and YCbCr of 8 bits as RGB."""
    if page.dtype != np.uint8:
        raise UnreadableImage(f"{name} has {page.photometric.name} colors of {page.dtype}; expected 8 bits, or RGB.")
    return _decode_with_pillow(data, "RGB")


def _decode_with_pillow(data: bytes, mode: str | None = None) -> np.ndarray:
    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as picture:
        orientation = picture.tag_v2.get(ORIENTATION_TAG)
        image = np.asarray(picture if mode is None else picture.convert(mode))
    # Pillow turns TIFF upright; this turns it back. Two quarter turns are each other's inverse, the others their own.
    return turn_upright(image, {6: 8, 8: 6}.get(orientation, orientation))


def _decode_otherwise(data: bytes, page: tifffile.TiffPage, name: str, stored: bool, cause: ValueError) -> np.ndarray:
    """Decodes with OpenCV or Pillow what they don't convert."""
    bands = page.samplesperpixel
    if page.dtype in (np.uint8, bool) and PREMULTIPLIED not in page.extrasamples:
        shown_as_stored = stored or page.photometric != PHOTOMETRIC.PALETTE
        image = _decode_with_pillow(data, None if shown_as_stored else "RGB")
    else:
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        image = None if image is None else as_rgb(image)
    colors = 3 if page.photometric == PHOTOMETRIC.PALETTE and not stored else bands
    if image is None or image.dtype != page.dtype or image[0, 0].size != colors:
        raise UnreadableImage(
            f"{name} can't be decoded: {cause}. Install it (pip install imagecodecs), or save the file uncompressed or"
            " compressed by Deflate."
        ) from cause
    return image.astype(np.uint8) * 255 if image.dtype == bool and not stored else image
