"""RoIAlign: cuts regions of interest out of feature maps (and masks) and resamples them bilinearly to one size.

Shapes and units:
    B  images     N  RoIs per image     C  channels     L  pyramid levels, P2 first
    boxes  [B, N, (y1, x1, y2, x2)] normalized to the molded image: (pixels - [0, 0, 1, 1]) / (size - 1), in [0, 1].
           On any map 0 is the center of the first pixel and 1 that of the last
    crop   (h, w) of the result: 7 x 7 for the class head, 14 x 14 for the mask head

Two sampling rules:
    "crop"     matterport's: one point per value, on an h x w grid from corner to corner of the box, as
               `tf.image.crop_and_resize` does. Points that rounding puts just outside the map are clamped into it;
               `crop_and_resize` turns a whole row of them into zeros.
    "aligned"  He et al., "Mask R-CNN", section 3, with detectron2's half-pixel correction: the box is divided into
               h x w cells, each the mean of samples x samples points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from mrcnn.ops.kernels import tensorflow_kernels
from mrcnn.ops.types import Tensor

FIRST_LEVEL, LAST_LEVEL = 2, 5
CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224.0  # a box of 224 x 224 pixels, ImageNet's size, goes to P4
MODES = ("crop", "aligned")
ROUNDING = 5 * 2.0**-24  # relative error of a point: five float32 operations, each with an error of at most 2^-24


def roi_levels(boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Assigns a pyramid level to each RoI: 4 for 224 x 224 pixels, one more for each doubling of the side.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] normalized.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) in pixels of the molded image, as in `image_meta`.

    Returns:
        [B, N] int32 in 2..5. Empty boxes (padding) go to 2.

    Reference: Lin et al., "Feature Pyramid Networks", equation 1.

    Example:

    >>> boxes = ops.convert_to_tensor([[[0.0, 0, 0.22, 0.22], [0, 0, 1, 1]]])
    >>> ops.convert_to_numpy(roi_levels(boxes, (1024, 1024))).tolist()
    [[4, 5]]
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    image_shape = ops.cast(image_shape, "float32")
    image_area = image_shape[..., 0] * image_shape[..., 1]
    if len(image_area.shape):
        image_area = image_area[:, None]  # [B, 1] against [B, N]
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    area = ops.maximum(height, 0.0) * ops.maximum(width, 0.0)
    is_box = area > 0
    side = ops.sqrt(ops.where(is_box, area, 1.0)) / (CANONICAL_SIZE / ops.sqrt(image_area))
    level = CANONICAL_LEVEL + ops.round(ops.log(side) / math.log(2.0))
    level = ops.where(is_box, ops.clip(level, FIRST_LEVEL, LAST_LEVEL), float(FIRST_LEVEL))
    return ops.cast(level, "int32")


def roi_align(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    crop_shape: tuple[int, int],
    mode: str = "crop",
    samples: int = 2,
    image_shape: Tensor | None = None,
) -> Tensor:
    """Resamples each RoI from its pyramid level to `crop_shape`.

    Args:
        feature_maps: list of [B, H_l, W_l, C], P2 first. float32, float16 or bfloat16.
        boxes: [B, N, (y1, x1, y2, x2)] normalized, finite. They are first clipped to the image.
        levels: [B, N] int, see `roi_levels`; 2 is the first of `feature_maps`.
        crop_shape: (h, w).
        mode: "crop" or "aligned", see the top of this file.
        samples: For "aligned": points per cell along each axis.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) of the molded image in pixels. "aligned" needs it.

    Returns:
        [B, N, h, w, C] in the dtype of the features, computed in float32. Differentiable with respect to the features
        and the boxes.

    Raises:
        ValueError: for an unknown mode, or "aligned" without `image_shape`.
    """
    if mode not in MODES:
        raise ValueError(f"roi_align got mode={mode!r}; expected one of {', '.join(map(repr, MODES))}.")
    if mode == "aligned" and image_shape is None:
        raise ValueError("roi_align with mode='aligned' needs image_shape, [height, width] of the molded image.")
    boxes = ops.clip(ops.cast(boxes, "float32"), 0.0, 1.0)
    level = ops.clip(ops.cast(levels, "int32") - FIRST_LEVEL, 0, len(feature_maps) - 1)  # [B, N] in 0..L-1
    sizes = [ops.convert_to_tensor(ops.shape(x)[1:3], "int32") for x in feature_maps]
    sizes = ops.take(ops.stack(sizes), level, axis=0)  # [B, N, 2], height and width of each RoI's map
    # One grid of points for "crop", samples x samples grids for "aligned", each given by its corners.
    grids = [boxes] if mode == "crop" else _sample_grids(boxes, sizes, image_shape, crop_shape, samples)
    if tf := tensorflow_kernels():
        crops = _crops_by_kernel(tf, feature_maps, grids, level, sizes, crop_shape, border=mode == "aligned")
    else:
        crops = _crops_by_gather(feature_maps, grids, level, sizes, crop_shape)
    crop = crops[0] if len(crops) == 1 else sum(crops[1:], crops[0]) / len(crops)
    return ops.cast(crop, feature_maps[0].dtype)


def crop_masks(masks: Tensor, boxes: Tensor, mask_index: Tensor, crop_shape: tuple[int, int]) -> Tensor:
    """Crops one mask per RoI and resamples it: the targets of the mask head.

    Args:
        masks: [B, G, h, w] bool or number.
        boxes: [B, N, (y1, x1, y2, x2)] normalized to the frame of the mask: 0 is the center of its first pixel, 1 of
            its last. A mini mask ends at its object's box, so RoIs may extend beyond it; points outside are 0.
        mask_index: [B, N] int in 0..G-1, which mask to crop.
        crop_shape: (h, w) of the result.

    Returns:
        [B, N, h, w] float32, in [0, 1] for 0/1 masks, not rounded. No gradient flows through it.
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    batch, count, height, width = ops.shape(masks)
    table = ops.reshape(ops.stop_gradient(ops.convert_to_tensor(masks)), (batch, count * height * width, 1))
    first = ops.cast(mask_index, "int32") * (height * width)
    heights, widths = ops.full_like(first, height), ops.full_like(first, width)
    ys, y_inside = _points(boxes[..., 0], boxes[..., 2], heights, crop_shape[0])
    xs, x_inside = _points(boxes[..., 1], boxes[..., 3], widths, crop_shape[1])
    crops = _bilinear(table, first, heights, widths, ys, xs)[..., 0]
    return ops.where(ops.logical_and(y_inside[..., :, None], x_inside[..., None, :]), crops, 0.0)


