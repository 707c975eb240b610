"""Breaks a file: values of JSON, XML, YAML, CSV and text are replaced; bytes of others are flipped, cut, repeated.

`mutate(path, rng)` is deterministic: the same generator state gives the same broken file.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

DEEP = "@deep@"  # stands for what json.dumps can't write: values nested 20,000 times
VALUES = (
    float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e9, 1e-300, 0, -1, 0.5, 2**31, 2**32 + 1, 2**63, 10**30,
    10**400, 10**6, None, True, False, "", " ", "cat", "0", "-1", "nan", "1e999", "a" * 100_000, "\0", "\ud800", "a/b",
    "../../../etc/hostname", "/etc/hostname", "C:\\a\\..\\b", "http://127.0.0.1:9/a.png", "file:///etc/hostname", ".",
    "..", [], {}, [[]], [None], {"size": [10**6, 10**6], "counts": [10**12]}, [[1, 2]], [[0, 0, 1e9, 0, 9, 9]], DEEP,
    "é" * 50, "$\\frac$", "<b>", "'", '"', "a\nb", "1,2", [1] * 1000, {"a": {"b": {"c": 1}}}, "2" * 5000,
)  # fmt: skip


def mutate(path: Path, rng: random.Random) -> str:
    """Breaks a file in place. Returns what was done, in a few words."""
    content = path.read_bytes()
    by_structure = mutate_zip if content.startswith(b"PK\3\4") else STRUCTURED.get(path.suffix.lower())
    if by_structure and rng.random() < 0.75:
        what, content = by_structure(content, rng)
    else:
        what, content = mutate_bytes(content, rng)
    path.write_bytes(content)
    return what


# ---- Bytes -----------------------------------------------------------------------------------------------------------
def mutate_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Flips bits, cuts, repeats, zeroes or inserts bytes."""
    data = bytearray(content)
    kind = rng.choice(("flip", "flip", "flip", "head", "cut", "zero", "insert", "repeat", "empty"))
    # Headers are where sizes and offsets are.
    end = min(len(data), 200) if kind == "head" else len(data)
    if not data or (kind == "empty" and rng.random() < 0.9):
        kind = "insert"
    if kind in ("flip", "head"):
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    place, length = rng.randrange(len(data) + 1), rng.randrange(1, 64)
    if kind == "cut":
        del data[place:]
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "insert":
        data[place:place] = rng.choice((rng.randbytes(length), b"\0" * length, b"\xff" * 8, b"[" * 50_000))
    elif kind == "repeat":
        data[place:place] = data[max(place - length, 0) : place] * rng.choice((1, 2, 200))
    elif kind == "empty":
        data.clear()
    return f"bytes: {kind} at {place}", bytes(data)


