"""Checks the content of a COCO file, so that every error says which entry is wrong; see `coco` for the format."""

from __future__ import annotations

import numbers
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from mrcnn.data.dataset import is_url
from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, Where, brief
from mrcnn.data.formats.parsing import field, image_size

PARTS = ("images", "annotations", "categories")
MASK_FORMS = "polygons [[x, y, ...], ...] or run lengths {size, counts}"
CategoryId = int | str
Entries = list[tuple[str, dict]]  # annotations with their names for errors


def category_names(content: Any, path: str | Path) -> dict[CategoryId, str]:
    """Checks the three lists of a file, its categories and the ids of its images.

    Returns:
        {category id: name}.

    Raises:
        BrokenAnnotation: the content isn't of COCO's form.
    """
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise BrokenAnnotation(path, "the file", "content", f"lists {', '.join(PARTS)}", got)
    names = {}
    for i, category in enumerate(content["categories"]):
        where = (path, f"categories[{i}]")
        _check_object(category, where)
        category_id = field(category, "id", (int, str), "a number or text", where)
        names[category_id] = field(category, "name", str, "a text", where).strip()
    for i, image in enumerate(content["images"]):
        where = (path, f"images[{i}]")
        _check_object(image, where)
        field(image, "id", (int, str), "a number or text", where)
    return names


def ids_of_names(classes: Iterable[str], names: dict[CategoryId, str], path: str | Path) -> list[CategoryId]:
    """Ids of the categories of these names.

    Raises:
        BrokenAnnotation: there is no category of a name.
    """
    classes = list(classes)
    missing = sorted(set(classes) - set(names.values()))
    if missing:
        raise BrokenAnnotation(path, "categories", "name", f"to find {missing[0]!r}", sorted(names.values()))
    return [category_id for name in classes for category_id, found in names.items() if found == name]


def annotations_by_image(content: dict, path: str | Path) -> dict[CategoryId, Entries]:
    """{image id: annotations} in the order of the file.

    Raises:
        BrokenAnnotation: an annotation is no object, or of an image that isn't in the file.
    """
    known = {image["id"] for image in content["images"]}
    by_image = defaultdict(list)
    for i, annotation in enumerate(content["annotations"]):
        where = (path, f"annotations[{i}]")
        _check_object(annotation, where)
        for name in ("image_id", "category_id"):
            field(annotation, name, (int, str), "a number or text", where)
        if annotation["image_id"] not in known:
            raise BrokenAnnotation(*where, "image_id", "the id of one of images", annotation["image_id"])
        by_image[annotation["image_id"]].append((f"annotations[{i}] (id {annotation.get('id')})", annotation))
    return by_image


def parse_image(
    image: dict,
    annotations: Entries,
    names: dict[CategoryId, str],
    wanted: Collection[CategoryId],
    images_dir: Path,
    path: str | Path,
) -> tuple[dict, str | Path, tuple[int, int], list[dict]]:
    """Checks an image and its annotations.

    Returns:
        (image, its file, (height, width), its annotations of the categories wanted).

    Raises:
        BrokenAnnotation: no size, or an annotation of an unknown category, without a mask, or with a broken one.
    """
    where = (path, f"image {image['id']}")
    name = field(image, "file_name", str, "the image's file name", where)
    file = name if is_url(name) else images_dir / name
    sizes = [image.get(side) for side in ("height", "width")]
    if sizes == [None, None]:
        sizes = list(image_size(file, where))
    for side, pixels in zip(("height", "width"), sizes):
        if not isinstance(pixels, numbers.Real) or not 1 <= pixels <= limits.MAX_PIXELS or pixels != int(pixels):
            raise BrokenAnnotation(*where, side, "pixels, a whole number of 1 or more", pixels)
    height, width = (int(pixels) for pixels in sizes)
    limits.check_image_size(height, width, where)
    limits.check_masks(len(annotations), height, width, where)
    for entry, annotation in annotations:
        if annotation["category_id"] not in names:
            known = f"one of the categories {brief(list(names))}"
            raise BrokenAnnotation(path, entry, "category_id", known, annotation["category_id"])
        _check_segmentation(annotation.get("segmentation"), height, width, (path, entry))
    kept = [annotation for _, annotation in annotations if annotation["category_id"] in wanted]
    return image, file, (height, width), kept


def _check_object(entry: Any, where: Where) -> None:
    if not isinstance(entry, dict):
        raise BrokenAnnotation(*where, "entry", "an object", entry)


def _check_segmentation(segmentation: Any, height: int, width: int, where: Where) -> None:
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width, where)
    elif not isinstance(segmentation, list) or not segmentation:
        raise BrokenAnnotation(*where, "segmentation", MASK_FORMS, segmentation)
    else:
        for part in segmentation:
            if not isinstance(part, list) or len(part) % 2 or not set(map(type, part)) <= {int, float}:
                raise BrokenAnnotation(*where, "segmentation", "polygons [x, y, x, y, ...]", part)
            limits.check_coordinates(part, height, width, where, "segmentation")
            limits.check_outline(part[::2], part[1::2], where, "segmentation")


def _check_run_lengths(segmentation: dict, height: int, width: int, where: Where) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or [height, width] != size:
        raise BrokenAnnotation(*where, "segmentation.size", f"[height, width] of the image, {[height, width]}", size)
    if isinstance(counts, list):
        whole = all(isinstance(run, int) and run >= 0 for run in counts)
        if not whole or sum(counts) != height * width:
            got = sum(counts) if whole else counts
            expected = f"run lengths with a sum of {height} x {width} = {height * width}"
            raise BrokenAnnotation(*where, "segmentation.counts", expected, got)
    elif not isinstance(counts, (str, bytes)) or not counts:
        raise BrokenAnnotation(*where, "segmentation.counts", "a list of run lengths, or a string", counts)
