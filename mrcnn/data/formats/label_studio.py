"""Label Studio's JSON export, also "JSON-MIN": one file for all images.

    dataset = LabelStudioDataset()
    dataset.load_label_studio("project-1.json", "images")
    dataset.prepare()

The file is a list of tasks:
    {"data": {"image": "/data/upload/1/6a7b8c9d-cat.jpg"}, "annotations": [{"result": [region, ...]}]}
    region  {"type": "polygonlabels", "original_width": 640, "original_height": 480, "value": {...}}
    value of polygonlabels    {"points": [[x, y], ...], "polygonlabels": ["cat"]}
          of rectanglelabels  {"x", "y", "width", "height", "rotation"}: degrees, clockwise around the upper left corner
          of ellipselabels    {"x", "y", "radiusX", "radiusY", "rotation"}: around the center
          of brushlabels      {"format": "rle", "rle": [bytes]}, see `label_studio_rle`
Coordinates are percentages of the image's width and height. A shape and its label may be two regions of one id.

Images are looked for by their name, also without what Label Studio puts before it: "/data/upload/1/", eight digits and
a hyphen, "/data/local-files/?d=". If a task has several annotations, the one marked as ground truth is read, otherwise
the newest; cancelled ones never. Key points, and other regions without an area, are left out with a warning.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from mrcnn.data.formats import limits, shapes
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where, names_file
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.json_head import has_keys
from mrcnn.data.formats.label_studio_rle import decode_alpha
from mrcnn.data.formats.parsing import field, parse_all, read_json
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder
from mrcnn.data.user_warnings import warn

# Types of results that say something about a region, and repeat its shape, or about the whole image.
ANSWERS = ("labels", "choices", "textarea", "rating", "number", "taxonomy", "datetime")
DECIMALS = 6  # of pixels: 29.999999999999996, made of a percentage, was the line between two pixels
HASH = re.compile(r"^[0-9a-f]{8}-")  # before the names of uploaded files
NUMBER = (int, float)


class LabelStudioDataset(shapes.ShapeDataset):
    """Images annotated with Label Studio. Call `load_label_studio` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> value = {"points": [[25, 25], [75, 25], [75, 75]], "polygonlabels": ["cat"]}
        >>> region = {"type": "polygonlabels", "value": value, "original_width": 8, "original_height": 8}
        >>> task = {"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": [region]}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 8)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "export.json").write_text(json.dumps([task]))
        ...     dataset = LabelStudioDataset()
        ...     dataset.load_label_studio(Path(folder) / "export.json")
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((8, 8, 1), 15, ['BG', 'cat'])
    """

    @names_file
    def load_label_studio(
        self,
        path: str | Path,
        images_dir: str | Path | None = None,
        source: str = "label_studio",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Adds the images of a file.

        Args:
            path: of the JSON file.
            images_dir: folder of the images; None: searched for near the file.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: those found, sorted. Objects of other
                classes are left out, with a warning that counts them.
            skip_broken: skip broken images with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such file, or none of its images is found.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        path = Path(path)
        tasks = read_json(path)
        if not isinstance(tasks, list):
            raise BrokenAnnotation(path, "the file", "content", "a list of tasks, as Label Studio has it", tasks)
        entries = [(f"tasks[{i}]", task) for i, task in enumerate(tasks)]
        if images_dir is None:
            names = [
                name for entry, task in entries[:NAMES_READ] for name in _photo_names(_image_link(task, (path, entry)))
            ]
            images_dir = find_images_folder(path, names, FORMAT.loader)
        photos = PhotoFolder(images_dir)

        def parse(item: tuple[str, dict]) -> tuple[shapes.ParsedImage, Counter[str], bool]:
            return _parse_task(item[1], (path, item[0]), photos)

        parsed = parse_all(entries, parse, skip_broken, lambda item: (path, item[0]))
        _warn_about_skipped(path, parsed)
        self.add_parsed([image for image, _, _ in parsed], source, classes, path)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    task = content[0] if isinstance(content, list) and content else None
    if has_keys(task, "data", "annotations"):
        return isinstance(task["data"], dict) and isinstance(task["annotations"], list)
    return has_keys(task, "annotation_id", "annotator") or has_keys(task, "annotation_id", "lead_time")


def _find(place: Place) -> list[Path]:
    return place.json_files_of(FORMAT.name)


def _open(path: Path, options: OpenOptions) -> LabelStudioDataset:
    dataset = LabelStudioDataset()
    dataset.load_label_studio(path, classes=options.classes, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="Label Studio",
    signs='a JSON file with a list of {"data", "annotations"}',
    loader="LabelStudioDataset().load_label_studio(file, images_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)


# ---- Images ----------------------------------------------------------------------------------------------------------
def _image_link(task: Any, where: Where) -> str:
    """The path or URL of a task's image, as the file has it."""
    if not isinstance(task, dict):
        raise BrokenAnnotation(*where, "task", "an object", task)
    data = task.get("data", task)
    texts = {key: text for key, text in data.items() if isinstance(text, str)} if isinstance(data, dict) else {}
    images = [text for text in texts.values() if _plain_name(text).lower().endswith(SUFFIXES)]
    link = texts.get("image") or next(iter(images), None)
    if link is None:
        raise BrokenAnnotation(*where, "data", "the path of an image", data)
    return link


