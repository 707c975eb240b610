"""The public names of matterport's `mrcnn`, frozen: where they are imported from, and how they are called.

Names in `mrcnn.utils` are tested in `test_utils`. Our functions accept all arguments of
matterport's, at the same positions, with the same names and defaults. Further arguments come after these.
"""

from __future__ import annotations

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_utils import SIGNATURES as UTILS

from mrcnn import model as modellib
from mrcnn import parallel_model, utils, visualize
from mrcnn.config import Config

FIXED = "train_bn=True"
BLOCK = "input_tensor, kernel_size, filters, stage, block"
INSTANCES = "pred_box, pred_class_id, pred_score, pred_mask"

MODEL = {
    "log": "text, array=None",
    "compute_backbone_shapes": "config, image_shape",
    "identity_block": f"{BLOCK}, use_bias=True, {FIXED}",
    "conv_block": f"{BLOCK}, strides=(2, 2), use_bias=True, {FIXED}",
    "resnet_graph": f"input_image, architecture, stage5=False, {FIXED}",
    "apply_box_deltas_graph": "boxes, deltas",
    "clip_boxes_graph": "boxes, window",
    "ProposalLayer": "proposal_count, nms_threshold, config=None",
    "log2_graph": "x",
    "PyramidROIAlign": "pool_shape",
    "overlaps_graph": "boxes1, boxes2",
    "detection_targets_graph": "proposals, gt_class_ids, gt_boxes, gt_masks, config",
    "DetectionTargetLayer": "config",
    "refine_detections_graph": "rois, probs, deltas, window, config",
    "DetectionLayer": "config=None",
    "rpn_graph": "feature_map, anchors_per_location, anchor_stride",
    "build_rpn_model": "anchor_stride, anchors_per_location, depth",
    "fpn_classifier_graph": f"rois, feature_maps, image_meta, pool_size, num_classes, {FIXED}, fc_layers_size=1024",
    "build_fpn_mask_graph": f"rois, feature_maps, image_meta, pool_size, num_classes, {FIXED}",
    "smooth_l1_loss": "y_true, y_pred",
    "rpn_class_loss_graph": "rpn_match, rpn_class_logits",
    "rpn_bbox_loss_graph": "config, target_bbox, rpn_match, rpn_bbox",
    "mrcnn_class_loss_graph": "target_class_ids, pred_class_logits, active_class_ids",
    "mrcnn_bbox_loss_graph": "target_bbox, target_class_ids, pred_bbox",
    "mrcnn_mask_loss_graph": "target_masks, target_class_ids, pred_masks",
    "load_image_gt": "dataset, config, image_id, augment=False, augmentation=None, use_mini_mask=False",
    "build_detection_targets": "rpn_rois, gt_class_ids, gt_boxes, gt_masks, config",
    "build_rpn_targets": "image_shape, anchors, gt_class_ids, gt_boxes, config",
    "generate_random_rois": "image_shape, count, gt_class_ids, gt_boxes",
    "data_generator": "dataset, config, shuffle=True, augment=False, augmentation=None, random_rois=0, batch_size=1, "
    "detection_targets=False, no_augmentation_sources=None",
    "MaskRCNN": "mode, config, model_dir",
    "compose_image_meta": "image_id, original_image_shape, image_shape, window, scale, active_class_ids",
    "parse_image_meta": "meta",
    "parse_image_meta_graph": "meta",
    "mold_image": "images, config",
    "unmold_image": "normalized_images, config",
    "trim_zeros_graph": "boxes, name='trim_zeros'",
    "batch_pack_graph": "x, counts, num_rows",
    "norm_boxes_graph": "boxes, shape",
    "denorm_boxes_graph": "boxes, shape",
}
METHODS = {
    "find_last": "self",
    "load_weights": "self, filepath, by_name=False, exclude=None",
    "get_imagenet_weights": "self",
    "set_trainable": "self, layer_regex, keras_model=None, indent=0, verbose=1",
    "set_log_dir": "self, model_path=None",
    "train": "self, train_dataset, val_dataset, learning_rate, epochs, layers, augmentation=None, "
    "custom_callbacks=None, no_augmentation_sources=None",
    "mold_inputs": "self, images",
    "unmold_detections": "self, detections, mrcnn_mask, original_image_shape, image_shape, window",
    "detect": "self, images, verbose=0",
    "detect_molded": "self, molded_images, image_metas, verbose=0",
    "get_anchors": "self, image_shape",
    "ancestor": "self, tensor, name, checked=None",
    "find_trainable_layer": "self, layer",
    "get_trainable_layers": "self",
    "run_graph": "self, images, outputs, image_metas=None",
}
DATASET = {
    "add_class": "self, source, class_id, class_name",
    "add_image": "self, source, image_id, path",
    "image_reference": "self, image_id",
    "prepare": "self, class_map=None",
    "map_source_class_id": "self, source_class_id",
    "get_source_class_id": "self, class_id, source",
    "source_image_link": "self, image_id",
    "load_image": "self, image_id",
    "load_mask": "self, image_id",
}
VISUALIZE = {
    "display_images": "images, titles=None, cols=4, cmap=None, norm=None, interpolation=None",
    "random_colors": "N, bright=True",
    "apply_mask": "image, mask, color, alpha=0.5",
    "display_instances": "image, boxes, masks, class_ids, class_names, scores=None, title='', figsize=(16, 16), "
    "ax=None, show_mask=True, show_bbox=True, colors=None, captions=None",
    "display_differences": f"image, gt_box, gt_class_id, gt_mask, {INSTANCES}, class_names, title='', ax=None, "
    "show_mask=True, show_box=True, iou_threshold=0.5, score_threshold=0.5",
    "draw_rois": "image, rois, refined_rois, mask, class_ids, class_names, limit=10",
    "draw_box": "image, box, color",
    "display_top_masks": "image, mask, class_ids, class_names, limit=4",
    "plot_precision_recall": "AP, precisions, recalls",
    "plot_overlaps": "gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5",
    "draw_boxes": "image, boxes=None, refined_boxes=None, masks=None, captions=None, visibilities=None, title='', "
    "ax=None",
    "display_table": "table",
    "display_weight_stats": "model",
}
PARALLEL = {"ParallelModel": "keras_model, gpu_count"}
CONFIG_METHODS = {"__init__": "self", "display": "self", "to_dict": "self"}
CONFIG = {
    "NAME": None, "GPU_COUNT": 1, "IMAGES_PER_GPU": 2, "STEPS_PER_EPOCH": 1000, "VALIDATION_STEPS": 50,
    "BACKBONE": "resnet101", "COMPUTE_BACKBONE_SHAPE": None, "BACKBONE_STRIDES": [4, 8, 16, 32, 64],
    "FPN_CLASSIF_FC_LAYERS_SIZE": 1024, "TOP_DOWN_PYRAMID_SIZE": 256, "NUM_CLASSES": 1,
    "RPN_ANCHOR_SCALES": (32, 64, 128, 256, 512), "RPN_ANCHOR_RATIOS": [0.5, 1, 2], "RPN_ANCHOR_STRIDE": 1,
    "RPN_NMS_THRESHOLD": 0.7, "RPN_TRAIN_ANCHORS_PER_IMAGE": 256, "PRE_NMS_LIMIT": 6000,
    "POST_NMS_ROIS_TRAINING": 2000, "POST_NMS_ROIS_INFERENCE": 1000, "USE_MINI_MASK": True,
    "MINI_MASK_SHAPE": (56, 56), "IMAGE_RESIZE_MODE": "square", "IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1024,
    "IMAGE_MIN_SCALE": 0, "IMAGE_CHANNEL_COUNT": 3, "MEAN_PIXEL": [123.7, 116.8, 103.9], "TRAIN_ROIS_PER_IMAGE": 200,
    "ROI_POSITIVE_RATIO": 0.33, "POOL_SIZE": 7, "MASK_POOL_SIZE": 14, "MASK_SHAPE": [28, 28], "MAX_GT_INSTANCES": 100,
    "RPN_BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2], "BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2], "DETECTION_MAX_INSTANCES": 100,
    "DETECTION_MIN_CONFIDENCE": 0.7, "DETECTION_NMS_THRESHOLD": 0.3, "LEARNING_RATE": 0.001,
    "LEARNING_MOMENTUM": 0.9, "WEIGHT_DECAY": 0.0001,
    "LOSS_WEIGHTS": {"rpn_class_loss": 1.0, "rpn_bbox_loss": 1.0, "mrcnn_class_loss": 1.0, "mrcnn_bbox_loss": 1.0,
                     "mrcnn_mask_loss": 1.0},
    "USE_RPN_ROIS": True, "TRAIN_BN": False, "GRADIENT_CLIP_NORM": 5.0,
    "BATCH_SIZE": 2, "IMAGE_SHAPE": [1024, 1024, 3], "IMAGE_META_SIZE": 13,
}  # fmt: skip
OWNERS = {
    "model": (modellib, MODEL), "utils": (utils, UTILS), "visualize": (visualize, VISUALIZE),
    "parallel_model": (parallel_model, PARALLEL), "MaskRCNN": (modellib.MaskRCNN, METHODS),
    "Dataset": (utils.Dataset, DATASET), "Config": (Config, CONFIG_METHODS),
}  # fmt: skip


