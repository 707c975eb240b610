"""Anchors: boxes of a few sizes and aspect ratios, centered on each cell of each level of the feature pyramid.

Shapes and units:
    L  pyramid levels, P2 first
    R  aspect ratios; S scales per level (1 in matterport's Config)
    A  anchors of all levels: 3 * (256² + 128² + 64² + 32² + 16²) = 261,888 for the default Config at 1024 x 1024
    anchors  [A, (y1, x1, y2, x2)] float64, pixels of the molded image; they may extend beyond it

`nn.anchors.Anchors` computes the same anchors in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def anchors_of_image(
    image_shape: Sequence[int],
    scales: Sequence[float],
    ratios: Sequence[float],
    strides: Sequence[int],
    anchor_stride: int = 1,
    level_shapes: Callable | None = None,
    rounding: bool = False,
    strides_from_maps: bool = False,
) -> np.ndarray:
    """Generates all anchors of an image; `Config.anchor_settings()` gives the arguments after the first.

    Args:
        image_shape: (height, width) of the molded image, pixels; further entries are ignored.
        scales: [L]. Side of the square anchor of each level, pixels; or, for a single level, a list of its sides.
        ratios: [R]. Width / height.
        strides: [L or more]. Pixels between neighboring cells of each level.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.
        level_shapes: Function from `image_shape` to the [L or more, (height, width)] of the levels, for a backbone
            whose levels are not the image's size divided by the strides.
        rounding: Round the corners of the anchors of a cell to whole pixels, half to even.
        strides_from_maps: Strides are the size of the image // the size of the map, for each axis.

    Returns:
        [A, (y1, x1, y2, x2)] float64, pixels, in the order of the RPN's outputs.

    Example:

    >>> anchors_of_image((64, 64), scales=[16], ratios=[1], strides=[32])
    array([[-8., -8.,  8.,  8.],
           [-8., 24.,  8., 40.],
           [24., -8., 40.,  8.],
           [24., 24., 40., 40.]])
    """
    shapes = backbone_shapes(image_shape, strides, level_shapes)
    if not rounding and not strides_from_maps and np.ndim(scales) == 1:
        return generate_pyramid_anchors(scales, ratios, shapes, strides, anchor_stride)
    levels = []
    for scale, shape, stride in zip(scales, shapes, strides):
        steps = np.asarray(image_shape[:2]) // shape if strides_from_maps else (stride, stride)
        ys, xs = (np.arange(0, n, anchor_stride) * step for n, step in zip(shape, steps))
        centers = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 1, 2)  # [cells, 1, (y, x)]
        levels.append((np.tile(centers, 2) + cell_anchors(scale, ratios, rounding)).reshape(-1, 4))
    return np.concatenate(levels)


def backbone_shapes(
    image_shape: Sequence[int], strides: Sequence[int], level_shapes: Callable | None = None
) -> np.ndarray:
    """Computes height and width of each pyramid level.

    Args:
        image_shape: (height, width) of the molded image, pixels; further entries are ignored.
        strides: [L], pixels.
        level_shapes: Function that gives the result instead; called with `image_shape`.

    Returns:
        [L, (height, width)] int64, rounded up.
    """
    if level_shapes is not None:
        return np.asarray(level_shapes(image_shape))
    return np.ceil(np.asarray(image_shape[:2]) / np.asarray(strides)[:, None]).astype(np.int64)


def cell_anchors(scales: float | ArrayLike, ratios: ArrayLike, rounding: bool = False) -> np.ndarray:
    """The anchors of a cell, relative to the point that they are centered on.

    Args:
        scales: Number or [S]. Side of the square anchor, pixels. All ratios of a scale have the same area.
        ratios: [R]. Width / height.
        rounding: Round the corners to whole pixels, half to even.

    Returns:
        [S * R, (y1, x1, y2, x2)] float64, pixels: ordered by scale, then ratio.

    Example:

    >>> cell_anchors(32, [2, 1, 0.5], rounding=True)
    array([[-11., -23.,  11.,  23.],
           [-16., -16.,  16.,  16.],
           [-23., -11.,  23.,  11.]])
    """
    scales, roots = np.meshgrid(np.atleast_1d(scales), np.sqrt(np.atleast_1d(ratios)), indexing="ij")
    half_sizes = 0.5 * np.stack([(scales / roots).ravel(), (scales * roots).ravel()], axis=1)
    corners = np.concatenate([-half_sizes, half_sizes], axis=1)
    return np.round(corners) if rounding else corners


def generate_anchors(
    scales: float | ArrayLike, ratios: ArrayLike, shape: Sequence[int], feature_stride: float, anchor_stride: int
) -> np.ndarray:
    """Generates the anchors of one pyramid level.

    Args:
        scales: Number or [S]. Side of the square anchor, pixels. All ratios of a scale have the same area.
        ratios: [R]. Width / height.
        shape: (height, width) of the level's feature map, cells.
        feature_stride: Pixels of the image from one cell to the next.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.

    Returns:
        [cells * R * S, (y1, x1, y2, x2)] float64, pixels: ordered by row, column, ratio, then scale, like the RPN's
        outputs. Anchors are centered on the upper left corner of their cell.
    """
    scales, roots = np.meshgrid(np.atleast_1d(scales), np.sqrt(np.atleast_1d(ratios)))
    half_sizes = 0.5 * np.stack([(scales / roots).ravel(), (scales * roots).ravel()], axis=1)  # [R * S, (h, w)]
    ys = np.arange(0, shape[0], anchor_stride) * feature_stride
    xs = np.arange(0, shape[1], anchor_stride) * feature_stride
    centers = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 1, 2)  # [cells, 1, (y, x)]
    return np.concatenate([centers - half_sizes, centers + half_sizes], axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(
    scales: Sequence[float],
    ratios: ArrayLike,
    feature_shapes: Sequence[Sequence[int]],
    feature_strides: Sequence[float],
    anchor_stride: int,
) -> np.ndarray:
    """Generates the anchors of all pyramid levels, the finest level first.

    Args:
        scales: [L], one per level, pixels.
        ratios: [R]. Width / height, the same on each level.
        feature_shapes: [L or more, (height, width)], cells; see `backbone_shapes`.
        feature_strides: [L or more], pixels. Levels beyond L have no anchors.
        anchor_stride: 1 places anchors on every cell, 2 on every second one.

    Returns:
        [A, (y1, x1, y2, x2)] float64, pixels.

    Raises:
        ValueError: if a scale has no shape or no stride.
    """
    if len(scales) > min(len(feature_shapes), len(feature_strides)):
        raise ValueError(
            f"{len(scales)} anchor scales, {len(feature_shapes)} feature shapes and {len(feature_strides)} strides;"
            " expected one of each for every pyramid level."
        )
    levels = zip(scales, feature_shapes, feature_strides)
    anchors = [generate_anchors(scale, ratios, shape, stride, anchor_stride) for scale, shape, stride in levels]
    return np.concatenate(anchors) if anchors else np.zeros((0, 4))
