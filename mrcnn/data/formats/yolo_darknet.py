"""Darknet's obj.data, which names the lists of images and of classes of YOLO text files; CVAT's "YOLO 1.1" has it too.

    classes = 2
    names = data/obj.names      one name a line
    train = data/train.txt      one image a line; its labels are beside it, or in labels/ instead of images/
    valid = data/valid.txt

Paths may begin with folders that aren't here, such as `data/`.
"""

from __future__ import annotations

from pathlib import Path

from mrcnn.data.formats.broken import BrokenAnnotation
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import first_bytes
from mrcnn.data.formats.yolo_files import Pairs, with_labels

DARKNET = ".data"
SPLITS = ("train", "valid", "test")


def is_darknet(file: Path) -> bool:
    """Whether a file names a list of classes and a list of images."""
    keys = _read_keys(first_bytes(file).decode("utf-8", "replace"))
    return "names" in keys and any(split in keys for split in SPLITS)


def darknet_splits(path: Path) -> list[str]:
    """The splits that a file lists."""
    keys = _read_keys(path.read_text(encoding="utf-8"))
    return [split for split in SPLITS if split in keys]


def read_darknet(path: Path, split: str) -> tuple[Pairs, dict[int, str]]:
    """[(image, label file)] of a split, and {number: class name}.

    Raises:
        BrokenAnnotation: the file doesn't list the split, or a list isn't there.
    """
    keys, files = _read_keys(path.read_text(encoding="utf-8-sig")), PhotoFolder(path.parent)
    lines: dict[str, list[str]] = {}
    for key in ("names", split):
        if key not in keys:
            raise BrokenAnnotation(path, "the file", key, "the path of a list", f"only {', '.join(keys)}")
        found = files.find(keys[key])
        if found is None:
            raise BrokenAnnotation(path, "the file", key, f"to find {keys[key]}", "nothing there")
        lines[key] = [line.strip() for line in found.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    photos = []
    for name in lines[split]:
        found = files.find(name)
        if found is None:
            files.refuse_outside(name, (path, f"image {name}"))
        photos.append(found or path.parent / Path(name.replace("\\", "/")).name)  # is reported as missing
    return with_labels(photos), dict(enumerate(lines["names"]))


def _read_keys(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}
