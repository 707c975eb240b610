"""Writes matterport's `.h5` layout, which every version of `mrcnn` reads.

    attributes of the file      layer_names, backend, keras_version
    /<layer>                    a group for each layer of the model, with the attribute weight_names
    /<layer>/<weight name>      an array; its name is "<layer>/kernel:0", in a nested model "<inner layer>/kernel:0"

A wrapper (TimeDistributed) gives its own name to what it wraps.
"""

from __future__ import annotations

import os

import h5py
import keras
import numpy as np

from mrcnn.io import replacing
from mrcnn.weights.metadata import write_metadata

ATTRIBUTE_BYTES = 64512  # HDF5 takes no larger attribute; Keras cuts a longer list of names into pieces


def save_matterport_h5(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes the weights of `model` to `path`, through a temporary file: it is either whole or not there.

    The optimizer's state is not part of this layout. Numbers are stored as they are, so a round trip is exact;
    bfloat16, which old readers don't know, is stored as float32.

    Args:
        model: a built Keras model; the names of its layers become those of the file.
        path: of any ending; matterport's is `.h5`. Missing folders are made.
    """
    path = os.fspath(path)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["backend"] = np.bytes_(keras.backend.backend())
        file.attrs["keras_version"] = np.bytes_(keras.__version__)
        _write_names(file, "layer_names", [layer.name for layer in model.layers])
        write_metadata(file, model)
        for layer in model.layers:
            _write_layer(file.create_group(layer.name), layer)


def _write_layer(group: h5py.Group, layer: keras.Layer) -> None:
    variables = _named_variables(layer)
    _write_names(group, "weight_names", list(variables))
    for name, variable in variables.items():
        value = keras.ops.convert_to_numpy(variable.value)
        group.create_dataset(name, data=value.astype("float32") if variable.dtype == "bfloat16" else value)


def _named_variables(layer: keras.Layer) -> dict[str, keras.Variable]:
    """{weight name: variable}, in the order of `layer.weights`. Equal names in a layer are told apart by _1, _2, ..."""
    if isinstance(layer, keras.Model):
        return {name: variable for inner in layer.layers for name, variable in _named_variables(inner).items()}
    named = {}
    for variable in layer.weights:
        kind, number = variable.name, 1
        while f"{layer.name}/{kind}:0" in named:
            kind, number = f"{variable.name}_{number}", number + 1
        named[f"{layer.name}/{kind}:0"] = variable
    return named


def _write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    names = np.array([name.encode("utf-8") for name in names], dtype="S" if names else "S1")
    if names.nbytes <= ATTRIBUTE_BYTES:
        group.attrs[attribute] = names
        return
    step = ATTRIBUTE_BYTES // names.itemsize
    for number, start in enumerate(range(0, len(names), step)):
        group.attrs[f"{attribute}{number}"] = names[start : start + step]
