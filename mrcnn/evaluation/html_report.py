"""A report as one self-contained HTML file: numbers, figures, and images drawn with what was found and missed.

The page is the jinja2 template `report.html.j2` beside this file. Autoescape is on, and `printable` replaces what
cannot be encoded, so that names of classes and files are text, never HTML.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from markupsafe import Markup

from mrcnn.drawing.renderer import encode, side_by_side
from mrcnn.evaluation.errors import KINDS
from mrcnn.evaluation.instance_images import picture_of
from mrcnn.evaluation.instances import truth_of
from mrcnn.evaluation.text_table import columns, show
from mrcnn.io import replacing
from mrcnn.text import printable

if TYPE_CHECKING:
    from mrcnn.evaluation.report import Report

# Colors of outcomes, not of classes
FOUND, WRONG, MISSED, CROWD = "#2ea05a", "#dc3c28", "#f59614", "#969696"
KEY = ((FOUND, "correct"), (WRONG, "wrong"), (MISSED, "missed"), (CROWD, "ignored"))
FIGURES = ("curves", "errors", "calibration", "cuts", "classes", "confusion")
SIDE = 560  # pixels, longer side of an image


def write_page(report: Report, path: str | Path, images: int = 6) -> Path:
    """Writes the page; `Report.report` describes the arguments."""
    page = _template().render(
        images=len(report.image_ids),
        truths=int((~report.truths.crowd).sum()),
        detections=len(report.detections.score),
        notes=report.notes,
        tiles=_number_tiles(report),
        coco=_coco_table(report),
        figures=_encode_figures(report),
        classes=_class_table(report),
        key=KEY,
        galleries=_draw_galleries(report, images),
    )
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrcnn.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    return environment.get_template("report.html.j2")


# ---- Numbers ---------------------------------------------------------------------------------------------------------
def _number_tiles(report: Report) -> list[dict[str, str]]:
    names = [f"{report.main}_{name}" for name in ("ap", "ap50", "ap75", f"ar{report.settings.limits[-1]}")]
    names += [name for name in ("box_ap", "boundary_ap") if name in report.numbers and name not in names]
    tiles = []
    for name in names:
        low, high = report.intervals.get(name, (-1, -1))
        kind, number = name.split("_", 1)
        interval = f"{show(low)} to {show(high)}" if low >= 0 else ""
        tiles.append({"title": f"{kind} {number.upper()}", "value": show(report.numbers[name]), "interval": interval})
    return tiles


def _coco_table(report: Report) -> tuple[list[str], list[list[str]]]:
    names, titles = columns(report)
    rows = [[kind, *(show(report.numbers[f"{kind}_{name}"]) for name in names)] for kind in report.kinds]
    return ["", *titles], rows


def _class_table(report: Report) -> tuple[list[str], list[list[str]]]:
    recall = f"ar{report.settings.limits[-1]}"
    head = ["class", "true", *(f"{kind} AP" for kind in report.kinds), f"{report.main} AP50"]
    head += [f"{report.main} {recall.upper()}", "best F1", "at score", "precision", "recall"]
    rows = []
    for row, cut in zip(report.per_class, report.best_cuts):
        values = [row[f"{kind}_ap"] for kind in report.kinds]
        values += [row[f"{report.main}_ap50"], row[f"{report.main}_{recall}"]]
        values += [cut.f1, cut.score, cut.precision, cut.recall] if cut.score is not None else [None] * 4
        rows.append([row["name"], str(row["truths"]), *(show(value) for value in values)])
    return head, rows


def _encode_figures(report: Report) -> list[tuple[str, str]]:
    """(name, SVG in base64) of each figure."""
    figures = []
    for name in FIGURES:
        file = io.BytesIO()
        report.plot(name).savefig(file, format="svg")
        figures.append((name, base64.b64encode(file.getvalue()).decode()))
    return figures


# ---- Images ----------------------------------------------------------------------------------------------------------
def _draw_galleries(report: Report, count: int) -> list[tuple[str, list[dict[str, str]]]]:
    """(title, pictures) of each gallery that has pictures."""
    if count <= 0 or not report.image_ids:
        return []
    chosen = {title: positions.tolist() for title, positions in choose_images(report, count).items() if len(positions)}
    drawn = {position: _picture(report, position) for positions in chosen.values() for position in positions}
    return [(title, [drawn[position] for position in positions]) for title, positions in chosen.items()]


def _picture(report: Report, position: int) -> dict[str, str]:
    picture, problem = draw_position(report, position)
    caption = f"{report.image_keys[position]}, quality {show(report.image_scores[position])}{problem}"
    return {"caption": caption, "data": base64.b64encode(encode(picture)).decode()}


def choose_images(report: Report, count: int) -> dict[str, np.ndarray]:
    """Positions in the report of the images to show, by title: the best, the worst, the most confident errors.

    Each is an int array of at most `count`.
    """
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


def draw_position(report: Report, position: int, side: int = SIDE) -> tuple[np.ndarray, str]:
    """Draws an image with its ground truth and, beside it, with its detections, colored by outcome.

    Args:
        position: Position of the image in the report.
        side: Longer side of each of the two pictures, pixels.

    Returns:
        [h, w, 3] uint8, and a remark if the image file can't be read (it is drawn gray then), or "".
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
