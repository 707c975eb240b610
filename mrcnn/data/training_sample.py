"""One image with its ground truth: read, checked, resized and augmented.

Shapes:
    H0, W0  size of the image as read;  H, W after resizing
    C       config.IMAGE_CHANNEL_COUNT
    N       objects of which at least a pixel is left
    boxes are (y1, x1, y2, x2) in pixels of the resized image
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn.config import Config
from mrcnn.data import mask_bits
from mrcnn.data.augment import augment_sample
from mrcnn.data.augment_by_settings import AugmentBySettings
from mrcnn.data.dataset import Dataset, describe_image
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.ops import images
from mrcnn.ops.masks import minimize_resized, resize_inside_boxes
from mrcnn.ops.meta import compose_image_meta
from mrcnn.ops.pixel_values import to_channels
from mrcnn.ops.resize_modes import TOP_LEFT_MODES


def load_image_gt(
    dataset: Dataset,
    config: Config,
    image_id: int,
    augment: bool = False,
    augmentation: Any = None,
    use_mini_mask: bool = False,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loads an image and its ground truth, resized for the network.

    Args:
        dataset: prepared Dataset.
        config: Config.
        image_id: int, one of dataset.image_ids.
        augment: deprecated, use `augmentation`. Flips every second image, at random, from left to right.
        augmentation: imgaug augmenter, Keras layer or callable, see `mrcnn.data.augment`; or None.
        use_mini_mask: whether to cut masks out at their box and resize them to config.MINI_MASK_SHAPE.
        rng: source of randomness for crop and augmentation; None: the global random state, as in matterport's code.

    Returns:
        image: [H, W, C], resized; uint8 or float32, or any integers if config.IMAGE_RANGE leaves them as they are.
        image_meta: [12 + classes] float64, see `mrcnn.ops.meta`.
        class_ids: [N] int32; negative for a crowd.
        bbox: [N, (y1, x1, y2, x2)] int32.
        mask: [H, W, N] bool, or [h, w, N] of MINI_MASK_SHAPE.

    Raises:
        ValueError: image, masks and class ids don't fit together. The message names the dataset and the image, what
            was returned and what was expected.

    Example:
        >>> class Squares(Dataset):
        ...     def load_image(self, image_id):
        ...         return np.full((50, 80, 3), 127, np.uint8)
        ...
        ...     def load_mask(self, image_id):
        ...         masks = np.zeros((50, 80, 1), bool)
        ...         masks[10:30, 20:40, 0] = True
        ...         return masks, np.array([1])
        >>> dataset = Squares()
        >>> dataset.add_class("toys", 1, "square")
        >>> dataset.add_image("toys", 0, path=None)
        >>> dataset.prepare()
        >>> config = Config(NUM_CLASSES=2, IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128)
        >>> image, image_meta, class_ids, bbox, mask = load_image_gt(dataset, config, 0)
        >>> image.shape, class_ids.tolist(), bbox.tolist(), mask.shape
        ((128, 128, 3), [1], [[40, 32, 72, 64]], (128, 128, 1))
    """
    image, masks, class_ids = read_sample(dataset, config, image_id)
    steps = [flip_every_other] if augment else []
    steps += [] if augmentation is None else [augmentation]
    return mold_sample(dataset, config, image_id, image, masks, class_ids, steps, use_mini_mask, rng)


