"""M2NIST: 5000 small gray images with up to three handwritten digits each, in NumPy files.

    dataset = M2nistDataset()
    dataset.load_m2nist("m2nist.zip", start=0, stop=4000)
    dataset.prepare()

The folder, or in the zip file:
    combined.npy   [M, H, W] uint8, the images
    segmented.npy  [M, H, W], a label map: 0-9 the digit, 10 background; or, as Kaggle has it, [M, H, W, 11], a channel
                   of 0 and 1 for each digit and for the background
    bbox.txt       optional, a line for each image, "0<tab>12,18,36,40,2<tab>33,27,53,51,9": number of the image, and
                   x1,y1,x2,y2,digit of each object

The mask of an object is the part of the map that has its digit. If an image has a digit twice, the boxes of bbox.txt
separate the two; without that file, boxes around the connected parts do. The boxes of bbox.txt are 2 pixels larger than
the digit on every side, and 23 digits whose stroke is broken have a box for each piece. So boxes of one digit that
together are no larger than a digit (20 pixels in MNIST) are one object. M2NIST has 10,260 objects, the same ones with
and without bbox.txt.

Shapes:
    M        images of the files
    N        objects of an image; B boxes of equal digits in it
    mask     [H, W, N] bool
    digits   [H, W] uint16, bit d is set where digit d is
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.parsing import parse_all
from mrcnn.data.formats.recognition import Format, OpenOptions, Place

IMAGES, LABELS, BOXES = "combined.npy", "segmented.npy", "bbox.txt"
BACKGROUND = 10
CHUNK = 1 << 24  # bytes read at a time
BLOCK = 500  # images whose channels are in memory at a time
DIGIT = 20  # pixels, the larger side of a digit of MNIST
MARGIN = 2  # pixels between a digit and its box in bbox.txt


class M2nistDataset(Dataset):
    """Images with digits, classes "0" to "9" with ids 1 to 10. Call `load_m2nist` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> labels = np.full((1, 8, 8), 10)
        >>> labels[0, 2:6, 3:5] = 7
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "combined.npy", np.zeros((1, 8, 8), np.uint8))
        ...     np.save(Path(folder) / "segmented.npy", labels)
        ...     dataset = M2nistDataset()
        ...     dataset.load_m2nist(folder)
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, dataset.class_names[class_ids[0]]
        ((8, 8, 1), '7')
    """

    @names_file
    def load_m2nist(
        self,
        path: str | Path,
        start: int = 0,
        stop: int | None = None,
        source: str = "m2nist",
        skip_broken: bool = False,
    ) -> None:
        """Adds images start, start + 1, ..., stop - 1; their ids are their numbers in the file.

        Args:
            path: the folder, the zip file, or combined.npy with the other files beside it.
            start, stop: numbers of the first image and of the one after the last; stop None: all that follow.
            source: see `Dataset.add_class`.
            skip_broken: leave images whose boxes are broken out with a warning, instead of raising.

        Raises:
            FileNotFoundError: a file isn't there.
            ValueError: there are no images start to stop.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        folder = _folder_of(path)
        images, digits = _read_arrays(folder, start, stop)
        lines = _read_lines(folder)
        place = folder / BOXES
        if lines is not None and len(lines) < start + len(images):
            raise BrokenAnnotation(place, "the file", "lines", f"one an image, {start + len(images)}", len(lines))

        def parse(i: int) -> tuple[int, np.ndarray | None]:
            return i, None if lines is None else _parse_line(lines[start + i], digits[i], place, start + i)

        for digit in range(BACKGROUND):
            self.add_class(source, digit + 1, str(digit))
        height, width = images.shape[1:]
        for i, boxes in parse_all(range(len(images)), parse, skip_broken, lambda i: (place, f"image {start + i}")):
            self.add_image(
                source, start + i, str(folder / IMAGES), height=height, width=width, pixels=images[i],
                digits=digits[i], boxes=boxes,
            )  # fmt: skip

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, three equal channels."""
        info = self.image_info[image_id]
        if "pixels" not in info:
            return super().load_image(image_id)
        return np.repeat(info["pixels"][..., None], 3, axis=-1)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool and [N] int32 class ids, by digit. Objects without a pixel are left out."""
        info = self.image_info[image_id]
        if "digits" not in info:
            return super().load_mask(image_id)
        layers, found = [], []
        for digit in range(BACKGROUND):
            layer = info["digits"] >> digit & 1 != 0
            if layer.any():
                boxes = boxes_of_parts(layer) if info["boxes"] is None else _boxes_of_digit(info["boxes"], digit)
                if len(boxes) > limits.MAX_PARTS:
                    where = (info["path"], f"image {info['id']}", f"digit {digit}")
                    raise BrokenAnnotation(*where, f"at most {limits.MAX_PARTS} boxes or parts", len(boxes))
                parts = split_by_boxes(layer, join_boxes(boxes, DIGIT))
                layers += parts
                found += [self.map_source_class_id(f"{info['source']}.{digit + 1}")] * len(parts)
        masks = np.stack(layers, axis=-1) if layers else np.zeros((info["height"], info["width"], 0), bool)
        return masks, np.array(found, np.int32)


