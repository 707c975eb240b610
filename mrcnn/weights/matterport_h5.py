"""Writes matterport's `.h5` layout, which every version of `mrcnn` reads.

    attributes of the file      layer_names, backend, keras_version, and those of `metadata`
    /<layer>                    a group for each layer of the model, with the attribute weight_names
    /<layer>/<weight name>      an array; its name is "<layer>/kernel:0", in a nested model "<inner layer>/kernel:0"

The layer in a wrapper (TimeDistributed) is stored under the wrapper's name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import keras
import numpy as np

from mrcnn.io import replacing

from .metadata import write_metadata

ATTRIBUTE_BYTES = 64512  # HDF5 has no larger attributes; Keras splits longer lists of names


def save_matterport_h5(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes the weights of `model` to `path`: after an error, the previous file is still there.

    Values are stored exactly, except bfloat16, which old readers don't know and which is stored as float32. The
    optimizer's state is not stored; the class names and settings of a `MaskRCNN` are, if known.

    Args:
        model: Built Keras model.
        path: Usually `*.h5`. Missing folders are created.

    Example:
        >>> import tempfile
        >>> from mrcnn.weights import read_weights
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="fc")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_matterport_h5(model, f"{folder}/model.h5")
        ...     stored = read_weights(f"{folder}/model.h5")
        >>> [array.shape for array in stored["fc"]]
        [(2, 3), (3,)]
    """
    with replacing(path, durable=True) as unfinished, new_h5(unfinished) as file:
        write_matterport_h5(file, model)


@contextmanager
def new_h5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Opens a new HDF5 file, which is written to the disk at the end.

    It is made in memory: when the disk is full, the HDF5 library ends the process instead of raising an error.

    Raises:
        OSError: the file can't be written.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    with open(path, "wb") as target:
        target.write(content.getbuffer())


def write_matterport_h5(file: h5py.File, model: keras.Model) -> None:
    """Writes the weights of `model` to an open, empty file."""
    file.attrs["backend"] = np.bytes_(keras.backend.backend())
    file.attrs["keras_version"] = np.bytes_(keras.__version__)
    write_metadata(file, model)
    _write_names(file, "layer_names", [layer.name for layer in model.layers])
    for layer in model.layers:
        _write_layer(file.create_group(layer.name), layer)


def _write_layer(group: h5py.Group, layer: keras.Layer) -> None:
    variables = _named_variables(layer)
    _write_names(group, "weight_names", list(variables))
    for name, variable in variables.items():
        value = keras.ops.convert_to_numpy(variable.value)
        group.create_dataset(name, data=value.astype("float32") if variable.dtype == "bfloat16" else value)


def _named_variables(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns {weight name: variable}, in the order of `layer.weights`. Repeated names get the suffix _1, _2, ..."""
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
