"""`MaskRCNN` as a Keras model: photos and their objects in, named arrays out."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import ops
from kit import Squares, model_layer, numpy, photo, spread_scores, tiny_backbone, tiny_model, weights_of

from mrcnn.data.collate import make_batch
from mrcnn.data.generator import DataGenerator
from mrcnn.data.image_batches import ImageBatches
from mrcnn.data.sample_stream import SampleStream
from mrcnn.evaluation import MeanAveragePrecision
from mrcnn.model import MaskRCNN
from mrcnn.ops.masks import minimize_mask, paste_masks
from mrcnn.ops.mini_mask_graph import minimize_mask_graph

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
NAMES = ("boxes", "classes", "scores", "masks", "valid")
LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
# No anchor is left out at random, and there are positive RoIs.
SETTINGS = {"RPN_TRAIN_ANCHORS_PER_IMAGE": 2046, "ADD_GT_TO_PROPOSALS": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = tiny_model("training", tmp_path_factory.mktemp("native"), **SETTINGS)
    spread_scores(model)
    # Eagerly, because tracing takes longer than all steps here; the guide and test_training run compiled steps.
    model.compile(keras.optimizers.SGD(0.0), metrics=[MeanAveragePrecision()], run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def batches(model):
    return ImageBatches(Squares(3), model.config)


def assert_same_detections(named, found, score_error=0):
    """The rows of `predict` are those of `detect`."""
    for i, result in enumerate(found):
        rows = named["valid"][i]
        count = len(result["class_ids"])
        assert rows.tolist() == [True] * count + [False] * (len(rows) - count)
        np.testing.assert_array_equal(named["boxes"][i][rows], result["rois"])
        np.testing.assert_array_equal(named["classes"][i][rows], result["class_ids"])
        np.testing.assert_allclose(named["scores"][i][rows], result["scores"], rtol=0, atol=score_error)
        boxes = named["boxes"][i][rows].astype(int)
        np.testing.assert_array_equal(
            paste_masks(named["masks"][i][rows], boxes, result["masks"].shape), result["masks"]
        )
        for name in NAMES:
            assert not named[name][i][~rows].any(), name


# ---- Photos in, arrays out -------------------------------------------------------------------------------------------
def test_predict_gives_what_detect_finds_on_photos_of_any_size(model):
    photos = [photo(), photo(40, 90, seed=1), photo(130, 64, seed=2)]
    found = model.detect(photos)
    assert sum(len(result["class_ids"]) for result in found) > 3
    named = model.predict(photos, verbose=0)
    assert {name: array.shape for name, array in named.items()} == {
        "boxes": (3, 6, 4), "classes": (3, 6), "scores": (3, 6), "masks": (3, 6, 8, 8), "valid": (3, 6),
    }  # fmt: skip
    assert_same_detections(named, found)


def test_a_dataset_and_an_array_give_the_same(model, batches):
    images = np.concatenate([batches[0][0], batches[1][0]])
    found = model.detect(list(images))
    for data in (images, batches, iter([images[:2], images[2:]])):
        assert_same_detections(model.predict(data, verbose=0), found)
    assert len(model.predict(images, batch_size=1, steps=2, verbose=0)["valid"]) == 2


def test_a_symbolic_call_gives_the_same_as_a_call_with_values(model, batches):
    images, _ = batches[0]
    expected = model(images)
    assert all(ops.is_tensor(array) for array in expected.values())
    inputs = keras.Input((64, 64, 3), dtype="uint8")
    graph = keras.Model(inputs, model(inputs))
    found = graph(images)
    assert numpy(expected["valid"]).any()
    for name in NAMES:
        np.testing.assert_allclose(numpy(found[name]), numpy(expected[name]), atol=1e-5, err_msg=name)
        assert tuple(graph.output[name].shape[1:]) == tuple(found[name].shape[1:])


def test_matterports_inputs_are_accepted_also_when_a_subclass_has_a_build_of_its_own(model, tmp_path):
    """With `build` overridden, `predict(photos)` failed with an AttributeError."""

    class Own(MaskRCNN):
        def build(self, mode, config):
            return super().build(mode, config)

    inference = Own("inference", model.config, str(tmp_path))
    model.save_weights(tmp_path / "weights.h5")
    inference.load_weights(tmp_path / "weights.h5", by_name=True)
    molded, metas, _ = inference.mold_inputs([photo()])
    anchors = inference.get_anchors(molded.shape[1:])[None]
    detections = inference.predict([molded, metas, anchors], verbose=0)[0]
    np.testing.assert_allclose(numpy(inference([molded, metas])[0]), detections, atol=1e-6)
    found = inference.detect([photo()])
    assert len(found[0].scores) > 0
    # `detect` has BatchNorm folded into the convolutions; `predict` calls what `build` returned.
    assert_same_detections(inference.predict([photo()], verbose=0), found, score_error=1e-6)
    with pytest.raises(ValueError, match='This model is for "inference"'):
        inference.compile()
        inference.fit(*ImageBatches(Squares(2), inference.config)[0], verbose=0)
    with pytest.raises(ValueError, match='Build it with mode="inference"'):
        Own("training", model.config, str(tmp_path)).predict([photo()], verbose=0)


# ---- Training --------------------------------------------------------------------------------------------------------
def test_losses_of_the_rpn_are_those_of_the_data_generator(model, batches):
    """The targets that the graph chooses are those that the generator computes."""
    stream = SampleStream(batches.dataset, model.config, shuffle=False, seed=0)
    batch = make_batch([stream.sample(i) for i in range(2)], stream)
    expected = model.test_on_batch(batch, return_dict=True)
    model.reset_metrics()
    found = model.test_on_batch(*batches[0], return_dict=True)
    model.reset_metrics()
    for name in LOSSES[:2]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
    assert all(np.isfinite(found[name]) and found[name] > 0 for name in LOSSES), found


def test_arrays_and_datasets_train(model, batches):
    images, truth = batches[0]
    before = weights_of(model)
    model.optimizer.learning_rate.assign(0.01)
    try:
        history = model.fit(images, truth, epochs=1, verbose=0).history
        again = model.fit(batches, epochs=1, verbose=0, validation_data=batches).history
    finally:
        model.optimizer.learning_rate.assign(0.0)
    assert set(LOSSES) < set(history) and {"val_mask_ap", "val_box_ap", "val_mask_ap50", "val_loss"} < set(again)
    assert np.isfinite([*history["loss"], *again["loss"]]).all()
    after = weights_of(model)
    assert any(np.abs(after[name] - before[name]).max() > 0 for name in before)
    for name, weight in weights_of(model).items():
        assert np.isfinite(weight).all(), name


class InThisProcess:
    """Stands in for the worker processes of a `DataGenerator`."""

    def __init__(self, batch):
        self.ready, self.checks = batch, 0

    def batch(self, *_):
        return self.ready

    def check(self):
        self.checks += 1


def test_fit_watches_worker_processes_and_keeps_the_users_callbacks(model):
    """fit gave Keras `callbacks` twice, so that it and `train(use_multiprocessing=True)` failed at once."""
    generator = DataGenerator(Squares(3), model.config, steps=1)
    generator.processes = InThisProcess(generator[0][0])
    epochs = []
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    model.fit(generator, verbose=0, callbacks=[seen])
    assert generator.processes.checks == 1 and epochs == [0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data is TensorFlow's")
def test_tf_data_trains_and_predicts(model, batches):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(batches[0]).batch(2)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"][0])
    assert_same_detections(model.predict(data, verbose=0), model.detect(list(batches[0][0])))


def test_padding_labels_do_not_change_losses(model, batches):
    images, truth = batches[0]
    other = {name: array.copy() for name, array in truth.items()}
    other["labels"][other["labels"] == 0] = -1
    other["boxes"][other["labels"] == -1] = (0, 0, 64, 64)
    for name in LOSSES[:2]:
        results = []
        for objects in (truth, other):
            model.reset_metrics()
            results.append(model.test_on_batch(images, objects, return_dict=True)[name])
        assert results[0] == results[1]


def test_a_crowd_is_not_background(model, batches):
    images, truth = batches[0]
    layer = model.training_inputs
    crowded = dict(truth, images=images, is_crowd=truth["labels"] == 2)
    assert (truth["labels"] == 2).any()
    class_ids = numpy(layer(crowded)["input_gt_class_ids"])
    np.testing.assert_array_equal(class_ids, np.where(truth["labels"] == 2, -2, truth["labels"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 128, 64, 3))}, "images are 128 x 64 pixels, but this network sees 64 x 64"),
        ({"masks": np.zeros((2, 32, 32, 5))}, r"masks have the shape \(2, 32, 32, 5\); expected \[batch, 64, 64, 5\]"),
        ({"masks": np.zeros((2, 64, 64, 4))}, "as many objects as boxes"),
    ],
)
def test_images_and_masks_of_another_size_are_refused(model, batches, change, message):
    images, truth = batches[0]
    with pytest.raises(ValueError, match=message):
        model.training_inputs({"images": images, **truth, **change})


def test_graph_mini_masks_equal_numpy():
    rng = np.random.default_rng(0)
    corners, sides = rng.integers(0, 30, (12, 2)), rng.integers(1, 34, (12, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    masks = np.zeros((64, 64, 12), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = rng.random((y2 - y1, x2 - x1)) < (0.7 if i % 3 else 1.1)
    expected = minimize_mask(boxes, masks, (12, 16))
    found = numpy(minimize_mask_graph(boxes[None].astype("float32"), masks[None], (12, 16)))[0]
    assert np.mean(found != expected) < 1e-3
    np.testing.assert_array_equal(found[..., ::3], expected[..., ::3])  # full boxes


# ---- AP --------------------------------------------------------------------------------------------------------------
def test_ap_equals_evaluate_dataset(model, batches):
    report = model.evaluate_dataset(batches.dataset, progress=False)
    logs = model.evaluate(batches, return_dict=True, verbose=0)
    assert {name: logs[name] for name in ("box_ap", "mask_ap", "mask_ap50")} == {
        name: report.numbers[name] for name in ("box_ap", "mask_ap", "mask_ap50")
    }
    values = model.evaluate(batches, verbose=0)
    assert values[-3:] == [logs[name] for name in ("box_ap", "mask_ap", "mask_ap50")]


def test_ap_needs_data_that_can_be_read_twice(model, batches):
    with pytest.raises(ValueError, match="read only once"):
        model.evaluate((batch for batch in [batches[0]]), steps=1, verbose=0)


def test_ap_of_the_ground_truth_is_one_and_mini_masks_are_refused(batches):
    _, truth = batches[0]
    shape = truth["labels"].shape
    perfect = {
        "boxes": truth["boxes"], "classes": truth["labels"], "scores": np.ones(shape), "valid": truth["labels"] > 0,
        "masks": np.ones((*shape, 28, 28)),
    }  # fmt: skip
    metric = MeanAveragePrecision()
    metric.update_state(truth, perfect)
    assert metric.result() == {"box_ap": 1.0, "mask_ap": 1.0, "mask_ap50": 1.0}
    metric.reset_state()
    assert metric.result()["mask_ap"] == -1
    with pytest.raises(ValueError, match="outside of the true masks of 12 x 12 pixels"):
        metric.update_state(dict(truth, masks=truth["masks"][:, :12, :12]), perfect)
    assert MeanAveragePrecision.from_config(MeanAveragePrecision(0.3).get_config()).min_score == 0.3


# ---- The guide -------------------------------------------------------------------------------------------------------
def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRCNN_GUIDE_IMAGES", "4")
    monkeypatch.setenv("MRCNN_GUIDE_EPOCHS", "1")
    names = runpy.run_path(str(GUIDES / "instance_segmentation.py"))
    assert np.isfinite(names["history"].history["loss"]).all() and 0 <= names["after"]["mask_ap"] <= 1
    picture, committed = (cv2.imread(str(folder / "instance_segmentation.png")) for folder in (tmp_path, GUIDES))
    assert committed.shape[1] == 2 * picture.shape[1] and committed.std() > 10  # four images, here two


# ---- Backbones, presets, precision -----------------------------------------------------------------------------------
def pyramid_backbone(levels=range(2, 6)):
    """A Keras model as KerasHub's backbones."""
    image = keras.Input((None, None, 3), name="photo")
    stages = tiny_backbone(image, None)
    backbone = keras.Model(image, stages[-1], name="hub")
    backbone.pyramid_outputs = {f"P{level}": stages[level - 1] for level in levels}
    return backbone


