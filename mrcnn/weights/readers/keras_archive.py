"""Keras's `.keras`: a zip archive with `model.weights.h5` (see `keras_layout`) and `config.json`."""

from __future__ import annotations

import io
import json
import os
import zipfile

from .files import ZIP_SIGNATURE, shorten
from .stored_arrays import MAX_BYTES

WEIGHTS_IN_ZIP = "model.weights.h5"
CONFIG_IN_ZIP = "config.json"


def recognizes(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip archive."""
    return head.startswith(ZIP_SIGNATURE)


def open_hdf5(path: str) -> io.BytesIO:
    """Returns the HDF5 file in the archive.

    Raises:
        ValueError: The archive has none, or it is too large.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if WEIGHTS_IN_ZIP not in names:
            raise ValueError(
                f"{path} is a zip archive without {WEIGHTS_IN_ZIP}, so it was not saved by Keras's model.save(...)."
                f" It holds: {shorten(names)}."
            )
        return io.BytesIO(_unzip(archive, WEIGHTS_IN_ZIP, path))


def read_model_config(path: str) -> dict:
    """Returns what the saved model's `get_config` gave, or {}."""
    with zipfile.ZipFile(path) as archive:
        if CONFIG_IN_ZIP not in archive.namelist():
            return {}
        content = json.loads(_unzip(archive, CONFIG_IN_ZIP, path))
    config = content.get("config") or {} if isinstance(content, dict) else content
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {CONFIG_IN_ZIP} isn't the configuration of a model, but {str(config)[:80]!r}.")
    return config


def _unzip(archive: zipfile.ZipFile, name: str, path: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > max(MAX_BYTES, os.path.getsize(path)):
        raise ValueError(f"{path}: {name} would unpack to {size:,} bytes; refused.")
    return archive.read(name)
