"""Plots of a benchmark report: the curves of row 8, and the ratios with their targets."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, NullFormatter


def draw(report: dict, path: Path) -> list[Path]:
    """Draws `<name>_sizes.png` and `<name>_ratios.png` next to the JSON file, if the report has rows for them.

    Args:
        report: The report as run.py writes it.
        path: Path of the JSON file.

    Returns:
        Paths of the plots that were written.
    """
    written = []
    for name, function, rows in (
        ("sizes", draw_curves, [row for row in report["rows"] if row["curve"]]),
        ("ratios", draw_ratios, [row for row in report["rows"] if row["unit"] == "x" and row["value"] is not None]),
    ):
        if rows:
            figure = function(rows)
            figure.suptitle(subtitle(report["machine"]), fontsize=9)
            figure.tight_layout()
            target = path.with_name(f"{path.stem}_{name}.png")
            figure.savefig(target, dpi=90)
            plt.close(figure)
            written.append(target)
    return written


def subtitle(machine: dict) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("tensorflow", "keras") if name in machine)
    return f"{machine['cpu']}, {machine['cores']} cores; {versions}"


def draw_curves(rows):
    """A panel for each curve on logarithmic axes, with a gray line for linear growth."""
    figure, axes = plt.subplots(1, len(rows), figsize=(3.4 * len(rows), 3.6), squeeze=False)
    for axis, row in zip(axes[0], rows):
        (label, sizes), *curves = row["curve"].items()
        for name, seconds in curves:
            axis.loglog(sizes, seconds, marker="o", markersize=4, label=name)
        highest = max(seconds[-1] for _, seconds in curves)
        axis.loglog(sizes, [highest * size / sizes[-1] for size in sizes], color="0.7", linestyle="--", label="linear")
        axis.set_xticks(sizes)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label)
        axis.set_title(row["what"].split(",")[0].split(" against")[0], fontsize=9)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds")
    return figure


def draw_ratios(rows):
    """A bar for each ratio, with a line at its target and whiskers at its quartiles."""
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(rows) + 1.2))
    colors = {True: "tab:green", False: "tab:red", None: "tab:gray"}
    for place, row in enumerate(reversed(rows)):
        low, high = row["spread"] or (row["value"], row["value"])
        axis.barh(place, row["value"], color=colors[row["ok"]], height=0.6)
        axis.plot([low, high], [place, place], color="black", linewidth=1)
        if row["target"]:
            limit = float(row["target"].split()[1].rstrip("x"))
            axis.plot([limit, limit], [place - 0.4, place + 0.4], color="black", linewidth=2)
        axis.text(0.02, place, f"{row['row']}: {row['what'].split(';')[0]}", fontsize=7, va="center")
    axis.set_yticks([])
    axis.set_xlabel("ratio; the thick line is the target")
    return figure
