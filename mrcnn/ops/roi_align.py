"""Cuts regions of interest out of feature maps (and masks) and resamples them to one size, bilinearly.

Shapes and values:
    B  images in the batch     N  RoIs in an image     C  channels     L  pyramid levels, P2 first
    boxes  [B, N, (y1, x1, y2, x2)] normalised: (pixels - [0, 0, 1, 1]) / (size - 1), in [0, 1]
    crop   (h, w) of the result: 7x7 for the class head, 14x14 for the mask head

Two rules where to sample:
    "crop"     matterport's: h x w points in a grid from the box's first to its last normalised corner, one sample a
               point, as `tf.image.crop_and_resize` does. Points that round out of the map are clamped into it, where
               `crop_and_resize` gives 0 (contract 1.7).
    "aligned"  He et al., "Mask R-CNN", section 3, with the half-pixel correction of detectron2: the box is cut into
               h x w cells, each the mean of samples x samples points.
"""

from __future__ import annotations

import math

from keras import ops

FIRST_LEVEL, LAST_LEVEL = 2, 5
OUTSIDE = 1e-4  # pixels; a point that is farther out than rounding explains
CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224.0  # a box of 224 x 224 pixels (ImageNet's crop) goes to P4


def roi_levels(boxes, image_shape):
    """The pyramid level of each RoI: 4 for 224 x 224 pixels, one up for each doubling of its side.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] normalised.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) in pixels of the molded image, as in `image_meta`.

    Returns:
        [B, N] int32 in 2..5. Empty boxes (padding) go to 2.

    Reference: Lin et al., "Feature Pyramid Networks", equation 1.
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    image_shape = ops.cast(image_shape, "float32")
    image_area = image_shape[..., 0] * image_shape[..., 1]
    if len(image_area.shape):
        image_area = image_area[:, None]  # [B, 1] against [B, N]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    is_box = ops.logical_and(boxes[..., 2] > boxes[..., 0], boxes[..., 3] > boxes[..., 1])
    is_box = ops.logical_and(is_box, area > 0)
    side = ops.sqrt(ops.where(is_box, area, 1.0)) / (CANONICAL_SIZE / ops.sqrt(image_area))
    level = CANONICAL_LEVEL + ops.round(ops.log(side) / math.log(2.0))
    level = ops.where(is_box, level, float(FIRST_LEVEL))
    return ops.cast(ops.clip(level, FIRST_LEVEL, LAST_LEVEL), "int32")


def roi_align(feature_maps, boxes, levels, crop_shape, mode: str = "crop", samples: int = 2, image_shape=None):
    """Resamples each RoI from its pyramid level to `crop_shape`.

    Args:
        feature_maps: list of [B, H_l, W_l, C], P2 first. float32, float16 or bfloat16.
        boxes: [B, N, (y1, x1, y2, x2)] normalised. Coordinates are computed in float32.
        levels: [B, N] int, of `roi_levels`; 2 is the first of `feature_maps`.
        crop_shape: (h, w).
        mode: "crop" or "aligned", see the top of this page.
        samples: int, for "aligned": points a cell and axis.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) of the molded image in pixels; "aligned" needs it.

    Returns:
        [B, N, h, w, C] in the dtype of the features. Differentiable with respect to the features, and in "crop" mode
        to the boxes.

    Raises:
        ValueError: for an unknown mode, or "aligned" without `image_shape`.
    """
    if mode not in ("crop", "aligned"):
        raise ValueError(f"roi_align got mode={mode!r}; expected 'crop' or 'aligned'.")
    if mode == "aligned" and image_shape is None:
        raise ValueError("roi_align with mode='aligned' needs image_shape, [height, width] of the molded image.")
    boxes = ops.cast(boxes, "float32")
    level = ops.clip(ops.cast(levels, "int32") - FIRST_LEVEL, 0, len(feature_maps) - 1)  # [B, N] in 0..L-1
    sizes = [ops.shape(x)[1:3] for x in feature_maps]
    heights = ops.take(ops.stack([ops.convert_to_tensor(h, "int32") for h, _ in sizes]), level, axis=0)  # [B, N]
    widths = ops.take(ops.stack([ops.convert_to_tensor(w, "int32") for _, w in sizes]), level, axis=0)
    if mode == "crop":
        ys, _ = _clamped(_corner_grid(boxes[..., 0], boxes[..., 2], heights, crop_shape[0]), heights)  # [B, N, h]
        xs, _ = _clamped(_corner_grid(boxes[..., 1], boxes[..., 3], widths, crop_shape[1]), widths)
    else:
        image_shape = ops.cast(image_shape, "float32")
        ys = _cell_grid(boxes[..., 0], boxes[..., 2], heights, image_shape[..., 0], crop_shape[0], samples)
        xs = _cell_grid(boxes[..., 1], boxes[..., 3], widths, image_shape[..., 1], crop_shape[1], samples)

    starts, start = [], 0
    for height, width in sizes:
        starts.append(ops.convert_to_tensor(start, "int32"))
        start = start + height * width
    channels = feature_maps[0].shape[-1]
    batch = ops.shape(boxes)[0]
    table = ops.concatenate(
        [ops.reshape(x, (batch, h * w, channels)) for x, (h, w) in zip(feature_maps, sizes)], axis=1
    )
    table = ops.reshape(table, (batch * start, channels))
    first = ops.take(ops.stack(starts), level, axis=0) + ops.arange(batch, dtype="int32")[:, None] * start  # [B, N]
    crops = _bilinear(table, first, heights, widths, ys, xs)  # [B, N, h (x samples), w (x samples), C]
    if mode == "aligned":
        shape = ops.shape(crops)
        crops = ops.reshape(crops, (*shape[:2], crop_shape[0], samples, crop_shape[1], samples, channels))
        crops = ops.mean(crops, axis=(3, 5))
    return ops.cast(crops, feature_maps[0].dtype)


def crop_masks(masks, boxes, mask_index, crop_shape):
    """Cuts one mask for each RoI and resamples it: the targets of the mask head.

    Args:
        masks: [B, G, h, w] bool or float.
        boxes: [B, N, (y1, x1, y2, x2)], normalised to the frame of the mask: 0 is the centre of its first pixel, 1 of
            its last. There is nothing outside: points there give 0, as in `crop_and_resize`.
        mask_index: [B, N] int in 0..G-1, which mask to cut.
        crop_shape: (h, w) of the result.

    Returns:
        [B, N, h, w] float32, in [0, 1] for 0/1 masks. Not rounded. Constant to the optimiser.
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    batch, count, height, width = ops.shape(masks)
    table = ops.reshape(ops.stop_gradient(masks), (batch * count * height * width, 1))
    index = ops.cast(mask_index, "int32")
    heights, widths = ops.full_like(index, height), ops.full_like(index, width)
    ys, y_inside = _clamped(_corner_grid(boxes[..., 0], boxes[..., 2], heights, crop_shape[0]), heights)
    xs, x_inside = _clamped(_corner_grid(boxes[..., 1], boxes[..., 3], widths, crop_shape[1]), widths)
    first = (ops.arange(batch, dtype="int32")[:, None] * count + index) * (height * width)
    inside = y_inside[..., :, None] * x_inside[..., None, :]
    return _bilinear(table, first, heights, widths, ys, xs)[..., 0] * inside


