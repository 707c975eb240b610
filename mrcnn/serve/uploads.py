"""The body of a request, read within limits, and the photo in it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from email.message import Message

import numpy as np
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.requests import ClientDisconnect, Request

from mrcnn.data.image_reading import TooManyPixels, UnreadableImage, decode_image, read_header
from mrcnn.serve.limits import Limits, Refused

NAME = "The image"  # of a photo in error messages
# What names a program rather than an image: a path, a source file, a line, an address.
INTERNAL = re.compile(r"[\\/]\w[\w.+-]*[\\/]|\w\.(py|cpp|c|h)\b|\bline \d+|0x[0-9a-f]{6}")
DAMAGED = f"{NAME} is damaged and can't be decoded."
TIFF_BYTES = 6  # of a pixel: three bands of 16 bits
# The last one is what curl and urllib say of a body unless told otherwise; no form of that type has an image.
BODY_TYPES = ("multipart/form-data", "application/octet-stream", "application/x-www-form-urlencoded")
DRAINED = 4  # times the limit
MAX_PARTS = 16  # of a form
ROOM_FOR_FORM = 10_000  # bytes around the image in a form


async def read_body(request: Request, limits: Limits) -> bytes:
    """The image file in a request: the body itself, or the first file of a form.

    Raises:
        Refused: 400 without an image, 408 if it takes too long, 413 if it is too large, 415 for another type.
    """
    kind, options = content_type(request)
    room = ROOM_FOR_FORM if kind == "multipart/form-data" else 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            body = await _read(request, limits.max_bytes + room, limits.max_bytes)
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {limits.upload_seconds} s.") from None
    if kind == "multipart/form-data":
        body = first_file(body, options.get("boundary", ""))
        if len(body) > limits.max_bytes:
            raise too_large(limits.max_bytes)
    if not body:
        raise Refused(400, "There is no image in the request; send one as the body, or as a file of a form.")
    return body


def content_type(request: Request) -> tuple[str, dict[str, str]]:
    """The type of the body and its options. Raises `Refused` (415) for what is no image and no form."""
    text = request.headers.get("content-type", "application/octet-stream")
    message = Message()
    message["content-type"] = text.replace("\n", " ").replace("\r", " ")
    kind, options = message.get_content_type(), dict(message.get_params(failobj=[])[1:])
    if not (kind.startswith("image/") or kind in BODY_TYPES):
        raise Refused(415, "Expected an image as the body, or a form (multipart/form-data) with one file.")
    return kind, options


def too_large(most: int) -> Refused:
    return Refused(413, f"The image has more than {most} bytes, the limit of this server.", {"connection": "close"})


async def _read(request: Request, most: int, shown: int) -> bytes:
    """The body. One that is too large is read to its end, up to `DRAINED` times the limit, and thrown away: a client
    that is still sending would see a broken connection instead of the answer.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdigit():
        raise Refused(400, "The header Content-Length is not a number.")
    if int(length) > DRAINED * most:
        raise too_large(shown)
    body, count = bytearray(), 0
    async for piece in request.stream():
        count += len(piece)
        if count <= most:
            body += piece
        elif count > DRAINED * most:
            break
        else:
            body.clear()
    if count > most:
        raise too_large(shown)
    return bytes(body)


async def drain(request: Request, limits: Limits) -> None:
    """Throws away the body of a request that is refused because the server is busy, see `_read`."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(limits.upload_seconds):
            count = 0
            async for piece in request.stream():
                count += len(piece)
                if count > limits.max_bytes:
                    return


def first_file(body: bytes, boundary: str) -> bytes:
    """The first file of a form, without a copy on the disk.

    Raises:
        Refused: 400 if the form is broken or has no file.
    """
    parts = _Parts()
    try:
        parser = MultipartParser(boundary.encode("latin-1", "replace"), parts.callbacks())
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, ValueError) as error:
        raise Refused(400, "The form (multipart/form-data) can't be read.") from error
    if parts.file is None or not parts.complete:
        raise Refused(400, "The form has no complete file; send the image as a file, as `curl -F image=@photo.jpg`.")
    return bytes(parts.file)


class _Parts:
    """Collects the first part of a form that is a file, i.e. has a file name."""

    def __init__(self):
        self.file: bytearray | None = None
        self.complete = False
        self._count = 0
        self._name, self._value, self._is_file = b"", b"", False

    def callbacks(self) -> dict:
        return {
            "on_part_begin": self._begin, "on_header_field": self._add_name, "on_header_value": self._add_value,
            "on_header_end": self._end_header, "on_part_data": self._add_data, "on_part_end": self._end,
        }  # fmt: skip

    def _begin(self) -> None:
        self._is_file, self._count = False, self._count + 1
        if self._count > MAX_PARTS:
            raise ValueError("too many parts")

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition" and b"filename" in self._value and self.file is None:
            self._is_file, self.file = True, bytearray()
        self._name = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.file += memoryview(data)[start:end]

    def _end(self) -> None:
        self.complete |= self._is_file


def count_pixels(data: bytes, limits: Limits) -> int:
    """Height x width of an image file, from its header.

    Raises:
        Refused: 400 if it is no supported image, 413 if it has too many pixels.
    """
    try:
        header = read_header(data, NAME)
    except TooManyPixels as error:
        raise too_many_pixels(limits) from error
    except Exception as error:
        raise Refused(400, reason_of(error)) from error
    pixels = header.height * header.width
    if pixels > limits.max_pixels:
        raise too_many_pixels(limits, header.height, header.width)
    if header.format == "TIFF" and tiff_bytes(data) > TIFF_BYTES * limits.max_pixels:
        raise too_large(limits.max_bytes)
    return pixels


def tiff_bytes(data: bytes) -> int:
    """Bytes of a TIFF when decoded: it may have many bands of up to 16 bytes, well compressed."""
    import tifffile  # takes time, and few need it

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.series[0].nbytes


def too_many_pixels(limits: Limits, *size: int) -> Refused:
    found = f"{size[0]} x {size[1]} pixels" if size else "too many pixels"
    return Refused(413, f"The image has {found}; this server takes at most {limits.max_pixels}.")


def decode_photo(data: bytes) -> np.ndarray:
    """An image file -> the photo that `model.detect(path)` would read, upright.

    Raises:
        Refused: 400 with the reason.
    """
    try:
        return decode_image(data, NAME, upright=True)
    except Exception as error:  # decoders raise anything for hostile files, and the client needs an answer
        raise Refused(400, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The message of an error about an image, without what libraries add about themselves."""
    text = str(error)
    if not isinstance(error, (UnreadableImage, ValueError)) or INTERNAL.search(text) or len(text) > 300:
        return DAMAGED
    return text
