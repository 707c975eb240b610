"""The beginning of a JSON file, so that a file of gigabytes is recognized without reading all of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ijson

SIZES = (1 << 16, 1 << 20, 1 << 24)  # bytes; more is read if the format isn't clear from less


def growing_heads(path: Path) -> Iterator[Any]:
    """Yields the content of longer and longer beginnings of a JSON file, see `read_head`; the last may be all of it."""
    for size in SIZES:
        content, is_whole = read_head(path, size)
        yield content
        if is_whole:
            return


def read_head(path: Path, size: int) -> tuple[Any, bool]:
    """Reads the content of the first `size` bytes of a JSON file.

    Returns:
        content: as of `json.loads`, but lists and objects end where the bytes end. None if a file that was read to its
            end isn't JSON.
        is_whole: bool, whether the file has no more bytes.
    """
    with open(path, "rb") as file:
        start = file.read(size + 1)
    is_whole = len(start) <= size
    start = start[:size].removeprefix(b"\xef\xbb\xbf")  # the byte order mark
    if is_whole:
        try:
            return json.loads(start.decode("utf-8")), True
        except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested too deeply
            return None, True
    builder = ijson.ObjectBuilder()
    try:
        # Digits at the end could be the first ones of a longer number.
        for event, value in ijson.basic_parse(io.BytesIO(start.rstrip(b"0123456789.eE+-")), use_float=True):
            builder.event(event, value)
    except (ijson.JSONError, ValueError):
        pass  # here the beginning ends, or what is no JSON or UTF-8; what was complete is in the builder
    return builder.value, False


def find_strings(path: Path, key: str, limit: int) -> list[str]:
    """Values of a key in a JSON file, wherever it occurs; at most `limit`, in the order of the file.

    Searches the text without parsing it, for COCO files that list their images after 450 MB of annotations: 0.05 s
    instead of 2.4 s with `ijson.items` for each 50 MB.
    """
    pattern = re.compile(rb'"%s"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")' % key.encode())
    found: list[str] = []
    rest = b""
    with open(path, "rb") as file:
        while len(found) < limit and (block := file.read(SIZES[1])):
            text = rest + block
            matches = list(pattern.finditer(text))
            found += [json.loads(match[1].decode("utf-8", errors="replace")) for match in matches]
            rest = text[max(matches[-1].end() if matches else 0, len(text) - 4096) :]  # a name may continue in the next
    return found[:limit]


def describe(content: Any) -> str:
    """A few words about the content of a JSON file, for an error message.

    Example:

    >>> describe({"images": [], "annotations": []})
    "an object with 'images', 'annotations'"
    """
    if content is None:
        return "not JSON"
    if isinstance(content, dict):
        keys = ", ".join(repr(key) for key in list(content)[:4]) + (", ..." if len(content) > 4 else "")
        return f"an object with {keys}" if content else "an empty object"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if has_keys(content[0], "image_id", "score"):
            return "detections in COCO's results format, which are not annotations"
        return f"a list of objects with {', '.join(repr(key) for key in list(content[0])[:4])}"
    return f"a {type(content).__name__}"


def texts_of(entries: Iterable[Any], key: str, limit: int) -> list[str]:
    """The texts that the first `limit` entries have under a key; entries that aren't objects have none."""
    values = [entry.get(key) for entry in islice(entries, limit) if isinstance(entry, dict)]
    return [value for value in values if isinstance(value, str)]


def has_keys(entry: Any, *keys: str) -> bool:
    """Whether an entry is an object with all of these keys."""
    return isinstance(entry, dict) and all(key in entry for key in keys)
