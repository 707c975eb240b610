"""Writes datasets as YOLO text files, in which an object is one polygon; see `yolo` for the format.

An object of several parts, or with holes, has several outlines. They are joined by bridges: lines that the polygon
follows in both directions. `YoloSegDataset` removes them again; Ultralytics draws them, as it draws its own.

Shapes:
    V     corners of an outline
    mask  [H, W] bool
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import writers
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.yolo import SPLITS, draw
from mrcnn.data.user_warnings import warn
from mrcnn.io import replacing

SUBPIXELS = 4  # from a pixel to the next, for outlines around thin parts; a pixel is 3 wide, then comes a gap
DIGITS = 8  # of a coordinate, a share of the image's width: 0.01 pixels of the largest images


def save_yolo(
    dataset: Dataset,
    folder: str | Path,
    image_ids: Iterable[int] | None = None,
    split: str = "train",
    progress: bool = False,
) -> Path:
    """Writes a dataset as a split of a YOLO dataset; `YoloSegDataset` reads the same masks, pixel for pixel.

    Images are copied to images/<split>, because YOLO finds labels by the path of the image. The format has no crowds:
    they are left out with a warning. Of two objects of one class with the same mask, readers keep one.

    Args:
        dataset: a prepared Dataset.
        folder: where to write; an existing data.yaml gets one more split, if it has the same classes.
        image_ids: ids of the images wanted; None: all.
        split: "train", "val" or "test".
        progress: whether to show a progress bar.

    Returns:
        Path of the data.yaml.

    Raises:
        ValueError: the dataset isn't prepared, its masks don't fit their images, or the folder has images of this split
            or other classes already.

    Example:
        >>> import tempfile
        >>> dataset = Dataset()
        >>> dataset.load_image = lambda image_id: np.zeros((5, 8, 3), np.uint8)
        >>> dataset.load_mask = lambda image_id: (np.eye(5, 8, dtype=bool)[..., None], np.array([1]))
        >>> dataset.add_class("drawn", 1, "line")
        >>> dataset.add_image("drawn", 1, path=None)
        >>> dataset.prepare()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data_yaml = save_yolo(dataset, folder)
        ...     print((data_yaml.parent / "labels" / "train" / "drawn_1.txt").read_text())
        0 0 0 0.5 0.8 0.5 0.8
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
    folder = Path(folder)
    wanted = writers.chosen_images(dataset, image_ids)
    content = _yaml_content(folder / "data.yaml", [str(info["name"]) for info in dataset.class_info[1:]], split)
    images, labels = _make_folders(folder, split)
    taken: set[str] = set()
    crowds = 0
    for image_id in writers.with_progress(wanted, progress):
        masks, class_ids = writers.read_objects(dataset, image_id)
        stem = writers.file_stem(dataset, image_id, taken)
        _copy_image(dataset, image_id, masks.shape[:2], images, stem)
        rows = [row_of(masks[..., i], class_id) for i, class_id in enumerate(class_ids.tolist()) if class_id > 0]
        crowds += len(class_ids) - len(rows)
        with replacing(labels / f"{stem}.txt") as unfinished:
            unfinished.write_text("\n".join(rows), encoding="utf-8")
    if crowds:
        warn(f"{folder}: {crowds} crowds are left out; YOLO files have none.")
    with replacing(folder / "data.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder / "data.yaml"


def _make_folders(folder: Path, split: str) -> tuple[Path, Path]:
    """The new folders of images and labels."""
    images, labels = folder / "images" / split, folder / "labels" / split
    if images.is_dir() and any(images.iterdir()):
        raise ValueError(f"{images} has files already; expected an empty folder, or none.")
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    return images, labels


def _yaml_content(path: Path, names: list[str], split: str) -> dict:
    """The content of a data.yaml, with the splits that it has already."""
    numbered = dict(enumerate(names))
    content = yaml.safe_load(path.read_bytes()) if path.is_file() else {}
    if not isinstance(content, dict) or content.get("names", numbered) != numbered:
        raise ValueError(f"{path} has other classes: {content}; expected {numbered}. Write to another folder.")
    return {**content, split: f"images/{split}", "names": numbered}


def _copy_image(dataset: Dataset, image_id: int, size: tuple[int, int], folder: Path, stem: str) -> None:
    png = folder / f"{stem}.png"
    file = writers.image_file(dataset, image_id, size, png)
    if not isinstance(file, Path) or file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file} can't be copied to {folder}; expected a file {', '.join(SUFFIXES)}.")
    if file != png:
        with replacing(png.with_suffix(file.suffix)) as unfinished:
            shutil.copyfile(file, unfinished)


