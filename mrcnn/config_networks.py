"""The settings of `Config` for networks other than matterport's: their architecture, and how they are trained.

`Config.CONVENTION` sets the defaults of these settings, and of many in `mrcnn.config`, to torchvision's or
detectron2's; see `mrcnn.conventions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mrcnn.config_checks import BOX_HEADS, CASCADE, is_tapped_model
from mrcnn.settings import (
    GRAPH,
    IOU,
    LOSS,
    TRAINING_GRAPH,
    YES_OR_NO,
    Group,
    Setting,
    Values,
    none_or,
    number,
    one_of,
    whole,
)  # fmt: skip


class NetworkSettings:
    """Declares them; `Config` collects them with its own."""

    _networks = Group("Parts of other networks")
    BACKBONE_STRIDE_IN = Setting(
        "1x1", "Convolution of a ResNet block that has the stride.", one_of("1x1", "3x3"), effect=GRAPH
    )
    BATCH_NORM_EPS = Setting(0.001, "Added to the variance in BatchNorm.", number(0), effect=GRAPH)
    FPN_NORM = Setting(
        None,
        'Normalization in the feature pyramid. "group" suits new pyramids on backbones with large features, such as'
        " EfficientNet.",
        one_of(None, "batch", "group"),
        effect=GRAPH,
    )
    RPN_CONVS = Setting(1, "Convolutions of the RPN before its outputs.", one_of(1, 2), effect=GRAPH)
    BOX_HEAD = Setting(
        "fc2",
        '"fc2": two fully connected layers. "conv4fc1": four convolutions and one. "c4": no pyramid; the last stage of'
        " the ResNet is the head (Faster R-CNN).",
        one_of(*BOX_HEADS),
        effect=GRAPH,
    )
    HEAD_NORM = Setting(
        "batch", "Normalization in the class and mask heads.", one_of(None, "batch", "group"), effect=GRAPH
    )
    CLASS_AGNOSTIC_BOX = Setting(False, "One box for each RoI instead of one per class.", YES_OR_NO, effect=GRAPH)
    CLASS_AGNOSTIC_MASK = Setting(False, "One mask for each RoI instead of one per class.", YES_OR_NO, effect=GRAPH)
    CASCADE_BBOX_STD_DEVS = Setting(
        None,
        "Cascade R-CNN: a BBOX_STD_DEV for each further class head, which refines the boxes of the one before.",
        CASCADE,
        effect=GRAPH,
    )

    _network_training = Group("Training of other networks")
    RPN_POSITIVE_IOU = Setting(
        0.7, "Anchors with at least this IoU with an object are positive (Faster R-CNN, 3.1.2).", IOU, "IoU"
    )
    RPN_NEGATIVE_IOU = Setting(
        0.3, "Anchors with a lower IoU with every object are negative (Faster R-CNN, 3.1.2).", IOU, "IoU"
    )
    ROI_POSITIVE_IOU = Setting(
        0.5,
        "RoIs with at least this IoU with an object are positive (Mask R-CNN, 3.1), the others negative.",
        IOU,
        "IoU",
        TRAINING_GRAPH,
    )
    CASCADE_POSITIVE_IOUS = Setting(
        (0.6, 0.7),
        "ROI_POSITIVE_IOU of each further class head of a cascade (Cascade R-CNN, 4.2).",
        Values("a list of IoUs in [0, 1]", lambda value: np.ndim(value) == 1 and all(iou in IOU for iou in value)),
        "IoU",
        TRAINING_GRAPH,
    )
    PRE_NMS_LIMIT_TRAINING = Setting(
        None, "PRE_NMS_LIMIT while training; None: the same.", none_or(whole(1)), "anchors", TRAINING_GRAPH
    )
    SMOOTH_L1_BETA = Setting(
        1.0,
        "Box losses are quadratic below this distance of the deltas and linear above (Fast R-CNN, equation 3, has 1);"
        " 0: the absolute difference.",
        number(0),
        effect=LOSS,
    )
    BOX_LOSS_AVERAGE = Setting(
        "positives",
        '"positives": box losses are means over the deltas of positive anchors and RoIs. "samples": the sum over these'
        " deltas, divided by the number of all sampled anchors or RoIs (Fast R-CNN, equation 1).",
        one_of("positives", "samples"),
        effect=LOSS,
    )


def backbone_to_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose `BACKBONE`, if it is a Keras model with named layers, is its architecture without the weights."""
    if not is_tapped_model(settings["BACKBONE"]):
        return settings
    import keras

    model, names = settings["BACKBONE"]
    return {**settings, "BACKBONE": {"keras_model": keras.saving.serialize_keras_object(model), "layers": list(names)}}


def backbone_from_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `backbone_to_json`. The Keras model has new weights.

    Raises:
        ValueError: from Keras, if the model has Lambda layers, which may run any code.
    """
    stored = settings.get("BACKBONE")
    if not isinstance(stored, dict) or "keras_model" not in stored:
        return dict(settings)
    import keras

    model = keras.saving.deserialize_keras_object(stored["keras_model"], safe_mode=True)
    return {**settings, "BACKBONE": (model, stored["layers"])}
