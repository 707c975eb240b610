"""Checks the global heaps of an HDF5 file, where it keeps texts of variable length such as the names of layers.

The HDF5 library (1.14 at least) steps through a heap by the sizes in the file, and never ends if one is zero.

    GCOL  version (1 byte, is 1)  3 zero bytes  size of the heap (8 bytes)
    then for each object: index (2)  reference count (2)  4 bytes  size (8)  content, padded to a multiple of 8 bytes
    object 0 is what is free: its size is that of all of it

Reference: HDF5 File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import io
import mmap
import struct

START = b"GCOL\1\0\0\0"
HEADER = 16  # bytes of the heap's header, and of each object's


def check_global_heaps(source: str | io.BytesIO, path: str) -> None:
    """Raises ValueError with the path if a global heap of an HDF5 file, given as path or content, is damaged."""
    if isinstance(source, io.BytesIO):
        _check(source.getvalue(), path)
        return
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check(content, path)


def _check(content: bytes | mmap.mmap, path: str) -> None:
    start = content.find(START)
    while start >= 0:
        (size,) = struct.unpack_from("<Q", content, start + len(START)) if start + HEADER <= len(content) else (0,)
        if not HEADER <= size <= len(content) - start:
            raise ValueError(f"{path} is damaged: a heap at byte {start} has {size} bytes. Fetch it again.")
        place = start + HEADER
        while place + HEADER <= start + size:
            index, _, object_size = struct.unpack_from("<HHxxxxQ", content, place)
            length = HEADER + (object_size + 7) // 8 * 8 if index else object_size
            if not HEADER <= length <= start + size - place:
                raise ValueError(
                    f"{path} is damaged: an object at byte {place} has {object_size} bytes. Fetch it again."
                )
            place += length
        start = content.find(START, start + len(START))