# ---- From masks to rows ----------------------------------------------------------------------------------------------
def row_of(
    mask: NDArray[np.bool_], class_id: int, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> str:
    """The line of an object that isn't empty.

    Args:
        mask: [h, w] bool, the image or a part of it that has all of the object.
        class_id: from 1.
        corner: (y, x), where `mask` begins in the image, pixels.
        size: (height, width) of the image; None: that of `mask`.

    Raises:
        ValueError: no polygon is read as exactly this mask.
    """
    (y, x), (height, width) = corner, mask.shape if size is None else size
    for around in (False, True):
        polygon = join_outlines(outlines(mask, around, corner)) / (width, height)
        words = [f"{value:.{DIGITS}g}" for value in polygon.ravel()]
        drawn = draw(np.array(words, np.float64), height, width)
        if np.array_equal(drawn[y : y + mask.shape[0], x : x + mask.shape[1]], mask):
            return " ".join([str(class_id - 1), *words])
    raise ValueError(f"A mask of {np.count_nonzero(mask)} pixels can't be written as a polygon; write COCO instead.")


def outlines(mask: NDArray[np.bool_], around: bool, corner: tuple[int, int] = (0, 0)) -> list[NDArray[np.float64]]:
    """Outlines of all parts and holes of a mask.

    Args:
        mask: [H, W] bool, not all False.
        around: False: through the centers of the outer pixels, which makes few corners, but no area where a part is one
            pixel thin. True: around these centers, so that pixels that touch at a corner are separate parts.
        corner: (y, x), where `mask` begins in the image, pixels.

    Returns:
        List of [V, (x, y)] float, pixels, not outside of the image; V may be 1 or 2 if not `around`.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    small = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    found, _ = cv2.findContours(_enlarge_mask(small) if around else small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(ring[:, 0] - 1) / SUBPIXELS if around else ring[:, 0] for ring in found]
    return [np.maximum(ring + (corner[1] + columns[0], corner[0] + rows[0]), 0) for ring in rings]


def _enlarge_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask of subpixels: 3 x 3 of each pixel, and those between it and its neighbors if these are set as well."""
    large = mask.repeat(SUBPIXELS, axis=0).repeat(SUBPIXELS, axis=1)
    beside, below = np.roll(large, -1, axis=1), np.roll(large, -1, axis=0)  # first subpixels of the next pixels
    large[:, SUBPIXELS - 1 :: SUBPIXELS] &= beside[:, SUBPIXELS - 1 :: SUBPIXELS]
    large[SUBPIXELS - 1 :: SUBPIXELS] &= below[SUBPIXELS - 1 :: SUBPIXELS]
    large[-1] = large[:, -1] = 0
    return large


def join_outlines(rings: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Joins outlines to one polygon, each by a bridge to the next one, between corners that are near each other.

    Args:
        rings: [V, 2] float each.

    Returns:
        [V, 2] float, three or more corners.

    Example:
        >>> square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
        >>> join_outlines([square, square + 9]).astype(int).tolist()
        [[0, 0], [4, 0], [4, 4], [9, 9], [13, 9], [13, 13], [9, 13], [9, 9], [4, 4], [0, 4]]
    """
    first, *others = rings
    going, coming = [], []  # the polygon up to the last ring, and the way back, last piece first
    current, is_closed = first, False
    for following in others:
        start = np.argmin(np.abs(current - following[0]).sum(axis=1))
        end = np.argmin(np.abs(following - current[start]).sum(axis=1))
        going.append(current[: start + 1])
        coming.append(np.concatenate([current[start:], current[:1]]) if is_closed else current[start:])
        current, is_closed = np.roll(following, -end, axis=0), True
    closed = [current, current[:1]] if is_closed else [current]
    polygon = np.concatenate([*going, *closed, *reversed(coming)])
    return np.concatenate([polygon, np.repeat(polygon[-1:], max(3 - len(polygon), 0), axis=0)])
