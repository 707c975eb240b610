"""Unsupported formats. They are recognized so that the error can name the export to choose instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mrcnn.data.formats.json_head import has_keys
from mrcnn.data.formats.recognition import Place, first_bytes


class Unread(NamedTuple):
    """An unsupported format: its name, what to do instead, and a check of a JSON file's content."""

    name: str
    advice: str
    is_mine: Callable[[Any], bool]


def _first_entry(content: Any) -> Any:
    """The first entry of a list; anything else as it is."""
    return content[0] if isinstance(content, list) and content else content


def _first_entry_of(content: Any, part: str) -> Any:
    """The first entry of a list in an object; None if there is none."""
    entries = content.get(part) if isinstance(content, dict) else None
    return entries[0] if isinstance(entries, list) and entries else None


def _is_segments_ai(content: Any) -> bool:
    dataset = content.get("dataset") if isinstance(content, dict) else None
    return has_keys(dataset, "task_type") or has_keys(dataset, "samples")


JSON_FORMATS = (
    Unread(
        "a release of Segments.ai",
        "export it as COCO: segments.utils.export_dataset(dataset, export_format='coco-instance')",
        _is_segments_ai,
    ),
    Unread(
        "OCHuman's own form",
        "open ochuman_coco_format_val_range_0.00_1.00.json, or the one of the test images, which is COCO",
        lambda content: has_keys(_first_entry_of(content, "images"), "image_id", "annotations"),
    ),
    Unread(
        "a Labelbox export",
        "convert it to COCO, for example by the labelbox package's converter",
        lambda content: has_keys(_first_entry(content), "data_row") or has_keys(_first_entry(content), "Labeled Data"),
    ),
    Unread(
        "V7 Darwin JSON",
        "export it as COCO",
        lambda content: (
            has_keys(content, "item", "annotations") or has_keys(content, "image", "annotations", "dataset")
        ),
    ),
    Unread(
        "Datumaro's own JSON",
        "export it as COCO 1.0 or CVAT for images 1.1",
        lambda content: has_keys(content, "items", "categories"),
    ),
    Unread(
        "a CVAT task backup",
        "export the task as COCO 1.0 or CVAT for images 1.1 instead",
        lambda content: has_keys(_first_entry(content), "version", "tags", "shapes", "tracks"),
    ),
    Unread(
        "CreateML JSON, which has boxes only",
        "export it as COCO segmentation",
        lambda content: has_keys(_first_entry(content), "image", "annotations") and isinstance(content, list),
    ),
    Unread(
        "BDD100K or Scalabel JSON",
        "convert it to COCO by `python -m scalabel.label.to_coco`",
        lambda content: (
            has_keys(_first_entry(content), "name", "labels") or has_keys(_first_entry_of(content, "frames"), "name")
        ),
    ),
    Unread(
        "detections in COCO's results format, not annotations",
        "evaluate them by `evaluate_predictions`; open the annotation file to train",
        lambda content: has_keys(_first_entry(content), "image_id", "category_id", "score"),
    ),
    Unread(
        "COCO captions",
        "open instances_*.json",
        lambda content: has_keys(_first_entry_of(content, "annotations"), "caption"),
    ),
)
FILE_FORMATS = (  # (ending, first bytes that it must have, name, what to do)
    (".ndjson", b"", "a Labelbox export", "convert it to COCO, for example by the labelbox package's converter"),
    (".tfrecord", b"", "TFRecord", "export it as COCO"),
    (".record", b"", "TFRecord", "export it as COCO"),
    (".parquet", b"", "Parquet", "convert it to COCO"),
    (".xml", b"<annotations", "an XML file of CVAT without <image>", "export it as CVAT for images 1.1"),
    (".zip", b"PK", "an archive", "unpack it and open the folder"),
    (".json.gz", b"\x1f\x8b", "a compressed file", "unpack it"),
)
SHOWN = 5


def describe_unread(place: Place) -> list[str]:
    """Lines such as "a.json is a Labelbox export: convert it to COCO" about what isn't read in a place."""
    lines = []
    for file, (_, content) in place.json_files.items():
        found = next((form for form in JSON_FORMATS if form.is_mine(content)), None)
        if found:
            lines.append(f"{file.name} is {found.name}: {found.advice}.")
    for ending, start, name, advice in FILE_FORMATS:
        files = [file for file in place.files(ending) if file.is_file() and start in first_bytes(file)[:4096]]
        lines += [f"{file.name} is {name}: {advice}." for file in files[:1]]
    return lines[:SHOWN]
