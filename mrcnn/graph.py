"""The network from end to end: image -> detections, and image and ground truth -> inputs of the losses.

Start with `build_stages`, `detection_graph` and `training_graph`. Each line is one stage, and each stage is one file in
`nn/`.

Shapes: B images of H x W pixels, A anchors, N proposals, T sampled RoIs, P those of them that can be positive,
D detections, C classes (0 is background). Boxes are (y1, x1, y2, x2), normalized to the padded image.

Reference: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from mrcnn.nn.anchors import Anchors
from mrcnn.nn.backbones import build_backbone, resnet_stage, resnet_style
from mrcnn.nn.c4 import RoiStage5
from mrcnn.nn.cascade import CascadeHead, RefinedBoxes
from mrcnn.nn.cascade_targets import CascadeTargetLayer, ScaleGradient
from mrcnn.nn.detections import DetectedBoxes, DetectionLayer, FilledRows
from mrcnn.nn.fpn import fpn_graph
from mrcnn.nn.heads import ClassHead, MaskHead
from mrcnn.nn.level_proposals import LevelProposalLayer
from mrcnn.nn.native_inputs import MoldedImages, NamedDetections, TrainingInputs
from mrcnn.nn.precision import computing_in
from mrcnn.nn.proposals import ProposalLayer
from mrcnn.nn.rpn import rpn_over_pyramid
from mrcnn.nn.rpn_targets import RPNTargetLayer
from mrcnn.nn.targets import DetectionTargetLayer, NormBoxes, PositiveRows
from mrcnn.ops.anchors import backbone_shapes
from mrcnn.ops.nms import suppression_groups

if TYPE_CHECKING:
    from mrcnn.config import Config

MODES = ("training", "inference")
INFERENCE_OUTPUTS = ("mrcnn_detection", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "rpn_rois", "rpn_class", "rpn_bbox")


@dataclass
class Stages:
    """The part that training and detection share: symbolic tensors, and the heads, which both apply."""

    image: keras.KerasTensor  # [B, H, W, channels]
    meta: keras.KerasTensor  # [B, 12 + C]
    backbone: list  # C2..C5; C5 is None without a pyramid
    pyramid: list  # P2..P5, the input of the heads; [C4] without a pyramid
    levels: list  # P2..P6, the input of the RPN; [C4] without a pyramid
    rpn: list  # logits [B, A, 2], probs [B, A, 2], deltas [B, A, 4]
    anchors: keras.KerasTensor  # [1, A, 4]
    class_head: ClassHead | CascadeHead
    mask_head: MaskHead


def build_stages(config: Config) -> Stages:
    """Image -> feature pyramid -> RPN outputs for every anchor."""
    image = keras.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    meta = keras.Input((None,), name="input_image_meta", dtype="float32")

    rules = config.convention
    _, c2, c3, c4, c5 = build_backbone(image, config)
    if config.BOX_HEAD == "c4":
        pyramid = [c4]
    else:
        norm = config.FPN_NORM, config.BATCH_NORM_EPS, config.TRAIN_BN
        pyramid = fpn_graph(c2, c3, c4, c5, config.TOP_DOWN_PYRAMID_SIZE, *norm)  # P2..P6
    rpn = rpn_over_pyramid(
        pyramid, anchors_per_location(config), config.RPN_ANCHOR_STRIDE, config.RPN_CHANNELS, config.RPN_CONVS,
        rules.sigmoid_objectness,
    )  # fmt: skip
    settings = config.anchor_settings()
    del settings["level_shapes"]  # the layer reads them from its inputs
    anchors = Anchors(**settings, box_offset=rules.box_offset, name="anchors")
    return Stages(
        image,
        meta,
        [c2, c3, c4, c5],
        pyramid[:4],
        pyramid,
        rpn,
        anchors([image, *pyramid]),
        *heads_of(config),
    )


def heads_of(config: Config) -> tuple[ClassHead | CascadeHead, MaskHead]:
    """The class head, or a cascade of them, and the mask head."""
    rules, c4 = config.convention, config.BOX_HEAD == "c4"
    align = {
        "mode": config.ROI_ALIGN, "samples": config.ROI_ALIGN_SAMPLES, "level_rule": rules.level_rule,
        "box_offset": rules.box_offset, "strides": config.BACKBONE_STRIDES[2:3] if c4 else config.BACKBONE_STRIDES[:4],
    }  # fmt: skip
    train_bn, stage5 = config.TRAIN_BN, None
    if c4:
        style = resnet_style(config)
        stage5 = RoiStage5(lambda x: resnet_stage(x, 5, 2, train_bn, style), config.MASK_POOL_SIZE)
    common = {"roi_align": align, "norm": config.HEAD_NORM, "epsilon": config.BATCH_NORM_EPS, "stage5": stage5}
    cascade = config.CASCADE_BBOX_STD_DEVS or []
    class_heads = [
        ClassHead(
            config.MASK_POOL_SIZE if c4 else config.POOL_SIZE, config.NUM_CLASSES, train_bn,
            config.FPN_CLASSIF_FC_LAYERS_SIZE, **common, kind=config.BOX_HEAD,
            class_agnostic=config.CLASS_AGNOSTIC_BOX or bool(cascade), suffix=f"_s{i + 1}" if i else "",
        )
        for i in range(1 + len(cascade))
    ]  # fmt: skip
    mask_head = MaskHead(
        config.MASK_POOL_SIZE, config.NUM_CLASSES, train_bn, channels=config.MASK_HEAD_CHANNELS, **common,
        class_agnostic=config.CLASS_AGNOSTIC_MASK,
    )  # fmt: skip
    if not cascade:
        return class_heads[0], mask_head
    std_devs = [config.BBOX_STD_DEV, *cascade]
    refine = [
        RefinedBoxes(std_dev, rules.max_log_scale, rules.box_offset, name=f"refined_boxes_s{i}")
        for i, std_dev in enumerate(std_devs[:-1], start=2)
    ]
    return CascadeHead(class_heads, refine), mask_head


def detection_graph(stages: Stages, config: Config) -> tuple[list, list]:
    """The detection graph: inputs, and outputs in the order of `INFERENCE_OUTPUTS`."""
    rois, classes, boxes, detections = detections_of(stages, config)
    masks = stages.mask_head(DetectedBoxes()(detections), stages.meta, stages.pyramid)  # [B, D, 28, 28, C]
    _, probs, deltas = stages.rpn
    return [stages.image, stages.meta], [detections, classes, boxes, masks, rois, probs, deltas]


def detector_graph(stages: Stages, config: Config) -> tuple[list, list]:
    """The part that `detect` runs: detections [B, D, 6], and for the n rows in use, the mask of the detected class."""
    *_, detections = detections_of(stages, config)
    found = FilledRows()(detections)  # [B, n, 6]
    masks = stages.mask_head.of_class(DetectedBoxes()(found), found[..., 4], stages.meta, stages.pyramid)
    return [stages.image, stages.meta], [detections, masks]  # masks [B, n, 28, 28]


def detector_graph_of(inputs: list, outputs: list) -> tuple[list, list]:
    """`detector_graph` of a network that has only the inputs and outputs of `detection_graph`."""
    detections, masks = outputs[0], outputs[INFERENCE_OUTPUTS.index("mrcnn_mask")]  # [B, D, 6], [B, D, 28, 28, C]
    classes = ops.cast(detections[..., 4], "int32")
    return inputs, [detections, ops.take_along_axis(masks, classes[..., None, None, None], axis=-1)[..., 0]]


def detections_of(stages: Stages, config: Config) -> tuple:
    """Proposals [B, N, 4], their classes [B, N, C] and box deltas [B, N, C, 4], detections [B, D, 6]."""
    rois = proposals_of(stages, config, config.POST_NMS_ROIS_INFERENCE, config.PRE_NMS_LIMIT)  # [B, N, 4]
    last_rois, classes, boxes = stages.class_head.classify(rois, stages.meta, stages.pyramid)
    detections = DetectionLayer(config, name="mrcnn_detection")([last_rois, classes, boxes, stages.meta])
    return rois, classes, boxes, detections


def proposals_of(stages: Stages, config: Config, count: int, limit: int) -> keras.KerasTensor:
    """The RPN's best boxes after NMS, [B, count, 4]; NMS sees the `limit` highest-scoring anchors."""
    logits, probs, deltas = stages.rpn
    rules = config.convention
    shared = {"pre_nms_limit": limit, "bbox_std_dev": config.RPN_BBOX_STD_DEV,
              "stop_gradient": config.STOP_PROPOSAL_GRADIENT, "name": "ROI"}  # fmt: skip
    if not rules.per_level_proposals:
        choose = ProposalLayer(count, config.RPN_NMS_THRESHOLD, **shared)
        return choose([probs, deltas, stages.anchors])
    choose = LevelProposalLayer(
        count, config.RPN_NMS_THRESHOLD, anchors_per_location=anchors_per_location(config),
        anchor_stride=config.RPN_ANCHOR_STRIDE, min_side=rules.min_proposal_side or 0.0,
        max_log_scale=rules.max_log_scale, rank_by_logit=rules.rank_by_logit, box_offset=rules.box_offset, **shared,
    )  # fmt: skip
    return choose([logits, deltas, stages.anchors, stages.meta, *stages.levels])


