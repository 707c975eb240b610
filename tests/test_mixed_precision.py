"""`Config.COMPUTE_DTYPE`: convolutions compute in 16 bits; weights, files, boxes and losses stay float32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from kit import TWO_IMAGES, Batches, make_batch, tiny_config, tiny_model

from mrcnn import weights
from mrcnn.config import LOSS_NAMES, Config
from mrcnn.model import MaskRCNN

HALVES = ("mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize("value", ["bfloat16", "float16", None, 16])
def test_another_type_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"COMPUTE_DTYPE is .*'float32', 'mixed_bfloat16', 'mixed_float16'"):
        tiny_config(COMPUTE_DTYPE=value)


def test_the_default_is_float32(tmp_path):
    assert Config.COMPUTE_DTYPE == "float32"
    model = tiny_model("inference", tmp_path)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


@pytest.mark.parametrize("dtype", HALVES)
def test_only_convolutions_and_dense_layers_compute_in_16_bits(tmp_path, dtype):
    model = tiny_model("training", tmp_path, COMPUTE_DTYPE=dtype)
    half = dtype.removeprefix("mixed_")
    for name in ("conv1", "fpn_p2", "rpn_model", "mrcnn_class_conv1", "mrcnn_mask_conv1", "mrcnn_mask_deconv"):
        layer = model.get_layer(name)
        layer = layer.get_layer("rpn_conv_shared") if name == "rpn_model" else layer
        assert layer.compute_dtype == half, name
    for name in ("ROI", "anchors", "proposal_targets", "mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask"):
        assert model.get_layer(name).compute_dtype == "float32", name
    assert {str(x.dtype) for x in model.output.values()} == {"float32", "int32"}
    assert {str(w.dtype) for w in model.trainable_variables} == {"float32"}


def test_the_global_policy_is_unchanged(tmp_path):
    before = keras.config.dtype_policy()
    tiny_model("inference", tmp_path, COMPUTE_DTYPE="mixed_bfloat16")
    assert keras.config.dtype_policy() == before
    with pytest.raises(ZeroDivisionError):
        tiny_model("inference", tmp_path, COMPUTE_DTYPE="mixed_bfloat16", BACKBONE=lambda *a, **k: 1 / 0)
    assert keras.config.dtype_policy() == before


@pytest.mark.parametrize("dtype", HALVES)
def test_detections_are_the_same_within_rounding(tmp_path, dtype):
    """On the trained model of the repository and images that training never saw."""
    from samples.shapes import EVALUATION, ShapesConfig, shapes_dataset

    dataset = shapes_dataset(8, EVALUATION)
    images = [dataset.load_image(i) for i in dataset.image_ids]
    results = {}
    for compute in ("float32", dtype):
        config = type("HalfConfig", (ShapesConfig,), {"COMPUTE_DTYPE": compute, "DETECTION_MIN_CONFIDENCE": 0.9})()
        model = MaskRCNN("inference", config, str(tmp_path), weights="shapes")
        results[compute] = model.detect(images)
    found = 0
    for exact, half in zip(results["float32"], results[dtype], strict=True):
        assert half["scores"].dtype == np.float32
        for i in range(len(exact["scores"])):
            if exact["scores"][i] < 0.99:  # a doubtful one may fall below the limit
                continue
            distance = np.abs(half["rois"] - exact["rois"][i]).max(axis=1)
            same = np.argmin(distance)
            assert distance[same] <= 3 and half["class_ids"][same] == exact["class_ids"][i]
            assert abs(half["scores"][same] - exact["scores"][i]) < 0.05
            union = (half["masks"][..., same] | exact["masks"][..., i]).sum()
            assert (half["masks"][..., same] & exact["masks"][..., i]).sum() / union > 0.9
            found += 1
    assert found >= 8


@pytest.mark.parametrize("dtype", HALVES)
def test_training_lowers_finite_losses(tmp_path, dtype):
    model = tiny_model("training", tmp_path, COMPUTE_DTYPE=dtype, ADD_GT_TO_PROPOSALS=True, TRAIN_BN=None,
                       FILL_ROIS_WITH_NEGATIVES=True)  # fmt: skip
    batch = make_batch(model.config, TWO_IMAGES)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    if dtype == "mixed_float16":  # 16 bits reach 65504: Keras scales the loss, and skips steps that overflow
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    history = model.fit(Batches(batch), epochs=12, verbose=0).history
    for name in ("loss", *LOSS_NAMES):
        assert np.isfinite(history[name]).all(), name
    assert np.mean(history["loss"][-3:]) < 0.8 * history["loss"][0]


def test_huge_activations_keep_the_losses_finite(tmp_path):
    """The heads' last layers and the losses compute in float32: 1e4 in bfloat16 logits is no inf and no nan."""
    model = tiny_model("training", tmp_path, COMPUTE_DTYPE="mixed_bfloat16", ADD_GT_TO_PROPOSALS=True)
    for name in ("mrcnn_class_logits", "mrcnn_mask"):
        layer = model.get_layer(name)
        layer.set_weights([1e4 * w for w in layer.get_weights()])
    model.compile(learning_rate=0.0, run_eagerly=True)
    history = model.fit(Batches(make_batch(model.config, TWO_IMAGES)), verbose=0).history
    assert np.isfinite(list(history.values())).all()


def test_weight_files_hold_float32_and_load_with_either_policy(tmp_path):
    half = tiny_model("inference", tmp_path, seed=1, COMPUTE_DTYPE="mixed_bfloat16")
    exact = tiny_model("inference", tmp_path, seed=2)
    path = str(tmp_path / "weights.h5")
    half.save_weights(path)
    assert {array.dtype for arrays in weights.read_weights(path).values() for array in arrays} == {np.dtype("float32")}
    exact.load_weights(path)
    for ours, theirs in zip(half.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_setting_is_saved_with_the_model():
    config = tiny_config(COMPUTE_DTYPE="mixed_bfloat16", BACKBONE="resnet50")
    assert Config.from_json(config.to_json()).COMPUTE_DTYPE == "mixed_bfloat16"
