"""Values of `Config` that follow from settings: batch size, image shape, length of the image meta."""

from __future__ import annotations

import numpy as np

DERIVED = ("BATCH_SIZE", "IMAGE_META_SIZE", "IMAGE_SHAPE")


class DerivedSettings:
    """Properties computed whenever they are read, so never stale. Setting one sets what it follows from."""

    @property
    def BATCH_SIZE(self) -> int:
        """Images in a batch, over all devices."""
        return self.IMAGES_PER_GPU * self.GPU_COUNT

    @BATCH_SIZE.setter
    def BATCH_SIZE(self, value: int) -> None:
        if value % self.GPU_COUNT:
            self.GPU_COUNT = 1
        self.IMAGES_PER_GPU = value // self.GPU_COUNT

    @property
    def IMAGE_SHAPE(self) -> np.ndarray:
        """[height, width, channels] of a molded image. In the modes "none" and "pad64" images may have other sizes."""
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        return np.array([side, side, self.IMAGE_CHANNEL_COUNT])

    @IMAGE_SHAPE.setter
    def IMAGE_SHAPE(self, value) -> None:
        height, width, channels = (int(v) for v in value)
        if height != width:
            raise ValueError(
                f"IMAGE_SHAPE is {list(value)}; expected a square, [d, d, channels]. For other shapes set"
                ' IMAGE_RESIZE_MODE = "pad64" (or "none"): then each image keeps its own.'
            )
        self.IMAGE_CHANNEL_COUNT = channels
        if self.IMAGE_RESIZE_MODE == "crop":
            self.IMAGE_MIN_DIM = height
            self.IMAGE_MAX_DIM = max(self.IMAGE_MAX_DIM, height)
        else:
            self.IMAGE_MAX_DIM = height
            self.IMAGE_MIN_DIM = min(self.IMAGE_MIN_DIM, height)

    @property
    def IMAGE_META_SIZE(self) -> int:
        """Length of the image_meta vector: id 1, original shape 3, shape 3, window 4, scale 1, one flag per class."""
        return 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @IMAGE_META_SIZE.setter
    def IMAGE_META_SIZE(self, value: int) -> None:
        if value != self.IMAGE_META_SIZE:
            raise ValueError(
                f"IMAGE_META_SIZE is {value}; it follows from NUM_CLASSES = {self.NUM_CLASSES} and must be"
                f" {self.IMAGE_META_SIZE}. Set NUM_CLASSES instead."
            )
