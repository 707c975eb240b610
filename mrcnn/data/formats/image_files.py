"""Folders of images, and masks stored as images: finding the files, and reading the numbers in their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.image_reading import UnreadableImage, read_image, read_stored_values

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name, without hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with images.")
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def choose(names: Sequence[str], wanted: Iterable[str] | None, folder: str | Path) -> list[str]:
    """The names wanted, in their order in the folder.

    Args:
        names: those in the folder.
        wanted: some of them; None: all.
        folder: for the error.

    Raises:
        FileNotFoundError: one of those wanted isn't in the folder.
    """
    if wanted is None:
        return list(names)
    wanted = set(wanted)
    missing = sorted(wanted - set(names))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(f"{folder} has no image {shown}; it has {len(names)} others.")
    return [name for name in names if name in wanted]


def read_values(path: str | Path, where: Where, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads the number of each pixel of an image: of a palette image the index, of a gray image the value.

    Args:
        path: of the file.
        where: (annotation file, name of the entry), for the error.
        size: (height, width) in pixels that it must have; None: any.

    Returns:
        [H, W] bool or integers, as stored; alpha is dropped.

    Raises:
        BrokenAnnotation: the file isn't an image, has another size, or colors.
    """
    values = _read_pixels(path, where, read_stored_values)
    if values.ndim == 3:
        colors = values[..., : 1 if values.shape[-1] == 2 else 3]
        if (colors != colors[..., :1]).any():
            raise BrokenAnnotation(*where, "mask", f"{path} to hold one number a pixel", "colors")
        values = colors[..., 0]
    if values.dtype.kind not in "bui":
        raise BrokenAnnotation(*where, "mask", f"{path} to hold whole numbers", str(values.dtype))
    check_size(path, where, values.shape, size)
    return values


def read_colors(path: str | Path, where: Where, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads the color of each pixel of an image, of a palette image as the palette has it.

    Args:
        path, where, size: as in `read_values`.

    Returns:
        [H, W] int32, 0xRRGGBB.

    Raises:
        BrokenAnnotation: the file isn't an image, or has another size.
    """
    red, green, blue = np.moveaxis(_read_pixels(path, where, read_image)[..., :3].astype(np.int32), -1, 0)
    colors = red << 16 | green << 8 | blue
    check_size(path, where, colors.shape, size)
    return colors


def _read_pixels(path: str | Path, where: Where, read: Callable[[str | Path], np.ndarray]) -> np.ndarray:
    """The pixels of an image, read by a function of `image_reading`."""
    try:
        return read(path)
    except FileNotFoundError as error:
        raise BrokenAnnotation(*where, "mask", f"to find {path}", "nothing there") from error
    except (OSError, UnreadableImage) as error:
        raise BrokenAnnotation(*where, "mask", f"{path} to be an image", str(error)) from error


def check_size(path: str | Path, where: Where, found: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    """Raises BrokenAnnotation if a mask's (height, width) isn't the expected one; None: any."""
    if expected is not None and tuple(found) != tuple(expected):
        expected = f"{Path(path).name} to be {expected[0]} x {expected[1]} (height x width), as its image"
        raise BrokenAnnotation(*where, "mask", expected, f"{found[0]} x {found[1]}")
