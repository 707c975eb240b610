"""The photos and videos that the arguments of `detect` and `label` name."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import numpy as np

STDIN = "-"
PHOTOS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
ZARR = ".zarr"  # a folder that is one image, for `detect --tiled`
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Source:
    """A photo or video.

    Attributes:
        path: The file; None: the photo comes from stdin.
        name: Its path relative to the folder that was given, or its file name; with "/" between the parts.
    """

    path: Path | None
    name: str

    @property
    def is_video(self) -> bool:
        return self.path is not None and self.path.suffix.lower() in VIDEOS

    def read(self) -> np.ndarray:
        """The photo, [H, W, 3], upright. Raises OSError or ValueError with the file's name."""
        from mrcnn.data.image_reading import decode_image, read_image

        if self.path is None:
            return decode_image(sys.stdin.buffer.read(), "standard input", upright=True)
        return read_image(self.path, upright=True)


def find_sources(arguments: Sequence[str], output: Path, beside: bool = False) -> list[Source]:
    """The photos and videos of files, folders (with their subfolders) and patterns such as "photos/*.jpg".

    Args:
        arguments: Paths, patterns, or "-" for one photo from stdin.
        output: Folder for the results; it is not searched for photos.
        beside: Whether results may be written to the folder of the photos.

    Raises:
        FileNotFoundError: A path does not exist, a folder has no photo, or nothing matches a pattern.
        typer.BadParameter: Results would be written among the photos of a folder.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        path = Path(argument)
        if argument == STDIN:
            sources = [Source(None, "stdin")]
        elif path.is_dir() and path.suffix.lower() != ZARR:
            if path.resolve() == output.resolve() and not beside:
                raise typer.BadParameter(f"--output {output} is the folder of the photos; choose another one.")
            sources = [Source(file, file.relative_to(path).as_posix()) for file in files_below(path, output)]
        elif path.exists():
            sources = [Source(path, path.name)]
        elif glob.has_magic(argument):
            sources = [Source(Path(name), PurePath(name).name) for name in sorted(glob.glob(argument, recursive=True))]
        else:
            raise FileNotFoundError(f"{argument} does not exist; expected a photo, a video, a folder, a pattern or -.")
        if not sources:
            raise FileNotFoundError(f"{argument}: no photo or video; expected files that end in {', '.join(PHOTOS)}.")
        found |= {str(source.path): source for source in sources}
    return list(found.values())


def files_below(folder: Path, left_out: Path) -> Iterator[Path]:
    """Photos and videos of a folder and its subfolders, in the order of their names; hidden ones are left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and (Path(parent) / name).resolve() != left_out.resolve()
        )
        for name in sorted(files):
            if name[0] != "." and Path(name).suffix.lower() in PHOTOS + VIDEOS:
                yield Path(parent) / name


class OutputNames:
    """Names for results: `a/b.jpg` gives `a/b_detected.jpg`; photos that would get the same name are numbered."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._taken: set[str] = set()

    def path(self, source: Source, ending: str) -> Path:
        """Path for a result of a photo or video, ending in e.g. "_detected.jpg"; each call returns another path."""
        stem = source.name.removesuffix(PurePath(source.name).suffix)
        name, number = f"{stem}{ending}", 2
        while name.lower() in self._taken:  # lower: file systems that ignore case
            name, number = f"{stem}_{number}{ending}", number + 1
        self._taken.add(name.lower())
        return self.folder / name
