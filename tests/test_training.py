"""Training: trainable layers, the sum of the losses, the optimizer, gradients between the stages, `train`.

Empty cases: batches without objects, layers that match nothing, no epochs left.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from kit import (
    NO_OBJECTS,
    TWO_IMAGES,
    Batches,
    Squares,
    loss_gradients,
    make_batch,
    model_layer,
    numpy,
    run_eagerly,
    tiny_config,
    tiny_model,
    weights_of,
)

from mrcnn import training
from mrcnn.config import LOSS_NAMES
from mrcnn.data.generator import DataGenerator
from mrcnn.model import MaskRCNN
from mrcnn.nn.backbones import mobilenet_v2_graph, resnet_graph

HEADS = {"fpn", "rpn", "mrcnn"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Built once; every test sets what is trainable, the weights and the compiled state that it needs itself."""
    return tiny_model("training", tmp_path_factory.mktemp("logs"), ADD_GT_TO_PROPOSALS=True)


@pytest.fixture(scope="module")
def batch(model):
    return make_batch(model.config, TWO_IMAGES)


@pytest.fixture
def eagerly():
    """Saves tracing, which takes ten times as long as a step."""
    with run_eagerly():
        yield


def trainable_names(model) -> set:
    """Names of the layers that train, the ones inside `rpn_model` included."""
    names = set()
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            names |= trainable_names(layer)
        elif layer.trainable_weights:
            names.add(layer.name)
    return names


def fit(model, *batches, epochs=1, run_eagerly=True, **compiling):
    """Losses by name. Eagerly, see `eagerly`."""
    model.compile(run_eagerly=run_eagerly, **compiling)
    return model.fit(Batches(*batches), epochs=epochs, verbose=0).history


# ---- What is trainable -----------------------------------------------------------------------------------------------
RPN = {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"}
FPN = {f"fpn_c{i}p{i}" for i in (2, 3, 4, 5)} | {f"fpn_p{i}" for i in (2, 3, 4, 5)}
CLASS_HEAD = {"mrcnn_class_conv1", "mrcnn_class_conv2", "mrcnn_class_logits", "mrcnn_bbox_fc"}
MASK_HEAD = {f"mrcnn_mask_conv{i}" for i in (1, 2, 3, 4)} | {"mrcnn_mask_deconv", "mrcnn_mask"}
ALL_HEADS = RPN | FPN | CLASS_HEAD | MASK_HEAD


def stages(*numbers):
    return {f"res{i}a_branch2a" for i in numbers}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("heads", ALL_HEADS),
        ("3+", ALL_HEADS | stages(3, 4, 5)),
        ("4+", ALL_HEADS | stages(4, 5)),
        ("5+", ALL_HEADS | stages(5)),
        ("all", ALL_HEADS | stages(2, 3, 4, 5) | {"conv1"}),
        (r"(fpn\_.*)", FPN),
        ("(res1.*)|(res2.*)|(res3.*)", stages(2, 3)),
        ("rpn_class_raw", {"rpn_class_raw"}),  # inside rpn_model
        ("rpn_model", RPN),  # its own name: all of it
        ("mrcnn_mask", {"mrcnn_mask"}),  # the whole name must match
        ("bn.*", set()),  # BatchNorm is frozen, though it matches
        ("head", set()),
    ],
)
def test_layers_selected_by_name_or_regex(model, layers, expected):
    model.set_trainable(training.LAYER_REGEX.get(layers, layers), verbose=0)
    assert trainable_names(model) == expected


def test_a_selection_does_not_depend_on_the_previous_one(model):
    model.set_trainable("nothing", verbose=0)
    model.set_trainable(training.LAYER_REGEX["all"], verbose=0)
    assert trainable_names(model) == ALL_HEADS | stages(2, 3, 4, 5) | {"conv1"}


