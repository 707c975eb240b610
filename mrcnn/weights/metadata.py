"""What a weight file says about its model: class names and settings, as attributes that other readers ignore."""

from __future__ import annotations

import json
import os

import h5py

from mrcnn.config import Config
from mrcnn.weights.downloads import find_pretrained

CLASS_NAMES = "mrcnn_class_names"
SETTINGS = "mrcnn_config"


def write_metadata(file: h5py.File, model) -> None:
    """Writes the class names of a `MaskRCNN`, if known, and its settings, if JSON can hold them."""
    class_names = getattr(model, "class_names", None)
    if class_names:
        file.attrs[CLASS_NAMES] = json.dumps(class_names)
    config = getattr(model, "config", None)
    if hasattr(config, "to_json") and not callable(config.BACKBONE):
        file.attrs[SETTINGS] = json.dumps(config.to_json())


def read_class_names(path: str | os.PathLike) -> list[str] | None:
    """The classes that the file's network tells apart, "BG" first; None: the file does not say."""
    return _read(path, CLASS_NAMES)


def read_settings(path: str | os.PathLike) -> dict | None:
    """The settings of the file's network, for `Config.from_json`; None: the file does not have them."""
    return _read(path, SETTINGS)


def _read(path: str | os.PathLike, attribute: str):
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        return json.loads(file.attrs[attribute]) if attribute in file.attrs else None


def config_of(path_or_word: str | os.PathLike | None) -> Config:
    """The settings that a weight file was written with.

    Raises:
        ValueError: the file has none, or there is no file.
    """
    path = None if path_or_word is None else find_pretrained(path_or_word)
    settings = path and read_settings(path)
    if not settings:
        raise ValueError(
            f"MaskRCNN got no config, and weights={path_or_word!r} has no settings in it. Pass the config that the"
            " weights were trained with."
        )
    return Config.from_json(settings)
