"""Checks of settings that depend on each other, and what single settings of `Config` allow."""

from __future__ import annotations

import difflib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.ops.resize_modes import SIZE_MULTIPLE
from mrcnn.settings import STD_DEV, Values, count_numbers, is_number, is_whole, one_of

if TYPE_CHECKING:
    from mrcnn.config import Config

LOSS_NAMES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
RESNETS = ("resnet50", "resnet101")
EFFICIENTNET_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
NAMED_IN_STAGES = (*RESNETS, "mobilenet_v2", "small_resnet")  # `layers="4+"` knows the names of their layers
KERAS_APPLICATIONS = (  # those of Keras 3.15; listed, so that settings are checked without importing Keras
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201",
    *(f"EfficientNetB{i}" for i in range(8)), *(f"EfficientNetV2B{i}" for i in range(4)),
    "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S",
    "InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small",
    "NASNetLarge", "NASNetMobile", "ResNet101", "ResNet101V2", "ResNet152", "ResNet152V2", "ResNet50", "ResNet50V2",
    "VGG16", "VGG19", "Xception",
)  # fmt: skip
BACKBONES = (*NAMED_IN_STAGES, *EFFICIENTNET_LITE)
ROI_ALIGN_MODES = ("crop", "aligned", "unaligned")
BOX_HEADS = ("fc2", "conv4fc1", "c4")
COMPUTE_DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
NORM_GROUPS = 32  # of GroupNorm: Wu and He, "Group Normalization", section 4.1

IMAGE_RANGE = Values(
    '"auto", "raw", or (low, high) with low < high',
    lambda value: (
        value in ("auto", "raw") if isinstance(value, str) else count_numbers(value) == 2 and value[0] < value[1]
    ),
)
LOSS_WEIGHTS = Values(
    f"a dict of numbers with keys among {', '.join(LOSS_NAMES)}",
    lambda value: isinstance(value, dict) and set(value) <= set(LOSS_NAMES) and all(map(is_number, value.values())),
)
CLASS_WEIGHTS = Values(
    "None, or a list of numbers >= 0, not all 0",
    lambda value: value is None or (count_numbers(value) > 0 and np.min(value) >= 0 and np.max(value) > 0),
)


