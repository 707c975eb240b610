"""Run by .ci/run in environments that have only the wheel: it imports, detects with the shipped weights, and trains.

python tests/wheel_smoke.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import cv2
import keras
import numpy as np

import mrcnn
from mrcnn import Config, Dataset, MaskRCNN
from mrcnn.weights.golden.records import GOLDEN, golden_record


def drawn_shapes() -> np.ndarray:
    """A square and a circle, [128, 128, 3] uint8."""
    image = np.full((128, 128, 3), (40, 90, 160), np.uint8)
    cv2.rectangle(image, (15, 20), (55, 60), (230, 200, 40), -1)
    return cv2.circle(image, (90, 85), 22, (200, 40, 60), -1)


def detect_shapes() -> None:
    model = MaskRCNN("inference", weights="shapes")
    found = model.detect([drawn_shapes()])[0]
    names = sorted(model.class_names[i] for i in found["class_ids"])
    assert names == ["circle", "square"], names
    assert found["masks"].shape == (128, 128, 2) and found["masks"][85, 90].any() and found["masks"][40, 35].any()
    print(f"found a {' and a '.join(names)}")


def detect_by_the_command() -> None:
    """`mrcnn detect`, as it was installed, writes a picture and a JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/photo.png", cv2.cvtColor(drawn_shapes(), cv2.COLOR_RGB2BGR))
        command = [os.path.join(os.path.dirname(sys.executable), "mrcnn"), "detect", "photo.png", "--weights", "shapes"]
        subprocess.run(command, cwd=folder, check=True)
        assert cv2.imread(f"{folder}/detections/photo_detected.jpg").shape == (128, 128, 3)
        with open(f"{folder}/detections/detections.json", encoding="utf-8") as file:
            assert len(json.load(file)["annotations"]) == 2


class TinyConfig(Config):
    NAME, BACKBONE, NUM_CLASSES = "smoke", "small_resnet", 2
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    IMAGES_PER_GPU, STEPS_PER_EPOCH, VALIDATION_STEPS = 1, 2, 1
    TRAIN_ROIS_PER_IMAGE, POST_NMS_ROIS_TRAINING = 16, 64


class OneSquare(Dataset):
    def load_image(self, image_id):
        return drawn_shapes()

    def load_mask(self, image_id):
        mask = np.zeros((128, 128, 1), bool)
        mask[20:61, 15:56] = True
        return mask, np.ones(1, np.int32)


def train_two_steps() -> None:
    dataset = OneSquare()
    dataset.add_class("drawn", 1, "square")
    dataset.add_image("drawn", 0, path=None)
    dataset.prepare()
    with tempfile.TemporaryDirectory() as folder:
        model = MaskRCNN("training", TinyConfig(), folder)
        history = model.train(dataset, dataset, 0.001, epochs=1, layers="all").history
        assert np.isfinite(history["loss"][0]) and np.isfinite(history["val_loss"][0]), history
        assert os.path.exists(model.find_last())
        print(f"trained: loss {history['loss'][0]:.2f}")


print(f"{mrcnn.__file__}, Keras {keras.__version__} on {keras.backend.backend()}, NumPy {np.__version__}")
assert all(len(golden_record(name)["scores"]) for name in GOLDEN)  # what `python -m mrcnn.verify` compares with
detect_shapes()
detect_by_the_command()
train_two_steps()
