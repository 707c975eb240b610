"""`.safetensors`: the length of the header in 8 bytes, the header (JSON), and the numbers of all tensors.

The header is {name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}}; bytes are little-endian.
"""

from __future__ import annotations

import json
import mmap

import numpy as np

from .tensors import BFLOAT16, Tensor, checked_sizes, contiguous

LARGEST_HEADER = 16 * 2**20
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def recognizes(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` has this format."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def read_tensors(data: mmap.mmap) -> dict[str, Tensor]:
    """Returns {name: tensor}.

    Raises:
        ValueError: The header is broken, or a tensor isn't within the file.
    """
    length = int.from_bytes(data[:8], "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, far more than the names of weights need")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"its header is damaged: {str(error)[:40]}") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not an object with names")
    return {name: _tensor(name, entry, data, 8 + length) for name, entry in header.items() if name != "__metadata__"}


def _tensor(name: str, entry: dict, data: mmap.mmap, start: int) -> Tensor:
    if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        raise ValueError(f"the tensor {name} has the dtype {str(kind)[:20]}; expected one of {', '.join(DTYPES)}")
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError(f"the tensor {name} has no data_offsets")
    begin, end = (start + n for n in offsets)
    shape, _, _ = checked_sizes(name, entry.get("shape"), 0, entry.get("shape"))
    tensor = Tensor(
        name, shape, np.dtype(DTYPES[entry["dtype"]]), lambda: memoryview(data)[begin:end], 0, contiguous(shape)
    )
    if end > len(data) or end - begin != tensor.nbytes:
        raise ValueError(
            f"the tensor {name} of shape {shape} needs {tensor.nbytes:,} bytes, its data_offsets say {end - begin:,},"
            f" and {max(len(data) - begin, 0):,} are there"
        )
    return tensor
