"""Reads weight files. Their layout is recognized by content, not by the file's extension.

matterport_layout   matterport's `.h5`
keras_layout        Keras's `.weights.h5`
keras_archive       Keras's `.keras`
state_dict          checkpoints of torchvision and detectron2: `.pth`, `.pkl`, `.safetensors`
torch_files         PyTorch's zip archive and its stream of pickles
pickles             reads pickles without running what they name
safetensors         `.safetensors`
tensors             a tensor of a checkpoint, checked against the bytes of its file
global_heap         a check that HDF5 itself lacks
stored_arrays       an array of an open HDF5 file, and the checks that make reading untrusted files safe
files               first bytes, and messages about files that aren't weights
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import h5py
import numpy as np

from ..layouts import LAYOUTS as TORCH_LAYOUTS
from ..layouts import Converted, Network, find_layout, to_layers
from . import keras_archive, keras_layout, matterport_layout, state_dict
from .files import HDF5_SIGNATURE, ZIP_SIGNATURE, describe_head, explaining_errors, first_bytes, shorten, what_broke
from .global_heap import check_global_heaps
from .state_dict import open_state_dict, read_state_dict
from .stored_arrays import StoredArray, check_total_size, natural_order

__all__ = [
    "HDF5_SIGNATURE",
    "ZIP_SIGNATURE",
    "StoredArray",
    "WeightFile",
    "check_global_heaps",
    "describe_head",
    "explaining_errors",
    "natural_order",
    "open_state_dict",
    "open_weights",
    "read_state_dict",
    "read_weights",
    "shorten",
    "what_broke",
]

LAYOUTS = (matterport_layout, keras_layout)  # of HDF5 files


@dataclass(frozen=True)
class WeightFile:
    """An open weight file.

    Attributes:
        layers: {layer name: arrays}, with top-level names; the arrays of a nested model are in one list.
        network: Which network a checkpoint of torchvision or detectron2 belongs to; None for Keras's files.
        unused: Names of tensors in a checkpoint that have no place in that network.
    """

    layers: dict[str, list[StoredArray | Converted]]
    network: Network | None = None
    unused: list[str] = field(default_factory=list)


def read_weights(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """Reads all arrays of a weight file.

    Args:
        path: matterport's `.h5` (weights only or a whole model), Keras's `.weights.h5` or `.keras`, or a checkpoint of
            torchvision or detectron2 (`.pth`, `.pkl`, `.safetensors`), converted to the layers of this package.

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
    with open_weights(path) as file:
        return {layer: [array.read() for array in arrays] for layer, arrays in file.layers.items()}


@contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightFile]:
    """Opens a weight file in a `with` block. Raises the errors of `read_weights`."""
    path = os.fspath(path)
    head = first_bytes(path)
    with explaining_errors(path):
        if state_dict.recognizes(path, head):
            with open_state_dict(path) as tensors:
                yield _convert(tensors)
            return
        if keras_archive.recognizes(head):
            source = keras_archive.open_hdf5(path)
        elif head.startswith(HDF5_SIGNATURE) or h5py.is_hdf5(path):
            source = path
        else:
            raise ValueError(f"{path} is not a weight file. {describe_head(head)}.")
        check_global_heaps(source, path)
        with h5py.File(source, "r", locking=False) as file:
            layers = {name: arrays for name, arrays in _read_layers(file, path).items() if arrays}
            check_total_size(layers, path)
            yield WeightFile(layers)


def _convert(tensors: dict[str, state_dict.Tensor]) -> WeightFile:
    """The layers that the tensors of a checkpoint belong to."""
    name = find_layout(tensors)
    if name is None:
        raise ValueError(
            f"its names are those of neither torchvision nor detectron2: {shorten(tensors, 4)}."
            " `mrcnn.weights.read_state_dict` reads any checkpoint"
        )
    layout = TORCH_LAYOUTS[name]
    network = layout.network_of(tensors)
    pieces = layout.pieces(network)
    layers: dict[str, list] = {}
    for array in to_layers(pieces, tensors):
        layers.setdefault(array.piece.layer.split("/")[0], []).append(array)
    known = {piece.source for piece in pieces}
    return WeightFile(layers, network, [n for n in tensors if n not in known and not layout.ignores(n)])


def _read_layers(file: h5py.File, path: str) -> dict[str, list[StoredArray]]:
    for layout in LAYOUTS:
        if layout.recognizes(file):
            return layout.read_layers(file, path)
    raise ValueError(
        f"{path} is an HDF5 file but holds no Keras weights: neither the attribute `layer_names` nor a group"
        f" `model_weights` or `layers`. At its top: {shorten(sorted(file)) or 'nothing'}."
    )
