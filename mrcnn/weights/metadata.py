"""Class names and settings stored with the weights, in attributes that other readers of `.h5` files ignore.

Files without settings show their backbone by the names of its layers.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Collection
from typing import Any

import h5py
import keras

from mrcnn.config import Config

from .downloads import find_pretrained
from .readers import check_global_heaps, explaining_errors, keras_archive, open_weights

CLASS_NAMES = "mrcnn_class_names"
SETTINGS = "mrcnn_config"


def write_metadata(file: h5py.File, model: keras.Model) -> None:
    """Writes the class names of a `MaskRCNN`, if known, and its settings, if JSON can represent them."""
    class_names = getattr(model, "class_names", None)
    if class_names:
        file.attrs[CLASS_NAMES] = json.dumps(class_names)
    config = getattr(model, "config", None)
    if hasattr(config, "to_json") and isinstance(config.BACKBONE, str):  # a model in JSON is too large for an attribute
        file.attrs[SETTINGS] = json.dumps(config.to_json())


def read_class_names(path: str | os.PathLike) -> list[str] | None:
    """Reads the class names stored in a weight file.

    Args:
        path: An `.h5` file of `save_matterport_h5`, or a `.keras` file of `MaskRCNN.save`.

    Returns:
        Names in the order of the class ids, "BG" first; None if the file has none.
    """
    return _read(path, CLASS_NAMES, "class_names")


def read_settings(path: str | os.PathLike) -> dict | None:
    """Reads the settings stored in a weight file, for `Config.from_json`; None if the file has none."""
    return _read(path, SETTINGS, "config")


def backbone_of(path: str | os.PathLike) -> str | None:
    """`Config.BACKBONE` of a weight file: stored in it, or recognized by its layer names; None if neither."""
    with open_weights(path) as file:
        layers, network = list(file.layers), file.network
    settings = network.settings() if network else read_settings(path)
    return settings["BACKBONE"] if settings else recognize_backbone(layers)


def recognize_backbone(layers: Collection[str]) -> str | None:
    """The backbone whose layers have these names in files without settings, such as matterport's; None if unknown.

    >>> recognize_backbone(["conv1", "res4w_branch2a", "res5a_branch2a"])
    'resnet101'
    """
    if "block_1_expand" in layers:
        return "mobilenet_v2"
    if "res5a_branch2a" not in layers:
        return None
    return "resnet101" if "res4w_branch2a" in layers else "resnet50"


def _read(path: str | os.PathLike, attribute: str, key: str) -> Any:
    path = os.fspath(path)
    with explaining_errors(path):
        if zipfile.is_zipfile(path):
            return keras_archive.read_model_config(path).get(key)
        if not h5py.is_hdf5(path):
            return None
        check_global_heaps(path, path)
        with h5py.File(path, "r", locking=False) as file:
            return json.loads(file.attrs[attribute]) if attribute in file.attrs else None


def config_of(path_or_word: str | os.PathLike | None) -> Config:
    """Returns the settings that a weight file was written with.

    Raises:
        ValueError: The file has none, or no file is given.
    """
    path = None if path_or_word is None else find_pretrained(path_or_word)
    settings = path and read_settings(path)
    if not settings:
        raise ValueError(
            f"MaskRCNN got no config, and weights={path_or_word!r} has no settings. Pass the config that the weights"
            " were trained with."
        )
    return Config.from_json(settings)
