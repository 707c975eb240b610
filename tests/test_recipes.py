"""Recipes: their settings, the learning rate over a training, and averaged weights, with values computed by hand."""

from __future__ import annotations

import logging
from pathlib import Path

import keras
import numpy as np
import pytest
from kit import Squares, numpy, run_eagerly, tiny_config, tiny_model
from resume_run import StopAfter, everything, train

from mrcnn.config import Config
from mrcnn.recipes import RECIPES, SMALL_DATA
from mrcnn.training.averaging import MeanOverEpochs
from mrcnn.training.optimizer import decays_weights, default_optimizer
from mrcnn.training.schedule import scheduled_rate
from mrcnn.training.unused_settings import unused_optimizer_settings

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="eager training; checked on JAX and torch by hand: resume_run.py"
)
RECIPE_AND_ADAMW = {"RECIPE": "small-data", "OPTIMIZER": "adamw", "WEIGHT_DECAY": 0.05}


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    with run_eagerly():
        yield


# ---- Settings --------------------------------------------------------------------------------------------------------
def test_a_recipe_gives_its_values_to_settings_that_are_not_set():
    config = tiny_config(RECIPE="small-data", EMA_MOMENTUM=0, FLIP_PROBABILITY=0.2)
    expected = {**SMALL_DATA, "EMA_MOMENTUM": 0, "FLIP_PROBABILITY": 0.2}
    assert {name: getattr(config, name) for name in expected} == expected
    assert Config(RECIPE="small-data", SCALE_JITTER=(0.1, 2.0)).SCALE_JITTER == (0.1, 2.0)


def test_matterports_recipe_is_the_default_and_takes_back_another_one():
    config = Config()
    assert config.RECIPE == "matterport" and RECIPES["matterport"] == {}
    before = config.to_json()
    config.RECIPE = "small-data"
    config.COLOR_JITTER = 0.1
    config.RECIPE = "matterport"
    assert config.to_json() == {**before, "COLOR_JITTER": 0.1}


@pytest.mark.parametrize("convention", ["matterport", "torchvision"])
def test_a_recipe_and_a_convention_stand_together_in_either_order(convention):
    first, second = Config(), Config()
    first.RECIPE, first.CONVENTION = "small-data", convention
    second.CONVENTION, second.RECIPE = convention, "small-data"
    assert first.to_json() == second.to_json() == Config(RECIPE="small-data", CONVENTION=convention).to_json()
    assert first.EMA_MOMENTUM == SMALL_DATA["EMA_MOMENTUM"]
    again = Config.from_json(first.to_json())
    assert again.to_json() == first.to_json()
    again.RECIPE = "matterport"  # a setting that was stored with its default is not an explicit one
    assert again.to_json() == Config(CONVENTION=convention).to_json()


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    for make in (lambda: Config(RECIPE="best"), lambda: tiny_config(RECIPE="best")):
        with pytest.raises(ValueError, match=r"RECIPE is 'best'; expected one of 'matterport', 'small-data'"):
            make()
    model = tiny_model("training", tmp_path)
    with pytest.raises(ValueError, match=r"no recipe 'best'; expected one of matterport, small-data"):
        model.train(Squares(), None, 0.1, 1, "heads", recipe="best")


@on_tensorflow
def test_train_with_a_recipe_logs_each_value_and_what_the_graph_keeps(tmp_path, capsys, caplog):
    model = tiny_model("training", tmp_path, COLOR_JITTER=0.1, STEPS_PER_EPOCH=1, OPTIMIZER="adamw")
    with caplog.at_level(logging.WARNING):
        history = model.train(Squares(), None, 0.001, 1, "heads", recipe="small-data")
    assert history.history["weight_decay"] == [0]  # AdamW's is not part of the loss
    assert (
        "ADD_GT_TO_PROPOSALS = False, FILL_ROIS_WITH_NEGATIVES = False: the values that this model was built with"
        in caplog.text
    )
    printed = capsys.readouterr().out
    assert "Recipe: small-data" in printed and "COLOR_JITTER = 0.1 (the recipe has 0.3)" in printed
    assert all(f"\n  {name} = " in printed for name in SMALL_DATA)
    assert model.config.SCALE_JITTER == (0.5, 1.5) and model.optimizer.use_ema


