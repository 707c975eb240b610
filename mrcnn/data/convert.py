"""Converts annotated images of any known format to COCO, YOLO or labelme files.

    python -m mrcnn.data.convert balloon/train balloon.json --to coco
    python -m mrcnn.data.convert export.xml yolo --to yolo
    python -m mrcnn.data.convert balloon yolo --to yolo --splits train val

COCO and labelme files name the images where they are; YOLO needs copies. If the images are outside of the target's
folder, opening it needs this folder: `open_dataset("all.json", root="balloon")`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from mrcnn.data.dataset import Dataset
from mrcnn.data.format_detection import open_dataset, open_splits
from mrcnn.data.formats.coco import save_coco
from mrcnn.data.formats.labelme import save_labelme
from mrcnn.data.formats.yolo_writer import save_yolo

TARGETS = ("coco", "yolo", "labelme")


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
        target: folder; for "coco" without splits, the JSON file, or the folder for annotations.json.
        to: "coco", "yolo" or "labelme".
        classes: as in `open_dataset`.
        splits: names of splits, such as ["train", "val"], which then have the same class ids; empty: the whole source.
        skip_broken, attribute, crowds_as_objects, root, download: as in `open_dataset`.
        progress: whether to show progress bars.

    Returns:
        What was written: the COCO files, data.yaml, or the folders of labelme files.

    Raises:
        ValueError: `to` isn't one of the three.
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
    if split:
        target = target / "annotations" / f"instances_{split}.json"
    elif target.suffix.lower() != ".json":
        target = target / "annotations.json"
    return save_coco(dataset, target, progress=progress)


# ---- Command line ----------------------------------------------------------------------------------------------------
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run` to a parser."""
    parser.add_argument("source", help="folder or annotation file of any format that open_dataset reads")
    parser.add_argument("target", help="folder, or the JSON file for --to coco")
    parser.add_argument("--to", required=True, choices=TARGETS, help="format to write")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names; needed where the files name none")
    parser.add_argument("--splits", nargs="+", default=[], metavar="NAME", help="such as: train val")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken images out with a warning")
    parser.add_argument("--attribute", help="VIA files: the attribute with the class")
    parser.add_argument("--crowds-as-objects", action="store_true", help="of COCO files: read iscrowd=1 as objects")
    parser.add_argument("--root", metavar="FOLDER", help="whose images the source may name, besides its own folder")
    parser.add_argument("--download", action="store_true", help="fetch images that are URLs")


def run(arguments: argparse.Namespace) -> int:
    """Converts as the arguments say, prints what was written, and returns the exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            written = convert(**vars(arguments), progress=sys.stderr.isatty())
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for path in dict.fromkeys(written):
        print(path)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; `arguments`: those after its name, None: of this process."""
    parser = argparse.ArgumentParser(prog="python -m mrcnn.data.convert", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