def anchors_per_location(config: Config) -> int:
    """Anchors per cell of a level: one per aspect ratio; without a pyramid, one per ratio and scale."""
    return len(config.RPN_ANCHOR_RATIOS) * (len(config.RPN_ANCHOR_SCALES) if config.BOX_HEAD == "c4" else 1)


def training_graph(stages: Stages, config: Config) -> tuple[list, dict]:
    """The training graph: inputs, and the tensors that `training.compute_losses` needs, by name."""
    gt_masks_size = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else (None, None)
    match = keras.Input((None, 1), name="input_rpn_match", dtype="int32")
    rpn_bbox = keras.Input((None, 4), name="input_rpn_bbox", dtype="float32")
    gt_class_ids = keras.Input((None,), name="input_gt_class_ids", dtype="int32")
    gt_boxes = keras.Input((None, 4), name="input_gt_boxes", dtype="float32")
    gt_masks = keras.Input((*gt_masks_size, None), name="input_gt_masks", dtype="bool")
    inputs = [stages.image, stages.meta, match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks]

    logits, probs, deltas = stages.rpn
    limit = config.PRE_NMS_LIMIT_TRAINING or config.PRE_NMS_LIMIT
    proposals = proposals_of(stages, config, config.POST_NMS_ROIS_TRAINING, limit)  # [B, N, 4]
    candidates, offset = proposals, config.convention.box_offset
    if not config.USE_RPN_ROIS:
        candidates = keras.Input((None, 4), name="input_roi", dtype="float32")
        inputs.append(candidates)
        candidates = NormBoxes(offset, name="norm_rois")([candidates, stages.image])
    targets = DetectionTargetLayer(config, name="proposal_targets")
    true_boxes = NormBoxes(offset, name="norm_gt_boxes")([gt_boxes, stages.image])
    rois, class_ids, bbox, masks = targets(
        [candidates, gt_class_ids, true_boxes, gt_masks, stages.image]
    )  # [B, T, ...]

    class_outputs = class_heads_in_training(stages, config, (rois, class_ids, bbox), [gt_class_ids, true_boxes])
    of_positives = PositiveRows(targets.max_positives, config.TRAIN_BN is not False, name="positive_rois")
    positive = of_positives([rois, class_ids])  # [B, n, 4]
    pred_masks = stages.mask_head(positive, stages.meta, stages.pyramid)  # [B, n, 28, 28, C]
    return inputs, {
        "rpn_class_logits": logits, "rpn_class": probs, "rpn_bbox": deltas, "rpn_rois": proposals,
        **class_outputs, "target_mask": masks, "mrcnn_mask": pred_masks,
    }  # fmt: skip