def _plain_name(link: str) -> str:
    """A path or URL without server, query and the folders of Label Studio."""
    parts = urlsplit(link.replace("\\", "/"))
    folder_and_file = parse_qs(parts.query).get("d")  # of local files
    return unquote(folder_and_file[0] if folder_and_file else parts.path)


def _photo_names(link: str) -> list[str]:
    """Names that the image may have here."""
    path = _plain_name(link)
    name = path.rsplit("/", 1)[-1]
    return list(dict.fromkeys([path.lstrip("/"), name, HASH.sub("", name)]))


# ---- Tasks -----------------------------------------------------------------------------------------------------------
def _parse_task(task: dict, where: Where, photos: PhotoFolder) -> tuple[shapes.ParsedImage, Counter[str], bool]:
    """The image, how many regions of each type have no area, and whether there was a choice of annotations."""
    names = _photo_names(_image_link(task, where))
    photo = next(filter(None, map(photos.find, names)), None)
    if photo is None:
        photos.refuse_outside(names[0], where)
        raise MissingPhoto(*where, "image", photos.folder / names[-1])
    regions, several = _regions(task, where)
    stated = next(([r.get("original_height"), r.get("original_width")] for _, r in regions), [None, None])
    size = upright_size(photo, where, stated)
    labels = {
        region["id"]: _class_of_region(region) for _, region in regions if "id" in region and _class_of_region(region)
    }
    objects, left_out = [], Counter()
    for entry, region in regions:
        region_where = (where[0], f"{where[1]}.{entry}")
        label, value = _class_of_region(region) or labels.get(region.get("id")), region["value"]
        if region.get("image_rotation"):
            expected = "0: rotate the images themselves, and annotate these"
            raise BrokenAnnotation(*region_where, "image_rotation", expected, region["image_rotation"])
        reader = next((reader for key, reader in READERS.items() if key in value), None)
        if reader is not None and label:
            shape = reader(value, size, region_where)
            if region.get("type") not in ANSWERS:
                objects.append(shapes.ParsedObject(label, False, [shape]))
        elif label and region.get("type") not in ANSWERS:
            left_out[str(region.get("type"))] += 1
    limits.check_masks(len(objects), *size, where)
    return shapes.ParsedImage(_own_id(photo, photos), photo, size, objects), left_out, several


def _own_id(photo: Path, photos: PhotoFolder) -> str:
    """The path of an image in the folder of images."""
    return (photo.relative_to(photos.folder) if photo.is_relative_to(photos.folder) else photo).as_posix()