def parameters(signature: str) -> list[inspect.Parameter]:
    scope = {}
    exec(f"def f({signature}): pass", scope)
    return list(inspect.signature(scope["f"]).parameters.values())


def misfits(function, signature: str) -> list[str]:
    """Differences between a function's signature and matterport's, one line each."""
    ours = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    theirs = parameters(signature)
    found = []
    for place, wanted in enumerate(theirs):
        got = ours[place] if place < len(ours) else None
        if got is None or got.name != wanted.name or got.kind is not got.POSITIONAL_OR_KEYWORD:
            found.append(f"argument {place} is {got}, expected {wanted}")
        elif wanted.default is not wanted.empty and got.default != wanted.default:
            found.append(f"the default of {wanted.name} is {got.default!r}, expected {wanted.default!r}")
    found += [f"{p.name}, which is ours, must have a default" for p in ours[len(theirs) :] if p.default is p.empty]
    return found


@pytest.mark.parametrize(
    "owner, name", [(owner, name) for owner, (_, names) in OWNERS.items() for name in names], ids=".".join
)
def test_every_name_is_called_as_in_matterport(owner, name):
    place, names = OWNERS[owner]
    assert not misfits(getattr(place, name), names[name])


def test_a_changed_signature_is_detected():
    def ours(image, mode="square", *, ax): ...

    assert len(misfits(ours, "image, cols=4, mode='pad64'")) == 2
    assert misfits(ours, "image, mode='crop'") == [
        "the default of mode is 'square', expected 'crop'", "ax, which is ours, must have a default",
    ]  # fmt: skip


