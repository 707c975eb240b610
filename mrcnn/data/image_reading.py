"""Reads image files. All images that this package opens, photos and masks, are read here.

The format is detected from the first bytes, not from the name, and must be one of `PLUGINS` or TIFF. Pillow's other
decoders are never used; the one for EPS would start Ghostscript. The number of pixels is checked before decoding.

Pixels are decoded, not converted: 16-bit images stay uint16, and TIFF keeps its type and its bands.
`Config.IMAGE_RANGE` says how these numbers become the network's 0..255.

Shapes:
    photo   [H, W, 3], of TIFF also [H, W, bands]; the file's own number type
    values  [H, W] or [H, W, bands], as stored: of a palette image the index
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from mrcnn.data.user_warnings import warn

MAX_PIXELS = (
    250_000_000  # height x width of an image; a program that needs more sets it: image_reading.MAX_PIXELS = ...
)
MAX_DOWNLOAD_BYTES = 500_000_000
DOWNLOAD_SECONDS = 60

# Pillow's modules by the first bytes of their files.
PLUGINS = {
    b"\xff\xd8": ("JPEG", "JpegImagePlugin"),
    b"\x89PNG\r\n\x1a\n": ("PNG", "PngImagePlugin"),
    b"BM": ("BMP", "BmpImagePlugin"),
    b"GIF8": ("GIF", "GifImagePlugin"),
    b"RIFF": ("WEBP", "WebPImagePlugin"),
    b"\x00\x00\x00\x0cjP  ": ("JPEG2000", "Jpeg2KImagePlugin"),
    b"\xff\x4f\xff\x51": ("JPEG2000", "Jpeg2KImagePlugin"),
    **{f"P{n}".encode(): ("PPM", "PpmImagePlugin") for n in range(1, 7)},
}
TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
FORMATS_READ = "JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000 and PPM"
OTHER_FORMATS = {  # what files that aren't read mostly are
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop's PSD",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"<": "HTML or XML",
    b"{": "JSON",
    b"PK\x03\x04": "a zip archive",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a pointer of Git LFS, whose file is not downloaded",
}
HEIF_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF"}
START_BYTES = 64

BITS = {"RGB": 24, "RGBA": 32, "LA": 16, "I;16": 16}  # of a pixel in PNG, by Pillow's modes; 1 or more in others
DEFLATE_RATIO = 1032  # the most that Deflate, the compression of PNG, can shrink

ORIENTATION_TAG = 0x0112
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
TO_UPRIGHT = {  # [H, W, ...] as stored -> upright, by EXIF orientation
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


class UnreadableImage(ValueError):
    """A file that isn't an image, is damaged or too large, or has an unsupported format. The message names the file."""


class TooManyPixels(UnreadableImage):
    """An image with more than `MAX_PIXELS` pixels."""


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000" or "PPM".
        height, width: pixels, as stored.
        orientation: of EXIF, 1..8: 1 if the stored pixels are upright, else a key of `TO_UPRIGHT`.
        bands: numbers stored for each pixel, 1 for gray and for a palette; None for TIFF.
    """

    format: str
    height: int
    width: int
    orientation: int
    bands: int | None = None

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) of the stored pixels."""
        return self.height, self.width

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the upright photo."""
        return self.stored[::-1] if self.orientation > 4 else self.stored

    def is_turned_for(self, size: tuple[int, int]) -> bool:
        """Whether an image of this (height, width) is upright: yes, unless only the stored pixels have this size."""
        return self.upright == tuple(size) or self.stored != tuple(size)


def read_image(path: str | Path, upright: bool | tuple[int, int] = False, download: bool = False) -> np.ndarray:
    """Reads an image file as a photo.

    Args:
        path: path, or URL.
        upright: whether to turn the photo as its EXIF orientation says. False: the stored pixels, as in matterport.
            (height, width): True, unless only the stored pixels have this size.
        download: whether to download the image if path is a URL; otherwise a URL is an error.

    Returns:
        [H, W, 3] of the file's type: uint8 for photos, uint16 for 16-bit PNG, any for TIFF. Gray is repeated and alpha
        is dropped; 1 bit becomes 0 and 255. TIFF and JPEG 2000 of 2 bands, or of 4 and more, are [H, W, bands]: the
        fourth band may be infrared, also if the file calls it alpha.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImage: a ValueError that names the file and says what it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (8, 6), 40).save(f"{folder}/a.png")
        ...     image = read_image(f"{folder}/a.png")
        >>> image.shape, image.dtype, image[0, 0].tolist()
        ((6, 8, 3), dtype('uint8'), [40, 40, 40])
    """
    if is_url(path):
        if not download:
            raise UnreadableImage(f"{path} is a URL; expected a file, or download=True.")
        return decode_image(_download(str(path)), str(path), upright)
    return decode_image(Path(path).read_bytes(), str(path), upright)


def decode_image(data: bytes, name: str, upright: bool | tuple[int, int] = False) -> np.ndarray:
    """`read_image` of the bytes of a file. `name`: of the file, for errors."""
    with name_errors(name):
        if _is_tiff(data):
            from mrcnn.data import tiff  # imports tifffile, which few need

            image, header = tiff.read(data, name)
        else:
            with _open(io.BytesIO(data), name) as picture:
                header = _header(picture, name)
                image = _decode(data, picture, header.format)
        if image.ndim == 2:
            image = image[..., None]
        if image.shape[-1] == 1:
            image = np.repeat(image, 3, axis=-1)
        if upright is True or (upright and header.is_turned_for(upright)):
            image = turn_upright(image, header.orientation)
        return image


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels [H, W, ...] upright, as their EXIF orientation 1..8 says."""
    return np.ascontiguousarray(TO_UPRIGHT[orientation](image)) if orientation in TO_UPRIGHT else image


