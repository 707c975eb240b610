"""Anchors: boxes of a few sizes and shapes, laid over each cell of each level of the feature pyramid.

Shapes:
    L  pyramid levels, P2 first
    R  ratios; S scales of one level (matterport's Config has one)
    A  anchors of all levels: for the default Config at 1024 x 1024, 3 * (256² + 128² + 64² + 32² + 16²) = 261,888
Anchors are (y1, x1, y2, x2) in pixels of the molded image, float64, and may reach beyond it.
"""

from __future__ import annotations

import numpy as np


def backbone_shapes(image_shape, strides) -> np.ndarray:
    """Height and width of each pyramid level.

    Args:
        image_shape: (height, width), pixels, of the molded image; more entries are ignored.
        strides: [L] pixels, such as Config.BACKBONE_STRIDES.

    Returns:
        [L, (height, width)] int64, rounded up.
    """
    strides = np.asarray(strides)[:, None]
    return np.ceil(np.asarray(image_shape[:2]) / strides).astype(np.int64)


def generate_anchors(scales, ratios, shape, feature_stride, anchor_stride) -> np.ndarray:
    """Anchors of one pyramid level.

    Args:
        scales: number or [S]. Side of the square anchor, pixels. All ratios of a scale have the same area.
        ratios: [R]. Width / height.
        shape: (height, width) of the level's feature map, cells.
        feature_stride: number. Pixels of the image from one cell to the next.
        anchor_stride: int. 1: anchors at each cell; 2: at every second one.

    Returns:
        [cells * R * S, (y1, x1, y2, x2)] float64, pixels: row by row, cell by cell, in a cell by ratio and then by
        scale. This order is that of the RPN's outputs. The centre of a cell's anchors is its upper left pixel's corner.
    """
    scales, roots = np.meshgrid(np.atleast_1d(scales), np.sqrt(np.atleast_1d(ratios)))
    half_sizes = 0.5 * np.stack([(scales / roots).ravel(), (scales * roots).ravel()], axis=1)  # [R * S, (h, w)]
    ys = np.arange(0, shape[0], anchor_stride) * feature_stride
    xs = np.arange(0, shape[1], anchor_stride) * feature_stride
    centres = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 1, 2)  # [cells, 1, (y, x)]
    return np.concatenate([centres - half_sizes, centres + half_sizes], axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(scales, ratios, feature_shapes, feature_strides, anchor_stride) -> np.ndarray:
    """Anchors of all pyramid levels, the finest level first.

    Args:
        scales: [L]. Pixels: one scale a level.
        ratios: [R]. Width / height, the same on each level.
        feature_shapes: [L or more, (height, width)], cells, as `backbone_shapes` gives them.
        feature_strides: [L or more]. Pixels. Levels beyond L have no anchors.
        anchor_stride: int. 1: anchors at each cell; 2: at every second one.

    Returns:
        [A, (y1, x1, y2, x2)] float64, pixels.

    Raises:
        ValueError: a scale has no shape or no stride.
    """
    if len(scales) > min(len(feature_shapes), len(feature_strides)):
        raise ValueError(
            f"{len(scales)} anchor scales, {len(feature_shapes)} feature shapes and {len(feature_strides)} strides;"
            " expected one of each for every pyramid level."
        )
    levels = zip(scales, feature_shapes, feature_strides)
    anchors = [generate_anchors(scale, ratios, shape, stride, anchor_stride) for scale, shape, stride in levels]
    return np.concatenate(anchors) if anchors else np.zeros((0, 4))
