"""The outline of a mask along the edges of its pixels, with its holes.

A pixel (y, x) covers the square from (x, y) to (x + 1, y + 1), as in COCO and GeoJSON, so the polygons have exactly the
area of the mask.

Shapes and units:
    mask    [H, W] bool
    ring    [V, (x, y)] int, pixels: the corners of a closed outline; the first one isn't repeated at the end. With y
            pointing down, parts are clockwise and holes counterclockwise
"""

from __future__ import annotations

import cv2
import numpy as np

Ring = np.ndarray
EAST, SOUTH, WEST, NORTH = range(4)


def trace_polygons(mask: np.ndarray) -> list[list[Ring]]:
    """Traces the outlines of a mask.

    Pixels that only touch at a corner are separate parts. Rings meet themselves and each other at most in single
    corners, so the polygons are valid by the rules of GeoJSON and of OGC's Simple Features.

    Args:
        mask: [H, W] bool.

    Returns:
        A list for each part: its outer ring, then those of its holes. No part for an empty mask.

    Example:

    >>> mask = np.ones((3, 4), bool)
    >>> mask[1, 1] = False
    >>> [[ring.tolist() for ring in polygon] for polygon in trace_polygons(mask)]
    [[[[0, 0], [4, 0], [4, 3], [0, 3]], [[1, 2], [2, 2], [2, 1], [1, 1]]]]
    """
    mask = np.asarray(mask, bool)
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    segments = _outline_segments(mask)
    while segments:
        (x, y), direction = start = next(iter(segments))
        # The pixel on the right of the first segment: it belongs to the part.
        part = int(parts[y - (direction in (WEST, NORTH)), x - (direction in (SOUTH, WEST))])
        for ring in _split_at_repeats(_follow_outline(segments, start)):
            if signed_area(ring) > 0:
                outer[part] = ring
            else:
                holes.setdefault(part, []).append(ring)
    return [[ring, *holes.get(part, [])] for part, ring in outer.items()]


def signed_area(ring: np.ndarray) -> float:
    """The area of a ring [V, (x, y)]; positive if it turns from the x axis to the y axis."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _outline_segments(mask: np.ndarray) -> dict:
    """The straight pieces of all outlines, with the mask on their right: {(start, direction): end}, (x, y) each."""
    padded = np.pad(mask, 1)
    segments = {}
    for direction in range(4):
        inside, outside = padded, np.roll(padded, (1, -1, -1, 1)[direction], axis=(0, 1, 0, 1)[direction])
        edges = inside & ~outside
        edges = edges if direction in (EAST, WEST) else edges.T
        steps = np.diff(edges.astype(np.int8), axis=1)
        line, begin = np.nonzero(steps == 1)
        _, end = np.nonzero(steps == -1)
        line = line - 1 + (direction in (SOUTH, WEST))  # the right and the lower side of a pixel
        if direction in (WEST, NORTH):
            begin, end = end, begin
        for at, a, b in zip(line.tolist(), begin.tolist(), end.tolist()):
            if direction in (EAST, WEST):
                segments[(a, at), direction] = (b, at)
            else:
                segments[(at, a), direction] = (at, b)
    return segments


def _follow_outline(segments: dict, start: tuple) -> list[tuple[int, int]]:
    """The corners of the outline that begins with a segment. Removes its segments from the dict."""
    corners, (corner, direction) = [], start
    while (corner, direction) in segments:
        corners.append(corner)
        corner = segments.pop((corner, direction))
        right = (direction + 1) % 4  # where two pixels touch at a corner, the outline stays with its own
        direction = right if (corner, right) in segments or (corner, right) == start else (direction - 1) % 4
    return corners


def _split_at_repeats(corners: list[tuple[int, int]]) -> list[Ring]:
    """Splits an outline at corners that it passes twice."""
    rings, path, places = [], [], {}
    for corner in corners:
        if corner in places:
            loop = path[places[corner] :]
            rings.append(np.array(loop))
            del path[places[corner] + 1 :]
            for passed in loop[1:]:
                del places[passed]
            continue
        places[corner] = len(path)
        path.append(corner)
    return [*rings, np.array(path)]