# ---- Where to sample ---------------------------------------------------------------------------------------------


def _points(low, high, size, count: int):
    """A row of evenly spaced points from corner to corner of the boxes.

    Args: low, high [B, N] normalized; size [B, N] int, pixels of the map.
    Returns: [B, N, count] in pixels, clamped to 0..size-1; [B, N, count] bool, whether the point was inside the map,
        up to rounding.
    """
    last = ops.cast(size, "float32") - 1.0
    if count == 1:
        points = (0.5 * (low + high) * last)[..., None]
    else:
        step = (high - low) * last / (count - 1)
        points = (low * last)[..., None] + ops.arange(count, dtype="float32") * step[..., None]
    last = last[..., None]
    slack = 3 * ROUNDING * last  # for boxes in -1..2
    inside = ops.logical_and(points >= -slack, points <= last + slack)
    return ops.clip(points, 0.0, last), inside


def _sample_grids(boxes, sizes, image_shape, crop_shape, samples: int):
    """For "aligned": the h x w grid of the first sample of all cells, that of the second, and so on.

    Args: boxes [B, N, 4] normalized; sizes [B, N, 2] of the maps; image_shape [2..3] or [B, 2..3].
    Returns: samples^2 boxes [B, N, 4], the first and the last point of each grid, normalized to the RoI's map. They
        exceed [0, 1] by half a pixel where the RoI touches the edge.
    """
    pixels = ops.cast(image_shape, "float32")[..., :2]
    pixels = ops.reshape(pixels, (-1, 1, 2))  # [B or 1, 1, 2]
    sizes = ops.cast(sizes, "float32")
    start = boxes[..., :2] * (pixels - 1.0) / pixels * sizes  # [B, N, 2], in pixels of the map, 0 is its edge
    end = (boxes[..., 2:] * (pixels - 1.0) + 1.0) / pixels * sizes
    cells = ops.convert_to_tensor([float(c) for c in crop_shape])
    last = ops.maximum(sizes - 1.0, 1.0)

    def corners(offset):
        """The points at `offset`, a fraction of a cell, in the first and the last cell."""
        low, high = offset / cells, (cells - 1.0 + offset) / cells
        return [(start + part * (end - start) - 0.5) / last for part in (low, high)]  # 0: first center

    fractions = [(i + 0.5) / samples for i in range(samples)]
    offsets = [ops.convert_to_tensor([y, x]) for y in fractions for x in fractions]
    return [ops.concatenate(corners(offset), axis=-1) for offset in offsets]


