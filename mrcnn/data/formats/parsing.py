"""Code shared by the readers of all formats: JSON files, their fields, numbers for named classes, sizes of images."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from tqdm import tqdm

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where, naming, record
from mrcnn.data.image_reading import ImageHeader, UnreadableImage, read_header
from mrcnn.data.user_warnings import collecting, warn, warn_of_each

Entry = TypeVar("Entry")
Parsed = TypeVar("Parsed")

THREADS, CHUNK = 8, 64  # that check images, and images that one checks at a time
QUIET_UP_TO = 1000  # images that are checked without a progress bar
PROGRESS_AFTER = 1.0  # seconds until it is shown
NAMES_SHOWN = 200  # of missing image files, in an error


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


def read_csv(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) of the lines of a CSV file that aren't empty.

    Raises:
        BrokenAnnotation: it isn't CSV in UTF-8.
    """
    csv.field_size_limit(limits.MAX_CELL)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenAnnotation(path, "the file", "text", "CSV in UTF-8", str(error)) from error


def read_xml(path: str | Path) -> ElementTree.Element:
    """Reads an XML file and returns its root.

    Raises:
        BrokenAnnotation: there is no such file, or it isn't XML; the message has line and column.
    """
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise BrokenAnnotation(path, "the file", "content", "an XML file", "nothing there") from error
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BrokenAnnotation(path, f"line {line}, column {column + 1}", "text", "XML", str(error)) from error


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
    limit: int | None = None,
) -> list[Parsed]:
    """Parses the entries of a file, several at a time, and collects what is broken.

    Args:
        entries: one for each image.
        parse: makes of an entry what is returned for it. It runs in several threads, because most of the time is spent
            waiting for image files whose size it reads.
        skip_broken: skip broken entries with a warning, instead of raising.
        where: returns (annotation file, name of the entry), for errors of `parse` that don't name them; None: the
            entries are paths of annotation files.
        limit: stop when so many are parsed; None: parse all.

    Returns:
        What `parse` returned, in the order of the entries.

    Raises:
        BrokenAnnotation: `parse` failed for an entry, or with `skip_broken` for all of them. The message counts the
            broken entries, and names each missing image file.
    """
    entries = list(entries)
    parsed: list[Parsed] = []
    broken: list[BrokenAnnotation] = []
    messages: list[str] = []
    quiet = len(entries) <= QUIET_UP_TO
    bar = tqdm(total=len(entries), desc="Checking images", unit="image", delay=PROGRESS_AFTER, disable=quiet)
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    with bar, closing(_in_threads(lambda chunk: _attempt_all(parse, chunk, where), chunks)) as attempts:
        for results, warned in attempts:
            parsed += [result for result in results if not isinstance(result, BrokenAnnotation)]
            broken += [result for result in results if isinstance(result, BrokenAnnotation)]
            messages += warned
            bar.update(len(results))
            if limit is not None and len(parsed) >= limit:
                break
    warn_of_each(messages)
    if broken and (not skip_broken or not parsed):
        raise _with_all(broken, len(entries), skip_broken)
    if broken and not record(broken):
        shown = "\n  ".join(str(error) for error in broken[:5]) + ("\n  ..." if len(broken) > 5 else "")
        warn(f"{len(broken)} images are left out because their annotation is broken:\n  {shown}")
    return parsed[:limit]


def _in_threads(function: Callable[[Entry], Parsed], items: Sequence[Entry]) -> Iterator[Parsed]:
    """Yields function(item) in the order of the items; after it is closed, no further items are started."""
    if len(items) < 2:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt_all(
    parse: Callable[[Entry], Parsed], entries: Sequence[Entry], where: Callable[[Entry], Where] | None
) -> tuple[list[Parsed | BrokenAnnotation], list[str]]:
    """What `parse` returned for each entry, or its error; and the warnings."""
    results: list[Parsed | BrokenAnnotation] = []
    with collecting() as messages:
        for entry in entries:
            try:
                with naming(entry) if where is None else naming(*where(entry)):
                    results.append(parse(entry))
            except BrokenAnnotation as error:
                results.append(error)
    return results, messages


def _with_all(broken: list[BrokenAnnotation], count: int, skip_broken: bool) -> BrokenAnnotation:
    """The first error, with a summary of the others and what `skip_broken` would do."""
    first, missing = broken[0], [Path(error.photo).name for error in broken if isinstance(error, MissingPhoto)]
    others = [str(error) for error in broken[1:] if not isinstance(error, MissingPhoto)]
    lines = []
    if len(missing) > 1 or (missing and others):
        shown = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
        lines.append(f"{len(missing)} of {count} images have no image file: {shown}.")
    if others:
        lines.append(f"{len(others)} more of {count} images are broken:")
        lines += [f"  {text}" for text in others[:5]] + ["  ..."] * (len(others) > 5)
    if len(broken) < count:
        lines.append(f"skip_broken=True leaves {'this image' if len(broken) == 1 else 'these images'} out.")
    elif skip_broken:
        lines.append("All images are broken, so skip_broken=True would leave none.")
    first.advice = (first.advice + ("\n" if len(lines) > 1 else " ") + "\n".join(lines)).strip(" ")
    first.others = broken[1:]
    return first


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
    limits.check_classes(wanted, path)
    among = set(wanted)
    others = Counter(name for name in found if name not in among)
    if others:
        counts = ", ".join(f"{name!r} ({count})" for name, count in sorted(others.items()))
        warn(f"{path}: objects that aren't of the classes {wanted} are left out: {counts}.")
    warn_of_similar_names(wanted, path)
    ids = {info["name"]: info["id"] for info in dataset.class_info if info["source"] == source}
    for name in wanted:
        if name not in ids:
            ids[name] = max(ids.values(), default=0) + 1
            dataset.add_class(source, ids[name], name)
    return {name: ids[name] for name in wanted}


def warn_of_similar_names(names: Iterable[str], path: str | Path) -> None:
    """Warns about class names that are equal, or differ only in upper and lower case, spaces, hyphens and underscores.

    They are usually one class with a typing error, which the network would have to distinguish.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"[\s_-]+", " ", name.strip()).casefold(), []).append(name)
    groups = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    if groups:
        warn(f"{path}: class names that differ little, or not at all, are different classes: {'; '.join(groups)}.")


def warn_of_boxes(path: str | Path, boxes: int, count: int) -> None:
    """Warns about objects, `boxes` of `count`, that are annotated with a box only."""
    if boxes:
        warn(f"{path}: {boxes} of {count} objects have only a box, which is taken as the mask.")


def warn_of_small_shapes(path: str | Path, names: Sequence[str]) -> None:
    """Warns about shapes that are left out because they have too few points to have an area."""
    if names:
        shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        warn(f"{path}: {len(names)} shapes have too few points and are left out: {shown}.")


def image_header(path: str | Path, where: Where) -> ImageHeader:
    """The header of an image file.

    Raises:
        BrokenAnnotation: there is no such file, or it isn't a supported image.
    """
    if is_url(path):
        raise BrokenAnnotation(*where, "height, width", "pixels, as the image is a URL", "nothing")
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise MissingPhoto(*where, "image file", path) from error
    except (OSError, UnreadableImage) as error:
        raise BrokenAnnotation(*where, "image file", f"{path} to be an image", str(error)) from error


def image_size(path: str | Path, where: Where) -> tuple[int, int]:
    """(height, width) in pixels of the stored pixels of an image file. Raises as `image_header`."""
    return image_header(path, where).stored
