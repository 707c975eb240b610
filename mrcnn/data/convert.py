"""Converts annotated images of any known format to COCO, YOLO, labelme or CVAT files; `mrcnn convert` is the command.

All formats except YOLO refer to the images in place; YOLO needs copies. If the images are outside the target's folder,
pass their folder when opening it: `open_dataset("all.json", root="balloon")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrcnn.data.dataset import Dataset
from mrcnn.data.format_detection import open_dataset, open_splits
from mrcnn.data.formats.coco import save_coco
from mrcnn.data.formats.cvat_writer import save_cvat
from mrcnn.data.formats.labelme import save_labelme
from mrcnn.data.formats.yolo_writer import save_yolo

TARGETS = ("coco", "yolo", "labelme", "cvat")


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    classes: Sequence[str] | None = None,
    splits: Sequence[str] = (),
    skip_broken: bool = False,
    attribute: str | None = None,
    crowds_as_objects: bool = False,
    root: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Converts a dataset of any format that `open_dataset` reads.

    Args:
        source: folder or annotation file.
        target: folder; for "coco" and "cvat" without splits, the file, or the folder for it: annotations.json or .xml.
        to: "coco", "yolo", "labelme" or "cvat".
        classes: as in `open_dataset`.
        splits: names of splits, such as ["train", "val"], which then have the same class ids; empty: the whole source.
        skip_broken, attribute, crowds_as_objects, root, download: as in `open_dataset`.
        progress: whether to show progress bars.

    Returns:
        The written paths: COCO or CVAT files, data.yaml, or folders of labelme files.

    Raises:
        ValueError: `to` isn't one of these.
        Exception: those of `open_dataset` and of the writers.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(f"{folder}/a.png")
        ...     _ = Path(folder, "a.txt").write_text("0 0.5 0.5 0.5 0.5")  # a box of YOLO
        ...     (written,) = convert(folder, f"{folder}/all.json", "coco", classes=["cat"])
        ...     json.loads(written.read_text())["categories"][0]["name"]
        'cat'
    """
    if to not in TARGETS:
        raise ValueError(f"to is {to!r}; expected one of {', '.join(TARGETS)}.")
    target = Path(target)
    options = {
        "skip_broken": skip_broken,
        "attribute": attribute,
        "crowds_as_objects": crowds_as_objects,
        "root": root,
        "download": download,
    }
    if not splits:
        return [_write(open_dataset(source, classes, **options), target, to, None, progress)]
    datasets = open_splits(source, splits, classes, **options)
    return [_write(dataset, target, to, split, progress) for dataset, split in zip(datasets, splits)]


def _write(dataset: Dataset, target: Path, to: str, split: str | None, progress: bool) -> Path:
    if to == "yolo":
        return save_yolo(dataset, target, split=split or "train", progress=progress)
    if to == "labelme":
        folder = target / split if split else target
        save_labelme(dataset, folder, progress=progress)
        return folder
    if to == "cvat":
        target = target / split if split else target
        is_file = target.suffix.lower() == ".xml"
        return save_cvat(dataset, target if is_file else target / "annotations.xml", progress=progress)
    if split:
        target = target / "annotations" / f"instances_{split}.json"
    elif target.suffix.lower() != ".json":
        target = target / "annotations.json"
    return save_coco(dataset, target, progress=progress)
