"""The augmentation that `Config` sets: flip, scale jitter, copy-paste and color jitter, in this order.

`train` and `DataGenerator` apply it to training images, before an `augmentation=` of the user; never to the images that
`fit` validates on or `evaluate` measures. All random numbers come from a generator seeded by the sample's position in
the stream, so a resumed training sees the same images.

Shapes:
    image   [H, W, C] uint8 or float32
    masks   [H, W, N], not 0 where the object is;  planes [H, W, P] the same packed, see `mask_bits`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrcnn.config import Config
from mrcnn.data import mask_bits
from mrcnn.data.color_jitter import jitter_colors
from mrcnn.data.copy_paste import paste, visible_masks
from mrcnn.ops import scale_jitter
from mrcnn.ops.images import resize_mask_like_image
from mrcnn.ops.resize_modes import TOP_LEFT_MODES

Loaded = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, masks, class ids, as of `training_sample.read_sample`


@dataclass
class AugmentBySettings:
    """The augmentation of one sample.

    Args:
        config: Config.
        another: function that takes a random generator and returns another image of the dataset with the masks and
            class ids of the objects that may be pasted; None if there are none.
    """

    config: Config
    another: Callable[[np.random.Generator], Loaded | None]

    def changes_pixels(self) -> bool:
        """Whether more is done than flipping and resizing, for which masks need only their coordinates changed."""
        return bool(self.config.COPY_PASTE_PROBABILITY or self.config.COLOR_JITTER)

    def flip(self, image: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mirrors left to right with `FLIP_PROBABILITY`."""
        probability = self.config.FLIP_PROBABILITY
        if probability and rng.random() < probability:
            return np.ascontiguousarray(image[:, ::-1]), masks[:, ::-1]
        return image, masks

    def resize(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple, float, tuple]:
        """Like `training_sample.resize_for_training`, with a random scale and position."""
        config = self.config
        canvas, scale = self._canvas_and_scale(image)
        placed = self._place(image, canvas, scale, rng)
        resized = scale_jitter.draw(image, placed, config.convention.resampling)
        return resized, placed.window, placed.scale, scale_jitter.mask_arguments(image.shape[:2], placed)

    def change_pixels(
        self, image: np.ndarray, planes: np.ndarray, class_ids: np.ndarray, window: tuple, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pastes objects and changes colors inside the window; the padding stays as in detection.

        Args:
            image: [H, W, C], resized.
            planes: [H, W, P] of the N objects.
            class_ids: [N].
            window: (y1, x1, y2, x2), the part that is not padding.
            rng: source of randomness.

        Returns:
            image, planes and class ids of the objects that are still visible and of the pasted ones.
        """
        y1, x1, y2, x2 = window
        image, inside = image.copy(), image[y1:y2, x1:x2]
        found = self._objects_to_paste(class_ids, inside.shape[:2], rng)
        if found is not None:
            other, pasted, pasted_ids = found
            masks = mask_bits.unpack(planes[y1:y2, x1:x2], len(class_ids))
            masks, stays = visible_masks(masks, class_ids, pasted)
            masks = mask_bits.pack(np.concatenate([masks[..., stays], pasted], axis=-1))
            planes = np.zeros((*image.shape[:2], masks.shape[-1]), np.uint8)
            planes[y1:y2, x1:x2] = masks
            class_ids = np.concatenate([class_ids[stays], pasted_ids])
            inside = paste(inside, other.astype(image.dtype, copy=False), pasted)
        if self.config.COLOR_JITTER:
            inside = jitter_colors(inside, self.config.COLOR_JITTER, rng)
        image[y1:y2, x1:x2] = inside
        return image, planes, class_ids

    def _objects_to_paste(self, class_ids, canvas, rng) -> Loaded | None:
        """With `COPY_PASTE_PROBABILITY`, objects of another image; never for an image without objects."""
        probability = self.config.COPY_PASTE_PROBABILITY
        if not probability or rng.random() >= probability or not (class_ids > 0).any():
            return None
        found = self.another(rng)
        return None if found is None else self._objects_of(found, canvas, rng)

    def _objects_of(self, found: Loaded, canvas, rng) -> Loaded:
        """Draws a random subset of an image's objects on a canvas: [H, W, C], [H, W, K] bool, [K]."""
        image, masks, class_ids = found
        chosen = np.flatnonzero(rng.random(len(class_ids)) < 0.5)
        if not len(chosen):
            chosen = rng.integers(len(class_ids), size=1)
        image, masks = self.flip(image, masks[..., chosen], rng)
        placed = self._place(image, canvas, self._canvas_and_scale(image)[1], rng)
        drawn = scale_jitter.draw(image, placed, self.config.convention.resampling)
        masks = resize_mask_like_image(masks, *scale_jitter.mask_arguments(image.shape[:2], placed)) != 0
        seen = masks.any(axis=(0, 1))
        return drawn, masks[..., seen], class_ids[chosen[seen]]

    def _canvas_and_scale(self, image) -> tuple[tuple[int, int], float]:
        config = self.config
        return scale_jitter.canvas_and_scale(
            image.shape[:2], config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE,
            config.IMAGE_RESIZE_MODE, config.convention.side_rounding,
        )  # fmt: skip

    def _place(self, image, canvas, scale: float, rng) -> scale_jitter.Placement:
        factor = 1.0 if self.config.SCALE_JITTER is None else rng.uniform(*self.config.SCALE_JITTER)
        top_left = self.config.IMAGE_RESIZE_MODE in TOP_LEFT_MODES
        return scale_jitter.place(image.shape[:2], canvas, scale, rng, factor, top_left)
