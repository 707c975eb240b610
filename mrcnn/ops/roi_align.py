"""RoIAlign: cuts regions of interest out of feature maps (and masks) and resamples them bilinearly to one size.

Shapes and units:
    B  images     N  RoIs per image     C  channels     L  pyramid levels, P2 first
    boxes  [B, N, (y1, x1, y2, x2)] normalized to the molded image: (pixels - [0, 0, 1, 1]) / (size - 1), in [0, 1].
           On any map 0 is the center of the first pixel and 1 that of the last. `roi_align_pixels` takes pixels
    crop   (h, w) of the result: 7 x 7 for the class head, 14 x 14 for the mask head

Sampling rules:
    "crop"       matterport's: one point per value, on an h x w grid from corner to corner of the box, as
                 `tf.image.crop_and_resize` does. Points that rounding puts just outside the map are clamped into it;
                 `crop_and_resize` turns a whole row of them into zeros.
    "aligned"    He et al., "Mask R-CNN", section 3: the box is divided into h x w cells, each the mean of several
                 samples (`ops.roi_cells`). A pixel of the image covers a square, and its center is at +0.5.
    "unaligned"  The same without that half pixel, as RoIAlign was first published: samples are half a pixel of the map
                 too far down and right. RoIs cover at least one pixel of the map. torchvision's detectors need it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import ops

from mrcnn.ops.kernels import tensorflow_kernels
from mrcnn.ops.roi_cells import pool_cells
from mrcnn.ops.roi_sampling import ROUNDING, bilinear, by_level, crop_kernel, join_maps, points_between
from mrcnn.ops.types import Tensor

FIRST_LEVEL, LAST_LEVEL = 2, 5
CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224.0  # a box of 224 x 224 pixels, ImageNet's size, goes to P4
LEVEL_RULES = ("round", "floor_after", "floor_before")


def roi_levels(boxes: Tensor, image_shape: Tensor, rule: str = "round") -> Tensor:
    """Assigns a pyramid level to each RoI: 4 for 224 x 224 pixels, one more for each doubling of the side.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] normalized.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) in pixels of the molded image, as in `image_meta`. For
            boxes in pixels (1, 1).
        rule: How 4 + log2(side / 224) becomes whole. "round": to the nearest, as in matterport's code. "floor_after":
            down, as in the paper, after adding 1e-6 (torchvision). "floor_before": down, with 1e-8 added to side / 224
            (detectron2).

    Returns:
        [B, N] int32 in 2..5. Empty boxes (padding) go to 2.

    Raises:
        ValueError: for an unknown rule.

    Reference: Lin et al., "Feature Pyramid Networks", equation 1.

    Example:

    >>> boxes = ops.convert_to_tensor([[[0.0, 0, 0.22, 0.22], [0, 0, 1, 1]]])
    >>> ops.convert_to_numpy(roi_levels(boxes, (1024, 1024))).tolist()
    [[4, 5]]
    """
    if rule not in LEVEL_RULES:
        raise ValueError(f"roi_levels got rule={rule!r}; expected one of {', '.join(map(repr, LEVEL_RULES))}.")
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    image_shape = ops.cast(image_shape, "float32")
    image_area = image_shape[..., 0] * image_shape[..., 1]
    if len(image_area.shape):
        image_area = image_area[:, None]  # [B, 1] against [B, N]
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    area = ops.maximum(height, 0.0) * ops.maximum(width, 0.0)
    is_box = area > 0
    side = ops.sqrt(ops.where(is_box, area, 1.0)) / (CANONICAL_SIZE / ops.sqrt(image_area))
    if rule == "floor_before":
        side = side + 1e-8
    doublings = ops.log(side) / math.log(2.0)
    if rule == "round":
        level = CANONICAL_LEVEL + ops.round(doublings)
    else:
        level = ops.floor(CANONICAL_LEVEL + doublings + (1e-6 if rule == "floor_after" else 0.0))
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
        samples: For "aligned": samples of a cell along each axis; 0: as many as the cell has pixels of the map, rounded
            up, for each RoI and axis.
        image_shape: [2..3] or [B, 2..3], (height, width, ...) of the molded image in pixels. "aligned" needs it.

    Returns:
        [B, N, h, w, C] in the dtype of the features, computed in float32. Differentiable with respect to the features,
        and the boxes unless `samples` is 0.

    Raises:
        ValueError: for an unknown mode, or "aligned" without `image_shape`.
    """
    if mode not in ("crop", "aligned"):
        raise ValueError(f"roi_align got mode={mode!r}; expected 'crop' or 'aligned'.")
    if mode == "aligned" and image_shape is None:
        raise ValueError("roi_align with mode='aligned' needs image_shape, [height, width] of the molded image.")
    boxes = ops.clip(ops.cast(boxes, "float32"), 0.0, 1.0)
    level, sizes = _maps_of(feature_maps, levels)
    tf = tensorflow_kernels()
    if mode == "aligned":
        pixels = ops.reshape(ops.cast(image_shape, "float32")[..., :2], (-1, 1, 2))  # [B or 1, 1, 2]
        scale = ops.cast(sizes, "float32") / pixels  # [B, N, 2], pixels of the map in one of the image
        start = boxes[..., :2] * (pixels - 1.0) * scale - 0.5
        size = ((boxes[..., 2:] - boxes[..., :2]) * (pixels - 1.0) + 1.0) * scale
        crop = pool_cells(tf, feature_maps, start, size, level, sizes, crop_shape, samples)
    elif tf:
        crop = _crop_by_kernel(tf, feature_maps, boxes, level, crop_shape)
    else:
        crop = _crop_by_gather(feature_maps, boxes, level, sizes, crop_shape)
    return ops.cast(crop, feature_maps[0].dtype)


