"""Cityscapes: polygons of street scenes; some of their classes are objects.

    dataset = CityscapesDataset()
    dataset.load_cityscapes("cityscapes", subset="train")
    dataset.prepare()

The folders:
    leftImg8bit/<subset>/<city>/<name>_leftImg8bit.png
    gtFine/<subset>/<city>/<name>_gtFine_polygons.json      also gtCoarse
A file:
    {"imgHeight": 1024, "imgWidth": 2048, "objects": [{"label": "car", "polygon": [[x, y], ...]}, ...]}
Polygons are listed from back to front: a later one covers those before it, whatever its label, and masks exclude
covered pixels. Labels of objects are those of the benchmark (INSTANCES); a label that ends with "group", such as
"cargroup", is a crowd: several objects that couldn't be distinguished. All other labels are background.

Masks are drawn from the polygons, like those of other formats, and may differ by a pixel at the border from the
*_instanceIds.png of the dataset.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits, shapes
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.json_head import has_keys
from mrcnn.data.formats.parsing import field, name_classes, parse_all, read_json
from mrcnn.data.formats.recognition import Format, OpenOptions, Place

INSTANCES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
GROUP = "group"
ANNOTATIONS, IMAGES = ("gtFine", "gtCoarse"), "leftImg8bit"
ENDING = "_polygons.json"
SUBSETS = ("train", "val", "test", "train_extra")


class CityscapesDataset(UprightDataset):
    """Images of Cityscapes. Call `load_cityscapes` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> car = {"label": "car", "polygon": [[2, 1], [5, 1], [5, 3], [2, 3]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("leftImg8bit/train/ulm", "gtFine/train/ulm"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "leftImg8bit/train/ulm/a_leftImg8bit.png")
        ...     content = {"imgHeight": 6, "imgWidth": 8, "objects": [car]}
        ...     _ = (Path(folder) / "gtFine/train/ulm/a_gtFine_polygons.json").write_text(json.dumps(content))
        ...     dataset = CityscapesDataset()
        ...     dataset.load_cityscapes(folder, subset="train")
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names[class_ids[0]]
        ((6, 8, 1), 12, 'car')
    """

    @names_file
    def load_cityscapes(
        self,
        folder: str | Path,
        subset: str | None = None,
        images_dir: str | Path | None = None,
        source: str = "cityscapes",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Adds the images of a subset.

        Args:
            folder: with gtFine (or gtCoarse) and leftImg8bit; or a folder of *_polygons.json, or with such folders.
            subset: "train", "val", ...; None: all in the folder.
            images_dir: folder of the images; None: leftImg8bit in place of gtFine in the path of the annotations, or
                else the folder of the annotations.
            source: see `Dataset.add_class`.
            classes: labels that are objects, in the order of their ids 1, 2, ...; None: the eight of the benchmark.
            skip_broken: skip broken images with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such folder, or no annotation in it.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        folder = Path(folder)
        inner = next((folder / name for name in ANNOTATIONS if (folder / name).is_dir()), folder)
        inner = inner / subset if subset else inner
        files = sorted(inner.rglob(f"*{ENDING}"))
        if not files:
            raise FileNotFoundError(f"{inner} has no *{ENDING}; expected folders of cities with such files.")
        names = list(classes or INSTANCES)
        images_dir = None if images_dir is None else Path(images_dir)
        parsed = parse_all(files, lambda file: _parse_file(file, names, images_dir), skip_broken)
        ids = name_classes(self, source, (), names, folder)
        for file, photo, (height, width), polygons in parsed:
            numbered = [(ids.get(name), crowd, ring) for name, crowd, ring in polygons]
            self.add_image(source, _base_name(file), str(photo), height=height, width=width, polygons=numbered)

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Draws the visible masks of an image, [H, W, N] bool, and their class ids, [N] int32 (negative for crowds)."""
        info = self.image_info[image_id]
        if "polygons" not in info:
            return super().load_mask(image_id)
        size = info["height"], info["width"]
        covered, layers, class_ids = np.zeros(size, bool), [], []
        for own_id, crowd, ring in reversed(info["polygons"]):
            mask = ring.draw(*size)
            if own_id is not None and (visible := mask & ~covered).any():
                class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
                layers.append(visible)
                class_ids.append(-class_id if crowd else class_id)
            covered |= mask
        masks = np.stack(layers[::-1]) if layers else np.zeros((0, *size), bool)
        return np.moveaxis(masks, 0, -1), np.array(class_ids[::-1], np.int32)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    return has_keys(content, "imgHeight", "imgWidth", "objects")


def _find(place: Place) -> list[Path]:
    found = [inner.path for inner in map(place.inside, ANNOTATIONS) if inner]
    if found or place.path.name in ANNOTATIONS:
        return found or [place.path]
    if place.json_files_of(FORMAT.name):
        return [place.path]
    cities = [inner for inner in place.folders if any(name.endswith(ENDING) for name in inner.entries)]
    return [place.path] if cities and cities[0].json_files_of(FORMAT.name) else []


def _open(path: Path, options: OpenOptions) -> CityscapesDataset:
    dataset = CityscapesDataset()
    subset = options.split or ("train" if "train" in _splits(path) else None)
    dataset.load_cityscapes(path, subset, classes=options.classes, skip_broken=options.skip_broken)
    return dataset


def _splits(path: Path) -> list[str]:
    return [name for name in SUBSETS if (path / name).is_dir()]


FORMAT = Format(
    name="Cityscapes",
    signs=f"a folder gtFine or gtCoarse, or files *{ENDING}",
    loader="CityscapesDataset().load_cityscapes(folder, subset)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
    splits=_splits,
)


# ---- Files -----------------------------------------------------------------------------------------------------------
def _base_name(file: Path) -> str:
    """The part of an annotation file's name that its image has as well."""
    return file.name.removesuffix(ENDING).rsplit("_", 1)[0]


def _find_photo(file: Path, images_dir: Path | None) -> Path:
    stem, folders = _base_name(file), [file.parent]
    if images_dir is not None:
        folders = [images_dir, *(images_dir / name for name in (file.parent.name, "/".join(file.parts[-3:-1])))]
    else:
        parts = list(file.resolve().parent.parts)
        places = [i for i, part in enumerate(parts) if part in ANNOTATIONS]
        if places:
            folders.insert(0, Path(*parts[: places[-1]], IMAGES, *parts[places[-1] + 1 :]))
    names = [stem + middle + suffix for middle in (f"_{IMAGES}", "") for suffix in SUFFIXES]
    found = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
    if found is None:
        raise MissingPhoto(file, "the image", "image file", folders[0] / names[0])
    return found


def _parse_file(
    file: Path, names: list[str], images_dir: Path | None
) -> tuple[Path, Path, tuple[int, int], list[tuple[str | None, bool, shapes.Rings]]]:
    """(file, image file, (height, width), [(class name or None, whether a crowd, polygon)])."""
    content, where = read_json(file), (file, "the image")
    if not isinstance(content, dict):
        raise BrokenAnnotation(file, "the file", "content", "an object with imgHeight, imgWidth and objects", content)
    photo = _find_photo(file, images_dir)
    stated = [field(content, side, int, "pixels", where) for side in ("imgHeight", "imgWidth")]
    size = upright_size(photo, where, stated)
    polygons = []
    for i, entry in enumerate(field(content, "objects", list, "a list of objects", where)):
        object_where = (file, f"objects[{i}]")
        if not isinstance(entry, dict):
            raise BrokenAnnotation(*object_where, "object", "an object", entry)
        label = field(entry, "label", str, "a label", object_where)
        if entry.get("deleted"):
            continue
        ring = shapes.rings([field(entry, "polygon", list, "a list of [x, y]", object_where)], size, object_where)
        crowd = label not in names and label.endswith(GROUP)
        name = label.removesuffix(GROUP) if crowd else label
        polygons.append((name if name in names else None, crowd, ring))
    limits.check_masks(len(polygons), *size, where)
    return file, photo, size, polygons
