"""What a JSON file is, told by its beginning: a file of gigabytes isn't read whole to find out that it is COCO's.

The beginning of a file is cut behind its last whole value, and the brackets that are open there are closed. So it can
be parsed, and has the form of the whole file, but fewer entries.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HEADS = (1 << 16, 1 << 20, 1 << 24)  # bytes; a longer one is read if the shorter ones don't tell
# Whole strings, brackets, commas; a lone quote is that of a string which goes on behind the end.
TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
CLOSING = {"{": "}", "[": "]"}
COCO_PARTS = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}


def kind_of_json(path):
    """Which annotation tool a JSON file is of.

    Args:
        path: Path of the file.

    Returns:
        kind: "via", "coco", "labelme" or None.
        content: of the beginning of the file; None if it isn't JSON.
    """
    content = None
    for size in HEADS:
        content, is_whole = read_head(path, size)
        kind = kind_of(content)
        if kind or is_whole:
            return kind, content
    return None, content


def read_head(path, size):
    """The content of the first `size` bytes of a JSON file, and whether that is all of it; None if it isn't JSON."""
    with open(path, "rb") as file:
        start = file.read(size + 1)
    is_whole = len(start) <= size
    try:
        text = start[:size].decode("utf-8-sig", errors="strict" if is_whole else "ignore")
        return json.loads(text if is_whole else _closed(text)), is_whole
    except ValueError:  # both of JSON and of UTF-8
        return None, is_whole


def kind_of(content):
    """The kind of a parsed file, see `kind_of_json`; None if that much of it doesn't tell."""
    if isinstance(content, list):
        return "via" if content and _has(content[0], "filename", "regions") else None
    if not isinstance(content, dict):
        return None
    parts = [content.get(part) for part in COCO_PARTS]
    first = [part[0] if isinstance(part, list) and part else None for part in parts]
    if parts == [[], [], []] or any(_has(one, *keys) for one, keys in zip(first, COCO_PARTS.values())):
        return "coco"
    if isinstance(content.get("shapes"), list):
        return "labelme"
    is_via_3 = isinstance(content.get("project"), dict) and {"config", "attribute", "file", "view"} & content.keys()
    if is_via_3 or "_via_img_metadata" in content or "_via_settings" in content:
        return "via"
    return "via" if content and _has(next(iter(content.values())), "filename", "regions") else None


def names_of_images(content, kind, limit=20):
    """File names of the first images in a file of COCO or VIA; may be empty."""
    if kind == "coco":
        entries, key = content.get("images"), "file_name"
    else:
        entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
        entries, key = list(entries.values()) if isinstance(entries, dict) else entries, "filename"
    found = [entry.get(key) for entry in (entries or [])[:limit] if isinstance(entry, dict)]
    return [name for name in found if isinstance(name, str)]


def find_names(path, limit=20):
    """File names of the first images in a COCO file whose beginning has none, found without parsing it."""
    pattern, found, rest = re.compile(rb'"file_name"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")'), [], b""
    with open(Path(path), "rb") as file:
        while len(found) < limit and (block := file.read(HEADS[1])):
            text = rest + block
            matches = list(pattern.finditer(text))
            found += [json.loads(match[1].decode("utf-8", errors="replace")) for match in matches]
            rest = text[max(matches[-1].end() if matches else 0, len(text) - 4096) :]  # a name may lie on the edge
    return found[:limit]


def describe(content):
    """A few words about the content of a JSON file, for a message."""
    if content is None:
        return "not JSON"
    if isinstance(content, dict):
        keys = ", ".join(repr(key) for key in list(content)[:4]) + (", ..." if len(content) > 4 else "")
        return f"an object with {keys}" if content else "an empty object"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if _has(content[0], "image_id", "score"):
            return "detections in COCO's form of results, which are no annotations"
        return f"a list of objects with {', '.join(repr(key) for key in list(content[0])[:4])}"
    return f"a {type(content).__name__}"


def _closed(text):
    """Text, cut behind its last whole value, with its brackets closed."""
    open_brackets, cut, closing = "", 0, ""
    for match in TOKENS.finditer(text):
        token = match[0]
        if token == '"':
            break
        if token in CLOSING:
            open_brackets = CLOSING[token] + open_brackets
        elif token in ("}", "]"):
            if not open_brackets.startswith(token):
                break
            open_brackets = open_brackets[1:]
        elif token != ",":
            continue
        cut, closing = match.start() if token == "," else match.end(), open_brackets
    return text[:cut] + closing


def _has(entry, *keys):
    return isinstance(entry, dict) and all(key in entry for key in keys)
