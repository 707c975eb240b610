"""Checks one image of a dataset: its pixels, and each object of it.

Shapes:
    H, W   height and width of the image, pixels
    N      objects of the image, as `load_mask` returns them
    boxes  (y1, x1, y2, x2) in pixels
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.doctor.annotated import Annotated, annotated_objects, without_pixel
from mrcnn.data.doctor.copies import thumbnail
from mrcnn.data.doctor.findings import Finding
from mrcnn.data.doctor.split_reader import warning_found
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.data.image_reading import UnreadableImage, read_header
from mrcnn.data.summary import measure
from mrcnn.data.user_warnings import collecting

WHOLE = 0.999  # share of the image from which on a mask covers all of it
DUPLICATE_IOU = 0.9  # of two masks of one object
SLACK_PIXELS, SLACK_SHARE = 2, 0.1  # that a box may differ from that of the mask: pixels, share of the mask's side
OUTSIDE_PIXELS, OUTSIDE_SHARE = 3, 0.02  # that points may be outside of the image: pixels, share of the image's side


@dataclass
class ImageRecord:
    """The findings in an image, and the values that the checks of the whole dataset need.

    Attributes:
        split: "train" or "val".
        image_id: in the dataset.
        name: the image's id in its source.
        path: of its file, or "".
        findings: list of Finding.
        usable: whether the image and its masks could be read, and the image isn't blank.
        thumbnail: [32, 32, 3] uint8, or None.
        digest: hash of the pixels.
        dtype: of the pixels.
        values: (lowest, highest) value of a pixel.
        measured: of its objects, see `summary.measure`.
        kept: [N] bool, False for objects that `fix` leaves out.
    """

    split: str
    image_id: int
    name: str
    path: str
    findings: list[Finding] = field(default_factory=list)
    usable: bool = True
    thumbnail: NDArray[np.uint8] | None = None
    digest: bytes = b""
    dtype: str = ""
    values: tuple[float, float] = (0.0, 0.0)
    measured: dict[str, NDArray] = field(default_factory=dict)
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def add(self, code: str, what: str, entry: str = "") -> None:
        """Adds a finding of this image."""
        self.findings.append(Finding(code, what, split=self.split, image=self.name, file=self.path, entry=entry))


def examine(dataset: Dataset, image_id: int, config: Config, split: str) -> ImageRecord:
    """Reads an image and its masks, and checks both."""
    info = dataset.image_info[image_id]
    path = "" if info["path"] is None else str(info["path"])
    record = ImageRecord(split, image_id, str(info["id"]), path)
    with collecting() as messages:
        size = _check_pixels(dataset, record)
        if record.usable:
            _check_objects(dataset, record, size, config)
            record.usable &= record.values[0] < record.values[1]
    record.findings += [found for message in dict.fromkeys(messages) for found in warning_found(message, split, path)]
    return record


# ---- Pixels ----------------------------------------------------------------------------------------------------------
def _check_pixels(dataset: Dataset, record: ImageRecord) -> tuple[int, int]:
    """Reads the image, fills in the record's fields about its pixels, and returns (height, width)."""
    try:
        image = np.asarray(dataset.load_image(record.image_id))
        record.thumbnail = thumbnail(image)
    except Exception as error:  # of load_image of any Dataset: whatever fails is reported with the image's name
        missing = isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
        record.add("missing-image" if missing else "unreadable-image", f"{error}")
        record.usable = False
        return 0, 0
    record.digest = hashlib.blake2b(
        np.ascontiguousarray(image), digest_size=16, key=repr(image.shape).encode()
    ).digest()
    record.dtype, record.values = str(image.dtype), (float(image.min()), float(image.max()))
    if record.values[0] == record.values[1]:
        record.add("blank-image", f"all pixels are {record.values[0]:g}")
    _check_file(image, record)
    return image.shape[:2]


def _check_file(image: NDArray, record: ImageRecord) -> None:
    """Checks how the image is stored, if it has its own file."""
    if not record.path or is_url(record.path) or not Path(record.path).is_file():
        return
    try:
        header = read_header(record.path)
    except UnreadableImage:  # such as a photo inside a JSON file
        return
    if header.orientation != 1:
        record.add("turned-image", f"the file is stored turned, EXIF orientation {header.orientation}")
    if image.ndim == 3 and image.shape[-1] == 3 and (header.bands or 0) >= 3 and _is_gray(image, record):
        record.add("gray-as-rgb", f"all three channels are equal, but the file stores {header.bands}")


def _is_gray(image: NDArray, record: ImageRecord) -> bool:
    if np.ptp(record.thumbnail.astype(int), axis=-1).any():
        return False
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())


# ---- Objects ---------------------------------------------------------------------------------------------------------
def _check_objects(dataset: Dataset, record: ImageRecord, size: tuple[int, int], config: Config) -> None:
    try:
        masks, class_ids = load_masks(dataset, record.image_id)
        check_class_ids(class_ids, dataset, record.image_id)
    except Exception as error:  # of load_mask of any Dataset, as above
        record.add("broken-annotation", f"{error}")
        record.usable = False
        return
    if masks.shape[:2] != tuple(size):
        got = f"{masks.shape[0]} x {masks.shape[1]}"
        record.add("wrong-size", f"the image has {size[0]} x {size[1]} pixels (height x width), its masks {got}")
        record.usable = False
        return
    masks = masks if masks.dtype == bool else masks != 0
    record.measured = measure(masks, class_ids, config, record.image_id)
    record.kept = np.ones(len(class_ids), bool)
    names = [dataset.class_names[abs(i)] for i in class_ids.tolist()]
    entries = _check_annotated(dataset, record, size) or [f"object {i}" for i in range(len(names))]
    labels = [f"{entry} ({name})" for entry, name in zip(entries, names)]
    _check_areas(record, size, labels)
    _check_pairs(masks, class_ids, record, labels)


