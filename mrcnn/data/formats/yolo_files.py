"""The files of a YOLO dataset: data.yaml, folders of labels, and their lines; see `yolo` for the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mrcnn.data.formats import limits
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, Where, brief
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.image_files import SUFFIXES, image_files
from mrcnn.data.formats.parsing import NAMES_SHOWN
from mrcnn.data.user_warnings import warn

SPLITS = ("train", "val", "test")
NAME_LIST = "classes.txt"  # one name a line, as labelImg and others save it
TOLERANCE = 0.01  # how far a coordinate may be outside of 0..1, as for Ultralytics
Pairs = list[tuple[Path, Path | None]]  # (image, its labels)


# ---- Files -----------------------------------------------------------------------------------------------------------
def read_split(path: Path, split: str, images_dir: str | Path | None) -> tuple[Pairs, dict[int, str]]:
    """[(image, label file)] of a split, and {number: class name}."""
    content = read_yaml(path)
    names = _class_names(content.get("names", ""), path)
    if images_dir is not None:
        return with_labels(image_files(images_dir)), names
    entries = content.get(split) or []
    entries = [entries] if entries and isinstance(entries, str) else entries
    if not entries or not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        there = [name for name in SPLITS if content.get(name)]
        raise BrokenAnnotation(path, "the file", split, "a folder of images", there and f"only {', '.join(there)}")
    root = content.get("path", "")
    if not isinstance(root, str):
        raise BrokenAnnotation(path, "the file", "path", "a folder", root)
    photos: list[Path] = []
    for entry in entries:
        place = _find_place(entry, root, path)
        if not place.is_dir():
            photos += _listed_photos(place, path.parent / root)
            continue
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        folders = {_label_file(photo).parent for photo in inside}
        _warn_of_labels_without_image(inside, (file for folder in sorted(folders) for file in folder.glob("*.txt")))
        photos += inside
    return with_labels(photos), names


class _ShallowLoader(yaml.BaseLoader):
    """Builds only str, list and dict. Refuses deep nesting, as PyYAML checks all open brackets at each character."""

    def fetch_flow_collection_start(self, token_class: type) -> None:
        if self.flow_level == limits.MAX_YAML_DEPTH:
            problem = f"more than {limits.MAX_YAML_DEPTH} brackets in each other"
            raise yaml.scanner.ScannerError(None, None, problem, self.get_mark())
        super().fetch_flow_collection_start(token_class)


def read_yaml(path: Path) -> dict[str, Any]:
    """{key: str, list or dict} of a data.yaml. Values stay as they are written, so that a class may be called "no"."""
    if path.stat().st_size > limits.MAX_YAML_BYTES:
        expected = f"at most {limits.MAX_YAML_BYTES} bytes"
        raise BrokenAnnotation(path, "the file", "size", expected, f"{path.stat().st_size} bytes")
    try:
        content = yaml.load(path.read_bytes(), Loader=_ShallowLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        entry = "the file" if mark is None else f"line {mark.line + 1}"
        raise BrokenAnnotation(path, entry, "text", "YAML", getattr(error, "problem", None) or str(error)) from error
    if not isinstance(content or {}, dict):
        raise BrokenAnnotation(path, "the file", "content", 'keys like "train:" and "names:"', content)
    return {key: "" if value in ("~", "null") else value for key, value in (content or {}).items()}


def _find_place(entry: str, root: str, path: Path) -> Path:
    """The folder of images, or list of images, that an entry of a split in a data.yaml names."""
    # `path` may be meant from elsewhere, but the file mostly is in the dataset's folder. Roboflow has one ../ too many.
    bases = [path.parent / root, path.parent]
    tried = [base / name for base in bases for name in (entry, entry.removeprefix("../"))]
    found = current_access().first(tried, (path, "the file"), "splits")
    if found is None:
        raise BrokenAnnotation(path, "the file", "splits", f"to find {tried[0]}", "nothing there")
    return found


def _listed_photos(file: Path, root: Path) -> list[Path]:
    """The images that a text file lists, one a line."""
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    first = current_access().first
    return [first((file.parent / name, root / name), (file, name), "image") or file.parent / name for name in names]


def read_folder(folder: Path, images_dir: str | Path | None) -> tuple[Pairs, dict[int, str]]:
    """[(image, label file)] of a folder of labels, and {number: class name}, empty if no file lists them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder or data.yaml; expected one of the two.")
    labels = {f.stem: f for f in sorted(folder.glob("*.txt")) if f.name != NAME_LIST}
    images_dir = _swap_last(folder / "x", "labels", "images").parent if images_dir is None else Path(images_dir)
    photos = image_files(images_dir)
    if not labels:
        inside = ", ".join(f.name for f in sorted(folder.iterdir()) if f.is_dir()) or "no folder"
        raise FileNotFoundError(f"{folder} has no text file of labels; it holds {inside}. Give the one with labels.")
    if not photos:
        raise FileNotFoundError(f"{images_dir} has no images; expected those of the labels in {folder}.")
    pairs = [(photo, labels.get(photo.stem)) for photo in photos]
    _warn_of_labels_without_image(photos, labels.values())
    for place in (folder, *folder.resolve().parents[:2]):
        if (place / NAME_LIST).is_file():
            lines = (place / NAME_LIST).read_text(encoding="utf-8").splitlines()
            return pairs, dict(enumerate(line.strip() for line in lines if line.strip()))
        if (place / "data.yaml").is_file():
            return pairs, _class_names(read_yaml(place / "data.yaml").get("names", ""), place / "data.yaml")
    return pairs, {}


