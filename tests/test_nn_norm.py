"""BatchNorm pinned to one mode, and one layer applied to every RoI."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from kit import numpy

from mrcnn.nn.norm import BatchNorm, TimeDistributed

X = (np.random.default_rng(0).normal(3, 2, (8, 4)) * [1, 2, 3, 4]).astype("float32")
BY_BATCH = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-3)
BY_RUNNING = X / np.sqrt(1 + 1e-3)  # at first the running mean is 0 and the variance 1


@pytest.mark.parametrize(
    ("train_bn", "training", "expected", "moves"),
    [
        (None, True, BY_BATCH, True),
        (None, False, BY_RUNNING, False),
        (False, True, BY_RUNNING, False),
        (False, False, BY_RUNNING, False),
        (True, True, BY_BATCH, True),
        (True, False, BY_BATCH, True),
    ],
)
def test_train_bn_selects_the_statistics(train_bn, training, expected, moves):
    layer = BatchNorm(train_bn=train_bn)
    np.testing.assert_allclose(numpy(layer(X, training=training)), expected, atol=1e-5)
    assert bool(np.any(numpy(layer.moving_mean) != 0)) == moves


def test_issue_2780_frozen_means_gamma_and_beta_too():
    layer = BatchNorm(train_bn=False)
    layer(X)
    assert layer.trainable_weights == [] and len(layer.non_trainable_weights) == 4
    for train_bn in (None, True):
        layer = BatchNorm(train_bn=train_bn)
        layer(X)
        assert len(layer.trainable_weights) == 2


def test_a_frozen_layer_uses_running_statistics():
    layer = BatchNorm(train_bn=None, trainable=False)  # a backbone's while the heads train
    np.testing.assert_allclose(numpy(layer(X, training=True)), BY_RUNNING, atol=1e-5)


@pytest.mark.parametrize("pinned", [False, True])
def test_passing_training_at_build_time_is_kept_in_a_graph(pinned):
    """In Keras 3, `fit` would overrule a plain `training=False` in a functional graph."""
    inputs = keras.Input((4,))
    layer = BatchNorm()
    model = keras.Model(inputs, layer(inputs, training=pinned))
    assert bool(layer.trainable_weights) is pinned
    for training in (True, False):
        found = numpy(model(X, training=training))
        np.testing.assert_allclose(found, BY_BATCH if pinned else BY_RUNNING, atol=1e-5)


def test_the_mode_survives_get_config():
    for train_bn in (None, False, True):
        again = BatchNorm.from_config(BatchNorm(train_bn=train_bn, epsilon=0.01, name="bn").get_config())
        assert again.train_bn is train_bn and again.epsilon == 0.01 and again.name == "bn"
        assert again.trainable is (train_bn is not False)


def test_the_defaults_are_matterports():
    layer = BatchNorm()
    assert (layer.epsilon, layer.momentum, layer.axis) == (1e-3, 0.99, -1)


# ---- One layer for every RoI -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("rois", [1, 5])
def test_the_same_as_keras_own_wrapper(rois):
    x = np.random.default_rng(1).normal(size=(2, rois, 6, 6, 3)).astype("float32")
    inner = layers.Conv2D(4, 3)
    ours, theirs = TimeDistributed(inner)(x), layers.TimeDistributed(inner)(x)
    assert tuple(ours.shape) == (2, rois, 4, 4, 4)
    np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-5)


def test_training_reaches_the_inner_layer():
    x = X[:, None]  # [8, 1, 4]
    wrapper = TimeDistributed(BatchNorm(), name="mrcnn_class_bn1")
    np.testing.assert_allclose(numpy(wrapper(x, training=True))[:, 0], BY_BATCH, atol=1e-5)
    np.testing.assert_allclose(
        numpy(TimeDistributed(BatchNorm(train_bn=False))(x, training=True))[:, 0], BY_RUNNING, atol=1e-5
    )


def test_freezing_the_wrapper_freezes_what_is_inside():
    wrapper = TimeDistributed(layers.Dense(2))
    wrapper(X[:, None])
    wrapper.trainable = False
    assert wrapper.trainable_weights == [] and wrapper.layer.trainable is False


def test_symbolic_shapes_with_a_variable_number_of_rois():
    rois = keras.Input((None, 7, 7, 16))
    x = TimeDistributed(layers.Conv2D(32, 7), name="mrcnn_class_conv1")(rois)
    assert x.shape == (None, None, 1, 1, 32)
    model = keras.Model(rois, x)
    for count in (1, 3):
        assert model.predict_on_batch(np.zeros((2, count, 7, 7, 16), "float32")).shape == (2, count, 1, 1, 32)


def test_the_wrapper_survives_get_config():
    wrapper = TimeDistributed(layers.Dense(3, activation="relu"), name="mrcnn_bbox_fc")
    again = TimeDistributed.from_config(wrapper.get_config())
    assert again.name == "mrcnn_bbox_fc" and again.layer.units == 3
    assert again.get_config() == wrapper.get_config()