def test_the_selection_is_printed(model, capsys):
    model.set_trainable("rpn_.*|fpn_p2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Selecting layers to train"
    assert any(re.match(r"fpn_p2 +\(Conv2D\)", line) for line in lines)
    assert any(line.startswith("    rpn_conv_shared") for line in lines)
    model.set_trainable("fpn.*", verbose=0)
    assert not capsys.readouterr().out


def test_frozen_layers_and_freeze_are_inverse(model):
    model.set_trainable(training.LAYER_REGEX["4+"], verbose=0)
    before, frozen = trainable_names(model), training.frozen_layers(model)
    assert set(frozen) >= {"conv1", "bn5a_branch2a", "mrcnn_class_bn1"}
    model.set_trainable("nothing", verbose=0)
    training.freeze(model, frozen)
    assert trainable_names(model) == before


def stage_of(name):
    """Stage 1..5 of one of matterport's ResNet layers."""
    return int(re.match(r"(?:res|bn)(\d)", name).group(1)) if name[3:5] != "v1" and name != "conv1" else 1


@pytest.mark.parametrize("word", ["3+", "4+", "5+"])
def test_stages_of_a_resnet(word):
    image = keras.Input((64, 64, 3))
    network = keras.Model(image, resnet_graph(image, "resnet50", stage5=True, train_bn=None))
    training.set_trainable(network, training.LAYER_REGEX[word], None, verbose=0)
    for layer in network.layers:
        if layer.weights:
            first = 1 if layer.name in ("conv1", "bn_conv1") else stage_of(layer.name)
            assert bool(layer.trainable_weights) == (first >= int(word[0])), layer.name


@pytest.mark.parametrize(("word", "first"), [("3+", 3), ("4+", 6), ("5+", 13)])
def test_stages_of_mobilenet(word, first):
    image = keras.Input((64, 64, 3))
    network = keras.Model(image, mobilenet_v2_graph(image, 127.5, train_bn=None))
    training.set_trainable(network, training.LAYER_REGEX[word], None, verbose=0)
    blocks = {int(name.split("_")[1]) for name in trainable_names(network) if name.startswith("block_")}
    assert blocks == set(range(first, 17))
    assert {"Conv_1", "Conv_1_bn"} <= trainable_names(network)
    assert not {"Conv1", "bn_Conv1", "expanded_conv_depthwise"} & trainable_names(network)
    training.set_trainable(network, ".*", False, verbose=0)
    assert not any("bn" in name.lower() for name in trainable_names(network))


# ---- What fit changes ------------------------------------------------------------------------------------------------
def changed_by_fit(model, batch, **compiling):
    before = weights_of(model)
    fit(model, batch, **compiling)
    after = weights_of(model)
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize("layers", ["heads", "all"])
def test_issue_2780_frozen_batchnorm_does_not_change(model, batch, layers):
    model.set_trainable(training.LAYER_REGEX[layers], verbose=0)
    changed = changed_by_fit(model, batch)
    assert changed and not any("bn" in path or "batch_norm" in path for path in changed)


def test_batchnorm_is_frozen_without_set_trainable(tmp_path):
    model = tiny_model("training", tmp_path)
    changed = changed_by_fit(model, make_batch(model.config, TWO_IMAGES))
    assert changed and not any(path.rsplit("/", 1)[1] in ("gamma", "beta", "moving_mean") for path in changed)


def test_train_bn_none_trains_batchnorm(tmp_path):
    model = tiny_model("training", tmp_path, TRAIN_BN=None)
    batch = make_batch(model.config, TWO_IMAGES)
    model.set_trainable(training.LAYER_REGEX["all"], verbose=0)
    changed = changed_by_fit(model, batch)
    kinds = {path.rsplit("/", 1)[1] for path in changed if path.startswith("bn2a")}
    assert kinds == {"gamma", "beta", "moving_mean", "moving_variance"}
    model.set_trainable(training.LAYER_REGEX["heads"], verbose=0)  # the backbone's is frozen, the heads' trains
    changed = changed_by_fit(model, batch)
    assert not any(path.startswith("bn") for path in changed)
    assert "mrcnn_class_bn1" in {path.split("/")[0] for path in changed}


def test_only_what_is_selected_changes(model, batch):
    model.set_trainable("fpn_p2|rpn_bbox_pred", verbose=0)
    changed = {
        path.split("/")[0] if "rpn" not in path else path.split("/")[-2] for path in changed_by_fit(model, batch)
    }
    assert changed == {"fpn_p2", "rpn_bbox_pred"}


# ---- The sum of the losses -------------------------------------------------------------------------------------------
def test_loss_is_the_weighted_sum_plus_weight_decay(model, batch):
    model.set_trainable(training.LAYER_REGEX["all"], verbose=0)
    weights = dict(zip(LOSS_NAMES, (1.0, 2.0, 0.5, 3.0, 0.25)))
    model.config.LOSS_WEIGHTS = weights
    model.compile(learning_rate=0.0, run_eagerly=True)
    logs = model.evaluate(Batches(batch), return_dict=True, verbose=0)
    model.config.LOSS_WEIGHTS = dict.fromkeys(LOSS_NAMES, 1.0)
    kernels = [w for w in weights_of_trainable(model) if not w[0].endswith(("gamma", "beta"))]
    decay = model.config.WEIGHT_DECAY * sum(np.mean(np.square(value)) for _, value in kernels)
    assert set(logs) == {"loss", "weight_decay", *LOSS_NAMES} and logs["weight_decay"] == pytest.approx(decay, rel=1e-5)
    assert all(logs[name] > 0 for name in LOSS_NAMES)
    assert logs["loss"] == pytest.approx(sum(weights[name] * logs[name] for name in LOSS_NAMES) + decay, rel=1e-5)


def weights_of_trainable(model):
    return [(w.path, numpy(w)) for w in model.trainable_variables]


def test_a_loss_without_a_weight_has_weight_one(model):
    config = tiny_config(LOSS_WEIGHTS={"rpn_class_loss": 3.0})
    assert training.weighted_sum(dict(zip(LOSS_NAMES, range(1, 6))), config) == 3 + 2 + 3 + 4 + 5


@pytest.mark.parametrize(("per_size", "expected"), [(True, 0.1 * (4.0 + 9.0)), (False, 0.1 * (4.0 * 6 + 9.0 * 2))])
def test_hand_computed_weight_decay_skips_gamma_and_beta(per_size, expected):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    dense, norm = network.layers
    dense.set_weights([np.full((3, 2), 2.0), np.full(2, 3.0)])
    norm.set_weights([np.full(2, 100.0)] * 4)
    config = tiny_config(WEIGHT_DECAY=0.1, WEIGHT_DECAY_PER_SIZE=per_size)
    assert float(numpy(training.weight_decay(network.trainable_variables, config))) == pytest.approx(expected)
    assert float(numpy(ops.convert_to_tensor(training.weight_decay([], config)))) == 0


def test_a_loss_of_weight_zero_trains_nothing(model, batch):
    model.set_trainable("mrcnn_mask.*|rpn_.*", verbose=0)
    model.config.LOSS_WEIGHTS = {name: float(name == "mrcnn_mask_loss") for name in LOSS_NAMES}
    model.config.WEIGHT_DECAY = 0.0
    try:
        changed = changed_by_fit(model, batch)
    finally:
        model.config.LOSS_WEIGHTS, model.config.WEIGHT_DECAY = dict.fromkeys(LOSS_NAMES, 1.0), 0.0001
    assert {path.split("/")[0] for path in changed} == MASK_HEAD


def test_logs_are_means_over_each_epoch(model, batch):
    other = make_batch(model.config, TWO_IMAGES[::-1], seed=5)
    model.compile(learning_rate=0.0, run_eagerly=True)
    alone = [model.evaluate(Batches(b), return_dict=True, verbose=0) for b in (batch, other)]
    both = model.evaluate(Batches(batch, other), return_dict=True, verbose=0)
    for name in ("rpn_class_loss", "rpn_bbox_loss"):  # nothing random in these
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2, rel=1e-5)


