"""A batch shared by several devices gives the same results as on one. Keras starts devices once per process."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest
from data_kit import Blocks
from data_kit import TinyConfig as BlocksConfig
from devices_run import assert_same, on_one_and_two_devices
from kit import tiny_config, tiny_model

from mrcnn import training
from mrcnn.data.generator import DataGenerator
from mrcnn.distribution import Devices, _largest_divisor, find_devices
from mrcnn.ops import replicas

only_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's strategies")


# ---- The same training -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_two_devices_train_and_detect_like_one(backend, tmp_path_factory):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    one, two = on_one_and_two_devices(backend, tmp_path_factory.getbasetemp() / f"devices_{backend}")
    assert (one["devices"], two["devices"]) == (1, 2)
    assert_same(one, two)


# ---- Which devices ---------------------------------------------------------------------------------------------------
def test_more_gpus_than_available_keep_the_batch_size(tmp_path):
    model = tiny_model("training", tmp_path, GPU_COUNT=4, IMAGES_PER_GPU=1)
    assert (model.devices.count, model.devices.strategy, model.config.BATCH_SIZE) == (1, None, 4)
    assert model.devices.shard == (0, 1) and model.devices.writes and model.devices.agree(7) == 7


@pytest.mark.parametrize(
    ("gpus", "images", "available", "expected", "why"),
    [
        (1, 8, 4, 1, "no more than GPU_COUNT"),
        (2, 1, 2, 2, "all of them"),
        (4, 2, 2, 2, "no more than there are"),
        (3, 1, 2, 1, "two don't divide a batch of three"),
        (3, 2, 2, 2, "two divide a batch of six"),
        (6, 1, 4, 3, "four don't divide a batch of six"),
    ],
)
def test_the_batch_is_divided_among_devices(gpus, images, available, expected, why):
    assert _largest_divisor(tiny_config(GPU_COUNT=gpus, IMAGES_PER_GPU=images), available) == expected, why


@only_tensorflow
def test_a_given_strategy_is_used_or_refused_by_name(tmp_path):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    assert find_devices(tiny_config(), strategy).strategy is strategy
    with strategy.scope():
        assert find_devices(tiny_config()).strategy is strategy
    with pytest.raises(ValueError, match="expected a tf.distribute.Strategy"):
        find_devices(tiny_config(), "mirrored")
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        find_devices(tiny_config(), object.__new__(tf.distribute.MultiWorkerMirroredStrategy))


def test_only_the_first_process_writes(tmp_path):
    mine = keras.callbacks.TerminateOnNaN()
    assert training.run_callbacks(str(tmp_path / "run"), "x", [mine], writes=False) == [mine]
    assert not (tmp_path / "run").exists()
    assert Devices(None, 2, 0, 2).writes and not Devices(None, 2, 1, 2).writes


def test_with_one_replica_totals_equal_the_values():
    assert replicas.count() == 1
    assert replicas.total(3.0) == 3.0 and replicas.scaled_total(3.0) == 3.0


# ---- Shards of batches -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [None, 3])
def test_shards_add_up_to_the_batches(steps):
    dataset, config = Blocks((1, 2, 3, 1, 2, 1)), BlocksConfig()
    settings = {"batch_size": 4 if steps else 2, "steps": steps, "seed": 5}
    whole = DataGenerator(dataset, config, **settings)
    parts = [DataGenerator(dataset, config, **settings, shard=(i, 2)) for i in range(2)]
    for generator in (whole, *parts):
        generator.epoch = 1
    assert len(whole) == len(parts[0]) == len(parts[1]) == 3
    for index in range(3):
        (batch,), (first,), (second,) = (generator[index] for generator in (whole, *parts))
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), array, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3, "steps": 2}, r"A batch of 3 images .* 2 equal parts"),
        ({"batch_size": 2}, r"A batch of 1 images .* `steps`"),  # five images: the last batch has one
        ({"batch_size": 2, "steps": 2, "shard": (2, 2)}, r"shard is \(2, 2\)"),
    ],
)
def test_batches_without_equal_shards_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataGenerator(Blocks(), BlocksConfig(), **{"shard": (0, 2), **settings})


@pytest.mark.parametrize(
    ("backend", "settings", "message"),
    [
        ("jax", {"batch_size": 3, "steps": 1}, "A batch of 3 images can't be shared by 2 devices; expected a multiple"),
        ("jax", {"batch_size": 2}, "A batch of 1 images"),
        ("tensorflow", {"batch_size": 2}, "A batch of 1 images .* at least as many images"),
        ("tensorflow", {"batch_size": 3, "steps": 1}, None),  # two and one
        ("tensorflow", {"batch_size": 4, "steps": 1, "shard": (0, 2)}, r"shard=\(0, 2\); this is process 0 of 1"),
    ],
)
def test_batches_not_divisible_by_the_devices_are_refused(backend, settings, message, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    batches = DataGenerator(Blocks(), BlocksConfig(), **settings)
    if message is None:
        Devices(None, 2).check_batches(batches)
    else:
        with pytest.raises(ValueError, match=message):
            Devices(None, 2).check_batches(batches)
