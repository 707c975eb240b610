"""Code shared by the writers of annotations: images to write, their objects and files, and atomic JSON files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.data.image_reading import UnreadableImage, read_header
from mrcnn.io import replacing


def chosen_images(dataset: Dataset, image_ids: Iterable[int] | None) -> list[int]:
    """The ids of the images to write; None: all.

    Raises:
        ValueError: the dataset isn't prepared, or has no such image.
    """
    if not hasattr(dataset, "num_images"):
        raise ValueError(f"This {type(dataset).__name__} isn't prepared; call prepare() first.")
    wanted = [int(i) for i in (dataset.image_ids if image_ids is None else image_ids)]
    wrong = [i for i in wanted if not 0 <= i < dataset.num_images]
    if wrong:
        raise ValueError(f"There is no image {wrong[0]}; expected image_ids in 0..{dataset.num_images - 1}.")
    return wanted


def with_progress(image_ids: list[int], shown: bool) -> Iterator[int]:
    """The ids, with a progress bar if `shown`."""
    return iter(tqdm(image_ids, desc="Writing", unit="image", disable=not shown))


def read_objects(dataset: Dataset, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Loads the objects of an image that have a pixel.

    Returns:
        masks: [H, W, N] bool.
        class_ids: [N] int32, negative for crowds.

    Raises:
        ValueError: masks and class ids don't fit together, or a class id isn't one of the dataset's.
    """
    masks, class_ids = load_masks(dataset, image_id)
    check_class_ids(class_ids, dataset, image_id)
    masks = masks != 0
    kept = masks.any(axis=(0, 1))
    return masks[..., kept], class_ids[kept]


def file_stem(dataset: Dataset, image_id: int, taken: set[str]) -> str:
    """A name for an image's files, without ending: its file's name, or one made of its id; none of `taken`.

    Args:
        taken: the name is added.
    """
    info = dataset.image_info[image_id]
    own = Path(info["path"]).stem if info["path"] is not None else f"{info['source']}_{info['id']}"
    stem = plain = re.sub(r"[^\w.-]+", "_", own) or "image"
    count = 1
    while stem.lower() in taken:  # file systems that don't tell A from a
        count += 1
        stem = f"{plain}_{count}"
    taken.add(stem.lower())
    return stem


def image_file(dataset: Dataset, image_id: int, size: tuple[int, int], png: Path) -> Path | str:
    """The file that holds an image as its masks refer to it: its own, or else `png`, which is then written.

    An image has no such file if it is drawn by `load_image`, is part of another file, has another size there, or is
    stored rotated, which some readers undo and some don't.

    Args:
        size: (height, width) of the masks, pixels.
        png: where to write it.

    Returns:
        A path, or a URL as str.

    Raises:
        ValueError: the image has another size than the masks.
    """
    path = dataset.image_info[image_id]["path"]
    if path is not None and is_url(path):
        return str(path)
    if path is not None and _is_image(path, size):
        return Path(path)
    image = np.asarray(dataset.load_image(image_id))
    if image.shape[:2] != tuple(size):
        raise ValueError(
            f"Image {image_id} ({path}) has {image.shape[0]} x {image.shape[1]} pixels (height x width), and its masks"
            f" {size[0]} x {size[1]}; expected the same size."
        )
    if image.dtype != np.uint8:
        raise ValueError(f"Image {image_id} ({path}) is {image.dtype}; expected uint8 to write it as a file.")
    while png.exists() and _is_of(dataset, png):  # such as a turned photo: it is left as it is
        png = png.with_name(f"{png.stem}_upright.png")
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    with replacing(png) as unfinished:
        Image.fromarray(image).save(unfinished, format="PNG")
    return png


def _is_image(path: str | Path, size: tuple[int, int]) -> bool:
    try:
        header = read_header(path)
    except (OSError, UnreadableImage):
        return False
    return header.stored == tuple(size) and header.orientation == 1


def _is_of(dataset: Dataset, file: Path) -> bool:
    """Whether a file is one of the dataset's own."""
    paths = (Path(info["path"]) for info in dataset.image_info if info["path"] is not None)
    return any(path.name == file.name and path.resolve() == file.resolve() for path in paths)


def relative_path(file: Path | str, folder: Path) -> str:
    """The path from a folder to a file, with slashes; an absolute one where none leads there; URLs as they are."""
    if is_url(file):
        return str(file)
    file, folder = Path(file).resolve(), Path(folder).resolve()
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return file.as_posix()


def write_json(content: Any, path: str | Path, indent: int | None = None) -> Path:
    """Writes a JSON file through a temporary one, and returns its Path."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
    return Path(path)
