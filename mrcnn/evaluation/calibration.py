"""Calibration of the scores, and the score threshold with the best F1.

Scores are calibrated if 80 % of the detections with score 0.8 are correct (at IoU 0.5, each true instance found once).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrcnn.evaluation.coco_protocol import MATCH_50, Detections, Matches, Truths

BINS = 15


@dataclass
class Calibration:
    """Reliability of the scores.

    Attributes:
        edges: [16], scores at the borders of the bins.
        counts: [15], number of detections in each bin.
        score: [15], mean score of each bin; NaN for empty bins.
        precision: [15], share of correct detections in each bin; NaN for empty bins.
        ece: Expected calibration error, the mean of |score - precision| weighted by the counts; in [0, 1].
        mce: The largest |score - precision| of a bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    score: np.ndarray
    precision: np.ndarray
    ece: float
    mce: float

    def to_dict(self) -> dict:
        """A dict for JSON; None for bins without detections."""
        columns = {"edges": self.edges, "counts": self.counts, "score": self.score, "precision": self.precision}
        plain = {n: [None if v != v else v for v in column.tolist()] for n, column in columns.items()}
        return {**plain, "ece": self.ece, "mce": self.mce}


def calibrate(detections: Detections, matches: Matches) -> Calibration | None:
    """Compares scores with the share of hits at IoU 0.5.

    Returns:
        None if there are no detections, or if scores outside [0, 1] show that they are not probabilities.
    """
    counted = (matches.ignored & MATCH_50) == 0
    score = detections.score[counted]
    if len(score) == 0 or score.min() < 0 or score.max() > 1:
        return None
    hit = (matches.hits[counted] & MATCH_50).astype(float)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.minimum((score * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(place, score, BINS) / counts
        precision = np.bincount(place, hit, BINS) / counts
    gap = np.nan_to_num(np.abs(mean_score - precision))
    return Calibration(
        edges, counts, mean_score, precision, float((gap * counts).sum() / counts.sum()), float(gap.max())
    )


@dataclass
class Threshold:
    """The score threshold with the highest F1 at IoU 0.5: detections with at least this score are kept."""

    score: float | None  # None: no correct detection, or no ground truth
    f1: float
    precision: float
    recall: float


def best_threshold(score: np.ndarray, hit: np.ndarray, truths: int) -> Threshold:
    """The threshold with the highest F1 = 2 hits / (detections kept + true instances); the highest if several tie.

    Args:
        score: [n] scores of the detections.
        hit: [n] bool, which are correct.
        truths: Number of true instances.
    """
    if truths == 0 or not hit.any():
        return Threshold(None, 0.0, 0.0, 0.0)
    order = np.argsort(-score, kind="stable")
    hits, kept = np.cumsum(hit[order]), np.arange(1, len(order) + 1)
    f1 = 2 * hits / (kept + truths)
    f1[np.flatnonzero(np.diff(score[order]) == 0)] = -1  # a cut can't separate equal scores
    best = int(np.argmax(f1))
    return Threshold(
        float(score[order[best]]), float(f1[best]), float(hits[best] / kept[best]), float(hits[best] / truths)
    )


def best_thresholds(
    detections: Detections, truths: Truths, matches: Matches, num_classes: int
) -> tuple[Threshold, list[Threshold]]:
    """The best threshold for all classes together, and that of each class 1..C-1."""
    counted = (matches.ignored & MATCH_50) == 0
    hit = (matches.hits & MATCH_50).astype(bool)
    true = ~truths.crowd
    together = best_threshold(detections.score[counted], hit[counted], int(true.sum()))
    single = []
    for class_id in range(1, num_classes):
        rows = counted & (detections.class_id == class_id)
        count = int(np.count_nonzero(true & (truths.class_id == class_id)))
        single.append(best_threshold(detections.score[rows], hit[rows], count))
    return together, single


def min_scores(together: Threshold, single: list[Threshold]) -> np.ndarray:
    """[C], the threshold of each class. A class without one gets that of all classes, or 0 if there is none."""
    common = 0.0 if together.score is None else together.score
    return np.array([common] + [common if cut.score is None else cut.score for cut in single])
