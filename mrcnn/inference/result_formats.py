"""`Detections` in the formats of other programs: methods of the class that are longer than a line.

H0, W0      size of the image, pixels
n           objects
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.ops.rle import to_rle

if TYPE_CHECKING:
    from mrcnn.inference.results import Detections


def to_coco(
    found: Detections, image_id: int | str | None, polygons: bool, category_ids: Sequence[int] | None
) -> list[dict]:
    """The objects as COCO results.

    Args:
        found: n objects.
        image_id: Id of the image; None: the name of its file, or 0 if it has none.
        polygons: Whether to write outlines instead of run lengths.
        category_ids: Category by class id, with an entry for the background; None: the class id.

    Returns:
        n dicts with "image_id", "category_id", "bbox" [x, y, width, height], "score" and "segmentation", made of
        Python's own types.
    """
    if image_id is None:
        image_id = 0 if found.path is None else Path(found.path).name
    boxes = np.asarray(found.rois)
    boxes = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    class_ids = np.asarray(found.class_ids).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": class_id if category_ids is None else category_ids[class_id],
            "bbox": box,
            "score": score,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        for class_id, box, score, rle in zip(class_ids, boxes.tolist(), np.asarray(found.scores).tolist(), found.rle)
    ]


def read_coco(results: Sequence[dict], image_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """COCO results of one image, see `Detections.from_coco`.

    Returns:
        rois [n, 4] int32, or float32 if a box isn't whole; class_ids [n]; scores [n]; n RLE dicts. Best score first.
    """
    height, width = (int(side) for side in image_shape[:2])
    rois, rles = [], []
    for i, entry in enumerate(results):
        missing = [name for name in ("category_id", "score") if name not in entry]
        box, mask = entry.get("bbox"), entry.get("segmentation")
        if not box and not mask:
            missing.append('bbox" or "segmentation')
        if missing:
            raise ValueError(f'results[{i}] has no "{missing[0]}"; it has {sorted(entry)}.')
        x, y, w, h = box or (0, 0, 0, 0)
        try:
            rles.append(to_rle(mask or [[x, y, x + w, y, x + w, y + h, x, y + h]], height, width))
        except ValueError as error:
            raise ValueError(f"results[{i}]: {error}.") from error
        if not box:
            x, y, w, h = coco_mask.toBbox(rles[-1]).tolist()
        rois.append((y, x, y + h, x + w))
    scores = np.array([entry["score"] for entry in results], np.float32)
    class_ids = np.array([entry["category_id"] for entry in results], np.int32)
    rois = np.array(rois, np.float64).reshape(-1, 4)
    rois = rois.astype(np.int32 if np.array_equal(rois, np.rint(rois)) else np.float32)
    order = np.argsort(-scores, kind="stable")
    return rois[order], class_ids[order], scores[order], [rles[i] for i in order]
