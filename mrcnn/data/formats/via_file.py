"""The content of a VIA file: its image entries, how regions tell their class, and checks of their shapes; see `via`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.parsing import field, read_csv, read_json

NUMBERS = {  # of each shape; polygons have lists of them
    "rect": ("y", "x", "height", "width"),
    "circle": ("cy", "cx", "r"),
    "ellipse": ("cy", "cx", "ry", "rx"),
    "point": ("cy", "cx"),
}
SHAPES = ("polygon", "polyline", *NUMBERS)
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")  # of a CSV file; there are others
NamedEntries = list[tuple[str, dict]]  # (name for errors, entry)


def read_entries(path: Path) -> tuple[NamedEntries, dict[str, list[str]]]:
    """Reads a file.

    Returns:
        The entries of all images, and the classes that a project offers, by attribute.

    Raises:
        BrokenAnnotation: the file isn't of VIA.
    """
    if path.suffix.lower() == ".csv":
        return _entries_of_csv(path), {}
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


def _entries_of_csv(path: Path) -> NamedEntries:
    """Entries of a CSV file, which has a line for each region, and one for an image without any."""
    lines = read_csv(path)
    _, header = next(lines, (1, []))
    header = [name.strip().lstrip("#") for name in header]  # VIA 1 begins the line with #
    if not set(COLUMNS) <= set(header):
        raise BrokenAnnotation(path, "line 1", "columns", ", ".join(COLUMNS), header)
    filename, shape, attributes = (header.index(column) for column in COLUMNS)
    entries: dict[str, dict] = {}
    for line, row in lines:
        if len(row) != len(header):
            raise BrokenAnnotation(path, f"line {line}", "columns", f"{len(header)} cells", row)
        entry = entries.setdefault(row[filename], {"filename": row[filename], "regions": []})
        region = {
            "shape_attributes": _parse_cell(row[shape], (path, f"line {line}"), COLUMNS[1]),
            "region_attributes": _parse_cell(row[attributes], (path, f"line {line}"), COLUMNS[2]),
        }
        if region["shape_attributes"]:
            entry["regions"].append(region)
    return list(entries.items())


def _parse_cell(text: str, where: Where, column: str) -> dict:
    try:
        content = json.loads(text or "{}")
    except ValueError as error:
        raise BrokenAnnotation(*where, column, "an object in JSON", text) from error
    if not isinstance(content, dict):
        raise BrokenAnnotation(*where, column, "an object in JSON", text)
    return content


# ---- Classes ---------------------------------------------------------------------------------------------------------
def regions_of(entries: NamedEntries) -> Iterator[dict]:
    """All regions that are JSON objects; `parse_regions` reports the others."""
    for _, entry in entries:
        regions = entry.get("regions", [])
        regions = regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else []
        yield from (region for region in regions if isinstance(region, dict))


def extent_of(entry: dict) -> tuple[float, float]:
    """The largest (y, x) of all points of an entry, as far as they are numbers; others are left to `parse_regions`."""
    extent = [0.0, 0.0]
    for region in regions_of([("", entry)]):
        shape = region.get("shape_attributes")
        for i, axis in enumerate("yx" if isinstance(shape, dict) else ""):
            points = shape.get(f"all_points_{axis}", [shape.get(f"c{axis}"), shape.get(axis)])
            points = points if isinstance(points, list) else []
            extent[i] = max([extent[i], *(point for point in points if isinstance(point, (int, float)))])
    return extent[0], extent[1]


def class_of(region: dict, attribute: str) -> str | None:
    """The name of a region's class; of a checkbox, the one that is ticked. None if it has no value."""
    value = _attributes_of(region).get(attribute)
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    if isinstance(value, int) and not isinstance(value, bool):  # written by a script
        value = str(value)
    return value.strip() or None if isinstance(value, str) else None


def attribute_of_classes(path: Path, regions: Sequence[dict]) -> str | None:
    """The attribute that tells the classes; None if no region has a value of any.

    Raises:
        BrokenAnnotation: there are several, and they don't say the same of every region.
    """
    names = sorted({name for region in regions for name in _attributes_of(region)})
    values_by_name = {name: [class_of(region, name) for region in regions] for name in names}
    values_by_name = {name: values for name, values in values_by_name.items() if any(values)}
    if all(values == next(iter(values_by_name.values())) for values in values_by_name.values()):
        return next(iter(values_by_name), None)
    examples = {name: sorted(set(values) - {None})[:3] for name, values in values_by_name.items()}
    advice = f"Say which one tells the class, such as open_dataset(path, attribute={next(iter(values_by_name))!r})."
    raise BrokenAnnotation(path, "the file", "region_attributes", "one attribute", examples, advice)


