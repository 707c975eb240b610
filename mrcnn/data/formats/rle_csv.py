"""CSV files with run lengths, as in Kaggle's competitions: Airbus ships, Severstal steel, Sartorius cells, HuBMAP, ...

    dataset = RleCsvDataset()
    dataset.load_rle_csv("airbus/train_ship_segmentations_v2.csv", "airbus/train_v2")
    dataset.prepare()

The file has one row for each object. Its columns, by any of these names:
    image      ImageId, image_id, id, img, or ImageId_ClassId ("a.jpg_3"); with or without the file's ending
    runs       EncodedPixels, annotation, rle, rle_mask, encoding: "start length start length ..."; pixels
               are counted from 1. Empty: the image has no object.
    class      ClassId, class, cell_type, label; without one, all objects are of one class
    size       width and height; without them, those of the image
Pixels are counted down the columns, as in most Kaggle competitions, but along the rows if the column is called
"annotation" (Sartorius). `by_rows` overrides this.

A row is an object. Where a file has one row for each class, as Severstal's, all defects of a class are one object.
If masks of an image overlap, a warning counts such images.

Shapes:
    R     runs of a row
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits, shapes
from mrcnn.data.formats.broken import BrokenAnnotation, Where, names_file
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.parsing import parse_all
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder, first_bytes
from mrcnn.data.user_warnings import warn

RUNS = ("encodedpixels", "annotation", "rle", "rle_mask", "encoding")  # all names in lower case
RUNS_BY_ROWS = ("annotation",)
IMAGE = ("imageid", "image_id", "id", "img", "imageid_classid", "image_label")
IMAGE_AND_CLASS = ("imageid_classid", "image_label")  # "a.jpg_3"
CLASS = ("classid", "class", "cell_type", "label")


class Row(NamedTuple):
    """A row of the file: its line, and the texts in it; `size` has (height, width)."""

    line: int
    class_name: str
    runs: str
    size: tuple[str | None, str | None]


class RleCsvDataset(shapes.ShapeDataset):
    """Images annotated in a CSV file of run lengths. Call `load_rle_csv` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     file = Path(folder) / "train.csv"
        ...     _ = file.write_text("ImageId,EncodedPixels\\na.png,1 2 7 2")  # two pixels of each of two columns
        ...     dataset = RleCsvDataset()
        ...     dataset.load_rle_csv(file, class_name="ship")
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks[:3, :3, 0].astype(int).tolist(), dataset.class_names
        ([[1, 1, 0], [1, 1, 0], [0, 0, 0]], ['BG', 'ship'])
    """

    @names_file
    def load_rle_csv(
        self,
        path: str | Path,
        images_dir: str | Path | None = None,
        source: str = "rle_csv",
        classes: Sequence[str] | None = None,
        class_name: str = "object",
        by_rows: bool | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Adds the images that a file names.

        Args:
            path: of the CSV file.
            images_dir: folder of the images; None: searched for near the file.
            source: see `Dataset.add_class`.
            classes: class names wanted, in the order of their ids 1, 2, ...; None: those found, sorted. If the file has
                numbers for classes, names of these numbers, from 0 or 1 on, whichever is the first in the file.
            class_name: the class of all objects of a file that has no classes.
            by_rows: whether pixels are counted along the rows; False: down the columns; None: if it is Sartorius'.
            skip_broken: skip broken images with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such file, or none of its images is found.
            BrokenAnnotation: names the file, the line, the column, what was expected and what was found.
        """
        path = Path(path)
        columns, by_image = _read_rows(path, class_name)
        by_rows = columns["runs"].lower() in RUNS_BY_ROWS if by_rows is None else by_rows
        if images_dir is None:
            names = [name for own_id in list(by_image)[:NAMES_READ] for name in _file_names(own_id)]
            images_dir = find_images_folder(path, names, FORMAT.loader)
        photos = PhotoFolder(images_dir)

        def parse(item: tuple[str, list[Row]]) -> tuple[shapes.ParsedImage, bool]:
            return _parse_image(*item, path, photos, by_rows)

        parsed = parse_all(by_image.items(), parse, skip_broken, lambda item: (path, f"image {item[0]}"))
        overlapping = [image.own_id for image, overlaps in parsed if overlaps]
        if overlapping:
            shown = ", ".join(overlapping[:3]) + (", ..." if len(overlapping) > 3 else "")
            warn(f"{path}: in {len(overlapping)} of {len(parsed)} images, rows share pixels: {shown}.")
        images = [image for image, _ in parsed]
        if classes is not None and "class" in columns:
            images, classes = _with_names(images, list(classes), path)
        self.add_parsed(images, source, classes if classes is not None or "class" in columns else [class_name], path)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    found = [file for file in place.files(".csv") if _is_mine(file)]
    found = [file for file in found if "sample_submission" not in file.name.lower()] or found
    return [file for file in found if file.name.lower().startswith("train")] or found


def _is_mine(file: Path) -> bool:
    names = first_bytes(file).split(b"\n")[0].decode("utf-8", "replace").removeprefix("\ufeff").lower()
    header = [name.strip().strip('"') for name in names.split(",")]
    return bool(set(header) & set(RUNS)) and bool(set(header) & set(IMAGE))


def _open(path: Path, options: OpenOptions) -> RleCsvDataset:
    dataset = RleCsvDataset()
    one = options.classes or options.names or []
    dataset.load_rle_csv(
        path,
        classes=options.classes,
        class_name=one[0] if len(one) == 1 else "object",
        skip_broken=options.skip_broken,
    )
    return dataset