def is_tapped_model(value: Any) -> bool:
    """Whether this is `(keras_model, [names of the layers of C2..C5])`."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not hasattr(value[0], "get_layer"):
        return False
    names = value[1]
    return isinstance(names, (list, tuple)) and len(names) == 4 and all(isinstance(name, str) for name in names)


BACKBONE = Values(
    f"{one_of(*BACKBONES).text}, a name of keras.applications, a callable that returns [C1, C2, C3, C4, C5], or"
    " (keras_model, [names of the layers of C2..C5])",
    lambda value: (
        value in (*BACKBONES, *KERAS_APPLICATIONS)
        if isinstance(value, str)
        else callable(value) or is_tapped_model(value)
    ),
)


def backbone_expected(value: Any) -> str:
    """What `BACKBONE` allows; of the names those that are like the given one come first."""
    if not isinstance(value, str):
        return BACKBONE.text
    known = (*BACKBONES, *KERAS_APPLICATIONS)
    near = difflib.get_close_matches(value.lower().replace("-", "_"), {name.lower() for name in known}, 4, 0.6)
    similar = [name for lower in near for name in known if name.lower() == lower]  # resnet50 and ResNet50
    return f"one like {', '.join(similar)}: {BACKBONE.text}" if similar else BACKBONE.text


def _are_classes(group) -> bool:
    """Whether this is a list of class ids (without the background) and class names."""
    return isinstance(group, (list, tuple)) and all(isinstance(c, str) or (is_whole(c) and c > 0) for c in group)


def _is_nms(value) -> bool:
    if not isinstance(value, (list, tuple)):
        return isinstance(value, str) and value in ("class", "all")
    return all(map(_are_classes, value)) and len({c for group in value for c in group}) == sum(map(len, value))


NMS = Values('"class", "all", or lists of class ids or names, no class in two of them', _is_nms)
CASCADE = Values(
    "None, or a list of BBOX_STD_DEVs",
    lambda value: value is None or (np.ndim(value) == 2 and all(std_dev in STD_DEV for std_dev in value)),
)


def check(config: Config) -> None:
    """`Config.validate`."""

    def require(name: str, condition, expected: str) -> None:
        if not condition:
            raise ValueError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}; expected {expected}.")

    require("BACKBONE", config.BACKBONE in BACKBONE, backbone_expected(config.BACKBONE))
    for name, setting in config.settings_table.items():
        require(name, getattr(config, name) in setting.values, setting.values.text)
    _check_sizes(config, require)
    means = count_numbers(config.MEAN_PIXEL) in (1, config.IMAGE_CHANNEL_COUNT)
    require("MEAN_PIXEL", means, f"1 or IMAGE_CHANNEL_COUNT = {config.IMAGE_CHANNEL_COUNT} values")
    groups = [] if isinstance(config.DETECTION_NMS, str) else config.DETECTION_NMS
    known = all(isinstance(c, str) or c < config.NUM_CLASSES for group in groups for c in group)
    require("DETECTION_NMS", known, f"class ids below NUM_CLASSES = {config.NUM_CLASSES}")
    weights = config.CLASS_WEIGHTS is None or np.shape(config.CLASS_WEIGHTS) == (config.NUM_CLASSES,)
    require("CLASS_WEIGHTS", weights, f"NUM_CLASSES = {config.NUM_CLASSES} numbers, the background first")
    mini = not config.USE_MINI_MASK or count_numbers(config.MINI_MASK_SHAPE, above=0) == 2
    require("MINI_MASK_SHAPE", mini, "(height, width) in pixels")
    require("RPN_NEGATIVE_IOU", config.RPN_NEGATIVE_IOU <= config.RPN_POSITIVE_IOU,
            f"at most RPN_POSITIVE_IOU = {config.RPN_POSITIVE_IOU}")  # fmt: skip
    further = 0 if config.CASCADE_BBOX_STD_DEVS is None else len(config.CASCADE_BBOX_STD_DEVS)
    require("CASCADE_POSITIVE_IOUS", len(config.CASCADE_POSITIVE_IOUS) >= further,
            f"an IoU for each of the {further} heads in CASCADE_BBOX_STD_DEVS")  # fmt: skip
    if config.HEAD_NORM == "group":
        widths = ["MASK_HEAD_CHANNELS"] if config.BOX_HEAD != "c4" else []
        for name in [*widths, *(["FPN_CLASSIF_FC_LAYERS_SIZE"] if config.BOX_HEAD == "fc2" else [])]:
            require(name, getattr(config, name) % NORM_GROUPS == 0,
                    f'a multiple of {NORM_GROUPS}, the number of groups of HEAD_NORM = "group"')  # fmt: skip
    if config.FPN_NORM == "group" and config.BOX_HEAD != "c4":
        require("TOP_DOWN_PYRAMID_SIZE", config.TOP_DOWN_PYRAMID_SIZE % NORM_GROUPS == 0,
                f'a multiple of {NORM_GROUPS}, the number of groups of FPN_NORM = "group"')  # fmt: skip
    if config.BOX_HEAD == "c4":
        side, why = [config.MASK_POOL_SIZE] * 2, "MASK_POOL_SIZE, {}: the C4 head halves and doubles it"
    else:
        side, why = [2 * config.MASK_POOL_SIZE] * 2, "twice MASK_POOL_SIZE, {}: the mask head doubles it"
    require("MASK_SHAPE", np.array_equal(config.MASK_SHAPE, side), why.format(side))


def _check_sizes(config, require) -> None:
    mode = config.IMAGE_RESIZE_MODE
    if mode in ("pad32", "shorter_side"):
        for name in ("IMAGE_MIN_DIM", "IMAGE_MAX_DIM"):
            require(name, is_whole(getattr(config, name)) and getattr(config, name) >= 1, "a whole number >= 1")
        return
    name = "IMAGE_MIN_DIM" if mode == "crop" else "IMAGE_MAX_DIM"
    side = getattr(config, name)
    near = max(1, round(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE if is_number(side) else 1024
    require(name, is_whole(side) and side >= SIZE_MULTIPLE and side % SIZE_MULTIPLE == 0,
            f"a multiple of {SIZE_MULTIPLE}, the nearest is {near}: the pyramid halves it six times")  # fmt: skip
    shortest = config.IMAGE_MIN_DIM
    if mode == "square" and shortest is not None:  # may be above IMAGE_MAX_DIM, which then decides
        require("IMAGE_MIN_DIM", is_number(shortest, 0), "a number >= 0, or None")
    if mode == "pad64" and shortest is not None:
        multiple = is_number(shortest, 0) and shortest % SIZE_MULTIPLE == 0
        require("IMAGE_MIN_DIM", multiple, f'a multiple of {SIZE_MULTIPLE} in the mode "pad64", or None')


def contradictions(config: Config) -> list[str]:
    """`Config.contradictions`."""
    found = []
    if config.DETECTION_MAX_INSTANCES > config.POST_NMS_ROIS_INFERENCE:
        found.append(
            f"DETECTION_MAX_INSTANCES = {config.DETECTION_MAX_INSTANCES} is above POST_NMS_ROIS_INFERENCE ="
            f" {config.POST_NMS_ROIS_INFERENCE}: an image never has more detections than proposals."
        )
    samples = config.ROI_ALIGN_SAMPLES
    if config.ROI_ALIGN == "crop" and samples != config.settings_table["ROI_ALIGN_SAMPLES"].default:
        found.append(f'ROI_ALIGN_SAMPLES = {samples} has no effect: ROI_ALIGN is "crop", not "aligned" or "unaligned".')
    if config.COMPUTE_BACKBONE_SHAPE is not None and not callable(config.BACKBONE):
        found.append(f"COMPUTE_BACKBONE_SHAPE has no effect: BACKBONE is {config.BACKBONE!r}, not a function.")
    return [f"{type(config).__name__}: {sentence}" for sentence in found]


def warn_of_contradictions(config: Config, stacklevel: int) -> None:
    """Warns about each of `contradictions`, at the line of the caller that `stacklevel` refers to."""
    for sentence in contradictions(config):
        warnings.warn(sentence, UserWarning, stacklevel=stacklevel)
