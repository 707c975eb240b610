"""VGG Image Annotator (VIA): JSON and CSV of versions 1.x and 2.x.

    dataset = ViaDataset()
    dataset.load_via("balloon/train/via_region_data.json", class_name="balloon")
    dataset.prepare()

A file has one of these forms:
    1.x              {key: entry, ...}, regions of an entry as {"0": region, ...}
    2.x              {key: entry, ...}, regions as a list
    2.x project      {"_via_img_metadata": {key: entry, ...}, "_via_attributes": ..., ...}
    a bare list      [entry, ...]
    CSV              a line for each region, with its attributes in JSON
where
    entry   {"filename": ..., "regions": ...}
    region  {"shape_attributes": {"name": "polygon", "all_points_x": ..., ...}, "region_attributes": {...}}

Shapes become masks: polygon, polyline (closed), rect, circle, ellipse, point (one pixel). A polygon of fewer than three
points, such as an accidental click, is left out with a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.data.formats import rasterize
from mrcnn.data.formats.broken import names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, upright_size
from mrcnn.data.formats.json_head import growing_heads, has_keys, texts_of
from mrcnn.data.formats.parsing import field, name_classes, parse_all, warn_of_small_shapes
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder, first_bytes
from mrcnn.data.formats.via_file import (
    COLUMNS,
    NUMBERS,
    attribute_of_classes,
    extent_of,
    names_by_attribute,
    names_without_attribute,
    parse_regions,
    read_entries,
    regions_of,
)

USUAL_FILE = "via_region_data.json"


class ViaDataset(UprightDataset):
    """Images annotated with VIA. Call `load_via` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> shape = {"name": "rect", "x": 2, "y": 1, "width": 4, "height": 3}
        >>> entry = {"filename": "a.png", "regions": [{"shape_attributes": shape, "region_attributes": {}}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "via.json").write_text(json.dumps({"a": entry}))
        ...     dataset = ViaDataset()
        ...     dataset.load_via(folder, class_name="balloon")
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((6, 8, 1), 12, ['BG', 'balloon'])
    """

    @names_file
    def load_via(self, path: str | Path, images_dir: str | Path | None = None, source: str = "via",
                 class_name: str | None = None, attribute: str | None = None, classes: Sequence[str] | None = None,
                 skip_broken: bool = False) -> None:  # fmt: skip
        """Adds the images of a VIA file.

        The class of a region is `class_name` for all of them, or the value of one of its attributes. If neither is
        given: the attribute that has values, if there is one, or several that always have the same; if there is none,
        the only one of `classes`, or "object".

        Args:
            path: the JSON or CSV file, or a folder that holds `via_region_data.json` or only one JSON or CSV file.
            images_dir: folder of the images; None: that of the file.
            source: see `Dataset.add_class`.
            class_name: the class of all regions; or None.
            attribute: the name of the region attribute that tells the class; or None.
            classes: class names, in the order of their ids 1, 2, ...; None: those of the project, else those
                in the file, sorted. A file numbers only the classes it has: give the names, or use `open_splits`, where
                training and validation files may have different ones.
            skip_broken: skip broken images with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such file.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        path = find_file(path)
        photos = PhotoFolder(path.parent if images_dir is None else images_dir)
        entries, offered = read_entries(path)
        regions = list(regions_of(entries))
        if class_name is None and attribute is None:
            attribute = attribute_of_classes(path, regions)
        if class_name is not None:
            names, attribute = [class_name], None
        elif attribute is None:
            names = names_without_attribute(path, regions, classes)
        else:
            names = names_by_attribute(path, attribute, regions, offered, classes)
        ids, too_small = name_classes(self, source, (), names, path), []

        def parse(item: tuple[str, dict]) -> tuple:
            where, entry = (path, item[0]), item[1]
            filename = field(entry, "filename", str, "the image's file name", where)
            photo = photos.locate(filename, where)
            size = upright_size(photo, where, extent=extent_of(entry), tools_turn=False)
            return filename, photo, size, parse_regions(entry, size, ids, attribute, where, too_small)

        for filename, photo, size, shapes in parse_all(entries, parse, skip_broken, lambda item: (path, item[0])):
            self.add_image(source, filename, str(photo), height=size[0], width=size[1], shapes=shapes)
        warn_of_small_shapes(path, too_small)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool, one a region, and [N] int32 class ids."""
        info = self.image_info[image_id]
        if "shapes" not in info:
            return super().load_mask(image_id)
        height, width, shapes = info["height"], info["width"], info["shapes"]
        masks = np.zeros((len(shapes), height, width), bool)
        for mask, (shape, _) in zip(masks, shapes):
            mask[:] = draw(shape, height, width)
        class_ids = [self.map_source_class_id(f"{info['source']}.{own_id}") for _, own_id in shapes]
        return np.moveaxis(masks, 0, -1), np.array(class_ids, np.int32)


def draw(shape: dict[str, Any], height: int, width: int) -> np.ndarray:
    """A VIA shape (its "shape_attributes") as a mask [height, width] bool."""
    kind = shape["name"]
    if kind in ("polygon", "polyline"):
        return rasterize.polygon(height, width, shape["all_points_y"], shape["all_points_x"])
    numbers = [float(shape[name]) for name in NUMBERS[kind]]
    if kind == "rect":
        return rasterize.rectangle(height, width, *numbers)
    if kind == "point":
        return rasterize.point(height, width, *numbers)
    y, x, ry, rx = numbers if kind == "ellipse" else (*numbers, numbers[-1])
    return rasterize.ellipse(height, width, y, x, ry, rx, float(shape.get("theta", 0)))


def find_file(path: str | Path) -> Path:
    """The annotation file that a path means: itself, or the one in the folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.json")) or sorted(path.glob("*.csv"))
    if path / USUAL_FILE in found:
        return path / USUAL_FILE
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "no JSON file"
        raise FileNotFoundError(f"{path} has {names}; expected {USUAL_FILE}, or only one JSON or CSV file.")
    return found[0]


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    if isinstance(content, list):
        return bool(content) and has_keys(content[0], "filename", "regions")
    if not isinstance(content, dict):
        return False
    is_version_3 = isinstance(content.get("project"), dict) and {"config", "attribute", "file", "view"} & content.keys()
    if is_version_3 or "_via_img_metadata" in content or "_via_settings" in content:
        return True
    return bool(content) and has_keys(next(iter(content.values())), "filename", "regions")


def _find(place: Place) -> list[Path]:
    found = place.json_files_of(FORMAT.name)
    if not found:  # the same annotations are often exported to both
        found = [file for file in place.files(".csv") if COLUMNS[1].encode() in first_bytes(file).split(b"\n")[0]]
    return [file for file in found if file.name == USUAL_FILE] or found


def _open(path: Path, options: OpenOptions) -> ViaDataset:
    dataset = ViaDataset()
    images_dir = find_images_folder(path, first_image_names(path), FORMAT.loader)
    dataset.load_via(
        path,
        images_dir,
        attribute=options.attribute,
        classes=options.classes or options.names,
        skip_broken=options.skip_broken,
    )
    return dataset


def first_image_names(path: Path) -> list[str]:
    """File names of the first images of a file."""
    if path.suffix.lower() == ".csv":
        return [str(entry["filename"]) for _, entry in read_entries(path)[0][:NAMES_READ]]
    for content in growing_heads(path):
        if _is_mine(content):
            entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
            return texts_of(entries.values() if isinstance(entries, dict) else entries or [], "filename", NAMES_READ)
    return []


FORMAT = Format(
    name="VIA",
    signs='a JSON file with image entries {"filename", "regions"} or "_via_img_metadata", or its CSV export',
    loader="ViaDataset().load_via(file, images_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)
