"""A `DatasetSummary` as a text table and as a figure. The figure is made without pyplot and needs no display.

`summary` is a `mrcnn.data.summary.DatasetSummary` in every function. This module doesn't import that one, which imports
this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.text import PLAIN_TEXT, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASSES_SHOWN, SIZES_SHOWN = 20, 3
FEWEST_BARS, MOST_BARS = 6, 40
BLUE, RED = "#2563a8", "#c2410c"


# ---- Table -----------------------------------------------------------------------------------------------------------
def table(summary: Any) -> str:
    """The summary as lines of text, a title in the first 14 columns."""
    return "\n".join(f"{title:<14}{printable(text)}" for title, text in _table_rows(summary))


def _table_rows(summary) -> list[tuple[str, str]]:
    counts = summary.objects_per_image
    without = summary.images_without_objects
    rows = [("Dataset", summary.name), ("Images", _counted(len(counts), "image") + ", " + _size_text(summary))]
    rows += [("", f"{len(without)} without objects" + (f": {_join_first(without)}" if without else ""))]
    crowds = f", including {_counted(int(summary.crowd.sum()), 'crowd')}" if summary.crowd.any() else ""
    rows += [("Objects", f"{_counted(len(summary.class_ids), 'object')}{crowds}")]
    if len(counts):
        rows += [("", f"per image: {counts.min()} to {counts.max()}, median {np.median(counts):g}")]
    if summary.without_pixel:
        rows += [("", f"empty masks: {summary.without_pixel:,}")]
    rows += _class_rows(summary)
    if len(summary.visible_boxes):
        unit = "pixels of the stored image" if summary.config is None else "pixels after resizing"
        rows += [
            ("Size", f"{_format_spread(summary.sides, '.0f')} (square root of the box area, {unit})"),
            ("Aspect ratio", f"{_format_spread(summary.aspect_ratios, '.2f')} (width / height of the box)"),
        ]
    return rows if summary.config is None else rows + _config_rows(summary)


def _size_text(summary) -> str:
    sizes = summary.frequent_image_sizes
    shown = ", ".join(f"{height} x {width} ({count})" for (height, width), count in sizes[:SIZES_SHOWN])
    more = f" and {len(sizes) - SIZES_SHOWN} other sizes" if len(sizes) > SIZES_SHOWN else ""
    return f"height x width: {shown}{more}" if sizes else "no sizes"


def _class_rows(summary) -> list[tuple[str, str]]:
    counts, shown_in = summary.instances_per_class, summary.images_per_class
    present = [(name, count) for name, count in counts.items() if count]
    rows = [f"{name}: {_counted(count, 'object')} in {_counted(shown_in[name], 'image')}" for name, count in present]
    if len(rows) > CLASSES_SHOWN:
        rows = [*rows[:CLASSES_SHOWN], f"and {len(rows) - CLASSES_SHOWN} less frequent classes"]
    absent = [name for name, count in counts.items() if not count]
    if absent:
        rows += [f"without objects: {_join_first(absent)}"]
    heading = f"{_counted(len(counts), 'class')}, {len(present)} with objects"
    return [("Classes", heading), *(("", row) for row in rows)]


def _config_rows(summary) -> list[tuple[str, str]]:
    config = summary.config
    sizes = summary.frequent_molded_sizes
    shown = ", ".join(f"{height} x {width}" for (height, width), _ in sizes[:SIZES_SHOWN])
    more = f" and {len(sizes) - SIZES_SHOWN} others" if len(sizes) > SIZES_SHOWN else ""
    rows = [("Resized to", f'{shown}{more} (mode "{config.IMAGE_RESIZE_MODE}")')]
    if summary.lost_in_resizing:
        rows += [("", f"{_counted(summary.lost_in_resizing, 'object')} without a pixel after resizing")]
    crowded = int((summary.objects_per_image > config.MAX_GT_INSTANCES).sum())
    if crowded:
        rows += [
            (
                "",
                f"{_counted(crowded, 'image')} with more than MAX_GT_INSTANCES = {config.MAX_GT_INSTANCES} objects",
            )
        ]
    if summary.mini_empty is not None:
        cells = " x ".join(map(str, config.MINI_MASK_SHAPE))
        smaller = f"larger than the box: {_format_share(summary.smaller_than_mini_mask, len(summary.visible_boxes))}"
        lost = f"objects lost because smaller than a cell: {int(summary.mini_empty.sum()):,}"
        rows += [("Mini masks", f"{cells}, {smaller}; {lost}")]
    if summary.anchor_recall(0) is not None:
        recall = ", ".join(f"{summary.anchor_recall(iou):.3f} at IoU {iou}" for iou in summary.RECALL_IOUS)
        rows += [("Anchors", f"recall {recall} (share of objects with such an anchor)")]
    return rows


def _format_spread(values: np.ndarray, form: str) -> str:
    low, middle, high = (format(value, form) for value in np.percentile(values, (5, 50, 95)))
    return f"median {middle}, 90 % between {low} and {high}"


def _counted(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith(("s", "x")) else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _format_share(number: int, total: int) -> str:
    return f"{number:,} ({number / total:.0%})" if total else "0"


def _join_first(names: Sequence) -> str:
    return ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")


# ---- Figure ----------------------------------------------------------------------------------------------------------
def draw(summary: Any) -> Figure:
    """The figure described by `DatasetSummary.plot`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8.4), layout="constrained")
    objects = f"{_counted(len(summary.class_ids), 'object')} in {_counted(len(summary.image_ids), 'image')}"
    figure.suptitle(f"{printable(summary.name)}: {objects}", fontsize=15, **PLAIN_TEXT)
    panels = (_draw_classes, _draw_image_sizes, _draw_counts, _draw_sides, _draw_aspects, _draw_recall)
    for panel, ax in zip(panels, figure.subplots(2, 3).ravel()):
        panel(summary, ax)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_classes(summary, ax: Axes) -> None:
    counts = list(summary.instances_per_class.items())
    shown = counts[:CLASSES_SHOWN][::-1]
    ax.barh(range(len(shown)), [count for _, count in shown], color=BLUE, height=0.7)
    for place, (_, count) in enumerate(shown):
        ax.text(count, place, f" {count:,}", va="center", fontsize=9)
    names = [printable(name if len(name) <= 18 else name[:17] + "…") for name, _ in shown]
    ax.set_yticks(range(len(shown)), names, fontsize=9, **PLAIN_TEXT)
    above = max(0, FEWEST_BARS - len(shown)) / 2  # keeps a single bar from filling the panel
    ax.set_ylim(-0.6 - above, len(shown) - 0.4 + above)
    ax.set_xlim(0, 1.15 * max([1, *(count for _, count in shown)]))
    ax.xaxis.get_major_locator().set_params(integer=True)
    which = f"for the {len(shown)} most frequent of {len(counts)} classes" if len(shown) < len(counts) else "by class"
    ax.set(title=f"Objects {which}", xlabel="objects")


