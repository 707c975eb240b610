"""VGG Image Annotator (VIA): JSON of versions 1.x and 2.x.

    dataset = ViaDataset()
    dataset.load_via("balloon/train/via_region_data.json", class_name="balloon")
    dataset.prepare()

The file, in one of these forms:
    1.x              {key: entry, ...}, regions of an entry as {"0": region, ...}
    2.x              {key: entry, ...}, regions as a list
    2.x project      {"_via_img_metadata": {key: entry, ...}, "_via_attributes": ..., ...}
    a bare list      [entry, ...]
where
    entry   {"filename": ..., "regions": ...}
    region  {"shape_attributes": {"name": "polygon", "all_points_x": ..., ...}, "region_attributes": {...}}

Shapes become masks: polygon, polyline (closed), rect, circle, ellipse, point (one pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats import limits, rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.json_head import growing_heads, has_keys
from mrcnn.data.formats.parsing import field, image_size, parse_all, read_json
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder

USUAL_FILE = "via_region_data.json"
NUMBERS = {  # of each shape; polygons have lists of them
    "rect": ("y", "x", "height", "width"),
    "circle": ("cy", "cx", "r"),
    "ellipse": ("cy", "cx", "ry", "rx"),
    "point": ("cy", "cx"),
}
SHAPES = ("polygon", "polyline", *NUMBERS)


class ViaDataset(Dataset):
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
        given: the attribute if the regions have one; if they have none, the only one of `classes`, or "object".

        Args:
            path: the JSON file, or a folder that holds `via_region_data.json` or only one JSON file.
            images_dir: folder of the images; None: that of the file.
            source: see `Dataset.add_class`.
            class_name: the class of all regions; or None.
            attribute: the name of the region attribute that tells the class; or None.
            classes: class names, in the order of their ids 1, 2, ...; None: those of the project, else those
                in the file, sorted. Give it if training and validation files may have different ones.
            skip_broken: leave broken images out with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such file.
            BrokenAnnotation: names the file, the entry, its field, what was expected and what is there.
        """
        path = find_file(path)
        images_dir = path.parent if images_dir is None else Path(images_dir)
        entries, project_classes = _entries(path)
        regions = [region for _, entry in entries for region in _regions(entry)]
        if class_name is None and attribute is None:
            attribute = _only_attribute(path, regions)
        if class_name is not None or attribute is None:
            names = [class_name] if class_name else _names_without_attribute(path, classes, regions)
        else:
            found = {_class_of(region, attribute) for region in regions} - {None}
            names = list(classes or project_classes.get(attribute) or sorted(found))
        for i, name in enumerate(names):
            self.add_class(source, i + 1, name)
        own_class = names[0] if len(names) == 1 and (class_name is not None or attribute is None) else None

        def parse(item):
            return _parse_entry(path, images_dir, *item, names, attribute, own_class)

        for filename, file, size, shapes in parse_all(entries, parse, skip_broken, lambda item: (path, item[0])):
            self.add_image(source, filename, str(file), height=size[0], width=size[1], shapes=shapes)

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
    found = sorted(path.glob("*.json"))
    if path / USUAL_FILE in found:
        return path / USUAL_FILE
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "no JSON file"
        raise FileNotFoundError(f"{path} has {names}; expected {USUAL_FILE}, or only one JSON file.")
    return found[0]


# ---- Recognising and opening -----------------------------------------------------------------------------------------
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
    return [file for file in found if file.name == USUAL_FILE] or found


def _open(path: Path, options: OpenOptions) -> ViaDataset:
    dataset = ViaDataset()
    images_dir = find_images_folder(path, first_image_names(path), FORMAT.loader)
    dataset.load_via(path, images_dir, classes=options.classes or options.names, skip_broken=options.skip_broken)
    return dataset


def first_image_names(path: Path) -> list[str]:
    """File names of the first images of a file."""
    for content in growing_heads(path):
        if _is_mine(content):
            entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
            entries = list(entries.values()) if isinstance(entries, dict) else entries
            names = [entry.get("filename") for entry in (entries or [])[:NAMES_READ] if isinstance(entry, dict)]
            return [name for name in names if isinstance(name, str)]
    return []


