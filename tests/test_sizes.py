"""Training on photos of several sizes: the resize modes "none" and "pad64"."""

from __future__ import annotations

import kit
import numpy as np
import pytest

from mrcnn.utils import Dataset

# The first two batches are of one size, later ones are not.
SIZES = [(64, 64), (64, 64), (64, 64), (128, 64), (64, 192), (128, 128)]


class Panes(Dataset):
    """One bright square on each photo."""

    def __init__(self):
        super().__init__()
        self.add_class("panes", 1, "square")
        for i in range(len(SIZES)):
            self.add_image("panes", i, path=None)
        self.prepare()

    def load_image(self, image_id):
        image = np.full((*SIZES[image_id], 3), 60, np.uint8)
        image[10:40, 12:50] = 220
        return image

    def load_mask(self, image_id):
        mask = np.zeros((*SIZES[image_id], 1), bool)
        mask[10:40, 12:50] = True
        return mask, np.array([1])


@pytest.mark.parametrize(("mode", "mini"), [("pad64", True), ("none", False)])
def test_batches_of_a_different_size_than_the_first(mode, mini, tmp_path):
    settings = {"IMAGE_RESIZE_MODE": mode, "IMAGE_MIN_DIM": 64, "USE_MINI_MASK": mini, "IMAGES_PER_GPU": 1}
    steps = {"STEPS_PER_EPOCH": len(SIZES), "VALIDATION_STEPS": 3, "SEED": 3}
    model = kit.tiny_model("training", tmp_path, **settings, **steps)
    dataset = Panes()
    history = model.train(dataset, dataset, 0.001, 2, "all").history
    assert np.all(np.isfinite(history["loss"])) and len(history["loss"]) == len(history["val_loss"]) == 2
    results = model.detect([dataset.load_image(i) for i in range(len(SIZES))])
    assert [result["masks"].shape[:2] for result in results] == SIZES
