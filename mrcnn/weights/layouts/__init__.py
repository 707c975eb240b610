"""Names and shapes of the weights of torchvision and others, as the layers of this package, and back.

network             the parts of a network that weights belong to, and the settings that build it
pieces              an array of a layer, the tensor that it comes from, and the conversion in both directions
torchvision         names of torchvision
detectron2          names of detectron2
efficientnet_lite   names of this backbone in PyTorch
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from . import detectron2, efficientnet_lite, torchvision
from .network import Network
from .pieces import Converted, Piece, Shaped, to_layers, to_state

__all__ = [
    "LAYOUTS",
    "Converted",
    "Network",
    "Piece",
    "Shaped",
    "find_layout",
    "layout_of",
    "state_to_layers",
    "to_layers",
    "to_state",
]

LAYOUTS = {"torchvision": torchvision, "detectron2": detectron2, "efficientnet_lite": efficientnet_lite}


def find_layout(names: Mapping[str, Shaped]) -> str | None:
    """The name of the layout that tensors with these names have, or None."""
    return next((name for name, layout in LAYOUTS.items() if layout.recognizes(names)), None)


def layout_of(network: Network) -> ModuleType:
    """The layout that the weights of a network have."""
    return LAYOUTS[network.convention or "efficientnet_lite"]


def state_to_layers(state: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Converts a whole state dict: {layer: [array, ...]}, the layers of nested models as "rpn_model/rpn_conv_shared".

    Raises:
        ValueError: It has no known layout, or belongs to a network that can't be built here.
    """
    layout = find_layout(state)
    if layout is None:
        raise ValueError(f"These are not names of torchvision or detectron2: {', '.join(list(state)[:5])}.")
    module = LAYOUTS[layout]
    layers: dict[str, list[np.ndarray]] = {}
    for array in to_layers(module.pieces(module.network_of(state)), state):
        layers.setdefault(array.piece.layer, []).append(array.read())
    return layers
