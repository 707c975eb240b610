"""Keras's own means in an optimizer work with `MaskRCNN`: gradient accumulation, EMA, weight decay, other rules."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from kit import TWO_IMAGES, Batches, Squares, make_batch, run_eagerly, tiny_model, weights_of


@pytest.fixture(autouse=True)
def eagerly():
    """Saves tracing, which takes ten times as long as a step."""
    with run_eagerly():
        yield


def training_model(folder, **changes):
    return tiny_model("training", folder, ADD_GT_TO_PROPOSALS=True, **changes)


def moved(before: dict, after: dict) -> list:
    return [path for path in before if not np.array_equal(before[path], after[path])]


def test_gradients_are_accumulated(tmp_path):
    model = training_model(tmp_path)
    batch = make_batch(model.config, TWO_IMAGES)
    model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=3), run_eagerly=True)
    trainable = {v.path for v in model.trainable_variables}
    states = [weights_of(model)]
    for _ in range(3):
        model.train_on_batch(batch)
        states.append(weights_of(model))
    for before, after in ((0, 1), (1, 2)):
        assert not set(moved(states[before], states[after])) & trainable
    assert set(moved(states[2], states[3])) & trainable
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 1


def test_averaged_weights_can_be_used(tmp_path):
    """EMA: `use_ema=True`; after training the average replaces the weights, which `fit` does by itself."""
    model = training_model(tmp_path)
    batch = make_batch(model.config, TWO_IMAGES)
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5), run_eagerly=True)
    path = next(v.path for v in model.trainable_variables if "mrcnn_class_logits" in v.path and "kernel" in v.path)
    values = []
    for _ in range(2):
        model.train_on_batch(batch)
        values.append(weights_of(model)[path])
    model.optimizer.finalize_variable_values(model.trainable_variables)
    average = weights_of(model)[path]
    low, high = np.minimum(*values), np.maximum(*values)
    assert not np.array_equal(average, values[-1])
    # The average starts at the first step's weights or at those before it; either way it lies behind the last ones.
    assert np.abs(average - values[-1]).max() <= np.abs(high - low).max() * 1.01 + 1e-7


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
        lambda: keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True, global_clipnorm=1.0),
        lambda: keras.optimizers.SGD(1e-3, gradient_accumulation_steps=2, use_ema=True, global_clipnorm=5.0),
    ],
    ids=["AdamW", "Nesterov", "accumulation with EMA and clipping"],
)
def test_train_accepts_an_optimizer(tmp_path, optimizer):
    model = training_model(tmp_path, STEPS_PER_EPOCH=2, VALIDATION_STEPS=1)
    before = weights_of(model)
    history = model.train(Squares(), None, learning_rate=None, epochs=1, layers="heads", optimizer=optimizer())
    assert np.isfinite(history.history["loss"]).all()
    changed = moved(before, weights_of(model))
    assert changed and all("mrcnn" in path or "fpn" in path or "rpn" in path for path in changed)


def test_a_loss_scale_works_with_a_custom_optimizer(tmp_path):
    model = training_model(tmp_path, COMPUTE_DTYPE="mixed_float16")
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(model.fit(Batches(make_batch(model.config, TWO_IMAGES)), verbose=0).history["loss"]).all()
