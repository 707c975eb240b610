"""YOLO text files of Ultralytics: one file an image, one object a line; outlines, or boxes alone.

    dataset = YoloSegDataset()
    dataset.load_yolo("crack-seg/data.yaml", split="train")
    dataset.load_yolo("crack-seg/labels/train")
    dataset.prepare()

A file, x and y being shares of the image's width and height:
    <class> <x> <y> <x> <y> <x> <y> ...           the corners of a polygon, three or more
    <class> <centre x> <centre y> <width> <height>  a box; its mask is the whole box
The labels of `.../images/a.jpg` are in `.../labels/a.txt`: the last folder `images` of the path becomes `labels`. Where
there is none, they are beside the image. An image without a text file is one without objects. A line that stands twice
counts once, as for Ultralytics.

An object is one line. If it has several parts, Ultralytics joins their outlines by lines that it goes there and back;
others join holes to the outline in that way. Such bridges are taken out again, and the outlines are filled by the
even-odd rule: parts stay parts, holes stay holes.

data.yaml:  path (the set's folder), train, val, test (folders of images, lists of them, or text files that list
images), names (list, or map from numbers).

Shapes:
    V     corners of a polygon
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mrcnn.data.formats import limits, rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, upright_size
from mrcnn.data.formats.image_files import SUFFIXES, image_files
from mrcnn.data.formats.parsing import name_classes, parse_all
from mrcnn.data.formats.recognition import FILES_READ, FOLDERS_READ, Format, OpenOptions, Place, first_bytes

SPLITS = ("train", "val", "test")
YAML = (".yaml", ".yml")
NAME_LIST = "classes.txt"  # one name a line, as labelImg and others save it
TOLERANCE = 0.01  # what a coordinate may lie outside of 0..1, as for Ultralytics
DECIMALS = 2  # of coordinates in pixels: files have some six digits, so whole pixels become whole again


class YoloSegDataset(UprightDataset):
    """Images annotated in YOLO's form. Call `load_yolo` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "a.txt").write_text("0 0.5 0.5 0.5 0.5")  # a box: centre x, y, width, height
        ...     dataset = YoloSegDataset()
        ...     dataset.load_yolo(folder, images_dir=folder, classes=["cat"])
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, class_ids.tolist(), dataset.class_names
        ((6, 8, 1), [1], ['BG', 'cat'])
    """

    @names_file
    def load_yolo(self, path: str | Path, images_dir: str | Path | None = None,
                  classes: Sequence[str] | str | None = None, split: str | None = None, source: str = "yolo",
                  skip_broken: bool = False, number_names: Sequence[str] | None = None) -> None:  # fmt: skip
        """Adds the images of a data.yaml, or of a folder of labels.

        Args:
            path: data.yaml, a folder that holds one, or a folder of *.txt files.
            images_dir: folder of the images; None: as data.yaml says, or the `images` that belongs to the `labels`.
            classes: list of class names. Where data.yaml or classes.txt tells the names of the numbers: those wanted,
                in the order of their ids 1, 2, ...; objects of other classes are left out, with a warning that counts
                them. Where neither does: the names of the numbers 0, 1, ... . None: all, of names "0", "1", ... where
                they aren't told.
            split: "train", "val" or "test" of data.yaml; None: "train". Of a folder of labels: a folder in it.
            source: see `Dataset.add_class`.
            skip_broken: leave broken images out with a warning, instead of raising.
            number_names: names of the numbers 0, 1, ... where neither data.yaml nor classes.txt tells them, as
                `classes`, but without an effect where one of them does.

        Raises:
            FileNotFoundError: no such file or folder, or none in it.
            BrokenAnnotation: names the file, the line, the field, what was expected and what is there.
        """
        path, classes = Path(path), [classes] if isinstance(classes, str) else classes
        if path.is_dir() and (path / "data.yaml").is_file():
            path = path / "data.yaml"
        if path.suffix.lower() in YAML:
            pairs, names = _of_yaml(path, split or "train", images_dir)
        else:
            pairs, names = _of_folder(path / split if split else path, images_dir)
        if not names and (classes or number_names):
            names, classes = dict(enumerate(classes or number_names)), None
        parsed = parse_all(
            pairs, lambda pair: _parse_image(*pair, names), skip_broken, lambda pair: (pair[1] or pair[0], "the file")
        )
        numbers = [number for *_, rows in parsed for number, _ in rows]
        names = names or {i: str(i) for i in range(max(numbers, default=-1) + 1)}
        unknown = sorted(set(classes or ()) - set(names.values()))
        if unknown:
            raise BrokenAnnotation(path, "names", "class", f"to find {unknown[0]!r}", list(names.values()))
        wanted = list(names.values()) if classes is None else classes
        ids = name_classes(self, source, [names[number] for number in numbers], wanted, path)
        for photo, (height, width), rows in parsed:
            own = [(ids[names[number]], values) for number, values in rows if names[number] in ids]
            self.add_image(source, photo.name, str(photo), height=height, width=width, rows=own)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool, one a line, and [N] int32 class ids. Objects without a pixel are left out."""
        info = self.image_info[image_id]
        if "rows" not in info:
            return super().load_mask(image_id)
        height, width, rows = info["height"], info["width"], info["rows"]
        masks = np.zeros((len(rows), height, width), bool)
        for mask, (_, values) in zip(masks, rows):
            mask[:] = draw(values, height, width)
        class_ids = np.array([self.map_source_class_id(f"{info['source']}.{own_id}") for own_id, _ in rows], np.int32)
        kept = masks.any(axis=(1, 2))
        return np.moveaxis(masks[kept], 0, -1), class_ids[kept]