def targets(**changes):
    """Arguments of `compute_losses` with one positive RoI, one negative, and one of padding."""
    rois = [[[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.6, 0.6], [0, 0, 0, 0]]]
    outputs = {
        "rpn_class_logits": np.zeros((1, 4, 2)), "rpn_bbox": np.zeros((1, 4, 4)), "output_rois": rois,
        "target_class_ids": [[1, 0, 0]], "target_bbox": np.zeros((1, 3, 4)), "target_mask": np.ones((1, 3, 2, 2)),
        "mrcnn_class_logits": [[[0, 0, 0], [0, 0, 0], [9, 0, 0]]], "mrcnn_bbox": np.zeros((1, 3, 3, 4)),
        "mrcnn_mask": np.full((1, 2, 2, 2, 3), 0.5),
    }  # fmt: skip
    meta = np.concatenate([np.zeros(12), np.ones(3)])[None]
    inputs = {
        "input_image_meta": meta,
        "input_rpn_match": np.zeros((1, 4, 1), "int32"),
        "input_rpn_bbox": np.zeros((1, 2, 4)),
    }
    as_tensor = {
        k: ops.convert_to_tensor(np.asarray(v, "int32" if "ids" in k else "float32")) for k, v in outputs.items()
    }
    return {k: ops.convert_to_tensor(np.asarray(v, "float32")) for k, v in inputs.items()}, as_tensor


