"""The digits sample: the split of the dataset, and a small run up to the semantic maps."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from kit import TinyConfig

from samples import digits

IMAGES = 100


@pytest.fixture
def m2nist(tmp_path):
    """A folder like M2NIST's: 100 images of 64 x 84 pixels, each with a 1 at the left and a 7 at the right."""
    folder = tmp_path / "m2nist"
    folder.mkdir()
    images = np.zeros((IMAGES, 64, 84), np.uint8)
    labels = np.full((IMAGES, 64, 84), 10, np.uint8)
    rng = np.random.default_rng(2)
    for image, label in zip(images, labels):
        for digit, x in ((1, 8), (7, 50)):
            ink = np.zeros((64, 84), np.uint8)
            cv2.putText(ink, str(digit), (x, int(rng.integers(30, 60))), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 2)
            image[ink > 0] = ink[ink > 0]
            label[ink > 0] = digit
    np.save(folder / "combined.npy", images)
    np.save(folder / "segmented.npy", labels)
    return folder


def test_parts_share_no_image(m2nist):
    parts = {part: digits.digits_dataset(m2nist, part) for part in digits.PARTS}
    assert {part: len(dataset.image_ids) for part, dataset in parts.items()} == {"train": 89, "val": 1, "test": 10}
    ids = [info["id"] for dataset in parts.values() for info in dataset.image_info]
    assert sorted(ids) == list(range(IMAGES))
    assert parts["test"].class_names == digits.CLASS_NAMES


def test_the_real_set_has_500_images_for_the_test(shared):
    path = shared / "data" / "m2nist" / "m2nist.zip"
    assert {part: len(digits.digits_dataset(path, part).image_ids) for part in digits.PARTS} == {
        "train": 4450, "val": 50, "test": 500,
    }  # fmt: skip


def test_the_map_has_a_color_for_each_class():
    assert len(digits.COLORS) == len(digits.CLASS_NAMES) == digits.DigitsConfig.NUM_CLASSES


def test_compose_makes_a_set_of_mnists_digits(tmp_path):
    """Digits drawn as plain bars: 1..4 in MNIST's training set, 5..9 in its test set."""
    y_train, y_test = np.arange(40) % 4 + 1, np.arange(50) % 5 + 5
    x_train, x_test = (np.zeros((len(y), 28, 28), np.uint8) for y in (y_train, y_test))
    x_train[:, 4:24, 10:14], x_test[:, 4:24, 10:14] = 200, 200
    np.savez(tmp_path / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    with pytest.raises(SystemExit):
        digits.main(["compose", "--dataset", str(tmp_path / "set")])
    digits.main(["compose", "--mnist", str(tmp_path / "mnist.npz"), "--dataset", str(tmp_path / "set")])
    images, labels = (np.load(tmp_path / "set" / f"{name}.npy") for name in ("combined", "segmented"))
    assert images.shape == labels.shape == (5000, *digits.SCENE)
    np.testing.assert_array_equal(images > 0, labels != digits.BACKGROUND)
    assert set(np.unique(labels[:4500])) == {1, 2, 3, 4, 10} and set(np.unique(labels[4500:])) == {5, 6, 7, 8, 9, 10}
    again = digits.compose(tmp_path / "mnist.npz", tmp_path / "again")
    np.testing.assert_array_equal(np.load(again / "combined.npy"), images)
    counts = [cv2.connectedComponents((image > 0).astype(np.uint8))[0] - 1 for image in images[:200]]
    assert set(counts) == {2, 3}  # none touches another
    assert len(digits.digits_dataset(tmp_path / "set", "test").image_ids) == 500


class Perfect:
    """Stands in for a model: finds what is there, and one thing more at too low a score."""

    def __init__(self, dataset):
        self.truth = {dataset.load_image(i).tobytes(): dataset.load_mask(i) for i in dataset.image_ids}

    def detect(self, images, verbose=0):
        masks, class_ids = self.truth[images[0].tobytes()]
        doubt = np.ones((*masks.shape[:2], 1), bool)
        scores = np.array([0.9] * len(class_ids) + [0.4])
        return [{"masks": np.dstack([masks, doubt]), "class_ids": np.append(class_ids, 1), "scores": scores}]


def test_detections_are_drawn_like_the_ground_truth(m2nist, tmp_path):
    dataset = digits.digits_dataset(m2nist, "test")
    path = digits.draw_maps(Perfect(dataset), dataset, dataset.image_ids[:2], tmp_path / "new" / "maps.png")
    picture = cv2.imread(str(path))
    panels = np.array_split(picture[: picture.shape[0] // 2], 6, axis=1)
    for truth, detected in (panels[1:3], panels[4:6]):
        for name in "17":
            color = np.round(255 * np.array(digits.COLORS[1 + int(name)])[::-1])
            counts = [(np.abs(panel - color).max(axis=-1) < 2).sum() for panel in (truth, detected)]
            assert counts[0] > 50 and abs(counts[0] - counts[1]) < 0.1 * counts[0]
        unsure = np.round(255 * np.array(digits.COLORS[1])[::-1])
        assert not (np.abs(detected - unsure).max(axis=-1) < 2).any()


class TinyDigitsConfig(TinyConfig, digits.DigitsConfig):
    NAME = "digits"
    NUM_CLASSES = 11
    STEPS_PER_EPOCH = 1
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128


def test_a_small_run_trains_and_detects(m2nist, tmp_path, capsys, monkeypatch):
    model = digits.MaskRCNN("training", TinyDigitsConfig(), str(tmp_path / "logs"))
    digits.train(model, m2nist, epochs=1)
    assert (Path(model.log_dir) / "mask_rcnn_digits_0001.h5").is_file()
    assert (Path(model.log_dir) / "maps.png").is_file()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"mIoU = \d\.\d{3}, pixel accuracy = \d\.\d{3} \(10 images\)", lines[-1])
    assert any(re.fullmatch(r"mask AP50 = \d\.\d{3} \(10 images\)", line) for line in lines)

    monkeypatch.setattr(digits, "trained_model", lambda weights, logs: {"last": model}[weights])
    digits.main(["detect", "--dataset", str(m2nist), "--output", str(tmp_path / "found.png")])
    assert (tmp_path / "found.png").is_file()
