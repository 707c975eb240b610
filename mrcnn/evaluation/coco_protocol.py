"""COCO's protocol: which detections are right, and the average precision and recall that follow.

Shapes: D detections and G true instances (of an image, or of all), K classes, and in the results
    T 10 IoU thresholds   0.50, 0.55 ... 0.95
    R 101 recall levels   0.00, 0.01 ... 1.00
    A 4 ranges of area    all, small (below 32 x 32 pixels), medium, large (above 96 x 96)
    L 3 limits            the best 1, 10, 100 detections of an image and class

The numbers are those of pycocotools (the tests hold them equal to 1e-9); IoUs are computed by its C code. What differs
is the matching: pycocotools walks detections x true instances once for each of the T x A cases. Here the T x A = 40
cases are the bits of one integer, bit a * T + t, and one walk over the pairs that overlap settles all of them. It also
is what keeps memory flat: of a detection there remain two integers, in which cases it is a hit, and in which it doesn't
count.

Reference: Lin et al., "Microsoft COCO: Common Objects in Context"; cocodataset.org, "Detection evaluation".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = (("all", 0.0, 1e10), ("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, 1e10))
LIMITS = (1, 10, 100)
T, A = len(THRESHOLDS), len(AREAS)

_RANGE = (1 << T) - 1  # the bits of one range of area
_ALL = (1 << (T * A)) - 1
# [T + 1]: the cases that an IoU reaching 0, 1, ... T thresholds is enough for
_REACHED = [sum(((1 << level) - 1) << (a * T) for a in range(A)) for level in range(T + 1)]
MATCH_50 = np.uint64(1)  # the case of IoU 0.50, all areas


def outside_bits(areas: np.ndarray) -> np.ndarray:
    """[n] uint64: the cases whose range of area an instance of that area is outside of."""
    bits = np.zeros(len(areas), np.uint64)
    for a, (_, low, high) in enumerate(AREAS):
        bits |= np.where((areas < low) | (areas > high), np.uint64(_RANGE << (a * T)), np.uint64(0))
    return bits


def ignored_bits(areas: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """[G] uint64: the cases in which a true instance needn't be found: crowds always, others outside the range."""
    return np.where(crowd, np.uint64(_ALL), outside_bits(areas))


def match(ious, same_class, det_areas, gt_areas, crowd) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Settles the detections of one image, best score first, in all cases.

    A detection takes, of the free true instances of its class that it overlaps enough, the one it overlaps most (of
    equals the last). Those that count go before those that don't; a crowd is never used up.

    Args:
        ious: [D, G] float, rows by score, best first.
        same_class: [D, G] bool.
        det_areas, gt_areas: [D], [G] pixels.
        crowd: [G] bool.

    Returns:
        hits: [D] uint64, the cases in which it is right.
        ignored: [D] uint64, the cases in which it is neither right nor wrong.
        taken: [D] int, the true instance it takes at IoU 0.50 over all areas, or -1.
    """
    outside = outside_bits(det_areas)
    hits, ignored = np.zeros(len(det_areas), np.uint64), outside.copy()
    taken = np.full(len(det_areas), -1, np.int64)
    det, gt = np.nonzero(same_class & (ious >= THRESHOLDS[0]))
    if len(det) == 0:
        return hits, ignored, taken
    values = ious[det, gt]
    order = np.lexsort((-gt, -values, det))
    det, gt = det[order], gt[order]
    levels = np.searchsorted(THRESHOLDS, values[order], side="right").tolist()
    needless = ignored_bits(gt_areas, crowd).tolist()
    free = [_ALL] * len(crowd)
    bounds = np.flatnonzero(np.diff(det, prepend=-1, append=-1)).tolist()
    gt, crowd = gt.tolist(), crowd.tolist()
    for first, last in pairwise(bounds):
        d = det[first]
        hit, useless, open_cases = 0, 0, _ALL
        for i in range(first, last):
            g = gt[i]
            take = _REACHED[levels[i]] & free[g] & open_cases & ~needless[g]
            if take:
                hit |= take
                open_cases &= ~take
                free[g] &= ~take
                if take & 1:
                    taken[d] = g
        for i in range(first, last):
            g = gt[i]
            take = _REACHED[levels[i]] & free[g] & open_cases & needless[g]
            if take:
                useless |= take
                open_cases &= ~take
                if not crowd[g]:
                    free[g] &= ~take
        hits[d] = hit
        ignored[d] = useless | (int(outside[d]) & open_cases)
    return hits, ignored, taken


@dataclass
class Detections:
    """Columns of all detections that count: at most 100 of an image and class. Rows by image, then by score."""

    image: np.ndarray  # [D] int, position of the image in the evaluation
    class_id: np.ndarray  # [D] int
    score: np.ndarray  # [D] float64
    rank: np.ndarray  # [D] int, 0 for the best of its image and class
    row: np.ndarray  # [D] int, its place among the image's detections as they were given


@dataclass
class Truths:
    """Columns of all true instances. Rows by image."""

    image: np.ndarray  # [G] int
    class_id: np.ndarray  # [G] int
    needless: np.ndarray  # [G] uint64, see `ignored_bits`
    crowd: np.ndarray  # [G] bool


@dataclass
class Matches:
    """What became of each detection, by one kind of IoU (box, mask or boundary)."""

    hits: np.ndarray  # [D] uint64, see `match`
    ignored: np.ndarray  # [D] uint64
    taken: np.ndarray  # [D] int, row in `Truths` or -1
    # Pairs of a detection and a true instance of any class, no crowd, that overlap by 0.1 and more; rows of both tables
    pair_det: np.ndarray  # [pairs] int
    pair_gt: np.ndarray  # [pairs] int
    pair_iou: np.ndarray  # [pairs] float64


def sort_by_class(detections: Detections, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by class, then by score, best first; of equal scores the earlier image first.

    Returns:
        order: [D] rows.
        bounds: [C + 1]: class c is order[bounds[c] : bounds[c + 1]].
    """
    order = np.lexsort((-detections.score, detections.class_id))
    bounds = np.searchsorted(detections.class_id[order], np.arange(num_classes + 1))
    return order, bounds


