"""Training steps with NaN or infinite values change nothing, are reported, and don't ruin the training."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from kit import (
    TWO_IMAGES,
    Batches,
    Squares,
    gradients,
    make_batch,
    numpy,
    run_eagerly,
    tiny_model,
    weights_of,
)

from mrcnn.training import NonFiniteLoss
from mrcnn.training.guard import spread_nan
from mrcnn.training.optimizer import LoweredSchedule
from mrcnn.weights.train_state import STATE_FILE, read_state


def with_nan(batch: dict) -> dict:
    """The batch with a pixel that is NaN: its loss is NaN."""
    image = batch["input_image"].copy()
    image[0, 30, 30, 0] = np.nan
    return {**batch, "input_image": image}


def too_far(batch: dict, value: float = 1e38) -> dict:
    """The batch with objects that are too far away: the inputs are finite, the loss isn't."""
    return {**batch, "input_rpn_bbox": np.full_like(batch["input_rpn_bbox"], value)}


def state_of(model) -> dict:
    """Weights and optimizer."""
    optimizer = {f"optimizer {i}": numpy(v) for i, v in enumerate(model.optimizer.variables)}
    return {name: np.array(value) for name, value in {**weights_of(model), **optimizer}.items()}


def differences(found: dict, expected: dict) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name in expected if not np.array_equal(found[name], expected[name])]


def failures(model) -> list[Path]:
    return sorted((Path(model.log_dir) / "failures").glob("*"))


def rate_of(model) -> float:
    return float(numpy(model.optimizer.learning_rate))


def fit(model, *batches, **options):
    return model.fit(Batches(*batches), verbose=0, shuffle=False, **options).history


only_stateful = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no apply outside of a step")


@pytest.fixture
def eagerly():
    with run_eagerly():
        yield


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A compiled model in which a layer of each part trains, and BatchNorm; it is traced once."""
    model = tiny_model("training", tmp_path_factory.mktemp("logs"), ADD_GT_TO_PROPOSALS=True, TRAIN_BN=None)
    model.set_trainable("bn_conv1|fpn_p2|rpn_class_raw|mrcnn_class_logits|mrcnn_mask", verbose=0)
    model.compile(keras.optimizers.SGD(0.01, 0.9, global_clipnorm=5.0, use_ema=True))
    model.build_optimizer()
    return model


@pytest.fixture
def model(trainer, tmp_path):
    """`trainer` with its first weights and optimizer, and a folder of its own."""
    trainer.log_dir, before = str(tmp_path / "run"), state_of(trainer)
    yield trainer
    for variable, value in zip([*trainer.weights, *trainer.optimizer.variables], before.values(), strict=True):
        variable.assign(value)
    trainer.config.NON_FINITE_LOSS = "roll_back"


@pytest.fixture(scope="module")
def batch(trainer):
    return make_batch(trainer.config, TWO_IMAGES)


# ---- Inside the step -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [with_nan, too_far])
def test_a_failed_step_changes_no_weight_slot_statistic_or_mean(fault, model, batch):
    model.config.NON_FINITE_LOSS = "skip"
    expected = fit(model, batch)
    before = state_of(model)
    assert int(before["optimizer 0"]) == 1 and any(name.endswith("moving_mean") for name in before)
    history = fit(model, fault(batch))
    assert not differences(state_of(model), before) and np.isnan(history["loss"]).all()
    assert len(failures(model)) == 1
    history = fit(model, batch, fault(batch))
    assert np.isfinite(history["loss"]).all() and history["loss"][0] < 2 * expected["loss"][0]
    assert int(numpy(model.optimizer.iterations)) == 2


def test_a_loss_that_is_not_finite_has_no_finite_gradient():
    """Else the step would be applied: the derivative of an infinite distance is 1."""
    for value, expected in ((3.0, 1.0), (np.inf, np.nan), (np.nan, np.nan)):
        np.testing.assert_equal(*gradients(spread_nan, np.float32(value)), np.float32(expected))


@only_stateful
def test_gradients_that_overflow_are_not_applied_though_the_loss_is_finite(model, batch):
    fit(model, batch)
    before = state_of(model)
    gradients = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    for value in (np.nan, np.inf, 1e25):  # the square of the last one is infinite
        model.optimizer.apply([gradients[0] + value, *gradients[1:]], model.trainable_variables)
    assert not differences(state_of(model), before)
    model.optimizer.apply(gradients, model.trainable_variables)
    assert differences(state_of(model), before)


def test_train_on_batch_reports_a_failed_step(model, batch, caplog, eagerly):
    assert np.isfinite(model.train_on_batch(batch)).all() and not caplog.records
    before = state_of(model)
    assert np.isnan(model.train_on_batch(with_nan(batch))).all()
    assert "A step was not applied: loss is nan" in caplog.text and not differences(state_of(model), before)
    model.config.NON_FINITE_LOSS = "stop"
    with pytest.raises(NonFiniteLoss, match="loss is nan"):
        model.train_on_batch(with_nan(batch))


# ---- What follows ----------------------------------------------------------------------------------------------------
def test_rolling_back_gives_the_weights_of_the_epochs_start_and_half_the_rate(model, batch, caplog):
    fit(model, batch)
    before = state_of(model)
    fit(model, batch, batch, too_far(batch), batch)
    after = state_of(model)
    slots = [name for name in before if name not in ("optimizer 0", "optimizer 1")]  # iterations, rate
    assert not differences({name: after[name] for name in slots}, {name: before[name] for name in slots})
    assert rate_of(model) == pytest.approx(0.005) and int(after["optimizer 0"]) == 4
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Step 3 of epoch 1 was not applied: loss is nan, rpn_bbox_loss is nan." in line and "\n" not in line
    assert "back at the start of epoch 1, and the learning rate is now 0.005 (rollback 1 of 5)." in line


def test_broken_images_do_not_lower_the_rate_and_enough_of_them_end_the_training(model, batch, caplog):
    fit(model, batch, with_nan(batch))
    assert rate_of(model) == pytest.approx(0.01)
    assert "input_image of the batch has NaN or infinite values." in caplog.text
    with pytest.raises(NonFiniteLoss, match="Training stops: 20 steps in a row failed. Check the images"):
        fit(model, *[with_nan(batch)] * 25)
    assert len(failures(model)) == 20


def test_a_training_that_fails_at_any_rate_ends_after_five_rollbacks(model, batch, caplog):
    with pytest.raises(NonFiniteLoss, match="it failed again after 5 rollbacks"):
        fit(model, *[batch, too_far(batch), batch] * 7)
    assert rate_of(model) == pytest.approx(0.01 / 32) and len(caplog.records) == 5


def test_weights_that_are_broken_from_the_start_are_not_rolled_back_to(model, batch):
    model.get_layer("fpn_p2").bias.assign(np.full(16, np.nan))
    with pytest.raises(NonFiniteLoss, match="the initial weights were NaN or infinite"):
        fit(model, batch)


def test_a_report_shows_losses_gradient_norms_and_the_batch(model, batch):
    fit(model, too_far(batch))
    (folder,) = failures(model)
    assert folder.name == "0001_00001"
    facts = json.loads((folder / "step.json").read_text())
    assert facts["losses"]["rpn_bbox_loss"] == "nan" and 0 < facts["losses"]["rpn_class_loss"] < 10
    assert set(facts["gradient_norms"]) == {"backbone", "fpn", "rpn", "box_head", "mask_head"}
    assert (facts["epoch"], facts["step"], facts["then"]) == (1, 1, "roll_back")
    assert facts["arrays"]["input_rpn_bbox"]["max"] == pytest.approx(1e38)
    picture = cv2.imread(str(folder / "batch.png"))
    assert picture.shape == (512, 2 * 512 + 6, 3)
    assert len(np.unique(picture[64:320, 64:320].reshape(-1, 3), axis=0)) > 100  # noise, masks


def test_a_lowered_schedule_continues_and_is_saved(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    lowered = LoweredSchedule(schedule, 0.5)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(lowered))
    assert [float(numpy(copied(step))) for step in (0, 1)] == pytest.approx([0.05, 0.025])
    assert float(numpy(LoweredSchedule(lambda: 0.1, 0.5)(3))) == pytest.approx(0.05)


# ---- train -----------------------------------------------------------------------------------------------------------
class TooLarge(Squares):
    """Pixels of image 1 that are huge, though finite: with frozen BatchNorm, its loss is not finite."""

    def load_image(self, image_id):
        return super().load_image(image_id).astype(np.float32) * (1e30 if image_id == 1 else 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training in which one of three images fails, with a schedule."""
    model = tiny_model("training", tmp_path_factory.mktemp("logs"), IMAGES_PER_GPU=1, STEPS_PER_EPOCH=3,
                       IMAGE_RANGE="raw", ADD_GT_TO_PROPOSALS=True)  # fmt: skip
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 4, 0.5)
    with run_eagerly():
        history = model.train(TooLarge(3), None, schedule, 1, "fpn_p2", save_every_steps=1)
    return model, history.history