# ---- From lines to masks ---------------------------------------------------------------------------------------------
def draw(values, height, width):
    """The numbers of a line, without the class, as a mask [height, width] bool."""
    if len(values) == 4:
        x, y, w, h = values * (width, height, width, height)
        return rasterize.rectangle(height, width, y - h / 2, x - w / 2, h, w)
    points = np.around(values.reshape(-1, 2) * (width, height), DECIMALS)
    return rasterize.rings(height, width, [(ring[:, 1], ring[:, 0]) for ring in split_at_bridges(points)])


def split_at_bridges(points: np.ndarray) -> list[np.ndarray]:
    """Splits a polygon at lines that it goes there and back between two outlines, in a time linear in its corners.

    Args:
        points: [V, 2] float, with `DECIMALS` decimals.

    Returns:
        List of [V', 2]; the polygon itself if it has no bridge. Lines that lead to no other outline are left in it.
    """
    corners = list(map(tuple, points.tolist()))
    if len(set(corners)) == len(corners):
        return [points]
    pieces = _cut_at_doubled_edges(corners)
    has_area = [_has_area([item for item in piece if isinstance(item, tuple)]) for piece in pieces]
    beyond, total = list(map(int, has_area)), sum(has_area)  # pieces with an area: behind each cut, and all
    rings: list[list[tuple]] = []
    for i, piece in enumerate(pieces):  # pieces come before the one that they were cut from
        ring: list[tuple] = []
        for item in piece:
            if isinstance(item, tuple):
                ring.append(item)
                continue
            beyond[i] += beyond[item]
            if not 0 < beyond[item] < total:  # a line that leads to nothing
                ring += [*rings[item], ring[-1]]
                has_area[i] |= has_area[item]
                has_area[item] = False
        rings.append(ring)
    return [np.array(ring) for ring, is_outline in zip(rings, has_area) if is_outline] or [points]


