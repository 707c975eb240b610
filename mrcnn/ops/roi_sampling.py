"""Bilinear sampling of feature maps on one grid of points per RoI, shared by all kinds of RoIAlign.

Shapes and units:
    B  images     N  RoIs per image     C  channels     L  maps, the levels of a pyramid
    points  in pixels of a map; 0 is the center of the first pixel
    (h, w)  points of a grid along each axis

Each function has a body for any backend, which gathers pixels, and one for a kernel of TensorFlow or PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras
from keras import ops

from mrcnn.ops.types import Tensor

if TYPE_CHECKING:
    from types import ModuleType

ROUNDING = 5 * 2.0**-24  # relative error of a point: five float32 operations, each with an error of at most 2^-24


def points_between(low: Tensor, high: Tensor, size: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A row of evenly spaced points from corner to corner of the boxes.

    Args:
        low, high: [B, N] normalized: 0 is the center of the first pixel, 1 of the last.
        size: [B, N] int, pixels of the map.
        count: Number of points; a tensor only if low equals high where it is 1.

    Returns:
        [B, N, count] in pixels, clamped to 0..size-1; [B, N, count] bool, whether the point was inside the map, up to
        rounding.
    """
    last = ops.cast(size, "float32") - 1.0
    if isinstance(count, int) and count == 1:
        points = (0.5 * (low + high) * last)[..., None]
    else:
        step = (
            (high - low)
            * last
            / (count - 1 if isinstance(count, int) else ops.cast(ops.maximum(count - 1, 1), "float32"))
        )
        points = (low * last)[..., None] + ops.arange(count, dtype="float32") * step[..., None]
    last = last[..., None]
    slack = 3 * ROUNDING * last  # for boxes in -1..2
    inside = ops.logical_and(points >= -slack, points <= last + slack)
    return ops.clip(points, 0.0, last), inside


