"""Reads weight files. The three known layouts are recognized by content, not by the file's extension.

matterport_layout   matterport's `.h5`
keras_layout        Keras's `.weights.h5`
keras_archive       Keras's `.keras`
global_heap         a check that HDF5 itself lacks
stored_arrays       an array of an open file, and the checks that make reading untrusted files safe
files               first bytes, and messages about files that aren't weights
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from . import keras_archive, keras_layout, matterport_layout
from .files import HDF5_SIGNATURE, ZIP_SIGNATURE, describe_head, first_bytes, shorten, what_broke
from .global_heap import check_global_heaps
from .stored_arrays import StoredArray, check_total_size, natural_order

__all__ = [
    "HDF5_SIGNATURE",
    "ZIP_SIGNATURE",
    "StoredArray",
    "check_global_heaps",
    "describe_head",
    "explaining_errors",
    "natural_order",
    "open_weights",
    "read_weights",
    "shorten",
    "what_broke",
]

# What h5py, zipfile and json raise for damaged files.
DAMAGED = (
    OSError, RuntimeError, LookupError, TypeError, EOFError, OverflowError, UnicodeError, json.JSONDecodeError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

LAYOUTS = (matterport_layout, keras_layout)  # of HDF5 files


def read_weights(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """Reads all arrays of a weight file.

    Args:
        path: matterport's `.h5` (weights only or a whole model), Keras's `.weights.h5`, or `.keras`.

    Returns:
        {layer name: [array, ...]} with top-level names, in the file's order, without layers that have no arrays. The
        arrays of a nested model such as `rpn_model` are in one list.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file holds no weights, is cut off, or isn't safe to read. The message says what to do.

    Example:
        >>> from mrcnn.weights import pretrained
        >>> read_weights(pretrained("shapes"))["mrcnn_class_logits"][1].shape
        (4,)
    """
    with open_weights(path) as layers:
        return {layer: [array.read() for array in arrays] for layer, arrays in layers.items()}


@contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[dict[str, list[StoredArray]]]:
    """Opens a weight file in a `with` block: {layer name: [StoredArray, ...]}. Raises the errors of `read_weights`."""
    path = os.fspath(path)
    with _open_hdf5(path) as file:
        layers = {name: arrays for name, arrays in _read_layers(file, path).items() if arrays}
        check_total_size(layers, path)
        yield layers


@contextmanager
def _open_hdf5(path: str) -> Iterator[h5py.File]:
    """Opens the HDF5 file at `path`, or the one in the `.keras` archive at `path`."""
    head = first_bytes(path)
    with explaining_errors(path):
        if keras_archive.recognizes(head):
            source = keras_archive.open_hdf5(path)
        elif head.startswith(HDF5_SIGNATURE) or h5py.is_hdf5(path):
            source = path
        else:
            raise ValueError(f"{path} is not a weight file. {describe_head(head)}.")
        check_global_heaps(source, path)
        with h5py.File(source, "r", locking=False) as file:
            yield file


@contextmanager
def explaining_errors(path: str) -> Iterator[None]:
    """Raises ValueError with the path for an error of the block that a damaged file causes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path} can't be read as weights: {what_broke(error)}") from error


def _read_layers(file: h5py.File, path: str) -> dict[str, list[StoredArray]]:
    for layout in LAYOUTS:
        if layout.recognizes(file):
            return layout.read_layers(file, path)
    raise ValueError(
        f"{path} is an HDF5 file but holds no Keras weights: neither the attribute `layer_names` nor a group"
        f" `model_weights` or `layers`. At its top: {shorten(sorted(file)) or 'nothing'}."
    )