def _cut_at_doubled_edges(corners: list[tuple]) -> list[list]:
    """Cuts a closed polygon at every edge that it goes there and back.

    Returns:
        The pieces, the one with the start last. Each is a list of corners and, after the corner where another piece was
        cut off, the index of this piece.
    """
    pieces: list[list] = []
    path: list = [corners[0]]
    places: dict[tuple, list[int]] = {}  # of the ends of an edge in `path`
    for start, end in zip(corners, [*corners[1:], corners[0]]):
        if start == end:
            continue
        if there := places.get((end, start)):
            piece = path[there[-1] :]
            ends = [item for item in piece if isinstance(item, tuple)]
            for edge in zip([end, *ends], ends):
                places[edge].pop()
            del path[-len(piece) :]
            path.append(len(pieces))
            pieces.append(piece)
        else:
            places.setdefault((start, end), []).append(len(path))
            path.append(end)
    if len(path) > 1 and path[-1] == path[0]:
        path.pop()
    return [*pieces, path]


def _has_area(ring: list[tuple]) -> bool:
    units = [[round(value * 10**DECIMALS) for value in corner] for corner in ring]  # whole numbers: the sum is exact
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(units, [*units[1:], units[0]])) != 0


# ---- Recognising and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    found = [file for file in place.files(*YAML) if b"\nnames:" in b"\n" + first_bytes(file)]
    usual = [file for file in found if file.stem in ("data", "dataset")]
    if found:
        return usual if len(usual) == 1 else found
    labels = place.inside("labels") or place
    return [folder.path for folder in (labels, *labels.folders[:FOLDERS_READ]) if _has_labels(folder)]


def _has_labels(place: Place) -> bool:
    """Whether a folder has text files that start with the number of a class and at least four numbers in 0..1."""
    for file in place.files(".txt")[:FILES_READ] if place.path.is_dir() else []:
        words = first_bytes(file).strip().split(b"\n")[0].split()
        if len(words) >= 5 and words[0].isdigit() and all(re.fullmatch(rb"[01]?\.?\d*(e-\d+)?", w) for w in words[1:]):
            return True
    return False


def _open(path: Path, options: OpenOptions) -> YoloSegDataset:
    dataset = YoloSegDataset()
    dataset.load_yolo(
        path,
        classes=options.classes,
        split=options.split,
        skip_broken=options.skip_broken,
        number_names=options.names,
    )
    return dataset


def _splits(path: Path) -> list[str]:
    if path.suffix.lower() not in YAML:
        return []
    content = _read_yaml(path)
    return [split for split in SPLITS if content.get(split)]


FORMAT = Format(
    name="YOLO-seg",
    signs='a yaml file with "names:", or *.txt with lines "class x y x y ...", here or in labels/',
    loader="YoloSegDataset().load_yolo(file_or_labels_folder)",
    find=_find,
    open=_open,
    splits=_splits,
)


# ---- Files -----------------------------------------------------------------------------------------------------------
def _of_yaml(path, split, images_dir):
    """[(image, label file)] of a split, and {number: class name}."""
    content = _read_yaml(path)
    names = _names(content.get("names", ""), path)
    if images_dir is not None:
        return _with_labels(image_files(images_dir)), names
    entries = content.get(split) or []
    entries = [entries] if entries and isinstance(entries, str) else entries
    if not entries or not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        there = [name for name in SPLITS if content.get(name)]
        raise BrokenAnnotation(path, "the file", split, "a folder of images", there and f"only {', '.join(there)}")
    root = content.get("path", "")
    if not isinstance(root, str):
        raise BrokenAnnotation(path, "the file", "path", "a folder", root)
    photos = []
    for entry in entries:
        photos += _photos(entry, root, path)
    return _with_labels(photos), names


def _read_yaml(path):
    """{key: str, list or dict} of a data.yaml. Values stay as they are written, so that a class may be called "no"."""
    if path.stat().st_size > limits.MAX_YAML_BYTES:
        expected = f"at most {limits.MAX_YAML_BYTES} bytes"
        raise BrokenAnnotation(path, "the file", "size", expected, f"{path.stat().st_size} bytes")
    try:
        content = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)  # makes nothing but str, list and dict
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        entry = "the file" if mark is None else f"line {mark.line + 1}"
        raise BrokenAnnotation(path, entry, "text", "YAML", getattr(error, "problem", None) or str(error)) from error
    if not isinstance(content or {}, dict):
        raise BrokenAnnotation(path, "the file", "content", 'keys like "train:" and "names:"', content)
    return {key: "" if value in ("~", "null") else value for key, value in (content or {}).items()}