def _draw_image_sizes(summary, ax: Axes) -> None:
    sizes = summary.frequent_image_sizes
    heights, widths, counts = np.array([(*size, count) for size, count in sizes]).reshape(-1, 3).T
    ax.scatter(widths, heights, s=20 + 600 * counts / max(1, counts.sum()), color=BLUE, alpha=0.6, linewidth=0)
    longest = 1.15 * max([*heights, *widths, 1])
    ax.set(xlim=(0, longest), ylim=(0, longest), aspect="equal", xlabel="width, pixels", ylabel="height, pixels",
           title="Image sizes (larger dot: more images)")  # fmt: skip
    frequent = [f"{width} × {height}: {_counted(count, 'image')}" for (height, width), count in sizes[:SIZES_SHOWN]]
    others = [f"{len(sizes) - SIZES_SHOWN} other sizes"] if len(sizes) > SIZES_SHOWN else []
    ax.text(0.03, 0.03, "\n".join(frequent + others), transform=ax.transAxes, va="bottom", fontsize=9, color="#444")


def _draw_counts(summary, ax: Axes) -> None:
    counts = summary.objects_per_image
    most = int(counts.max(initial=1))
    width = -(-most // MOST_BARS)  # whole, so that every bar covers equally many numbers
    edges = np.concatenate([[-0.5], np.arange(0.5, most + width, width)])  # 0 has its own bar
    heights, _ = np.histogram(counts, edges)
    colors = [RED, *[BLUE] * (len(heights) - 1)]
    ax.bar(edges[:-1], heights, np.diff(edges), align="edge", color=colors, edgecolor="w")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    empty = len(summary.images_without_objects)
    title = f"Objects per image ({_counted(empty, 'image')} without objects)"
    ax.set_ylim(bottom=0)
    ax.set(title=title, xlabel="objects" + (f", {width} per bar" if width > 1 else ""), ylabel="images")


def _draw_sides(summary, ax: Axes) -> None:
    unit = "pixels of the stored image" if summary.config is None else "pixels after resizing"
    ax.set(title="Object sizes", xlabel=f"√(height × width) of the box, {unit}", ylabel="objects")
    _draw_log_histogram(ax, summary.sides, None if summary.config is None else summary.config.RPN_ANCHOR_SCALES)
    if summary.mini_empty is not None:
        height, width = summary.config.MINI_MASK_SHAPE
        label = f"mini mask, {height} × {width}:\n{_counted(summary.smaller_than_mini_mask, 'box')} with a shorter side"
        ax.axvline(np.log2(height * width) / 2, color="k", linewidth=1, linestyle=":", label=label)
        ax.legend(fontsize=9, loc="upper left", edgecolor="none", framealpha=0.9)
        ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend


def _draw_aspects(summary, ax: Axes) -> None:
    ax.set(title="Aspect ratios of the objects", xlabel="width / height of the box", ylabel="objects")
    _draw_log_histogram(ax, summary.aspect_ratios, None if summary.config is None else summary.config.RPN_ANCHOR_RATIOS)


def _draw_log_histogram(ax: Axes, values: np.ndarray, anchors: Sequence[float] | None) -> None:
    """A histogram over powers of two, with lines at the anchors' values."""
    values, anchors = np.log2(values), np.log2([] if anchors is None else np.ravel(anchors))
    both = [*values, *anchors] or [0]
    low, high = int(np.floor(min(both))), int(np.ceil(max(both) + 1e-9))
    ax.hist(values, np.linspace(low, high, 1 + (high - low) * max(1, MOST_BARS // (high - low))), color=BLUE)
    for i, anchor in enumerate(anchors):
        ax.axvline(anchor, color=RED, linewidth=1, linestyle="--", label="anchors" if i == 0 else None)
    if len(anchors):
        ax.legend(fontsize=9, loc="upper left", edgecolor="none", framealpha=0.9)
    ticks = range(low, high + 1, -(-(high - low) // 10))
    ax.set_xticks(ticks, [f"{2**power}" if power >= 0 else f"1/{2**-power}" for power in ticks])
    ax.set_ylim(bottom=0)
    ax.yaxis.get_major_locator().set_params(integer=True)


def _draw_recall(summary, ax: Axes) -> None:
    if summary.anchor_recall(0) is None:
        why = "needs a Config:\ndataset.summary(config)" if summary.config is None else "there are no objects"
        ax.text(0.5, 0.5, f"Anchor recall:\n{why}", ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    values = np.sort(summary.anchor_iou[~np.isnan(summary.anchor_iou)])
    ious = np.linspace(0, 1, 201)
    ax.plot(ious, 1 - np.searchsorted(values, ious) / len(values), color=BLUE, linewidth=2)
    for iou in summary.RECALL_IOUS:
        recall = summary.anchor_recall(iou)
        ax.plot([iou, iou, 0], [0, recall, recall], color=RED, linewidth=1, linestyle="--")
        ax.text(iou, recall, f"  {recall:.1%} at IoU {iou}", va="bottom", fontsize=10)
    ax.set(xlim=(0, 1), ylim=(0, 1.08), title="Anchor recall")
    ax.set(xlabel="minimum IoU with the best anchor", ylabel="share of objects")
