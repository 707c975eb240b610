"""Into the network and back: photos of any size -> molded batch, network output -> boxes and masks on the photos.

Shapes: H0 x W0 the photo, H x W the molded image (resized, padded, mean subtracted), D rows of detections, n of them in
use, C classes. Boxes are (y1, x1, y2, x2). `window` is the photo's box inside the molded image, in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.conventions import MATTERPORT
from mrcnn.data.image_reading import read_image
from mrcnn.inference.result_masks import SoftMasks
from mrcnn.ops import boxes as box_ops
from mrcnn.ops import images as image_ops
from mrcnn.ops.meta import compose_image_meta
from mrcnn.ops.pixel_values import to_channels

if TYPE_CHECKING:
    from mrcnn.config import Config


def mold_image(images: Any, config: Config) -> np.ndarray:
    """Subtracts `config.MEAN_PIXEL`: [..., H, W, C] of any number type -> float32."""
    return image_ops.subtract_mean(images, config.MEAN_PIXEL)


def unmold_image(normalized_images: np.ndarray, config: Config) -> np.ndarray:
    """The inverse of `mold_image`: adds the mean back -> uint8, cut off at 0 and 255."""
    return image_ops.add_mean(normalized_images, config.MEAN_PIXEL)


def mold_inputs(images: Any, config: Config) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """`resize_inputs`, then subtracts the mean: the network's inputs. `molded_images` are float32."""
    resized, metas, windows = resize_inputs(images, config)
    molded = [mold_image(image, config) for image in resized]
    if config.convention.pad_with_mean:
        for image, window in zip(molded, windows):
            image_ops.clear_padding(image, window)
    return molded, metas, windows


def read_photos(images: Any) -> list[np.ndarray]:
    """Reads the paths and URLs among the images of `detect`, rotated by their EXIF orientation.

    Args:
        images: list of arrays and paths, or one path.

    Raises:
        FileNotFoundError, ValueError: A file can't be read, or an entry is not an image. The message names it.
    """
    photos = list_photos(images)
    return [read_image(image, upright=True) if isinstance(image, (str, Path)) else image for image in photos]


def list_photos(images: Any) -> list[np.ndarray | str | Path]:
    """The arrays and paths passed to `detect`, as a list. Raises ValueError for entries that can't be images."""
    if isinstance(images, (str, Path)):
        images = [images]
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] <= 4:
        raise ValueError(f"images is one array of shape {images.shape}; expected a list: detect([image]).")
    images = list(images)
    for i, image in enumerate(images):
        if image is None:
            raise ValueError(
                f"images[{i}] is None; expected an array [height, width, 3] or a path. cv2.imread returns None for a"
                " file that it can't read; pass the path to detect to see what is wrong with the file."
            )
    return images


def resize_inputs(images: Any, config: Config) -> tuple:
    """Resizes and pads photos for the network.

    Args:
        images: list of [H0, W0, 3] RGB of any sizes, or anything else that `ops.pixel_values.to_channels` accepts.
        config: `Config`. The IMAGE_RESIZE_MODE "crop" is meant for training; here, the whole photo is scaled as for
            "crop" and padded as in "pad64".

    Returns:
        resized images: list of [H, W, channels], uint8 or float32; all of `config.IMAGE_SHAPE` in the mode "square".
        image_metas: [B, 12 + C].
        windows: [B, (y1, x1, y2, x2)].
    """
    images = read_photos(images)
    mode = "pad64" if config.IMAGE_RESIZE_MODE == "crop" else config.IMAGE_RESIZE_MODE
    multiple = 1 if config.BOX_HEAD == "c4" else config.convention.size_multiple
    fitted, metas, windows = [], [], []
    for i, image in enumerate(images):
        image = to_channels(image, config.IMAGE_CHANNEL_COUNT, f"images[{i}]", config.IMAGE_RANGE, config.MEAN_PIXEL)
        resized, window, scale, _, _ = image_ops.resize_image(
            image, config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE, mode,
            rounding=config.convention.side_rounding, resampling=config.convention.resampling,
        )  # fmt: skip
        if any(side % multiple for side in resized.shape[:2]):
            raise ValueError(
                f"images[{i}] is {image.shape[0]} x {image.shape[1]} pixels and IMAGE_RESIZE_MODE is"
                f' "{mode}"; both sides must be multiples of {multiple}. Use the mode "square" or "pad{multiple}".'
            )
        every_class = np.ones(config.NUM_CLASSES, np.int32)
        fitted.append(resized)
        metas.append(compose_image_meta(0, image.shape, resized.shape, window, scale, every_class))
        windows.append(window)
    return fitted, np.stack(metas), np.stack(windows)


