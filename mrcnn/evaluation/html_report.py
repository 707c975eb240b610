"""A report as one HTML page that stands alone: numbers, figures, and images drawn with what was found and missed."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np

from mrcnn.drawing.captions import printable
from mrcnn.drawing.instances import encode, side_by_side
from mrcnn.evaluation.errors import KINDS
from mrcnn.evaluation.instances import truth_of
from mrcnn.evaluation.pictures import picture_of
from mrcnn.evaluation.text_table import COLUMNS, TITLES, show
from mrcnn.io import replacing

FOUND, WRONG, MISSED, CROWD = "#2ea05a", "#dc3c28", "#f59614", "#969696"  # colours of outcomes, not of classes

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 19px; margin: 36px 0 8px; border-bottom: 1px solid #e4e7eb }
p { max-width: 75ch } .quiet { color: #616e7c }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }
.tile { border: 1px solid #e4e7eb; border-radius: 8px; padding: 10px 18px; min-width: 120px }
.tile b { display: block; font-size: 28px; font-weight: 600 } .tile span { color: #616e7c; font-size: 13px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid #eef0f2 }
td:first-child, th:first-child { text-align: left }
.scroll { max-height: 420px; overflow: auto; border: 1px solid #e4e7eb }
.scroll th { position: sticky; top: 0; background: #f5f7fa; cursor: pointer }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px }
.figures img { width: 100% }
.images { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 16px }
figure { margin: 0 } figure img { max-width: 100%; max-height: 330px; border-radius: 4px; display: block }
figcaption { font-size: 13px; color: #616e7c }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin: 0 4px 0 14px }
.note { background: #fff8e6; border-left: 4px solid #f0b429; padding: 8px 14px; margin: 6px 0 }
"""

SORT = """
document.querySelectorAll(".scroll th").forEach((head, column) => head.onclick = () => {
  const body = head.closest("table").tBodies[0], down = head.dataset.down !== "1";
  head.dataset.down = down ? "1" : "0";
  const value = row => {
    const text = row.cells[column].textContent, number = parseFloat(text);
    return isNaN(number) ? (text === "–" ? -1 : text) : number;
  };
  const order = (x, y) => (x < y ? 1 : x > y ? -1 : 0) * (down ? 1 : -1);
  [...body.rows].sort((a, b) => order(value(a), value(b)))
    .forEach(row => body.append(row));
});
"""