@pytest.mark.parametrize(("padded", "expected"), [(False, np.log(3)), (True, np.log(3) * 2 / 3)])
def test_issue_972_whether_padded_rois_count_is_a_setting(padded, expected):
    found = training.compute_losses(*targets(), tiny_config(PADDED_ROIS_IN_CLASS_LOSS=padded))
    assert float(numpy(found["mrcnn_class_loss"])) == pytest.approx(expected, abs=1e-3)
    assert float(numpy(found["mrcnn_mask_loss"])) == pytest.approx(np.log(2), rel=1e-5)
    assert float(numpy(found["rpn_class_loss"])) == 0  # no anchor counts


# ---- Nothing to learn from -------------------------------------------------------------------------------------------
def test_a_batch_without_objects_trains_and_stays_finite(model):
    model.set_trainable(training.LAYER_REGEX["all"], verbose=0)
    history = fit(model, make_batch(model.config, NO_OBJECTS))
    assert history["rpn_bbox_loss"] == history["mrcnn_bbox_loss"] == history["mrcnn_mask_loss"] == [0.0]
    assert np.isfinite(history["loss"]).all() and history["rpn_class_loss"][0] > 0
    assert all(np.isfinite(w).all() for w in weights_of(model).values())


@pytest.mark.parametrize(
    ("images", "why"),
    [
        ((([], []), TWO_IMAGES[1]), "half of the batch is empty"),
        ((([1], [[10, 10, 11, 11]]), ([2], [[63, 63, 64, 64]])), "one pixel each"),
        ((([1], [[0, 0, 64, 64]]), ([2], [[0, 32, 64, 64]])), "objects up to the border"),
        ((([-1], [[0, 0, 64, 64]]), ([-1, 2], [[0, 0, 30, 30], [32, 32, 60, 60]])), "crowds"),
        ((([1, 1, 2, 2, 1], [[4, 4, 60, 60]] * 5),) * 2, "five objects in one place"),
        ((TWO_IMAGES[0],), "a batch of one"),
    ],
)
def test_odd_batches_train_and_stay_finite(model, images, why):
    model.set_trainable(training.LAYER_REGEX["heads"], verbose=0)
    history = fit(model, make_batch(model.config, images))
    assert np.isfinite(list(history.values())).all(), why
    assert all(np.isfinite(w).all() for w in weights_of(model).values()), why


# ---- The optimiser ---------------------------------------------------------------------------------------------------
def rate(model) -> float:
    return float(numpy(model.optimizer.learning_rate))


def test_compile_in_matterports_form(model):
    for arguments in ((0.01, 0.8), (np.float32(0.01), 0.8)):
        model.compile(*arguments)
        assert isinstance(model.optimizer, keras.optimizers.SGD)
        assert rate(model) == pytest.approx(0.01) and model.optimizer.momentum == 0.8
        assert model.optimizer.global_clipnorm == 5.0 and model.optimizer.clipnorm is None
    for keywords in ({"learning_rate": 0.02, "momentum": 0.7}, {"learning_rate": 0.02}):
        model.compile(**keywords)
        assert rate(model) == pytest.approx(0.02) and model.optimizer.momentum == keywords.get("momentum", 0.9)
    model.compile(1)
    assert rate(model) == 1.0


def test_compile_in_keras_form(model):
    model.compile("adam")
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    model.compile(optimizer=keras.optimizers.AdamW(0.003), run_eagerly=False)
    assert isinstance(model.optimizer, keras.optimizers.AdamW) and rate(model) == pytest.approx(0.003)
    model.compile()
    assert isinstance(model.optimizer, keras.optimizers.SGD) and rate(model) == pytest.approx(0.001)


