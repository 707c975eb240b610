"""RoIAlign of the paper: each RoI is divided into cells, and each cell is the mean of evenly spaced bilinear samples.

Shapes and units:
    B  images     N  RoIs per image     C  channels     L  maps, the levels of a pyramid     h x w  cells of a RoI
    RoI    start [B, N, (y, x)] and size [B, N, (y, x)] in pixels of its map; 0 is the center of the first pixel
    Samples up to one pixel outside the map repeat its edge; those further out are 0.

The samples of a cell form a grid, so RoIAlign is separable: pooled = Ay F Ax^T, with the map F [H, W], and Ay [h, H]
and Ax [w, W] the mean weight of each row and column in a cell.

Reference: He et al., "Mask R-CNN", section 3, "RoIAlign".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras import ops

from mrcnn.ops.roi_sampling import bilinear, by_level, crop_kernel, join_maps
from mrcnn.ops.types import Tensor

if TYPE_CHECKING:
    from types import ModuleType

ADAPTIVE = 0  # `samples`: as many as the cell has pixels, rounded up, for each RoI and axis
POINTS_PER_STEP = 2**17  # samples that are computed together: 134 MB with 256 channels
ROIS_PER_STEP = 64  # RoIs whose products with a map are computed together: 150 MB with a map of 336 columns


def pool_cells(
    tf: ModuleType,
    feature_maps: Sequence[Tensor],
    start: Tensor,
    size: Tensor,
    level: Tensor,
    map_sizes: Tensor,
    crop_shape: tuple[int, int],
    samples: int,
) -> Tensor:
    """Computes the cells of each RoI.

    Args:
        tf: `kernels.tensorflow_kernels()`.
        feature_maps: L x [B, H_l, W_l, C].
        start, size: [B, N, (y, x)] float32, pixels of the RoI's map.
        level: [B, N] int32 in 0..L-1.
        map_sizes: [B, N, (height, width)] int32 of the RoI's map.
        crop_shape: (h, w).
        samples: Samples of a cell along each axis, or `ADAPTIVE`. RoIs with a negative size are then 0.

    Returns:
        [B, N, h, w, C] float32.
    """
    cells = ops.convert_to_tensor([float(n) for n in crop_shape])
    if samples == ADAPTIVE:
        start, size = ops.stop_gradient(start), ops.stop_gradient(size)
        counts = ops.cast(ops.ceil(size / cells), "int32")  # [B, N, 2]
        if tf is None:
            return _adaptive_by_products(feature_maps, start, size, counts, level, crop_shape)
    else:
        counts = ops.full_like(map_sizes, samples)
        if tf is None:
            return _fixed_by_gather(feature_maps, start, size / cells, level, map_sizes, crop_shape, samples)
    return _by_kernel(tf, feature_maps, start, size, counts, level, map_sizes, crop_shape, samples)


# ---- TensorFlow --------------------------------------------------------------------------------------------------
def _by_kernel(tf, feature_maps, start, size, counts, level, map_sizes, crop_shape, samples):
    """`crop_and_resize` at all samples of the RoIs of a map, then the mean of each cell."""
    # The pixels at the edge are repeated once; the kernel then gives 0 exactly from one pixel outside the map on.
    edge = [[0, 0], [1, 1], [1, 1], [0, 0]]
    maps = [tf.pad(ops.cast(x, "float32"), edge, mode="SYMMETRIC") for x in feature_maps]
    extent = ops.cast(map_sizes, "float32") + 1.0
    has_samples = tf.reduce_all(counts > 0, axis=-1, keepdims=True)
    counts = tf.maximum(counts, 1)
    half = 0.5 * size / ops.cast(counts * ops.convert_to_tensor(crop_shape, "int32"), "float32")
    boxes = [(start + half + 1.0) / extent, (start + size - half + 1.0) / extent]  # the first and the last sample
    rois = ops.concatenate([*boxes, ops.cast(counts, "float32"), ops.cast(has_samples, "float32")], axis=-1)

    def pool(i, image_index, rois):
        boxes, counts, has_samples = rois[:, :4], tf.cast(rois[:, 4:6], tf.int32), rois[:, 6, None, None, None]
        if samples == ADAPTIVE:
            return _pool_sorted(tf, maps[i], image_index, boxes, counts, crop_shape) * has_samples
        crop = crop_kernel(tf, maps[i], boxes, image_index, [n * samples for n in crop_shape])
        return crop if samples == 1 else tf.nn.avg_pool2d(crop, samples, samples, "VALID")

    return by_level(tf, pool, level, len(maps), rois)


def _pool_sorted(tf, image, image_index, boxes, counts, crop_shape):
    """Crops the RoIs of one map, those with the same number of samples together.

    Args: image_index [n]; boxes [n, 4] from the first to the last sample; counts [n, 2]. Returns: [n, h, w, C].
    """
    cells = crop_shape[0] * crop_shape[1]
    channels = image.shape[-1]
    most = tf.reduce_max(tf.concat([counts[:, 1], [0]], 0)) + 1
    order = tf.argsort(counts[:, 0] * most + counts[:, 1], stable=True)
    boxes, counts, image_index = (tf.gather(x, order) for x in (boxes, counts, image_index))
    codes = counts[:, 0] * most + counts[:, 1]
    total = tf.shape(codes)[0]

    def more(row, steps, parts):
        return row < total

    def pool(row, steps, parts):
        count = counts[row]
        same = tf.searchsorted(codes, codes[row][None], side="right")[0]
        end = tf.minimum(same, row + tf.maximum(1, POINTS_PER_STEP // (count[0] * count[1] * cells)))
        part = slice(row, end)
        crop = crop_kernel(tf, image, boxes[part], image_index[part], count * crop_shape)
        mean = _mean_of_cells(tf, crop, count, crop_shape, channels)
        return end, steps + 1, parts.write(steps, mean)

    parts = tf.TensorArray(
        tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=(None, *crop_shape, channels)
    )
    parts = parts.write(0, tf.zeros((0, *crop_shape, channels)))  # an array without parts cannot be joined
    *_, parts = tf.while_loop(more, pool, (0, 1, parts), parallel_iterations=1)
    return tf.gather(parts.concat(), tf.math.invert_permutation(order))


def _mean_of_cells(tf, crop, count, crop_shape, channels):
    """[m, h * count_y, w * count_x, C] -> [m, h, w, C]."""
    (height, width), (y_count, x_count) = crop_shape, tf.unstack(count)
    x = tf.reshape(crop, (-1, y_count, width * x_count * channels))
    x = tf.reduce_sum(x, axis=1)  # two sums over a middle axis are several times faster than one over two axes
    x = tf.reduce_sum(tf.reshape(x, (-1, x_count, channels)), axis=1)
    return tf.reshape(x, (-1, height, width, channels)) / tf.cast(y_count * x_count, tf.float32)


# ---- Any backend -------------------------------------------------------------------------------------------------
def _fixed_by_gather(feature_maps, start, cell, level, map_sizes, crop_shape, samples):
    """The mean of samples x samples grids: of the first sample of all cells, of the second, and so on."""
    table, starts = join_maps(feature_maps)
    of_map = ops.take(starts, level, axis=0)  # [B, N]
    offsets = [(i + 0.5) / samples for i in range(samples)]

    def points(axis, offset):
        places = ops.arange(crop_shape[axis], dtype="float32") + offset
        row = start[..., axis, None] + places * cell[..., axis, None]  # [B, N, h or w]
        return _into_map(row, map_sizes[..., axis, None])

    total = 0.0
    for ys, y_inside in (points(0, offset) for offset in offsets):
        for xs, x_inside in (points(1, offset) for offset in offsets):
            crop = bilinear(table, of_map, map_sizes[..., 0], map_sizes[..., 1], ys, xs)
            total = total + crop * (y_inside[..., :, None] * x_inside[..., None, :])[..., None]
    return total / samples**2


def _into_map(points, size):
    """Moves points up to a pixel outside the map to its edge; 1.0 for these and those inside, 0.0 for others."""
    size = ops.cast(size, "float32")
    inside = ops.cast(ops.logical_and(points >= -1.0, points <= size), "float32")
    return ops.clip(points, 0.0, size - 1.0), inside


def _adaptive_by_products(feature_maps, start, size, counts, level, crop_shape):
    """For any backend, with static shapes: the two products of each RoI with its whole map, some RoIs at a time."""
    batch, count = ops.shape(level)
    step = max(1, ROIS_PER_STEP // batch) if isinstance(batch, int) else ROIS_PER_STEP
    steps = count // step + 1  # at least one row of padding, so that zero RoIs need no special case

    def in_steps(x):  # [B, N, ...] -> [steps, B, step, ...]
        x = ops.pad(x, [[0, 0], [0, steps * step - count]] + [[0, 0]] * (len(x.shape) - 2))
        return ops.swapaxes(ops.reshape(x, (batch, steps, step, *x.shape[2:])), 0, 1)

    maps = [ops.cast(x, "float32") for x in feature_maps]

    def pool(rois):
        start, size, counts, level = rois
        pooled = 0.0
        for i, image in enumerate(maps):
            here = ops.cast(ops.equal(level, i), "float32")[..., None, None]
            height, width = ops.shape(image)[1:3]
            rows = cell_weights(start[..., 0], size[..., 0], counts[..., 0], crop_shape[0], height) * here
            columns = cell_weights(start[..., 1], size[..., 1], counts[..., 1], crop_shape[1], width)
            x = ops.einsum("bnir,brxc->bnixc", rows, image)
            pooled = pooled + ops.einsum("bnixc,bnjx->bnijc", x, columns)
        return pooled

    pooled = ops.map(pool, tuple(in_steps(x) for x in (start, size, counts, level)))  # [steps, B, step, h, w, C]
    pooled = ops.swapaxes(pooled, 0, 1)
    return ops.reshape(pooled, (batch, steps * step, *crop_shape, maps[0].shape[-1]))[:, :count]


def cell_weights(start: Tensor, size: Tensor, counts: Tensor, cells: int, length: int) -> Tensor:
    """The matrix Ay or Ax of each RoI.

    Args:
        start, size: [B, N], pixels of the map.
        counts: [B, N] int32, samples per cell.
        cells: h or w.
        length: H or W, the rows or columns of the map.

    Returns:
        [B, N, cells, length] float32: the mean weight of each pixel in each cell.
    """
    pixels = ops.arange(length, dtype="float32")
    samples = ops.cast(ops.maximum(counts, 1), "float32")[..., None]  # [B, N, 1]
    cell = size[..., None] / cells
    first = start[..., None] + ops.arange(cells, dtype="float32") * cell  # [B, N, cells]
    most = ops.max(counts)

    def more(k, total):
        return k < most

    def add(k, total):
        part = ops.cast(k, "float32")
        point, inside = _into_map(first + (part + 0.5) / samples * cell, length)
        weight = inside * ops.cast(part < ops.cast(counts, "float32")[..., None], "float32") / samples
        near = ops.maximum(1.0 - ops.abs(point[..., None] - pixels), 0.0)  # [B, N, cells, length]
        return k + 1, total + near * weight[..., None]

    nothing = ops.zeros_like(first)[..., None] * pixels
    return ops.while_loop(more, add, (ops.convert_to_tensor(0, "int32"), nothing))[1]