# ---- Sampling ----------------------------------------------------------------------------------------------------


def _crops_by_gather(feature_maps, grids, level, sizes, crop_shape):
    """For any backend: joins an image's maps into one table of pixels and gathers the neighbors of each point.

    Args: feature_maps L x [B, H_l, W_l, C]; grids list of [B, N, 4]; level [B, N] in 0..L-1; sizes [B, N, 2].
    Returns: list of [B, N, h, w, C] float32, one for each grid.
    """
    batch, channels = ops.shape(feature_maps[0])[0], feature_maps[0].shape[-1]
    starts, rows = [], 0  # first row of each level in the table
    for height, width in (ops.shape(x)[1:3] for x in feature_maps):
        starts.append(ops.convert_to_tensor(rows, "int32"))
        rows = rows + height * width
    table = ops.concatenate([ops.reshape(x, (batch, -1, channels)) for x in feature_maps], axis=1)  # [B, rows, C]
    first = ops.take(ops.stack(starts), level, axis=0)  # [B, N]
    heights, widths = sizes[..., 0], sizes[..., 1]
    crops = []
    for grid in grids:
        ys, _ = _points(grid[..., 0], grid[..., 2], heights, crop_shape[0])
        xs, _ = _points(grid[..., 1], grid[..., 3], widths, crop_shape[1])
        crops.append(_bilinear(table, first, heights, widths, ys, xs))
    return crops


def _bilinear(table, first, heights, widths, ys, xs):
    """Bilinear samples on a grid of each RoI.

    Args:
        table: [B, rows, C], pixels of all maps of an image, one after the other.
        first, heights, widths: [B, N] int32, first row of each RoI's map in the table, and the map's size.
        ys, xs: [B, N, h], [B, N, w] float32, inside the map.

    Returns:
        [B, N, h, w, C] float32.
    """
    top, bottom, y_part = _neighbours(ys, heights)
    left, right, x_part = _neighbours(xs, widths)
    row_top = first[..., None] + top * widths[..., None]  # [B, N, h]
    row_bottom = first[..., None] + bottom * widths[..., None]

    def pixels(row, column):
        return ops.cast(_gather_pixels(table, row[..., :, None] + column[..., None, :]), "float32")

    x_part = x_part[..., None, :, None]  # [B, N, 1, w, 1]
    upper, upper_right = pixels(row_top, left), pixels(row_top, right)
    upper = upper + (upper_right - upper) * x_part
    lower, lower_right = pixels(row_bottom, left), pixels(row_bottom, right)
    lower = lower + (lower_right - lower) * x_part
    return upper + (lower - upper) * y_part[..., :, None, None]


def _gather_pixels(table, index):
    """Rows of each image's table: [B, rows, C] and [B, N, h, w] int32 -> [B, N, h, w, C].

    JAX maps over the images, so devices that share a batch exchange nothing. The other backends use one table for all
    images, whose gradient is several times faster.
    """
    if keras.backend.backend() == "jax":
        return ops.vectorized_map(lambda image: ops.take(*image, axis=0), (table, index))
    batch, rows = ops.shape(table)[:2]
    table = ops.reshape(table, (batch * rows, table.shape[-1]))
    # int32 would overflow with 20 images of 100 masks of 1024 x 1024
    first = ops.arange(batch, dtype="int64") * ops.cast(rows, "int64")
    return ops.take(table, ops.cast(index, "int64") + ops.reshape(first, (-1, 1, 1, 1)), axis=0)


def _neighbours(points, size):
    """The pixels on both sides of each point, and the distance to the first of them.

    A NaN point takes pixel 0 and has a NaN distance, so the crop is NaN as well.
    """
    floor, ceil = ops.floor(points), ops.ceil(points)
    last = size[..., None] - 1
    low = ops.clip(ops.cast(ops.where(ops.isfinite(floor), floor, 0.0), "int32"), 0, last)
    high = ops.clip(ops.cast(ops.where(ops.isfinite(ceil), ceil, 0.0), "int32"), 0, last)
    return low, high, points - floor


