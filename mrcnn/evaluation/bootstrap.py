"""Confidence intervals of AP by drawing the images with replacement (bootstrap).

Shapes: S samples, N images, D detections of a class, T IoU thresholds.

A sample is a weight for each image: how often it was drawn. The AP of a sample is that of a dataset in which each
image is repeated that many times (a test compares the two); no detection is copied. As in
`coco_protocol.accumulate`, only the precision at hits is computed: between hits it falls.

The AP of a sample is too high on average: with images drawn twice, fewer different false detections precede a hit. The
interval is therefore not the middle 95 % of the samples but its mirror image about the AP, the basic interval. In a
simulation of datasets drawn from a population of 8,000 images (150 datasets per row, level 95 %), the population's AP
was inside

    images  classes (frequency)   middle of the samples   basic
      50     1                          92 %               94 %
     100     5 (1/k)                    87 %               95 %
     200    40 (1/k^1.5)                48 %               69 %

The last row is a warning: with many classes of few instances AP itself is too high, and no interval helps.

Reference: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 5.2.1 (basic interval).
"""

from __future__ import annotations

import numpy as np

from mrcnn.evaluation.coco_protocol import MATCH_50, RECALLS, Detections, Matches, T, Truths, sort_by_class

MEMORY = 4_000_000  # weights of detections in one block


def draw(images: int, samples: int, seed: int = 0) -> np.ndarray:
    """[S, N] int: how often each image is drawn in each sample of N draws."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / max(images, 1)), size=samples)


def resampled_ap(
    detections: Detections, truths: Truths, matches: Matches, num_classes: int, weights: np.ndarray, limit: int
) -> np.ndarray:
    """AP of each sample at each IoU threshold, averaged over the classes with ground truth in the sample.

    Args:
        weights: [S, N], how often each image counts.
        limit: Detections per image and class that AP counts.

    Returns:
        [S, T]; NaN for a sample without ground truth.
    """
    samples = len(weights)
    total, classes = np.zeros((samples, T)), np.zeros(samples)
    order, bounds = sort_by_class(detections, num_classes, limit)
    counting = (truths.needless & MATCH_50) == 0
    by_image = np.ascontiguousarray(weights.T.astype(np.int32))  # [N, S]: the weights of an image are contiguous
    for class_id in range(1, num_classes):
        true_images = truths.image[counting & (truths.class_id == class_id)]
        if len(true_images) == 0:
            continue
        counts = weights[:, true_images].sum(axis=1)
        rows = order[bounds[class_id] : bounds[class_id + 1]]
        step = max(1, MEMORY // max(len(rows), 1))
        for first in range(0, samples, step):
            part = slice(first, first + step)
            total[part] += _class_ap(by_image[detections.image[rows], part], matches, rows, counts[part])
        classes += counts > 0
    return np.divide(total, classes[:, None], out=np.full_like(total, np.nan), where=classes[:, None] > 0)


def _class_ap(drawn: np.ndarray, matches: Matches, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[S, T] AP of one class; 0 for samples without ground truth of this class.

    Args:
        drawn: [D, S] weights of the detections' images, best score first.
        rows: [D], rows of the detections in `matches`.
        counts: [S], number of ground-truth instances.
    """
    samples = len(counts)
    result = np.zeros((samples, T))
    seen = np.cumsum(drawn, axis=0, dtype=np.int32)
    for t in range(T):
        bit = np.uint64(1 << t)
        hits = np.flatnonzero(matches.hits[rows] & bit)
        if len(hits) == 0:
            continue
        counted = seen[hits]  # [hits, S]
        ignored = np.flatnonzero(matches.ignored[rows] & bit)
        if len(ignored):
            left_out = np.cumsum(drawn[ignored], axis=0, dtype=np.int32)
            left_out = np.concatenate([np.zeros((1, samples), np.int32), left_out])
            counted = counted - left_out[np.searchsorted(ignored, hits)]
        found = np.cumsum(drawn[hits], axis=0, dtype=np.int32)
        precision = found / (counted + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.diff(_levels_reached(found / np.maximum(counts, 1)), axis=0, prepend=0)
        result[:, t] = (precision * reached).sum(axis=0) / len(RECALLS)
    result[counts == 0] = 0
    return result


def _levels_reached(recall: np.ndarray) -> np.ndarray:
    """The number of the 101 recall levels at or below each recall, as `searchsorted` gives it, by arithmetic."""
    level = (recall * (len(RECALLS) - 1)).astype(np.int32)
    level -= RECALLS[level] > recall  # the levels are not exactly hundredths
    level += np.append(RECALLS, 2.0)[level + 1] <= recall
    return level + 1


def interval(value: float, samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Basic bootstrap interval.

    Args:
        value: The measured number.
        samples: [S], the number in each sample; NaN (not measurable) is ignored.
        level: Share of the samples inside the interval.

    Returns:
        (low, high) with the value between them, or (value, value) without samples.
    """
    samples = samples[np.isfinite(samples)]
    if len(samples) == 0:
        return value, value
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return min(float(2 * value - high), value), max(float(2 * value - low), value)
