"""`ImageBatches`: a `Dataset` as Keras's `fit` takes it, images and their objects, without training targets."""

from __future__ import annotations

import math

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.training_sample import load_image_gt


class ImageBatches(keras.utils.PyDataset):
    """Batches `(images, {"boxes", "labels", "masks", "is_crowd"})` of a dataset, for `fit`, `evaluate` and `predict`.

    Args:
        dataset: prepared Dataset.
        config: Config. Images are resized by its settings. Of more than MAX_GT_INSTANCES objects, the first are used.
        batch_size: int; None: config.BATCH_SIZE. The last batch of an epoch may be smaller.
        shuffle: whether each epoch has a different order.
        augmentation: see `mrcnn.data.augment`; or None.
        seed: int >= 0, for the order.
        workers: int, threads that prepare batches.

    Example:
        >>> dataset = Dataset()
        >>> dataset.load_image = lambda image_id: np.full((64, 64, 3), 127, np.uint8)
        >>> dataset.load_mask = lambda image_id: (np.ones((64, 64, 1), bool), np.array([1]))
        >>> dataset.add_class("toys", 1, "square")
        >>> dataset.add_image("toys", 0, path=None)
        >>> dataset.prepare()
        >>> config = Config(NUM_CLASSES=2, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, MAX_GT_INSTANCES=3)
        >>> images, truth = ImageBatches(dataset, config)[0]
        >>> images.shape, truth["boxes"].shape, truth["masks"].shape, truth["labels"].tolist()
        ((1, 64, 64, 3), (1, 3, 4), (1, 64, 64, 3), [[1, 0, 0]])
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        batch_size: int | None = None,
        shuffle: bool = False,
        augmentation: object = None,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__(workers=workers)
        if not len(dataset.image_ids):
            raise ValueError(f"{type(dataset).__name__} has no images; call prepare() after the last add_image().")
        self.dataset, self.config, self.augmentation = dataset, config, augmentation
        self.batch_size = config.BATCH_SIZE if batch_size is None else int(batch_size)
        self._rng = np.random.default_rng(seed)
        self.shuffle, self._order = shuffle, np.array(dataset.image_ids)
        self._shuffle_order()

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self._order) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Batch `index`: images [B, H, W, C], boxes [B, G, 4] float32 pixels, labels [B, G] int32, masks [B, H, W, G]
        bool, is_crowd [B, G] bool; rows without an object are 0."""
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        if not 0 <= index < len(self):
            raise IndexError(f"There is no batch {index}; an epoch has {len(self)}.")
        samples = [load_image_gt(self.dataset, self.config, i, augmentation=self.augmentation) for i in chosen]
        shapes = {sample[0].shape for sample in samples}
        if len(shapes) > 1:
            raise ValueError(
                f"A batch has images of several shapes, {sorted(shapes)}, because IMAGE_RESIZE_MODE is"
                f' {self.config.IMAGE_RESIZE_MODE!r}. Use batch_size=1, or the mode "square".'
            )
        most, (size,) = self.config.MAX_GT_INSTANCES, {shape[:2] for shape in shapes}
        truth = {
            "boxes": np.zeros((len(samples), most, 4), np.float32), "labels": np.zeros((len(samples), most), np.int32),
            "masks": np.zeros((len(samples), *size, most), bool), "is_crowd": np.zeros((len(samples), most), bool),
        }  # fmt: skip
        for i, (_, _, class_ids, boxes, masks) in enumerate(samples):
            rows = slice(0, min(most, len(class_ids)))
            truth["boxes"][i, rows], truth["labels"][i, rows] = boxes[rows], np.abs(class_ids[rows])
            truth["masks"][i, :, :, rows], truth["is_crowd"][i, rows] = masks[..., rows], class_ids[rows] < 0
        return np.stack([sample[0] for sample in samples]), truth

    def on_epoch_end(self) -> None:
        """Called by Keras after each epoch."""
        self._shuffle_order()

    def _shuffle_order(self) -> None:
        if self.shuffle:
            self._rng.shuffle(self._order)