def _clamped(points, size):
    """Points [B, N, k] moved into the map, and [B, N, k] 1.0 where they lay in it, but for rounding, or 0.0."""
    last = (ops.cast(size, "float32") - 1.0)[..., None]
    inside = ops.logical_and(points > -OUTSIDE, points < last + OUTSIDE)
    return ops.clip(points, 0.0, last), ops.cast(inside, "float32")


def _corner_grid(low, high, size, count: int):
    """Points from corner to corner, in pixels of the map: low, high, size [B, N] -> [B, N, count]."""
    last = ops.cast(size, "float32") - 1.0
    if count == 1:
        return (0.5 * (low + high) * last)[..., None]
    step = (high - low) * last / (count - 1)
    return (low * last)[..., None] + ops.arange(count, dtype="float32") * step[..., None]


def _cell_grid(low, high, size, pixels, count: int, samples: int):
    """Points inside `count` equal cells, `samples` in each: low, high, size [B, N] -> [B, N, count * samples]."""
    if len(pixels.shape):
        pixels = pixels[:, None]
    size = ops.cast(size, "float32")
    scale = size / pixels  # 1 / stride
    start = low * (pixels - 1.0) * scale
    end = (high * (pixels - 1.0) + 1.0) * scale
    part = (ops.arange(count * samples, dtype="float32") + 0.5) / (count * samples)
    points = start[..., None] + part * (end - start)[..., None] - 0.5  # the centre of pixel 0 is at 0
    return ops.clip(points, 0.0, size[..., None] - 1.0)


def _bilinear(table, first, heights, widths, ys, xs):
    """Bilinear samples on a grid of each RoI.

    Args:
        table: [rows, C], pixels of all maps, one after the other.
        first, heights, widths: [B, N] int32, where the map of each RoI starts in the table, and its size.
        ys, xs: [B, N, h], [B, N, w] float32, inside the map.

    Returns:
        [B, N, h, w, C] float32.
    """
    top, bottom, y_part = _neighbours(ys, heights)
    left, right, x_part = _neighbours(xs, widths)
    row_top = first[..., None] + top * widths[..., None]  # [B, N, h]
    row_bottom = first[..., None] + bottom * widths[..., None]

    def pixels(row, column):
        return ops.cast(ops.take(table, row[..., :, None] + column[..., None, :], axis=0), "float32")

    x_part = x_part[..., None, :, None]  # [B, N, 1, w, 1]
    upper, upper_right = pixels(row_top, left), pixels(row_top, right)
    upper = upper + (upper_right - upper) * x_part
    lower, lower_right = pixels(row_bottom, left), pixels(row_bottom, right)
    lower = lower + (lower_right - lower) * x_part
    return upper + (lower - upper) * y_part[..., :, None, None]


def _neighbours(points, size):
    """Pixels on both sides of each point, and how far it is from the first. NaN gives NaN parts, but safe pixels."""
    floor, ceil = ops.floor(points), ops.ceil(points)
    last = size[..., None] - 1
    low = ops.clip(ops.cast(ops.where(ops.isfinite(floor), floor, 0.0), "int32"), 0, last)
    high = ops.clip(ops.cast(ops.where(ops.isfinite(ceil), ceil, 0.0), "int32"), 0, last)
    return low, high, points - floor