def _photos(entry, root, path):
    """The images of an entry of a split: of a folder and those in it, or of a list in a text file."""
    # `path` may be meant from elsewhere, but the file mostly lies in the set's folder. Roboflow writes a ../ too many.
    bases = [path.parent / root, path.parent]
    tried = [base / name for base in bases for name in (entry, entry.removeprefix("../"))]
    found = next((place for place in tried if place.exists()), None)
    if found is None:
        raise BrokenAnnotation(path, "the file", "splits", f"to find {tried[0]}", "nothing there")
    if found.is_dir():
        return sorted(p for p in found.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    names = [line.strip() for line in found.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [next((p for p in (found.parent / name, path.parent / root / name) if p.exists()), found.parent / name)
            for name in names]  # fmt: skip


def _of_folder(folder, images_dir):
    """[(image, label file)] of a folder of labels, and {number: class name}, empty if nothing tells."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder or data.yaml; expected one of the two.")
    labels = {f.stem: f for f in sorted(folder.glob("*.txt")) if f.name != NAME_LIST}
    images_dir = _swap_last(folder / "x", "labels", "images").parent if images_dir is None else Path(images_dir)
    photos = {f.stem: f for f in image_files(images_dir)}
    if not labels:
        inside = ", ".join(f.name for f in sorted(folder.iterdir()) if f.is_dir()) or "no folder"
        raise FileNotFoundError(f"{folder} has no text file of labels; it holds {inside}. Give the one with labels.")
    stems = sorted(labels.keys() | photos.keys())
    pairs = [(photos.get(stem, images_dir / f"{stem}.jpg"), labels.get(stem)) for stem in stems]
    for place in (folder, *folder.resolve().parents[:2]):
        if (place / NAME_LIST).is_file():
            lines = (place / NAME_LIST).read_text(encoding="utf-8").splitlines()
            return pairs, dict(enumerate(line.strip() for line in lines if line.strip()))
        if (place / "data.yaml").is_file():
            return pairs, _names(_read_yaml(place / "data.yaml").get("names", ""), place / "data.yaml")
    return pairs, {}


def _with_labels(photos):
    pairs = ((photo, _swap_last(photo, "images", "labels").with_suffix(".txt")) for photo in photos)
    return [(photo, label if label.is_file() else None) for photo, label in pairs]


def _swap_last(path, old, new):
    """The path with the last of its folders of a name renamed; as it is if it has none."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == old]
    if places:
        parts[places[-1]] = new
    return Path(*parts)


def _names(names, path):
    """{number: class name} of the list or map in a data.yaml; empty if it has none."""
    pairs = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {"": names}
    if names == "":
        return {}
    if not all(str(number).isdecimal() and isinstance(name, str) for number, name in pairs.items()):
        raise BrokenAnnotation(path, "the file", "names", "a list of names, or a map of numbers to names", names)
    return {int(number): name.strip() for number, name in sorted(pairs.items(), key=lambda pair: int(pair[0]))}


# ---- Lines -----------------------------------------------------------------------------------------------------------
def _parse_image(photo, label, names):
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


def _parse_row(words, names, size, where):
    """(class number, its other numbers as an array)."""
    try:
        number, *values = (float(word) for word in words)
    except ValueError:
        raise BrokenAnnotation(*where, "line", "numbers", " ".join(words)) from None
    if not number.is_integer() or number < 0 or (names and number not in names):
        known = f"one of the classes {sorted(names)}" if names else "a whole number of 0 or more"
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
