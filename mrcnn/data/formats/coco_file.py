"""Checks the lists of a COCO file, so that every error names the wrong entry; see `coco` for the format.

Some exporters deviate from the format in ways that are unambiguous. These are read as intended:
    ids that are texts in one list and numbers in the other (VIA)
    a category that is listed once for each region (VIA)
    a category 0 that is the name of the project (Roboflow)
    the category `_background_` (labelme2coco)
`coco_masks` does the same for segmentations.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrcnn.data import image_reading
from mrcnn.data.class_names import is_background
from mrcnn.data.dataset import is_url
from mrcnn.data.formats import limits
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, Where, brief, record
from mrcnn.data.formats.coco_masks import Repairs, check_annotation, repair
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.parsing import field, warn_of_similar_names
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.user_warnings import warn

PARTS = ("images", "annotations", "categories")
NO_OBJECT = ("_background_", "__ignore__")  # labelme's names for shapes that are no objects
CategoryId = int | str
Entries = list[tuple[str, dict]]  # annotations with their names for errors


@dataclasses.dataclass
class CocoFile:
    """The checked content of a file.

    Attributes:
        path: of the file.
        content: {"images": [...], "annotations": [...], "categories": [...], ...} without what is left out.
        names: {category id: name}.
        annotations: {image id: annotations} in the order of the file.
    """

    path: str | Path
    content: dict[str, Any]
    names: dict[CategoryId, str]
    annotations: dict[CategoryId, Entries]


def check_file(content: Any, path: str | Path, skip_broken: bool, crowds_as_objects: bool) -> CocoFile:
    """Checks the three lists of a file and brings the annotations to one form.

    Args:
        content: of the JSON file.
        path: of the file, for errors and warnings.
        skip_broken: leave annotations of unknown images out with a warning, instead of raising.
        crowds_as_objects: whether iscrowd = 1 is ignored.

    Raises:
        BrokenAnnotation: the content isn't of COCO's form.
    """
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise BrokenAnnotation(path, "the file", "content", f"lists {', '.join(PARTS)}", got)
    for i, image in enumerate(content["images"]):
        where = (path, f"images[{i}]")
        _check_object(image, where)
        field(image, "id", (int, str), "a number or text", where)
    names = _category_names(content["categories"], path)
    entries = _objects(content, names, path, skip_broken, Repairs(crowds_as_objects))
    by_image = defaultdict(list)
    for entry, annotation in entries:
        by_image[annotation["image_id"]].append((entry, annotation))
    annotations = [annotation for _, annotation in entries]
    categories = _without_unused(content["categories"], {annotation["category_id"] for annotation in annotations})
    names = {category["id"]: names[category["id"]] for category in categories}
    limits.check_classes(names, path)
    warn_of_similar_names(names.values(), path)
    if any("not_exhaustive_category_ids" in image for image in content["images"]):
        warn(
            f"{path}: in LVIS, an image has all objects only of some classes (see neg_category_ids and"
            " not_exhaustive_category_ids). Objects of other classes count as background in training and as false"
            " detections in evaluation."
        )
    return CocoFile(path, {**content, "annotations": annotations, "categories": categories}, names, by_image)


def _objects(
    content: dict, names: dict[CategoryId, str], path: str | Path, skip_broken: bool, repairs: Repairs
) -> Entries:
    """The annotations that are objects, brought to COCO's own form by `repair`."""
    kept: Entries = []
    unknown, no_objects = [], 0
    image_ids, category_ids = _IdFinder(image["id"] for image in content["images"]), _IdFinder(names)
    for i, annotation in enumerate(content["annotations"]):
        where = (path, f"annotations[{i}]")
        _check_object(annotation, where)
        for name in ("image_id", "category_id"):
            field(annotation, name, (int, str), "a number or text", where)
        image_id, category_id = image_ids.find(annotation["image_id"]), category_ids.find(annotation["category_id"])
        if image_id is None:
            error = BrokenAnnotation(*where, "image_id", "the id of one of images", annotation["image_id"])
            if not skip_broken:
                error.advice = "skip_broken=True leaves annotations of unknown images out."
                raise error
            unknown.append(error)
        elif category_id is not None and names[category_id] in NO_OBJECT:
            no_objects += 1
        else:
            category_id = annotation["category_id"] if category_id is None else category_id
            if image_id != annotation["image_id"] or category_id != annotation["category_id"]:
                annotation = {**annotation, "image_id": image_id, "category_id": category_id}
            entry = f"annotations[{i}] (id {annotation.get('id')})"
            if (repaired := repair(annotation, entry, repairs)) is not None:
                kept.append((entry, repaired))
    if unknown and not record(unknown):
        warn(f"{path}: {len(unknown)} annotations are left out because their image isn't in the file: {unknown[0]}")
    if no_objects:
        warn(f"{path}: {no_objects} annotations of {' or '.join(NO_OBJECT)} are left out; these names mark background.")
    repairs.report(path, len(content["annotations"]))
    return kept


