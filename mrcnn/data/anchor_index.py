"""Finds the anchors that overlap a box without computing the overlaps of all anchors.

Anchors of one size form a grid, so arithmetic tells which of them can have an IoU of t with a box: that IoU needs an
intersection of t / (1 + t) times the sum of both areas, hence a minimum number of common rows and columns, hence an
anchor center within some distance of the box's center. Only those IoUs are computed, exactly. A test compares the
results with all A x G overlaps. With 9 boxes and the 261,888 anchors of 1024 x 1024 pixels, `pairs` and `best` take
0.23 ms, `ops.boxes.compute_overlaps` 36 ms.

Shapes:
    A  anchors; G boxes; K grids: anchors of the same height and width (levels x ratios)
    P  pairs (anchor, box) that overlap enough
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops.boxes import iou_of_sides

# Sizes and centers of a grid's anchors differ in their last bits; smaller differences, in pixels, are ignored.
SAME = 1e-6
# The best anchors of a box are searched among those with at least this IoU, one threshold after the other until found.
BEST_IOU_STEPS = (0.1, 0.03, 0.01, 0.001, 0.0)

Pairs: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # anchor [P] int, box [P] int, iou [P] float64


class Grid(NamedTuple):
    """Anchors of one size, centered on the cells of a grid."""

    members: np.ndarray  # [rows * columns] int, their indices, row by row
    origin: tuple[float, float]  # center of the first one (y, x)
    step: tuple[float, float]  # distance between neighbors (y, x)
    shape: tuple[int, int]  # (rows, columns)


class AnchorIndex:
    """Anchors by size and position.

    Args:
        anchors: [A, (y1, x1, y2, x2)], any unit. They are copied. Those of `ops.anchors` form 15 grids; anchors that
            don't form grids are compared one by one.

    Example:
        >>> index = AnchorIndex([[0, 0, 8, 8], [0, 8, 8, 16], [8, 0, 16, 8], [8, 8, 16, 16]])
        >>> anchor, box, iou = index.pairs([[0, 0, 8, 12]], min_iou=0.3)
        >>> anchor.tolist(), box.tolist(), iou.round(2).tolist()
        ([0], [0], [0.67])
    """

    def __init__(self, anchors: ArrayLike):
        self.anchors = np.array(anchors, np.float64).reshape(-1, 4)
        sizes = self.anchors[:, 2:] - self.anchors[:, :2]
        centers = 0.5 * (self.anchors[:, 2:] + self.anchors[:, :2])
        _, size_id = np.unique(np.around(sizes / SAME) @ (1, 1j), return_inverse=True)
        groups = _group_positions(size_id.reshape(-1))
        grids = [grid for members in groups for grid in _as_grids(members, centers[members])]
        self._order = np.concatenate([grid.members for grid in grids] or [np.zeros(0, int)])  # [A] by grid
        self._sides = np.ascontiguousarray(self.anchors[self._order].T)  # [(y1, x1, y2, x2), A] in that order
        counts = [len(grid.members) for grid in grids]
        self._offsets = np.cumsum([0, *counts])[:-1].astype(int)  # [K], of each grid's first anchor in `_order`
        self._sizes = sizes[self._order[self._offsets]]  # [K, (h, w)]
        self._origins = np.array([grid.origin for grid in grids]).reshape(-1, 2)  # [K, (y, x)], as the next two
        self._steps = np.array([grid.step for grid in grids]).reshape(-1, 2)
        self._shapes = np.array([grid.shape for grid in grids]).reshape(-1, 2).astype(int)

    def __len__(self) -> int:
        return len(self.anchors)

    def pairs(self, boxes: ArrayLike, min_iou: float) -> Pairs:
        """Pairs of anchors and boxes with an IoU of at least min_iou; with min_iou=0, of more than 0.

        Args:
            boxes: [G, (y1, x1, y2, x2)], in the unit of the anchors.
            min_iou: float in [0, 1].

        Returns:
            anchor [P] int, box [P] int, iou [P] float64: one pair per row, in no particular order.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(np.float64)
        if not len(boxes):
            return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        place, box = self._find_candidates(boxes, min_iou)
        iou = iou_of_sides(self._sides.take(place, axis=1), boxes.T.take(box, axis=1))
        enough = np.flatnonzero((iou >= min_iou) & (iou > 0))
        return self._order[place[enough]], box[enough], iou[enough]

    def best(self, boxes: ArrayLike, known: Pairs) -> Pairs:
        """The anchors with the highest IoU for each box; several if they tie, none if no anchor overlaps it.

        Args:
            boxes: [G, (y1, x1, y2, x2)].
            known: result of `pairs(boxes, t)` for some t. The best anchors of the boxes in it are not searched again.

        Returns:
            anchor [P] int, box [P] int, iou [P] float64, as in `pairs`.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(np.float64)
        found = [_keep_highest(*known, len(boxes))]
        missing = np.ones(len(boxes), bool)
        missing[known[1]] = False
        for min_iou in BEST_IOU_STEPS:
            ids = np.flatnonzero(missing)
            if not len(ids):
                break
            anchor, box, iou = _keep_highest(*self.pairs(boxes[ids], min_iou), len(ids))
            found.append((anchor, ids[box], iou))
            missing[ids[box]] = False
        return tuple(np.concatenate(columns) for columns in zip(*found))

    def best_iou(self, boxes: ArrayLike) -> np.ndarray:
        """IoU of each box [G, 4] with the anchor that overlaps it most: [G] float64 in [0, 1].

        Example:
            >>> index = AnchorIndex([[0, 0, 8, 8], [8, 8, 16, 16]])
            >>> index.best_iou([[0, 0, 8, 4], [20, 20, 30, 30]])
            array([0.5, 0. ])
        """
        boxes = np.reshape(boxes, (-1, 4))
        _, box, iou = self.best(boxes, known=self.pairs(boxes, BEST_IOU_STEPS[0]))
        best = np.zeros(len(boxes))
        best[box] = iou
        return best

    def _find_candidates(self, boxes: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
        """All pairs that reach min_iou and a few that don't: position in `_order` [P] int, box [P] int."""
        size, box_size = self._sizes[:, None], boxes[:, 2:] - boxes[:, :2]  # [K, 1, 2], [G, 2]
        center = 0.5 * (boxes[:, 2:] + boxes[:, :2])
        smaller = np.minimum(size, box_size)  # [K, G, (h, w)]
        needed = min_iou / (1 + min_iou) * (size.prod(axis=-1) + box_size.prod(axis=-1))  # [K, G] common area
        solid = (smaller > 0).all(axis=-1)
        # Common rows needed if all columns are common, and the other way round.
        common = needed[..., None] / np.where(solid[..., None], smaller, 1)[..., ::-1]  # [K, G, (h, w)]
        possible = solid & (common <= smaller + SAME).all(axis=-1)
        reach = 0.5 * (size + box_size) - common + SAME
        low = np.ceil((center - reach - self._origins[:, None]) / self._steps[:, None])
        high = np.floor((center + reach - self._origins[:, None]) / self._steps[:, None])
        low, high = np.maximum(low, 0), np.minimum(high, self._shapes[:, None] - 1)
        counts = np.where(possible[..., None], np.maximum(high - low + 1, 0), 0).astype(int)  # [K, G, (rows, columns)]
        return self._expand_cells(low.astype(int), counts)

    def _expand_cells(self, low: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All cells of blocks of cells, low and counts [K, G, (y, x)] int: position in `_order` [P], box [P]."""
        grid, box = np.nonzero(counts.prod(axis=-1))
        low, (rows, columns) = low[grid, box], counts[grid, box].T
        start = self._offsets[grid] + low[:, 0] * self._shapes[grid, 1] + low[:, 1]
        block = np.repeat(np.arange(len(rows)), rows)  # of each row of cells
        y = _count_up(rows)
        first, length = start[block] + y * self._shapes[grid, 1][block], columns[block]
        return np.repeat(first, length) + _count_up(length), np.repeat(box[block], length)


def _count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for each n in lengths, concatenated."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _group_positions(group: np.ndarray) -> list[np.ndarray]:
    """Positions of the values 0, 1, ... in group [A], one array per value."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group))[:-1]) if len(group) else []


def _as_grids(members: np.ndarray, centers: np.ndarray) -> list[Grid]:
    """Anchors of one size, members [M] int and their centers [M, (y, x)], as one grid, or else as a grid for each."""
    ys, xs = (np.unique(np.around(centers[:, axis] / SAME)) * SAME for axis in (0, 1))
    order = np.lexsort(np.around(centers.T / SAME)[::-1])
    even = all(len(lines) < 3 or np.ptp(np.diff(lines)) <= 4 * SAME for lines in (ys, xs))
    if len(ys) * len(xs) == len(members) and even:
        expected = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
        if np.allclose(centers[order], expected, rtol=0, atol=2 * SAME):
            step_y, step_x = (lines[1] - lines[0] if len(lines) > 1 else 1.0 for lines in (ys, xs))
            return [Grid(members[order], (ys[0], xs[0]), (step_y, step_x), (len(ys), len(xs)))]
    return [Grid(members[i : i + 1], tuple(centers[i]), (1.0, 1.0), (1, 1)) for i in range(len(members))]


def _keep_highest(anchor: np.ndarray, box: np.ndarray, iou: np.ndarray, count: int) -> Pairs:
    """The pairs (anchor, box, iou) [P] with the highest IoU of their box; boxes are 0..count-1."""
    best = np.zeros(count)
    np.maximum.at(best, box, iou)
    kept = iou == best[box]
    return anchor[kept], box[kept], iou[kept]
