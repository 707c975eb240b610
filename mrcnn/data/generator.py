"""Batches of training samples, for `MaskRCNN.fit` and for matterport's `data_generator`.

Shapes of a batch:
    B      images; all of one shape [H, W, C]
    A      anchors;  T  config.RPN_TRAIN_ANCHORS_PER_IMAGE
    G      config.MAX_GT_INSTANCES; images with fewer objects are padded with zeros
    h, w   config.MINI_MASK_SHAPE, or H, W without USE_MINI_MASK
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2
import keras
import numpy as np

from mrcnn.data.rpn_targets import build_detection_targets, generate_random_rois
from mrcnn.data.sample_stream import ROIS, SampleStream
from mrcnn.data.training_sample import flip_every_other
from mrcnn.ops.images import subtract_mean

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PIPE_BYTES = 2**20  # what Linux allows everybody


class DataGenerator(keras.utils.PyDataset):
    """Batches of a data set by number; hand it to `fit`.

    With `steps=None` an epoch shows each image exactly once, and its last batch may be smaller. With `steps` an epoch
    is so many full batches, and the next one goes on where it ended. `epoch` counts up by itself; set it to go on with
    an earlier training at the place where that one was. What a batch holds follows from seed, epoch and number only,
    not from the workers.

    Args:
        dataset: prepared Dataset.
        config: Config.
        shuffle: bool. Another order in each epoch.
        augmentation: see `data.augment`; or None.
        batch_size: int; None: config.BATCH_SIZE.
        steps: int, batches an epoch; or None.
        seed: int >= 0; None: config.SEED, and if that is None, one drawn from `np.random`.
        no_augmentation_sources: names of sources whose images aren't augmented; or None.
        workers: int. Threads that prepare batches, or processes:
        use_multiprocessing: bool. Processes start fresh and stay for the generator's life. They need a data set that
            can be pickled, defined in a module or in a script whose training is under `if __name__ == "__main__":`.
        max_queue_size: int. Batches prepared ahead, when there are several workers.
        shard: (index, count). Of each batch the index-th of count equal parts, for training in several processes that
            share the batches: process 0 the first images, and so on. All need the same seed.

    Raises:
        ValueError, TypeError: see `SampleStream`; or the batches have no such parts.
    """

    def __init__(self, dataset, config, shuffle=True, augmentation=None, batch_size=None, steps=None, seed=None,
                 no_augmentation_sources=None, workers=1, use_multiprocessing=False, max_queue_size=10,
                 shard=(0, 1)):  # fmt: skip
        # Keras would fork its processes anew each epoch, and a fork of a program that runs TensorFlow can hang. Its
        # threads wait for our processes instead.
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=max_queue_size)
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}; expected a whole number >= 1, or None for each image once an epoch.")
        self.batch_size = config.BATCH_SIZE if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected a whole number >= 1.")
        seed = config.SEED if seed is None else seed
        self.seed = int(np.random.randint(2**31)) if seed is None else seed
        augmentations = [] if augmentation is None else [augmentation]
        self.stream = SampleStream(dataset, config, shuffle, self.seed, augmentations, no_augmentation_sources)
        self.steps, self.epoch = steps, 0
        self.shard = _check_shard(shard, self.batch_size, self.last_batch_size)
        self._pool = _start_processes(self.stream, workers) if use_multiprocessing else None
        if self._pool is not None:
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __len__(self):
        """Batches of an epoch."""
        return self.steps or math.ceil(len(self.stream) / self.batch_size)

    @property
    def last_batch_size(self):
        """Images of an epoch's last batch, over all shards."""
        return self.batch_size if self.steps else (len(self.stream) - 1) % self.batch_size + 1

    def __getitem__(self, index):
        """Batch `index` of the present epoch, or its shard: a tuple of one dict, named as the model's inputs.

        Returns:
            input_image [B, H, W, C] float32, mean subtracted; input_image_meta [B, 12 + classes] float32;
            input_rpn_match [B, A, 1] int32; input_rpn_bbox [B, T, 4] float32; input_gt_class_ids [B, G] int32;
            input_gt_boxes [B, G, (y1, x1, y2, x2)] float32 pixels; input_gt_masks [B, h, w, G] bool.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}.")
        places, (part, parts) = self._places(index), self.shard
        size = len(places) // parts
        places = places[part * size : (part + 1) * size]
        samples = [self.stream.sample(place) for place in places] if self._pool is None else self._ask(places)
        return (collate(samples, self.stream.config),)

    def on_epoch_end(self):
        """Called by Keras after each epoch: the next one begins."""
        self.epoch += 1

    def _places(self, index):
        """Places in the stream of batch `index`, of all shards."""
        if self.steps:
            first = (self.epoch * self.steps + index) * self.batch_size
            return range(first, first + self.batch_size)
        first = self.epoch * len(self.stream)
        return range(first, first + len(self.stream))[index * self.batch_size : (index + 1) * self.batch_size]

    def _ask(self, places):
        try:
            return list(self._pool.map(_sample_in_process, places))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process ended unexpectedly; its own message is above. If it speaks of bootstrapping, put the"
                ' training under `if __name__ == "__main__":`; if a class can\'t be found, define it in a module; if'
                " memory ran out, use fewer workers. use_multiprocessing=False works with threads instead."
            ) from error

    def __getstate__(self):
        if self._pool is not None:
            raise TypeError("A DataGenerator with use_multiprocessing=True has processes and can't be pickled.")
        return self.__dict__


def _check_shard(shard, *batch_sizes):
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard is {shard}; expected (index, count), index 0..count - 1.")
    for size in batch_sizes:
        if size % count:
            raise ValueError(
                f"A batch of {size} images can't be cut into the {count} equal parts of shard={shard}; expected a"
                " multiple. Set batch_size so, and give `steps`, with which all batches are full."
            )
    return index, count


# ---- Worker processes ------------------------------------------------------------------------------------------------
_stream = None  # of a worker process


def _start_processes(stream, workers):
    module = type(stream.dataset).__module__
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(
            f"use_multiprocessing=True can't find {type(stream.dataset).__name__} in other processes, as it is defined"
            " in a notebook or shell. Move it to a .py file, or use threads: use_multiprocessing=False."
        )
    try:
        content = pickle.dumps(stream)
    except Exception as error:
        raise ValueError(
            f"use_multiprocessing=True needs data set, config and augmentation to be picklable: {error}. Define"
            " classes and functions at the top level of a module, or use threads: use_multiprocessing=False."
        ) from error
    return ProcessPoolExecutor(workers, mp_context=_WidePipes(), initializer=_start_worker, initargs=(content,))


class _WidePipes(type(multiprocessing.get_context("spawn"))):
    """The context "spawn" with pipes of 1 MB, where the system has them: a sample goes through in 4 pieces, not 50."""

    def SimpleQueue(self):
        queue = super().SimpleQueue()
        writer = getattr(queue, "_writer", None)  # Python's own, and no other way leads to it
        if hasattr(fcntl, "F_SETPIPE_SZ") and writer is not None:
            with contextlib.suppress(OSError):  # the user has too many pipes open; it works with narrow ones
                fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return queue


def _start_worker(content):
    global _stream
    cv2.setNumThreads(1)  # processes are the parallelism
    _stream = pickle.loads(content)


def _sample_in_process(place):
    return _stream.sample(place)


# ---- Batches ---------------------------------------------------------------------------------------------------------
def collate(samples, config):
    """Samples as one batch, a dict; see `DataGenerator.__getitem__`.

    Raises:
        ValueError: the images are not of one shape.
    """
    shapes = {sample.image.shape for sample in samples}
    if len(shapes) > 1:
        raise ValueError(
            f"A batch has images of several shapes, {sorted(shapes)}: IMAGE_RESIZE_MODE"
            f' {config.IMAGE_RESIZE_MODE!r} keeps them. Use IMAGES_PER_GPU = 1, or the mode "square" or "crop".'
        )
    count, shape, most = len(samples), samples[0].image.shape, config.MAX_GT_INSTANCES
    mask_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else shape[:2]
    batch = {
        "input_image": np.empty((count, *shape), np.float32),
        "input_image_meta": np.stack([sample.image_meta for sample in samples]).astype(np.float32),
        "input_rpn_match": np.zeros((count, samples[0].anchors, 1), np.int32),
        "input_rpn_bbox": np.zeros((count, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32),
        "input_gt_class_ids": np.zeros((count, most), np.int32),
        "input_gt_boxes": np.zeros((count, most, 4), np.float32),
        "input_gt_masks": np.zeros((count, *mask_shape, most), bool),
    }
    for i, sample in enumerate(samples):
        objects = len(sample.class_ids)
        subtract_mean(sample.image, config.MEAN_PIXEL, out=batch["input_image"][i])
        batch["input_rpn_match"][i, sample.positive] = 1
        batch["input_rpn_match"][i, sample.negative] = -1
        batch["input_rpn_bbox"][i, : len(sample.rpn_bbox)] = sample.rpn_bbox
        batch["input_gt_class_ids"][i, :objects] = sample.class_ids
        batch["input_gt_boxes"][i, :objects] = sample.boxes
        batch["input_gt_masks"][i, :, :, :objects] = sample.masks
    return batch


# ---- matterport's generator ------------------------------------------------------------------------------------------
def data_generator(dataset, config, shuffle=True, augment=False, augmentation=None, random_rois=0, batch_size=1,
                   detection_targets=False, no_augmentation_sources=None):  # fmt: skip
    """Batches without end, as lists in matterport's order.

    Args:
        dataset, config, shuffle, augmentation, batch_size, no_augmentation_sources: see `DataGenerator`.
        augment: bool. Deprecated, see `load_image_gt`.
        random_rois: int R. That many RoIs of `generate_random_rois` for each image are given as well.
        detection_targets: bool. With random_rois: also what `build_detection_targets` makes of them.

    Yields:
        inputs: [images, image_meta, rpn_match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks] as in `DataGenerator`;
            then [B, R, 4] RoIs, and then the [B, N, 4] RoIs chosen from them.
        outputs: []; or [class ids [B, N, 1], deltas [B, N, classes, 4], masks [B, N, 28, 28, classes]].
    """
    if detection_targets and not random_rois:
        raise ValueError("detection_targets=True needs RoIs to make them from; expected random_rois > 0.")
    augmentations = ([flip_every_other] if augment else []) + ([] if augmentation is None else [augmentation])
    seed = int(np.random.randint(2**31)) if config.SEED is None else config.SEED
    stream = SampleStream(dataset, config, shuffle, seed, augmentations, no_augmentation_sources)
    first = 0
    while True:
        places = range(first, first + batch_size)
        samples = [stream.sample(place) for place in places]
        inputs, outputs = list(collate(samples, config).values()), []
        if random_rois:
            rois, targets = _roi_targets(stream, places, samples, random_rois, detection_targets)
            inputs.append(np.stack(rois))
            if detection_targets:
                chosen, class_ids, deltas, masks = (np.stack(column) for column in zip(*targets))
                inputs.append(chosen)
                outputs = [class_ids[..., None], deltas, masks]
        yield inputs, outputs
        first += batch_size


def _roi_targets(stream, places, samples, count, with_targets):
    """Random RoIs for each sample, and what `build_detection_targets` makes of them: two lists."""
    rois, targets = [], []
    for place, sample in zip(places, samples):
        rng = stream.rng(place, ROIS)
        rois.append(generate_random_rois(sample.image.shape, count, sample.class_ids, sample.boxes, rng))
        if with_targets:
            truth = (sample.class_ids, sample.boxes, sample.masks)
            targets.append(build_detection_targets(rois[-1], *truth, stream.config, rng))
    return rois, targets