def check_image(image: dict, file: CocoFile, photos: PhotoFolder | None) -> tuple[str | Path, tuple[int, int]]:
    """Checks an image and its annotations.

    Args:
        image: an object of "images".
        file: that it is of.
        photos: finds image files; None: they aren't looked at, and the file has their sizes.

    Returns:
        Path or URL of the image file, and (height, width) in pixels.

    Raises:
        BrokenAnnotation: there is no image file, it has another size than the file says, or an annotation has an
            unknown category or a broken mask.
    """
    where, annotations = (file.path, f"image {image['id']}"), file.annotations.get(image["id"], [])
    name = file_name(image, where)
    stated = [image.get(side) for side in ("height", "width")]
    for side, pixels in zip(("height", "width"), stated if any(stated) or photos is None else ()):
        if not isinstance(pixels, numbers.Real) or not 1 <= pixels <= image_reading.MAX_PIXELS or pixels != int(pixels):
            raise BrokenAnnotation(*where, side, "pixels, a whole number of 1 or more", pixels)
    if is_url(name):
        current_access().check_url(name, where, "file_name")
    photo: str | Path = name if photos is None else photos.locate(name, where)
    if photos is None or is_url(photo):
        height, width = (int(pixels) for pixels in stated)
    else:
        height, width = upright_size(photo, where, stated, tools_turn=False)
    limits.check_image_size(height, width, where)
    limits.check_masks(len(annotations), height, width, where)
    for entry, annotation in annotations:
        if annotation["category_id"] not in file.names:
            known = f"one of the categories {brief(list(file.names))}"
            raise BrokenAnnotation(file.path, entry, "category_id", known, annotation["category_id"])
        check_annotation(annotation, height, width, (file.path, entry))
    return photo, (height, width)


def file_name(image: dict, where: Where) -> str:
    """The name of an image's file. LVIS has only COCO's URL, which ends with folder and file: train2017/0...1.jpg."""
    url = image.get("coco_url")
    if image.get("file_name") is None and isinstance(url, str):
        return "/".join(url.split("/")[-2:])
    return field(image, "file_name", str, "the image's file name", where)


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


class _IdFinder:
    """Finds ids also where one list has the number 7 and the other one the text "7"."""

    def __init__(self, ids: Iterable[CategoryId]) -> None:
        self.ids = set(ids)
        self.by_text = {str(own_id): own_id for own_id in self.ids}

    def find(self, wanted: CategoryId) -> CategoryId | None:
        return wanted if wanted in self.ids else self.by_text.get(str(wanted))


def _category_names(categories: list, path: str | Path) -> dict[CategoryId, str]:
    """{id: name} of all categories."""
    names: dict[CategoryId, str] = {}
    for i, category in enumerate(categories):
        where = (path, f"categories[{i}]")
        _check_object(category, where)
        category_id = field(category, "id", (int, str), "a number or text", where)
        name = str(field(category, "name", (str, int), "a text", where)).strip()
        if names.setdefault(category_id, name) != name:
            expected = f"another id for {name!r}"
            raise BrokenAnnotation(*where, "id", expected, f"{category_id}, as {names[category_id]!r} has")
    return names


def _without_unused(categories: list[dict], used: set[CategoryId]) -> list[dict]:
    """The categories, each once, without those that no annotation has and that aren't classes.

    These are Roboflow's project, a category 0 whose name is the supercategory of all others, and a background.
    """
    others = [category for category in categories if category.get("supercategory") != "none"]
    kept = {}
    for category in categories:
        is_project = category.get("supercategory") == "none" and str(category["id"]) == "0"
        is_project &= bool(others) and all(other.get("supercategory") == category["name"] for other in others)
        if category["id"] in used or not (is_project or is_background(str(category["name"]))):
            kept.setdefault(category["id"], category)
    return list(kept.values())


def _check_object(entry: Any, where: Where) -> None:
    if not isinstance(entry, dict):
        raise BrokenAnnotation(*where, "entry", "an object", entry)
