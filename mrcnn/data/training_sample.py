"""One image with its truth: read, checked, resized, augmented.

Shapes:
    H0, W0  the image as read;  H, W after resizing
    C       config.IMAGE_CHANNEL_COUNT
    N       objects of which something is left to see
    boxes are (y1, x1, y2, x2) in pixels of the resized image
"""

from __future__ import annotations

import random

import numpy as np

from mrcnn.data import mask_bits
from mrcnn.data.augment import augment_sample
from mrcnn.data.dataset import describe_image
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.ops import images
from mrcnn.ops.boxes import extract_bboxes
from mrcnn.ops.masks import minimize_resized
from mrcnn.ops.meta import compose_image_meta


def load_image_gt(dataset, config, image_id, augment=False, augmentation=None, use_mini_mask=False, rng=None):
    """Loads one image and the truth about it, resized for the network.

    Args:
        dataset: prepared Dataset.
        config: Config.
        image_id: int, one of dataset.image_ids.
        augment: bool. Deprecated: flips every other image from left to right. Use `augmentation`.
        augmentation: what `data.augment.augment_sample` takes (imgaug augmenter, callable, Keras layer), or None.
        use_mini_mask: bool. True: masks are cut out at their box and resized to config.MINI_MASK_SHAPE.
        rng: numpy.random.Generator for the crop and the augmentation; None: global random state, as matterport.

    Returns:
        image: [H, W, C], as read but resized; uint8, or float32 if it was read as floats.
        image_meta: [12 + classes] float64, see `ops.meta`.
        class_ids: [N] int32; negative for a crowd.
        bbox: [N, (y1, x1, y2, x2)] int32.
        mask: [H, W, N] bool, or [h, w, N] of MINI_MASK_SHAPE.

    Raises:
        ValueError: image, masks and class ids don't fit together; names the data set, the image and both sides.
    """
    image, masks, class_ids = read_sample(dataset, config, image_id)
    steps = [flip_every_other] if augment else []
    steps += [] if augmentation is None else [augmentation]
    return mold_sample(dataset, config, image_id, image, masks, class_ids, steps, use_mini_mask, rng)


def mold_sample(dataset, config, image_id, image, masks, class_ids, augmentations=(), use_mini_mask=False, rng=None):
    """The second half of `load_image_gt`: resizes and augments what `read_sample` gave. Same results and errors."""
    active_class_ids = active_classes(dataset, config, image_id)
    original_shape = image.shape
    image, window, scale, padding, crop = images.resize_image(
        image, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM, min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE, rng=rng,
    )  # fmt: skip
    mini_shape = tuple(config.MINI_MASK_SHAPE) if use_mini_mask else None
    if augmentations:
        planes = images.resize_mask(mask_bits.pack(masks), scale, padding, crop)
        for augmentation in augmentations:
            image, planes = augment_sample(augmentation, image, planes, len(class_ids), rng)
        bbox = mask_bits.boxes(planes, len(class_ids))
        mask = mask_bits.minimize(planes, bbox, mini_shape) if mini_shape else mask_bits.unpack(planes, len(class_ids))
    elif mini_shape:
        bbox, mask = minimize_resized(masks, scale, padding, crop, mini_shape)
    else:
        mask = images.resize_mask(masks, scale, padding, crop) != 0
        bbox = extract_bboxes(mask)
    there = bbox[:, 2] > bbox[:, 0]
    check_class_ids(class_ids, dataset, image_id, there)
    if not there.all():  # cropped or moved away, or lost in scaling down
        class_ids, bbox, mask = class_ids[there], bbox[there], mask[..., there]
    image_meta = compose_image_meta(image_id, original_shape, image.shape, window, scale, active_class_ids)
    return image, image_meta, class_ids, bbox, mask


def flip_every_other(image, masks, rng=None):
    """The augmentation behind `augment=True`: half of the images are flipped from left to right."""
    chance = random.random() if rng is None else rng.random()
    return (np.ascontiguousarray(image[:, ::-1]), masks[:, ::-1]) if chance < 0.5 else (image, masks)


# ---- Reading and checking --------------------------------------------------------------------------------------------
def read_sample(dataset, config, image_id):
    """What the data set gives for an image, checked and in one form.

    Returns:
        image: [H0, W0, C] uint8 or float32, values 0..255.
        masks: [H0, W0, N] of bool or any number type, not 0 for object.
        class_ids: [N] int32.

    Raises:
        ValueError: see `load_image_gt`.
    """
    image = _as_image(dataset.load_image(image_id), config, describe_image(dataset, image_id))
    masks, class_ids = load_masks(dataset, image_id, size=image.shape[:2])
    return image, masks, class_ids


def active_classes(dataset, config, image_id):
    """Which classes the image's source knows: [classes] int, 1 or 0. Objects of others may be there, but unmarked."""
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


def _as_image(image, config, name):
    image = np.asarray(image)
    own_range = np.max(config.MEAN_PIXEL) <= 1 and image.dtype.kind == "f" and image.ndim == 3
    if own_range and image.shape[-1] == config.IMAGE_CHANNEL_COUNT:
        return image.astype(np.float32)  # standardised by the user's load_image, whose MEAN_PIXEL says so
    return images.to_channels(image, config.IMAGE_CHANNEL_COUNT, name)