def _regions(task: dict, where: Where) -> tuple[list[tuple[str, dict]], bool]:
    """The regions of a task with their names, and whether it has several annotations to choose from."""
    if "data" not in task:  # JSON-MIN: the regions are lists beside the image
        lists = {key: value for key, value in task.items() if isinstance(value, list)}
        results = [(f"{key}[{i}]", region) for key, value in lists.items() for i, region in enumerate(value)]
        return [(name, {"value": region, **region}) for name, region in results if isinstance(region, dict)], False
    annotations = field(task, "annotations", list, "a list of annotations", where)
    if not all(isinstance(one, dict) for one in annotations):
        raise BrokenAnnotation(*where, "annotations", "a list of objects", annotations)
    done = [(i, one) for i, one in enumerate(annotations) if not one.get("was_cancelled")]
    if not done:
        return [], False
    i, chosen = max(
        done, key=lambda pair: (bool(pair[1].get("ground_truth")), str(pair[1].get("updated_at", "")), pair[0])
    )
    result = field(chosen, "result", list, "a list of regions", where)
    regions = [(f"annotations[{i}].result[{j}]", region) for j, region in enumerate(result)]
    for name, region in regions:
        if not isinstance(region, dict):
            raise BrokenAnnotation(where[0], f"{where[1]}.{name}", "region", "an object", region)
    # Others are choices, ratings or texts about the whole image, and relations between regions.
    regions = [(name, region) for name, region in regions if isinstance(region.get("value"), dict)]
    return regions, len(done) > 1


def _class_of_region(region: dict) -> str | None:
    """The class of a region: the first entry of "polygonlabels", "rectanglelabels", "labels", ..."""
    found = [names for key, names in region["value"].items() if key.endswith("labels") and isinstance(names, list)]
    name = next((names[0] for names in found if names), None)
    return name.strip() if isinstance(name, str) and name.strip() else None


def _warn_about_skipped(path: Path, parsed: list[tuple[shapes.ParsedImage, Counter[str], bool]]) -> None:
    left_out, chosen = sum((counts for _, counts, _ in parsed), Counter()), sum(several for *_, several in parsed)
    if left_out:
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))
        warn(f"{path}: regions without an area are left out: {counts}.")
    if chosen:
        warn(f"{path}: {chosen} tasks have several annotations; the ground truth, or else the newest one, is read.")


# ---- Shapes ----------------------------------------------------------------------------------------------------------
def _polygon(value: dict, size: tuple[int, int], where: Where) -> shapes.Shape:
    points = field(value, "points", list, "a list of [x, y]", where)
    if not all(isinstance(point, list) and len(point) == 2 and _is_numbers(point) for point in points):
        raise BrokenAnnotation(*where, "points", "points [x, y], two numbers each", points)
    return shapes.rings([[(_to_pixels(x, size[1]), _to_pixels(y, size[0])) for x, y in points]], size, where)


def _rectangle(value: dict, size: tuple[int, int], where: Where) -> shapes.Shape:
    y, x, h, w, angle = _read_percentages(value, ("y", "x", "height", "width"), size, where)
    return shapes.box(y, x, h, w, angle, size, where, center=False)


def _ellipse(value: dict, size: tuple[int, int], where: Where) -> shapes.Shape:
    y, x, ry, rx, angle = _read_percentages(value, ("y", "x", "radiusY", "radiusX"), size, where)
    return shapes.ellipse(y, x, ry, rx, angle, size, where)


def _brush(value: dict, size: tuple[int, int], where: Where) -> shapes.Shape:
    rle = field(value, "rle", list, "run lengths, a list of bytes", where)
    if not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise BrokenAnnotation(*where, "rle", "whole numbers 0..255", rle)
    try:
        alpha = decode_alpha(np.array(rle, np.uint8), *size)
    except ValueError as error:
        raise BrokenAnnotation(*where, "rle", "run lengths of Label Studio", str(error)) from error
    return shapes.patch(alpha > 0)


READERS = {"points": _polygon, "rle": _brush, "radiusX": _ellipse, "height": _rectangle}  # by what `value` has


def _read_percentages(
    value: dict, names: Sequence[str], size: tuple[int, int], where: Where
) -> tuple[float, float, float, float, float]:
    """Numbers of the directions y, x, y, x in pixels, and the rotation in radians."""
    numbers = [field(value, name, NUMBER, "a number, a percentage", where) for name in names]
    rotation = value.get("rotation") or 0
    if not _is_numbers([rotation]):
        raise BrokenAnnotation(*where, "rotation", "degrees", rotation)
    y, x, h, w = (_to_pixels(number, side) for number, side in zip(numbers, (*size, *size)))
    return y, x, h, w, math.radians(rotation)


def _to_pixels(percentage: float, side: int) -> float:
    return round(percentage / 100 * side, DECIMALS)


def _is_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, NUMBER) and not isinstance(value, bool) for value in values)
