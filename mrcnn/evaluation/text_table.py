"""A report as text: tables aligned by rich, which Keras depends on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrcnn.text import printable

if TYPE_CHECKING:
    from mrcnn.evaluation.report import Report


def show(value: float | None, digits: int = 3) -> str:
    """A number in [0, 1] as text, or a dash for None and -1: nothing to measure."""
    return "–" if value is None or value < 0 else f"{value:.{digits}f}"


def align(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns cells in columns, the first to the left and the others to the right. Wide characters count twice.

    Example:

    >>> print(align(["Class", "AP"], [["cat", "0.5"], ["日本", "–"]]))
    Class   AP
    cat    0.5
    日本     –
    """
    from rich.console import Console  # 40 ms to import, which only printed reports need
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, title in enumerate(head):
        table.add_column(Text(printable(title)), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: `[bold]` in a name is no markup
    console = Console(file=io.StringIO(), width=10_000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def columns(report: Report) -> tuple[list[str], list[str]]:
    """Names and titles of the columns of the table of AP and AR: ap, ap50, ..., ap_small, ..., ar1, ..."""
    names = [name for name in report.settings.names if not name.startswith("ar_")]
    return names, [name.removeprefix("ap_") if "_" in name else name.upper() for name in names]


def write_table(report: Report) -> str:
    """The numbers, intervals, costs of errors and classes of a report."""
    count = f"{len(report.image_ids)} images, {int((~report.truths.crowd).sum())} true instances"
    parts = [f"{count}, {len(report.detections.score)} detections", _numbers(report), _errors(report), _classes(report)]
    return "\n\n".join([*parts, *(printable(f"Note: {note}") for note in report.notes)])


def _numbers(report: Report) -> str:
    names, titles = columns(report)
    rows = []
    for kind in report.kinds:
        low, high = report.intervals[f"{kind}_ap"]
        numbers = [show(report.numbers[f"{kind}_{name}"]) for name in names]
        rows.append([kind, *numbers, f"{show(low)} to {show(high)}"])
    return align(["", *titles, "95 % of AP"], rows)


def _errors(report: Report) -> str:
    errors = report.errors
    names = [*errors.counts, "false positives", "false negatives"]
    rows = [[f"  {name}", str(errors.counts.get(name, "")), show(max(errors.costs[name], 0))] for name in names]
    lines = [f"Errors ({report.main}, IoU 0.5, AP50 {show(errors.ap50)})", align(["", "count", "AP50 lost"], rows)]
    if report.calibration is not None:
        lines.append(f"Calibration error of the scores {show(report.calibration.ece)}")
    cut = report.best_cut
    if cut.score is not None:
        lines.append(
            f"Best F1 {show(cut.f1)} at score {show(cut.score)}: precision {show(cut.precision)},"
            f" recall {show(cut.recall)}"
        )
    return "\n".join(lines)


def _classes(report: Report) -> str:
    titles = [f"{kind} AP" for kind in report.kinds] + [f"{report.main} AP50", "best F1", "at score"]
    found = set(report.detections.class_id.tolist())
    rows = []
    for row, cut in zip(report.per_class, report.best_cuts):
        if row["truths"] == 0 and row["class_id"] not in found:
            continue
        values = [row[f"{kind}_ap"] for kind in report.kinds] + [row[f"{report.main}_ap50"]]
        values += [cut.f1 if row["truths"] else None, cut.score]
        rows.append([row["name"], str(row["truths"]), *map(show, values)])
    return align(["Class", "true", *titles], rows)
