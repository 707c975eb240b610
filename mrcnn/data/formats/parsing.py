"""What the readers of all formats share: JSON files, their fields, numbers for named classes, sizes of images."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, Where, naming

Entry = TypeVar("Entry")
Parsed = TypeVar("Parsed")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenAnnotation: it isn't JSON; the message has line and column.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BrokenAnnotation(path, place, "text", "JSON", error.msg) from error
    except UnicodeDecodeError as error:
        raise BrokenAnnotation(path, f"byte {error.start}", "text", "JSON in UTF-8", str(error)) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise BrokenAnnotation(path, "the file", "text", "JSON", str(error)) from error


def field(entry: dict, name: str, kind: type | tuple[type, ...], expected: str, where: Where) -> Any:
    """Returns entry[name] if it has the expected type.

    Args:
        entry: dict.
        name: the key.
        kind: type, or tuple of types; bool doesn't count as a number.
        expected: description of what is expected, for the error.
        where: (file, name of the entry), for the error.

    Raises:
        BrokenAnnotation: the key is missing, or the value has another type.
    """
    if name not in entry:
        raise BrokenAnnotation(*where, name, expected, "nothing")
    value = entry[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BrokenAnnotation(*where, name, expected, value)
    return value


def parse_all(
    entries: Iterable[Entry],
    parse: Callable[[Entry], Parsed],
    skip_broken: bool,
    where: Callable[[Entry], Where] | None = None,
) -> list[Parsed]:
    """Parses entries; with skip_broken, those that are broken are left out with a warning.

    Args:
        entries: one for each image.
        parse: what is called with each.
        skip_broken: bool.
        where: returns (annotation file, name of the entry), for errors of `parse` that don't name them; None: the
            entries are paths of annotation files.

    Returns:
        [parse(entry) for entry in entries].

    Raises:
        BrokenAnnotation: `parse` failed, in whatever way.
    """
    parsed, broken = [], []
    for entry in entries:
        try:
            with naming(entry) if where is None else naming(*where(entry)):
                parsed.append(parse(entry))
        except BrokenAnnotation as error:
            if not skip_broken:
                raise
            broken.append(error)
    if broken:
        shown = "\n  ".join(str(error) for error in broken[:5]) + ("\n  ..." if len(broken) > 5 else "")
        warnings.warn(f"{len(broken)} images are left out because their annotation is broken:\n  {shown}", stacklevel=3)
    return parsed


def name_classes(
    dataset: Dataset, source: str, found: Iterable[str], classes: Sequence[str] | str | None, path: str | Path
) -> dict[str, int]:
    """Registers the classes of a file. Names that the source has already keep their ids.

    Args:
        dataset: the classes are added to it.
        source: see `Dataset.add_class`.
        found: class names, one for each object.
        classes: names of the classes wanted, in the order of their ids 1, 2, ...; None: those found, sorted.
        path: of the file, for the warning about objects of other classes.

    Returns:
        {name: the source's id} of the classes wanted.
    """
    found = list(found)
    wanted = sorted(set(found)) if classes is None else [classes] if isinstance(classes, str) else list(classes)
    others = Counter(name for name in found if name not in wanted)
    if others:
        counts = ", ".join(f"{name!r} ({count})" for name, count in sorted(others.items()))
        warnings.warn(f"{path}: objects that aren't of the classes {wanted} are left out: {counts}.", stacklevel=3)
    ids = {info["name"]: info["id"] for info in dataset.class_info if info["source"] == source}
    for name in wanted:
        if name not in ids:
            ids[name] = max(ids.values(), default=0) + 1
            dataset.add_class(source, ids[name], name)
    return {name: ids[name] for name in wanted}


def image_size(path: str | Path, where: Where) -> tuple[int, int]:
    """(height, width) in pixels of an image file, of which only the header is read.

    Raises:
        BrokenAnnotation: there is no such file, or it isn't an image.
    """
    if is_url(path):
        raise BrokenAnnotation(*where, "height, width", "pixels, as the image is a URL", "nothing")
    try:
        with Image.open(path) as image:
            limits.check_image_size(image.height, image.width, where)
            return image.height, image.width
    except FileNotFoundError as error:
        raise BrokenAnnotation(*where, "image file", f"to find {path}", "nothing there") from error
    except OSError as error:
        raise BrokenAnnotation(*where, "image file", f"{path} to be an image", str(error)) from error
