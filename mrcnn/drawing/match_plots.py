"""Precision-recall curve and grid of overlaps of one image. `mrcnn.visualize` exports the functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from mrcnn.drawing import figures
from mrcnn.drawing.captions import class_caption
from mrcnn.drawing.palette import text_color
from mrcnn.text import PLAIN_TEXT, printable

ROOM_FOR_NUMBERS = 1200  # plot_overlaps also writes zeros in grids of at most this many cells


def plot_precision_recall(
    AP: float, precisions: ArrayLike, recalls: ArrayLike, *, ax: Axes | None = None, save: str | Path | None = None
) -> Axes:
    """Draws a precision-recall curve (values 0..1) with the average precision in its title. Returns the axes."""
    ax, opened = figures.open_axes(ax, (6.4, 4.8))
    ax.set_title(f"Precision-Recall Curve. AP@50 = {AP:.3f}")
    ax.set_xlabel("Recall")
    ax.set_ylabel("Precision")
    ax.set_xlim(0, 1.1)
    ax.set_ylim(0, 1.1)
    ax.plot(recalls, precisions)
    figures.finish(ax.figure, opened, save, show=False)
    return ax


def plot_overlaps(
    gt_class_ids: ArrayLike,
    pred_class_ids: ArrayLike,
    pred_scores: ArrayLike,
    overlaps: ArrayLike,
    class_names: Sequence[str],
    threshold: float = 0.5,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draws the IoU of each prediction (row) with each ground-truth instance (column).

    Cells above the threshold are labeled "match" if the classes agree, otherwise "wrong".

    Args:
        gt_class_ids: [G]; zeros are padding.
        pred_class_ids: [P]; zeros are padding.
        pred_scores: [P].
        overlaps: [P, G] IoU in 0..1, as returned by `compute_matches` and `compute_ap`.

    Returns:
        The axes drawn on.
    """
    true_ids, pred_ids = (ids[ids != 0] for ids in map(np.asarray, (gt_class_ids, pred_class_ids)))
    rows, columns = len(pred_ids), len(true_ids)
    overlaps = np.asarray(overlaps, float).reshape(rows, columns) if not rows * columns else np.asarray(overlaps)
    if overlaps.ndim != 2 or overlaps.shape[0] < rows or overlaps.shape[1] < columns:
        raise ValueError(f"overlaps has the shape {overlaps.shape}; expected [{rows} predictions, {columns} true].")
    figures.at_least(rows, pred_scores=pred_scores)
    overlaps = overlaps[:rows, :columns]
    ax, opened = figures.open_axes(ax, (np.clip(0.5 * columns, 12, 40), np.clip(0.3 * rows, 10, 40)))
    shade = plt.Normalize(0, max(overlaps.max(initial=0), 1e-6))
    if overlaps.size:
        ax.imshow(overlaps, interpolation="nearest", cmap=plt.cm.Blues, norm=shade, aspect="auto")
    ax.set_yticks(
        range(rows),
        [f"{printable(class_caption(class_names, c))} ({s:.2f})" for c, s in zip(pred_ids, pred_scores)],
        **PLAIN_TEXT,
    )
    ax.set_xticks(
        range(columns), [printable(class_caption(class_names, c)) for c in true_ids], rotation=90, **PLAIN_TEXT
    )
    ax.set_xlabel("Ground Truth")
    ax.set_ylabel("Predictions")
    written = overlaps > 0 if overlaps.size > ROOM_FOR_NUMBERS else np.ones(overlaps.shape, bool)
    for row, column in np.argwhere(written):
        iou = overlaps[row, column]
        verdict = ("match" if true_ids[column] == pred_ids[row] else "wrong") if iou > threshold else ""
        color = text_color(plt.cm.Blues(shade(iou))) if iou > 0 else "gray"
        ax.text(column, row, f"{iou:.3f}\n{verdict}".strip(), ha="center", va="center", fontsize=9, color=color)
    if opened:
        ax.figure.tight_layout()
    figures.finish(ax.figure, opened, save, show=False)
    return ax