def test_a_learning_rate_schedule(model, batch):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    model.set_trainable("fpn_p5", verbose=0)
    for compiling in ({"optimizer": schedule}, {"learning_rate": schedule}):
        model.compile(**compiling, run_eagerly=True)
        assert rate(model) == 0.5
        model.fit(Batches(batch, batch), verbose=0)
        assert rate(model) == 0.25


def test_gradients_are_clipped_by_their_global_norm(model, batch):
    model.set_trainable(training.LAYER_REGEX["heads"], verbose=0)
    steps = {}
    for clip in (5.0, 0.01, None):
        model.config.GRADIENT_CLIP_NORM = clip
        before = weights_of(model)
        fit(model, batch, learning_rate=1e-3, momentum=0.0)
        after = weights_of(model)
        steps[clip] = np.sqrt(sum(np.sum((after[path] - before[path]) ** 2) for path in before))
        for variable in model.weights:
            variable.assign(before[variable.path])
    model.config.GRADIENT_CLIP_NORM = 5.0
    assert steps[None] > 5e-3  # the gradient's norm is above both bounds
    assert steps[5.0] == pytest.approx(5e-3, rel=1e-3) and steps[0.01] == pytest.approx(1e-5, rel=1e-2)


def test_a_clipping_norm_of_zero_disables_clipping():
    assert training.default_optimizer(tiny_config(GRADIENT_CLIP_NORM=0)).global_clipnorm is None


# ---- Between the stages ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def with_gradient(tmp_path_factory):
    return tiny_model("training", tmp_path_factory.mktemp("logs"), STOP_PROPOSAL_GRADIENT=False,
                      PRE_NMS_LIMIT=1100, POST_NMS_ROIS_TRAINING=600, TRAIN_ROIS_PER_IMAGE=64)  # fmt: skip


@pytest.fixture(scope="module")
def without_gradient(tmp_path_factory):
    return tiny_model("training", tmp_path_factory.mktemp("logs"), STOP_PROPOSAL_GRADIENT=True,
                      PRE_NMS_LIMIT=1100, POST_NMS_ROIS_TRAINING=600, TRAIN_ROIS_PER_IMAGE=64)  # fmt: skip


def proposals_are_anchors(model):
    """With so many anchors some are positive, whatever the weights; the RPN's deltas are made small but not 0."""
    kernel = model_layer(model, "rpn_bbox_pred").kernel
    kernel.assign(1e-5 * np.random.default_rng(0).normal(size=kernel.shape))
    return make_batch(model.config, TWO_IMAGES)


SECOND_STAGE = ("mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")


def test_stage_2_box_losses_do_not_reach_stage_1(without_gradient):
    batch = proposals_are_anchors(without_gradient)
    rpn, head = loss_gradients(without_gradient, batch, SECOND_STAGE, ["rpn_bbox_pred", "mrcnn_bbox_fc"])
    assert not rpn.any() and head.any()


@pytest.mark.parametrize(("name", "reaches"), [(n, n == "mrcnn_bbox_loss") for n in SECOND_STAGE])
def test_proposal_gradients_let_the_box_loss_reach_the_rpn(with_gradient, name, reaches):
    """As measured on the original."""
    batch = proposals_are_anchors(with_gradient)
    rpn, scores, p2 = loss_gradients(with_gradient, batch, [name], ["rpn_bbox_pred", "rpn_class_raw", "fpn_p2"])
    assert rpn.any() == reaches and not scores.any() and p2.any()
    assert np.isfinite(rpn).all()