def _crops_by_kernel(tf, feature_maps, grids, level, sizes, crop_shape, border: bool):
    """For TensorFlow: `crop_and_resize` on the RoIs of each level. Arguments and result as for `_crops_by_gather`.

    The kernel gives 0 for points outside the map. For "crop" it is enough to keep points away from the last pixel's
    center by the rounding error. The grids of "aligned" exceed the map by half a pixel, so the maps get a border.
    """
    maps = [ops.cast(x, "float32") for x in feature_maps]
    if not border:
        grids = [ops.minimum(grid, 1.0 - ROUNDING) for grid in grids]
    else:
        maps = [tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC") for x in maps]
        size = ops.tile(ops.cast(sizes, "float32"), (1, 1, 2))  # [B, N, 4]
        last = ops.maximum(size - 1.0, 1.0)
        grids = [(ops.clip(grid, -0.5 / last, 1.0 + 0.5 / last) * last + 1.0) / (size + 1.0) for grid in grids]
    batch, count = ops.shape(level)
    level = tf.reshape(level, [-1])
    rows = [tf.where(tf.equal(level, i))[:, 0] for i in range(len(maps))]
    rows = [tf.cast(row, tf.int32) for row in rows]
    crops = []
    for grid in grids:
        grid = tf.reshape(grid, [-1, 4])
        with tf.control_dependencies(crops[-1:]):  # sequential: in parallel they are no faster and need more memory
            parts = [_crop_kernel(tf, x, tf.gather(grid, row), row // count, crop_shape) for x, row in zip(maps, rows)]
            crop = tf.dynamic_stitch(rows, parts)
        crops.append(tf.reshape(crop, (batch, count, *crop_shape, maps[0].shape[-1])))
    return crops


def _crop_kernel(tf, image, boxes, image_index, crop_shape):
    """`tf.image.crop_and_resize` with a deterministic gradient.

    TensorFlow's gradient kernel adds up RoIs in several threads without a lock: where RoIs overlap, sums get lost, and
    repeating a step gives a different result (tensorflow/tensorflow#42033). This one takes about 10 ms longer per step.

    Args: image [B, H, W, C] float32; boxes [n, 4] that sample no point outside the image; image_index [n].
    Returns: [n, h, w, C].
    """

    @tf.custom_gradient
    def crop(image, boxes):
        def gradient(upstream):
            to_boxes = tf.raw_ops.CropAndResizeGradBoxes(
                grads=upstream, image=image, boxes=boxes, box_ind=image_index, method="bilinear"
            )
            return _image_gradient(tf, upstream, tf.shape(image), boxes, image_index), to_boxes

        return tf.image.crop_and_resize(image, boxes, image_index, crop_shape), gradient

    return crop(image, boxes)


def _image_gradient(tf, upstream, shape, boxes, image_index):
    """Adds each crop's gradient [n, h, w, C] to the four pixels around its points: [B, H, W, C]."""
    height, width, channels = shape[1], shape[2], shape[3]
    sizes = tf.ones_like(image_index)
    ys, _ = _points(boxes[:, 0], boxes[:, 2], sizes * height, upstream.shape[1])
    xs, _ = _points(boxes[:, 1], boxes[:, 3], sizes * width, upstream.shape[2])
    top, bottom, y_part = _neighbours(ys, sizes * height)
    left, right, x_part = _neighbours(xs, sizes * width)
    parts, pixels = [], []
    for row, y_weight in ((top, 1.0 - y_part), (bottom, y_part)):
        weighted = upstream * y_weight[:, :, None, None]
        row = (image_index[:, None] * height + row) * width
        for column, x_weight in ((left, 1.0 - x_part), (right, x_part)):
            parts.append(tf.reshape(weighted * x_weight[:, None, :, None], (-1, channels)))
            pixels.append(tf.reshape(row[:, :, None] + column[:, None, :], [-1]))
    count = shape[0] * height * width
    total = tf.math.unsorted_segment_sum(tf.concat(parts, 0), tf.concat(pixels, 0), count)
    return tf.reshape(total, shape)
