"""Checks COCO's segmentations, and reads unambiguous deviations from the format as intended.

segmentation [x, y, x, y, ...]       one polygon without the outer list (VIA)
segmentation [] or none, and a bbox  an object of which only the box is known: the box is its mask; rotated by
                                     "attributes": {"rotation": degrees} of CVAT
iscrowd "0"                          0
nothing of these                     an empty instance, which is left out
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.parsing import warn_of_boxes
from mrcnn.data.user_warnings import warn

MASK_FORMS = "polygons [[x, y, ...], ...] or run lengths {size, counts}, or a bbox [x, y, width, height]"
CROWDS_AS_TEXT = {"": 0, "0": 0, "1": 1}
LARGEST = 1e12  # pixels; what is larger, infinite or not a number is no side of a box
MOSTLY = 0.5  # COCO has 1 % crowds; a file with more than this share of them means something else by iscrowd


@dataclass
class Repairs:
    """Counts deviations from the format, for the warnings.

    Attributes:
        crowds_as_objects: whether iscrowd = 1 is ignored.
        boxes: annotations of which only the box is known.
        empty: names of the annotations that are left out because they have neither a mask nor a box.
        crowds: annotations with iscrowd = 1.
        crowds_of_cvat: those of them that CVAT wrote, for which it means a brush mask.
    """

    crowds_as_objects: bool
    boxes: int = 0
    empty: list[str] = field(default_factory=list)
    crowds: int = 0
    crowds_of_cvat: int = 0

    def report(self, path: str | Path, count: int) -> None:
        """Warns once about each kind. `count`: annotations of the file."""
        warn_of_boxes(path, self.boxes, count)
        if self.empty:
            shown = ", ".join(self.empty[:5]) + (", ..." if len(self.empty) > 5 else "")
            warn(f"{path}: {len(self.empty)} annotations have no mask and no box and are left out: {shown}.")
        if not self.crowds_as_objects and (self.crowds_of_cvat or self.crowds > MOSTLY * count):
            cause = "CVAT writes it for every brush mask" if self.crowds_of_cvat else "COCO has about 1 %"
            warn(
                f"{path}: {self.crowds} of {count} annotations have iscrowd=1 ({cause}). Crowds are groups of objects:"
                " nothing is learned from them. If each is one object, open the file with crowds_as_objects=True."
            )


def repair(annotation: dict, entry: str, repairs: Repairs) -> dict | None:
    """Brings an annotation to COCO's own form where its meaning is clear; None if it is an empty instance.

    Args:
        annotation: an object of "annotations".
        entry: its name.
        repairs: counts what isn't in COCO's form; changed in place.
    """
    crowd, segmentation = annotation.get("iscrowd"), annotation.get("segmentation")
    changes: dict[str, Any] = {}
    if isinstance(crowd, str):
        crowd = changes["iscrowd"] = CROWDS_AS_TEXT.get(crowd.strip(), crowd)
    if crowd == 1:
        repairs.crowds += 1
        attributes = annotation.get("attributes")
        repairs.crowds_of_cvat += isinstance(attributes, dict) and "occluded" in attributes
        if repairs.crowds_as_objects:
            changes["iscrowd"] = 0
    if isinstance(segmentation, list) and len(segmentation) >= 6 and _is_number(segmentation[0]):
        changes["segmentation"] = [segmentation]
    elif segmentation is None or _has_no_area(segmentation):
        box = annotation.get("bbox")
        if not box or (_is_box(box) and min(box[2:]) <= 0):
            repairs.empty.append(entry)
            return None
        if _is_box(box):
            repairs.boxes += 1
            changes["segmentation"] = [_corners(box, annotation.get("attributes"))]
    return {**annotation, **changes} if changes else annotation


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_no_area(segmentation: Any) -> bool:
    """Whether a segmentation is a list of nothing but polygons of less than three points."""
    return isinstance(segmentation, list) and all(
        isinstance(part, list) and len(part) in (0, 2, 4) and all(map(_is_number, part)) for part in segmentation
    )


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(v) and abs(v) < LARGEST for v in box)


def _corners(box: list[float], attributes: Any) -> list[float]:
    """[x, y, x, y, ...] of the corners of a box [x, y, width, height], rotated clockwise by CVAT's attribute."""
    x, y, width, height = box
    rotation = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    angle = math.radians(rotation) if _is_number(rotation) and abs(rotation) < LARGEST else 0
    corners = []
    for right, down in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        right, down = right * width, down * height
        corners.append(x + width / 2 + right * math.cos(angle) - down * math.sin(angle))
        corners.append(y + height / 2 + right * math.sin(angle) + down * math.cos(angle))
    return corners


# ---- Checking --------------------------------------------------------------------------------------------------------
def check_annotation(annotation: dict, height: int, width: int, where: Where) -> None:
    """Checks the mask of an annotation.

    Args:
        annotation: as of `repair`.
        height, width: int, of its image, pixels.
        where: for errors.

    Raises:
        BrokenAnnotation: there is no mask, or it is broken, or iscrowd isn't 0 or 1.
    """
    segmentation, crowd = annotation.get("segmentation"), annotation.get("iscrowd")
    if crowd not in (None, 0, 1):
        raise BrokenAnnotation(*where, "iscrowd", "0 or 1", crowd)
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width, where)
    elif not isinstance(segmentation, list) or not segmentation:
        got = annotation["bbox"] if annotation.get("bbox") and not segmentation else segmentation
        raise BrokenAnnotation(*where, "segmentation", MASK_FORMS, got)
    else:
        for part in segmentation:
            if not isinstance(part, list) or len(part) % 2 or not set(map(type, part)) <= {int, float}:
                raise BrokenAnnotation(*where, "segmentation", "polygons [x, y, x, y, ...]", part)
            limits.check_coordinates(part, height, width, where, "segmentation")
            limits.check_outline(part[::2], part[1::2], where, "segmentation")


def _check_run_lengths(segmentation: dict, height: int, width: int, where: Where) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or [height, width] != size:
        raise BrokenAnnotation(*where, "segmentation.size", f"[height, width] of the image, {[height, width]}", size)
    if isinstance(counts, list):
        whole = all(isinstance(run, int) and run >= 0 for run in counts)
        if not whole or sum(counts) != height * width:
            got = sum(counts) if whole else counts
            expected = f"run lengths with a sum of {height} x {width} = {height * width}"
            raise BrokenAnnotation(*where, "segmentation.counts", expected, got)
    elif not isinstance(counts, (str, bytes)) or not counts:
        raise BrokenAnnotation(*where, "segmentation.counts", "a list of run lengths, or a string", counts)
