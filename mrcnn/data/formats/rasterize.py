"""Shapes as masks: polygons, rectangles, circles, ellipses, lines, points.

A pixel belongs to a shape if its center, at whole coordinates (y, x), is in it or on its border. The result is that of
`skimage.draw.polygon`, which matterport used, in a thirtieth of the time.

Shapes:
    V     corners of a polygon
    mask  [H, W] bool
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mrcnn.data.formats import limits

CORNERS_OF_ELLIPSE = 360  # enough to be within a tenth of a pixel of one of 1000 pixels


def polygon(height: int, width: int, ys: Sequence[float], xs: Sequence[float]) -> np.ndarray:
    """The inside of a polygon; where it crosses itself, by the even-odd rule.

    Args:
        height, width: int, of the mask. The part of the shape outside of it is cut off.
        ys, xs: [V] numbers; the last corner is joined to the first.

    Returns:
        [height, width] bool.
    """
    return rings(height, width, [(ys, xs)])


def rings(height: int, width: int, polygons: Sequence[tuple[Sequence[float], Sequence[float]]]) -> np.ndarray:
    """The pixels in an odd number of polygons, or on the border of one: a polygon within another is a hole.

    Args:
        height, width: int, of the mask. The part of the shape outside of it is cut off.
        polygons: list of (ys, xs), [V] numbers each.

    Returns:
        [height, width] bool.
    """
    mask = np.zeros((height, width), bool)
    corners = [np.array(polygon, np.float64) for polygon in polygons if len(polygon[0])]
    if not corners:
        return mask
    y1, x1 = np.concatenate(corners, axis=1)
    _check_corners(y1, x1, height, width)
    y2, x2 = np.concatenate([np.roll(polygon, -1, axis=1) for polygon in corners], axis=1)
    top, bottom = max(int(np.ceil(y1.min())), 0), min(int(np.floor(y1.max())) + 1, height)
    left, right = max(int(np.ceil(x1.min())), 0), min(int(np.floor(x1.max())) + 1, width)
    if top >= bottom or left >= right:
        return mask
    inside = mask[top:bottom, left:right]
    edges = y1 - top, x1 - left, y2 - top, x2 - left
    rows, crossings, counts = _row_crossings(*edges, bottom - top)
    # Right of a crossing, inside becomes outside and the other way round.
    changes = np.zeros((bottom - top, right - left + 1), np.uint8)
    columns = np.clip(np.ceil(crossings[counts]), 0, right - left).astype(int)
    np.add.at(changes, (rows[counts], columns), 1)
    inside[:] = np.bitwise_xor.accumulate(changes & 1, axis=1)[:, :-1]
    whole = (crossings == np.around(crossings)) & (crossings >= 0) & (crossings < right - left)
    inside[rows[whole], crossings[whole].astype(int)] = True  # the border itself
    _draw_level_edges(inside, *edges)
    return mask


def _check_corners(ys: np.ndarray, xs: np.ndarray, height: int, width: int) -> None:
    """Raises ValueError if drawing would overflow or take gigabytes; formats check this when they open a file."""
    far = (1 + limits.FAR) * max(height, width)
    if not (np.abs(ys) <= far).all() or not (np.abs(xs) <= far).all():
        raise ValueError(f"a shape has a corner that is further away than {far} pixels, or no number")
    length = np.abs(np.diff(ys)).sum() + np.abs(np.diff(xs)).sum()
    if length > 2 * limits.MAX_OUTLINE:
        raise ValueError(f"the outline of a shape is {length:.0f} pixels long; expected {limits.MAX_OUTLINE} or less")


def _row_crossings(
    y1: np.ndarray, x1: np.ndarray, y2: np.ndarray, x2: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges from (y1, x1) to (y2, x2) meet the rows 0..height-1.

    Returns:
        rows [P] int, x [P] float, and which of them count for inside and outside [P] bool: an edge counts at its upper
        end and not at its lower one, so that two edges that meet in a row aren't counted twice.
    """
    down = y1 <= y2
    (y1, y2), (x1, x2) = (
        (np.where(down, a, b) for a, b in ((y1, y2), (y2, y1))),
        (np.where(down, a, b) for a, b in ((x1, x2), (x2, x1))),
    )
    first, last = np.maximum(np.ceil(y1), 0).astype(int), np.minimum(np.floor(y2), height - 1).astype(int)
    counts = np.where(y1 < y2, np.maximum(last - first + 1, 0), 0)
    edge = np.repeat(np.arange(len(y1)), counts)
    rows = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    x = x1[edge] + (rows - y1[edge]) * (x2 - x1)[edge] / (y2 - y1)[edge]
    return rows, x, rows < y2[edge]


def _draw_level_edges(inside: np.ndarray, y1: np.ndarray, x1: np.ndarray, y2: np.ndarray, x2: np.ndarray) -> None:
    """Draws the edges that run along a row, in place."""
    along = np.flatnonzero((y1 == y2) & (y1 == np.around(y1)) & (y1 >= 0) & (y1 < len(inside)))
    for i in along:
        low, high = sorted((x1[i], x2[i]))
        inside[int(y1[i]), max(int(np.ceil(low)), 0) : max(int(np.floor(high)) + 1, 0)] = True


def line(height: int, width: int, ys: Sequence[float], xs: Sequence[float]) -> np.ndarray:
    """An open line through points, one pixel thin: [height, width] bool. ys, xs: [V] numbers."""
    mask = np.zeros((height, width), np.uint8)
    ys, xs = np.asarray(ys, np.float64), np.asarray(xs, np.float64)
    _check_corners(ys, xs, height, width)
    points = np.around(np.stack([xs, ys], axis=-1)).astype(np.int32)
    return cv2.polylines(mask, [points], isClosed=False, color=1).astype(bool)


def rectangle(height: int, width: int, y: float, x: float, h: float, w: float) -> np.ndarray:
    """A rectangle from its upper left corner (y, x), h x w pixels large: [height, width] bool."""
    mask = np.zeros((height, width), bool)
    (y1, y2), (x1, x2) = ((max(round(low), 0), max(round(low + size), 0)) for low, size in ((y, h), (x, w)))
    mask[y1:y2, x1:x2] = True
    return mask


def ellipse(height: int, width: int, y: float, x: float, ry: float, rx: float, angle: float = 0.0) -> np.ndarray:
    """An ellipse around (y, x) with half axes ry and rx, rotated clockwise by angle (radians): [height, width] bool."""
    t = np.linspace(0, 2 * np.pi, CORNERS_OF_ELLIPSE, endpoint=False)
    along, across = rx * np.cos(t), ry * np.sin(t)
    ys, xs = along * np.sin(angle) + across * np.cos(angle), along * np.cos(angle) - across * np.sin(angle)
    return polygon(height, width, y + ys, x + xs)


def point(height: int, width: int, y: float, x: float) -> np.ndarray:
    """The pixel at (y, x): [height, width] bool."""
    return rectangle(height, width, y, x, 1, 1)


def paste(small: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A mask with a small one, whose upper left pixel is at (top, left), in it and cropped: [height, width] bool."""
    mask = np.zeros((height, width), bool)
    y1, x1 = max(top, 0), max(left, 0)
    kept = small[y1 - top : max(height - top, 0), x1 - left : max(width - left, 0)]
    mask[y1 : y1 + kept.shape[0], x1 : x1 + kept.shape[1]] = kept
    return mask
