"""Compares two evaluations of the same images, with confidence intervals of the differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrcnn.evaluation.bootstrap import draw, interval, resampled_ap
from mrcnn.evaluation.report import RESAMPLED, Report
from mrcnn.evaluation.text_table import align, show


@dataclass
class Difference:
    """The difference b - a of a number in both reports."""

    a: float
    b: float
    difference: float
    low: float  # ends of the interval of the difference
    high: float
    b_better: float  # share of the samples with b > a

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass
class Comparison:
    """The result of `compare`. `print` it for a table.

    Attributes:
        differences: Dict from number to `Difference`, for AP, AP50 and AP75 of each kind that both reports have.
        per_class: List of dicts with class_id, name, truths, and a, b and difference of the AP of the main kind.
        images: List of dicts with image_id (of the dataset), key (id in results), and a, b and difference of
            `Report.image_scores`; the largest difference first.
        names: Names of the two reports.
        level: Level of the intervals.
    """

    differences: dict[str, Difference]
    per_class: list[dict]
    images: list[dict]
    names: tuple[str, str]
    level: float

    def to_dict(self) -> dict:
        """A dict for JSON."""
        return {
            "names": list(self.names),
            "level": self.level,
            "differences": {name: vars(value) for name, value in self.differences.items()},
            "per_class": self.per_class,
            "images": self.images,
        }

    def __str__(self) -> str:
        a, b = self.names
        rows = []
        for name, value in self.differences.items():
            interval = f"{value.low:+.3f} to {value.high:+.3f}"
            chance = "" if value.certain else "(may be chance)"
            numbers = [
                show(value.a),
                show(value.b),
                f"{value.difference:+.3f}",
                interval,
                f"{value.b_better:.0%}",
                chance,
            ]
            rows.append([name, *numbers])
        head = ["", a, b, "difference", f"{self.level:.0%} interval", f"{b} better in", ""]
        images = [[str(image["key"]), show(image["a"]), show(image["b"])] for image in self.images[:10]]
        return align(head, rows) + "\n\n" + align(["Images that differ most", a, b], images)


def compare(
    report_a: Report,
    report_b: Report,
    names: tuple[str, str] = ("a", "b"),
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares two models on the same images.

    The interval is paired: each bootstrap sample evaluates both models on the same images. The difficulty of the images
    cancels out, so differences far smaller than the intervals of the reports can be significant.

    Args:
        report_a, report_b: Evaluations of the same images with the same ground truth.
        names: Their names in the table.
        samples, level, seed: As for `Report.bootstrap`.

    Raises:
        ValueError: The reports have different images, classes or ground truth.

    Example:

        print(compare(old.evaluate_dataset(dataset), new.evaluate_dataset(dataset), ("old", "new")))
    """
    _require_same(report_a, report_b)
    weights = draw(len(report_a.image_ids), samples, seed)
    classes = len(report_a.class_names)
    differences = {}
    for kind in (kind for kind in report_a.kinds if kind in report_b.kinds):
        of_a, of_b = (
            resampled_ap(
                report.detections, report.truths, report.matches[kind], classes, weights, report.settings.limits[-1]
            )
            for report in (report_a, report_b)
        )
        for name, columns in zip(RESAMPLED, (slice(None), slice(0, 1), slice(5, 6))):
            change = of_b[:, columns].mean(axis=1) - of_a[:, columns].mean(axis=1)
            a, b = report_a.numbers[f"{kind}_{name}"], report_b.numbers[f"{kind}_{name}"]
            low, high = interval(b - a, change, level)
            measured = np.isfinite(change)
            better = float((change[measured] > 0).mean()) if measured.any() else 0.0
            differences[f"{kind}_{name}"] = Difference(a, b, b - a, low, high, better)
    return Comparison(differences, _classes(report_a, report_b), _images(report_a, report_b), tuple(names), level)


def _require_same(a: Report, b: Report) -> None:
    if a.class_names != b.class_names:
        raise ValueError(f"compare: the classes differ: {a.class_names[1:6]} ... and {b.class_names[1:6]} ...")
    if (a.settings.limits, a.settings.areas) != (b.settings.limits, b.settings.areas):
        raise ValueError("compare: max_detections or area_ranges differ. Evaluate both with the same.")
    if a.image_keys != b.image_keys:
        only = sorted(map(str, set(a.image_keys) ^ set(b.image_keys)))
        raise ValueError(
            f"compare: the reports are of {len(a.image_keys)} and {len(b.image_keys)} images; only one of them has"
            f" {', '.join(only[:5])}. Evaluate both on the same images."
        )
    same = np.array_equal(a.truths.image, b.truths.image) and np.array_equal(a.truths.class_id, b.truths.class_id)
    if not same:
        raise ValueError("compare: the reports have different true instances. Evaluate both on the same dataset.")


def _classes(a: Report, b: Report) -> list[dict]:
    kind = a.main if a.main in b.kinds else "box"
    rows = []
    for of_a, of_b in zip(a.per_class, b.per_class):
        values = {"a": of_a[f"{kind}_ap"], "b": of_b[f"{kind}_ap"]}
        head = {name: of_a[name] for name in ("class_id", "name", "truths")}
        rows.append({**head, **values, "difference": values["b"] - values["a"]})
    return rows


def _images(a: Report, b: Report) -> list[dict]:
    change = b.image_scores - a.image_scores
    order = np.argsort(-np.abs(change), kind="stable")
    return [
        {
            "image_id": a.image_ids[i],
            "key": a.image_keys[i],
            "a": float(a.image_scores[i]),
            "b": float(b.image_scores[i]),
            "difference": float(change[i]),
        }
        for i in order
    ]
