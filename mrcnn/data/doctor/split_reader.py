"""Opens the splits of a dataset, and records as findings what its reader skips or warns about."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrcnn.data.dataset import Dataset
from mrcnn.data.doctor.findings import Finding
from mrcnn.data.format_detection import Target, find_dataset, find_splits, read_dataset
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, brief, recording
from mrcnn.data.formats.recognition import OpenOptions, UnknownFormat

SPLITS = ("train", "val")

# Warnings of readers, by a part of their text. None: another check of the doctor covers it.
KNOWN_WARNINGS = {
    "class names that differ little": None,
    "have iscrowd=1": None,
    "EXIF orientation, and the annotation": None,
    "have no mask and no box": "empty-object",
    "have too few points": "empty-object",
    "have only a box": "box-as-mask",
    "have no masks folder": "images-without-objects",
}
SIZE_FIELDS = ("image size", "image height", "image width")


def find_targets(path: str | Path, val: str | Path | None = None) -> dict[str, Target]:
    """{split: what to open} of a path: both splits if it has them and `val` isn't given.

    Raises:
        FileNotFoundError: there is nothing at a path.
        UnknownFormat: no known format fits, or several.
    """
    path = Path(path)
    if val is not None:
        paths = dict(zip(SPLITS, (path, Path(val))))
        return {split: (*find_dataset(folder), None) for split, folder in paths.items()}
    try:
        return dict(zip(SPLITS, find_splits(path, SPLITS)))
    except UnknownFormat:  # one split only
        return {SPLITS[0]: (*find_dataset(path), None)}


def open_target(
    target: Target, split: str, options: OpenOptions, classes: Sequence[str] | None = None
) -> tuple[Dataset | None, list[Finding]]:
    """Opens a split without its broken entries.

    Args:
        target: as `find_targets` returned it.
        split: its name, for the findings.
        options: how to open it.
        classes: names of classes, as in `open_dataset`; None: all.

    Returns:
        The prepared dataset, or None if nothing of it can be read; and a finding for each entry that was left out and
        each warning of the reader.
    """
    form, path, own_split = target
    chosen = None if classes is None else list(classes)
    options = replace(options, skip_broken=True, split=own_split, classes=chosen)
    dataset: Dataset | None = None
    with recording() as left_out, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = read_dataset(form, path, options)
            dataset.prepare()
        except BrokenAnnotation as error:  # all images are broken, or the file is
            left_out += [error, *error.others]
    findings = [finding_of(error, split) for error in left_out]
    return dataset, findings + [found for one in caught for found in warning_found(str(one.message), split, str(path))]


def finding_of(error: BrokenAnnotation, split: str) -> Finding:
    """The finding of an entry that a reader left out."""
    if isinstance(error, MissingPhoto):
        code, what = "missing-image", f"there is no {error.photo}"
    else:
        what = f"{error.field}: expected {error.expected}, got {brief(error.got)}"
        if error.field in SIZE_FIELDS or (error.field == "mask" and "as its image" in error.expected):
            code = "wrong-size"
        else:
            code = "unreadable-image" if error.field == "image file" else "broken-annotation"
    return Finding(code, what, split=split, file=error.file, entry=error.entry)


def warning_found(message: str, split: str, file: str) -> list[Finding]:
    """The finding of a reader's warning; none if another check covers it."""
    known = [code for text, code in KNOWN_WARNINGS.items() if text in message]
    code = known[0] if known else "reader-warning"
    return [] if code is None else [Finding(code, message, split=split, file=file)]