# ---- Settings of training, end to end --------------------------------------------------------------------------------
SETTINGS = [
    {"ROI_ALIGN": "aligned"},
    {"USE_MINI_MASK": False},
    {"FILL_ROIS_WITH_NEGATIVES": True, "ADD_GT_TO_PROPOSALS": True},
    {"TRAIN_BN": True},
    {"RPN_ANCHOR_STRIDE": 2, "RPN_ANCHOR_RATIOS": [1]},
    {"IMAGE_CHANNEL_COUNT": 1, "MEAN_PIXEL": [100]},
    {"TRAIN_ROIS_PER_IMAGE": 1, "POST_NMS_ROIS_TRAINING": 1, "MAX_GT_INSTANCES": 2},
    {"NUM_CLASSES": 3, "WEIGHT_DECAY_PER_SIZE": False, "LOSS_WEIGHTS": {}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_other_settings_train_and_detect(settings, tmp_path):
    model = tiny_model("training", tmp_path, **settings)
    history = fit(model, make_batch(model.config, TWO_IMAGES))
    assert np.isfinite(list(history.values())).all()
    result = model.detect([np.full((50, 60, 3), 90, np.uint8)])[0]
    assert result["masks"].shape[:2] == (50, 60) and np.isfinite(result["scores"]).all()


def test_fill_and_ground_truth_settings_change_the_rois(tmp_path):
    settings = {"ADD_GT_TO_PROPOSALS": True, "FILL_ROIS_WITH_NEGATIVES": True, "POST_NMS_ROIS_TRAINING": 60}
    model = tiny_model("training", tmp_path, **settings)
    batch = make_batch(model.config, TWO_IMAGES)
    outputs = model.predict_on_batch([batch[x.name] for x in model.inputs])
    drawn, class_ids = np.any(outputs["output_rois"] != 0, axis=2), outputs["target_class_ids"]
    assert drawn.all(axis=1).all()  # 16 of each image
    for i, (true_ids, boxes) in enumerate(TWO_IMAGES):
        normalized = (np.array(boxes) - [0, 0, 1, 1]) / 63
        for class_id, box in zip(true_ids, normalized):
            same = np.all(np.abs(outputs["output_rois"][i] - box) < 1e-5, axis=1)
            assert class_ids[i][same].tolist() == [class_id]


def test_external_proposals_are_used(tmp_path):
    model = tiny_model("training", tmp_path, USE_RPN_ROIS=False)
    assert [x.name for x in model.inputs][-1] == "input_roi"
    batch = make_batch(model.config, TWO_IMAGES)
    rois = np.zeros((2, 6, 4), np.float32)
    rois[0, :3] = [[8, 8, 40, 40], [20, 30, 60, 62], [0, 40, 10, 60]]  # two true boxes and nothing
    rois[1, :1] = [[4, 10, 30, 48]]
    batch["input_roi"] = rois
    outputs = model.predict_on_batch([batch[x.name] for x in model.inputs])
    assert sorted(outputs["target_class_ids"][0]) == [0] * 14 + [1, 2]
    assert sorted(outputs["target_class_ids"][1]) == [0] * 15 + [2]
    assert np.any(outputs["output_rois"] != 0, axis=2).sum(axis=1).tolist() == [3, 1]  # padding is not drawn
    history = fit(model, batch)
    assert np.isfinite(list(history.values())).all() and history["mrcnn_bbox_loss"][0] > 0


def test_inputs_may_be_a_list_in_matterports_order(model, batch):
    names = ["input_image", "input_image_meta", "input_rpn_match", "input_rpn_bbox", "input_gt_class_ids",
             "input_gt_boxes", "input_gt_masks"]  # fmt: skip
    assert [x.name for x in model.inputs] == names
    model.compile(learning_rate=0.0, run_eagerly=True)
    as_list = model.evaluate([batch[name] for name in names], batch_size=2, return_dict=True, verbose=0)
    as_dict = model.evaluate(Batches(batch), return_dict=True, verbose=0)
    assert as_list["rpn_class_loss"] == pytest.approx(as_dict["rpn_class_loss"], rel=1e-5)


def test_half_precision_stays_finite(tmp_path):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_model("training", tmp_path, ADD_GT_TO_PROPOSALS=True)
        history = fit(model, make_batch(model.config, TWO_IMAGES))
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    assert model.get_layer("mrcnn_mask_conv1").layer.compute_dtype == "bfloat16"
    assert {str(x.dtype) for x in model.output.values()} <= {"float32", "int32"}
    assert np.isfinite(list(history.values())).all()


def test_training_overfits_one_batch(tmp_path):
    model = tiny_model("training", tmp_path, ADD_GT_TO_PROPOSALS=True, FILL_ROIS_WITH_NEGATIVES=True, TRAIN_BN=None)
    batch = make_batch(model.config, TWO_IMAGES)
    history = fit(model, batch, epochs=40, run_eagerly=False, optimizer=keras.optimizers.Adam(1e-3))
    for name in LOSS_NAMES:
        assert np.mean(history[name][-5:]) < 0.6 * history[name][0], name


# ---- The same again --------------------------------------------------------------------------------------------------
def test_fits_with_one_seed_are_equal_and_trace_once(tmp_path, monkeypatch):
    histories, traced = [], []
    compute_loss = MaskRCNN.compute_loss
    monkeypatch.setattr(MaskRCNN, "compute_loss", lambda *args, **kw: traced.append(1) or compute_loss(*args, **kw))
    for _ in range(2):
        model = tiny_model("training", tmp_path, seed=3)
        batches = [make_batch(model.config, TWO_IMAGES, seed=seed) for seed in (0, 1)]
        histories.append(fit(model, *batches, epochs=2, run_eagerly=False))
    assert histories[0] == histories[1]
    assert keras.backend.backend() != "tensorflow" or len(traced) == 2  # twice each: variables created in a trace


def test_fit_keeps_the_order_of_the_generator(tmp_path, eagerly):
    """Keras would shuffle the batches of an epoch with random numbers that our seed does not control."""
    taken = []

    class Recording(DataGenerator):
        def __getitem__(self, index):
            taken.append(index)
            return super().__getitem__(index)

    model = tiny_model("training", tmp_path)
    model.compile(0.0)
    model.fit(Recording(Squares(3), model.config, batch_size=1, steps=6), epochs=2, verbose=0)
    assert taken[-6:] == list(range(6))


def test_a_different_seed_samples_different_rois(tmp_path, eagerly):
    rois = []
    for seed in (1, 1, 2):
        model = tiny_model("training", tmp_path, SEED=seed, TRAIN_ROIS_PER_IMAGE=4)
        batch = make_batch(model.config, TWO_IMAGES)
        rois.append(model.predict_on_batch([batch[x.name] for x in model.inputs])["output_rois"])
    np.testing.assert_array_equal(rois[0], rois[1])
    assert not np.array_equal(rois[0], rois[2])


# ---- train() ---------------------------------------------------------------------------------------------------------
def train(model, epochs, layers="fpn_p2", val=None, **options):
    return model.train(Squares(), val, learning_rate=0.001, epochs=epochs, layers=layers, **options)


def test_train_writes_a_run_folder_and_returns_the_history(tmp_path, eagerly):
    model = tiny_model("training", tmp_path)
    seen = []
    recorder = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, dict(logs))))
    history = train(model, 2, val=Squares(2), custom_callbacks=[recorder])
    assert set(history.history) == {
        f"{of}{name}" for of in ("", "val_") for name in ("loss", "weight_decay", *LOSS_NAMES)
    }
    assert all(len(values) == 2 and np.isfinite(values).all() for values in history.history.values())
    assert model.keras_model.history.history is history.history and model.epoch == 2
    folder = Path(model.log_dir)
    assert folder.parent == tmp_path and re.fullmatch(r"tiny\d{8}T\d{4}", folder.name)
    assert sorted(path.name for path in folder.glob("mask*.h5")) == ["mask_rcnn_tiny_0001.h5", "mask_rcnn_tiny_0002.h5"]
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"] and float(rows[1]["loss"]) == history.history["loss"][1]
    assert [epoch for epoch, _ in seen] == [0, 1] and "val_loss" in seen[0][1]
    if keras.backend.backend() == "tensorflow":
        assert list(folder.glob("train/events*")) and list(folder.glob("validation/events*"))

    # `epochs` is the total: the same number again does nothing, one more does one epoch, in the same folder.
    before = weights_of(model)
    assert train(model, 2).history == {}
    after = weights_of(model)
    assert all(np.array_equal(before[path], after[path]) for path in before) and model.epoch == 2
    assert train(model, 3, layers="all").epoch == [2] and model.epoch == 3
    assert (folder / "mask_rcnn_tiny_0003.h5").is_file()

    # Another model continues from the last checkpoint.
    other = tiny_model("training", tmp_path, seed=9)
    other.load_weights(other.find_last(), by_name=True)
    assert other.epoch == 3 and Path(other.log_dir) == folder
    ours, theirs = weights_of(other), weights_of(model)
    assert all(np.array_equal(a, b) for a, b in zip(ours.values(), theirs.values()))
    assert train(other, 4).epoch == [3]
    assert (folder / "mask_rcnn_tiny_0004.h5").is_file()


