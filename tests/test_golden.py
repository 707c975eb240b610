"""Compares the model with results of the original (tests/golden), each stage and as a whole, on any backend.

Weights come from their names (`golden.formula`). Proposals are compared as sets: two TensorFlow builds of the original
already disagree on a few ties. RoIs that touch the far edge of the image are left out where features are compared: the
original's crop could give zeros there, ours doesn't.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from golden.formula import fill
from keras import ops

from mrcnn import training
from mrcnn.config import DERIVED, Config
from mrcnn.model import INFERENCE_OUTPUTS, MaskRCNN


def golden_config(golden, run: str, **changes) -> Config:
    settings = {k: v for k, v in golden("configs.json")[run].items() if k not in DERIVED}
    return type("GoldenConfig", (Config,), {**settings, **changes})()


def relative(ours, theirs) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def thin(x) -> np.ndarray:
    """The golden activations keep 16 channels."""
    return x[..., :: max(1, x.shape[-1] // 16)]


@pytest.fixture(scope="module", params=["resnet50", "resnet101"])
def inference(request, golden, tmp_path_factory):
    config = golden_config(golden, f"{request.param}_inference")
    model = MaskRCNN("inference", config, str(tmp_path_factory.mktemp("logs")))
    fill(model)
    op_by_op_on_jax(model, model.detector())
    return model, golden(f"{request.param}_inference.npz")


def op_by_op_on_jax(*models) -> None:
    """XLA would compile a ResNet for minutes; `backend_checks` compares compiled graphs of a tiny network."""
    for model in models:
        model.run_eagerly = keras.backend.backend() == "jax"


def molded(model, data, i=0):
    images, metas, _ = model.mold_inputs([data[f"image{i}"]])
    return images, metas


def test_every_stage_agrees_on_the_first_image(inference):
    model, data = inference
    names = [key.removeprefix("layer0_") for key in data if key.startswith("layer0_")]
    images, metas = molded(model, data)
    outputs = [(name, model.get_layer(name).output) for name in names]
    ours = model.run_graph(images, outputs, image_metas=metas)
    for name in names:
        theirs, x = data[f"layer0_{name}"], thin(ours[name])
        if name == "roi_align_classifier":
            inside = np.all(data["rpn_rois0"][0, :20, 2:] < 1 - 1e-6, axis=1)
            same = np.all(np.abs(model_rois(model, images, metas)[0, :20] - data["rpn_rois0"][0, :20]) < 1e-5, axis=1)
            assert (inside & same).sum() >= 3
            theirs, x = theirs[0, inside & same], x[0, :20][inside & same]
        if name == "mrcnn_class_logits":
            same = np.all(np.abs(model_rois(model, images, metas) - data["rpn_rois0"]) < 1e-5, axis=2)
            theirs, x = theirs[same], ours[name][same]
        assert relative(x, theirs) < 1e-4, name


def model_rois(model, images, metas):
    return np.asarray(model.predict_on_batch([images, metas.astype("float32")])[4])


def test_the_seven_outputs_agree(inference):
    model, data = inference
    outputs = dict(zip(INFERENCE_OUTPUTS, model.predict_on_batch(list(molded(model, data))), strict=True))
    assert np.max(np.abs(outputs["rpn_class"] - data["rpn_class0"])) < 1e-4
    assert relative(outputs["rpn_bbox"], data["rpn_bbox0"]) < 1e-4
    rois, expected = outputs["rpn_rois"][0], data["rpn_rois0"][0]
    assert rois.shape == expected.shape
    found = [np.min(np.max(np.abs(rois - box), axis=1)) < 1e-5 for box in expected]
    assert np.mean(found) >= 0.85
    same = np.all(np.abs(rois - expected) < 1e-5, axis=1)  # heads are compared where they saw the same RoI
    assert np.max(np.abs(outputs["mrcnn_class"][0] - data["mrcnn_class0"][0])[same]) < 1e-4
    assert relative(outputs["mrcnn_bbox"][0][same], data["mrcnn_bbox0"][0][same]) < 1e-4
    np.testing.assert_allclose(outputs["mrcnn_detection"], data["detections0"], atol=1e-3)
    count = np.count_nonzero(data["detections0"][0, :, 4])
    if "mrcnn_mask0" in data:
        masks = outputs["mrcnn_mask"][0, :count]
        assert np.max(np.abs(masks - data["mrcnn_mask0"][0, :count])) < 1e-3
    else:
        class_ids = data["detections0"][0, :count, 4].astype(int)
        masks = np.asarray(outputs["mrcnn_mask"])[0, np.arange(count), :, :, class_ids]
        assert np.max(np.abs(masks - data["mrcnn_mask_of_class0"][0])) < 1e-3


def test_detect_agrees(inference):
    model, data = inference
    count = sum(key.startswith("image") for key in data)
    results = model.detect([data[f"image{i}"] for i in range(count)])
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result["class_ids"], data[f"detect_class_ids{i}"])
        np.testing.assert_allclose(result["rois"], data[f"detect_rois{i}"], atol=1)
        np.testing.assert_allclose(result["scores"], data[f"detect_scores{i}"], atol=1e-3)
        shape = data[f"detect_masks_shape{i}"]
        masks = np.unpackbits(data[f"detect_masks{i}"])[: np.prod(shape)].reshape(shape).astype(bool)
        ours = result["masks"]
        assert ours.dtype == bool and ours.shape == masks.shape
        iou = (ours & masks).sum(axis=(0, 1)) / (ours | masks).sum(axis=(0, 1))
        assert iou.min() > 0.99
        assert result["rois"].dtype == np.int32


def test_a_resnet_has_the_original_number_of_parameters(tmp_path):
    for backbone, count in (("resnet50", 45_088_120), ("resnet101", 64_158_584)):
        settings = {"BACKBONE": backbone, "NUM_CLASSES": 81, "NAME": "coco"}
        model = MaskRCNN("inference", type("CocoConfig", (Config,), settings)(), str(tmp_path))
        assert model.count_params() == count


@pytest.fixture(scope="module", params=["mini", "full"])
def trained(request, golden, tmp_path_factory):
    """A training model with the golden weights, the golden batch, and the original's outputs."""
    config = golden_config(golden, f"resnet50_training_{request.param}", PADDED_ROIS_IN_CLASS_LOSS=True)
    model = MaskRCNN("training", config, str(tmp_path_factory.mktemp("logs")))
    fill(model)
    data = golden(f"resnet50_training_{request.param}.npz")
    shape = data["in_gt_masks_shape"]
    inputs = {f"input_{k[3:]}": v for k, v in data.items() if k.startswith("in_") and not k.startswith("in_gt_masks")}
    inputs["input_image"] = inputs.pop("input_images")
    inputs["input_gt_masks"] = np.unpackbits(data["in_gt_masks"])[: np.prod(shape)].reshape(shape).astype(bool)
    return model, inputs, {k[4:]: v for k, v in data.items() if k.startswith("out_")}


