"""Batches of training samples: `DataGenerator` for `MaskRCNN.fit`, and matterport's `data_generator`.

Shapes:
    B      images of a batch, all of the same shape [H, W, C]
    A      anchors;  T  config.RPN_TRAIN_ANCHORS_PER_IMAGE
    G      config.MAX_GT_INSTANCES; images with fewer objects are padded with zeros
    h, w   config.MINI_MASK_SHAPE, or H, W without USE_MINI_MASK
"""

from __future__ import annotations

import collections
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.data.collate import make_batch
from mrcnn.data.dataset import Dataset
from mrcnn.data.rpn_targets import build_detection_targets, generate_random_rois
from mrcnn.data.sample_stream import ROIS, Sample, SampleStream
from mrcnn.data.training_sample import flip_every_other
from mrcnn.data.worker_processes import WorkerProcesses


class DataGenerator(keras.utils.PyDataset):
    """Batches of a dataset, for `MaskRCNN.fit`.

    With `steps=None` an epoch has each image exactly once, and its last batch may be smaller. With `steps` an epoch has
    that many full batches, and the next epoch continues where it ended. A batch depends only on the seed, the epoch and
    its index, not on the workers.

    Args:
        dataset: prepared Dataset.
        config: Config.
        shuffle: whether each epoch has a different order.
        augmentation: imgaug augmenter, Keras layer or callable, see `mrcnn.data.augment`; or None.
        batch_size: int; None: config.BATCH_SIZE.
        steps: int, batches per epoch; or None.
        seed: int >= 0; None: config.SEED, or a number drawn from `np.random` if that is None, too.
        no_augmentation_sources: names of sources whose images aren't augmented, or None.
        workers: int, threads or processes that prepare batches.
        use_multiprocessing: whether the workers are processes, each of which prepares whole batches, see
            `mrcnn.data.worker_processes`. They are started once, without forking, and need a dataset that can be
            pickled: its class is defined in a module, or in a script that trains under `if __name__ == "__main__":`.
        max_queue_size: int, batches prepared ahead if there are several workers.
        shard: (index, count), the part of each batch to return when several training processes share the batches; the
            first process gets the first images. All processes need the same seed.

    Attributes:
        epoch: int, counted up by Keras after each epoch. Set it to resume an earlier training.
        repeats: bool, whether each epoch has the batches of the first one, see `repeated`.
        by_settings: bool, whether images are augmented as `config` asks, see `data.augment_by_settings`.
        processes: WorkerProcesses, or None without use_multiprocessing.

    Raises:
        ValueError, TypeError: an argument doesn't fit the dataset, the config or the batch size.

    Example:
        >>> class Squares(Dataset):
        ...     def load_image(self, image_id):
        ...         return np.full((64, 64, 3), 127, np.uint8)
        ...
        ...     def load_mask(self, image_id):
        ...         masks = np.zeros((64, 64, 1), bool)
        ...         masks[10:30, 20:40, 0] = True
        ...         return masks, np.array([1])
        >>> dataset = Squares()
        >>> dataset.add_class("toys", 1, "square")
        >>> for i in range(6):
        ...     dataset.add_image("toys", i, path=None)
        >>> dataset.prepare()
        >>> config = Config(NUM_CLASSES=2, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, IMAGES_PER_GPU=4)
        >>> generator = DataGenerator(dataset, config)
        >>> len(generator), generator.last_batch_size
        (2, 2)
        >>> (batch,) = generator[0]
        >>> batch["input_image"].shape, batch["input_gt_masks"].shape
        ((4, 64, 64, 3), (4, 56, 56, 100))
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        shuffle: bool = True,
        augmentation: Any = None,
        batch_size: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        no_augmentation_sources: Iterable[str] | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        shard: tuple[int, int] = (0, 1),
    ):
        # Keras's own processes are forked in each epoch, and a fork of a program that runs TensorFlow can hang. Its
        # threads wait for `WorkerProcesses` instead.
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=max_queue_size)
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}; expected an int >= 1, or None for each image once per epoch.")
        self.batch_size = config.BATCH_SIZE if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected an int >= 1.")
        seed = config.SEED if seed is None else seed
        self.seed = int(np.random.randint(2**31)) if seed is None else seed
        augmentations = [] if augmentation is None else [augmentation]
        self.stream = SampleStream(dataset, config, shuffle, self.seed, augmentations, no_augmentation_sources)
        self.steps, self.epoch, self.repeats, self.first = steps, 0, False, 0
        self.by_settings = True
        self.shard = _check_shard(shard, self.batch_size, self.last_batch_size)
        if use_multiprocessing and shuffle and config.REPEAT_THRESHOLD:
            self.stream.repeat_factors()  # here, not in each process
        self.processes = WorkerProcesses(self.stream, workers, max_queue_size) if use_multiprocessing else None
        if self.processes is not None:
            weakref.finalize(self, self.processes.close)

    def __len__(self) -> int:
        """Batches per epoch."""
        return (self.steps or math.ceil(len(self.stream) / self.batch_size)) - self.first

    @property
    def last_batch_size(self) -> int:
        """Images in an epoch's last batch, over all shards."""
        return self.batch_size if self.steps else (len(self.stream) - 1) % self.batch_size + 1

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        """Batch `index` of the current epoch, or its shard, as a tuple of one dict whose keys are the model's inputs.

        Returns:
            input_image [B, H, W, C] float32, mean subtracted; input_image_meta [B, 12 + classes] float32;
            input_rpn_match [B, A, 1] int32; input_rpn_bbox [B, T, 4] float32; input_gt_class_ids [B, G] int32;
            input_gt_boxes [B, G, (y1, x1, y2, x2)] float32 pixels; input_gt_masks [B, h, w, G] bool.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"There is no batch {index}; an epoch has {len(self)}.")
        return (self._make(self._places(index)),)

    def check_workers(self) -> None:
        """Called by `fit` after each step. Raises `worker_processes.WorkerProcessError` if a process has ended."""
        if self.processes is not None:
            self.processes.check()

    def on_epoch_end(self) -> None:
        """Called by Keras after each epoch; moves on to the next one."""
        if not self.repeats:
            self.epoch += 1

    def view(self) -> DataGenerator:
        """A view with the same batches and its own epoch counter."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._owner = self  # which ends the worker processes when it is deleted
        return view

    def repeated(self) -> DataGenerator:
        """A view whose epochs all have the batches of the current epoch, not augmented by settings.

        `fit` and `evaluate` take this view of what they validate on, so that validation losses can be compared.
        """
        view = self.view()
        view.repeats, view.by_settings = True, False
        return view

    def rest_of_epoch(self, first: int) -> DataGenerator:
        """A view with the batches of the current epoch from number `first` on, to resume an interrupted training."""
        view = self.view()
        view.repeats, view.first = True, first
        return view

    def endless(self) -> Iterator[tuple[dict[str, np.ndarray]]]:
        """The batches of this and all further epochs, prepared by the workers. The generator's own epoch stays."""
        view = self.view()
        ahead = collections.deque()
        with ThreadPoolExecutor(self.workers) as threads:
            while True:
                for index in range(len(view)):
                    ahead.append(threads.submit(view._make, view._places(index)))
                    if len(ahead) == self.workers:
                        yield (ahead.popleft().result(),)
                view.on_epoch_end()

    def _make(self, places: Sequence[int]) -> dict[str, np.ndarray]:
        if self.processes is not None:
            return self.processes.batch(places, self.by_settings)
        return make_batch([self.stream.sample(place, self.by_settings) for place in places], self.stream)

    def _places(self, index: int) -> range:
        """Positions of batch `index`, or of its shard, in the stream."""
        index += self.first
        if self.steps:
            first = (self.epoch * self.steps + index) * self.batch_size
            places = range(first, first + self.batch_size)
        else:
            first = self.epoch * len(self.stream)
            places = range(first, first + len(self.stream))[index * self.batch_size : (index + 1) * self.batch_size]
        part, parts = self.shard
        size = len(places) // parts
        return places[part * size : (part + 1) * size]

    def __getstate__(self) -> dict[str, Any]:
        if self.processes is not None:
            raise TypeError(
                "A DataGenerator with use_multiprocessing=True can't be pickled, because it owns processes."
            )
        return self.__dict__


