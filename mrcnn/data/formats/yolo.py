"""YOLO text files of Ultralytics: one file an image, one object a line; outlines, or boxes alone.

    dataset = YoloSegDataset()
    dataset.load_yolo("crack-seg/data.yaml", split="train")
    dataset.load_yolo("crack-seg/labels/train")
    dataset.prepare()

A file, x and y being shares of the image's width and height:
    <class> <x> <y> <x> <y> <x> <y> ...           the corners of a polygon, three or more
    <class> <center x> <center y> <width> <height>  a box; its mask is the whole box
The labels of `.../images/a.jpg` are in `.../labels/a.txt`: the last folder `images` of the path becomes `labels`. Where
there is none, they are beside the image. An image without a text file is one without objects; a text file without an
image is left out with a warning. A repeated line counts once, as for Ultralytics.

An object is one line. If it has several parts, Ultralytics joins their outlines by bridges, lines that the polygon
follows in both directions; other tools join holes to the outline in this way. Bridges are removed again, and the
outlines are filled by the even-odd rule, so that parts and holes are preserved.

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

from mrcnn.data.formats import rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset
from mrcnn.data.formats.parsing import name_classes, parse_all, warn_of_boxes
from mrcnn.data.formats.recognition import FILES_READ, FOLDERS_READ, Format, OpenOptions, Place, first_bytes
from mrcnn.data.formats.yolo_darknet import DARKNET, darknet_splits, is_darknet, read_darknet
from mrcnn.data.formats.yolo_files import SPLITS, parse_image, read_folder, read_split, read_yaml

YAML = (".yaml", ".yml")
DECIMALS = 2  # of coordinates in pixels: files have some six digits, so whole pixels become whole again


class YoloSegDataset(UprightDataset):
    """Images annotated in YOLO's form. Call `load_yolo` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "a.txt").write_text("0 0.5 0.5 0.5 0.5")  # a box: center x, y, width, height
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
            path: data.yaml, darknet's obj.data, a folder that holds a data.yaml, or a folder of *.txt files.
            images_dir: folder of the images; None: as data.yaml says, or the `images` that belongs to the `labels`.
            classes: list of class names. Where data.yaml or classes.txt names the numbers: those wanted,
                in the order of their ids 1, 2, ...; objects of other classes are left out, with a warning that counts
                them. Where neither does: the names of the numbers 0, 1, ... . None: all, of names "0", "1", ... where
                there is no list.
            split: "train", "val" or "test" of data.yaml; None: "train". Of a folder of labels: a folder in it.
            source: see `Dataset.add_class`.
            skip_broken: skip broken images with a warning, instead of raising.
            number_names: names of the numbers 0, 1, ... where neither data.yaml nor classes.txt lists them, as
                `classes`, but without an effect where one of them does.

        Raises:
            FileNotFoundError: no such file or folder, or none in it.
            BrokenAnnotation: names the file, the line, the field, what was expected and what was found.
        """
        path, classes = Path(path), [classes] if isinstance(classes, str) else classes
        if path.is_dir() and (path / "data.yaml").is_file():
            path = path / "data.yaml"
        if path.suffix.lower() == DARKNET:
            pairs, names = read_darknet(path, split or "train")
        elif path.suffix.lower() in YAML:
            pairs, names = read_split(path, split or "train", images_dir)
        else:
            pairs, names = read_folder(path / split if split else path, images_dir)
        if not names and (classes or number_names):
            names, classes = dict(enumerate(classes or number_names)), None
        parsed = parse_all(
            pairs, lambda pair: parse_image(*pair, names), skip_broken, lambda pair: (pair[1] or pair[0], "the file")
        )
        numbers = [number for *_, rows in parsed for number, _ in rows]
        names = names or {i: str(i) for i in range(max(numbers, default=-1) + 1)}
        unknown = sorted(set(classes or ()) - set(names.values()))
        if unknown:
            raise BrokenAnnotation(path, "names", "class", f"to find {unknown[0]!r}", list(names.values()))
        wanted = list(names.values()) if classes is None else classes
        ids = name_classes(self, source, [names[number] for number in numbers], wanted, path)
        warn_of_boxes(path, sum(len(values) == 4 for *_, rows in parsed for _, values in rows), len(numbers))
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
def draw(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The numbers of a line, without the class, as a mask [height, width] bool."""
    if len(values) == 4:
        x, y, w, h = values * (width, height, width, height)
        return rasterize.rectangle(height, width, y - h / 2, x - w / 2, h, w)
    points = np.around(values.reshape(-1, 2) * (width, height), DECIMALS)
    return rasterize.rings(height, width, [(ring[:, 1], ring[:, 0]) for ring in split_at_bridges(points)])


def split_at_bridges(points: np.ndarray) -> list[np.ndarray]:
    """Splits a polygon at its bridges, lines between two outlines that it follows in both directions, in linear time.

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
    """Cuts a closed polygon at every edge that it follows in both directions.

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


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    found = [file for file in place.files(*YAML) if b"\nnames:" in b"\n" + first_bytes(file)]
    found += [file for file in place.files(DARKNET) if is_darknet(file)]
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
    if path.suffix.lower() == DARKNET:
        return darknet_splits(path)
    if path.suffix.lower() not in YAML:
        return []
    content = read_yaml(path)
    return [split for split in SPLITS if content.get(split)]


FORMAT = Format(
    name="YOLO-seg",
    signs='a yaml file with "names:", darknet\'s obj.data, or *.txt with lines "class x y x y ...", here or in labels/',
    loader="YoloSegDataset().load_yolo(file_or_labels_folder)",
    find=_find,
    open=_open,
    splits=_splits,
)