# ---- Any backend -------------------------------------------------------------------------------------------------
def join_maps(feature_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Joins the maps of each image: [B, rows, C], pixels of all maps one after the other, and [L] int32, the first
    row of each map."""
    batch, channels = ops.shape(feature_maps[0])[0], feature_maps[0].shape[-1]
    starts, rows = [], 0
    for height, width in (ops.shape(x)[1:3] for x in feature_maps):
        starts.append(ops.convert_to_tensor(rows, "int32"))
        rows = rows + height * width
    table = ops.concatenate([ops.reshape(x, (batch, -1, channels)) for x in feature_maps], axis=1)
    return table, ops.stack(starts)


def bilinear(table: Tensor, first: Tensor, heights: Tensor, widths: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Bilinear samples on a grid of each RoI.

    Args:
        table: [B, rows, C], pixels of all maps of an image, one after the other.
        first, heights, widths: [B, N] int32, first row of each RoI's map in the table, and the map's size.
        ys, xs: [B, N, h], [B, N, w] float32, inside the map.

    Returns:
        [B, N, h, w, C] float32.
    """
    top, bottom, y_part = _neighbors(ys, heights)
    left, right, x_part = _neighbors(xs, widths)
    row_top = first[..., None] + top * widths[..., None]  # [B, N, h]
    row_bottom = first[..., None] + bottom * widths[..., None]
    if keras.backend.backend() == "torch":
        return _bilinear_by_bags(table, (row_top, row_bottom), (left, right), y_part, x_part)

    def pixels(row, column):
        return ops.cast(_gather_pixels(table, row[..., :, None] + column[..., None, :]), "float32")

    x_part = x_part[..., None, :, None]  # [B, N, 1, w, 1]
    upper, upper_right = pixels(row_top, left), pixels(row_top, right)
    upper = upper + (upper_right - upper) * x_part
    lower, lower_right = pixels(row_bottom, left), pixels(row_bottom, right)
    lower = lower + (lower_right - lower) * x_part
    return upper + (lower - upper) * y_part[..., :, None, None]


def _bilinear_by_bags(table, rows, columns, y_part, x_part):
    """For PyTorch: `embedding_bag` sums the four weighted pixels of a point without storing them (docs/processors.md).

    Args: table as for `bilinear`; rows 2 x [B, N, h] int32 and columns 2 x [B, N, w] int32, the pixels on both sides of
        each point; y_part, x_part their distances to the first. Returns: [B, N, h, w, C] float32.
    """
    import torch

    index = torch.stack([row[..., :, None] + column[..., None, :] for row in rows for column in columns], dim=-1)
    table, index = _join_images(table, index)  # index [B, N, h, w, 4]
    y_weights, x_weights = (1.0 - y_part, y_part), (1.0 - x_part, x_part)
    weights = torch.stack([y[..., :, None] * x[..., None, :] for y in y_weights for x in x_weights], dim=-1)
    samples = torch.nn.functional.embedding_bag(
        index.flatten(0, -2), table.to(torch.float32), per_sample_weights=weights.flatten(0, -2), mode="sum"
    )
    return samples.reshape(*index.shape[:-1], table.shape[-1])


def _gather_pixels(table, index):
    """Rows of each image's table: [B, rows, C] and [B, N, h, w] int32 -> [B, N, h, w, C].

    JAX maps over the images, so devices that share a batch exchange nothing. TensorFlow uses one table for all images,
    whose gradient is several times faster.
    """
    if keras.backend.backend() == "jax":
        return ops.vectorized_map(lambda image: ops.take(*image, axis=0), (table, index))
    table, index = _join_images(table, index)
    return ops.take(table, index, axis=0)


def _join_images(table, index):
    """One table for all images: [B, rows, C] -> [B * rows, C]; rows of each image's table [B, ...] -> int64 of this."""
    batch, rows = ops.shape(table)[:2]
    # int32 would overflow with 20 images of 100 masks of 1024 x 1024
    first = ops.arange(batch, dtype="int64") * ops.cast(rows, "int64")
    index = ops.cast(index, "int64") + ops.reshape(first, (-1, *(1,) * (len(index.shape) - 1)))
    return ops.reshape(table, (batch * rows, table.shape[-1])), index


def _neighbors(points, size):
    """The pixels on both sides of each point, and the distance to the first of them.

    A NaN point takes pixel 0 and has a NaN distance, so the crop is NaN as well.
    """
    floor, ceil = ops.floor(points), ops.ceil(points)
    last = size[..., None] - 1
    low = ops.clip(ops.cast(ops.where(ops.isfinite(floor), floor, 0.0), "int32"), 0, last)
    high = ops.clip(ops.cast(ops.where(ops.isfinite(ceil), ceil, 0.0), "int32"), 0, last)
    return low, high, points - floor


# ---- TensorFlow --------------------------------------------------------------------------------------------------
def by_level(tf: ModuleType, function: Callable, level: Tensor, level_count: int, *arrays: Tensor) -> Tensor:
    """Calls a function once per map, on the rows of the RoIs of that map, and puts the results back in order.

    Args:
        tf: The module `tensorflow`.
        function: Called with the number of the level, [n] the image of each RoI, and the rows of `arrays`; returns
            [n, ...].
        level: [B, N] int32 in 0..level_count - 1.
        level_count: L.
        *arrays: [B, N, K] each.

    Returns:
        [B, N, ...].
    """
    batch, count = ops.shape(level)
    flat = tf.reshape(level, [-1])
    rows = [tf.cast(tf.where(tf.equal(flat, i))[:, 0], tf.int32) for i in range(level_count)]
    arrays = [tf.reshape(x, (-1, x.shape[-1])) for x in arrays]
    parts = [function(i, row // count, *(tf.gather(x, row) for x in arrays)) for i, row in enumerate(rows)]
    result = tf.dynamic_stitch(rows, parts)
    return tf.reshape(result, (batch, count, *ops.shape(result)[1:]))


def crop_kernel(tf: ModuleType, image: Tensor, boxes: Tensor, image_index: Tensor, crop_shape: Sequence[int]) -> Tensor:
    """`tf.image.crop_and_resize` with a deterministic gradient.

    TensorFlow's gradient kernel adds up RoIs in several threads without a lock. Where RoIs overlap, additions get lost,
    and repeating a step gives a different result (tensorflow/tensorflow#42033). This one takes 10 ms more per step.

    Args:
        tf: The module `tensorflow`.
        image: [B, H, W, C] float32.
        boxes: [n, 4], normalized. Points outside the image give 0.
        image_index: [n] int32.
        crop_shape: (h, w), or [2] int32.

    Returns:
        [n, h, w, C].
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
    rows, columns = ops.shape(upstream)[1:3]
    ys, y_inside = points_between(boxes[:, 0], boxes[:, 2], sizes * height, rows)
    xs, x_inside = points_between(boxes[:, 1], boxes[:, 3], sizes * width, columns)
    top, bottom, y_part = _neighbors(ys, sizes * height)
    left, right, x_part = _neighbors(xs, sizes * width)
    y_inside, x_inside = tf.cast(y_inside, "float32"), tf.cast(x_inside, "float32")
    parts, pixels = [], []
    for row, y_weight in ((top, y_inside - y_inside * y_part), (bottom, y_inside * y_part)):
        weighted = upstream * y_weight[:, :, None, None]
        row = (image_index[:, None] * height + row) * width
        for column, x_weight in ((left, x_inside - x_inside * x_part), (right, x_inside * x_part)):
            parts.append(tf.reshape(weighted * x_weight[:, None, :, None], (-1, channels)))
            pixels.append(tf.reshape(row[:, :, None] + column[:, None, :], [-1]))
    count = shape[0] * height * width
    total = tf.math.unsorted_segment_sum(tf.concat(parts, 0), tf.concat(pixels, 0), count)
    return tf.reshape(total, shape)
