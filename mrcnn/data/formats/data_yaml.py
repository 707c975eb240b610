"""What a YOLO `data.yaml` tells: its folder, splits and class names, read without a YAML library.

Such files need little of YAML: a value in the key's line, or a list or map of plain values, in brackets or one a line.
    path: ../datasets/crack           # numbers, text, 'text', "text"
    train: [images/a, images/b]
    val:
      - images/val
    names:
      0: crack
Keys that aren't asked for may hold anything.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mrcnn.data.formats import BrokenAnnotation

QUOTED = re.compile(r"""(?<![^\s\[{,:-])('(?:[^']|'')*'|"(?:[^"\\]|\\.)*")""")
KEY = re.compile(r"""(?P<key>'[^']*'|"[^"]*"|[^\s'"#:\[\]{},-][^:]*?)\s*:(?:\s+(?P<value>.*))?$""")
BRACKETS = {"[": "]", "{": "}"}


def read_data_yaml(path, keys):
    """The values of some keys of a data.yaml.

    Args:
        path: of the file.
        keys: the names of those wanted.

    Returns:
        {key: str, list of str, or dict of str}; "" for keys without a value. Keys that aren't there are left out.

    Raises:
        FileNotFoundError: no such file.
        BrokenAnnotation: a value that isn't as above; says in which line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BrokenAnnotation(path, f"byte {error.start}", "text", "YAML in UTF-8", str(error)) from error
    lines = [_without_comment(line) for line in lines]
    starts = [i for i, line in enumerate(lines) if line and not line[0].isspace() and KEY.match(line)]
    values = {}
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        match = KEY.match(lines[start])
        key = _scalar(match["key"])
        if key in keys:
            block = [(i + 1, line) for i, line in enumerate(lines[start + 1 : end], start + 1) if line.strip()]
            values[key] = _value((match["value"] or "").strip(), block, (path, f"line {start + 1}"), key)
    return values


def _without_comment(line):
    quoted = [match.span() for match in QUOTED.finditer(line)]
    for match in re.finditer(r"(?<!\S)#", line):
        if not any(start <= match.start() < end for start, end in quoted):
            return line[: match.start()].rstrip()
    return line.rstrip()


def _value(text, block, where, key):
    """The value of a key: what stands behind it, and the (number, line)s below it."""
    if text[:1] in BRACKETS:
        whole = " ".join([text, *(line.strip() for _, line in block)])
        if not whole.endswith(BRACKETS[text[0]]):
            raise BrokenAnnotation(*where, key, f"a closing {BRACKETS[text[0]]}", whole)
        items = [item for item in _split(whole[1:-1]) if item]
        entries = [(where[1], item) for item in items]
        return _map(entries, where[0], key) if text[0] == "{" else [_scalar(item) for item in items]
    if text:
        if block:
            raise BrokenAnnotation(where[0], f"line {block[0][0]}", key, "nothing below a value", block[0][1])
        return _scalar(text)
    entries = [(f"line {number}", line.strip()) for number, line in block]
    if entries and all(line == "-" or line.startswith("- ") for _, line in entries):
        return [_scalar(line[1:].strip()) for _, line in entries]
    return _map(entries, where[0], key) if entries else ""


def _map(entries, path, key):
    pairs = {}
    for place, text in entries:
        match = KEY.match(text)
        if not match:
            raise BrokenAnnotation(path, place, key, "name: value, or - value in all lines", text)
        pairs[_scalar(match["key"])] = _scalar(match["value"] or "")
    return pairs


def _split(text):
    """The parts between commas, but for commas in quotes."""
    quoted = [match.span() for match in QUOTED.finditer(text)]
    commas = [m.start() for m in re.finditer(",", text) if not any(a <= m.start() < b for a, b in quoted)]
    return [text[a + 1 : b].strip() for a, b in zip([-1, *commas], [*commas, len(text)])]


def _scalar(text):
    """Plain or quoted text; what YAML takes for numbers, true or null stays as it is written, but for null: ""."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except json.JSONDecodeError:  # an escape that JSON doesn't know
            return text[1:-1]
    return "" if text in ("~", "null") else text