def batches_of_one_shape(images: Sequence[np.ndarray], batch_size: int, most_pixels: float = np.inf) -> Iterator[slice]:
    """Yields slices of a list of images [H, W, ...] that can be stacked: consecutive, and of one shape.

    They are at most `batch_size` long, and have at most `most_pixels` pixels together if they are more than one image.
    """
    start = 0
    for end in range(1, len(images) + 1):
        height, width = images[start].shape[:2]
        full = end - start == batch_size or (end - start + 1) * height * width > most_pixels
        if full or end == len(images) or images[end].shape != images[start].shape:
            yield slice(start, end)
            start = end


def unmold_detections(
    detections: np.ndarray,
    mrcnn_mask: np.ndarray,
    original_image_shape: Sequence[int],
    image_shape: Sequence[int],
    window: Sequence[int],
    rules: Any = MATTERPORT,
) -> tuple:
    """One image's detections, from the molded image back onto the photo.

    Args:
        detections: [D, (y1, x1, y2, x2, class_id, score)], normalized to the molded image. The first row of class 0
            ends the list.
        mrcnn_mask: [D, 28, 28, C] probabilities; C is 1 if masks are class-agnostic.
        original_image_shape: (H0, W0, ...).
        image_shape: (H, W, ...).
        window: (y1, x1, y2, x2).
        rules: `Convention`.

    Returns:
        boxes [n, 4] in pixels of the photo, int32, or float32, depending on `rules`; class_ids [n] int32; scores [n]
        float32; masks [H0, W0, n] bool.
    """
    count = _count(detections)
    classes = detections[:count, 4].astype(np.int32) if mrcnn_mask.shape[-1] > 1 else np.zeros(count, np.int32)
    masks = mrcnn_mask[np.arange(count), :, :, classes]
    boxes, class_ids, scores, masks = place_on_photo(
        detections, masks, original_image_shape, image_shape, window, rules
    )
    return boxes, class_ids, scores, masks.dense()


def place_on_photo(
    detections: np.ndarray,
    masks: np.ndarray,
    original_image_shape: Sequence[int],
    image_shape: Sequence[int],
    window: Sequence[int],
    rules: Any = MATTERPORT,
) -> tuple:
    """`unmold_detections` for masks [n or more, 28, 28] of the detected classes only.

    Returns:
        boxes, class_ids and scores as above, and the masks as `SoftMasks`, which are pasted on access.
    """
    count = _count(detections)
    class_ids = detections[:count, 4].astype(np.int32)
    scores = detections[:count, 5].astype(np.float32)
    masks = masks[:count]
    window = box_ops.norm_boxes(np.asarray(window), image_shape[:2], rules.box_offset)
    origin, size = np.tile(window[:2], 2), np.tile(window[2:] - window[:2], 2)
    # A photo reduced to one pixel in a direction has no extent in the network; its boxes span the whole photo there.
    boxes = np.where(size > 0, (detections[:count, :4] - origin) / np.where(size > 0, size, 1), [0, 0, 1, 1])
    boxes = box_ops.denorm_boxes(boxes, original_image_shape[:2], rules.box_offset, rules.whole_pixels)
    boxes = np.clip(boxes, 0, np.tile(original_image_shape[:2], 2)).astype(boxes.dtype)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes = boxes[real]
    soft = SoftMasks(masks[real], boxes.copy(), original_image_shape[:2], rules.mask_paste)
    return boxes, class_ids[real], scores[real], soft


def _count(detections) -> int:
    """The number of rows of [D, 6] in use: those before the first row of class 0."""
    ends = np.flatnonzero(detections[:, 4] == 0)
    return int(ends[0]) if len(ends) else len(detections)