def test_a_backbone_with_pyramid_outputs_trains_in_bfloat16(tmp_path, batches):
    backbone = pyramid_backbone()
    model = tiny_model("training", tmp_path, BACKBONE=backbone, COMPUTE_DTYPE="mixed_bfloat16")
    layer = backbone.get_layer("res4a_branch2a")
    assert model.get_layer("res4a_branch2a") is layer
    assert "hub" not in [layer.name for layer in model.layers]
    assert not backbone.get_layer("bn3a_branch2a").trainable  # TRAIN_BN is False
    before = numpy(layer.kernel)
    model.compile(run_eagerly=True)
    history = model.fit(*batches[0], verbose=0).history
    assert np.isfinite([history[name][0] for name in LOSSES]).all()
    assert not np.array_equal(numpy(layer.kernel), before)
    with pytest.raises(ValueError, match="has the pyramid outputs P3, P4, P5; expected P2, P3, P4, P5"):
        tiny_model("inference", tmp_path, BACKBONE=pyramid_backbone(range(3, 6)))


def test_a_preset_folder_gives_the_same_model(tmp_path):
    model = tiny_model("inference", tmp_path, BACKBONE="small_resnet")
    model.class_names = ["BG", "square", "disc"]
    spread_scores(model)
    model.save_to_preset(tmp_path / "mine")
    same = MaskRCNN.from_preset(tmp_path / "mine", DETECTION_MIN_CONFIDENCE=0.1)
    assert same.class_names == model.class_names and same.config.DETECTION_MIN_CONFIDENCE == 0.1
    assert same.config.BACKBONE == "small_resnet" and same.mode == "inference"
    for weight, expected in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    other = MaskRCNN.from_preset(str(tmp_path / "mine"), classes=["cat"])
    assert other.class_names == ["BG", "cat"]
    np.testing.assert_array_equal(
        numpy(model_layer(other, "fpn_p2").kernel), numpy(model_layer(model, "fpn_p2").kernel)
    )
    (tmp_path / "mine" / "model.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match="mine has no model.weights.h5"):
        MaskRCNN.from_preset(tmp_path / "mine")
    with pytest.raises(ValueError, match="BACKBONE"):
        tiny_model("inference", tmp_path).save_to_preset(tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- Signatures ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("compile", {"learning_rate", "momentum"}),
        ("fit", {"of_keras_2"}),
        ("evaluate", set()),
        ("predict", set()),
        ("train_on_batch", set()),
        ("test_on_batch", set()),
        ("predict_on_batch", set()),
        ("save", set()),
        ("save_weights", {"layout"}),
    ],
)
def test_methods_have_the_arguments_of_keras(name, other):
    """`*args, **kwargs` hid them, and arguments given by position, such as the steps of `evaluate`, were not seen."""
    ours, keras_s = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (MaskRCNN, keras.Model))
    assert [parameter for parameter in ours if parameter not in other] == keras_s