def with_labels(photos: Iterable[Path]) -> Pairs:
    pairs = ((photo, _label_file(photo)) for photo in photos)
    return [(photo, label if label.is_file() else None) for photo, label in pairs]


def _label_file(photo: Path) -> Path:
    return _swap_last(photo, "images", "labels").with_suffix(".txt")


def _warn_of_labels_without_image(photos: Sequence[Path], labels: Iterable[Path]) -> None:
    stems = {photo.stem for photo in photos}
    names = [label.name for label in labels if label.stem not in stems]
    if names:
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        warn(f"{photos[0].parent} has no image for {len(names)} text files of labels, which are left out: {shown}.")


def _swap_last(path: Path, old: str, new: str) -> Path:
    """The path with the last of its folders of a name renamed; as it is if it has none."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == old]
    if places:
        parts[places[-1]] = new
    return Path(*parts)


def _class_names(names: Any, path: Path) -> dict[int, str]:
    """{number: class name} of the list or map in a data.yaml; empty if it has none."""
    pairs = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {"": names}
    if names == "":
        return {}
    if not all(str(number).isdecimal() and isinstance(name, str) for number, name in pairs.items()):
        raise BrokenAnnotation(path, "the file", "names", "a list of names, or a map of numbers to names", names)
    return {int(number): name.strip() for number, name in sorted(pairs.items(), key=lambda pair: int(pair[0]))}


# ---- Lines -----------------------------------------------------------------------------------------------------------
def parse_image(photo: Path, label: Path | None, names: dict[int, str]) -> tuple[Path, tuple[int, int], list]:
    """(image, (height, width), [(class number, its numbers [4] or [2 V])])."""
    size = upright_size(photo, (label or photo, "the image"))
    if label is None:
        return photo, size, []
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BrokenAnnotation(label, f"byte {error.start}", "text", "numbers", str(error)) from error
    rows = dict.fromkeys(tuple(line.split()) for line in lines)
    first = {row: i for i, row in reversed([(i, tuple(line.split())) for i, line in enumerate(lines, 1)])}
    limits.check_masks(len(rows), *size, (label, "the file"))
    return photo, size, [_parse_row(row, names, size, (label, f"line {first[row]}")) for row in rows if row]


def _parse_row(
    words: Sequence[str], names: dict[int, str], size: tuple[int, int], where: Where
) -> tuple[int, np.ndarray]:
    """(class number, its other numbers as an array)."""
    try:
        number, *values = (float(word) for word in words)
    except ValueError:
        raise BrokenAnnotation(*where, "line", "numbers", " ".join(words)) from None
    if not number.is_integer() or not 0 <= number < limits.MAX_CLASSES or (names and number not in names):
        whole = f"a whole number of 0 to {limits.MAX_CLASSES}"
        known = f"one of the classes {brief(sorted(names))}" if names else whole
        raise BrokenAnnotation(*where, "class", known, words[0])
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        expected = "a class and the 4 numbers of a box, or x and y of three corners or more"
        raise BrokenAnnotation(*where, "line", expected, f"{len(words)} numbers")
    outside = [word for word, value in zip(words[1:], values) if not -TOLERANCE <= value <= 1 + TOLERANCE]
    if outside:
        raise BrokenAnnotation(*where, "coordinates", "shares of the image's width and height, 0..1", outside[0])
    values = np.array(values)
    if len(values) > 4:
        limits.check_outline(values[::2] * size[1], values[1::2] * size[0], where, "coordinates")
    return int(number), values
