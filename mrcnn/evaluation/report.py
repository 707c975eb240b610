"""The result of an evaluation: numbers as attributes, a table, an HTML report, JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.evaluation import bootstrap, calibration, errors, semantic
from mrcnn.evaluation.coco_protocol import RECALLS, THRESHOLDS, Accumulated, T, accumulate, mean_of, summarize
from mrcnn.evaluation.coco_results import Names, Predictions
from mrcnn.evaluation.collector import Collector
from mrcnn.evaluation.instances import truth_of
from mrcnn.evaluation.text_table import write_table
from mrcnn.io import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLED = ("ap", "ap50", "ap75")  # the numbers with an interval


class Report:
    """An evaluation of a dataset. `print` it for a table.

    Attributes:
        box_ap, box_ap50, box_ap75, box_ap_{small,medium,large}, box_ar{1,10,100}, box_ar_{small,medium,large}: COCO's
            twelve numbers for boxes, in [0, 1]; -1 without ground truth, as in pycocotools. With `max_detections` and
            `area_ranges`, the numbers are named after these. Only AP and AR ignore detections beyond the limit; errors,
            cuts, confusion and calibration count all detections.
        mask_ap ...: The same for masks. boundary_ap ...: The same with boundary IoU.
        numbers: Dict of all these numbers.
        per_class: List of dicts, one per class: class_id, name, truths (number of ground-truth instances without
            crowds), and <kind>_ap, <kind>_ap50, <kind>_ap75, <kind>_ar100 for each kind.
        kinds: List of "box", "mask", "boundary". `main` is the mask, or the box if the results have no masks; the
            following attributes refer to it.
        errors: `Errors`, the kinds of errors and the AP each of them costs.
        best_cut: `Threshold`, the score with the highest F1 for all classes together; `best_cuts`: for each class.
        min_scores: [C], this score for each class; for a class without one, that of all classes.
        confusion: [C, C] int at these scores; rows true, columns detected, 0 is background.
        calibration: `Calibration`, or None if scores are not probabilities.
        intervals: Dict from number to (low, high), the 95 % bootstrap interval over images, for AP, AP50 and AP75.
        image_scores: [N] float, quality of each image: its F1 at `min_scores`, averaged over the ten IoU thresholds.
        notes: List of sentences about what is not counted, and why.
        image_ids: [N], the dataset's ids of the images, in the order of their ids in results.
        dataset, detections, truths, matches, accumulated: The data that the numbers are computed from
            (`mrcnn.evaluation.coco_protocol`).

    Example:

        report = model.evaluate_dataset(dataset)
        print(report)  # the table
        report.mask_ap, report.intervals["mask_ap"], [row["mask_ap50"] for row in report.per_class]
        report.report("report.html")
    """

    def __init__(self, names: Names, collector: Collector, predictions: Callable[[], Predictions], notes: list[str]):
        self.dataset = names.dataset
        self.class_names = list(names.dataset.class_names)
        self.notes = list(notes)
        self.kinds = collector.kinds
        self.settings = collector.settings
        self.main = "mask" if "mask" in self.kinds else "box"
        self.image_ids, self.detections, self.truths, self.matches = collector.finish(names.order)
        self.image_keys = [names.image_key[i] for i in self.image_ids]
        self.accumulated: dict[str, Accumulated] = {
            kind: accumulate(*self._columns(kind), self.settings) for kind in self.kinds
        }
        self.numbers: dict[str, float] = {
            f"{kind}_{name}": value
            for kind in self.kinds
            for name, value in summarize(self.accumulated[kind], self.settings).items()
        }
        self.__dict__.update(self.numbers)
        self.per_class = [self._of_class(k) for k in range(len(self.class_names) - 1)]
        self._read_predictions = predictions
        self._semantic = {}

    def _of_class(self, k: int) -> dict:
        row = {"class_id": k + 1, "name": self.class_names[k + 1]}
        row["truths"] = int(self.accumulated[self.main].truths[k, 0])
        for kind in self.kinds:
            result = self.accumulated[kind]
            row[f"{kind}_ap"] = mean_of(result.precision[:, :, k, 0])
            row[f"{kind}_ap50"] = mean_of(result.precision[0, :, k, 0])
            row[f"{kind}_ap75"] = mean_of(result.precision[5, :, k, 0])
            row[f"{kind}_ar{self.settings.limits[-1]}"] = mean_of(result.recall[:, k, 0, -1])
        return row

    @cached_property
    def predictions(self) -> Predictions:
        """The detections, image by image."""
        return self._read_predictions()

    def _columns(self, kind: str | None = None) -> tuple:
        return self.detections, self.truths, self.matches[kind or self.main], len(self.class_names)

    # ---- Beyond AP ---------------------------------------------------------------------------------------------------
    @cached_property
    def errors(self) -> errors.Errors:
        return errors.break_down(*self._columns())

    @cached_property
    def _cuts(self) -> tuple[calibration.Threshold, list[calibration.Threshold]]:
        return calibration.best_thresholds(*self._columns())

    @property
    def best_cut(self) -> calibration.Threshold:
        return self._cuts[0]

    @property
    def best_cuts(self) -> list[calibration.Threshold]:
        return self._cuts[1]

    @property
    def min_scores(self) -> np.ndarray:
        return calibration.min_scores(*self._cuts)

    @cached_property
    def calibration(self) -> calibration.Calibration | None:
        return calibration.calibrate(self.detections, self.matches[self.main])

    @cached_property
    def confusion(self) -> np.ndarray:
        return errors.confusion_matrix(*self._columns(), self.min_scores)

    def confusion_at(self, min_score: float) -> np.ndarray:
        """[C, C] confusion with one score threshold for all classes."""
        return errors.confusion_matrix(*self._columns(), np.full(len(self.class_names), float(min_score)))

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return self.bootstrap()

    def bootstrap(self, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Confidence intervals over images, by drawing images with replacement.

        Args:
            samples: Number of bootstrap samples; a few hundred to a thousand are enough.
            level: Share of the samples inside the interval.
            seed: Seed of the draws.

        Returns:
            Dict from number to (low, high), for AP, AP50 and AP75 of each kind; (-1, -1) without ground truth.
        """
        weights = bootstrap.draw(len(self.image_ids), samples, seed)
        found = {}
        for kind in self.kinds:
            values = bootstrap.resampled_ap(*self._columns(kind), weights, self.settings.limits[-1])
            for name, one in zip(RESAMPLED, (values.mean(axis=1), values[:, 0], values[:, 5])):
                low, high = bootstrap.interval(self.numbers[f"{kind}_{name}"], one, level)
                found[f"{kind}_{name}"] = (max(low, 0.0), min(high, 1.0)) if np.isfinite(one).any() else (-1.0, -1.0)
        return found

    def curve(self, class_id: int | None = None, iou: float | None = None, kind: str | None = None) -> dict:
        """Precision-recall curve.

        Args:
            class_id: A class id; None: the mean over the classes with ground truth.
            iou: One of 0.50, 0.55 ... 0.95; None: the mean over them.
            kind: "box", "mask" or "boundary"; None: the main kind.

        Returns:
            Dict of recall [101] and precision [101]; for one class at one IoU also score [101], the highest threshold
            that reaches this recall (0: none does).
        """
        result = self.accumulated[kind or self.main]
        ious = range(T) if iou is None else [_threshold_index(iou)]
        classes = range(len(self.per_class)) if class_id is None else [class_id - 1]
        values = result.precision[..., 0][np.ix_(ious, range(len(RECALLS)), classes)]  # [ious, R, classes]
        values = values[..., values[0, 0] >= 0]
        precision = values.mean(axis=(0, 2)) if values.size else np.full(len(RECALLS), -1.0)
        curve = {"recall": RECALLS, "precision": precision}
        if class_id is not None and iou is not None:
            curve["score"] = result.score[ious[0], :, classes[0], 0]
        return curve

    @cached_property
    def image_scores(self) -> np.ndarray:
        kept = self.detections.score >= self.min_scores[self.detections.class_id]
        images, matches = len(self.image_ids), self.matches[self.main]
        true = np.bincount(self.truths.image[~self.truths.crowd], minlength=images)
        quality = np.zeros(images)
        for t in range(T):
            bit = np.uint64(1 << t)
            hit = (matches.hits & bit) != 0
            right = np.bincount(self.detections.image[kept & hit], minlength=images)
            wrong = np.bincount(self.detections.image[kept & ~hit & ((matches.ignored & bit) == 0)], minlength=images)
            total = right + wrong + true  # 2 hits + false + missed
            quality += np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
        return quality / T

    def semantic(self, min_score: float = 0.5) -> semantic.SemanticScores:
        """Evaluates the detections as semantic segmentation: one class per pixel, that of the highest score.

        Reads ground truth and detections again, one image at a time.

        Args:
            min_score: Detections with a lower score are left out.

        Raises:
            ValueError: The results have no masks.
        """
        if self.main != "mask":
            raise ValueError("The results hold boxes only; a semantic view needs masks.")
        if min_score not in self._semantic:
            confusion = np.zeros((len(self.class_names),) * 2, np.int64)
            for image_id in self.image_ids:
                truth = truth_of(self.dataset, image_id)
                found = self.predictions.detections(image_id, truth.size)
                found = found.take(np.flatnonzero(found.scores >= min_score))
                signs = np.where(truth.crowd, -1, 1)
                true = semantic.semantic_map({"masks": truth.masks(), "class_ids": truth.class_ids * signs})
                detected = semantic.semantic_map(
                    {"masks": found.masks(), "class_ids": found.class_ids, "scores": found.scores}
                )
                confusion += semantic.count_pixels(true, detected, len(self.class_names))
            self._semantic[min_score] = semantic.semantic_scores(confusion)
        return self._semantic[min_score]

    # ---- Output ----------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        return write_table(self)

    def plot(self, what: str = "overview") -> Figure:
        """Draws a matplotlib figure. Needs no screen.

        Args:
            what: "overview", "curves", "classes", "confusion", "errors", "calibration" or "cuts".
        """
        from mrcnn.evaluation.report_figures import plot

        return plot(self, what)

    def report(self, path: str | Path, images: int = 6) -> Path:
        """Writes one self-contained HTML page: numbers, curves, confusion, and images drawn.

        Args:
            path: Path of the HTML file.
            images: Number of images to draw of each kind: worst, most confident errors, best.

        Returns:
            The path.
        """
        from mrcnn.evaluation.html_report import write_page

        return write_page(self, path, images)

    def to_dict(self) -> dict:
        """All numbers, as a dict for JSON."""
        return {
            **self.numbers,
            "images": len(self.image_ids),
            "truths": int((~self.truths.crowd).sum()),
            "detections": len(self.detections.score),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "per_class": [{**row, "best_cut": vars(cut)} for row, cut in zip(self.per_class, self.best_cuts)],
            "best_cut": vars(self.best_cut),
            "errors": self.errors.to_dict(),
            "confusion": self.confusion.tolist(),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "semantic": {str(score): view.to_dict() for score, view in self._semantic.items()},
            "notes": self.notes,
        }

    def to_coco_json(self, path: str | Path | None = None) -> list[dict] | None:
        """The detections as a COCO results list, for which pycocotools computes the same numbers.

        Args:
            path: Path of a file to write, or None.

        Returns:
            The list without a path, otherwise None.
        """
        if path is None:
            return list(self.predictions.stream())
        with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
            for i, entry in enumerate(self.predictions.stream()):
                file.write("[\n" if i == 0 else ",\n")
                file.write(json.dumps(entry))
            file.write("\n]\n" if len(self.predictions) else "[]\n")
        return None


def _threshold_index(iou: float) -> int:
    index = int(np.argmin(np.abs(THRESHOLDS - iou)))
    if abs(THRESHOLDS[index] - iou) > 1e-6:
        raise ValueError(f"iou is {iou}; expected one of {', '.join(f'{t:.2f}' for t in THRESHOLDS)}, or None.")
    return index
