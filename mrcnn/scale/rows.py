"""Rows of Parquet from `Detections`, and back.

A row is an object. An image without objects has one row whose columns from `object` on are null, so that the file says
it was searched; so has an image that could not be read, with the reason in `error`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.inference.result_masks import RleMasks
from mrcnn.inference.results import Detections
from mrcnn.scale.plan import ImageId
from mrcnn.scale.store import import_pyarrow

if TYPE_CHECKING:
    import pyarrow

METADATA = b"mrcnn"  # in the schema of each file: JSON with class_names, images, objects, errors
BOX = ("y1", "x1", "y2", "x2")
COLUMNS = {  # name: (type, meaning); "id" is int64 or string, "box" int32 or float32
    "image_id": ("id", "Id of the image: its number in the list of paths, or the id given with it."),
    "path": ("string", "Its path or URI."),
    "height": ("int32", "Its height in pixels, upright; null if it could not be read."),
    "width": ("int32", "Its width."),
    "object": ("int32", "Number of the object in the image, 0 has the best score; null if there is none."),
    "class_id": ("int32", "Class of the object, from 1."),
    "class_name": ("string", "Name of the class."),
    "score": ("float32", "0 to 1."),
    **dict.fromkeys(BOX, ("box", "Box, in pixels; y2 and x2 are exclusive.")),
    "rle_counts": ("string", "The mask as COCO's compressed run lengths; their size is [height, width]."),
    "error": ("string", "Why the image could not be searched; null if it was."),
}


@dataclass
class ImageResult:
    """What was found in an image.

    Attributes:
        image_id, path: Of the image.
        found: `Detections`, or None if there was an error.
        error: Its text, or None.
    """

    image_id: ImageId
    path: str
    found: Detections | None = None
    error: str | None = None


def make_schema(id_type: type, float_boxes: bool, metadata: dict[str, Any]) -> pyarrow.Schema:
    """The columns of a file.

    Args:
        id_type: int or str.
        float_boxes: Whether boxes are fractions of pixels, as with the conventions of torchvision and detectron2.
        metadata: JSON-ready; `read_metadata` returns it.
    """
    arrow = import_pyarrow()
    types = {
        "id": arrow.int64() if id_type is int else arrow.string(), "string": arrow.string(), "int32": arrow.int32(),
        "float32": arrow.float32(), "box": arrow.float32() if float_boxes else arrow.int32(),
    }  # fmt: skip
    fields = [arrow.field(name, types[kind]) for name, (kind, _) in COLUMNS.items()]
    return arrow.schema(fields, metadata={METADATA: json.dumps(metadata).encode()})


def read_metadata(schema: pyarrow.Schema) -> dict[str, Any]:
    """The metadata of `make_schema`."""
    return json.loads((schema.metadata or {}).get(METADATA, b"{}"))


def rows_of(result: ImageResult) -> dict[str, list]:
    """The rows of an image, by column."""
    found = result.found
    count = 0 if found is None else len(found)
    height, width = (None, None) if found is None else found.image_shape
    rows = max(count, 1)
    columns: dict[str, list] = {
        "image_id": [result.image_id] * rows, "path": [result.path] * rows, "height": [height] * rows,
        "width": [width] * rows, "error": [result.error] * rows,
    }  # fmt: skip
    if not count:
        return {name: columns.get(name, [None]) for name in COLUMNS}
    columns |= {
        "object": list(range(count)), "class_id": found.class_ids.tolist(), "class_name": found.names,
        "score": found.scores.tolist(), "rle_counts": [rle["counts"].decode("ascii") for rle in found.rle],
    }  # fmt: skip
    columns |= dict(zip(BOX, found.rois.T.tolist()))
    return {name: columns[name] for name in COLUMNS}


def make_table(results: Sequence[ImageResult], class_names: Sequence[str] | None, float_boxes: bool) -> pyarrow.Table:
    """The rows of a shard, in the order of `results`; counts and class names are in the metadata."""
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for result in results:
        for name, values in rows_of(result).items():
            columns[name] += values
    metadata = {
        "class_names": class_names, "images": len(results), "errors": sum(r.error is not None for r in results),
        "objects": sum(len(r.found) for r in results if r.found is not None),
    }  # fmt: skip
    schema = make_schema(type(results[0].image_id), float_boxes, metadata)
    return import_pyarrow().table(columns, schema=schema)


def to_bytes(table: pyarrow.Table) -> bytes:
    """A table as a Parquet file."""
    arrow = import_pyarrow()
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def results_in(table: pyarrow.Table) -> Iterator[ImageResult]:
    """The images of a file; inverse of `make_table`."""
    class_names = read_metadata(table.schema)["class_names"]
    columns = {name: table.column(name).to_pylist() for name in COLUMNS}
    ids = columns["image_id"]
    starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(ids)]):
        image_id, path, error = ids[start], columns["path"][start], columns["error"][start]
        if error is not None:
            yield ImageResult(image_id, path, None, error)
            continue
        end = start if columns["object"][start] is None else end
        rows = {name: values[start:end] for name, values in columns.items()}
        shape = columns["height"][start], columns["width"][start]
        masks = RleMasks([{"size": list(shape), "counts": c.encode("ascii")} for c in rows["rle_counts"]], shape)
        boxes = np.array([rows[side] for side in BOX], _box_type(table.schema)).T
        found = Detections(boxes, rows["class_id"], rows["score"], masks, class_names=class_names, path=path)
        yield ImageResult(image_id, path, found)


def _box_type(schema: pyarrow.Schema) -> type:
    return np.float32 if schema.field("y1").type == "float" else np.int32