def as_tensors(arrays: dict) -> dict:
    return {k: ops.convert_to_tensor(v.astype("float32") if v.dtype == np.float64 else v) for k, v in arrays.items()}


def test_losses_agree_on_the_stored_targets(trained):
    model, inputs, theirs = trained
    first = model.get_layer("positive_rois").count
    outputs = {
        "rpn_class_logits": theirs["rpn_class_logits"],
        "rpn_bbox": theirs["rpn_bbox_out"],
        "output_rois": theirs["output_rois"],
        "target_class_ids": theirs["target_class_ids"],
        "target_bbox": theirs["target_bbox"],
        "target_mask": theirs["target_mask"],
        "mrcnn_class_logits": theirs["mrcnn_class_logits"],
        "mrcnn_bbox": theirs["mrcnn_bbox"],
        "mrcnn_mask": theirs["mrcnn_mask"][:, :first],
    }
    values = training.compute_losses(as_tensors(inputs), as_tensors(outputs), model.config)
    for name, value in values.items():
        np.testing.assert_allclose(ops.convert_to_numpy(value), theirs[name], rtol=1e-4, err_msg=name)


def test_weight_decay_agrees_where_batchnorm_is_left_out(trained):
    # The original's list of trainable weights held gamma and beta, and its regulariser skipped them, so ours is equal.
    model, _, theirs = trained
    value = training.weight_decay(model.trainable_variables, model.config)
    np.testing.assert_allclose(ops.convert_to_numpy(value), theirs["reg_loss"], rtol=1e-4)


def test_heads_and_losses_agree_on_the_stored_rois(trained):
    """The second stage, fed with the original's RoIs and targets: only the sampling, which is random, is left out."""
    model, inputs, theirs = trained
    stages = model.stages
    image, meta = (np.asarray(inputs[k], "float32") for k in ("input_image", "input_image_meta"))
    rois = keras.Input((None, 4), dtype="float32")
    second_stage = keras.Model(
        [stages.image, stages.meta, rois],
        [*stages.class_head(rois, stages.meta, stages.pyramid), stages.mask_head(rois, stages.meta, stages.pyramid)],
    )
    op_by_op_on_jax(second_stage)
    logits, probs, deltas, masks = second_stage.predict_on_batch([image, meta, theirs["output_rois"]])
    inside = np.all(theirs["output_rois"][..., 2:] < 1 - 1e-6, axis=-1)
    assert inside.sum() > 10
    assert relative(logits[inside], theirs["mrcnn_class_logits"][inside]) < 1e-3
    assert np.max(np.abs(probs - theirs["mrcnn_class"])[inside]) < 1e-3
    assert relative(deltas[inside], theirs["mrcnn_bbox"][inside]) < 1e-3
    real = inside & np.any(theirs["output_rois"] != 0, axis=-1)
    assert np.max(np.abs(masks - theirs["mrcnn_mask"])[real]) < 1e-3


def test_targets_agree_on_the_stored_rois(trained):
    """Given the original's RoIs as the only proposals, each gets the original's class, deltas and mask."""
    model, inputs, theirs = trained
    layer = model.get_layer("proposal_targets")
    boxes = model.get_layer("norm_gt_boxes")([inputs["input_gt_boxes"].astype("float32"), inputs["input_image"]])
    rois, class_ids, deltas, masks = (
        ops.convert_to_numpy(x)
        for x in layer([theirs["output_rois"], inputs["input_gt_class_ids"], boxes, inputs["input_gt_masks"]])
    )
    compared = 0
    for b in range(len(rois)):
        for t in np.flatnonzero(class_ids[b]):
            row = np.argmin(np.max(np.abs(theirs["output_rois"][b] - rois[b, t]), axis=1))
            assert class_ids[b, t] == theirs["target_class_ids"][b, row]
            np.testing.assert_allclose(deltas[b, t], theirs["target_bbox"][b, row], atol=1e-4)
            assert np.mean(masks[b, t] == theirs["target_mask"][b, row]) > 0.995
            compared += 1
    assert compared == np.count_nonzero(theirs["target_class_ids"])
