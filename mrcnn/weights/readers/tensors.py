"""A named tensor of a checkpoint, checked against the bytes that the file holds.

Offsets, strides and sizes count elements, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

MOST_DIMENSIONS = 16
LARGEST_SIZE = 2**48
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file. Its values stay in the file until `read`.

    Attributes:
        name: Name in the state dict.
        shape: Its sizes.
        dtype: NumPy's, or bfloat16 of `ml_dtypes`.
        storage: Returns the bytes that it is a view of.
        offset: First element in the storage.
        strides: Steps from one element to the next, for each axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    storage: Callable[[], Any]
    offset: int
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns the values; bfloat16 as float32."""
        if not self.nbytes:
            return np.zeros(self.shape, "float32" if self.dtype == BFLOAT16 else self.dtype.newbyteorder("="))
        flat = np.frombuffer(self.storage(), self.dtype, count=self.last + 1)
        steps = [step * self.dtype.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
        return view.astype("float32") if self.dtype == BFLOAT16 else view.astype(self.dtype.newbyteorder("="))

    @property
    def last(self) -> int:
        """Index of the last element in the storage."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))


def contiguous(shape: tuple[int, ...], fortran: bool = False) -> tuple[int, ...]:
    """Strides of an array without gaps.

    Example:
        >>> contiguous((4, 3, 2)), contiguous((4, 3, 2), fortran=True)
        ((6, 2, 1), (1, 4, 12))
    """
    if fortran:
        return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def checked_sizes(name: str, shape: Any, offset: Any, strides: Any) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Shape, offset and strides, if they are whole numbers that a tensor can have.

    Raises:
        ValueError: They aren't valid; the message names the tensor.
    """
    for what, numbers in (("shape", shape), ("strides", strides), ("offset", (offset,))):
        if not isinstance(numbers, (tuple, list)) or len(numbers) > MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name} has no {what}")
        if not all(type(n) is int and 0 <= n < LARGEST_SIZE for n in numbers):
            raise ValueError(f"the tensor {name} has a negative or impossible number in its {what}")
    if len(shape) != len(strides):
        raise ValueError(f"the tensor {name} has {len(shape)} sizes and {len(strides)} strides")
    return tuple(shape), offset, tuple(strides)


def check_inside(tensor: Tensor, available: int) -> Tensor:
    """Returns the tensor if its elements are within the `available` bytes of its storage.

    Raises:
        ValueError: Some elements are outside.
    """
    needed = (tensor.last + 1) * tensor.dtype.itemsize
    if tensor.nbytes and needed > available:
        raise ValueError(
            f"the tensor {tensor.name} of shape {tensor.shape} needs {needed:,} bytes, and {available:,} are there"
        )
    return tensor


def check_total(tensors: Mapping[str, Tensor], size: int) -> None:
    """Checks that tensors are not many times larger than their file of `size` bytes, which stores them uncompressed.

    Raises:
        ValueError: They are larger.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > 4 * size + 2**20:
        raise ValueError(f"its tensors have {total:,} bytes, and the file only {size:,}; it may be hostile")
