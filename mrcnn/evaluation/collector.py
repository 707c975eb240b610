"""Collects ground truth and detections image by image, as columns of numbers; masks are not kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.evaluation.boundary import boundary_ious
from mrcnn.evaluation.coco_protocol import COCO, THRESHOLDS, Detections, Matches, Settings, Truths, match
from mrcnn.evaluation.instances import Instances

# Types of the columns; small, because the columns of all images are in memory
_DETECTION = (np.int32, np.float64, np.int32, np.int32)
_TRUTH = (np.int32, np.uint64, bool)
_MATCH = (np.uint64, np.uint64, np.int32, np.int32, np.int32, np.float64)
LOWEST_PAIR = 0.1  # Pairs with a lower IoU are dropped; they count as not overlapping.


class Collector:
    """Columns of an evaluation, filled image by image.

    Args:
        boundary: Whether to compute boundary IoU.
        masks: Whether the detections have masks.
        settings: The ranges of area and the limits on detections.
    """

    def __init__(self, boundary: bool = True, masks: bool = True, settings: Settings = COCO):
        self.settings = settings
        self.kinds = ["box"] + (["mask"] if masks else []) + (["boundary"] if masks and boundary else [])
        self._image_ids: list[int] = []
        self._detections: list[tuple] = []
        self._truths: list[tuple] = []
        self._matches: dict[str, list[tuple]] = {kind: [] for kind in self.kinds}

    def add(self, image_id: int, truth: Instances, detections: Instances) -> None:
        """Matches the detections of an image with its ground truth."""
        order = np.argsort(-detections.scores, kind="stable")
        rank = _rank_in_class(detections.class_ids[order])
        best = detections.take(order)
        self._image_ids.append(int(image_id))
        self._detections.append(_pack_columns((best.class_ids, best.scores, rank, order), _DETECTION))
        self._truths.append(
            _pack_columns((truth.class_ids, self.settings.ignored_bits(truth.areas, truth.crowd), truth.crowd), _TRUTH)
        )
        for kind, ious in self._iou_matrices(truth, best):
            same_class = best.class_ids[:, None] == truth.class_ids[None, :]
            hits, ignored, taken = match(ious, same_class, best.areas, truth.areas, truth.crowd, self.settings)
            det, gt = np.nonzero((ious >= LOWEST_PAIR) & ~truth.crowd)
            self._matches[kind].append(_pack_columns((hits, ignored, taken, det, gt, ious[det, gt]), _MATCH))

    def _iou_matrices(self, truth: Instances, best: Instances):
        """Yields each kind of IoU with its matrix [D, G]."""
        crowd = truth.crowd.astype(int).tolist()
        something = len(best) > 0 and len(truth) > 0
        nothing = np.zeros((len(best), len(truth)))
        yield "box", coco_mask.iou(best.boxes, truth.boxes, crowd) if something else nothing
        if "mask" not in self.kinds:
            return
        ious = coco_mask.iou(best.rles, truth.rles, crowd) if something else nothing
        yield "mask", ious
        if "boundary" in self.kinds:
            pairs = (ious >= THRESHOLDS[0]) & (best.class_ids[:, None] == truth.class_ids[None, :])
            yield "boundary", boundary_ious(best.rles, truth.rles, truth.crowd, ious, pairs, truth.size)

    def finish(
        self, key: Callable[[int], int | str] | None = None
    ) -> tuple[list[int], Detections, Truths, dict[str, Matches]]:
        """Concatenates the columns.

        Args:
            key: Sort key of an image id; None: the order of `add`. It only matters for equal scores, which are ranked
                in this order.

        Returns:
            Image ids in the order of the columns, detections, ground truth, and matches by kind.
        """
        images = range(len(self._image_ids))
        images = list(images) if key is None else sorted(images, key=lambda i: key(self._image_ids[i]))
        dets, gts = ([len(parts[i][0]) for i in images] for parts in (self._detections, self._truths))
        positions = np.arange(len(images))
        det_columns = _join_columns([self._detections[i] for i in images], _DETECTION)
        gt_columns = _join_columns([self._truths[i] for i in images], _TRUTH)
        first_det, first_gt = np.cumsum([0, *dets])[:-1], np.cumsum([0, *gts])[:-1]
        matches = {}
        for kind, parts in self._matches.items():
            parts = [parts[i] for i in images]
            pairs = [len(part[3]) for part in parts]
            columns = Matches(*_join_columns(parts, _MATCH))
            columns.taken += np.where(columns.taken >= 0, np.repeat(first_gt, dets), 0).astype(np.int32)
            columns.pair_det += np.repeat(first_det, pairs).astype(np.int32)
            columns.pair_gt += np.repeat(first_gt, pairs).astype(np.int32)
            matches[kind] = columns
        return (
            [self._image_ids[i] for i in images],
            Detections(np.repeat(positions, dets), *det_columns),
            Truths(np.repeat(positions, gts), *gt_columns),
            matches,
        )


def _pack_columns(columns: tuple, types: tuple) -> tuple:
    return tuple(column.astype(kind) for column, kind in zip(columns, types))


def _join_columns(parts: list[tuple], types: tuple) -> list[np.ndarray]:
    """Concatenates one tuple of arrays per image into one array per column."""
    return [np.concatenate([part[i] for part in parts]) if parts else np.zeros(0, kind) for i, kind in enumerate(types)]


def _rank_in_class(class_ids: np.ndarray) -> np.ndarray:
    """[n], the number of earlier rows with the same class."""
    order = np.argsort(class_ids, kind="stable")
    ordered = class_ids[order]
    rank = np.empty(len(class_ids), np.int64)
    rank[order] = np.arange(len(class_ids)) - np.searchsorted(ordered, ordered)
    return rank
