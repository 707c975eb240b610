"""PyTorch's files: the zip archive of version 1.6 and later, and the stream of pickles before it.

zip       <any>/data.pkl, and a storage in each <any>/data/<key>; <any>/byteorder
stream    five pickles (magic number, protocol, system, the object, keys of the storages), then for each storage
          its number of elements in 8 bytes and its bytes
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pickles import Bytes, Global, TensorView, read_pickle
from .tensors import BFLOAT16, Tensor, check_inside, checked_sizes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_HEAD = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # how a pickle stores the magic number
LEGACY_PROTOCOL = 1001
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip archive: signature, lengths of its name and extra field
DTYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "UInt64Storage": "u8", "UInt32Storage": "u4", "UInt16Storage": "u2",
}  # fmt: skip


@dataclass
class Storage:
    """The bytes that tensors are views of."""

    key: str
    dtype: np.dtype
    count: int  # elements
    read: Callable[[], Any]


def is_zip(archive: zipfile.ZipFile) -> bool:
    """Whether a zip archive is PyTorch's."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def is_stream(head: bytes) -> bool:
    """Whether a file that begins with `head` is PyTorch's stream of pickles."""
    return head[2:14] == LEGACY_HEAD


def read_zip(archive: zipfile.ZipFile, data: mmap.mmap) -> Any:
    """Returns the object in an archive, with `TensorView`s of `Storage`s. `data`: the bytes of the file."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) > 1:
        raise ValueError("the archive holds several data.pkl")
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise ValueError("it is a TorchScript program. Save its weights: torch.save(model.state_dict(), path)")
    folder = pickles[0].removesuffix("data.pkl")
    order = _member(archive, data, folder + "byteorder")() if folder + "byteorder" in archive.namelist() else b"little"
    storages: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        kind, key, count = _checked_id(identifier)
        if key not in storages:
            dtype = _dtype(kind, bytes(order) == b"big")
            info = archive.NameToInfo.get(f"{folder}data/{key}")
            if info is None or info.file_size < count * dtype.itemsize:
                raise ValueError(
                    f"the storage {key[:40]} has {count * dtype.itemsize:,} bytes, and the archive holds"
                    f" {info.file_size if info else 0:,} of it"
                )
            storages[key] = Storage(key, dtype, count, _member(archive, data, info.filename))
        return storages[key]

    return read_pickle(Bytes(_member(archive, data, pickles[0])()), persistent)


def read_stream(data: mmap.mmap) -> Any:
    """Returns the object in a stream of pickles, with `TensorView`s of `Storage`s."""
    storages: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Any:
        kind, key, count = _checked_id(identifier)
        view = identifier[5] if len(identifier) > 5 else None
        storage = storages.setdefault(key, Storage(key, _dtype(kind, False), count, lambda: b""))
        if view is None:
            return storage
        # A part of a storage: (key, offset, size). Tensors count from the part's beginning.
        if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
            raise ValueError(f"the part of the storage {key[:40]} has no offset and size")
        return _Part(storage, view[1])

    stream = Bytes(memoryview(data))
    if read_pickle(stream) != LEGACY_MAGIC or read_pickle(stream) != LEGACY_PROTOCOL:
        raise ValueError("its first pickles are not those of torch.save")
    system = read_pickle(stream)
    big = isinstance(system, dict) and system.get("little_endian") is False
    found = read_pickle(stream, persistent)
    keys = read_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of storages")
    position = stream.position
    for key in keys:
        if key not in storages:
            raise ValueError(f"the storage {key[:40]} belongs to no tensor")
        storage = storages[key]
        storage.dtype = storage.dtype.newbyteorder(">") if big else storage.dtype
        position = _place_storage(data, storage, position, big)
    missing = [key for key in storages if key not in set(keys)]
    if missing:
        raise ValueError(f"{len(missing)} storages are not in the file")
    return found


@dataclass
class _Part:
    storage: Storage
    offset: int


def _place_storage(data: mmap.mmap, storage: Storage, position: int, big: bool) -> int:
    """Sets where the bytes of a storage are; returns the position after them."""
    if position + 8 > len(data):
        raise ValueError("it is cut off before its last storage")
    (count,) = struct.unpack_from(">q" if big else "<q", data, position)
    start, stop = position + 8, position + 8 + count * storage.dtype.itemsize
    if count != storage.count or stop > len(data):
        raise ValueError(
            f"the storage {storage.key[:40]} should have {storage.count:,} elements, says {count:,}, and"
            f" {len(data) - start:,} bytes are left in the file"
        )
    storage.read = lambda: memoryview(data)[start:stop]
    return stop


def _checked_id(identifier: Any) -> tuple[str, str, int]:
    """Type, key and number of elements of a storage, from its persistent id."""
    if (
        not isinstance(identifier, tuple)
        or len(identifier) < 5
        or identifier[0] != "storage"
        or not isinstance(identifier[1], Global)
    ):
        raise ValueError("it refers to data that is no storage of a tensor")
    _, kind, key, _, count = identifier[:5]
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**48:
        raise ValueError("a storage has no key or no size")
    return kind.name.removeprefix("torch."), key, count


def _dtype(kind: str, big: bool) -> np.dtype:
    if kind not in DTYPES:
        raise ValueError(f"it holds a torch.{kind[:40]}, which can't be read: quantized and complex numbers are not")
    dtype = np.dtype(DTYPES[kind])
    return dtype.newbyteorder(">") if big else dtype


def _member(archive: zipfile.ZipFile, data: mmap.mmap, name: str) -> Callable[[], memoryview]:
    """Returns a function that returns the bytes of a member, checked once against their CRC."""
    info = archive.NameToInfo[name]
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(
            f"{name[:80]} is compressed, and torch.save does not compress. Write the archive with `zip -0`"
        )
    signature, name_length, extra_length = LOCAL_HEADER.unpack_from(data, info.header_offset)
    start = info.header_offset + 30 + name_length + extra_length
    stop = start + info.file_size
    if signature != b"PK\x03\x04" or stop > len(data):
        raise ValueError(f"{name[:80]} is not where the archive's table says")
    checked = False

    def read() -> memoryview:
        nonlocal checked
        content = memoryview(data)[start:stop]
        if not checked and info.CRC and zlib.crc32(content) != info.CRC:  # 0: written without checksums
            raise ValueError(f"{name[:80]} is damaged: its checksum differs. Copy or download the file again")
        checked = True
        return content

    return read


def tensor(name: str, view: TensorView) -> Tensor:
    """The checked tensor of a `TensorView`.

    Raises:
        ValueError: It isn't within its storage; the message names it.
    """
    shape, offset, strides = checked_sizes(name, view.shape, view.offset, view.strides)
    storage = view.storage
    if isinstance(storage, _Part):
        storage, offset = storage.storage, offset + storage.offset
    if not isinstance(storage, Storage):
        raise ValueError(f"the tensor {name} has no storage")
    found = Tensor(name, shape, storage.dtype, storage.read, offset, strides)
    return check_inside(found, storage.count * storage.dtype.itemsize)