@on_tensorflow
@pytest.mark.parametrize("momentum", [0.995, 0.2])
def test_averages_that_would_mostly_be_the_initial_weights_are_named(momentum, tmp_path, caplog):
    model = tiny_model("training", tmp_path, EMA_MOMENTUM=momentum, STEPS_PER_EPOCH=2)
    model.train(Squares(), None, 0.001, 1, "heads")
    assert ("and 2 steps, 99 % of the trained model" in caplog.text) == (momentum == 0.995)
    assert ("of the trained model" in caplog.text) == (momentum == 0.995)


@on_tensorflow
def test_averages_that_never_change_are_named(tmp_path, caplog):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    optimizer = keras.optimizers.SGD(0.001, use_ema=True, ema_momentum=1)  # Keras allows it
    model.train(Squares(), None, None, 1, "heads", optimizer=optimizer)
    assert "and 1 steps, 100 % of the trained model" in caplog.text


def test_adamw_decays_weights_apart_from_their_gradient():
    config = Config(OPTIMIZER="adamw", WEIGHT_DECAY=0.5, LEARNING_MOMENTUM=0.8, GRADIENT_CLIP_NORM=2.0)
    optimizer = default_optimizer(config, 0.1)
    assert (optimizer.beta_1, optimizer.global_clipnorm, decays_weights(optimizer, config)) == (0.8, 2.0, True)
    assert not decays_weights(keras.optimizers.SGD(), config) and not decays_weights(optimizer, Config())
    variables = [keras.Variable([2.0], name=name) for name in ("kernel", "gamma", "beta")]
    optimizer.apply([keras.ops.zeros(1)] * 3, variables)
    assert [round(float(numpy(v)[0]), 5) for v in variables] == [2.0 * (1 - 0.1 * 0.5), 2.0, 2.0]


def test_group_normalization_needs_widths_that_its_groups_divide():
    for name in ("MASK_HEAD_CHANNELS", "FPN_CLASSIF_FC_LAYERS_SIZE"):
        with pytest.raises(ValueError, match=rf"{name} is 40; expected a multiple of 32"):
            Config(HEAD_NORM="group", **{name: 40})
    with pytest.raises(ValueError, match=r"TOP_DOWN_PYRAMID_SIZE is 40; expected a multiple of 32"):
        Config(FPN_NORM="group", TOP_DOWN_PYRAMID_SIZE=40)
    Config(HEAD_NORM="group", BOX_HEAD="conv4fc1", FPN_CLASSIF_FC_LAYERS_SIZE=40)  # one layer without normalization


@pytest.mark.parametrize(
    ("settings", "optimizer", "unused"),
    [
        (RECIPE_AND_ADAMW, keras.optimizers.Adam(), ["OPTIMIZER", "EMA_MOMENTUM"]),
        (RECIPE_AND_ADAMW, keras.optimizers.AdamW(weight_decay=0.05, use_ema=True, ema_momentum=0.995), []),
        (RECIPE_AND_ADAMW, keras.optimizers.AdamW(use_ema=True, ema_momentum=0.9), ["EMA_MOMENTUM", "WEIGHT_DECAY"]),
        ({"GRADIENT_CLIP_NORM": 1.0, "LEARNING_MOMENTUM": 0.8}, keras.optimizers.SGD(momentum=0.8),
         ["GRADIENT_CLIP_NORM"]),
        ({"GRADIENT_CLIP_NORM": 1.0}, keras.optimizers.RMSprop(global_clipnorm=1.0), []),
        ({}, keras.optimizers.Lion(), []),
        ({"OPTIMIZER": "adam"}, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), []),
    ],
)  # fmt: skip
def test_settings_that_a_given_optimizer_does_not_follow(settings, optimizer, unused):
    assert unused_optimizer_settings(Config(**settings), optimizer) == unused


