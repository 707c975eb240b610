"""The steps of the network as JSON, for the page: `POST /inspect`.

Boxes are (y1, x1, y2, x2) in pixels of the upright photo, rounded to a tenth, unless noted otherwise. Maps and soft
masks are bytes, 255 for 1.0, in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.config import Config
from mrcnn.conventions import Convention
from mrcnn.drawing.palette import as_bytes, class_colors
from mrcnn.inference import molding
from mrcnn.inference.inspection import LOWEST_SCORE, Inspection, Inspector
from mrcnn.ops.boxes import apply_box_deltas, denorm_boxes
from mrcnn.ops.nms import suppression_groups
from mrcnn.serve.limits import Refused

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

SHOWN_ANCHORS = 150  # the best of each level among those that reach the RPN's NMS
SHOWN_PROPOSALS = 100
SHOWN_CLASSES = 5  # of a proposal


class GlassBox:
    """Shows how a model finds its objects.

    Args:
        model: `MaskRCNN`.
    """

    def __init__(self, model: MaskRCNN):
        self.model = model
        self._inspector: Inspector | None = None

    def run(self, photos: Sequence[np.ndarray]) -> list[Inspection]:
        """The steps of each photo; work for a `BatchRunner`."""
        if self.model.stages is None:
            raise Refused(400, "The steps of this model are not known: its class overrides build().")
        self._inspector = self._inspector or Inspector(self.model)
        return [self._inspector.inspect(photo) for photo in photos]

    def as_json(self, steps: Inspection) -> dict:
        config = self.model.config
        place = Place(steps, config.convention)
        return {
            "image": {"height": steps.photo_shape[0], "width": steps.photo_shape[1]},
            "molded": {
                "height": steps.molded_shape[0], "width": steps.molded_shape[1], "window": steps.window.tolist()
            },
            "thresholds": {
                "min_score": config.DETECTION_MIN_CONFIDENCE or 0, "nms": config.DETECTION_NMS_THRESHOLD,
                "max_objects": config.DETECTION_MAX_INSTANCES,
                "lowest_score": min(LOWEST_SCORE, config.DETECTION_MIN_CONFIDENCE or 0),
            },
            "levels": levels_json(steps, place),
            "anchors": {
                "total": len(steps.anchors), "before_nms": len(steps.refined), "shown": anchors_json(steps, place)
            },
            "proposals": {"total": len(steps.proposals), "shown": proposals_json(steps, place, config)},
            "candidates": candidates_json(steps, config, self.model.class_names),
        }  # fmt: skip


def model_json(model: MaskRCNN, class_names: Sequence[str]) -> dict:
    """What the page and other clients need to know about the model: `GET /model`."""
    colors = ["#{:02x}{:02x}{:02x}".format(*as_bytes(color)) for color in class_colors(range(1, len(class_names)))]
    config = model.config
    return {
        "name": str(config.NAME),
        "classes": [
            {"id": i, "name": name, "color": color} for i, (name, color) in enumerate(zip(class_names[1:], colors), 1)
        ],
        "min_score": config.DETECTION_MIN_CONFIDENCE or 0,
        "image_side": config.IMAGE_MAX_DIM,
    }


class Place:
    """From the network's boxes to the photo's pixels."""

    def __init__(self, steps: Inspection, rules: Convention):
        self.molded_shape, self.rules = steps.molded_shape, rules
        self.origin = np.tile(steps.window[:2], 2)
        sides = np.maximum(steps.window[2:] - steps.window[:2], 1)
        self.scale = np.tile(np.asarray(steps.photo_shape) / sides, 2)

    def pixels(self, boxes: np.ndarray) -> list[list[float]]:
        """[n, 4] pixels of the molded image -> of the photo."""
        return np.round((np.asarray(boxes, np.float64) - self.origin) * self.scale, 1).tolist()

    def normalized(self, boxes: np.ndarray) -> list[list[float]]:
        """[n, 4] normalized to the molded image -> pixels of the photo."""
        return self.pixels(denorm_boxes(boxes, self.molded_shape, self.rules.box_offset, whole=False))


def levels_json(steps: Inspection, place: Place) -> list[dict]:
    """Of each level the anchors of its first cell, the distance of its cells, and the RPN's map."""
    levels, start, k = [], 0, steps.anchors_per_cell
    for height, width in steps.level_shapes.tolist():
        count = height * width * k
        anchors = steps.anchors[start : start + count].reshape(height, width, k, 4)
        step_y = anchors[1, 0, 0, 0] - anchors[0, 0, 0, 0] if height > 1 else steps.molded_shape[0]
        step_x = anchors[0, 1, 0, 1] - anchors[0, 0, 0, 1] if width > 1 else steps.molded_shape[1]
        heat = steps.objectness[start : start + count].reshape(height, width, k).max(axis=2)
        first = place.pixels(anchors[0, 0])
        levels.append({
            "shape": [height, width], "anchors": count, "cell": first,
            "step": [float(step_y * place.scale[0]), float(step_x * place.scale[1])], "heat": as_text(heat),
        })  # fmt: skip
        start += count
    return levels


