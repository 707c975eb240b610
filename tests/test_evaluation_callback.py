"""Average precision during training, in the logs of later callbacks."""

from __future__ import annotations

import csv
import importlib.util

import keras
import numpy as np
import pytest
from evaluate_kit import MaskSet, rectangle, result

from mrcnn.evaluation import EvaluateDataset

MASK = rectangle(30, 40, (5, 5, 25, 35))[..., None]


class Learner(keras.Model):
    """Finds the object the better the longer it is trained: from the epochs `good` on exactly, before not at all."""

    def __init__(self, good=()):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.good, self.epochs_done, self.asked = good, 0, []

    def call(self, x):
        return self.dense(x)

    def detect(self, images, verbose=0):
        self.asked.append((self.epochs_done, len(images)))
        found = MASK if self.epochs_done in self.good else rectangle(30, 40, (0, 0, 4, 4))[..., None]
        return [result(found, [1], [0.9]) for _ in images]


class Count(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.epochs_done = epoch + 1


def fit(model, callbacks, epochs=5):
    model.compile("sgd", "mse")
    x = np.zeros((2, 1))
    return model.fit(x, x, epochs=epochs, verbose=0, callbacks=[Count(), *callbacks])


@pytest.fixture
def dataset():
    return MaskSet([(MASK, np.array([1]))] * 3)


def test_the_numbers_are_in_the_history(dataset):
    history = fit(Learner(good=(2, 3)), [EvaluateDataset(dataset)], epochs=3).history
    for name in ("val_box_ap", "val_mask_ap", "val_mask_ap50"):
        assert history[name] == pytest.approx([0, 1, 1]), name


def test_every_third_epoch_and_the_first_and_last(dataset):
    model = Learner(good=(3, 4))
    history = fit(model, [EvaluateDataset(dataset, every=3)], epochs=5).history
    assert sorted({epoch for epoch, _ in model.asked}) == [1, 3, 5]
    assert history["val_mask_ap"] == pytest.approx([0, 0, 1, 1, 0])


@pytest.mark.parametrize(("images", "count"), [(None, 3), (2, 2), ([1], 1), (np.array([0, 2]), 2)])
def test_a_subset_of_the_images(dataset, images, count):
    model = Learner()
    fit(model, [EvaluateDataset(dataset, images=images)], epochs=1)
    assert sum(n for _, n in model.asked) == count


def test_checkpoint_early_stopping_and_csv_watch_it(dataset, tmp_path):
    best, log = tmp_path / "best.weights.h5", tmp_path / "log.csv"
    saved = []

    class Checkpoint(keras.callbacks.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            before = self.best
            super()._save_model(epoch, batch, logs)
            if self.best != before:
                saved.append(epoch + 1)

    history = fit(
        Learner(good=(2,)),
        [
            EvaluateDataset(dataset, every=2),
            Checkpoint(best, monitor="val_mask_ap", mode="max", save_best_only=True, save_weights_only=True),
            keras.callbacks.EarlyStopping(monitor="val_mask_ap", mode="max", patience=3),
            keras.callbacks.CSVLogger(log),
        ],
        epochs=20,
    )
    assert saved == [1, 2] and best.exists()
    assert len(history.epoch) == 5  # best at 2, patience 3
    rows = list(csv.DictReader(log.open()))
    assert [float(row["val_mask_ap"]) for row in rows] == pytest.approx([0, 1, 1, 0, 0])


def test_tensorboard_holds_pictures_of_the_first_images(dataset, tmp_path):
    tf = pytest.importorskip("tensorflow")
    fit(Learner(good=(1, 2)), [EvaluateDataset(dataset, pictures=2, log_dir=tmp_path)], epochs=2)
    (file,) = (tmp_path / "validation_pictures").glob("events.out.tfevents.*")
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    assert events[0].file_version == "brain.Event:2"
    shown = [(event.step, event.summary.value[0].tag) for event in events[1:]]
    assert shown == [(0, "image_0"), (0, "image_1"), (1, "image_0"), (1, "image_1")]
    picture = events[1].summary.value[0].image
    assert (picture.width, picture.height) == (2 * 480 + 6, 360)
    assert tf.io.decode_png(picture.encoded_image_string).shape == (360, 2 * 480 + 6, 3)


def test_without_tensorflow_pictures_are_files(dataset, tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "tensorflow" else original(n, *a))
    fit(Learner(good=(1,)), [EvaluateDataset(dataset, pictures=1, log_dir=tmp_path)], epochs=1)
    assert [p.name for p in (tmp_path / "validation_pictures").iterdir()] == ["image_0_epoch_0001.png"]


@pytest.mark.parametrize("keywords", [{"every": 0}, {"every": 1.5}, {"images": 0}])
def test_invalid_settings_are_refused(dataset, keywords):
    with pytest.raises(ValueError, match=next(iter(keywords))):
        EvaluateDataset(dataset, **keywords)
