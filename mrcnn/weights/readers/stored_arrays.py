"""The arrays of an open HDF5 weight file, checked, because weight files may come from untrusted sources.

Links are not followed, and no array is read that is larger than its bytes in the file allow.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

import h5py
import ml_dtypes
import numpy as np

# Compressed arrays may be larger than their file, up to this. A Mask R-CNN with ResNet-101 has 0.26e9 bytes.
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class StoredArray:
    """An array of an open weight file. Its values stay on disk until `read`.

    Attributes:
        name: Name in the file: "rpn_conv_shared/kernel:0" in matterport's layout, "conv1/0" in Keras's.
        dataset: The HDF5 dataset.
        in_order: Whether the file tells the order of the layer's arrays. Keras's layout doesn't for layers made of
            several layers.
    """

    name: str
    dataset: h5py.Dataset
    in_order: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dataset.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns the values; bfloat16, which NumPy doesn't have, as float32."""
        values = np.asarray(self.dataset[()])
        return values.view(ml_dtypes.bfloat16).astype("float32") if _is_bfloat16(self.dataset) else values


def natural_order(text: str) -> list:
    """Sort key that compares numbers by value: conv2d_2 before conv2d_10.

    Example:
        >>> sorted(["conv_10", "conv_2"], key=natural_order)
        ['conv_2', 'conv_10']
    """
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]


def member(group: h5py.Group, name: str, path: str) -> h5py.Group | h5py.Dataset:
    """Returns `group[name]`; refuses links, which may lead to another file."""
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise ValueError(f"{path} lists {name}, but holds no such weights; the file is broken.")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{path}: {group.name}/{part} is a link to {getattr(link, 'filename', 'another place')}:{link.path}."
                " A weight file has no links; refused, as this file may be hostile."
            )
        group = group[part]
    return group


def number_array(dataset: h5py.Dataset, path: str) -> h5py.Dataset:
    """Returns `dataset` if it is an array of numbers whose bytes are in this file."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path}: {dataset.name} should be an array but is a group; the file is broken.")
    if dataset.shape is None or not (dataset.dtype.kind in "fiub" or _is_bfloat16(dataset)):
        raise ValueError(f"{path}: {dataset.name} holds {dataset.dtype}; expected an array of numbers.")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{path}: the numbers of {dataset.name} are in another file; refused, as this may be hostile.")
    claimed, held = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if claimed > held and (dataset.chunks is None or held == 0):
        raise ValueError(
            f"{path}: {dataset.name} claims the shape {dataset.shape}, {claimed:,} bytes, but the file holds {held:,}"
            " bytes of it; the file is broken or hostile."
        )
    return dataset


def check_total_size(layers: dict[str, list[StoredArray]], path: str) -> None:
    total = sum(array.nbytes for arrays in layers.values() for array in arrays)
    size = os.path.getsize(path)
    if total > max(MAX_BYTES, size):
        raise ValueError(f"{path}: {size:,} bytes that would unpack to {total:,}; refused, as this may be hostile.")


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    return dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
