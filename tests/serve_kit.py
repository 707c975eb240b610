"""Helpers of the tests of `mrcnn.serve`: image files, hostile bodies, and a model without a network."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import time
import zlib

import numpy as np
from kit import photo, tiny_config
from PIL import Image

from mrcnn.inference.results import Detections

CLASSES = ["BG", "square", "disc"]


def image_file(image=None, kind="PNG", **options) -> bytes:
    """The bytes of an image file; of a photo of 64 x 64 pixels by default."""
    file = io.BytesIO()
    Image.fromarray(photo() if image is None else image).save(file, kind, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says a size, with a few bytes of pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def hostile_bodies(count: int, seed: int = 0) -> list[tuple[bytes, dict[str, str]]]:
    """Bodies that are no image, and the headers to send them with: damaged files, lies in headers, broken forms."""
    rng = np.random.default_rng(seed)
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
    whole = [image_file(photo(32, 40, seed=i), kind) for i, kind in enumerate(kinds)]
    form = {"content-type": "multipart/form-data; boundary=xyz"}
    fixed = [
        (b"", {}), (b"", form), (b"{}", {}), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}),
        (b"%!PS-Adobe-3.0", {}), (b"\x89PNG\r\n\x1a\n", {}), (b"\xff\xd8\xff\xe0", {}),
        (b"RIFF\xff\xff\xff\xffWEBP", {}), (b"GIF89a" + b"\xff" * 40, {}),
        (png_of_size(100_000, 100_000), {}), (png_of_size(2**31 - 1, 2**31 - 1), {}), (png_of_size(0, 5), {}),
        (b"--xyz\r\n", form), (b"--xyz--\r\n", form), (b"no boundary", {"content-type": "multipart/form-data"}),
        (b'--xyz\r\nContent-Disposition: form-data; name="image"\r\n\r\nvalue\r\n--xyz--\r\n', form),
        (b'--xyz\r\nContent-Disposition: form-data; name="a"; filename="../passwd"\r\n\r\nroot\r\n--xyz--', form),
        (b"--xyz\r\n" * 5000, form), (whole[0], {"content-type": "text/html"}), (whole[0], {"content-type": "\u00ff/"}),
        (whole[0], {"content-type": "multipart/form-data; boundary=" + "b" * 5000}), (b"II*\x00" + b"\xff" * 200, {}),
    ]  # fmt: skip
    found = fixed[:count]
    while len(found) < count:
        data = bytearray(whole[len(found) % len(whole)])
        way = int(rng.integers(4))
        if way == 0:
            data = data[: int(rng.integers(1, len(data) // 2))]
        elif way == 1:
            data = bytearray(rng.integers(0, 256, int(rng.integers(1, 4000)), np.uint8).tobytes())
        elif way == 2:  # a header and nonsense
            start = int(rng.integers(2, 8))
            data[start:] = rng.integers(0, 256, len(data) - start, np.uint8).tobytes()
        else:
            data = data[: len(data) // 3] + bytearray(200) + b"\xff" * 50
            data[:2] = b"\0\0"
        found.append((bytes(data), {}))
    return found


class StandIn:
    """A model without a network: finds a square in every photo, and can be made to wait or to fail.

    Attributes:
        go: `detect` waits for this event.
        error: What `detect` raises, or None.
        batches: Number of photos in each call.
    """

    stages = None
    class_names = CLASSES

    def __init__(self):
        self.config = tiny_config()
        self.go, self.started = threading.Event(), threading.Event()
        self.go.set()
        self.error = None
        self.batches = []

    def detect(self, photos):
        self.started.set()
        assert self.go.wait(30)
        self.batches.append(len(photos))
        if self.error:
            raise self.error
        return [self._find(photo) for photo in photos]

    def _find(self, photo):
        masks = np.zeros((*photo.shape[:2], 2), bool)
        masks[1:5, 2:8, 0] = masks[4:9, 4:9, 1] = True
        return Detections([[1, 2, 5, 8], [4, 4, 9, 9]], [1, 2], [0.9, 0.5], masks, class_names=CLASSES)


@contextlib.contextmanager
def running(app, **options):
    """The app in a real server on a free port of localhost: yields the address and the uvicorn server."""
    import uvicorn

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server does not stop"