def test_a_run_with_an_image_that_fails_ends_with_finite_weights_and_its_files(run):
    model, history = run
    assert np.isfinite(history["loss"]).all() and model.epoch == 1
    assert all(np.isfinite(value).all() for value in weights_of(model).values())
    assert int(numpy(model.optimizer.iterations)) == 2
    (folder,) = failures(model)
    assert json.loads((folder / "step.json").read_text())["images"] == [{"image_id": 1, "path": None}]
    state = read_state(Path(model.log_dir) / STATE_FILE)
    assert (state.epoch, state.step) == (1, 0) and model.find_last().endswith("_0001.h5")


def test_a_lowered_schedule_stays_low_when_training_continues(run, eagerly):
    model, _ = run
    assert float(numpy(model.optimizer.learning_rate)) == pytest.approx(0.01 * 0.5 ** (2 / 4) / 2)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 4, 0.5)
    model.train(Squares(3), None, schedule, 2, "fpn_p2")
    assert float(numpy(model.optimizer.learning_rate)) == pytest.approx(0.01 * 0.5 ** (5 / 4) / 2)


def test_stopping_leaves_a_state_from_which_the_failed_step_is_done_again(tmp_path, eagerly):
    model = tiny_model("training", tmp_path, IMAGES_PER_GPU=1, STEPS_PER_EPOCH=3, IMAGE_RANGE="raw",
                       ADD_GT_TO_PROPOSALS=True, NON_FINITE_LOSS="stop")  # fmt: skip
    with pytest.raises(NonFiniteLoss, match="Step . of epoch 1") as error:
        model.train(TooLarge(3), None, 0.01, 2, "fpn_p2")
    step = int(str(error.value).split("Step ")[1][0])
    assert (model.epoch, read_state(Path(model.log_dir) / STATE_FILE).step) == (0, step - 1)
    history = model.train(Squares(3), None, 0.01, 1, "fpn_p2")
    assert np.isfinite(history.history["loss"]).all() and int(numpy(model.optimizer.iterations)) == 3