@dataclass
class Accumulated:
    """pycocotools' arrays. -1 where a class has no true instance in a range of area."""

    precision: np.ndarray  # [T, R, K, A], the best precision at that recall or above, limit 100
    recall: np.ndarray  # [T, K, A, L], in the end
    score: np.ndarray  # [T, R, K, A], at which that recall is reached; 0 where it never is
    truths: np.ndarray  # [K, A] int, true instances that count


def accumulate(detections: Detections, truths: Truths, matches: Matches, num_classes: int) -> Accumulated:
    """Precision and recall of each class (1..C-1 in this order), threshold, range of area and limit."""
    classes = num_classes - 1
    precision = -np.ones((T, len(RECALLS), classes, A))
    score = -np.ones((T, len(RECALLS), classes, A))
    recall = -np.ones((T, classes, A, len(LIMITS)))
    counts = np.zeros((classes, A), np.int64)
    order, bounds = sort_by_class(detections, num_classes)
    for k in range(classes):
        rows = order[bounds[k + 1] : bounds[k + 2]]
        needless = truths.needless[truths.class_id == k + 1]
        for a in range(A):
            bits = np.arange(a * T, (a + 1) * T, dtype=np.uint64)
            count = int(np.count_nonzero((needless >> bits[0]) & MATCH_50 == 0))
            counts[k, a] = count
            if count == 0:
                continue
            hit = ((matches.hits[rows, None] >> bits) & MATCH_50).astype(bool)  # [n, T]
            counted = np.cumsum((matches.ignored[rows, None] >> bits) & MATCH_50 == 0, axis=0)  # [n, T]
            for m, limit in enumerate(LIMITS):
                recall[:, k, a, m] = hit[detections.rank[rows] < limit].sum(axis=0) / count
            for t in range(T):
                at = np.flatnonzero(hit[:, t])
                precision[t, :, k, a], levels = envelope(counted[at, t], count)
                score[t, :, k, a] = np.append(detections.score[rows[at]], 0.0)[levels]
    return Accumulated(precision, recall, score, counts)


def envelope(counted: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the 101 recall levels from the places of the hits alone; between them it only falls.

    Args:
        counted: [hits] detections that count up to and with each hit.
        count: true instances.

    Returns:
        [R] precision, and [R] which hit reaches each level (`hits` where none does).
    """
    found = np.arange(1.0, len(counted) + 1)
    precision = found / (counted + np.spacing(1))
    precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    levels = np.searchsorted(found / count, RECALLS, side="left")
    return precision[levels], levels


def ap50(class_id, score, hit, counted, truths: np.ndarray) -> np.ndarray:
    """AP of each class at one IoU threshold from plain columns: for measures that change them.

    Args:
        class_id, score, hit, counted: [D], the last two bool.
        truths: [C] true instances of each class.

    Returns:
        [C], -1 for a class without true instances.
    """
    order = np.lexsort((-score, class_id))
    order = order[counted[order]]
    bounds = np.searchsorted(class_id[order], np.arange(len(truths) + 1))
    result = np.full(len(truths), -1.0)
    for c in np.flatnonzero(truths > 0):
        at = np.flatnonzero(hit[order[bounds[c] : bounds[c + 1]]])
        result[c] = envelope(at + 1, int(truths[c]))[0].mean()
    return result


def mean_of(values: np.ndarray) -> float:
    """Mean of what could be measured (isn't -1); -1 where nothing could, as in pycocotools."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def summarise(result: Accumulated) -> dict[str, float]:
    """COCO's twelve numbers by name: ap, ap50, ap75, ap_small ..., ar1, ar10, ar100, ar_small ...; -1: no truth."""
    numbers = {
        "ap": mean_of(result.precision[..., 0]),
        "ap50": mean_of(result.precision[0, ..., 0]),
        "ap75": mean_of(result.precision[5, ..., 0]),
    }
    numbers |= {f"ap_{name}": mean_of(result.precision[..., a]) for a, (name, _, _) in enumerate(AREAS) if a}
    numbers |= {f"ar{limit}": mean_of(result.recall[..., 0, m]) for m, limit in enumerate(LIMITS)}
    numbers |= {f"ar_{name}": mean_of(result.recall[..., a, -1]) for a, (name, _, _) in enumerate(AREAS) if a}
    return numbers
