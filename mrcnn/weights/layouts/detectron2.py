"""Names of detectron2's Mask R-CNN: FPN, C4 and cascade, with BatchNorm or GroupNorm in the heads.

K classes have the numbers 0 to K - 1, and the background is K; here it is 0. Boxes and masks of the background do not
exist there; here they are rows of zeros.

Files of older versions hold mean and standard deviation of the pixels, which newer versions have in their settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mrcnn.conventions import DETECTRON2

from .network import STAGE_BLOCKS, Network

# isort: off
from .pieces import (
    CONV, DENSE, Piece, Shaped, conv, dense_as_conv, dense_on_map, first_to_last, for_rgb, last_to_first, norm,
    output, pyramid, swap_xy, transposed_conv, zeros_before,
)  # fmt: skip
# isort: on

COUNTER = "num_batches_tracked"
PIXEL_MEAN, PIXEL_STD = "pixel_mean", "pixel_std"  # [3, 1, 1]
OWN_MEAN = DETECTRON2.settings["MEAN_PIXEL"]  # RGB
RPN, BOX, PREDICTOR, MASK = (
    "proposal_generator.rpn_head", "roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_head",
)  # fmt: skip
NOT_BUILT = {  # parts of names, and what they belong to
    "conv2_offset": "deformable convolutions",
    "mask_head.coarse_head": "PointRend",
    "mask_head.point_head": "PointRend",
    "bottom_up.s1.b1": "a RegNet",
    "bottom_up.net.": "a vision transformer (ViTDet)",
    "keypoint_head": "keypoints",
    "sem_seg_head": "semantic segmentation (Panoptic FPN)",
    "head.cls_subnet": "a RetinaNet",
}


def recognizes(state: Mapping[str, Shaped]) -> bool:
    """Whether tensors with these names have this layout."""
    starts = ("backbone.bottom_up.", "backbone.stem.", "proposal_generator.", "stem.conv1.")
    return any(name.startswith(starts) for name in state)


def ignores(name: str) -> bool:
    """Whether no layer needs a tensor of this name: counters, the mean pixel, and buffers of older files."""
    return name.endswith(COUNTER) or name in (PIXEL_MEAN, PIXEL_STD) or ".anchor_generator.cell_anchors" in name


def network_of(state: Mapping[str, Shaped]) -> Network:
    """The network that a state dict belongs to.

    Raises:
        ValueError: It can't be built here; the message names what was found.
    """
    for part, what in NOT_BUILT.items():
        if name := next((name for name in state if part in name), None):
            raise ValueError(f"it has {what} ({name}), which can't be built here")
    body = next((p for p in ("backbone.bottom_up.", "backbone.", "") if f"{p}stem.conv1.weight" in state), "")
    c4 = "roi_heads.res5.0.conv1.weight" in state
    network = Network("detectron2", _backbone(state, body, c4), **_pixel_values(state, f"{body}stem.conv1.weight"))
    if not body:
        return network
    cascade = f"{PREDICTOR}.0.cls_score.weight" in state
    number = ".0" if cascade else ""
    if f"{PREDICTOR}{number}.cls_score.weight" not in state or f"{RPN}.objectness_logits.weight" not in state:
        raise ValueError(f"it has no {PREDICTOR}: other detectors than Faster and Mask R-CNN can't be built here")
    if not c4 and "backbone.fpn_lateral2.weight" not in state:
        raise ValueError("it has neither a feature pyramid nor roi_heads.res5: a dilated C5 (DC5) can't be built here")
    classes, features = state[f"{PREDICTOR}{number}.cls_score.weight"].shape
    box = state[f"{PREDICTOR}{number}.bbox_pred.weight"]
    mask = state.get(f"{MASK}.predictor.weight")
    norms = _norm_kind(state, f"{MASK}.mask_fcn1.norm"), _norm_kind(state, f"{BOX}{number}.conv1.norm")
    return replace(
        network,
        classes=classes,
        features=features,
        box_head="c4" if c4 else "conv4fc1" if f"{BOX}{number}.conv1.weight" in state else "fc2",
        fpn_norm=_norm_kind(state, "backbone.fpn_lateral2.norm"),
        head_norm=norms[0] or norms[1],
        rpn_convs=2 if f"{RPN}.conv.conv1.weight" in state else 1,
        rpn_channels=state[f"{RPN}.objectness_logits.weight"].shape[1],
        pyramid_channels=256 if c4 else state["backbone.fpn_lateral2.weight"].shape[0],
        mask_channels=256 if mask is None else mask.shape[1],
        class_agnostic_box=box.shape[0] == 4 and classes > 2,
        class_agnostic_mask=mask is not None and mask.shape[0] == 1 and classes > 2,
        stages=sum(f"{PREDICTOR}.{k}.cls_score.weight" in state for k in range(10)) if cascade else 1,
        masks=mask is not None,
    )


def _backbone(state: Mapping[str, Shaped], body: str, c4: bool) -> str:
    prefixes = [*(f"{body}res{k}" for k in range(2, 5)), "roi_heads.res5" if c4 else f"{body}res5"]
    blocks = tuple(sum(f"{prefix}.{i}.conv1.weight" in state for i in range(50)) for prefix in prefixes)
    backbone = next((name for name, known in STAGE_BLOCKS.items() if known == blocks), None)
    if backbone is None or f"{body}res2.0.conv3.weight" not in state or f"{body}stem.conv1.weight" not in state:
        raise ValueError(f"its backbone is a ResNet of {blocks} blocks; only ResNet-50 and ResNet-101 can be built")
    if tuple(state[f"{body}res2.0.conv2.weight"].shape[:2]) != (64, 64):
        raise ValueError("its backbone is a ResNeXt; only ResNet-50 and ResNet-101 can be built")
    if f"{body}stem.conv1.norm.running_mean" not in state:
        raise ValueError("its backbone has GroupNorm; only backbones with BatchNorm can be built here")
    return backbone


def _pixel_values(state: Mapping[str, Shaped], stem: str) -> dict[str, Any]:
    """`pixel_mean`, `pixel_std` and `bgr` of a `Network`, as far as a file has them.

    The order of the channels is that of the images, which the file doesn't tell: BGR, unless the mean is that of
    ImageNet's pixels in RGB.
    """
    channels = state[stem].shape[1]
    mean, std = (_numbers(state, name, channels) for name in (PIXEL_MEAN, PIXEL_STD))
    rgb = mean is not None and channels == 3 and np.allclose(mean, OWN_MEAN, atol=0.01)
    order = slice(None) if rgb else slice(None, None, -1)
    std = None if std is None or set(std) == {1.0} else std[order]
    return {"pixel_mean": None if mean is None else mean[order], "pixel_std": std, "bgr": not rgb}


def _numbers(state: Mapping[str, Shaped], name: str, channels: int) -> tuple[float, ...] | None:
    if name not in state:
        return None
    tensor = state[name]
    if int(np.prod(tensor.shape)) != channels:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, and its images have {channels} channels")
    values = np.ravel(tensor.read() if hasattr(tensor, "read") else np.asarray(tensor)).astype("float32")
    if not np.isfinite(values).all() or (name == PIXEL_STD and (values <= 0).any()):
        raise ValueError(
            f"{name} is {values.tolist()}; expected {'positive' if name == PIXEL_STD else 'finite'} numbers"
        )
    return tuple(float(str(value)) for value in values)  # 103.53, as it was written, not 103.52999878


def pixel_tensors(network: Network) -> dict[str, np.ndarray]:
    """`pixel_mean` and `pixel_std` of a file, if they are not detectron2's own."""
    mean = network.pixel_mean or OWN_MEAN
    if network.pixel_std is None and np.array_equal(mean, OWN_MEAN):
        return {}
    std = network.pixel_std or np.ones(len(mean))
    order = slice(None, None, -1 if network.bgr else 1)
    return {
        name: np.array(values, "float32")[order].reshape(-1, 1, 1).copy()
        for name, values in ((PIXEL_MEAN, mean), (PIXEL_STD, std))
    }


