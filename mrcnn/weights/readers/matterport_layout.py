"""matterport's `.h5`, also written by Keras for `*.h5`.

    /<layer>/<weight name>    arrays
    layer_names               attribute of the file: the order of the layers
    weight_names              attribute of each layer: the order of its arrays

A whole saved model has the same below the group `model_weights`.
"""

from __future__ import annotations

import itertools

import h5py
import numpy as np

from .stored_arrays import StoredArray, member, number_array


def recognizes(file: h5py.File) -> bool:
    """Whether `file` has this layout."""
    return _has_names(file, "layer_names") or "model_weights" in list(file)


def read_layers(file: h5py.File, path: str) -> dict[str, list[StoredArray]]:
    """Returns {layer name: arrays}. `path` is for messages."""
    root = file if _has_names(file, "layer_names") else member(file, "model_weights", path)
    layers = {}
    for layer in _read_names(root, "layer_names"):
        group = member(root, layer, path)
        layers[layer] = [
            StoredArray(name, number_array(member(group, name, path), path), in_order=True)
            for name in _read_names(group, "weight_names")
        ]
    return layers


def _has_names(group: h5py.Group, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _read_names(group: h5py.Group, attribute: str) -> list[str]:
    """Returns a list of names. Keras splits lists too long for one attribute: `<attribute>0`, `<attribute>1`, ..."""
    parts = [attribute]
    if attribute not in group.attrs:
        pieces = (f"{attribute}{number}" for number in itertools.count())
        parts = itertools.takewhile(lambda piece: piece in group.attrs, pieces)
    names = [name for part in parts for name in np.asarray(group.attrs[part]).tolist()]
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
