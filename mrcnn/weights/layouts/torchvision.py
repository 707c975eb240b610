"""Names of torchvision's Mask R-CNN: `maskrcnn_resnet50_fpn`, its `_v2`, the same with ResNet-101, and ResNets alone.

Class 0 is the background. Its 91 classes of COCO are the ids 0 to 90; no object has one of ten of these ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .network import STAGE_BLOCKS, Network

# isort: off
from .pieces import (
    CONV, DENSE, Piece, Shaped, conv, dense_as_conv, dense_on_map, norm, output, pyramid, swap_xy, transposed_conv,
    unchanged,
)  # fmt: skip
# isort: on

COUNTER = "num_batches_tracked"
CLASSIFIER = ("fc.weight", "fc.bias")  # of a ResNet for ImageNet
RPN, BOX, MASK = "rpn.head", "roi_heads.box_head", "roi_heads.mask_head"


def recognizes(state: Mapping[str, Shaped]) -> bool:
    """Whether tensors with these names have this layout."""
    return "backbone.body.conv1.weight" in state or ("conv1.weight" in state and "layer1.0.conv1.weight" in state)


def ignores(name: str) -> bool:
    """Whether the network needs no tensor of this name."""
    return name.endswith(COUNTER) or name in CLASSIFIER


def network_of(state: Mapping[str, Shaped]) -> Network:
    """The network that a state dict belongs to.

    Raises:
        ValueError: It can't be built here; the message names what was found.
    """
    body = "backbone.body." if "backbone.body.conv1.weight" in state else ""
    blocks = tuple(sum(f"{body}layer{k}.{i}.conv1.weight" in state for i in range(50)) for k in range(1, 5))
    backbone = next((name for name, known in STAGE_BLOCKS.items() if known == blocks), None)
    if backbone is None or f"{body}layer1.0.conv3.weight" not in state:
        raise ValueError(f"its ResNet has {blocks} blocks; only ResNet-50 and ResNet-101 can be built")
    if tuple(state[f"{body}layer1.0.conv2.weight"].shape[:2]) != (64, 64):
        raise ValueError("its backbone is a ResNeXt or a wide ResNet; only ResNet-50 and ResNet-101 can be built")
    network = Network("torchvision", backbone)
    if not body:
        return network
    if "roi_heads.box_predictor.cls_score.weight" not in state or f"{RPN}.cls_logits.weight" not in state:
        raise ValueError("it has no roi_heads.box_predictor: other detectors than Faster and Mask R-CNN aren't built")
    classes, features = state["roi_heads.box_predictor.cls_score.weight"].shape
    channels = state[f"{RPN}.cls_logits.weight"].shape[1]
    mask = next((state[n] for n in (f"{MASK}.0.0.weight", f"{MASK}.mask_fcn1.weight") if n in state), None)
    norms = (f"{MASK}.0.1.running_mean", f"{BOX}.0.1.running_mean")
    return replace(
        network,
        classes=classes,
        features=features,
        box_head="conv4fc1" if f"{BOX}.0.0.weight" in state else "fc2",
        fpn_norm="batch" if "backbone.fpn.inner_blocks.0.1.running_mean" in state else None,
        head_norm="batch" if any(name in state for name in norms) else None,
        rpn_convs=2 if f"{RPN}.conv.1.0.weight" in state else 1,
        rpn_channels=channels,
        pyramid_channels=channels,
        mask_channels=256 if mask is None else mask.shape[0],
        old_names=f"{RPN}.conv.weight" in state,
        masks=mask is not None,
    )


def pieces(network: Network) -> list[Piece]:
    """All arrays of a network, with their names here and there."""
    if not network.classes:
        return _resnet(network, "")
    found = _resnet(network, "backbone.body.") + _pyramid(network) + _rpn(network) + _class_head(network)
    return found + _mask_head(network) if network.masks else found


def counters(network: Network) -> list[str]:
    """Names of the counters that PyTorch's BatchNorm has besides its arrays; none if all are frozen."""
    if not (network.fpn_norm or network.head_norm):
        return []
    norms = [piece.source for piece in pieces(network) if piece.kind == "moving_mean"]
    return [name.replace("running_mean", COUNTER) for name in norms]


