"""Kinds of errors and the AP that each costs, and the confusion matrix of classes.

All numbers are at IoU 0.5 (0.1 separates localization errors from background), for all areas, without crowds.

    localization  overlaps a true instance of its class by 0.1 to 0.5
    class         overlaps one of another class by 0.5 or more
    both          overlaps one of another class by 0.1 to 0.5
    duplicate     overlaps one of its class by 0.5 or more, which a detection with a higher score has matched
    background    overlaps nothing by 0.1 or more
    missed        a true instance that no detection has matched and no localization or class error refers to

The cost of an error is the AP50 gained if an oracle fixed it. A localization or class error becomes a hit if it has the
highest score of those that refer to the same unmatched instance; otherwise it is removed. The other false detections
are removed, and missed instances are not counted. The gains do not add up to 1 - AP50, because one error may hide
another. All detections count, even beyond COCO's 100 per image and class, so `ap50` can differ from the report's.
Counts and costs (within 0.0005) are those of the authors' tool, tidecv 1.0.1, except for an IoU of exactly 0.5, which
here is a hit.

Reference: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrcnn.evaluation.coco_protocol import MATCH_50, Detections, Matches, Truths, ap50, mean_of

KINDS = ("localization", "class", "duplicate", "both", "background")
LOCALIZATION, CLASS, DUPLICATE, BOTH, BACKGROUND = range(5)
FOREGROUND = 0.5


@dataclass
class Errors:
    """Counts and costs of the kinds of errors.

    Attributes:
        ap50: AP at IoU 0.5, to which the costs refer.
        counts: Number of errors of each kind.
        costs: AP50 that each kind costs, in [0, 1]; also for all "false positives" and all "false negatives".
        kind: [D] int, index in `KINDS` of the error of each detection; -1 for correct and ignored ones.
        meant: [D] int, row in `Truths` of the instance that the error refers to, or -1.
        missed: [G] bool, which instances are missed.
    """

    ap50: float
    counts: dict[str, int]
    costs: dict[str, float]
    kind: np.ndarray
    meant: np.ndarray
    missed: np.ndarray

    def to_dict(self) -> dict:
        """Counts and costs, as a dict for JSON."""
        return {"ap50": self.ap50, "counts": self.counts, "costs": self.costs}


def break_down(detections: Detections, truths: Truths, matches: Matches, num_classes: int) -> Errors:
    """Classifies the false detections and computes the cost of each kind of error."""
    hit = (matches.hits & MATCH_50).astype(bool)
    counted = ~(matches.ignored & MATCH_50).astype(bool)
    kind, meant = _classify_errors(detections, truths, matches, counted & ~hit)

    untaken = ~truths.crowd
    untaken[matches.taken[hit]] = False
    missed = untaken.copy()
    missed[meant[np.isin(kind, (LOCALIZATION, CLASS)) & (meant >= 0)]] = False

    counts = {name: int(np.count_nonzero(kind == i)) for i, name in enumerate(KINDS)}
    counts["missed"] = int(np.count_nonzero(missed))
    total = np.bincount(truths.class_id[~truths.crowd], minlength=num_classes)

    def average(class_id=detections.class_id, hit=hit, counted=counted, truths_left=total) -> float:
        each = ap50(class_id, detections.score, hit, counted, truths_left)
        each[(total > 0) & (truths_left == 0)] = 0.0  # a class whose instances were all missed gains nothing
        return mean_of(each[1:])

    base = average()
    costs = {}
    fixable = _find_fixable(np.isin(kind, (LOCALIZATION, CLASS)), meant, detections.score, untaken)
    for i in (LOCALIZATION, CLASS):
        fixed = fixable & (kind == i)
        right_class = detections.class_id.copy()
        right_class[fixed] = truths.class_id[meant[fixed]]
        costs[KINDS[i]] = average(right_class, hit | fixed, counted & ((kind != i) | fixed)) - base
    for i in (DUPLICATE, BOTH, BACKGROUND):
        costs[KINDS[i]] = average(counted=counted & (kind != i)) - base
    for name, gone in (("missed", missed), ("false negatives", untaken)):
        left = total - np.bincount(truths.class_id[gone], minlength=num_classes)
        costs[name] = average(truths_left=left) - base
    costs["false positives"] = average(counted=counted & hit) - base
    return Errors(base, counts, costs, kind, meant, missed)


def _classify_errors(
    detections: Detections, truths: Truths, matches: Matches, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[D] kind of error or -1, and [D] the ground-truth instance that it refers to or -1."""
    same = detections.class_id[matches.pair_det] == truths.class_id[matches.pair_gt]
    of_same, same_gt = _best_pair(matches, same, len(wrong))
    of_other, other_gt = _best_pair(matches, ~same, len(wrong))
    cases = (  # the first that holds, in the order of the paper's code
        (LOCALIZATION, (of_same > 0) & (of_same < FOREGROUND), same_gt),
        (CLASS, of_other >= FOREGROUND, other_gt),
        (DUPLICATE, of_same >= FOREGROUND, same_gt),
        (BOTH, of_other > 0, other_gt),
        (BACKGROUND, np.ones(len(wrong), bool), np.full(len(wrong), -1)),
    )
    kind, meant = np.full(len(wrong), -1), np.full(len(wrong), -1)
    for number, holds, gt in cases:
        new = wrong & (kind < 0) & holds
        kind[new], meant[new] = number, gt[new]
    return kind, meant