def names_by_attribute(
    path: Path,
    attribute: str,
    regions: Sequence[dict],
    offered: dict[str, list[str]],
    classes: Sequence[str] | None,
) -> list[str]:
    """The names of the classes: those wanted, else those that the project offers, else those in the file, sorted.

    Raises:
        BrokenAnnotation: no region has this attribute.
    """
    found = {class_of(region, attribute) for region in regions} - {None}
    if regions and not found:
        others = sorted({name for region in regions for name in _attributes_of(region)})
        raise BrokenAnnotation(path, "the file", "region_attributes", f"to find {attribute!r} with a value", others)
    return list(classes or offered.get(attribute) or sorted(found))


def names_without_attribute(path: Path, regions: Sequence[dict], classes: Sequence[str] | None) -> list[str]:
    """The name of the only class, where regions have no attribute for it.

    Raises:
        BrokenAnnotation: there are several to choose from.
    """
    if regions and len(classes or ()) > 1:
        raise BrokenAnnotation(path, "the file", "region_attributes", f"one that tells {', '.join(classes)}", "none")
    return list(classes or ["object"])


def _attributes_of(region: dict) -> dict:
    attributes = region.get("region_attributes")
    return attributes if isinstance(attributes, dict) else {}


# ---- Regions ---------------------------------------------------------------------------------------------------------
def parse_regions(
    entry: dict,
    size: tuple[int, int],
    ids: dict[str, int],
    attribute: str | None,
    where: Where,
    too_small: list[str],
) -> list[tuple[dict, int]]:
    """Checks the regions of an image.

    Args:
        entry: of the image.
        size: (height, width) of the image, pixels.
        ids: {name: id} of the classes.
        attribute: that tells the class; None: all regions are of the only class.
        where: (file, name of the entry), for errors.
        too_small: gets the names of the polygons of less than three points, which are left out.

    Returns:
        [(shape attributes, class id)].

    Raises:
        BrokenAnnotation: a region is broken.
    """
    path, name = where
    regions = field(entry, "regions", (dict, list), "an object or a list of regions", where)
    limits.check_masks(len(regions), *size, where)
    shapes = []
    for i, region in enumerate(regions.values() if isinstance(regions, dict) else regions):
        where = (path, f"{name}, region {i}")
        if not isinstance(region, dict):
            raise BrokenAnnotation(*where, "region", "an object", region)
        shape = field(region, "shape_attributes", dict, "an object", where)
        if not _check_shape(shape, size, where):
            too_small.append(where[1])
            continue
        shown = next(iter(ids)) if attribute is None else class_of(region, attribute)
        if shown not in ids:
            got = _attributes_of(region).get(attribute, "nothing")
            raise BrokenAnnotation(*where, f"region_attributes.{attribute}", f"one of {', '.join(ids)}", got)
        shapes.append((shape, ids[shown]))
    return shapes


def _check_shape(shape: dict, size: tuple[int, int], where: Where) -> bool:
    """Whether a shape has an area; False for a polygon of less than three points, such as a click by mistake."""
    kind = field(shape, "name", str, f"one of {', '.join(SHAPES)}", where)
    if kind not in SHAPES:
        raise BrokenAnnotation(*where, "shape_attributes.name", f"one of {', '.join(SHAPES)}", kind)
    if kind in NUMBERS:
        for name in (*NUMBERS[kind], *({"theta"} & shape.keys())):
            number = field(shape, name, (int, float), "a number", where)
            limits.check_coordinates([number], *size, where, name)
        return True
    ys, xs = (field(shape, f"all_points_{axis}", list, "a list of numbers", where) for axis in "yx")
    if len(ys) != len(xs):
        raise BrokenAnnotation(*where, "all_points_y", f"{len(xs)} numbers, as many as all_points_x", ys)
    for axis, points in (("y", ys), ("x", xs)):
        wrong = [p for p in points if not isinstance(p, (int, float)) or isinstance(p, bool)]
        if wrong:
            raise BrokenAnnotation(*where, f"all_points_{axis}", "numbers", wrong[0])
        limits.check_coordinates(points, *size, where, f"all_points_{axis}")
    limits.check_outline(xs, ys, where, "all_points_x")
    return len(xs) >= 3