FORMAT = Format(
    name="VIA",
    signs='a JSON file with image entries {"filename", "regions"} or "_via_img_metadata"',
    loader="ViaDataset().load_via(file, images_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _entries(path):
    """[(name, entry)] of all images, and the classes that a project offers, by attribute."""
    content, classes = read_json(path), {}
    if isinstance(content, dict) and "_via_img_metadata" in content:
        attributes = (content.get("_via_attributes") or {}).get("region") or {}
        for name, attribute in attributes.items():
            if isinstance(attribute, dict):
                classes[name] = [option.strip() for option in attribute.get("options") or ()]
        content = content["_via_img_metadata"]
    if isinstance(content, dict) and isinstance(content.get("project"), dict) and "view" in content:
        raise BrokenAnnotation(path, "the file", "version", "a VIA 1.x or 2.x file", "a VIA 3 project")
    if isinstance(content, dict):
        named = list(content.items())
    elif isinstance(content, list):
        named = [(f"entry {i}", entry) for i, entry in enumerate(content)]
    else:
        raise BrokenAnnotation(path, "the file", "content", "an object or a list of image entries", content)
    for name, entry in named:
        if not isinstance(entry, dict):
            raise BrokenAnnotation(path, name, "entry", 'an object with "filename" and "regions"', entry)
    return named, classes


def _regions(entry):
    """The regions of an entry, as far as they are objects; others are left to `_parse_entry`."""
    regions = entry.get("regions", [])
    regions = regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else []
    return [region for region in regions if isinstance(region, dict)]


def _attributes(region):
    attributes = region.get("region_attributes")
    return attributes if isinstance(attributes, dict) else {}


def _only_attribute(path, regions):
    """The one attribute that regions have; None if they have none."""
    names = sorted({name for region in regions for name in _attributes(region)})
    if len(names) > 1:
        raise BrokenAnnotation(path, "the file", "region_attributes", "one, or attribute=... to choose which", names)
    return names[0] if names else None


def _names_without_attribute(path, classes, regions):
    """The names of the classes, where regions don't tell theirs."""
    if regions and len(classes or ()) > 1:
        raise BrokenAnnotation(path, "the file", "region_attributes", f"one that tells {', '.join(classes)}", "none")
    return list(classes or ["object"])


def _class_of(region, attribute):
    """The name of a region's class; of a checkbox, the one that is ticked. None where it isn't told."""
    value = _attributes(region).get(attribute)
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    return value.strip() or None if isinstance(value, str) else None


def _parse_entry(path, images_dir, name, entry, names, attribute, own_class):
    """(filename, path, (height, width), [(shape attributes, class id)]) of an entry."""
    where = (path, name)
    filename = field(entry, "filename", str, "the image's file name", where)
    file = filename if is_url(filename) else images_dir / filename
    regions = field(entry, "regions", (dict, list), "an object or a list of regions", where)
    size = image_size(file, where)
    limits.check_masks(len(regions), *size, where)
    shapes = []
    for i, region in enumerate(regions.values() if isinstance(regions, dict) else regions):
        where = (path, f"{name}, region {i}")
        if not isinstance(region, dict):
            raise BrokenAnnotation(*where, "region", "an object", region)
        shape = field(region, "shape_attributes", dict, "an object", where)
        _check_shape(shape, size, where)
        shown = own_class if own_class is not None else _class_of(region, attribute)
        if shown not in names:
            got = _attributes(region).get(attribute, "nothing")
            raise BrokenAnnotation(*where, f"region_attributes.{attribute}", f"one of {', '.join(names)}", got)
        shapes.append((shape, names.index(shown) + 1))
    return filename, file, size, shapes


def _check_shape(shape, size, where):
    kind = field(shape, "name", str, f"one of {', '.join(SHAPES)}", where)
    if kind not in SHAPES:
        raise BrokenAnnotation(*where, "shape_attributes.name", f"one of {', '.join(SHAPES)}", kind)
    if kind in NUMBERS:
        for name in (*NUMBERS[kind], *({"theta"} & shape.keys())):
            number = field(shape, name, (int, float), "a number", where)
            limits.check_coordinates([number], *size, where, name)
        return
    ys, xs = (field(shape, f"all_points_{axis}", list, "a list of numbers", where) for axis in "yx")
    if len(ys) != len(xs):
        raise BrokenAnnotation(*where, "all_points_y", f"{len(xs)} numbers, as many as all_points_x", ys)
    for axis, points in (("y", ys), ("x", xs)):
        wrong = [p for p in points if not isinstance(p, (int, float)) or isinstance(p, bool)]
        if wrong or len(points) < 3:
            raise BrokenAnnotation(*where, f"all_points_{axis}", "three numbers or more", wrong[0] if wrong else points)
        limits.check_coordinates(points, *size, where, f"all_points_{axis}")
    limits.check_outline(xs, ys, where, "all_points_x")
