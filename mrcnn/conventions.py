"""What differs between Mask R-CNNs that are otherwise the same network: matterport's, torchvision's and detectron2's.

A network trained under one set of rules gives other numbers under another, so weights come with a convention.
`Config.CONVENTION` chooses one by name; layers and functions get its values as arguments and never ask for the name.

                       matterport            torchvision               detectron2
    input              0..255 - mean         (0..255 - mean) / std     the same, conv1 for RGB
    image              centered in a square  top left, multiple of 32  top left, multiple of 32
    resized side       round                 floor                     nearest, half up
    resized by         OpenCV, antialiased   bilinear, float           Pillow's bilinear, antialiased
    padding            before mean           0 after mean              0 after mean
    normalized box     (box - [0,0,1,1]) / (size - 1)   box / size     box / size
    stride 2           pads below and right  pads all sides            pads all sides
    anchors            exact                 rounded; image // map     exact
    objectness         two logits, softmax   one logit, sigmoid        one logit, sigmoid
    proposals          best of all levels    best of each level        best of each level
    pyramid level      4 + round(log2 ..)    floor(4 + log2 .. + 1e-6) floor(4 + log2 (.. + 1e-8))
    RoIAlign           crop_and_resize       2 x 2 samples, unaligned  adaptive samples, aligned
    class of a RoI     the best one          each above the threshold  each above the threshold
    log of a scaling   up to 30              up to log(1000 / 16)      up to log(1000 / 16)
    boxes found        whole pixels          float                     float
    mask on the photo  resized to the box    grown by a pixel, resized sampled at pixel centers
    box loss           smooth L1, mean over  smooth L1 (beta 1/9),     L1, sum / samples
                       positives             sum / samples
    RoIs to train on   200, a third positive 512, a quarter positive   512, a quarter positive

Sources: Ren et al., "Faster R-CNN"; He et al., "Mask R-CNN"; and what matterport's code, torchvision 0.28 and
detectron2 02b5c4e2 compute, recorded stage by stage (tests/test_golden.py, tests/test_golden_torch.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Convention:
    """The rules that weights were trained with.

    Attributes:
        name: "matterport", "torchvision" or "detectron2".
        size_multiple: pixels; sides of the network's input are multiples of it.
        side_rounding: how a scaled side becomes whole: "round" (half to even), "floor" or "half_up".
        resampling: "opencv" (`ops.images.resize_image`), "bilinear" (in float, no antialiasing) or "pillow"
            (Pillow's BILINEAR on 8 bits, antialiased).
        pad_with_mean: padding has the value of the mean pixel, 0 after it is subtracted. False: padding is 0 before.
        input_std: [3]. The molded image is divided by it at the beginning of a ResNet. None: it is not.
        box_offset: 1 or 0. Normalized boxes are (box - [0, 0, offset, offset]) / (size - offset).
        window_padding: of convolutions and pools of stride 2: "same" or "symmetric".
        anchor_rounding: corners of the anchors of a cell are rounded to whole pixels, half to even.
        anchor_strides: "fixed" or "image // map", per axis.
        sigmoid_objectness: one logit and a sigmoid for each anchor, instead of two and a softmax.
        per_level_proposals: `PRE_NMS_LIMIT`, NMS and then the best of all: for each level instead of all at once.
        rank_by_logit: proposals are ranked by their logit; False: by their probability, which ties at 1.
        min_proposal_side: pixels; smaller proposals, and those without area, are dropped. None: none is.
        max_log_scale: upper bound of log dh and log dw.
        level_rule: "round", "floor_after" or "floor_before", see `ops.roi_align.roi_levels`.
        multi_label: a proposal gives a detection of each class whose score is high enough, not only of the best one.
        min_detection_side: pixels; smaller detections are dropped.
        whole_pixels: detected boxes are rounded to int32, otherwise float32.
        best_anchors_choose: while training, an anchor that an object overlaps most learns the object that it overlaps
            most itself; False: the one that overlaps it most.
        mask_paste: "resize", "padded_resize" or "grid_sample", see `ops.masks.paste_masks`.
        settings: defaults of `Config` under this convention, by name.
    """

    name: str
    size_multiple: int = 64
    side_rounding: str = "round"
    resampling: str = "opencv"
    pad_with_mean: bool = False
    input_std: tuple[float, float, float] | None = None
    box_offset: int = 1
    window_padding: str = "same"
    anchor_rounding: bool = False
    anchor_strides: str = "fixed"
    sigmoid_objectness: bool = False
    per_level_proposals: bool = False
    rank_by_logit: bool = False
    min_proposal_side: float | None = None
    max_log_scale: float = 30.0  # exp(30) = 1e13: far larger than any image, far below the largest float32
    level_rule: str = "round"
    multi_label: bool = False
    min_detection_side: float = 0.0
    whole_pixels: bool = True
    best_anchors_choose: bool = False
    mask_paste: str = "resize"
    settings: dict[str, Any] = field(default_factory=dict)


# What torchvision and detectron2 have in common.
_LIKE_BOTH: dict[str, Any] = {
    "size_multiple": 32, "pad_with_mean": True,
    "box_offset": 0, "window_padding": "symmetric",
    "sigmoid_objectness": True, "per_level_proposals": True, "max_log_scale": math.log(1000 / 16),
    "multi_label": True, "whole_pixels": False, "best_anchors_choose": True,
}  # fmt: skip
_SETTINGS_OF_BOTH: dict[str, Any] = {
    "BACKBONE": "resnet50", "MEAN_PIXEL": [123.675, 116.28, 103.53], "BATCH_NORM_EPS": 1e-5, "HEAD_NORM": None,
    "IMAGE_RESIZE_MODE": "pad32", "IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1333,
    "RPN_CHANNELS": 256, "RPN_ANCHOR_RATIOS": [2, 1, 0.5],  # in these projects height / width, wide anchors first
    "RPN_BBOX_STD_DEV": [1.0, 1.0, 1.0, 1.0], "RPN_NMS_THRESHOLD": 0.7,
    "PRE_NMS_LIMIT": 1000, "POST_NMS_ROIS_INFERENCE": 1000,
    "DETECTION_MIN_CONFIDENCE": 0.05, "DETECTION_NMS_THRESHOLD": 0.5,
    # Training. IoU thresholds are the papers' in all three. torchvision and detectron2 add WEIGHT_DECAY * weight to
    # the gradient; this package adds WEIGHT_DECAY * weight ** 2 to the loss, which has twice that gradient.
    "PRE_NMS_LIMIT_TRAINING": 2000, "TRAIN_ROIS_PER_IMAGE": 512, "ROI_POSITIVE_RATIO": 0.25,
    "ADD_GT_TO_PROPOSALS": True, "FILL_ROIS_WITH_NEGATIVES": True, "BOX_LOSS_AVERAGE": "samples",
    "WEIGHT_DECAY": 0.00005, "WEIGHT_DECAY_PER_SIZE": False,
}  # fmt: skip

MATTERPORT = Convention("matterport")
TORCHVISION = Convention(
    "torchvision", **_LIKE_BOTH,
    input_std=(58.395, 57.12, 57.375),  # of ImageNet's pixels, R, G, B
    side_rounding="floor", resampling="bilinear", anchor_rounding=True, anchor_strides="image // map",
    min_proposal_side=1e-3, level_rule="floor_after", min_detection_side=1e-2, mask_paste="padded_resize",
    settings={
        **_SETTINGS_OF_BOTH, "BACKBONE_STRIDE_IN": "3x3", "ROI_ALIGN": "unaligned", "ROI_ALIGN_SAMPLES": 2,
        "POST_NMS_ROIS_TRAINING": 2000, "SMOOTH_L1_BETA": 1 / 9,
    },
)  # fmt: skip
DETECTRON2 = Convention(
    "detectron2", **_LIKE_BOTH,
    side_rounding="half_up", resampling="pillow", rank_by_logit=True, min_proposal_side=0.0, level_rule="floor_before",
    mask_paste="grid_sample",
    settings={
        **_SETTINGS_OF_BOTH, "BACKBONE_STRIDE_IN": "1x1", "ROI_ALIGN": "aligned", "ROI_ALIGN_SAMPLES": 0,
        "POST_NMS_ROIS_TRAINING": 1000, "SMOOTH_L1_BETA": 0.0,
    },
)  # fmt: skip

CONVENTIONS = {convention.name: convention for convention in (MATTERPORT, TORCHVISION, DETECTRON2)}
