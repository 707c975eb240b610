"""Finds the anchors that overlap a box without looking at all of them.

Anchors of one size lie on a grid, so the few of them whose overlap with a box can reach an IoU of t follow from
arithmetic: an IoU of t needs an intersection of t / (1 + t) of both areas' sum, hence so many rows and columns in
common, hence a centre within a reach of the box's centre. Only those are computed, exactly. What comes out equals the
plain computation of all A x G overlaps (a test holds the two together), some hundred times faster.

Shapes:
    A  anchors; G boxes; K grids: anchors of one height and width (levels x ratios)
    P  pairs (anchor, box) that overlap enough
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops.boxes import iou_of_sides

# Sizes and centres of one grid's anchors differ in their last bits; so little is no difference, in pixels.
SAME = 1e-6
# An object's best anchors are sought among those of at least this IoU, one step after the other, until some are found.
BEST_IOU_STEPS = (0.1, 0.03, 0.01, 0.001, 0.0)


class AnchorIndex:
    """Anchors by size and place.

    Args:
        anchors: [A, (y1, x1, y2, x2)], any unit. Those of `ops.anchors` lie on 15 grids; any others are looked through
            one by one. They are copied: changing them later doesn't change the index.
    """

    def __init__(self, anchors):
        self.anchors = np.array(anchors, np.float64).reshape(-1, 4)
        sizes = self.anchors[:, 2:] - self.anchors[:, :2]
        centres = 0.5 * (self.anchors[:, 2:] + self.anchors[:, :2])
        _, grid = np.unique(np.around(sizes / SAME) @ (1, 1j), return_inverse=True)
        grids = [_as_grid(members, centres[members]) for members in _split(grid.reshape(-1))]
        grids = [one for several in grids for one in several]
        self._order = np.concatenate([members for members, _, _, _ in grids] or [np.zeros(0, int)])  # [A] by grid
        # [(y1, x1, y2, x2), A], by grid: what is looked up together lies together
        self._sides = np.ascontiguousarray(self.anchors[self._order].T)
        counts = [len(members) for members, _, _, _ in grids]
        self._offsets = np.cumsum([0, *counts])[:-1].astype(int)
        first = self._order[self._offsets]
        self._sizes = sizes[first]  # [K, (h, w)]
        columns = [np.array([one[i] for one in grids]).reshape(-1, 2) for i in (1, 2, 3)]
        self._origins, self._steps, self._shapes = columns[0], columns[1], columns[2].astype(int)  # [K, (y, x)] each

    def __len__(self):
        return len(self.anchors)

    def pairs(self, boxes, min_iou):
        """Pairs of anchors and boxes with an IoU of min_iou or more (0: of more than 0).

        Args:
            boxes: [G, (y1, x1, y2, x2)], in the unit of the anchors.
            min_iou: float in [0, 1].

        Returns:
            anchor [P] int, box [P] int, iou [P] float64: a pair a row, in no particular order.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(np.float64)
        if not len(boxes):
            return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        place, box = self._candidates(boxes, min_iou)
        iou = iou_of_sides(self._sides.take(place, axis=1), boxes.T.take(box, axis=1))
        enough = np.flatnonzero((iou >= min_iou) & (iou > 0))
        return self._order[place[enough]], box[enough], iou[enough]

    def best(self, boxes, known):
        """The anchors with the highest IoU for each box; several if they tie, none if no anchor overlaps it.

        Args:
            boxes: [G, (y1, x1, y2, x2)].
            known: what `pairs(boxes, t)` returned for some t. A box that is in it has its best anchors there.

        Returns:
            anchor [P] int, box [P] int, iou [P] float64, as of `pairs`.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(np.float64)
        found = [_highest(*known, len(boxes))]
        missing = np.ones(len(boxes), bool)
        missing[known[1]] = False
        for min_iou in BEST_IOU_STEPS:
            ids = np.flatnonzero(missing)
            if not len(ids):
                break
            anchor, box, iou = _highest(*self.pairs(boxes[ids], min_iou), len(ids))
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

    def _candidates(self, boxes, min_iou):
        """Pairs that may reach min_iou, and few that don't: place in `_order` [P] int, box [P] int."""
        size, box_size = self._sizes[:, None], boxes[:, 2:] - boxes[:, :2]  # [K, 1, 2], [G, 2]
        centre = 0.5 * (boxes[:, 2:] + boxes[:, :2])
        smaller = np.minimum(size, box_size)  # [K, G, (h, w)]
        needed = min_iou / (1 + min_iou) * (size.prod(axis=-1) + box_size.prod(axis=-1))  # [K, G] area in common
        solid = (smaller > 0).all(axis=-1)
        # Rows in common if all columns are, and the other way round.
        common = needed[..., None] / np.where(solid[..., None], smaller, 1)[..., ::-1]  # [K, G, (h, w)]
        possible = solid & (common <= smaller + SAME).all(axis=-1)
        reach = 0.5 * (size + box_size) - common + SAME
        low = np.ceil((centre - reach - self._origins[:, None]) / self._steps[:, None])
        high = np.floor((centre + reach - self._origins[:, None]) / self._steps[:, None])
        low, high = np.maximum(low, 0), np.minimum(high, self._shapes[:, None] - 1)
        counts = np.where(possible[..., None], np.maximum(high - low + 1, 0), 0).astype(int)  # [K, G, (rows, columns)]
        return self._cells(low.astype(int), counts)

    def _cells(self, low, counts):
        """The places in `_order` of blocks of cells, low and counts [K, G, (y, x)] int: place [P], box [P]."""
        grid, box = np.nonzero(counts.prod(axis=-1))
        low, (rows, columns) = low[grid, box], counts[grid, box].T
        start = self._offsets[grid] + low[:, 0] * self._shapes[grid, 1] + low[:, 1]
        block = np.repeat(np.arange(len(rows)), rows)  # of each row of cells
        y = _count_up(rows)
        first, length = start[block] + y * self._shapes[grid, 1][block], columns[block]
        return np.repeat(first, length) + _count_up(length), np.repeat(box[block], length)


def _count_up(lengths):
    """0, 1, ..., l - 1 for each l of lengths, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _split(grid):
    """Positions of each value 0, 1, ... of grid [A], as one array a value."""
    order = np.argsort(grid, kind="stable")
    return np.split(order, np.cumsum(np.bincount(grid))[:-1]) if len(grid) else []


def _as_grid(members, centres):
    """Anchors of one size as a list of (members row by row, origin, step, shape): one grid, or each for itself.

    Args:
        members: [M] int; centres: [M, (y, x)].
    """
    ys, xs = (np.unique(np.around(centres[:, axis] / SAME)) * SAME for axis in (0, 1))
    order = np.lexsort(np.around(centres.T / SAME)[::-1])
    even = all(len(lines) < 3 or np.ptp(np.diff(lines)) <= 4 * SAME for lines in (ys, xs))
    if len(ys) * len(xs) == len(members) and even:
        expected = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
        if np.allclose(centres[order], expected, rtol=0, atol=2 * SAME):
            steps = [lines[1] - lines[0] if len(lines) > 1 else 1.0 for lines in (ys, xs)]
            return [(members[order], (ys[0], xs[0]), steps, (len(ys), len(xs)))]
    return [(members[i : i + 1], tuple(centres[i]), (1.0, 1.0), (1, 1)) for i in range(len(members))]


def _highest(anchor, box, iou, count):
    """Of pairs (anchor, box, iou) [P], those with the highest IoU of their box."""
    best = np.zeros(count)
    np.maximum.at(best, box, iou)
    kept = iou == best[box]
    return anchor[kept], box[kept], iou[kept]
