"""Masks as vertical runs: unions and areas whose cost depends on the objects and not on the size of the image.

runs    [R, (x, y1, y2)] int64, pixels: column x is inside from row y1 to row y2 - 1. Sorted by x, then y1; two runs of
        a column don't touch, so that a mask has only one such array
region  (y1, x1, y2, x2) int, pixels; y2 and x2 exclusive
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]
Region = tuple[int, int, int, int]


def runs_of_crop(pixels: np.ndarray, corner: Sequence[int] = (0, 0)) -> Runs:
    """The runs of a mask of which a part is given; the rest is 0.

    Args:
        pixels: [h, w] bool.
        corner: (y1, x1), where `pixels` begins in the image.

    Example:

    >>> runs_of_crop(np.array([[1, 1], [1, 0], [0, 1]], bool), corner=(10, 20)).tolist()
    [[20, 10, 12], [21, 10, 11], [21, 12, 13]]
    """
    h, w = pixels.shape
    padded = np.zeros((w, h + 1), np.int8)  # columns as rows; the 0 below a column ends its runs
    padded[:, :h] = pixels.T
    steps = np.flatnonzero(np.diff(padded.reshape(-1), prepend=0, append=0))  # where runs start and stop, in turns
    columns, rows = np.divmod(steps, h + 1)
    return np.stack([columns[::2] + int(corner[1]), rows[::2] + int(corner[0]), rows[1::2] + int(corner[0])], axis=1)


def region_of_runs(runs: Runs) -> Region:
    """The smallest region around a mask; (0, 0, 0, 0) for an empty one."""
    if not len(runs):
        return 0, 0, 0, 0
    return int(runs[:, 1].min()), int(runs[0, 0]), int(runs[:, 2].max()), int(runs[-1, 0]) + 1


def draw_runs(runs: Runs, region: Region) -> NDArray[np.bool_]:
    """The pixels of a mask in a region that holds all of it, [y2 - y1, x2 - x1] bool.

    Example:

    >>> draw_runs(np.array([[20, 10, 12], [21, 11, 12]]), (10, 20, 12, 22)).astype(int)
    array([[1, 0],
           [1, 1]])
    """
    y1, x1, y2, x2 = region
    changes = np.zeros((x2 - x1, y2 - y1 + 1), bool)  # columns as rows, each with a place for its end
    columns = runs[:, 0] - x1
    changes[columns, runs[:, 1] - y1] = changes[columns, runs[:, 2] - y1] = True
    return np.logical_xor.accumulate(changes, axis=1)[:, :-1].T.copy()


def clip_runs(runs: Runs, region: Region) -> Runs:
    """The part of a mask inside a region."""
    y1, x1, y2, x2 = region
    first, last = np.searchsorted(runs[:, 0], [x1, x2])
    clipped = runs[first:last].copy()
    np.clip(clipped[:, 1:], y1, y2, out=clipped[:, 1:])
    return clipped[clipped[:, 1] < clipped[:, 2]]


def area_of_runs(runs: Runs) -> int:
    """Pixels of a mask."""
    return int((runs[:, 2] - runs[:, 1]).sum())


def union_of_runs(masks: Sequence[Runs]) -> Runs:
    """The pixels that are in any of the masks.

    Example:

    >>> union_of_runs([np.array([[0, 2, 5], [1, 2, 3]]), np.array([[0, 4, 9], [1, 3, 4]])]).tolist()
    [[0, 2, 9], [1, 2, 4]]
    """
    runs = np.concatenate([np.zeros((0, 3), np.int64), *masks])
    if not len(runs):
        return runs
    span = int(runs[:, 2].max()) + 1  # longer than any column, so that runs of two columns never touch
    starts, ends = runs[:, 0] * span + runs[:, 1], runs[:, 0] * span + runs[:, 2]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    opens = np.append(True, starts[1:] > ends[:-1])
    starts, ends = starts[opens], ends[np.append(opens[1:], True)]
    columns, rows = np.divmod(starts, span)
    return np.stack([columns, rows, rows + ends - starts], axis=1)


def common_area(one: Runs, other: Runs) -> int:
    """Pixels that two masks have in common.

    Example:

    >>> common_area(np.array([[0, 2, 5], [1, 2, 3]]), np.array([[0, 4, 9], [1, 3, 4]]))
    1
    """
    return area_of_runs(one) + area_of_runs(other) - area_of_runs(union_of_runs([one, other]))


def split_at_columns(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int) -> Runs:
    """Runs of a mask that is read column by column, such as those of COCO's RLE, where a run may span columns.

    Args:
        starts, ends: [R] positions in the mask, x * height + y, in ascending order; `ends` exclusive.
        height: Of the mask, pixels.

    Example:

    >>> split_at_columns(np.array([3]), np.array([9]), height=4).tolist()
    [[0, 3, 4], [1, 0, 4], [2, 0, 1]]
    """
    starts, ends = starts[starts < ends], ends[starts < ends]
    apart = starts[1:] > ends[:-1]  # runs of length 0 may lie between them
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    columns = starts // height
    counts = (ends - 1) // height - columns + 1
    runs_before = np.cumsum(counts) - counts
    x = np.repeat(columns - runs_before, counts) + np.arange(counts.sum())
    y1 = np.maximum(np.repeat(starts, counts) - x * height, 0)
    y2 = np.minimum(np.repeat(ends, counts) - x * height, height)
    return np.stack([x, y1, y2], axis=1)