def read_stored_values(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """Reads the numbers in an image file, such as a mask: of a palette image the index, of a gray image the value.

    Args:
        source: path, or the bytes of a file.
        name: of the file, for errors; None: the path.

    Returns:
        [H, W] or [H, W, bands] as stored; bool for 1 bit.

    Raises:
        FileNotFoundError, UnreadableImage: as `read_image`.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = str(source) if name is None else name
    with name_errors(name):
        if _is_tiff(data):
            from mrcnn.data import tiff

            return tiff.read(data, name, stored=True)[0]
        with _open(io.BytesIO(data), name) as picture:
            return np.asarray(picture)


def read_header(source: str | Path | bytes, name: str | None = None) -> ImageHeader:
    """Reads the header of an image file, given as in `read_stored_values`. Raises the same errors."""
    name = str(source) if name is None else name
    with name_errors(name), io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if _is_tiff(_first_bytes(file)):
            from mrcnn.data import tiff

            return tiff.read_header(file, name)
        with _open(file, name) as picture:
            return _header(picture, name)


def is_url(path: str | Path) -> bool:
    """Whether an image's path is a URL."""
    return str(path).startswith(("http://", "https://", "ftp://"))


# ---- Opening ---------------------------------------------------------------------------------------------------------
@contextmanager
def name_errors(name: str) -> Iterator[None]:
    """Turns any error of a decoder into one that names the file."""
    try:
        yield
    except (UnreadableImage, MemoryError, ImportError, Warning):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # missing, or without permission
            raise
        raise UnreadableImage(f"{name} can't be read as an image: {error or type(error).__name__}") from error


@contextmanager
def _open(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """The image with its header read by Pillow, if it is of a format in `PLUGINS`, and not too large."""
    start = _first_bytes(file)
    plugin = next((found for magic, found in PLUGINS.items() if start.startswith(magic)), None)
    if plugin is None or (plugin[0] == "WEBP" and start[8:12] != b"WEBP"):
        raise UnreadableImage(
            f"{name} is {_describe(start)}, not an image of a supported format; expected {FORMATS_READ}."
        )
    importlib.import_module(f"PIL.{plugin[1]}")
    # Not Image.open: its limit is shared by all code of a process.
    with Image.OPEN[plugin[0]][0](file, None) as picture:
        position = file.tell()
        check_pixels(picture.height, picture.width, name)
        needed = picture.height * picture.width * BITS.get(picture.mode, 1) / 8 / DEFLATE_RATIO
        if plugin[0] == "PNG" and needed > file.seek(0, io.SEEK_END):
            raise UnreadableImage(f"{name} is cut off: its {picture.height} x {picture.width} pixels can't be in it.")
        file.seek(position)
        yield picture


def check_pixels(height: int, width: int, name: str) -> None:
    """Raises TooManyPixels if an image has more than `MAX_PIXELS` pixels."""
    if height * width > MAX_PIXELS:
        raise TooManyPixels(
            f"{name} has {height} x {width} pixels (height x width); expected at most {MAX_PIXELS}"
            " (mrcnn.data.image_reading.MAX_PIXELS)."
        )


def _first_bytes(file: BinaryIO) -> bytes:
    start = file.read(START_BYTES)
    file.seek(0)
    return start


def _is_tiff(data: bytes) -> bool:
    return data[:4] in TIFF_STARTS


def _describe(start: bytes) -> str:
    """Describes a file of an unsupported format."""
    if not start:
        return "empty"
    if start[4:8] == b"ftyp":
        return HEIF_BRANDS.get(start[8:12], "a video")
    text = start.lstrip().lower() if start.lstrip()[:1] == b"<" else start
    return next((kind for magic, kind in OTHER_FORMATS.items() if text.startswith(magic)), f"{start[:8]!r}...")


def _header(picture: Image.Image, name: str) -> ImageHeader:
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    try:
        tag = Image.Image.getexif(picture).get(ORIENTATION_TAG, 1)  # that of PNG would decode the image first
    except Exception as error:  # viewers ignore broken EXIF data as well
        tag = f"unreadable ({type(error).__name__})"
    return ImageHeader(kind, picture.height, picture.width, checked_orientation(tag, name), len(picture.getbands()))


def checked_orientation(tag: object, name: str) -> int:
    """An EXIF orientation. Invalid values count as 1, with a warning, except 0, which many cameras write."""
    if isinstance(tag, int) and 0 <= tag <= 8:
        return int(tag) or 1
    brief = repr(tag) if isinstance(tag, (int, float)) else f"a {type(tag).__name__}"
    warn(f"{name}: the EXIF orientation is {brief}; expected 1..8. It is ignored.")
    return 1


# ---- Decoding --------------------------------------------------------------------------------------------------------
def _decode(data: bytes, picture: Image.Image, kind: str) -> np.ndarray:
    """A photo of another format than TIFF."""
    if getattr(picture, "is_animated", False) and kind != "JPEG":  # the others of a JPEG are its previews
        warn("Of an animated image, only the first frame is read.")
    if kind == "GIF":
        return np.asarray(picture.convert("RGB"))
    if kind == "JPEG" and not is_whole_jpeg(data):
        raise ValueError("it is cut off")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    if kind == "JPEG2000":
        flags = cv2.IMREAD_UNCHANGED
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:  # Pillow decodes rare kinds that OpenCV doesn't, and says what is wrong with a file
        return np.asarray(picture.convert("RGB"))
    return as_rgb(image) if kind == "JPEG2000" else image


def as_rgb(image: np.ndarray) -> np.ndarray:
    """OpenCV's BGR or BGRA as RGB or RGBA; other numbers of bands as they are."""
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return np.ascontiguousarray(image[..., [2, 1, 0, 3][: image.shape[2]]])
    return image


def is_whole_jpeg(data: bytes) -> bool:
    """Whether a JPEG has its end marker after the start of its last scan; older OpenCVs fill a cut one with gray."""
    return data[-2:] == JPEG_END or data.rfind(JPEG_END) > data.rfind(JPEG_SCAN)


def _download(url: str) -> bytes:
    """The bytes of a URL, within `DOWNLOAD_SECONDS` and `MAX_DOWNLOAD_BYTES`."""
    import urllib.request  # here, because it takes as long as OpenCV, and few images are downloaded

    if not url.startswith(("http://", "https://")):
        raise UnreadableImage(f"{url} can't be downloaded; expected http:// or https://.")
    deadline, data = time.monotonic() + DOWNLOAD_SECONDS, bytearray()
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as answer:
            while piece := answer.read1(1 << 16):
                data += piece
                if len(data) > MAX_DOWNLOAD_BYTES:
                    raise UnreadableImage(f"{url} has more than {MAX_DOWNLOAD_BYTES} bytes; expected an image.")
                if time.monotonic() > deadline:
                    raise UnreadableImage(f"{url} took longer than {DOWNLOAD_SECONDS} s; {len(data)} bytes arrived.")
    except OSError as error:
        raise UnreadableImage(f"{url} can't be downloaded: {error}") from error
    return bytes(data)
