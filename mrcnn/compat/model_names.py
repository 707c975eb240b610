"""Functions and layers that scripts import from `mrcnn.model`, from all modules of the package."""

from mrcnn.compat.functions import batch_pack_graph, log
from mrcnn.data.generator import DataGenerator, data_generator
from mrcnn.data.rpn_targets import build_detection_targets, build_rpn_targets, generate_random_rois
from mrcnn.data.training_sample import load_image_gt
from mrcnn.graph import INFERENCE_OUTPUTS, compute_backbone_shapes
from mrcnn.inference.molding import mold_image, unmold_image
from mrcnn.nn.backbones import conv_block, identity_block, resnet_graph
from mrcnn.nn.detections import DetectionLayer, refine_detections_graph
from mrcnn.nn.fpn import fpn_graph
from mrcnn.nn.heads import build_fpn_mask_graph, fpn_classifier_graph
from mrcnn.nn.losses import (
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
)
from mrcnn.nn.norm import BatchNorm
from mrcnn.nn.proposals import ProposalLayer
from mrcnn.nn.roi_align import PyramidROIAlign, log2_graph
from mrcnn.nn.rpn import build_rpn_model, rpn_graph
from mrcnn.nn.targets import DetectionTargetLayer, detection_targets_graph
from mrcnn.ops.boxes import (
    apply_box_deltas_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    norm_boxes_graph,
    overlaps_graph,
    trim_zeros_graph,
)
from mrcnn.ops.meta import compose_image_meta, parse_image_meta, parse_image_meta_graph
