"""A report as text."""

from __future__ import annotations

from mrcnn.drawing.captions import printable

COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
TITLES = ("AP", "AP50", "AP75", "small", "medium", "large", "AR1", "AR10", "AR100")


def show(value: float, digits: int = 3) -> str:
    """A number of [0, 1]; a dash where there is nothing to measure by."""
    return "–" if value is None or value < 0 else f"{value:.{digits}f}"


def write_table(report) -> str:
    """The numbers, the intervals, the costs of errors and the classes, as lines of at most 100 characters or so."""
    lines = [
        f"{len(report.image_ids)} images, {int((~report.truths.crowd).sum())} true instances,"
        f" {len(report.detections.score)} detections",
        "",
        f"{'':10}" + "".join(f"{title:>8}" for title in TITLES) + "   95 % of AP",
    ]
    for kind in report.kinds:
        low, high = report.intervals[f"{kind}_ap"]
        numbers = "".join(f"{show(report.numbers[f'{kind}_{name}']):>8}" for name in COLUMNS)
        lines.append(f"{kind:10}{numbers}   {show(low)} to {show(high)}")
    lines += ["", *_errors(report), "", *_classes(report)]
    lines += [f"\nNote: {note}" for note in report.notes]
    return printable("\n".join(lines))


def _errors(report) -> list[str]:
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


def _classes(report) -> list[str]:
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
