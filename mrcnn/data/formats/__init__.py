"""Annotation formats, one file and one `Dataset` subclass each; here, what they share.

How a broken file is told, and how classes that a format calls by name get numbers.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

from PIL import Image

from mrcnn.data.dataset import is_url


class BrokenAnnotation(ValueError):
    """An annotation that can't be used: which file, which entry of it, which field, what was expected, what is there.

    The same five words are attributes.
    """

    def __init__(self, file, entry, field, expected, got):
        self.file, self.entry, self.field, self.expected, self.got = str(file), entry, field, expected, got
        shown = repr(got)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        super().__init__(f"{file}: {entry}: {field}: expected {expected}, got {shown}.")

    def __reduce__(self):  # exceptions with several arguments need this to come back from worker processes
        return type(self), (self.file, self.entry, self.field, self.expected, self.got)


def read_json(path):
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        BrokenAnnotation: it isn't JSON; says where.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BrokenAnnotation(path, place, "text", "JSON", error.msg) from error
    except UnicodeDecodeError as error:
        raise BrokenAnnotation(path, f"byte {error.start}", "text", "JSON in UTF-8", str(error)) from error


def field(entry, name, kind, expected, where):
    """entry[name], if it is of the kind.

    Args:
        entry: dict.
        name: str, the key.
        kind: type, or tuple of types; bool doesn't count as a number.
        expected: str, for the error.
        where: (file, entry's name), for the error.
    """
    if name not in entry:
        raise BrokenAnnotation(*where, name, expected, "nothing")
    value = entry[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BrokenAnnotation(*where, name, expected, value)
    return value


def keep_whole(entries, parse, skip_broken):
    """[parse(entry) of entries]; a broken one raises, or, with skip_broken, is left out and warned of."""
    parsed, broken = [], []
    for entry in entries:
        try:
            parsed.append(parse(entry))
        except BrokenAnnotation as error:
            if not skip_broken:
                raise
            broken.append(error)
    if broken:
        shown = "\n  ".join(str(error) for error in broken[:5]) + ("\n  ..." if len(broken) > 5 else "")
        warnings.warn(f"{len(broken)} images are left out, as their annotation is broken:\n  {shown}", stacklevel=3)
    return parsed


def name_classes(dataset, source, found, classes, path):
    """Gives the classes of a file numbers. Names that the source has already keep theirs.

    Args:
        dataset: Dataset; the classes are added to it.
        source: str.
        found: names, one an object.
        classes: list of the names wanted, in the order of their ids 1, 2, ...; None: those found, sorted.
        path: of the file, for the warning about objects of other classes.

    Returns:
        {name: the source's id} of the classes wanted.
    """
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


def image_size(path, where):
    """(height, width) in pixels of an image file, of which only the first bytes are read."""
    if is_url(path):
        raise BrokenAnnotation(*where, "height, width", "pixels, as the image is a URL", "nothing")
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError as error:
        raise BrokenAnnotation(*where, "image file", f"to find {path}", "nothing there") from error
    except OSError as error:
        raise BrokenAnnotation(*where, "image file", f"{path} to be an image", str(error)) from error
