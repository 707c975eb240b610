"""Joins objects that the seams between tiles cut: detections of overlapping tiles -> objects of the whole image.

A piece is a detection in one tile. The zone of two tiles is where they overlap: both show the same pixels there. Two
pieces of one object therefore have nearly the same mask inside the zone, wherever they end outside of it. Pieces are
compared in zones only, and chains of them are one object. All arithmetic is on vertical runs (`ops.runs`): its cost
follows from the objects, not from the size of the image.

region, zone    (y1, x1, y2, x2) int pixels of the image; y2 and x2 exclusive
n               pieces of a tile, or objects
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn.inference.result_masks import Crop
from mrcnn.ops.rle import encode_runs
from mrcnn.ops.runs import (
    Region,
    Runs,
    area_of_runs,
    clip_runs,
    common_area,
    region_of_runs,
    runs_of_crop,
    union_of_runs,
)

MIN_OVERLAP = 0.5  # of the masks of two pieces in their zone
NEAR_EDGE = 1 / 64  # of a tile's side: masks of 28 x 28 end that far from where an object is cut
WHOLE = 0.9  # share of an object's pixels: a piece that has them, and isn't cut, is the object


@dataclass
class Tile:
    """The pieces of a tile.

    Attributes:
        region: Region of the tile.
        numbers: [n] int, the numbers of the pieces among those of all tiles.
        regions: [n, 4] int, around their masks.
        cut: [n] bool: whether the mask reaches an edge of the tile that isn't one of the image.
    """

    region: Region
    numbers: np.ndarray
    regions: np.ndarray
    cut: np.ndarray


class SeamJoiner:
    """Collects the detections of tiles, and joins those that are one object.

    Two pieces of different tiles are joined if their masks overlap in the zone of the tiles: with an IoU of at least
    `min_overlap`; or if the smaller one is cut by its tile, has no such partner in the other tile, and lies in the
    larger one by that share (a leg of a U, of which the other tile sees both). Of pieces of several classes, only
    those in one group are joined.

    What a tile cuts may look like another class. A cut piece without a partner is dropped if the other tile shows the
    same pixels (IoU as above) as an object that it doesn't cut, and that has at least the same score.

    Args:
        image_shape: (H0, W0), pixels.
        groups: [C] int, classes with the same number are joined, as of `ops.nms.suppression_groups`; None: each class
            by itself.
        min_overlap: In (0, 1]; see above. More than 1: nothing is joined.

    Example:

    >>> joiner = SeamJoiner((10, 40))
    >>> bar = np.ones((2, 15), bool)  # columns 5 to 34 of the image, cut by two tiles that share columns 15 to 24
    >>> joiner.add((0, 0, 10, 25), [[4, 5, 6, 25]], [1], [0.8], [((4, 5, 6, 25), np.ones((2, 20), bool))])
    >>> joiner.add((0, 15, 10, 40), [[4, 15, 6, 35]], [1], [0.875], [((4, 15, 6, 35), np.ones((2, 20), bool))])
    >>> boxes, class_ids, scores, rles = joiner.objects()
    >>> boxes.tolist(), class_ids.tolist(), scores.tolist()
    ([[4, 5, 6, 35]], [1], [0.875])
    """

    def __init__(self, image_shape: Sequence[int], groups: np.ndarray | None = None, min_overlap: float = MIN_OVERLAP):
        self.image_shape = int(image_shape[0]), int(image_shape[1])
        self.groups, self.min_overlap = groups, min_overlap
        self._tiles: list[Tile] = []
        self._runs: list[Runs] = []
        self._boxes: list[np.ndarray] = []
        self._class_ids: list[int] = []
        self._scores: list[float] = []
        self._cut: list[bool] = []
        self._pairs: list[tuple[int, int]] = []
        self._misread: set[int] = set()

    def add(
        self,
        region: Region,
        boxes: np.ndarray | Sequence,
        class_ids: Sequence[int],
        scores: Sequence[float],
        crops: Iterable[Crop],
    ) -> None:
        """Adds the n pieces of a tile, in pixels of the image, and looks for their partners in the tiles before it.

        Args:
            region: Of the tile.
            boxes: [n, (y1, x1, y2, x2)].
            class_ids, scores: [n].
            crops: n masks inside a region, as of `Detections.crops`.
        """
        first = len(self._runs)
        self._runs += [runs_of_crop(pixels, place[:2]) for place, pixels in crops]
        self._boxes += list(np.asarray(boxes))
        self._class_ids += [int(i) for i in class_ids]
        self._scores += [float(score) for score in scores]
        numbers = np.arange(first, len(self._runs))
        regions = np.array([region_of_runs(runs) for runs in self._runs[first:]], np.int64).reshape(-1, 4)
        tile = Tile(region, numbers, regions, self._are_cut(region, regions))
        self._cut += tile.cut.tolist()
        if len(numbers) and self.min_overlap <= 1:
            for other in self._tiles:
                zone = intersection(region, other.region)
                if zone is not None:
                    self._pairs += self._pairs_in(zone, tile, other)
            self._tiles.append(tile)

    def objects(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """All objects, the best first.

        The score of an object is the highest of its pieces, its class that of this piece. If a piece is the whole
        object, mask and box are those of the best such piece, unchanged; otherwise the mask is the union of all pieces,
        holes included, and the box the one around their boxes.

        Returns:
            boxes [n, 4], class_ids [n] int32, scores [n] float32, and n RLE dicts of the size of the image.
        """
        members: dict[int, list[int]] = {}
        for number, label in enumerate(self._labels()):
            members.setdefault(int(label), []).append(number)
        found = [self._join(pieces) for pieces in members.values() if not self._misread.issuperset(pieces)]
        found.sort(key=lambda entry: -entry[2])  # stable: equal scores stay in the order of the tiles
        boxes = np.array([entry[0] for entry in found]).reshape(-1, 4)
        class_ids = np.array([entry[1] for entry in found], np.int32)
        scores = np.array([entry[2] for entry in found], np.float32)
        return boxes, class_ids, scores, [encode_runs(entry[3], self.image_shape) for entry in found]

    # ---- Comparing ---------------------------------------------------------------------------------------------------
    def _are_cut(self, region: Region, regions: np.ndarray) -> np.ndarray:
        y1, x1, y2, x2 = region
        margin = np.tile([(y2 - y1) * NEAR_EDGE, (x2 - x1) * NEAR_EDGE], 2)
        inner = np.array([y1 > 0, x1 > 0, y2 < self.image_shape[0], x2 < self.image_shape[1]])
        return ((np.abs(regions - np.array(region)) <= margin) & inner).any(axis=1)

    def _pairs_in(self, zone: Region, tile: Tile, other: Tile) -> list[tuple[int, int]]:
        """The pieces of two tiles that are joined, by their numbers."""
        mine, others = _pieces_in(zone, tile), _pieces_in(zone, other)
        if not len(mine) or not len(others):
            return []
        low = np.maximum(tile.regions[mine, None, :2], other.regions[None, others, :2])
        high = np.minimum(tile.regions[mine, None, 2:], other.regions[None, others, 2:])
        low, high = np.maximum(low, zone[:2]), np.minimum(high, zone[2:])
        candidates = np.argwhere((low < high).all(axis=2))
        parts: dict[int, tuple[Runs, int]] = {}
        joined, contained, contradicted = [], [], []
        for i, j in candidates:
            a, b = int(tile.numbers[mine[i]]), int(other.numbers[others[j]])
            for number in (a, b):
                if number not in parts:
                    clipped = clip_runs(self._runs[number], zone)
                    parts[number] = clipped, area_of_runs(clipped)
            (runs_a, area_a), (runs_b, area_b) = parts[a], parts[b]
            common = common_area(runs_a, runs_b)
            same = common > 0 and common >= self.min_overlap * (area_a + area_b - common)
            if not self._classes_join(a, b):
                contradicted += [cut for cut, whole in ((a, b), (b, a)) if same and self._is_better(whole, cut)]
            elif same:
                joined.append((a, b))
            elif common and common >= self.min_overlap * min(area_a, area_b):
                contained.append((a, b, a if area_a < area_b else b))
        partners = {number for pair in joined for number in pair}
        joined += [(a, b) for a, b, smaller in contained if smaller not in partners and self._cut[smaller]]
        self._misread |= set(contradicted) - {number for pair in joined for number in pair}
        return joined

    def _is_better(self, whole: int, cut: int) -> bool:
        """Whether a piece that no tile cuts contradicts the class of one that is cut."""
        return self._cut[cut] and not self._cut[whole] and self._scores[whole] >= self._scores[cut]

    def _classes_join(self, a: int, b: int) -> bool:
        one, other = self._class_ids[a], self._class_ids[b]
        return one == other if self.groups is None else self.groups[one] == self.groups[other]

    # ---- Joining -----------------------------------------------------------------------------------------------------
    def _labels(self) -> np.ndarray:
        """[pieces] int: those with the same label are one object."""
        # Imported here because `import mrcnn.model` would take 0.1 s longer.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(self._runs)
        rows, columns = np.array(self._pairs, np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
        return connected_components(graph, directed=False)[1] if count else np.zeros(0, np.int64)

    def _join(self, pieces: list[int]) -> tuple[np.ndarray, int, float, Runs]:
        """Box, class, score and mask of an object."""
        best = max(pieces, key=lambda i: self._scores[i])
        if len(pieces) == 1:
            return self._boxes[best], self._class_ids[best], self._scores[best], self._runs[best]
        union = union_of_runs([self._runs[i] for i in pieces])
        enough = WHOLE * area_of_runs(union)
        whole = [i for i in pieces if not self._cut[i] and area_of_runs(self._runs[i]) >= enough]
        if whole:
            chosen = max(whole, key=lambda i: self._scores[i])
            return self._boxes[chosen], self._class_ids[best], self._scores[best], self._runs[chosen]
        boxes = np.stack([self._boxes[i] for i in pieces])
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        return box, self._class_ids[best], self._scores[best], union


def intersection(one: Region, other: Region) -> Region | None:
    """Where two regions overlap; None if they don't."""
    y1, x1, y2, x2 = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    return (y1, x1, y2, x2) if y1 < y2 and x1 < x2 else None


def _pieces_in(zone: Region, tile: Tile) -> np.ndarray:
    """Rows of the pieces whose regions reach into a zone."""
    inside = (tile.regions[:, :2] < zone[2:]) & (tile.regions[:, 2:] > zone[:2])
    return np.flatnonzero(inside.all(axis=1))
