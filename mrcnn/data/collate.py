"""Combines samples into a batch.

Shapes:
    B      images of a batch, all of the same shape [H, W, C]
    A      anchors;  T  config.RPN_TRAIN_ANCHORS_PER_IMAGE
    G      config.MAX_GT_INSTANCES; images with fewer objects are padded with zeros
    h, w   config.MINI_MASK_SHAPE, or H, W without USE_MINI_MASK
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mrcnn.config import Config
from mrcnn.data.sample_stream import Sample, SampleStream
from mrcnn.ops.images import clear_padding, subtract_mean
from mrcnn.ops.meta import WINDOW
from mrcnn.ops.resize_modes import TOP_LEFT_MODES

Batch = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and type of each array of a batch


def new_arrays(layout: Layout) -> Batch:
    """Arrays of zeros."""
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.items()}


def make_batch(
    samples: Sequence[Sample], stream: SampleStream, allocate: Callable[[Layout], Batch] = new_arrays
) -> Batch:
    """Combines samples into a batch, a dict as in `DataGenerator.__getitem__`.

    Where IMAGE_RESIZE_MODE pads on the right and below, images are padded to one shape first.

    Args:
        samples: B samples of `stream`.
        stream: SampleStream.
        allocate: returns the arrays of a batch, all but `input_image` filled with zeros.

    Raises:
        ValueError: the images have different shapes.
    """
    config = stream.config
    shapes = {sample.image.shape for sample in samples}
    if len(shapes) > 1:
        if config.IMAGE_RESIZE_MODE not in TOP_LEFT_MODES:
            raise ValueError(
                f"A batch has images of several shapes, {sorted(shapes)}, because IMAGE_RESIZE_MODE is"
                f' {config.IMAGE_RESIZE_MODE!r}. Use IMAGES_PER_GPU = 1, or the mode "square" or "crop".'
            )
        samples = stream.to_one_shape(samples)
    batch = allocate(batch_layout(samples, config))
    for i, sample in enumerate(samples):
        _fill(batch, i, sample, config)
    return batch


def batch_layout(samples: Sequence[Sample], config: Config) -> Layout:
    """Shapes and types of the arrays of a batch of these samples, all of the same shape."""
    count, shape, most = len(samples), samples[0].image.shape, config.MAX_GT_INSTANCES
    mask_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else shape[:2]
    layout = {
        "input_image": (shape, np.float32),
        "input_image_meta": (samples[0].image_meta.shape, np.float32),
        "input_rpn_match": ((samples[0].anchors, 1), np.int32),
        "input_rpn_bbox": ((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32),
        "input_gt_class_ids": ((most,), np.int32),
        "input_gt_boxes": ((most, 4), np.float32),
        "input_gt_masks": ((*mask_shape, most), bool),
    }
    return {name: ((count, *shape), np.dtype(dtype)) for name, (shape, dtype) in layout.items()}


def _fill(batch: Batch, i: int, sample: Sample, config: Config) -> None:
    """Writes a sample into row i of a batch as returned by `allocate`."""
    objects = len(sample.class_ids)
    subtract_mean(sample.image, config.MEAN_PIXEL, out=batch["input_image"][i])
    if config.convention.pad_with_mean and config.IMAGE_RESIZE_MODE in TOP_LEFT_MODES:
        clear_padding(batch["input_image"][i], sample.image_meta[WINDOW])
    batch["input_image_meta"][i] = sample.image_meta
    batch["input_rpn_match"][i, sample.positive] = 1
    batch["input_rpn_match"][i, sample.negative] = -1
    batch["input_rpn_bbox"][i, : len(sample.rpn_bbox)] = sample.rpn_bbox
    batch["input_gt_class_ids"][i, :objects] = sample.class_ids
    batch["input_gt_boxes"][i, :objects] = sample.boxes
    if config.USE_MINI_MASK:
        batch["input_gt_masks"][i, :, :, :objects] = sample.masks
        return
    for k, (y1, x1, y2, x2) in enumerate(sample.boxes):  # masks are empty outside of their boxes
        batch["input_gt_masks"][i, y1:y2, x1:x2, k] = sample.masks[y1:y2, x1:x2, k]
