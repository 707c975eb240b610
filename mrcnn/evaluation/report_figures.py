"""Figures of a report. They do not use pyplot, so they need no display, never block and are not kept in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrcnn.evaluation.coco_protocol import MATCH_50, THRESHOLDS
from mrcnn.evaluation.errors import KINDS
from mrcnn.text import PLAIN_TEXT, printable

if TYPE_CHECKING:
    from mrcnn.evaluation.report import Report

BLUE, GRAY, RED, GREEN = "#2563a8", "#9aa3ad", "#c2410c", "#2f855a"
MOST_CLASSES = 24  # shown individually; beyond that, only the most informative ones


def plot(report: Report, what: str = "overview") -> Figure:
    """Draws a figure of a report; `Report.plot` lists the choices."""
    if what == "overview":
        figure = Figure(figsize=(13, 9), layout="constrained")
        axes = figure.subplots(2, 2).ravel()
        for ax, name in zip(axes, ("curves", "errors", "classes", "calibration")):
            PLOTS[name](report, ax)
        return figure
    if what not in PLOTS:
        raise ValueError(f"plot is {what!r}; expected one of overview, {', '.join(PLOTS)}.")
    size = {"confusion": (7, 6.2), "classes": (7, 6.2)}.get(what, (6.5, 4.2))
    figure = Figure(figsize=size, layout="constrained")
    PLOTS[what](report, figure.subplots())
    return figure


def curves(report: Report, ax: Axes) -> None:
    """Precision over recall: each class at IoU 0.5 in gray, and the mean at several IoUs."""
    for row in report.per_class:
        if row["truths"]:
            curve = report.curve(row["class_id"], iou=0.5)
            ax.plot(curve["recall"], curve["precision"], color=GRAY, linewidth=0.6, alpha=0.5)
    for t, shade in ((0, 1.0), (5, 0.65), (8, 0.4)):
        curve = report.curve(iou=THRESHOLDS[t])
        label = f"mean, IoU {THRESHOLDS[t]:.2f}"
        ax.plot(curve["recall"], curve["precision"], color=BLUE, alpha=shade, linewidth=2, label=label)
    ax.set(
        xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=f"Precision and recall ({report.main})"
    )
    ax.legend(frameon=False, loc="lower left", fontsize=8)
    _plain(ax)


def classes(report: Report, ax: Axes) -> None:
    """AP of each class; with many classes, only the best and the worst."""
    rows = sorted((r for r in report.per_class if r["truths"]), key=lambda r: r[f"{report.main}_ap"])
    title = f"AP of classes ({report.main})"
    if len(rows) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        title = f"AP of the {half} best and {half} worst of {len(rows)} classes ({report.main})"
        rows = rows[:half] + rows[-half:]
    places = np.arange(len(rows))
    values = [r[f"{report.main}_ap"] for r in rows]
    ax.barh(places, values, color=BLUE, height=0.7)
    for place, value in zip(places, values):
        ax.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=7, color="#444")
    ax.set_yticks(places, [printable(f"{r['name']} ({r['truths']})") for r in rows], fontsize=7, **PLAIN_TEXT)
    ax.set(xlim=(0, 1.08), xlabel="AP", title=title)
    _plain(ax, "x")


def confusion(report: Report, ax: Axes) -> None:
    """Rows true, columns detected, normalized by row; with many classes, only the most confused ones."""
    matrix = report.confusion
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    chosen = 1 + np.flatnonzero((matrix.sum(axis=0) + matrix.sum(axis=1))[1:] > 0)
    if len(chosen) > MOST_CLASSES:
        chosen = np.sort(chosen[np.argsort(-wrong[chosen], kind="stable")[:MOST_CLASSES]])
    shown = np.append(chosen, 0)
    part = matrix[np.ix_(shown, shown)].astype(float)
    shares = part / np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(shown) <= 13:
        for i, j in np.ndindex(*part.shape):
            if part[i, j]:
                ax.text(j, i, int(part[i, j]), ha="center", va="center", fontsize=8,
                        color="white" if shares[i, j] > 0.5 else "#222")  # fmt: skip
    labels = [printable(report.class_names[c]) for c in chosen]
    ax.set_xticks(range(len(shown)), [*labels, "missed"], rotation=90, fontsize=7, **PLAIN_TEXT)
    ax.set_yticks(range(len(shown)), [*labels, "nothing there"], fontsize=7, **PLAIN_TEXT)
    some = "" if len(chosen) == len(matrix) - 1 else f", {len(chosen)} of {len(matrix) - 1} classes"
    ax.set(xlabel="detected", ylabel="true", title=f"Confusion at the best score of each class, shares of a row{some}")


def errors(report: Report, ax: Axes) -> None:
    """The AP50 that each kind of error costs."""
    names = [*KINDS, "missed", "false positives", "false negatives"]
    values = [max(report.errors.costs[name], 0) for name in names]
    places = np.arange(len(names))[::-1]
    ax.barh(places, values, color=[RED] * 6 + [GRAY] * 2, height=0.7)
    for place, value, name in zip(places, values, names):
        count = report.errors.counts.get(name)
        ax.text(value, place, f" {value:.3f}" + (f"  ({count})" if count is not None else ""), va="center", fontsize=8)
    ax.set_yticks(places, names, fontsize=8)
    ax.set(
        xlim=(0, max([*values, 0.01]) * 1.35),
        xlabel="AP50 it costs (how many)",
        title=f"Errors ({report.main}, IoU 0.5)",
    )
    _plain(ax, "x")


def calibration(report: Report, ax: Axes) -> None:
    """Precision over score, with the share of detections in each bin."""
    found = report.calibration
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score", ylabel="share that is right (IoU 0.5)")
    if found is None:
        ax.set_title("Calibration: no scores in [0, 1]")
        return
    width = found.edges[1]
    ax.bar(found.edges[:-1], found.counts / found.counts.sum(), width, align="edge", color=GRAY, alpha=0.4,
           label="share of detections")  # fmt: skip
    ax.plot([0, 1], [0, 1], color="#666", linestyle=":", linewidth=1)
    there = found.counts > 0
    ax.plot(found.score[there], found.precision[there], color=BLUE, marker="o", markersize=4, label="precision")
    if report.best_cut.score is not None:
        ax.axvline(report.best_cut.score, color=GREEN, linewidth=1, label=f"best F1 {report.best_cut.f1:.2f}")
    ax.set_title(f"Calibration, error {found.ece:.3f}")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    _plain(ax)


def cuts(report: Report, ax: Axes) -> None:
    """Precision, recall and F1 of all classes together, over the score threshold."""
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score to cut at", title="Where to cut (all classes, IoU 0.5)")
    matches, truths = report.matches[report.main], int((~report.truths.crowd).sum())
    counted = (matches.ignored & MATCH_50) == 0
    if not counted.any() or not truths:
        return
    order = np.argsort(-report.detections.score[counted], kind="stable")
    hits = np.cumsum((matches.hits[counted] & MATCH_50)[order].astype(int))
    kept = np.arange(1, len(order) + 1)
    shown = np.unique(np.linspace(0, len(order) - 1, 500).astype(int))  # enough points for a smooth curve
    score = report.detections.score[counted][order][shown]
    hits, kept = hits[shown], kept[shown]
    ax.plot(score, hits / kept, color=GRAY, label="precision")
    ax.plot(score, hits / truths, color=GRAY, linestyle="--", label="recall")
    ax.plot(score, 2 * hits / (kept + truths), color=BLUE, linewidth=2, label="F1")
    if report.best_cut.score is not None:
        ax.axvline(report.best_cut.score, color=GREEN, linewidth=1, label=f"best, {report.best_cut.score:.2f}")
    ax.legend(frameon=False, fontsize=8)
    _plain(ax)


def _plain(ax: Axes, axis: str = "both") -> None:
    ax.grid(axis=axis, color="#e5e7eb", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


PLOTS = {
    "curves": curves,
    "classes": classes,
    "confusion": confusion,
    "errors": errors,
    "calibration": calibration,
    "cuts": cuts,
}