@on_tensorflow
def test_settings_that_train_would_not_use_are_named_and_two_schedules_are_refused(tmp_path, caplog):
    def train_nothing(rate, callback=None, **options):
        caplog.clear()
        model.train(Squares(), None, rate, 0, "heads", custom_callbacks=[callback] if callback else None, **options)
        return caplog.text

    cosine = keras.optimizers.schedules.CosineDecay(0.1, 10)
    plateau = keras.callbacks.ReduceLROnPlateau("loss")
    settings = {"LEARNING_SCHEDULE": "cosine", "LEARNING_WARMUP": 0.05, "EMA_MOMENTUM": 0.995}
    model = tiny_model("training", tmp_path, **settings)
    assert "not used" not in train_nothing(0.1)
    text = train_nothing(0.1, optimizer=keras.optimizers.Adam(0.1))
    assert "EMA_MOMENTUM = 0.995: not used" in text and "keras.optimizers.Adam" in text
    assert "LEARNING_SCHEDULE = 'cosine', LEARNING_WARMUP = 0.05: not used" in text and "of optimizer=" in text
    assert "LEARNING_WARMUP = 0.05: not used, as train() got the schedule learning_rate=CosineDecay" in train_nothing(
        cosine
    )
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau .* LEARNING_SCHEDULE = 'cosine', .*_WARMUP = 0.05.*leave"):
        train_nothing(0.1, plateau)
    model.config.LEARNING_SCHEDULE, model.config.LEARNING_WARMUP = "constant", 0
    train_nothing(0.1, plateau)
    for rate, options in ((cosine, {}), (None, {"optimizer": keras.optimizers.SGD(cosine)})):
        with pytest.raises(ValueError, match="LearningRateScheduler changes the learning rate, but so does a schedule"):
            train_nothing(rate, keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), **options)


# ---- The learning rate -----------------------------------------------------------------------------------------------
def rates(steps, count, rate=0.1, **settings):
    schedule = scheduled_rate(Config(**settings), rate, steps)
    return [float(numpy(keras.ops.convert_to_tensor(schedule(step)))) for step in count]


def test_the_learning_rate_of_each_step():
    cosine = rates(8, range(9), LEARNING_SCHEDULE="cosine")
    np.testing.assert_allclose(cosine, 0.05 * (1 + np.cos(np.pi * np.arange(9) / 8)), atol=1e-7)
    warm = rates(10, (0, 1, 2, 6, 10, 12), LEARNING_SCHEDULE="cosine", LEARNING_WARMUP=0.2)
    np.testing.assert_allclose(warm, [0, 0.05, 0.1, 0.05, 0, 0], atol=1e-7)
    constant = rates(10, (0, 1, 2, 3, 10, 20), LEARNING_WARMUP=0.2)
    np.testing.assert_allclose(constant, [0, 0.05, 0.1, 0.1, 0.1, 0.1], atol=1e-7)
    assert scheduled_rate(Config(), 0.1, 10) == 0.1
    own = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert scheduled_rate(Config(LEARNING_SCHEDULE="cosine"), own, 10) is own


