"""Finds the image files that annotations name, also if the names were written on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from mrcnn.data.dataset import is_url
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where

DEPTH = 4  # of folders in folders that are searched for images
FOLDERS = 500  # inside other folders that are searched, at most


class PhotoFolder:
    """The image files of a folder and those inside it. Each folder is listed once.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.JPG").write_bytes(b"")
        ...     photos = PhotoFolder(folder)
        ...     found = [photos.find(name).name for name in ("a.JPG", "a.jpg", "C:\\\\pictures\\\\a.jpg")]
        >>> found
        ['a.JPG', 'a.JPG', 'a.JPG']
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._listings: dict[Path, dict[str, str]] = {}
        self._access = current_access()
        self._names: dict[Path, str] = {}  # under which files were located

    def find(self, name: str) -> Path | None:
        """The file of this name; None if there is none.

        The name may have backslashes, another case of letters, characters as in URLs (%20), and folders
        that aren't here, such as those of the computer on which it was annotated. The file is the one that has most of
        these folders.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        for i in range(len(parts)):
            folder = self.folder.joinpath(*parts[i:-1])
            if ".." in parts[i:]:
                if not self._access.allows(folder / parts[-1], self.folder):
                    continue
                folder = Path(os.path.normpath(folder))
            if found := self._find_in(folder, parts[-1]):
                return found
        is_there = os.path.isabs(name) and self._access.allows(name, self.folder) and os.path.isfile(name)
        if is_there:
            return Path(name)
        return self.find(unquote(name)) if unquote(name) != name else None

    def locate(self, name: str, where: Where, field: str = "image file") -> Path | str:
        """The file of this name, as `find`; a URL as it is.

        Raises:
            MissingPhoto: there is no such file.
            BrokenAnnotation: it is outside of the dataset, or a URL, and the loader wasn't allowed to read it.
            BrokenAnnotation: it was located before under another name, such as that of an image in another folder.
        """
        if is_url(name):
            return self._access.check_url(name, where, field)
        found = self.find(name)
        if found is None:
            self.refuse_outside(name, where, field)
            raise MissingPhoto(*where, field, self.folder / name.replace("\\", "/"))
        other = self._names.setdefault(found, name)
        if other != name:
            raise BrokenAnnotation(*where, field, f"another file for {name}", f"{found}, which is that of {other}")
        return found

    def refuse_outside(self, name: str, where: Where, field: str = "image file") -> None:
        """Raises BrokenAnnotation if `find` found nothing because the file is outside of the dataset, see `access`."""
        path = self.folder / name.replace("\\", "/")
        if path.is_file() and not self._access.allows(path, self.folder):
            self._access.refuse(path, where, field)

    def _find_in(self, folder: Path, name: str) -> Path | None:
        if folder not in self._listings:
            self._listings[folder] = _list_names(folder)
        names = self._listings[folder]
        found = names.get(name) or names.get(name.lower())
        return None if found is None else folder / found


def _list_names(folder: Path) -> dict[str, str]:
    """Names of the files in a folder, by themselves and in lower case; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {**{name.lower(): name for name in names}, **{name: name for name in names}}


def folders_below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders inside a folder without hidden ones, nearest first; of those inside others at most `FOLDERS`."""
    level = _folders_in(folder)
    yield from level
    left = FOLDERS
    for _ in range(depth - 1):
        level = list(islice((inner for outer in level for inner in _folders_in(outer)), left))
        yield from level
        left -= len(level)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # not there, or not readable: images that are in it are reported as missing
        return []


def count_found(folder: Path, names: Sequence[str]) -> int:
    """How many of the images are in a folder under the very names that the annotations have."""
    return sum((folder / name.replace("\\", "/")).is_file() for name in names)