def mutate_png(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Flips bits of a chunk and corrects its checksum, so that more than the checksum is tested."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunks.append([content[place + 4 : place + 8], content[place + 8 : place + 8 + length]])
        place += 12 + length
    chunk = rng.choice([chunks[0], rng.choice(chunks)])
    what, chunk[1] = mutate_bytes(chunk[1], rng)
    if rng.random() < 0.1:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    packed = b""
    for name, data in chunks:
        packed += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return f"PNG chunk {chunk[0]!r}: {what}", content[:8] + packed


def mutate_zip(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Breaks a member of a zip file, and writes a whole archive again."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    i = rng.randrange(len(members))
    name, data = members[i]
    kind = rng.choice(("content", "content", "content", "missing", "twice", "name"))
    what = kind
    if kind == "content":
        what, data = STRUCTURED.get(Path(name).suffix, mutate_bytes)(data, rng)
        members[i] = name, data
    elif kind == "missing":
        del members[i]
    elif kind == "twice":
        members += [(name + "2", data)]
    else:
        members[i] = rng.choice(("../" + name, "/" + name, "x/" * 500 + name, "?")), data
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, archive.compression)  # without the time of day
    return f"zip member {name}: {what}", packed.getvalue()


# ---- Structure -------------------------------------------------------------------------------------------------------
def mutate_json(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Replaces, deletes, repeats or moves values and keys of JSON."""
    root = [json.loads(content.decode("utf-8-sig"))]
    places = [(parent, key) for parent, key in _places(root)]
    what = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parent, key = rng.choice(places)
        kind = rng.choice(("replace", "replace", "replace", "delete", "repeat", "copy", "rename"))
        what.append(f"{kind} {key!r}")
        try:
            _change(parent, key, kind, places, rng)
        except (LookupError, TypeError):  # an earlier change took the place away
            continue
    text = json.dumps(root[0] if root else None)
    nested = rng.choice(("[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000))
    return f"JSON: {', '.join(what)}", text.replace(f'"{DEEP}"', nested).encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *_places(node[key]))]


def _change(parent: Any, key: Any, kind: str, places: list, rng: random.Random) -> None:
    if kind == "delete":
        del parent[key]
    elif kind == "repeat" and isinstance(parent[key], list) and len(parent[key]) < 100:
        parent[key] = parent[key] * rng.choice((2, 100, 500))
    elif kind == "copy":
        other, its_key = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[its_key]))
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(("", "a", "\0", str(key) + " ", "x" * 1000))] = parent.pop(key)
    else:
        parent[key] = rng.choice(VALUES)


def mutate_xml(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Replaces, deletes, repeats or nests elements, texts and attributes of XML."""
    if rng.random() < 0.1:
        levels = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
        text = content.decode().replace("<name>", "<name>&a11;", 1)
        return "XML: entity bomb", f'<!DOCTYPE a [<!ENTITY a0 "ha">{levels}]>{text[text.index("<annot") :]}'.encode()
    root = ElementTree.fromstring(content)
    places = [(parent, child) for parent in root.iter() for child in parent]
    parent, child = rng.choice(places)
    kind = rng.choice(("text", "text", "text", "delete", "repeat", "deep", "tag", "attribute"))
    value = rng.choice(VALUES)
    # What XML can't hold would only make the text unreadable, which flipped bytes do as well.
    value = re.sub("[\0-\x08\ud800-\udfff]", "?", value if isinstance(value, str) else str(value)[:1000])
    if kind == "delete":
        parent.remove(child)
    elif kind == "repeat":
        parent.extend([child] * rng.choice((1, 100, 300)))
    elif kind == "tag":
        child.tag = rng.choice(("a", "name", "annotation", "bndbox", "points"))
    elif kind == "attribute" and child.attrib:
        child.set(rng.choice(sorted(child.attrib)), value)
    else:
        child.text = DEEP if kind == "deep" else value
    text = ElementTree.tostring(root, encoding="unicode").replace(DEEP, "<a>" * 20_000 + "</a>" * 20_000)
    return f"XML: {kind} of {child.tag}", text.encode("utf-8")


def mutate_words(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Replaces, deletes or repeats words and lines of text: CSV, YAML, YOLO's labels."""
    text = content.decode("utf-8")
    kind = rng.choice(("word", "word", "word", "line", "lines", "bomb", "deep"))
    lines = text.split("\n")
    i = rng.randrange(len(lines))
    if kind == "word":
        words = [match.span() for match in re.finditer(r"[^\s,:;]+", text)]
        start, end = rng.choice(words or [(0, 0)])
        value = rng.choice(VALUES)
        value = value if isinstance(value, str) else str(value)[:1000] if value != 10**400 else "1" * 400
        text = text[:start] + value + text[end:]
    elif kind == "line":
        lines[i] = rng.choice(("", ",", "0", '"', ":", "0 " * 20_001, lines[0], " " * 10_000 + lines[i]))
        text = "\n".join(lines)
    elif kind == "lines":
        lines[i : i + 1] = [lines[i]] * rng.choice((0, 2, 1000))
        text = "\n".join(lines)
    elif kind == "bomb":
        anchors = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
        text = "\n".join(["a0: &a0 [x, x, x]", *anchors, re.sub(r"(names|train|path):.*", r"\1: *a19", text, count=1)])
    else:
        text += rng.choice(("[" * 2000, "- " * 2000, "{a: " * 2000))
    return f"text: {kind} {i}", text.encode("utf-8", "surrogatepass")


STRUCTURED: dict[str, Callable[[bytes, random.Random], tuple[str, bytes]]] = {
    ".json": mutate_json,
    ".xml": mutate_xml,
    ".txt": mutate_words,
    ".csv": mutate_words,
    ".yaml": mutate_words,
    ".png": mutate_png,
}