FORMAT = Format(
    name="run lengths in CSV",
    signs="a CSV file with columns such as ImageId and EncodedPixels",
    loader="RleCsvDataset().load_rle_csv(file, images_dir)",
    find=_find,
    open=_open,
)


# ---- The file --------------------------------------------------------------------------------------------------------
def _read_rows(path: Path, class_name: str) -> tuple[dict[str, str], dict[str, list[Row]]]:
    """The names of the columns that are used, and {image id: its rows that have runs}."""
    csv.field_size_limit(limits.MAX_CELL)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = _columns(reader.fieldnames or [], path)
        by_image: dict[str, list[Row]] = {}
        for line, entry in enumerate(reader, 2):
            own_id = (entry[columns["image"]] or "").strip()
            name = (entry[columns["class"]] or "").strip() if "class" in columns else class_name
            if columns["image"].lower() in IMAGE_AND_CLASS:
                own_id, _, name = own_id.rpartition("_")
            if not own_id:
                raise BrokenAnnotation(path, f"line {line}", columns["image"], "the name of an image", own_id)
            rows = by_image.setdefault(own_id, [])
            runs = (entry[columns["runs"]] or "").strip()
            if runs and runs.lower() != "nan":
                sides = tuple(entry[columns[side]] if side in columns else None for side in ("height", "width"))
                rows.append(Row(line, name, runs, sides))
    if columns["image"].lower() in IMAGE_AND_CLASS:
        columns["class"] = columns["image"]
    return columns, by_image


def _columns(header: Sequence[str], path: Path) -> dict[str, str]:
    """{meaning: name of its column}."""
    by_name = {name.strip().lower(): name for name in header if name}
    columns = {}
    for meaning, names in (
        ("image", IMAGE),
        ("runs", RUNS),
        ("class", CLASS),
        ("height", ("height",)),
        ("width", ("width",)),
    ):
        found = [by_name[name] for name in names if name in by_name]
        if found:
            columns[meaning] = found[0]
        elif meaning in ("image", "runs"):
            raise BrokenAnnotation(path, "line 1", "columns", f"one called {' or '.join(names)}", list(header))
    return columns


def _file_names(own_id: str) -> list[str]:
    """Names that the file of an image may have."""
    return [own_id] if own_id.lower().endswith(SUFFIXES) else [own_id + suffix for suffix in SUFFIXES]


def _with_names(
    images: list[shapes.ParsedImage], classes: list[str], path: Path
) -> tuple[list[shapes.ParsedImage], list[str]]:
    """The images with names instead of numbers of classes, and the classes wanted."""
    found = {one.name for image in images for one in image.objects}
    if found & set(classes) or not found or not all(name.isdigit() for name in found):
        return images, classes
    first = 0 if "0" in found else 1
    names = {str(number): name for number, name in enumerate(classes, first)}
    unknown = sorted(found - set(names), key=int)
    if unknown:
        raise BrokenAnnotation(path, "the file", "classes", f"names of the classes up to {unknown[-1]}", classes)
    renamed = [
        image._replace(objects=[one._replace(name=names[one.name]) for one in image.objects]) for image in images
    ]
    return renamed, classes


# ---- Rows ------------------------------------------------------------------------------------------------------------
def _parse_image(
    own_id: str, rows: list[Row], path: Path, photos: PhotoFolder, by_rows: bool
) -> tuple[shapes.ParsedImage, bool]:
    """The image, and whether its rows share pixels."""
    where = (path, f"image {own_id}")
    photo = next(filter(None, map(photos.find, _file_names(own_id))), None)
    if photo is None:
        photo = photos.locate(_file_names(own_id)[0], where)  # says what is missing
    stated = [int(text) if text else None for text in (rows[0].size if rows else (None, None))]
    height, width = upright_size(photo, where, stated)
    limits.check_masks(len(rows), height, width, where)
    objects, all_starts, all_lengths = [], [], []
    for row in rows:
        row_where = (path, f"line {row.line}")
        if not row.class_name:
            raise BrokenAnnotation(*row_where, "class", "the class's name", row.class_name)
        starts, lengths = _parse_runs(row.runs, height * width, row_where)
        objects.append(
            shapes.ParsedObject(row.class_name, False, [shapes.from_runs(starts, lengths, height, width, by_rows)])
        )
        all_starts.append(starts)
        all_lengths.append(lengths)
    return shapes.ParsedImage(own_id, photo, (height, width), objects), _runs_overlap(all_starts, all_lengths)


def _parse_runs(text: str, pixels: int, where: Where) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first pixels from 0 [R], lengths [R])."""
    words = text.split()
    wrong = next((word for word in words if not re.fullmatch(r"\d{1,15}", word)), None)
    if wrong is not None or len(words) % 2:
        got = f"{len(words)} words" if wrong is None else wrong
        raise BrokenAnnotation(*where, "runs", "pairs of whole numbers: start length start length ...", got)
    numbers = np.array(words, np.int64)
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    outside = (starts < 0) | (lengths < 1) | (starts + lengths > pixels)
    if outside.any():
        i = int(np.argmax(outside))
        expected = f"runs of the image's {pixels} pixels, counted from 1"
        raise BrokenAnnotation(*where, "runs", expected, f"{starts[i] + 1} {lengths[i]}")
    return starts, lengths


def _runs_overlap(starts: list[NDArray[np.int64]], lengths: list[NDArray[np.int64]]) -> bool:
    """Whether a run of one row shares a pixel with one of another; runs of one row that overlap count as well."""
    if not starts:
        return False
    begins, sizes = np.concatenate(starts), np.concatenate(lengths)
    order = np.argsort(begins, kind="stable")
    ends = (begins + sizes)[order]
    return bool((begins[order][1:] < np.maximum.accumulate(ends)[:-1]).any())
