"""Supervisely: a project folder with meta.json, and a folder with img/ and ann/ for each of its datasets.

    dataset = SuperviselyDataset()
    dataset.load_supervisely("project")            # all of its datasets
    dataset.load_supervisely("project/train")      # one of them
    dataset.prepare()

The files:
    meta.json              {"classes": [{"title": "cat", "shape": "polygon"}, ...], "tags": [...]}
    <dataset>/img/a.jpg
    <dataset>/ann/a.jpg.json   {"size": {"height": 480, "width": 640}, "objects": [object, ...]}; also a.json
    object  {"classTitle": "cat", "geometryType": ...} and one of these
            "polygon", "rectangle"   "points": {"exterior": [[x, y], ...], "interior": [ring, ...]}; rings are holes
            "bitmap"                 "bitmap": {"origin": [x, y], "data": a PNG, compressed by zlib, in base64}
Coordinates are those of pixels; both corners of a rectangle belong to it. Datasets may be inside others. Points, lines,
graphs and cuboids have no mask and are left out with a warning.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits, shapes
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where, names_file
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.json_head import has_keys
from mrcnn.data.formats.parsing import field, parse_all, read_json
from mrcnn.data.formats.photo_folder import PhotoFolder, folders_below
from mrcnn.data.formats.recognition import Format, OpenOptions, Place
from mrcnn.data.image_reading import read_header, read_stored_values
from mrcnn.data.user_warnings import warn

META, ANNOTATIONS, IMAGES = "meta.json", "ann", "img"
BITMAPS = ("bitmap", "alpha_mask")
NO_MASK = ("point", "line", "polyline", "graph", "cuboid", "cuboid_2d")


class SuperviselyDataset(shapes.ShapeDataset):
    """Images of a Supervisely project. Call `load_supervisely` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> points = {"exterior": [[2, 1], [5, 1], [5, 3], [2, 3]], "interior": []}
        >>> cat = {"classTitle": "cat", "geometryType": "polygon", "points": points}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train/img", "train/ann"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "train/img/a.png")
        ...     content = {"size": {"height": 6, "width": 8}, "objects": [cat]}
        ...     _ = (Path(folder) / "train/ann/a.png.json").write_text(json.dumps(content))
        ...     dataset = SuperviselyDataset()
        ...     dataset.load_supervisely(folder)
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((6, 8, 1), 12, ['BG', 'cat'])
    """

    @names_file
    def load_supervisely(
        self,
        folder: str | Path,
        source: str = "supervisely",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
        subset: str | None = None,
    ) -> None:
        """Adds the images of a project, or of one of its datasets.

        Args:
            folder: with meta.json and the datasets, or with img/ and ann/.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: those of meta.json. Objects of other
                classes are left out, with a warning that counts them.
            skip_broken: skip broken images with a warning, instead of raising.
            subset: name of one of the project's datasets; None: all.

        Raises:
            FileNotFoundError: no such folder, or no annotation in it.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        folder = Path(folder)
        places = dataset_folders(folder / subset if subset else folder)
        files = [(file, place) for place in places for file in sorted((place / ANNOTATIONS).glob("*.json"))]
        if not files:
            raise FileNotFoundError(f"{folder} has no ann/*.json; expected a Supervisely project, or a dataset of one.")
        photos = {place: PhotoFolder(place / IMAGES) for place in places}

        def parse(item: tuple[Path, Path]) -> tuple[shapes.ParsedImage, Counter[str]]:
            image, left_out = _parse_file(item[0], photos[item[1]])
            inner = item[1].relative_to(folder)  # datasets may have images of the same name
            return image._replace(own_id=(inner / image.own_id).as_posix()), left_out

        parsed = parse_all(files, parse, skip_broken, lambda item: (item[0], "the image"))
        left_out = sum((counts for _, counts in parsed), Counter())
        if left_out:
            counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))
            warn(f"{folder}: objects that have no mask are left out: {counts}.")
        images = [image for image, _ in parsed]
        if classes is None:
            classes = _listed_classes(folder, {one.name for image in images for one in image.objects})
        self.add_parsed(images, source, classes, folder)


def dataset_folders(folder: Path) -> list[Path]:
    """The folders with ann/ at or below a folder."""
    candidates = [folder, *folders_below(folder)]
    return [place for place in candidates if (place / ANNOTATIONS).is_dir()]


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    """Whether it is an annotation. (meta.json can't be recognized by its content.)"""
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        return False
    return has_keys(content.get("size"), "height", "width")


def _find(place: Place) -> list[Path]:
    if place.path.is_file():
        is_meta = place.path.name == META and dataset_folders(place.folder)
        return [place.folder] if is_meta else [place.folder.parent] * bool(place.json_files_of(FORMAT.name))
    inner = [place, *place.folders]
    first = next((ann for ann in (one.inside(ANNOTATIONS) for one in inner) if ann), None)
    has_images = first is not None and (first.path.parent / IMAGES).is_dir()
    if has_images or ((place.path / META).is_file() and dataset_folders(place.path)):
        return [place.path]
    return [place.path.parent] if place.path.name == ANNOTATIONS and place.json_files_of(FORMAT.name) else []


def _open(path: Path, options: OpenOptions) -> SuperviselyDataset:
    dataset = SuperviselyDataset()
    dataset.load_supervisely(path, classes=options.classes, skip_broken=options.skip_broken, subset=options.split)
    return dataset


def _splits(path: Path) -> list[str]:
    return sorted(inner.name for inner in path.iterdir() if (inner / ANNOTATIONS).is_dir())