def _best_pair(matches: Matches, chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The pair with the highest IoU of each detection: [D] IoU (0: none), [D] ground-truth instance (-1: none)."""
    iou, gt = np.zeros(count), np.full(count, -1)
    det = matches.pair_det[chosen]
    order = np.lexsort((matches.pair_iou[chosen], det))
    det = det[order]
    last = np.flatnonzero(np.diff(det, append=-1))  # the highest of each detection
    iou[det[last]] = matches.pair_iou[chosen][order][last]
    gt[det[last]] = matches.pair_gt[chosen][order][last]
    return iou, gt


def _find_fixable(wrong: np.ndarray, meant: np.ndarray, score: np.ndarray, untaken: np.ndarray) -> np.ndarray:
    """[D] bool: false detections that can become hits: the best-scored one for each unmatched true instance."""
    rows = np.flatnonzero(wrong & (meant >= 0))
    rows = rows[untaken[meant[rows]]]
    rows = rows[np.argsort(-score[rows], kind="stable")]
    _, first = np.unique(meant[rows], return_index=True)
    fixed = np.zeros(len(wrong), bool)
    fixed[rows[first]] = True
    return fixed


def confusion_matrix(
    detections: Detections, truths: Truths, matches: Matches, num_classes: int, min_scores: np.ndarray
) -> np.ndarray:
    """Counts which class is detected as which.

    True instances are matched by COCO's rules first. The remaining ones are matched, highest IoU first, with detections
    of other classes that overlap them by 0.5 or more.

    Args:
        min_scores: [C] lowest score at which a detection of each class counts.

    Returns:
        [C, C] int: rows true, columns detected. Row 0: detections without an instance; column 0: instances
        without a detection.
    """
    kept = detections.score >= min_scores[detections.class_id]
    hit = kept & (matches.hits & MATCH_50).astype(bool)
    loose = kept & ~hit & ~(matches.ignored & MATCH_50).astype(bool)
    untaken = ~truths.crowd
    untaken[matches.taken[hit]] = False
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (detections.class_id[hit], detections.class_id[hit]), 1)

    chosen = (matches.pair_iou >= FOREGROUND) & loose[matches.pair_det] & untaken[matches.pair_gt]
    pairs = np.flatnonzero(chosen)
    for pair in pairs[np.argsort(-matches.pair_iou[pairs], kind="stable")].tolist():
        det, gt = matches.pair_det[pair], matches.pair_gt[pair]
        if loose[det] and untaken[gt]:
            matrix[truths.class_id[gt], detections.class_id[det]] += 1
            loose[det] = untaken[gt] = False
    matrix[0] += np.bincount(detections.class_id[loose], minlength=num_classes)
    matrix[:, 0] += np.bincount(truths.class_id[untaken], minlength=num_classes)
    return matrix
