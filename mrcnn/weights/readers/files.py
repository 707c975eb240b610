"""What a file seems to be by its first bytes, and messages about files that can't be read as weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"
EXTENSIONS = (".h5", ".keras", ".pth", ".pt", ".pkl", ".safetensors")

# How files begin that are often mistaken for weights, and what to tell the user.
MISTAKEN_FOR_WEIGHTS = (
    (b"<", "a web page saved under this name. Download the file itself, not the page that links to it"),
    (b"version https://git-lfs", "a Git LFS pointer, which only says where the file is stored. Run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive. Unpack it first"),
    (b"{", "JSON text. The weights are in another file"),
)


def first_bytes(path: str) -> bytes:
    """Returns the first 64 bytes of a file.

    Raises:
        FileNotFoundError: No such file; the message lists the weight files in the same folder.
        ValueError: `path` is a folder.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; expected a weight file: {', '.join(EXTENSIONS)}.")
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        there = sorted(n for n in os.listdir(folder) if n.endswith((".h5", ".keras"))) if os.path.isdir(folder) else []
        beside = f"The weight files in {folder}: {shorten(there)}." if there else f"No weight file is in {folder}."
        raise FileNotFoundError(f"There is no file {path}. {beside}")
    with open(path, "rb") as file:
        return file.read(64)


@contextmanager
def explaining_errors(path: str) -> Iterator[None]:
    """Turns any error inside into a ValueError that names the file: damaged files fail in many ways."""
    try:
        yield
    except FileNotFoundError:
        raise
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(path) else f"{path} can't be read as weights: {said}.") from error
    except Exception as error:
        raise ValueError(f"{path} can't be read as weights: {what_broke(error)}") from error


def describe_head(head: bytes) -> str:
    """Says what a file that holds no weights seems to be. Sentences without the final full stop."""
    if not head:
        return "It is empty (0 bytes). Download or copy it again"
    for signature, what in MISTAKEN_FOR_WEIGHTS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(signature):
            return f"It begins with {head[:32]!r}: {what}"
    return f"It begins with {head[:32]!r}, an HDF5 file with {HDF5_SIGNATURE!r}. Download or copy it again"


def what_broke(error: Exception) -> str:
    """Says what an error of a reader means, and what to do."""
    cut = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", str(error))
    if cut:
        have, full = (int(number) for number in cut.groups())
        return f"it stops after {have:,} of {full:,} bytes: a download or copy broke off. Delete it and fetch it again."
    return f"it is damaged or cut off ({error}). Delete it and fetch it again."


def shorten(names: Iterable[str], most: int = 12) -> str:
    """Joins names with commas; a long list is cut after `most` names.

    Example:
        >>> shorten(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