def write_page(report, path, images: int = 6) -> Path:
    """Writes the page; `Report.report` says what the arguments mean."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>",
        *_head(report),
        *_numbers(report),
        *_figures(report),
        *_classes(report),
        *_galleries(report, images),
        f"<script>{SORT}</script></body></html>",
    ]
    with replacing(path) as unfinished:
        unfinished.write_text(printable("\n".join(parts)), encoding="utf-8")
    return Path(path)


# ---- Text and numbers ------------------------------------------------------------------------------------------------
def _head(report) -> list[str]:
    truths = int((~report.truths.crowd).sum())
    tiles = [f"{report.main}_ap", f"{report.main}_ap50", f"{report.main}_ap75", f"{report.main}_ar100"]
    tiles += [name for name in ("box_ap", "boundary_ap") if name in report.numbers and name not in tiles]
    shown = []
    for name in tiles:
        low, high = report.intervals.get(name, (-1, -1))
        between = f"{show(low)} to {show(high)}" if low >= 0 else ""
        kind, number = name.split("_", 1)
        title = f"{kind} {number.upper()}"
        shown.append(
            f"<div class='tile'><span>{title}</span><b>{show(report.numbers[name])}</b><span>{between}</span></div>"
        )
    return [
        "<h1>Evaluation</h1>",
        f"<p class='quiet'>{len(report.image_ids)} images, {truths} true instances,"
        f" {len(report.detections.score)} detections. Below each number: 95 % bootstrap interval over images.</p>",
        *[f"<p class='note'>{html.escape(note)}</p>" for note in report.notes],
        f"<div class='tiles'>{''.join(shown)}</div>",
    ]


def _numbers(report) -> list[str]:
    rows = [[kind, *(show(report.numbers[f"{kind}_{name}"]) for name in COLUMNS)] for kind in report.kinds]
    return ["<h2>COCO's numbers</h2>", _table(["", *TITLES], rows)]


def _classes(report) -> list[str]:
    head = ["class", "true", *(f"{kind} AP" for kind in report.kinds), f"{report.main} AP50", f"{report.main} AR100",
            "best F1", "at score", "precision", "recall"]  # fmt: skip
    rows = []
    for row, cut in zip(report.per_class, report.best_cuts):
        values = [row[f"{kind}_ap"] for kind in report.kinds]
        values += [row[f"{report.main}_ap50"], row[f"{report.main}_ar100"]]
        values += [cut.f1, cut.score, cut.precision, cut.recall] if cut.score is not None else [None] * 4
        rows.append([row["name"], str(row["truths"]), *(show(value) for value in values)])
    return ["<h2>Classes</h2><p class='quiet'>A click on a title sorts.</p>",
            f"<div class='scroll'>{_table(head, rows)}</div>"]  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _figures(report) -> list[str]:
    parts = ["<h2>Curves, errors, scores</h2><div class='figures'>"]
    for what in ("curves", "errors", "calibration", "cuts", "classes", "confusion"):
        file = io.BytesIO()
        report.plot(what).savefig(file, format="svg")
        parts.append(f"<img alt='{what}' src='data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}'>")
    return [*parts, "</div>"]


# ---- Images ----------------------------------------------------------------------------------------------------------
def _galleries(report, count: int) -> list[str]:
    if count <= 0 or not report.image_ids:
        return []
    key = "".join(
        f"<i style='background: {color}'></i>{word}"
        for color, word in ((FOUND, "right"), (WRONG, "wrong"), (MISSED, "missed"), (CROWD, "doesn't count"))
    )
    parts = [
        "<h2>Images</h2><p class='quiet'>Truth at the left; at the right detections from the best score of their class,"
        f" right or wrong at IoU 0.5.<span class='key'>{key}</span></p>"
    ]
    drawn = {}
    for title, positions in choose_images(report, count).items():
        if len(positions):
            parts.append(f"<h3>{title}</h3><div class='images'>")
            for position in positions:
                if position not in drawn:
                    drawn[position] = _figure(report, int(position))
                parts.append(drawn[position])
            parts.append("</div>")
    return parts


def choose_images(report, count: int) -> dict[str, np.ndarray]:
    """Positions of images to show: the best, the worst, and those with the most confident errors."""
    quality, images = report.image_scores, len(report.image_ids)
    content = np.bincount(report.truths.image[~report.truths.crowd], minlength=images)
    content += np.bincount(report.detections.image, minlength=images)
    places = np.flatnonzero(content > 0)
    best = places[np.lexsort((-content[places], -quality[places]))][:count]
    worst = places[np.lexsort((-content[places], quality[places]))][:count]
    wrong = np.flatnonzero(report.errors.kind >= 0)
    wrong = wrong[np.argsort(-report.detections.score[wrong], kind="stable")]
    confident = list(dict.fromkeys(report.detections.image[wrong].tolist()))[:count]
    return {"Worst": worst, "Most confident errors": np.array(confident, int), "Best": best}


def _figure(report, position: int) -> str:
    picture, problem = draw_position(report, position)
    data = base64.b64encode(encode(picture)).decode()
    caption = f"{report.image_keys[position]}, quality {show(report.image_scores[position])}{problem}"
    return f"<figure><img src='data:image/jpeg;base64,{data}'><figcaption>{html.escape(caption)}</figcaption></figure>"


def draw_position(report, position: int, side: int = 560) -> tuple[np.ndarray, str]:
    """An image with its truth, and again with its detections, coloured by what became of them.

    Args:
        position: of the image in the report.
        side: longer side of each of the two, pixels.

    Returns:
        [h, w, 3] uint8, and a remark if the image itself can't be read (then it is grey).
    """
    image_id = report.image_ids[position]
    truth = truth_of(report.dataset, image_id)
    try:
        image, problem = report.dataset.load_image(image_id), ""
    except (OSError, ValueError) as error:
        image, problem = np.full((*truth.size, 3), 235, np.uint8), f"; the image can't be read: {error}"
    detections, errors = report.detections, report.errors
    rows = np.flatnonzero(detections.image == position)
    rows = rows[detections.score[rows] >= report.min_scores[detections.class_id[rows]]]
    matches = report.matches[report.main]
    hit = (matches.hits[rows] & np.uint64(1)) != 0
    found = report.predictions.detections(image_id, truth.size).take(detections.row[rows])
    captions, colors = [], []
    for row, right in zip(rows, hit):
        kind = errors.kind[row]
        word = "" if kind < 0 else f" {KINDS[kind]}"
        captions.append(f"{report.class_names[detections.class_id[row]]} {detections.score[row]:.2f}{word}")
        colors.append(FOUND if right else WRONG if kind >= 0 else CROWD)
    first = int(np.searchsorted(report.truths.image, position))
    taken = np.isin(first + np.arange(len(truth)), matches.taken[rows][hit])
    true_colors = [CROWD if crowd else FOUND if got else MISSED for crowd, got in zip(truth.crowd, taken)]
    names = [report.class_names[c] for c in truth.class_ids]
    left = picture_of(image, truth, names, true_colors, side)
    return side_by_side(left, picture_of(image, found, captions, colors, side)), problem