def _boxes_of_digit(boxes: np.ndarray, digit: int) -> np.ndarray:
    """The boxes of bbox.txt of a digit, without their margin: [B, (x1, y1, x2, y2)]."""
    boxes = boxes[boxes[:, 4] == digit, :4] + [MARGIN, MARGIN, -MARGIN, -MARGIN]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return boxes


def split_by_boxes(layer: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """The objects of one digit: a pixel belongs to the box whose middle is nearest, measured in sizes of the box.

    Args:
        layer: [H, W] bool, not all False.
        boxes: [B, (x1, y1, x2, y2)] pixels.

    Returns:
        At most B masks [H, W] bool.
    """
    if len(boxes) == 1:
        return [layer]
    ys, xs = np.nonzero(layer)
    nearest, owner = np.full(len(ys), np.inf), np.zeros(len(ys), int)  # [pixels]
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        away = np.maximum(abs(2 * ys - (y1 + y2 - 1)) / (y2 - y1), abs(2 * xs - (x1 + x2 - 1)) / (x2 - x1))
        owner[away < nearest] = i
        nearest = np.minimum(nearest, away)
    parts = np.zeros((len(boxes), *layer.shape), bool)
    parts[owner, ys, xs] = True
    return [part for part in parts if part.any()]


def boxes_of_parts(layer: np.ndarray) -> np.ndarray:
    """Boxes around the connected parts of a mask [H, W] bool, corners counting as connected: [B, (x1, y1, x2, y2)]."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(layer.astype(np.uint8), connectivity=8)
    x, y, width, height = stats[1:, :4].T
    return np.stack([x, y, x + width, y + height], axis=1)


def join_boxes(boxes: np.ndarray, largest: int) -> np.ndarray:
    """Joins two boxes that together are at most `largest` wide and high, as long as there are two such boxes.

    Args:
        boxes: [B, (x1, y1, x2, y2)] pixels.
        largest: pixels.

    Returns:
        [at most B, (x1, y1, x2, y2)].
    """
    while len(boxes) > 1:
        low = np.minimum(boxes[:, None, :2], boxes[:, :2])  # [B, B, (x1, y1)] of each pair
        high = np.maximum(boxes[:, None, 2:], boxes[:, 2:])
        pairs = np.argwhere(np.triu((high - low).max(axis=-1) <= largest, k=1))
        if not len(pairs):
            break
        i, j = pairs[0]
        boxes = np.concatenate([np.delete(boxes, [i, j], axis=0), [[*low[i, j], *high[i, j]]]])
    return boxes


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    if place.path.is_file():
        return [place.path] if place.path.name == IMAGES or is_archive(place.path) else []
    if IMAGES in place.entries and LABELS in place.entries:
        return [place.path]
    return [file for file in place.files(".zip") if is_archive(file)]


def _open(path: Path, options: OpenOptions) -> M2nistDataset:
    if options.classes is not None:
        raise ValueError(f"{path} is M2NIST, whose classes are the digits; leave classes={options.classes!r} out.")
    dataset = M2nistDataset()
    dataset.load_m2nist(path, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="M2NIST",
    signs="combined.npy and segmented.npy, or a zip file with them",
    loader="M2nistDataset().load_m2nist(path)",
    find=_find,
    open=_open,
)


# ---- Parts of the files ----------------------------------------------------------------------------------------------
def _folder_of(path: str | Path) -> Path:
    """The folder or zip file that holds the arrays."""
    path = Path(path)
    if path.name == IMAGES and not path.is_dir():
        return path.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder or a zip file with {IMAGES} and {LABELS}.")
    return path


@contextmanager
def _open_member(folder: Path, name: str) -> Iterator[IO[bytes] | None]:
    """Opens a file of the folder or zip file for reading; None if it isn't there."""
    if folder.is_dir():
        if not (folder / name).is_file():
            yield None
            return
        with open(folder / name, "rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(folder) as archive:
            members = [member for member in archive.namelist() if member.split("/")[-1] == name]
            if not members:
                yield None
                return
            with archive.open(min(members, key=len)) as file:
                yield file
    except zipfile.BadZipFile as error:
        raise BrokenAnnotation(folder, name, "content", "a whole zip file", str(error)) from error


def _read_arrays(folder: Path, start: int, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(images start to stop [n, H, W] uint8, their digits [n, H, W] uint16)."""
    with _open_member(folder, IMAGES) as file:
        shape, dtype = _read_header(file, folder, IMAGES)
        if len(shape) != 3 or dtype != np.uint8:
            raise BrokenAnnotation(folder, IMAGES, "array", "[images, height, width] uint8", f"{shape} {dtype}")
        stop = shape[0] if stop is None else stop
        if not 0 <= start < stop <= shape[0]:
            raise ValueError(f"start={start}, stop={stop}: {folder / IMAGES} has images 0 to {shape[0] - 1}.")
        images = _read_rows(file, folder, IMAGES, shape, dtype, start, stop)
    with _open_member(folder, LABELS) as file:
        own_shape, dtype = _read_header(file, folder, LABELS)
        if own_shape not in (shape, (*shape, BACKGROUND + 1)) or dtype.kind not in "buif":
            expected = f"{list(shape)} digits, or {[*shape, BACKGROUND + 1]} channels"
            raise BrokenAnnotation(folder, LABELS, "array", expected, f"{own_shape} {dtype}")
        digits = np.zeros(images.shape, np.uint16)
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            labels = _read_rows(file, folder, LABELS, own_shape, dtype, first, last, skip=first == start)
            digits[first - start : last - start] = (_as_bits if labels.ndim == 3 else _pack_channels)(labels, folder)
    return images, digits


def _read_header(file: IO[bytes] | None, folder: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Reads (shape, dtype) of an array file, up to its first number."""
    if file is None:
        raise FileNotFoundError(f"{folder} has no {name}; expected {IMAGES} and {LABELS}.")
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # others are for headers of more than 64 kB, and may promise 4 GB
            raise ValueError(f"it has version {version}, expected (1, 0)")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise BrokenAnnotation(folder, name, "header", "a NumPy array file", str(error)) from error
    if any(side < 1 for side in shape) or math.prod(shape) * dtype.itemsize > limits.MAX_ARRAY_BYTES:
        expected = f"1 to {limits.MAX_ARRAY_BYTES} bytes"
        raise BrokenAnnotation(folder, name, "shape", expected, f"{shape} {dtype}")
    if by_columns or dtype.hasobject:
        raise BrokenAnnotation(folder, name, "array", "numbers, row by row", "by columns" if by_columns else str(dtype))
    return shape, dtype


def _read_rows(
    file: IO[bytes],
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    start: int,
    stop: int,
    skip: bool = True,
) -> np.ndarray:
    """Reads entries start to stop of an array. skip: the file is at its first number, not at that of `start`."""
    size = int(np.prod(shape[1:])) * dtype.itemsize
    file.seek(start * size if skip else 0, 1)
    content = _read_bytes(file, (stop - start) * size)
    if len(content) != (stop - start) * size:
        raise BrokenAnnotation(folder, name, "content", f"{(stop - start) * size} bytes", f"{len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(stop - start, *shape[1:])


def _read_bytes(file: IO[bytes], count: int) -> bytes:
    """The next bytes, at most `count`. Uses memory for bytes that are there, not for those that the header promises."""
    blocks = []
    while count and (block := file.read(min(CHUNK, count))):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


def _as_bits(labels: np.ndarray, folder: Path) -> np.ndarray:
    """[n, H, W] uint16 of a label map."""
    if labels.min() < 0 or labels.max() > BACKGROUND or (labels.dtype.kind == "f" and (labels % 1).any()):
        expected = f"whole numbers from 0 to {BACKGROUND}"
        raise BrokenAnnotation(folder, LABELS, "values", expected, f"{labels.min()} to {labels.max()}")
    bit = np.append(1 << np.arange(BACKGROUND), 0).astype(np.uint16)
    return bit[labels.astype(np.uint8)]


def _pack_channels(channels: np.ndarray, folder: Path) -> np.ndarray:
    """[n, H, W] uint16 of a channel for each digit; a pixel can belong to two digits."""
    if not ((channels == 0) | (channels == 1)).all():
        raise BrokenAnnotation(folder, LABELS, "values", "0 and 1", f"{channels.min()} to {channels.max()}")
    digits = np.zeros(channels.shape[:3], np.uint16)
    for digit in range(BACKGROUND):
        digits |= (channels[..., digit] != 0).astype(np.uint16) << digit
    return digits


def _read_lines(folder: Path) -> list[str] | None:
    """The lines of bbox.txt; None if it isn't there."""
    with _open_member(folder, BOXES) as file:
        if file is None:
            return None
        content = _read_bytes(file, limits.MAX_UNPACKED_BYTES + 1)
    if len(content) > limits.MAX_UNPACKED_BYTES:
        raise BrokenAnnotation(folder, BOXES, "content", f"at most {limits.MAX_UNPACKED_BYTES} bytes", "more")
    return content.decode("utf-8", errors="replace").splitlines()


def _parse_line(line: str, digits: np.ndarray, place: Path, number: int) -> np.ndarray:
    """[objects, (x1, y1, x2, y2, digit)] int of the line of an image; its digits must be those of the map."""
    where = (place, f"image {number}")
    first, *objects = line.split("\t")
    if first.strip() != str(number):
        raise BrokenAnnotation(*where, "number", f"{number}, as there is a line for each image", first)
    try:
        boxes = np.array([[int(text) for text in one.split(",")] for one in objects], int).reshape(-1, 5)
        limits.check_coordinates(boxes.ravel(), *digits.shape, where, "boxes")
    except (ValueError, OverflowError) as error:
        raise BrokenAnnotation(*where, "boxes", "x1,y1,x2,y2,digit in whole numbers, after tabs", line) from error
    if (boxes[:, 0] >= boxes[:, 2]).any() or (boxes[:, 1] >= boxes[:, 3]).any():
        raise BrokenAnnotation(*where, "boxes", "x1 < x2 and y1 < y2", line)
    shown = np.flatnonzero(int(np.bitwise_or.reduce(digits, axis=None)) >> np.arange(BACKGROUND) & 1)
    if set(boxes[:, 4]) != set(shown):
        raise BrokenAnnotation(*where, "digits", f"those of {LABELS}, {shown.tolist()}", boxes[:, 4].tolist())
    return boxes


def is_archive(path: str | Path) -> bool:
    """Whether a file is a zip file with M2NIST's arrays in it; only its table of contents is read."""
    path = Path(path)
    if path.suffix.lower() != ".zip" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {member.split("/")[-1] for member in archive.namelist()}
    return {IMAGES, LABELS} <= names