class StopAfterOne(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_training_stopped_by_a_callback_can_continue(tmp_path, eagerly):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    assert train(model, 5, custom_callbacks=[StopAfterOne()]).epoch == [0]
    assert model.epoch == 1


def test_train_with_a_schedule_and_without_validation(tmp_path, eagerly):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1, VALIDATION_STEPS=0)
    history = train(model, 1, val=Squares(1), optimizer=keras.optimizers.Adam(1e-4))
    assert isinstance(model.optimizer, keras.optimizers.Adam) and "val_loss" not in history.history
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)
    model.train(Squares(), None, learning_rate=schedule, epochs=2, layers="all")
    assert 0 < rate(model) < 0.01


def test_layers_that_match_nothing_are_refused(tmp_path):
    model = tiny_model("training", tmp_path)
    with pytest.raises(ValueError, match=r"layers='head' .*heads, 3\+"):
        train(model, 1, layers="head")
    assert not list(tmp_path.glob("*/*.h5"))


def test_a_model_for_inference_does_not_train(tmp_path):
    model = tiny_model("inference", tmp_path)
    with pytest.raises(ValueError, match='mode="training"'):
        train(model, 1)
    model.compile()
    with pytest.raises(ValueError, match='mode="training"'):
        model.fit(Batches(make_batch(model.config, TWO_IMAGES)), verbose=0)


