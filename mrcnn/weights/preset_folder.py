"""A model as a folder, as KerasHub's presets: `config.json` with settings and class names, and `model.weights.h5`."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from mrcnn.config import Config
from mrcnn.io import replacing

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def save_to_preset(model: keras.Model, folder: str | os.PathLike) -> None:
    """Writes settings, class names and weights of a `MaskRCNN`; `from_preset(folder)` builds it again.

    Raises:
        ValueError: A setting can't be written as JSON, such as a function as `BACKBONE`.
    """
    content = {
        "class_name": type(model).__name__, "mrcnn_version": version("mrcnn"), "keras_version": keras.__version__,
        "class_names": model.class_names, "config": model.config.to_json(),
    }  # fmt: skip
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(folder / WEIGHTS)
    with replacing(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1))


def read_preset(folder: str | os.PathLike) -> tuple[dict[str, Any], list[str] | None, Path]:
    """Reads a folder of `save_to_preset`.

    Returns:
        The settings, the class names or None, and the path of the weights.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: `config.json` is damaged.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; expected a folder that save_to_preset wrote.")
    try:
        content = json.loads((folder / CONFIG).read_text())
        stored, class_names = content["config"], content["class_names"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG}: {type(error).__name__}: {error}; expected JSON with config and class_names."
        ) from error
    return {name: stored[name] for name in Config.settings_table if name in stored}, class_names, folder / WEIGHTS