def read_sample(dataset: Dataset, config: Config, image_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first half of `load_image_gt`: reads and checks.

    Returns:
        image: [H0, W0, C] as `ops.pixel_values.to_channels` returns it.
        masks: [H0, W0, N] bool or any number type; a pixel that isn't 0 belongs to the object.
        class_ids: [N] int32.

    Raises:
        ValueError: see `load_image_gt`.
    """
    image = _to_input(dataset.load_image(image_id), config, describe_image(dataset, image_id))
    masks, class_ids = load_masks(dataset, image_id, size=image.shape[:2])
    return image, masks, class_ids


def mold_sample(
    dataset: Dataset,
    config: Config,
    image_id: int,
    image: np.ndarray,
    masks: np.ndarray,
    class_ids: np.ndarray,
    augmentations: Sequence[Any] = (),
    use_mini_mask: bool = False,
    rng: np.random.Generator | None = None,
    by_settings: AugmentBySettings | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The second half of `load_image_gt`: resizes and augments what `read_sample` returned. Same results and errors."""
    active_class_ids = active_classes(dataset, config, image_id)
    original_shape, dtype = image.shape, image.dtype
    if by_settings is not None:
        image, masks = by_settings.flip(image, masks, rng)
    jittered = by_settings is not None and config.SCALE_JITTER is not None
    resized = by_settings.resize(image, rng) if jittered else resize_for_training(image, config, rng)
    image, window, scale, (mask_scale, padding, crop) = resized
    mini_shape = tuple(config.MINI_MASK_SHAPE) if use_mini_mask else None
    if augmentations or (by_settings is not None and by_settings.changes_pixels()):
        pad_later = config.IMAGE_RESIZE_MODE in TOP_LEFT_MODES  # flipping would move the padding
        if pad_later:
            image = image[: window[2], : window[3]]
        if image.dtype != dtype:
            image = np.around(image).astype(dtype)  # augmenters take bytes
        planes = images.resize_mask_like_image(
            mask_bits.pack(masks), mask_scale, [(0, 0)] * 2 if pad_later else padding, crop
        )
        if by_settings is not None:
            image, planes, class_ids = by_settings.change_pixels(image, planes, class_ids, window, rng)
        for augmentation in augmentations:
            image, planes = augment_sample(augmentation, image, planes, len(class_ids), rng)
        if pad_later:
            image, planes = np.pad(image, padding), np.pad(planes, padding)
        bbox = mask_bits.boxes(planes, len(class_ids))
        mask = mask_bits.minimize(planes, bbox, mini_shape) if mini_shape else mask_bits.unpack(planes, len(class_ids))
    elif mini_shape:
        bbox, mask = minimize_resized(masks, mask_scale, padding, crop, mini_shape)
    else:
        bbox, mask = resize_inside_boxes(masks, mask_scale, padding, crop)
    visible = bbox[:, 2] > bbox[:, 0]
    check_class_ids(class_ids, dataset, image_id, visible)
    if not visible.all():  # objects that were empty, cropped or moved away, or lost in scaling down
        class_ids, bbox, mask = class_ids[visible], bbox[visible], mask[..., visible]
    image_meta = compose_image_meta(image_id, original_shape, image.shape, window, scale, active_class_ids)
    return image, image_meta, class_ids, bbox, mask


def resize_for_training(
    image: np.ndarray, config: Config, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, tuple, float, tuple]:
    """`ops.images.resize_image` by the settings and the convention.

    Returns:
        image [H, W, C], window and scale as there, and (scale of each axis, padding, crop) for
        `resize_mask_like_image`.
    """
    height, width = image.shape[:2]
    rules = config.convention
    resized, window, scale, padding, crop = images.resize_image(
        image, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM, min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE, rng=rng, rounding=rules.side_rounding, resampling=rules.resampling,
    )  # fmt: skip
    y1, x1, y2, x2 = window
    mask_scale = scale if crop is not None else ((y2 - y1) / height, (x2 - x1) / width)
    return resized, window, scale, (mask_scale, padding, crop)


def flip_every_other(
    image: np.ndarray, masks: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The augmentation of `augment=True`: flips an image and its masks from left to right with probability 0.5."""
    chance = random.random() if rng is None else rng.random()
    return (np.ascontiguousarray(image[:, ::-1]), masks[:, ::-1]) if chance < 0.5 else (image, masks)


def active_classes(dataset: Dataset, config: Config, image_id: int) -> np.ndarray:
    """Which classes the image's source annotates: [classes] int32, 1 or 0. The others don't count in its loss."""
    source = dataset.image_info[image_id]["source"]
    if source not in dataset.source_class_ids:
        raise ValueError(
            f"{describe_image(dataset, image_id)} is of source {source!r}, which has no class; sources with classes are"
            f" {[s for s in dataset.source_class_ids if s]}. Call add_class with the same source as add_image, and"
            " prepare() after both."
        )
    active = np.zeros(max(config.NUM_CLASSES, dataset.num_classes), np.int32)
    active[dataset.source_class_ids[source]] = 1
    return active


def _to_input(image: np.ndarray, config: Config, name: str) -> np.ndarray:
    return to_channels(image, config.IMAGE_CHANNEL_COUNT, name, config.IMAGE_RANGE, config.MEAN_PIXEL)
