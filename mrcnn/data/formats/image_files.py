"""Masks kept as pictures: finding the files, and reading the numbers that their pixels stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.data.formats.parsing import BrokenAnnotation

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder):
    """The image files of a folder, sorted by name; hidden ones are left out.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with images.")
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def choose(names, wanted, folder):
    """The names that are wanted, in their order in the folder.

    Args:
        names: list of str, those there are.
        wanted: names, or None for all.
        folder: for the error.

    Raises:
        FileNotFoundError: one isn't there, or there is none at all.
    """
    if wanted is None:
        return list(names)
    wanted = set(wanted)
    missing = sorted(wanted - set(names))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(f"{folder} has no image {shown}; it has {len(names)} others.")
    return [name for name in names if name in wanted]


def read_values(path, where, size=None):
    """The numbers stored in a picture: of a palette the indices, of equal red, green and blue the one value.

    Args:
        path: of the file.
        where: (annotation file, entry's name), for the error.
        size: (height, width) in pixels that it must have, or None.

    Returns:
        [H, W] bool or integers, as stored; alpha is dropped.

    Raises:
        BrokenAnnotation: no picture, of another size, or in colours.
    """
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except FileNotFoundError as error:
        raise BrokenAnnotation(*where, "mask", f"to find {path}", "nothing there") from error
    except (OSError, SyntaxError) as error:  # Pillow's word for a PNG whose parts are damaged
        raise BrokenAnnotation(*where, "mask", f"{path} to be an image", str(error)) from error
    if values.ndim == 3:
        colors = values[..., : 1 if values.shape[-1] == 2 else 3]
        if (colors != colors[..., :1]).any():
            raise BrokenAnnotation(*where, "mask", f"{path} to hold one number a pixel", "colours")
        values = colors[..., 0]
    if values.dtype.kind not in "bui":
        raise BrokenAnnotation(*where, "mask", f"{path} to hold whole numbers", str(values.dtype))
    check_size(path, where, values.shape, size)
    return values


def check_size(path, where, found, expected):
    """Raises BrokenAnnotation if a mask's (height, width) isn't the expected one (None: any)."""
    if expected is not None and tuple(found) != tuple(expected):
        expected = f"{Path(path).name} to be {expected[0]} x {expected[1]} (height x width), as its image"
        raise BrokenAnnotation(*where, "mask", expected, f"{found[0]} x {found[1]}")
