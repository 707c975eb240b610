"""A report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrcnn.drawing.captions import printable

if TYPE_CHECKING:
    from mrcnn.evaluation.report import Report


def columns(report: Report) -> tuple[list[str], list[str]]:
    """Names and titles of the columns of the table of AP and AR: ap, ap50, ..., ap_small, ..., ar1, ..."""
    names = [name for name in report.settings.names if not name.startswith("ar_")]
    return names, [name.removeprefix("ap_") if "_" in name else name.upper() for name in names]


def show(value: float | None, digits: int = 3) -> str:
    """A number in [0, 1] as text, or a dash for None and -1: nothing to measure."""
    return "–" if value is None or value < 0 else f"{value:.{digits}f}"


def write_table(report: Report) -> str:
    """The numbers, intervals, costs of errors and classes of a report, in lines of about 100 characters."""
    names, titles = columns(report)
    lines = [
        f"{len(report.image_ids)} images, {int((~report.truths.crowd).sum())} true instances,"
        f" {len(report.detections.score)} detections",
        "",
        f"{'':10}" + "".join(f"{title:>8}" for title in titles) + "   95 % of AP",
    ]
    for kind in report.kinds:
        low, high = report.intervals[f"{kind}_ap"]
        numbers = "".join(f"{show(report.numbers[f'{kind}_{name}']):>8}" for name in names)
        lines.append(f"{kind:10}{numbers}   {show(low)} to {show(high)}")
    lines += ["", *_errors(report), "", *_classes(report)]
    lines += [f"\nNote: {note}" for note in report.notes]
    return printable("\n".join(lines))


def _errors(report: Report) -> list[str]:
    errors = report.errors
    names = [*errors.counts, "false positives", "false negatives"]
    costs = [f"  {name:16}{errors.counts.get(name, ''):>8}{show(max(errors.costs[name], 0)):>10}" for name in names]
    title = f"Errors ({report.main}, IoU 0.5, AP50 {show(errors.ap50)})"
    lines = [title, f"  {'':16}{'how many':>8}{'cost AP50':>10}", *costs]
    if report.calibration is not None:
        lines.append(f"Calibration error of the scores {show(report.calibration.ece)}")
    cut = report.best_cut
    if cut.score is not None:
        lines.append(
            f"Best F1 {show(cut.f1)} at score {show(cut.score)}: precision {show(cut.precision)},"
            f" recall {show(cut.recall)}"
        )
    return lines


def _classes(report: Report) -> list[str]:
    width = max([len(row["name"]) for row in report.per_class] + [5])
    titles = [f"{kind} AP" for kind in report.kinds] + [f"{report.main} AP50", "best F1", "at score"]
    lines = [f"{'Class':{width}}{'true':>8}" + "".join(f"{title:>13}" for title in titles)]
    found = set(report.detections.class_id.tolist())
    for row, cut in zip(report.per_class, report.best_cuts):
        if row["truths"] == 0 and row["class_id"] not in found:
            continue
        values = [row[f"{kind}_ap"] for kind in report.kinds] + [row[f"{report.main}_ap50"]]
        values += [cut.f1 if row["truths"] else None, cut.score]
        lines.append(f"{row['name']:{width}}{row['truths']:>8}" + "".join(f"{show(v):>13}" for v in values))
    return lines