def class_heads_in_training(stages: Stages, config: Config, sampled: tuple, truth: list) -> dict:
    """RoIs, targets and outputs of each class head by name. In a cascade, later heads have the suffix "_s2", "_s3", ...

    Args:
        sampled: rois [B, T, 4], class_ids [B, T] and deltas [B, T, 4] of the first head.
        truth: class ids [B, G] and boxes [B, G, 4] of the objects.
    """
    heads, pyramid, outputs = [stages.class_head], stages.pyramid, {}
    if isinstance(stages.class_head, CascadeHead):
        heads = stages.class_head.heads
        share = ScaleGradient(1 / len(heads), name="share_of_class_head")
        pyramid = [share(features) for features in pyramid]
    for i, head in enumerate(heads):
        rois, class_ids, bbox = sampled
        logits, classes, deltas = head(rois, stages.meta, pyramid)
        suffix = f"_s{i + 1}" if i else ""
        named = {"output_rois": rois, "target_class_ids": class_ids, "target_bbox": bbox,
                 "mrcnn_class_logits": logits, "mrcnn_class": classes, "mrcnn_bbox": deltas}  # fmt: skip
        outputs |= {name + suffix: value for name, value in named.items()}
        if i + 1 < len(heads):
            refined = stages.class_head.refine[i]([rois, deltas, stages.meta])
            match = CascadeTargetLayer(
                config.CASCADE_POSITIVE_IOUS[i], config.CASCADE_BBOX_STD_DEVS[i], name=f"proposal_targets_s{i + 2}"
            )
            sampled = match([refined, *truth])
    return outputs