FORMAT = Format(
    name="Supervisely",
    signs="folders with img/ and ann/*.json, and meta.json beside them",
    loader="SuperviselyDataset().load_supervisely(folder)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
    splits=_splits,
)


# ---- Files -----------------------------------------------------------------------------------------------------------
def _listed_classes(folder: Path, used: set[str]) -> list[str] | None:
    """The classes of meta.json that can have masks, and others that objects have; None if there is no meta.json."""
    path = next((place / META for place in (folder, *folder.resolve().parents[:3]) if (place / META).is_file()), None)
    if path is None:
        return None
    content = read_json(path)
    entries = field(
        content if isinstance(content, dict) else {}, "classes", list, "a list of classes", (path, "the file")
    )
    names = []
    for i, entry in enumerate(entries):
        where = (path, f"classes[{i}]")
        if not isinstance(entry, dict):
            raise BrokenAnnotation(*where, "class", "an object", entry)
        title = field(entry, "title", str, "the class's name", where).strip()
        if entry.get("shape") not in NO_MASK or title in used:
            names.append(title)
    return list(dict.fromkeys([*names, *sorted(used)]))


def _parse_file(file: Path, photos: PhotoFolder) -> tuple[shapes.ParsedImage, Counter[str]]:
    """The image, and how many objects of each kind have no mask."""
    content, where = read_json(file), (file, "the image")
    if not isinstance(content, dict):
        raise BrokenAnnotation(file, "the file", "content", 'an object with "size" and "objects"', content)
    names = [file.stem, *(file.stem + suffix for suffix in SUFFIXES)]
    photo = next(filter(None, map(photos.find, names)), None)
    if photo is None:
        raise MissingPhoto(*where, "image file", photos.folder / file.stem)
    stated = field(content, "size", dict, "height and width", where)
    size = upright_size(photo, where, [field(stated, side, int, "pixels", where) for side in ("height", "width")])
    entries = field(content, "objects", list, "a list of objects", where)
    limits.check_masks(len(entries), *size, where)
    objects, left_out = [], Counter()
    for i, entry in enumerate(entries):
        object_where = (file, f"objects[{i}]")
        if not isinstance(entry, dict):
            raise BrokenAnnotation(*object_where, "object", "an object", entry)
        kind = _kind_of_object(entry)
        if kind in NO_MASK:
            left_out[kind] += 1
            continue
        name = field(entry, "classTitle", str, "the class's name", object_where).strip()
        objects.append(shapes.ParsedObject(name, False, [_shape(entry, kind, size, object_where)]))
    return shapes.ParsedImage(photo.name, photo, size, objects), left_out


def _kind_of_object(entry: dict) -> str | None:
    """The kind of an object; old files have only what it consists of."""
    if entry.get("geometryType"):
        return entry["geometryType"]
    return "bitmap" if isinstance(entry.get("bitmap"), dict) else "polygon"


# ---- Shapes ----------------------------------------------------------------------------------------------------------
def _shape(entry: dict, kind: Any, size: tuple[int, int], where: Where) -> shapes.Shape:
    if kind in BITMAPS:
        return _bitmap(field(entry, kind if kind in entry else "bitmap", dict, "origin and data", where), size, where)
    if kind not in ("polygon", "rectangle"):
        known = ("polygon", "rectangle", *BITMAPS, *NO_MASK)
        raise BrokenAnnotation(*where, "geometryType", f"one of {', '.join(known)}", kind)
    points = field(entry, "points", dict, "exterior and interior", where)
    exterior = field(points, "exterior", list, "a list of [x, y]", where)
    if kind == "polygon":
        interior = points.get("interior") or []
        if not isinstance(interior, list):
            raise BrokenAnnotation(*where, "points.interior", "a list of rings", interior)
        return shapes.rings([exterior, *interior], size, where)
    if len(exterior) != 2:
        raise BrokenAnnotation(*where, "points.exterior", "two corners [x, y]", exterior)
    corners = shapes.rings([[*exterior, exterior[0]]], size, where).rings[0]  # checks them
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return shapes.Box(top, left, bottom - top + 1, right - left + 1)


def _bitmap(bitmap: dict, size: tuple[int, int], where: Where) -> shapes.Shape:
    origin = field(bitmap, "origin", list, "[x, y]", where)
    if len(origin) != 2 or not all(type(value) is int for value in origin):
        raise BrokenAnnotation(*where, "bitmap.origin", "[x, y], whole numbers", origin)
    limits.check_coordinates(origin, *size, where, "bitmap.origin")
    text = field(bitmap, "data", str, "a PNG in base64", where)
    try:
        mask = _decode(text, size)
    except (ValueError, OSError, SyntaxError, zlib.error) as error:
        raise BrokenAnnotation(*where, "bitmap.data", "a PNG, compressed by zlib, in base64", str(error)) from error
    return shapes.patch(mask, origin[1], origin[0])


def _decode(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a bitmap; ValueError if it isn't one, or is larger than the image."""
    unpacker = zlib.decompressobj()
    png = unpacker.decompress(base64.b64decode(text, validate=True), limits.MAX_UNPACKED_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError(f"more than {limits.MAX_UNPACKED_BYTES} bytes")
    height, width = read_header(png, "bitmap.data").stored
    if height > size[0] or width > size[1]:
        raise ValueError(f"{height} x {width} pixels in an image of {size[0]} x {size[1]}")
    values = read_stored_values(png, "bitmap.data")
    # With alpha, this is the mask; otherwise gray levels or palette numbers are.
    return (values if values.ndim == 2 else values[..., -1] if values.shape[-1] in (2, 4) else values.max(axis=-1)) != 0
