"""Which files an annotation file may name: those inside its dataset, unless the caller allows more.

An annotation file can come from an untrusted source, and names such as `../../private/a.jpg`, `/home/me/a.jpg` or
`http://host/a.jpg` would be opened silently. So every loader has two more arguments, which `names_file` adds: `root`,
another folder with allowed files, and `download`, whether URLs may be fetched.

Names are compared as they are written: a symbolic link inside the dataset may lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.formats.broken import BrokenAnnotation, Where

ANNOTATION_FOLDERS = ("annot", "label", "json", "xml")  # folders whose names start so hold no images


@dataclass(frozen=True)
class Access:
    """The files and URLs that may be read.

    Attributes:
        roots: folders whose files may be read, absolute.
        download: whether URLs may be fetched.
    """

    roots: tuple[str, ...] = ()
    download: bool = False

    def allows(self, path: str | Path, *folders: str | Path) -> bool:
        """Whether a path is inside one of the roots, or of these folders."""
        path = Path(os.path.abspath(path))
        return any(path.is_relative_to(root) for root in (*self.roots, *map(os.path.abspath, folders)))

    def check(self, path: str | Path, where: Where, field: str, *folders: str | Path) -> Path:
        """The path without `..`, if it may be read.

        Args:
            path: of a file that an annotation names.
            where: (annotation file, name of the entry), for the error.
            field: name of the field, for the error.
            folders: others whose files may be read, such as one that is an argument.

        Raises:
            BrokenAnnotation: it is outside of the dataset.
        """
        if not self.allows(path, *folders):
            self.refuse(path, where, field)
        return Path(os.path.normpath(path))

    def first(self, paths: Iterable[Path], where: Where, field: str, *folders: str | Path) -> Path | None:
        """The first of the paths that exists and may be read; None if none exists. Arguments and errors as `check`."""
        there = [path for path in paths if path.exists()]
        allowed = next((path for path in there if self.allows(path, *folders)), None)
        if there and allowed is None:
            self.refuse(there[0], where, field)
        return None if allowed is None else Path(os.path.normpath(allowed))

    def refuse(self, path: str | Path, where: Where, field: str) -> None:
        """Raises BrokenAnnotation: the path is outside of the dataset."""
        path = Path(os.path.abspath(path))
        expected = f"a file inside {self.roots[0] if self.roots else 'the folder of the images'}"
        advice = f"If {path} is meant, allow its folder or one above with root={str(path.parent)!r}."
        raise BrokenAnnotation(*where, field, expected, str(path), advice)

    def check_url(self, url: str, where: Where, field: str) -> str:
        """The URL, if it may be fetched.

        Raises:
            BrokenAnnotation: downloads aren't allowed.
        """
        if not self.download:
            raise BrokenAnnotation(*where, field, "a file; download=True fetches URLs", url)
        return url


NOTHING = Access()
_current: ContextVar[Access] = ContextVar("access", default=NOTHING)


def current_access() -> Access:
    """The files that the running loader may read."""
    return _current.get()


@contextmanager
def granting(path: str | Path | None, root: str | Path | None = None, download: bool | None = None) -> Iterator[Access]:
    """Lets loaders in the block read the files of a dataset, of `root`, and those granted outside the block.

    Args:
        path: of the dataset, a folder or an annotation file; None: it has none.
        root: another folder whose files may be read; None: no other.
        download: whether URLs may be fetched; None: as around the block.
    """
    around = _current.get()
    roots = [os.path.abspath(folder) for folder in (root, None if path is None else _folder_of(Path(path))) if folder]
    access = Access((*roots, *around.roots), around.download if download is None else download)
    token = _current.set(access)
    try:
        yield access
    finally:
        _current.reset(token)


def _folder_of(path: Path) -> Path:
    """The folder of a dataset."""
    folder = path.parent if path.is_file() else path
    resolved = Path(os.path.abspath(folder))
    return resolved.parent if resolved.name.lower().startswith(ANNOTATION_FOLDERS) else resolved