def _check_shard(shard: tuple[int, int], *batch_sizes: int) -> tuple[int, int]:
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard is {shard}; expected (index, count) with index in 0..count - 1.")
    for size in batch_sizes:
        if size % count:
            raise ValueError(
                f"A batch of {size} images can't be divided into the {count} equal parts of shard={shard}. Use a"
                f" batch_size that is a multiple of {count}, and set `steps`, so that all batches are full."
            )
    return index, count


# ---- matterport's generator ------------------------------------------------------------------------------------------
def data_generator(
    dataset: Dataset,
    config: Config,
    shuffle: bool = True,
    augment: bool = False,
    augmentation: Any = None,
    random_rois: int = 0,
    batch_size: int = 1,
    detection_targets: bool = False,
    no_augmentation_sources: Iterable[str] | None = None,
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yields batches without end, as lists in matterport's order.

    Args:
        dataset, config, shuffle, augmentation, batch_size, no_augmentation_sources: see `DataGenerator`.
        augment: deprecated, see `load_image_gt`.
        random_rois: int R. Adds R RoIs per image, made by `generate_random_rois`.
        detection_targets: whether to add the targets of these RoIs, made by `build_detection_targets`.

    Yields:
        inputs: [images, image_meta, rpn_match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks] as in `DataGenerator`;
            with random_rois also the RoIs [B, R, 4]; with detection_targets also the RoIs [B, N, 4] chosen from them.
        outputs: []; with detection_targets [class ids [B, N, 1], deltas [B, N, classes, 4], masks
            [B, N, 28, 28, classes]].

    Raises:
        ValueError: detection_targets without random_rois; or see `DataGenerator`.
    """
    if detection_targets and not random_rois:
        raise ValueError("detection_targets=True needs RoIs; expected random_rois > 0.")
    augmentations = ([flip_every_other] if augment else []) + ([] if augmentation is None else [augmentation])
    seed = int(np.random.randint(2**31)) if config.SEED is None else config.SEED
    stream = SampleStream(dataset, config, shuffle, seed, augmentations, no_augmentation_sources)
    first = 0
    while True:
        places = range(first, first + batch_size)
        samples = [stream.sample(place, by_settings=False) for place in places]
        inputs, outputs = list(make_batch(samples, stream).values()), []
        if random_rois:
            rois, targets = _roi_targets(stream, places, samples, random_rois, detection_targets)
            inputs.append(np.stack(rois))
            if detection_targets:
                chosen, class_ids, deltas, masks = (np.stack(column) for column in zip(*targets))
                inputs.append(chosen)
                outputs = [class_ids[..., None], deltas, masks]
        yield inputs, outputs
        first += batch_size


def _roi_targets(
    stream: SampleStream, places: Iterable[int], samples: Sequence[Sample], count: int, with_targets: bool
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, ...]]]:
    """Random RoIs of each sample, and their targets from `build_detection_targets` if asked for: two lists."""
    rois, targets = [], []
    for place, sample in zip(places, samples):
        rng = stream.rng(place, ROIS)
        rois.append(generate_random_rois(sample.image.shape, count, sample.class_ids, sample.boxes, rng))
        if with_targets:
            truth = (sample.class_ids, sample.boxes, sample.masks)
            targets.append(build_detection_targets(rois[-1], *truth, stream.config, rng))
    return rois, targets