def _check_areas(record: ImageRecord, size: tuple[int, int], labels: list[str]) -> None:
    crowd, height, width = record.measured["crowd"], *size
    for i, area in enumerate(record.measured["areas"].tolist()):
        if area == 1:
            record.add("one-pixel-object", "the mask is a single pixel", labels[i])
        elif area >= WHOLE * height * width and not crowd[i]:
            record.add("whole-image-mask", f"the mask covers {area / (height * width):.1%} of the image", labels[i])
        elif area:
            continue
        elif not any(finding.entry and labels[i].startswith(f"{finding.entry} (") for finding in record.findings):
            record.add("empty-object", "the mask has no pixel", labels[i])
        record.kept[i] = False


def _check_pairs(masks: NDArray[np.bool_], class_ids: NDArray, record: ImageRecord, labels: list[str]) -> None:
    """Finds objects that have nearly the same mask as an earlier one."""
    boxes, areas = record.measured["boxes"], record.measured["areas"]
    candidates = np.flatnonzero((areas > 1) & (class_ids > 0))
    # Masks with this IoU differ less in their areas; sorted by area, partners are next to each other.
    order = candidates[np.argsort(areas[candidates])]
    ends = np.searchsorted(areas[order], areas[order] / DUPLICATE_IOU, side="right")
    pairs = [(i, j) for start, i in enumerate(order.tolist()) for j in order[start + 1 : ends[start]].tolist()]
    for i, j in sorted((min(pair), max(pair)) for pair in pairs):
        if not (record.kept[i] and record.kept[j]):
            continue
        y1, x1 = np.maximum(boxes[i, :2], boxes[j, :2])
        y2, x2 = np.minimum(boxes[i, 2:], boxes[j, 2:])
        if y1 >= y2 or x1 >= x2:
            continue
        common = int(np.count_nonzero(masks[y1:y2, x1:x2, i] & masks[y1:y2, x1:x2, j]))
        iou = common / (int(areas[i]) + int(areas[j]) - common)
        if iou <= DUPLICATE_IOU:
            continue
        same = class_ids[i] == class_ids[j]
        what = f"the mask is that of {labels[i]}: IoU {iou:.2f}"
        record.add("duplicate-object" if same else "conflicting-objects", what, labels[j])
        record.kept[j] = False


# ---- What the annotations say ----------------------------------------------------------------------------------------
def _check_annotated(dataset: Dataset, record: ImageRecord, size: tuple[int, int]) -> list[str] | None:
    """Compares annotations with masks. Returns the names of the objects that have masks; None if there are none."""
    found = annotated_objects(dataset, record.image_id)
    if found is None:
        return None
    key, annotated = found
    empty = without_pixel(dataset, record.image_id, key) if len(annotated) != len(record.kept) else []
    for i in empty:
        _report_empty(annotated[i], record, size)
    with_mask = [one for i, one in enumerate(annotated) if i not in set(empty)]
    if len(with_mask) != len(record.kept):
        return None
    for one, box, area in zip(with_mask, record.measured["boxes"], record.measured["areas"]):
        if not area:
            _report_empty(one, record, size)
            continue
        _check_extent(one, record, size)
        _check_box(one, box, record)
    return [one.entry for one in with_mask]


def _report_empty(one: Annotated, record: ImageRecord, size: tuple[int, int]) -> None:
    extent = one.extent or one.box
    if extent and (extent[2] <= 0 or extent[3] <= 0 or extent[0] >= size[0] or extent[1] >= size[1]):
        record.add("outside-image", f"it is completely outside the image: {_format_box(extent)}", one.entry)
    else:
        record.add("empty-object", "the mask has no pixel", one.entry)


def _check_extent(one: Annotated, record: ImageRecord, size: tuple[int, int]) -> None:
    if one.extent is None:
        return
    beyond = np.maximum([-one.extent[0], -one.extent[1]], np.subtract(one.extent[2:], size))  # (y, x)
    if (beyond > np.maximum(OUTSIDE_PIXELS, np.multiply(OUTSIDE_SHARE, size))).any():
        what = f"it extends {beyond.max():.0f} pixels beyond the image of {size[0]} x {size[1]} (height x width)"
        record.add("partly-outside", what, one.entry)


def _check_box(one: Annotated, box: NDArray, record: ImageRecord) -> None:
    """Reports a box that fits neither the mask nor the points, whose thinnest parts have no pixel."""
    slack = np.tile(np.maximum(SLACK_PIXELS, SLACK_SHARE * (box[2:] - box[:2])), 2)
    drawn = [box] if one.extent is None else [box, one.extent]
    if one.box is not None and all((np.abs(np.subtract(one.box, other)) > slack).any() for other in drawn):
        record.add("box-mismatch", f"the box is {_format_box(one.box)}, that of the mask {_format_box(box)}", one.entry)


def _format_box(box: tuple[float, float, float, float] | NDArray) -> str:
    y1, x1, y2, x2 = box
    return f"x {x1:.0f} to {x2:.0f}, y {y1:.0f} to {y2:.0f}"