class Rates(keras.callbacks.Callback):
    """The learning rate of each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(float(numpy(self.model.optimizer.learning_rate)))


@on_tensorflow
def test_the_schedule_continues_in_a_second_train_and_restarts_if_asked(tmp_path):
    model = tiny_model("training", tmp_path, LEARNING_SCHEDULE="cosine", STEPS_PER_EPOCH=1)
    cosine = lambda steps: 0.005 * (1 + np.cos(np.pi * np.arange(steps) / steps))  # noqa: E731
    runs = []
    for epochs, options in ((1, {}), (3, {}), (4, {"restart_schedule": True}), (5, {})):
        runs.append(Rates())
        model.train(Squares(), None, 0.01, epochs, "heads", custom_callbacks=[runs[-1]], **options)
    np.testing.assert_allclose(runs[0].seen, cosine(1), atol=1e-8)
    np.testing.assert_allclose(runs[1].seen[1:], cosine(3)[1:], atol=1e-8)
    np.testing.assert_allclose(runs[2].seen, cosine(1), atol=1e-8)
    np.testing.assert_allclose(runs[3].seen[1:], cosine(2)[1:], atol=1e-8)  # of the 2 epochs since the restart


# ---- Averaged weights ------------------------------------------------------------------------------------------------
class Watch(keras.callbacks.Callback):
    """The weights after each step, and those that validation and the end of an epoch see."""

    def __init__(self):
        super().__init__()
        self.after_steps, self.validated, self.at_end = [], [], []

    def weights(self):
        return [np.array(numpy(v)) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.after_steps.append(self.weights())

    def on_test_batch_begin(self, batch, logs=None):
        self.validated.append(self.weights())

    def on_epoch_end(self, epoch, logs=None):
        self.at_end.append(self.weights())


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def saved_weights(model, epoch):
    """The trainable weights in the checkpoint of an epoch."""
    other = tiny_model("training", Path(model.model_dir) / "other", seed=9)
    other.load_weights(model.checkpoint_path.format(epoch=epoch))
    trained = {id(variable) for variable in model.trainable_variables}
    found = [numpy(theirs) for theirs, ours in zip(other.weights, model.weights, strict=True) if id(ours) in trained]
    return found


@on_tensorflow
def test_validation_checkpoints_and_the_trained_model_have_the_moving_average(tmp_path):
    model = tiny_model("training", tmp_path, EMA_MOMENTUM=0.75)
    watch = Watch()
    model.train(Squares(), Squares(2), 0.05, 2, "heads", custom_callbacks=[watch])
    expected, averages = watch.after_steps[0], []
    for weights in watch.after_steps[1:]:
        expected = [0.75 * a + 0.25 * w for a, w in zip(expected, weights)]
        averages.append(expected)
    for epoch, average in ((0, averages[0]), (1, averages[2])):
        assert_close(watch.validated[epoch], average)
        assert_close(watch.at_end[epoch], average)
        assert_close(saved_weights(model, epoch + 1), average)
    assert_close([numpy(v) for v in model.trainable_variables], averages[2])
    assert any(np.abs(a - w).max() > 1e-4 for a, w in zip(averages[2], watch.after_steps[3]))


@on_tensorflow
def test_the_mean_over_the_last_epochs(tmp_path):
    model = tiny_model("training", tmp_path, SWA_EPOCHS=2, STEPS_PER_EPOCH=1)
    watch = Watch()
    model.train(Squares(), Squares(2), 0.05, 3, "heads", custom_callbacks=[watch])
    ends = watch.after_steps  # one an epoch
    mean = [(a + b) / 2 for a, b in zip(ends[1], ends[2])]
    for seen in (watch.validated, watch.at_end):
        for found, expected in zip(seen, (ends[0], ends[1], mean), strict=True):
            assert_close(found, expected)
    assert_close(saved_weights(model, 3), mean)
    assert_close([numpy(v) for v in model.trainable_variables], mean)


def test_an_epoch_counts_once_in_the_mean():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    mean = MeanOverEpochs(first=1)
    mean.set_model(model)
    for epoch, value in ((0, 9.0), (1, 1.0), (1, 1.0), (2, 4.0), (3, 7.0)):
        model.set_weights([np.full((1, 1), value)])
        mean.add(epoch)
    assert mean.count == 3 and float(mean.mean[0][0, 0]) == 4.0


@on_tensorflow
def test_two_kinds_of_averages_are_refused(tmp_path):
    model = tiny_model("training", tmp_path, SWA_EPOCHS=2, EMA_MOMENTUM=0.9)
    with pytest.raises(ValueError, match="SWA_EPOCHS is 2 and the optimizer keeps moving averages"):
        model.train(Squares(), None, 0.05, 3, "heads")


@on_tensorflow
@pytest.mark.parametrize("kind", ["ema", pytest.param("swa", marks=pytest.mark.slow)])
def test_averages_and_augmentation_of_a_resumed_training_are_exact(tmp_path, kind):
    settings = {
        **{"ema": {"EMA_MOMENTUM": 0.8}, "swa": {"SWA_EPOCHS": 2}}[kind],
        "SCALE_JITTER": (0.6, 1.4), "FLIP_PROBABILITY": 0.5, "COPY_PASTE_PROBABILITY": 1.0, "COLOR_JITTER": 0.3,
    }  # fmt: skip
    whole, _ = train(tmp_path / "whole", 2, [StopAfter(99)], settings=settings)
    for steps in (1, 1):  # stops inside the first epoch, then after it: the next run loads the averages
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", 2, [StopAfter(steps)], settings=settings)
    parts, _ = train(tmp_path / "parts", 2, [StopAfter(99)], settings=settings)
    found, expected = everything(parts), everything(whole)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