def roi_align_pixels(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    crop_shape: tuple[int, int],
    strides: Sequence[int],
    aligned: bool = True,
    samples: int = 0,
) -> Tensor:
    """RoIAlign of boxes in pixels, as torchvision and detectron2 compute it.

    Args:
        feature_maps: list of [B, H_l, W_l, C], P2 first. float32, float16 or bfloat16.
        boxes: [B, N, (y1, x1, y2, x2)] float, pixels of the image; may be outside it.
        levels: [B, N] int, see `roi_levels`; 2 is the first of `feature_maps`.
        crop_shape: (h, w).
        strides: Pixels of the image in one pixel of each map.
        aligned: Whether pixel centers are at +0.5; see "aligned" and "unaligned" at the top of this file. False makes
            RoIs at least one pixel of the map large.
        samples: Samples of a cell along each axis; 0: as many as the cell has pixels of the map, rounded up, for each
            RoI and axis.

    Returns:
        [B, N, h, w, C] in the dtype of the features, computed in float32. Differentiable with respect to the features,
        and the boxes unless `samples` is 0.

    Example, a box of 4 x 4 pixels on a map with stride 2, whose rows hold 0, 1, 2, 3:

    >>> rows = ops.tile(ops.reshape(ops.arange(4.0), (1, 4, 1, 1)), (1, 1, 4, 1))
    >>> crop = roi_align_pixels([rows], ops.convert_to_tensor([[[2.0, 2, 6, 6]]]), ops.full((1, 1), 2), (2, 1), [2])
    >>> ops.convert_to_numpy(crop)[0, 0, :, 0, 0].tolist()
    [1.0, 2.0]
    """
    boxes = ops.cast(boxes, "float32")
    level, sizes = _maps_of(feature_maps, levels)
    scale = ops.take(ops.convert_to_tensor([1.0 / stride for stride in strides]), level, axis=0)[..., None]
    start = boxes[..., :2] * scale - (0.5 if aligned else 0.0)
    size = (boxes[..., 2:] - boxes[..., :2]) * scale
    size = size if aligned else ops.maximum(size, 1.0)
    crop = pool_cells(tensorflow_kernels(), feature_maps, start, size, level, sizes, crop_shape, samples)
    return ops.cast(crop, feature_maps[0].dtype)


def _maps_of(feature_maps, levels):
    """Index [B, N] in 0..L-1 and size [B, N, (height, width)], int32, of the map of each RoI."""
    level = ops.clip(ops.cast(levels, "int32") - FIRST_LEVEL, 0, len(feature_maps) - 1)
    sizes = [ops.convert_to_tensor(ops.shape(x)[1:3], "int32") for x in feature_maps]
    return level, ops.take(ops.stack(sizes), level, axis=0)


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
    ys, y_inside = points_between(boxes[..., 0], boxes[..., 2], heights, crop_shape[0])
    xs, x_inside = points_between(boxes[..., 1], boxes[..., 3], widths, crop_shape[1])
    crops = bilinear(table, first, heights, widths, ys, xs)[..., 0]
    return ops.where(ops.logical_and(y_inside[..., :, None], x_inside[..., None, :]), crops, 0.0)


# ---- matterport's crop -------------------------------------------------------------------------------------------
def _crop_by_gather(feature_maps, boxes, level, map_sizes, crop_shape):
    """For any backend. boxes [B, N, 4] normalized; level [B, N] in 0..L-1; map_sizes [B, N, 2]. -> [B, N, h, w, C]."""
    table, starts = join_maps(feature_maps)
    heights, widths = map_sizes[..., 0], map_sizes[..., 1]
    ys, _ = points_between(boxes[..., 0], boxes[..., 2], heights, crop_shape[0])
    xs, _ = points_between(boxes[..., 1], boxes[..., 3], widths, crop_shape[1])
    return bilinear(table, ops.take(starts, level, axis=0), heights, widths, ys, xs)


def _crop_by_kernel(tf, feature_maps, boxes, level, crop_shape):
    """For TensorFlow: `crop_and_resize` on the RoIs of each level. Arguments and result as for `_crop_by_gather`.

    The kernel gives 0 for points outside the map, so they are kept away from the last pixel's center by the rounding
    error.
    """
    maps = [ops.cast(x, "float32") for x in feature_maps]

    def crop(i, image_index, boxes):
        return crop_kernel(tf, maps[i], boxes, image_index, crop_shape)

    return by_level(tf, crop, level, len(maps), ops.minimum(boxes, 1.0 - ROUNDING))
