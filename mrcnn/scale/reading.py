"""Reads what `detect_dataset` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mrcnn.inference.results import Detections
from mrcnn.scale.plan import MANIFEST, ImageId, iterate_parts, read_manifest
from mrcnn.scale.rows import ImageResult, results_in
from mrcnn.scale.store import Store, import_pyarrow


def read_detections(out: str, partial: bool = False) -> Iterator[tuple[ImageId, Detections]]:
    """Yields id and `Detections` of each image that was searched, in the order of the job; one file is in memory.

    Args:
        out: Folder or URI of `detect_dataset`.
        partial: Whether to read the results of a job that isn't finished.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: Files are missing and `partial` is False.

    Example:

        for image_id, found in read_detections("found.parquet"):
            print(image_id, found.path, found.names)
    """
    return ((result.image_id, result.found) for result in _results(out, partial) if result.error is None)


def read_errors(out: str, partial: bool = False) -> dict[ImageId, str]:
    """The errors of the images that could not be searched, by id; arguments as of `read_detections`.

    Example:

        for image_id, error in read_errors("found.parquet").items():
            print(image_id, error)
    """
    return {result.image_id: result.error for result in _results(out, partial) if result.error is not None}


def coco_results(out: str, partial: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the objects as COCO results; arguments as of `read_detections`.

    Example:

        Path("results.json").write_text(json.dumps(list(coco_results("found.parquet"))))
    """
    for image_id, found in read_detections(out, partial):
        yield from found.to_coco(image_id)


def _results(out: str, partial: bool) -> Iterator[ImageResult]:
    """A generator of its own, so that errors are raised at the call and not at the first result."""
    store = Store(str(out))
    names = store.names()
    if MANIFEST not in names:
        raise FileNotFoundError(f"{out} has no {MANIFEST}; expected a folder that detect_dataset wrote.")
    wanted = list(iterate_parts(read_manifest(store.read(MANIFEST), f"{out}/{MANIFEST}")))
    found = [name for name in wanted if name in names]
    if len(found) < len(wanted) and not partial:
        raise ValueError(
            f"{out} has {len(found)} of {len(wanted)} files. Call detect_dataset again to finish it, or read what is"
            " there with partial=True."
        )
    return _read_files(store, found)


def _read_files(store: Store, names: list[str]) -> Iterator[ImageResult]:
    arrow = import_pyarrow()
    for name in names:
        yield from results_in(arrow.parquet.read_table(arrow.BufferReader(store.read(name))))