def anchors_json(steps: Inspection, place: Place) -> list[dict]:
    """The best anchors, where the RPN moves them, and whether its NMS keeps them; kept ones first."""
    others = np.setdiff1d(np.arange(len(steps.refined)), steps.kept)
    rows = np.concatenate([steps.kept[: SHOWN_ANCHORS // 2], others[: SHOWN_ANCHORS // 2]])
    kept = set(steps.kept.tolist())
    pairs = zip(rows.tolist(), place.normalized(steps.best_anchors[rows]), place.normalized(steps.refined[rows]))
    return [{"anchor": anchor, "box": box, "kept": row in kept} for row, anchor, box in pairs]


def proposals_json(steps: Inspection, place: Place, config: Config) -> list[dict]:
    """The proposals least likely to be background, their best classes, and where the class head moves them."""
    rows = np.argsort(steps.class_probs[:, 0], kind="stable")[:SHOWN_PROPOSALS]
    probs, rois = steps.class_probs[rows], steps.proposals[rows]
    best = 1 + np.argmax(probs[:, 1:], axis=1)
    deltas = steps.class_deltas[rows, best]
    std_dev = np.ravel([config.BBOX_STD_DEV, *(config.CASCADE_BBOX_STD_DEVS or [])][-1])
    refined = np.clip(apply_box_deltas(rois, deltas * std_dev), 0, 1)
    order = np.argsort(-probs, axis=1, kind="stable")[:, :SHOWN_CLASSES]
    return [
        {"box": box, "refined": moved, "classes": [[int(i), round(float(p[i]), 4)] for i in top]}
        for box, moved, top, p in zip(place.normalized(rois), place.normalized(refined), order, probs)
    ]


def candidates_json(steps: Inspection, config: Config, class_names: Sequence[str] | None) -> list[dict]:
    """Classified boxes before NMS, best first, as `detect` would place them on the photo.

    `nms_box` is what the graph's NMS compares: float32, normalized. Boxes of different `group`s don't drop each other.
    """
    found, groups = [], suppression_groups(config.DETECTION_NMS, config.NUM_CLASSES, class_names)
    for row, soft in zip(steps.candidates, steps.masks):
        boxes, class_ids, scores, masks = molding.place_on_photo(
            row[None], soft[None], steps.photo_shape, steps.molded_shape, steps.window, config.convention
        )
        if not len(boxes):  # no whole pixel
            continue
        rle = masks.rles()[0]
        y1, x1, y2, x2 = boxes[0].tolist()
        found.append({
            "class_id": int(class_ids[0]), "score": float(scores[0]), "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
            "nms_box": [float(v) for v in row[:4]], "group": int(groups[class_ids[0]]),
            "mask_shape": list(soft.shape), "mask": as_text(soft),
        })  # fmt: skip
    return found


def as_text(values: np.ndarray) -> str:
    """Numbers 0..1 as bytes 0..255 in base64, row by row."""
    return base64.b64encode(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes()).decode("ascii")
