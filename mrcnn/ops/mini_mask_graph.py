"""Mini masks of tensors: `ops.masks.minimize_mask` inside a graph. Separate from `ops.masks`, which imports no Keras.

B images of H x W pixels, N objects, mini masks of h x w.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from mrcnn.ops.types import Tensor


def minimize_mask_graph(boxes: Tensor, masks: Tensor, mini_shape: Sequence[int]) -> Tensor:
    """`minimize_mask` for tensors, in float32: a pixel whose value is 0.5 up to rounding may differ.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)], pixels; rounded. A box without area gives an empty mask.
        masks: [B, H, W, N]. Pixels that are not 0 belong to the object.
        mini_shape: (h, w), pixels.

    Returns:
        [B, h, w, N] bool.
    """
    height, width, count = masks.shape[1:]
    boxes = ops.cast(ops.round(boxes), "int32")
    y, y_weights = _taps_graph(boxes[..., 0], boxes[..., 2], height, mini_shape[0])  # [B, N, 2h]
    x, x_weights = _taps_graph(boxes[..., 1], boxes[..., 3], width, mini_shape[1])  # [B, N, 2w]
    layers = ops.transpose(ops.cast(ops.cast(masks, "bool"), "uint8"), (0, 3, 1, 2))  # [B, N, H, W]
    places = y[..., None] * width + x[..., None, :]  # [B, N, 2h, 2w]
    rows, columns = places.shape[2:]
    pixels = ops.take_along_axis(
        ops.reshape(layers, (-1, count, height * width)), ops.reshape(places, (-1, count, rows * columns)), axis=2
    )
    pixels = ops.cast(ops.reshape(pixels, (-1, count, rows, columns)), "float32")
    values = pixels * y_weights[..., None] * x_weights[..., None, :]
    values = values[:, :, : rows // 2] + values[:, :, rows // 2 :]
    values = values[..., : columns // 2] + values[..., columns // 2 :]  # [B, N, h, w]
    # Margins blend with zeros outside the box, but a full piece stays full, as in `_shrink_masks`.
    full = ops.all(pixels > 0, axis=(2, 3), keepdims=True)
    has_area = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)[..., None, None]
    shrunk = ops.logical_and(ops.logical_or(values > 0.5, full), has_area)
    return ops.transpose(shrunk, (0, 2, 3, 1))


def _taps_graph(starts, ends, side: int, target: int):
    """`_bilinear_taps` for tensors [B, N]: source pixels, first all upper, then all lower ones, and their weights,
    [B, N, 2 * target]."""
    lengths = (ends - starts)[..., None]  # [B, N, 1]
    odd = ops.arange(1, 2 * target, 2, dtype="int32")  # twice the centers of the target pixels
    positions = ops.cast(odd * lengths - target, "float32") / (2 * target)  # [B, N, target]
    upper = ops.floor(positions)
    taps = ops.concatenate([upper, upper + 1], axis=-1)
    weights = 1 - ops.abs(ops.concatenate([positions, positions], axis=-1) - taps)
    taps = ops.cast(taps, "int32")
    inside = ops.logical_and(taps >= 0, taps < lengths)
    sources = ops.clip(starts[..., None] + ops.where(inside, taps, 0), 0, side - 1)
    return sources, weights * ops.cast(inside, "float32")