def _norm_kind(state: Mapping[str, Shaped], source: str) -> str | None:
    if f"{source}.weight" not in state:
        return None
    return "batch" if f"{source}.running_mean" in state else "group"


def pieces(network: Network) -> list[Piece]:
    """All arrays of a network, with their names in both projects."""
    if not network.classes:
        return _resnet(network, "", "")
    if network.box_head == "c4":
        found = _resnet(network, "backbone.", "roi_heads.") + _rpn(network)
    else:
        found = _resnet(network, "backbone.bottom_up.", "backbone.bottom_up.") + _pyramid(network) + _rpn(network)
    for stage in range(network.stages):
        found += _class_head(network, f".{stage}" if network.stages > 1 else "", f"_s{stage + 1}" if stage else "")
    return found + _mask_head(network) if network.masks else found


def counters(network: Network) -> list[str]:
    """Names of the counters that PyTorch's BatchNorm has besides its arrays; none if all are frozen."""
    if "batch" not in (network.fpn_norm, network.head_norm):
        return []
    norms = [piece.source for piece in pieces(network) if piece.kind == "moving_mean"]
    return [name.replace("running_mean", COUNTER) for name in norms]


def _resnet(network: Network, prefix: str, prefix5: str) -> list[Piece]:
    """`prefix5`: of stage 5, which in C4 belongs to the heads."""
    stem = f"{prefix}stem.conv1"
    first = for_rgb(conv("conv1", stem, bias=64), network.bgr, network.pixel_std)
    found = first + norm("bn_conv1", f"{stem}.norm")
    for stage, count in enumerate(network.blocks, start=2):
        width = 64 * 2 ** (stage - 2)
        nested = "res5_model/" if stage == 5 and network.box_head == "c4" else ""
        for i in range(count):
            block, source = f"{stage}{chr(ord('a') + i)}", f"{prefix5 if stage == 5 else prefix}res{stage}.{i}"
            parts = [("branch2a", "conv1", width), ("branch2b", "conv2", width), ("branch2c", "conv3", 4 * width)]
            for name, theirs, size in [*parts, ("branch1", "shortcut", 4 * width)][: 3 if i else 4]:
                found += conv(f"{nested}res{block}_{name}", f"{source}.{theirs}", bias=size)
                found += norm(f"{nested}bn{block}_{name}", f"{source}.{theirs}.norm")
    return found


