"""The description of a format (`Format`), and the view of a folder or file by which it is recognized (`Place`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats.access import ANNOTATION_FOLDERS
from mrcnn.data.formats.json_head import growing_heads
from mrcnn.data.formats.photo_folder import PhotoFolder, count_found, folders_below

FILES_READ, FOLDERS_READ = 100, 20  # of a folder, at most, to recognize it
NAMES_READ = 20  # images of an annotation file that are looked for, to find the folder of the images
PLACES_SHOWN = 12  # folders that a message names


class UnknownFormat(ValueError):
    """No known format fits, or more than one does. The message lists the known formats and the files found.

    Attributes:
        short: the message in one line, where it has one, for the command; otherwise the whole message.
    """

    def __init__(self, message: str, short: str | None = None):
        super().__init__(message)
        self.short = short or message


@dataclass(frozen=True)
class OpenOptions:
    """How a dataset is to be opened, see `open_dataset`.

    Attributes:
        classes: names of the classes wanted; None: all.
        names: names of the classes of a related dataset, in the order of their ids 1, 2, ..., which are used where the
            files don't name theirs; None: there is none.
        skip_broken: skip broken images with a warning, instead of raising.
        split: one of `Format.splits`; None: the format's default.
        attribute: the region attribute that tells the class, of VIA; None: the only one.
        crowds_as_objects: read COCO's crowds (iscrowd = 1) as objects.
        root: a folder whose files the annotations may name, besides those of the dataset; None: no other.
        download: whether URLs in the annotations may be fetched.
    """

    classes: list[str] | None = None
    names: list[str] | None = None
    skip_broken: bool = False
    split: str | None = None
    attribute: str | None = None
    crowds_as_objects: bool = False
    root: str | Path | None = None
    download: bool = False


@dataclass(frozen=True)
class Format:
    """A format: how it is recognized, and how it is opened.

    Attributes:
        name: for messages.
        signs: what it is recognized by, for messages.
        loader: the call that opens it whatever else is there, for messages.
        find: returns the paths in a place that `open` takes, one for each dataset of the format.
        open: opens one of them. Returns a `Dataset` that isn't prepared yet.
        is_mine: for formats that are JSON files: whether the content of a file, or of its beginning, is of the format.
        splits: names of the splits that a path lists itself, such as a data.yaml; None if the format never does.
    """

    name: str
    signs: str
    loader: str
    find: Callable[[Place], list[Path]]
    open: Callable[[Path, OpenOptions], Dataset]
    is_mine: Callable[[Any], bool] | None = None
    splits: Callable[[Path], list[str]] | None = None


@dataclass
class Place:
    """The content of a path. Each part is looked up once, and only if a format needs it.

    Attributes:
        path: a folder, or a file, which is treated as a folder that holds nothing else.
        formats: those that may own its JSON files.
    """

    path: Path
    formats: tuple[Format, ...] = ()

    @cached_property
    def entries(self) -> list[str]:
        """Names of what is in the folder, sorted, without hidden ones."""
        if self.path.is_file():
            return [self.path.name]
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))

    @cached_property
    def folder(self) -> Path:
        return self.path.parent if self.path.is_file() else self.path

    @cached_property
    def folders(self) -> list[Place]:
        """The folders in this one."""
        if self.path.is_file():
            return []
        return [Place(self.path / name, self.formats) for name in self.entries if (self.path / name).is_dir()]

    def files(self, *endings: str) -> list[Path]:
        """The files with these endings, in upper or lower case."""
        return [self.folder / name for name in self.entries if name.lower().endswith(endings)]

    def inside(self, name: str) -> Place | None:
        """The folder of this name, in upper or lower case; None if there is none."""
        if self.path.is_file():
            return None
        found = [self.folder / entry for entry in self.entries if entry.lower() == name.lower()]
        return Place(found[0], self.formats) if found and found[0].is_dir() else None

    @cached_property
    def json_files(self) -> dict[Path, tuple[str | None, Any]]:
        """{file: (name of its format, content of its beginning)} of the first JSON files."""
        return {file: identify_json(file, self.formats) for file in self.files(".json")[:FILES_READ]}

    def json_files_of(self, format_name: str) -> list[Path]:
        return [file for file, (name, _) in self.json_files.items() if name == format_name]


def identify_json(path: Path, formats: Iterable[Format]) -> tuple[str | None, Any]:
    """(name of the format that owns a JSON file or None, content of the file's beginning)."""
    content = None
    for content in growing_heads(path):
        for form in formats:
            if form.is_mine is not None and form.is_mine(content):
                return form.name, content
    return None, content


def first_bytes(path: Path) -> bytes:
    """The beginning of a text file, with line ends as "\\n"."""
    with open(path, "rb") as file:
        return file.read(1 << 16).replace(b"\r", b"\n")


def only_class(path: Path, options: OpenOptions, default: str) -> str:
    """The name of the class of a format that has one; `default` if the options have none, or several to choose from.

    Raises:
        ValueError: several classes are wanted.
    """
    if options.classes is None:
        return options.names[0] if options.names and len(options.names) == 1 else default
    if len(options.classes) != 1:
        raise ValueError(f"{path} has one class of objects; expected one name in classes, got {options.classes!r}.")
    return options.classes[0]


def find_images_folder(file: Path, names: Sequence[str], loader: str) -> Path:
    """The folder with the images of an annotation file.

    Looked for: beside the file, in the folder that COCO would name so (instances_val2017.json: ../val2017), in images/
    and ../images/, then in the folders inside these three. If the file's own folder has a name such as "annotations",
    also in the one above and the folders inside it. The folder with the most of the images is taken. If no folder has
    one under its very name, names are compared as by `PhotoFolder`.

    Args:
        file: the annotation file.
        names: names of its first images, as it has them.
        loader: the call that takes the folder, for the error.

    Raises:
        FileNotFoundError: none of the images is in any of these folders.
        UnknownFormat: they are in several folders, none of which has a usual name.
    """
    names = [name for name in names if not is_url(name)]
    here, above = file.parent, file.resolve().parent.parent
    if not names:
        return here
    usual = [
        here,
        above / file.stem.removeprefix("instances_").removeprefix("panoptic_"),
        here / "images",
        above / "images",
    ]
    holders = [here, above / "images"]
    if file.resolve().parent.name.lower().startswith(ANNOTATION_FOLDERS):
        usual, holders = [*usual, above], [above, here]
    hits = {folder: count_found(folder, names) for folder in usual}
    if max(hits.values()) < len(names):
        others = [folder for holder in holders for folder in folders_below(holder)]
        hits |= {folder: count_found(folder, names) for folder in others}
        if not max(hits.values()):
            hits = {folder: sum(PhotoFolder(folder).find(name) is not None for name in names) for folder in hits}
    most = max(hits.values())
    best = [folder for folder, count in hits.items() if count == most]
    if not most:
        looked = [str(folder) for folder in hits]
        shown = looked[:PLACES_SHOWN] + [f"... ({len(looked)} folders)"] * (len(looked) > PLACES_SHOWN)
        raise FileNotFoundError(indented(f"{file}: its images aren't there. Looked for {names[0]} in", shown))
    if len(best) > 1 and best[0] not in usual:
        heading = f"{file}: images of these names are in several folders; say which by {loader}:"
        raise UnknownFormat(indented(heading, map(str, best)))
    return best[0]


def images_folder_of(file: Path, names: Sequence[str], usual: Path, loader: str) -> Path:
    """The folder with the images of a format that has a file for each image.

    Args:
        file: one of the annotation files.
        names: names of some images.
        usual: folder in which they usually are.
        loader: see `find_images_folder`.

    Returns:
        `usual` if it has one of the images; else the folder that `find_images_folder` finds; `usual` if it finds none.

    Raises:
        UnknownFormat: they are in several folders.
    """
    photos = PhotoFolder(usual)
    if not names or any(photos.find(name) for name in names):
        return usual
    try:
        return find_images_folder(file, names, loader)
    except FileNotFoundError:  # the loader names all images that are missing
        return usual


def indented(heading: str, lines: Iterable[str]) -> str:
    """A heading with a list below it, for messages."""
    return "\n  ".join([heading, *lines])