def pixel_tensors(network: Network) -> dict[str, np.ndarray]:
    """Tensors of a file with the mean pixel: none, it is an argument of the model there."""
    return {}


def _resnet(network: Network, prefix: str) -> list[Piece]:
    found = conv("conv1", f"{prefix}conv1", bias=64) + norm("bn_conv1", f"{prefix}bn1")
    for stage, count in enumerate(network.blocks, start=2):
        width = 64 * 2 ** (stage - 2)
        for i in range(count):
            block, source = f"{stage}{chr(ord('a') + i)}", f"{prefix}layer{stage - 1}.{i}"
            for n, (letter, size) in enumerate((("a", width), ("b", width), ("c", 4 * width)), start=1):
                found += conv(f"res{block}_branch2{letter}", f"{source}.conv{n}", bias=size)
                found += norm(f"bn{block}_branch2{letter}", f"{source}.bn{n}")
            if i == 0:
                found += conv(f"res{block}_branch1", f"{source}.downsample.0", bias=4 * width)
                found += norm(f"bn{block}_branch1", f"{source}.downsample.1")
    return found


def _pyramid(network: Network) -> list[Piece]:
    names = "backbone.fpn.inner_blocks.{}", "backbone.fpn.layer_blocks.{}"
    return pyramid(network.fpn_norm, *names, first=0, conv_end="" if network.old_names else ".0", norm_end=".1")


def _rpn(network: Network) -> list[Piece]:
    found = conv("rpn_model/rpn_conv_shared", f"{RPN}.conv" if network.old_names else f"{RPN}.conv.0.0")
    if network.rpn_convs == 2:
        found += conv("rpn_model/rpn_conv_shared2", f"{RPN}.conv.1.0")
    found += conv("rpn_model/rpn_class_raw", f"{RPN}.cls_logits")
    return found + output("rpn_model/rpn_bbox_pred", f"{RPN}.bbox_pred", CONV, swap_xy, swap_xy, "xy to yx")


def _class_head(network: Network) -> list[Piece]:
    found = []
    if network.box_head == "conv4fc1":
        for i in range(4):
            found += conv(f"mrcnn_class_conv{i + 1}", f"{BOX}.{i}.0", bias=network.head_norm is None)
            found += norm(f"mrcnn_class_bn{i + 1}", f"{BOX}.{i}.1") if network.head_norm else []
        found += dense_on_map("mrcnn_class_fc1", f"{BOX}.5", network.pyramid_channels)
    else:
        found += dense_on_map("mrcnn_class_conv1", f"{BOX}.fc6", network.pyramid_channels)
        found += dense_as_conv("mrcnn_class_conv2", f"{BOX}.fc7")
    predictor = "roi_heads.box_predictor"
    found += output("mrcnn_class_logits", f"{predictor}.cls_score", DENSE, unchanged, unchanged, "")
    return found + output("mrcnn_bbox_fc", f"{predictor}.bbox_pred", DENSE, swap_xy, swap_xy, "xy to yx")


def _mask_head(network: Network) -> list[Piece]:
    found = []
    for i in range(1, 5):
        source = f"{MASK}.mask_fcn{i}" if network.old_names else f"{MASK}.{i - 1}.0"
        found += conv(f"mrcnn_mask_conv{i}", source, bias=network.mask_channels if network.head_norm else True)
        found += norm(f"mrcnn_mask_bn{i}", f"{MASK}.{i - 1}.1") if network.head_norm else []
    found += transposed_conv("mrcnn_mask_deconv", "roi_heads.mask_predictor.conv5_mask")
    return found + conv("mrcnn_mask", "roi_heads.mask_predictor.mask_fcn_logits")
