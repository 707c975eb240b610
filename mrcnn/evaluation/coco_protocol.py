"""COCO's protocol: which detections are correct, and the average precision and recall.

Shapes: D detections and G true instances (of an image, or of all), K classes, and in the results
    T 10 IoU thresholds   0.50, 0.55 ... 0.95
    R 101 recall levels   0.00, 0.01 ... 1.00
    A ranges of area      COCO's 4: all, small (below 32 x 32 pixels), medium, large (above 96 x 96)
    L limits              COCO's 3: the best 1, 10, 100 detections of an image and class; AP uses the last

The numbers equal pycocotools' (tests compare them to 1e-9), whose C code computes the IoUs. The matching differs:
pycocotools loops over detections and true instances once for each of the T x A cases. Here a case is bit a * T + t
of an integer, and one loop over the overlapping pairs decides all cases. This also keeps memory small: two integers per
detection, the cases in which it is a hit and those in which it is ignored. All detections are matched; limits apply to
AP and AR only.

Reference: Lin et al., "Microsoft COCO: Common Objects in Context"; cocodataset.org, "Detection evaluation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = (1, 10, 100)
T = len(THRESHOLDS)
MATCH_50 = np.uint64(1)  # the case of IoU 0.50, all areas
MOST_RANGES = 64 // T - 1  # besides "all": T bits each in 64


class Settings:
    """The ranges of area and the limits on the number of detections. The defaults are COCO's.

    Args:
        area_ranges: Name -> (lowest, highest) area in pixels, both inclusive. Each gives an AP and an AR of its name.
        max_detections: Numbers of detections per image and class, in rising order. AP uses the last one; each gives an
            AR.

    Attributes:
        areas: A tuples (name, lowest, highest); the first is all areas.
        limits: L numbers.

    Raises:
        ValueError: A range or limit is invalid; the message names it.

    Example:

    >>> Settings(area_ranges={"tiny": (0, 64)}, max_detections=(10, 500)).names
    ['ap', 'ap50', 'ap75', 'ap_tiny', 'ar10', 'ar500', 'ar_tiny']
    """

    def __init__(
        self,
        area_ranges: Mapping[str, tuple[float, float]] | None = None,
        max_detections: Sequence[int] = MAX_DETECTIONS,
    ):
        ranges = AREA_RANGES if area_ranges is None else dict(area_ranges)
        self.areas = (("all", 0.0, 1e10), *((name, *_checked_range(name, ends)) for name, ends in ranges.items()))
        if len(ranges) > MOST_RANGES:
            raise ValueError(f"area_ranges has {len(ranges)} ranges; expected at most {MOST_RANGES}.")
        self.limits = _checked_limits(max_detections)
        self._range = (1 << T) - 1  # the bits of one range of area
        self.all = (1 << (T * len(self.areas))) - 1
        # [T + 1]: the cases for which an IoU that reaches 0, 1, ... T thresholds is enough
        self.reached = [sum(((1 << n) - 1) << (a * T) for a in range(len(self.areas))) for n in range(T + 1)]

    @property
    def names(self) -> list[str]:
        """The names of the numbers, in the order of `summarize`."""
        ranges = [name for name, _, _ in self.areas[1:]]
        recalls = [f"ar{limit}" for limit in self.limits]
        return ["ap", "ap50", "ap75", *(f"ap_{name}" for name in ranges), *recalls, *(f"ar_{name}" for name in ranges)]

    def outside_bits(self, areas: np.ndarray) -> np.ndarray:
        """[n] uint64: the cases whose range of area does not contain these areas [n]."""
        bits = np.zeros(len(areas), np.uint64)
        for a, (_, low, high) in enumerate(self.areas):
            bits |= np.where((areas < low) | (areas > high), np.uint64(self._range << (a * T)), np.uint64(0))
        return bits

    def ignored_bits(self, areas: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """[G] uint64: the cases that ignore a true instance: all for a crowd, else those whose range excludes it."""
        return np.where(crowd, np.uint64(self.all), self.outside_bits(areas))


def _checked_range(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(end) for end in ends) if np.shape(ends) == (2,) else (np.nan, np.nan)
    if not isinstance(name, str) or name == "all" or not 0 <= low < high:
        raise ValueError(
            f"area_ranges[{name!r}] is {ends!r}; expected a name other than 'all' and (lowest, highest) in pixels, such"
            " as {'small': (0, 1024)}."
        )
    return low, high


def _checked_limits(limits: Sequence[int]) -> tuple[int, ...]:
    whole = np.ndim(limits) == 1 and len(limits) > 0 and all(isinstance(n, (int, np.integer)) for n in limits)
    if not whole or limits[0] < 1 or any(b <= a for a, b in pairwise(limits)):
        raise ValueError(
            f"max_detections is {limits!r}; expected whole numbers from 1 up in rising order: (1, 10, 100)."
        )
    return tuple(int(n) for n in limits)


COCO = Settings()


def match(
    ious: np.ndarray,
    same_class: np.ndarray,
    det_areas: np.ndarray,
    gt_areas: np.ndarray,
    crowd: np.ndarray,
    settings: Settings = COCO,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches the detections of one image, best score first, in all cases.

    A detection takes the unmatched true instance of its class with the highest sufficient IoU (the last one if several
    tie). Ignored instances come after all others, and a crowd can be taken any number of times.

    Args:
        ious: [D, G] float, rows by score, best first.
        same_class: [D, G] bool.
        det_areas, gt_areas, crowd: [D] and [G] pixels, [G] bool.
        settings: The ranges of area.

    Returns:
        hits: [D] uint64, the cases in which it is correct.
        ignored: [D] uint64, the cases in which it is neither correct nor wrong.
        taken: [D] int, the true instance it takes at IoU 0.50 over all areas, or -1.
    """
    outside = settings.outside_bits(det_areas)
    hits, ignored = np.zeros(len(det_areas), np.uint64), outside.copy()
    taken = np.full(len(det_areas), -1, np.int64)
    det, gt = np.nonzero(same_class & (ious >= THRESHOLDS[0]))
    if len(det) == 0:
        return hits, ignored, taken
    values = ious[det, gt]
    order = np.lexsort((-gt, -values, det))
    det, gt, values = det[order], gt[order], values[order]
    levels = np.searchsorted(THRESHOLDS, values, side="right").tolist()
    needless = settings.ignored_bits(gt_areas, crowd).tolist()
    free, reached = [settings.all] * len(crowd), settings.reached
    gt, crowd = gt.tolist(), crowd.tolist()
    for first, last in pairwise(np.flatnonzero(np.diff(det, prepend=-1, append=-1)).tolist()):
        d = det[first]
        hit, useless, open_cases = 0, 0, settings.all
        for i in range(first, last):
            g = gt[i]
            take = reached[levels[i]] & free[g] & open_cases & ~needless[g]
            if take:
                hit |= take
                open_cases &= ~take
                free[g] &= ~take
                if take & 1:
                    taken[d] = g
        for i in range(first, last):
            g = gt[i]
            take = reached[levels[i]] & free[g] & open_cases & needless[g]
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
    """Columns of all detections. Rows by image, then by score, best first."""

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
    needless: np.ndarray  # [G] uint64, see `Settings.ignored_bits`
    crowd: np.ndarray  # [G] bool


