"""A dataset without files, for tests of loading, augmentation and batches."""

from __future__ import annotations

import time

import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset


class TinyConfig(Config):
    NUM_CLASSES = 3
    IMAGES_PER_GPU = 2
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    MINI_MASK_SHAPE = (28, 28)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    MAX_GT_INSTANCES = 6
    TRAIN_ROIS_PER_IMAGE = 16


class Blocks(Dataset):
    """Images of different grays with bright blocks, the objects.

    Args:
        counts: objects of each image.
    """

    def __init__(self, counts=(1, 2, 3, 1, 2), source="blocks"):
        super().__init__()
        for i, name in enumerate(("red", "green")):
            self.add_class(source, i + 1, name)
        for i, count in enumerate(counts):
            self.add_image(source, i, None, count=count)
        self.prepare()

    def load_image(self, image_id):
        image = np.full((60 + image_id % 3, 80, 3), 10 + image_id, np.uint8)
        masks, _ = self.load_mask(image_id)
        image[masks.any(axis=-1)] = (250, 10 + image_id, 0)
        return image

    def load_mask(self, image_id):
        count = self.image_info[image_id]["count"]
        masks = np.zeros((60 + image_id % 3, 80, count), bool)
        for i in range(count):
            masks[5 + 3 * i : 25 + 5 * i, 4 + 7 * i : 24 + 9 * i, i] = True
        return masks, np.arange(count) % 2 + 1


class SlowBlocks(Blocks):
    """Loading image 4 takes long; image 5 can't be loaded."""

    def __init__(self):
        super().__init__(counts=(1, 2, 3, 1, 2, 1))

    def load_mask(self, image_id):
        if image_id == 4:
            time.sleep(1)
        if image_id == 5:
            raise OSError("cut off")
        return super().load_mask(image_id)