def training_inputs(config: Config) -> TrainingInputs:
    """Images and their objects, as `fit` takes them -> the inputs of `training_graph` by name."""
    mini_mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else None
    rpn_targets = RPNTargetLayer(config, name="rpn_targets")
    return TrainingInputs(molded_images(config), rpn_targets, mini_mask_shape, name="training_inputs")


def photo_graph(detector: keras.Model, config: Config) -> tuple[keras.KerasTensor, dict]:
    """Images in the size of the network -> detections by name; `detector` is the network of `detector_graph`."""
    images = keras.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="images")
    molded, meta = molded_images(config)(images)
    rules = config.convention
    name = NamedDetections(config.DETECTION_MAX_INSTANCES, rules.box_offset, rules.whole_pixels, name="detections")
    return images, name([*detector([molded, meta]), molded])


def molded_images(config: Config) -> MoldedImages:
    """The layer that subtracts the mean; it refuses images that `detect` would resize."""
    fixed = config.IMAGE_RESIZE_MODE in ("square", "crop")
    return MoldedImages(
        config.MEAN_PIXEL, config.NUM_CLASSES, config.IMAGE_RANGE, config.IMAGE_SHAPE[:2] if fixed else None,
        1 if config.BOX_HEAD == "c4" else config.convention.size_multiple, name="molded_images",
    )  # fmt: skip


def build_model(mode: str, config: Config) -> keras.Model:
    """The graph of one mode as a plain Keras model with new weights."""
    graph = training_graph if mode == "training" else detection_graph
    with computing_in(config.COMPUTE_DTYPE):
        return keras.Model(*graph(build_stages(config), config), name="mask_rcnn")


def set_thresholds(model: keras.Model, config: Config, class_names: Sequence[str] | None = None) -> None:
    """Makes the thresholds of `config` take effect at the next call of a model. Nothing is compiled again."""
    for layer in model.layers:
        if isinstance(layer, (ProposalLayer, LevelProposalLayer)):
            layer.set_thresholds(config.RPN_NMS_THRESHOLD)
        elif isinstance(layer, DetectionLayer):
            groups = suppression_groups(config.DETECTION_NMS, config.NUM_CLASSES, class_names)
            layer.set_thresholds(config.DETECTION_MIN_CONFIDENCE, config.DETECTION_NMS_THRESHOLD, groups)


def compute_backbone_shapes(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """[5, (height, width)] of P2..P6 for an image of `image_shape`."""
    settings = config.anchor_settings()
    return backbone_shapes(image_shape, settings["strides"], settings["level_shapes"])