@dataclass
class Matches:
    """The outcome of each detection, matched by box, mask or boundary IoU."""

    hits: np.ndarray  # [D] uint64, see `match`
    ignored: np.ndarray  # [D] uint64
    taken: np.ndarray  # [D] int, row in `Truths` or -1
    # Pairs of a detection and a true instance of any class, no crowd, that overlap by 0.1 and more; rows of both tables
    pair_det: np.ndarray  # [pairs] int
    pair_gt: np.ndarray  # [pairs] int
    pair_iou: np.ndarray  # [pairs] float64


def sort_by_class(detections: Detections, num_classes: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by class, then by score, best first; ties in image order.

    Args:
        limit: Detections per image and class; the ones with lower scores are left out.

    Returns:
        order: [n] rows.
        bounds: [C + 1]: class c is order[bounds[c] : bounds[c + 1]].
    """
    order = np.lexsort((-detections.score, detections.class_id))
    order = order[detections.rank[order] < limit]
    bounds = np.searchsorted(detections.class_id[order], np.arange(num_classes + 1))
    return order, bounds


@dataclass
class Accumulated:
    """pycocotools' arrays. -1 where a class has no true instance in a range of area."""

    precision: np.ndarray  # [T, R, K, A], the best precision at that recall or above, at the last limit
    recall: np.ndarray  # [T, K, A, L], in the end
    score: np.ndarray  # [T, R, K, A], at which that recall is reached; 0 where it never is
    truths: np.ndarray  # [K, A] int, true instances that count


def accumulate(
    detections: Detections, truths: Truths, matches: Matches, num_classes: int, settings: Settings = COCO
) -> Accumulated:
    """Precision and recall of each class (1..C-1 in this order), threshold, range of area and limit."""
    A, limits = len(settings.areas), settings.limits
    classes = num_classes - 1
    precision = -np.ones((T, len(RECALLS), classes, A))
    score = -np.ones((T, len(RECALLS), classes, A))
    recall = -np.ones((T, classes, A, len(limits)))
    counts = np.zeros((classes, A), np.int64)
    order, bounds = sort_by_class(detections, num_classes, limits[-1])
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
            counted = (matches.ignored[rows, None] >> bits) & MATCH_50 == 0  # [n, T]
            for m, limit in enumerate(limits):
                recall[:, k, a, m] = hit[detections.rank[rows] < limit].sum(axis=0) / count
            precision[..., k, a], score[..., k, a] = envelope(hit, counted, count, detections.score[rows])
    return Accumulated(precision, recall, score, counts)


def envelope(
    hit: np.ndarray, counted: np.ndarray, count: int, scores: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the 101 recall levels. Only hits are needed: between two hits precision falls.

    Args:
        hit, counted: [n, T] bool, whether each detection is correct, and whether it counts. Best score first.
        count: Number of true instances, at least 1.
        scores: [n], of the detections; None if they aren't needed.

    Returns:
        [T, R] precision, and [T, R] the score at which each level is reached. 0 where a level is not reached.
    """
    row, t = np.nonzero(hit)
    found = np.cumsum(hit, axis=0)[row, t]  # hits up to and including this one
    most = max(count, int(found.max(initial=0)))
    precision, score = np.zeros((most, hit.shape[1])), np.zeros((most, hit.shape[1]))
    precision[found - 1, t] = found / (np.cumsum(counted, axis=0)[row, t] + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if scores is not None:
        score[found - 1, t] = scores[row]
    needed = np.searchsorted(np.arange(1.0, count + 1) / count, RECALLS, side="left")  # the hit that reaches each level
    return precision[needed].T, score[needed].T


def ap50(
    class_id: np.ndarray, score: np.ndarray, hit: np.ndarray, counted: np.ndarray, truths: np.ndarray
) -> np.ndarray:
    """AP of each class at one IoU threshold, from columns that the caller may have changed.

    Args:
        class_id, score, hit, counted: [D] of each detection; hit (correct) and counted (not ignored) are bool.
        truths: [C] true instances of each class.

    Returns:
        [C], -1 for a class without true instances.
    """
    order = np.lexsort((-score, class_id))
    order = order[counted[order]]
    bounds = np.searchsorted(class_id[order], np.arange(len(truths) + 1))
    result = np.full(len(truths), -1.0)
    for c in np.flatnonzero(truths > 0):
        hits = hit[order[bounds[c] : bounds[c + 1]], None]
        result[c] = envelope(hits, np.ones_like(hits), int(truths[c]))[0].mean()
    return result


def mean_of(values: np.ndarray) -> float:
    """Mean of the values that are not -1 (not measurable); -1 if there are none, as in pycocotools."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def summarize(result: Accumulated, settings: Settings = COCO) -> dict[str, float]:
    """COCO's numbers by name: ap, ap50, ap75, ap_small ..., ar1, ar10, ar100, ar_small ...; -1 without ground truth."""
    areas, limits = range(1, len(settings.areas)), range(len(settings.limits))
    values = [result.precision[..., 0], result.precision[0, ..., 0], result.precision[5, ..., 0]]
    values += [result.precision[..., a] for a in areas]
    values += [result.recall[..., 0, m] for m in limits]
    values += [result.recall[..., a, -1] for a in areas]
    return dict(zip(settings.names, map(mean_of, values), strict=True))