def test_config_has_every_setting_with_its_default():
    config = Config()
    for name, value in CONFIG.items():
        np.testing.assert_equal(getattr(config, name), np.array(value) if isinstance(value, list) else value, name)
        assert name in config.to_dict()


def test_arrays_of_config_are_arrays_and_the_rest_keeps_its_type():
    config = Config()
    for name in ("MEAN_PIXEL", "RPN_BBOX_STD_DEV", "BBOX_STD_DEV", "IMAGE_SHAPE"):
        assert isinstance(getattr(config, name), np.ndarray)
    for name, value in CONFIG.items():
        if not isinstance(value, list):
            assert type(getattr(config, name)) is type(value), name


def test_coco_model_url_and_batch_norm():
    assert utils.COCO_MODEL_URL.endswith("mask_rcnn_coco.h5")
    assert issubclass(modellib.BatchNorm, keras.layers.BatchNormalization)
    assert not misfits(modellib.BatchNorm.call, "self, inputs, training=None")


@pytest.mark.parametrize("name", ["ProposalLayer", "PyramidROIAlign", "DetectionTargetLayer", "DetectionLayer"])
def test_layers_accept_the_keras_base_arguments(name):
    arguments = {"ProposalLayer": (5, 0.7), "PyramidROIAlign": ([7, 7],), "DetectionTargetLayer": (Config(),)}
    assert getattr(modellib, name)(*arguments.get(name, ()), name="mine").name == "mine"


IMPORTS = """
import mrcnn
import mrcnn.model
import mrcnn.model as modellib
import mrcnn.utils
import mrcnn.visualize
import mrcnn.parallel_model
from mrcnn import config, model, parallel_model, utils, visualize
from mrcnn import model as modellib, utils
from mrcnn import visualize
from mrcnn.config import Config
from mrcnn.model import MaskRCNN, log, load_image_gt, mold_image
from mrcnn.parallel_model import ParallelModel
from mrcnn.utils import Dataset, compute_ap, extract_bboxes
from mrcnn.visualize import display_images, display_instances, draw_boxes, find_contours
mrcnn.model.MaskRCNN, mrcnn.utils.Dataset, mrcnn.config.Config
from mrcnn.utils import *
from mrcnn.visualize import *
from mrcnn.model import *
from mrcnn.config import *
sys, os, math, random, np, scipy, skimage, urllib, shutil, warnings, logging, utils, Config, MaskRCNN, Dataset
display_instances, plt, patches, lines, Polygon, colorsys, itertools, datetime, re, keras
print("all imported")
"""


def test_the_import_forms_of_scripts_work_in_a_fresh_interpreter():
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert run.stdout.strip() == "all imported", run.stderr[-2000:]


def test_parallel_model_shares_the_wrapped_layers(tmp_path):
    x = keras.Input((4,), name="x")
    inner = keras.Model(x, keras.layers.Dense(2, name="dense")(x), name="inner")
    wrapped = parallel_model.ParallelModel(inner, 2)
    assert isinstance(wrapped, keras.Model) and wrapped.inner_model is inner
    assert wrapped.get_layer("dense") is inner.get_layer("dense") and len(wrapped.make_parallel()) == 1
    batch = np.ones((3, 4), "float32")
    wrapped.compile("sgd", "mse")
    wrapped.fit(batch, np.zeros((3, 2)), verbose=0)
    np.testing.assert_array_equal(wrapped.predict(batch, verbose=0), inner.predict(batch, verbose=0))
    wrapped.save_weights(tmp_path / "inner.weights.h5")
    trained = inner.get_weights()
    inner.set_weights([0 * w for w in trained])
    wrapped.load_weights(tmp_path / "inner.weights.h5")
    np.testing.assert_array_equal(inner.get_weights()[0], trained[0])


def test_parallel_model_shows_the_inner_model(capsys):
    x = keras.Input((4,), name="x")
    parallel_model.ParallelModel(keras.Model(x, keras.layers.Dense(2, name="dense")(x)), 1).summary()
    assert "dense" in capsys.readouterr().out
    with pytest.raises(ValueError, match="gpu_count is 0"):
        parallel_model.ParallelModel(keras.Model(x, keras.layers.Dense(2)(x)), 0)