def test_a_setting_made_invalid_later_is_refused_before_training(tmp_path):
    model = tiny_model("training", tmp_path)
    model.config.STEPS_PER_EPOCH = 0
    with pytest.raises(ValueError, match="STEPS_PER_EPOCH is 0"):
        train(model, 1)


def test_an_unchanged_model_has_a_constant_validation_loss(tmp_path, eagerly):
    """Other images and other RoIs were validated on in each epoch: 0.586, 1.200 and 0.316 at rate 0."""
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1, VALIDATION_STEPS=1, POST_NMS_ROIS_TRAINING=60)
    history = model.train(Squares(6), Squares(5), learning_rate=0.0, epochs=3, layers="all").history
    assert all(len(set(history[f"val_{name}"])) == 1 for name in ("loss", "weight_decay", *LOSS_NAMES))
    assert len(set(history["mrcnn_class_loss"])) == 3  # training continues with other images and RoIs
    generator = DataGenerator(Squares(5), model.config, steps=1)
    assert model.evaluate(generator, verbose=0) == model.evaluate(generator, verbose=0)
    assert generator.epoch == 0 and generator.repeated().repeated().repeats and not generator.repeats


@pytest.mark.parametrize(("weights", "setting"), [("class_weight", "CLASS_WEIGHTS"), ("sample_weight", "LOSS_WEIGHTS")])
def test_weights_that_keras_would_ignore_are_refused(model, batch, weights, setting):
    given = {weights: {1: 2.0} if weights == "class_weight" else np.ones(2)}
    model.compile(run_eagerly=True)
    with pytest.raises(ValueError, match=f"{weights} has no effect.*{setting}"):
        model.fit(Batches(batch), verbose=0, **given)
    if weights == "sample_weight":
        with pytest.raises(ValueError, match="sample_weight has no effect"):
            model.train_on_batch(batch, **given)


def test_finished_training_logs_one_line(tmp_path, eagerly, caplog):
    model = tiny_model("training", tmp_path)
    model.epoch = 5
    assert train(model, 5).history == {}
    (record,) = caplog.records
    assert "epochs=5 is the total, and this model has done 5. Pass epochs=6" in record.message


@pytest.mark.parametrize("restart", [False, True])
def test_a_schedule_continues_in_the_next_train(tmp_path, eagerly, restart):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=2)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [2**-7, 2**-8, 2**-9])
    rates = []
    for epochs in (1, 2):
        model.train(Squares(), None, schedule, epochs, "fpn_p2", restart_schedule=restart and epochs == 2)
        rates.append(rate(model))
    assert rates == [2**-8, 2**-8 if restart else 2**-9]
    other = tiny_model("training", tmp_path)
    other.load_weights(model.find_last())
    other.train(Squares(), None, schedule, 3, "fpn_p2", optimizer=keras.optimizers.Adam(schedule))
    assert int(numpy(other.optimizer.iterations)) == (4 if restart else 6)  # it counts from the restart