def _pyramid(network: Network) -> list[Piece]:
    names = "backbone.fpn_lateral{}", "backbone.fpn_output{}"
    return pyramid(network.fpn_norm, *names, first=2, conv_end="", norm_end=".norm")


def _rpn(network: Network) -> list[Piece]:
    found = conv("rpn_model/rpn_conv_shared", f"{RPN}.conv.conv0" if network.rpn_convs == 2 else f"{RPN}.conv")
    if network.rpn_convs == 2:
        found += conv("rpn_model/rpn_conv_shared2", f"{RPN}.conv.conv1")
    found += conv("rpn_model/rpn_class_raw", f"{RPN}.objectness_logits")
    return found + output("rpn_model/rpn_bbox_pred", f"{RPN}.anchor_deltas", CONV, swap_xy, swap_xy, "xy to yx")


def _class_head(network: Network, number: str, suffix: str) -> list[Piece]:
    """`number`: of the head in a cascade, ".0"; `suffix`: of our layers, "_s2"."""
    found = []
    if network.box_head == "conv4fc1":
        for i in range(1, 5):
            source = f"{BOX}{number}.conv{i}"
            found += conv(f"mrcnn_class_conv{i}{suffix}", source, bias=network.head_norm is None)
            norm_layer = f"mrcnn_class_bn{i}{suffix}"
            found += norm(norm_layer, f"{source}.norm", network.head_norm) if network.head_norm else []
        found += dense_on_map(f"mrcnn_class_fc1{suffix}", f"{BOX}{number}.fc1", network.pyramid_channels)
    elif network.box_head == "fc2":
        found += dense_on_map(f"mrcnn_class_conv1{suffix}", f"{BOX}{number}.fc1", network.pyramid_channels)
        found += dense_as_conv(f"mrcnn_class_conv2{suffix}", f"{BOX}{number}.fc2")
    source = f"{PREDICTOR}{number}"
    change = "background last to first"
    found += output(f"mrcnn_class_logits{suffix}", f"{source}.cls_score", DENSE, last_to_first, first_to_last, change)
    add, remove = zeros_before(0 if network.class_agnostic_box else 4)
    return found + output(
        f"mrcnn_bbox_fc{suffix}", f"{source}.bbox_pred", DENSE, lambda w: add(swap_xy(w)), lambda w: swap_xy(remove(w)),
        "xy to yx" if network.class_agnostic_box else "xy to yx, zeros for the background",
    )  # fmt: skip


def _mask_head(network: Network) -> list[Piece]:
    found = []
    for i in range(1, 5) if network.box_head != "c4" else ():
        source = f"{MASK}.mask_fcn{i}"
        found += conv(f"mrcnn_mask_conv{i}", source, bias=network.mask_channels if network.head_norm else True)
        found += norm(f"mrcnn_mask_bn{i}", f"{source}.norm", network.head_norm) if network.head_norm else []
    found += transposed_conv("mrcnn_mask_deconv", f"{MASK}.deconv")
    add, remove = zeros_before(0 if network.class_agnostic_mask else 1)
    change = "" if network.class_agnostic_mask else "zeros for the background"
    return found + output("mrcnn_mask", f"{MASK}.predictor", CONV, add, remove, change)
