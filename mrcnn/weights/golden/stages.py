"""Runs a network stage by stage and compares each stage with a record of the original project.

Shapes: A anchors, N proposals, C classes, n detections. Boxes of the network are (y1, x1, y2, x2), normalized to the
padded image; those of a record are x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mrcnn.inference.molding import place_on_photo
from mrcnn.inference.result_masks import SoftMasks
from mrcnn.nn.cascade import CascadeHead
from mrcnn.ops.masks import paste_masks

from .records import ANCHOR_STEP, CELLS, LOGIT_CELLS, masks_of, thin_cells, thin_map

Record = Mapping[str, np.ndarray]
YX = [1, 0, 3, 2]  # from x, y to y, x and back
RELATIVE, PIXELS, SHARE, NUMBER = "of the largest value", "px", "of all", ""
SAME_PROPOSAL = 0.01  # pixels
SAME_BOX = 0.05  # pixels
MASK_TIE = 1e-3  # a pixel whose probability is as close to 0.5 may be in one mask and not in the other
CLASS_STEPS = {"torchvision": slice(None, None, 9), "detectron2": slice(1, None, 8)}  # in a record's `box_deltas`


@dataclass(frozen=True)
class StageError:
    """How far a stage is from the record.

    Attributes:
        stage: "C2", "rpn_logits_P2", "proposals", "masks", ...
        error: The largest difference.
        limit: A larger error means another network or another setting.
        unit: Of both.
    """

    stage: str
    error: float
    limit: float
    unit: str

    @property
    def small(self) -> bool:
        return self.error <= self.limit


class StagedNetwork:
    """A `MaskRCNN` in inference mode, whose stages can be compared with a record.

    Args:
        model: With a convention of torchvision or detectron2.

    Example:

        network = StagedNetwork(model)
        for found in network.errors(golden_picture(), golden_record("torchvision_v2")):
            print(found.stage, found.error)
    """

    def __init__(self, model: Any):
        self.model, self.config = model, model.config
        self.rules = model.config.convention
        self.c4 = self.config.BOX_HEAD == "c4"
        self.levels = ["C4"] if self.c4 else ["P2", "P3", "P4", "P5", "P6"]
        self.maps = ["C4"] if self.c4 else ["C2", "C3", "C4", "C5"]
        logits, deltas, anchors, _, *levels = model.get_layer("ROI").input
        outputs = {
            "maps": [self._last_of_stage(int(name[1])) for name in self.maps], "levels": levels, "logits": logits,
            "deltas": deltas, "anchors": anchors, "proposals": model.get_layer("ROI").output,
        }  # fmt: skip
        self.first_stage = keras.Model(model.inputs, outputs)

    def _last_of_stage(self, stage: int) -> keras.KerasTensor:
        blocks = [x.name for x in self.model.layers if x.name.startswith(f"res{stage}") and x.name.endswith("_out")]
        return self.model.get_layer(max(blocks, key=lambda name: (len(name), name))).output

    def errors(self, image: np.ndarray, record: Record, detections: bool = True) -> list[StageError]:
        """Computes an image and compares it with its record (`records`).

        Args:
            image: [height, width, 3] uint8 RGB.
            record: What the original project computed.
            detections: False leaves out detections and masks, which take most of the time.
        """
        molded, meta, windows = self.model.mold_inputs([image])
        meta = meta.astype("float32")
        found = to_numpy(self.first_stage([molded, meta]))
        found["size"] = np.tile(molded.shape[1:3], 2)
        errors = [
            StageError("resized size", float(np.abs(meta[0, 9:11] - record["resized_size"]).max()), 0, PIXELS),
            *self._of_maps(found, record), *self._of_rpn(found, record), *self._of_anchors(found, record),
            *self._of_proposals(found, record), *self._of_class_heads(found, meta, record),
        ]  # fmt: skip
        if not detections:
            return errors
        shapes = np.shape(image), molded.shape[1:]
        rows, masks = (x[0] for x in to_numpy(self.model.detector()([molded, meta])))
        boxes, class_ids, scores, soft = place_on_photo(rows, masks, *shapes, windows[0], self.rules)
        pairs = match_detections(
            boxes, class_ids, record["boxes"][:, YX], record["labels"] + (self.rules.name == "detectron2")
        )
        return [*errors, *_of_detections(boxes, scores, pairs, record), *self._of_masks(soft, pairs, record)]

    def _of_maps(self, found: dict, record: Record) -> Iterator[StageError]:
        for name, x in zip([*self.maps, *self.levels], [*found["maps"], *found["levels"]]):
            yield relative(name, thin_map(x[0].transpose(2, 0, 1)), record[name])
            if self.c4:
                return  # the only map is the only level

    def _of_rpn(self, found: dict, record: Record) -> Iterator[StageError]:
        for level, x in self._by_level(found["logits"][0][..., -1:], found):
            logits = thin_cells(x[..., 0].transpose(2, 0, 1), LOGIT_CELLS)
            yield relative(f"rpn_logits_{level}", logits, record[f"rpn_logits_{level}"])
        for level, x in self._by_level(found["deltas"][0], found):
            deltas = x[..., YX].reshape(*x.shape[:2], -1).transpose(2, 0, 1)  # [anchors * 4, h, w]
            yield relative(f"rpn_deltas_{level}", thin_cells(deltas, CELLS), record[f"rpn_deltas_{level}"])

    def _of_anchors(self, found: dict, record: Record) -> Iterator[StageError]:
        for level, x in self._by_level(found["anchors"][0] * found["size"], found):
            x = x.reshape(-1, 4)[:, YX]
            ends = {"first": x[:30:ANCHOR_STEP], "last": x[-1:-31:-ANCHOR_STEP]}
            error = max(np.abs(ends[end] - record[f"anchors_{level}_{end}"]).max() for end in ends)
            yield StageError(f"anchors_{level}", float(error), 1e-3, PIXELS)

    def _of_proposals(self, found: dict, record: Record) -> Iterator[StageError]:
        """The record's proposals that we lack, and a difference in their number."""
        ours = found["proposals"][0] * found["size"]
        ours, theirs = ours[ours.any(axis=1)][:, YX], record["proposals"]
        nearest = np.abs(theirs[:, None] - ours[None]).max(axis=-1).min(axis=1, initial=np.inf)
        yield StageError("proposals missing", float(np.mean(nearest > SAME_PROPOSAL)), 0.01, SHARE)
        yield StageError("proposals too many or few", abs(len(ours) - int(record["proposal_count"])), 0, NUMBER)

    def _of_class_heads(self, found: dict, meta: np.ndarray, record: Record) -> Iterator[StageError]:
        """The class heads on the record's proposals, so that errors before them do not count."""
        head, cascade = self.model.stages.class_head, isinstance(self.model.stages.class_head, CascadeHead)
        rows = len(record["class_logits0" if cascade else "class_logits"])
        boxes = (record["proposals"][:rows, YX] / found["size"]).astype("float32")[None]
        inputs = [keras.ops.convert_to_tensor(x) for x in (boxes, meta)]
        levels = [keras.ops.convert_to_tensor(x) for x in found["levels"][:4]]
        outputs = [x[1:] for x in head.stages(*inputs, levels)] if cascade else [head(*inputs, levels)]
        for number, (_, probs, deltas) in enumerate(to_numpy(outputs)):
            number = number if cascade else ""
            theirs = record[f"class_logits{number}"]
            if self.rules.name == "detectron2":  # background is last there
                theirs = np.roll(theirs, 1, axis=1)
            theirs = np.exp(theirs - theirs.max(axis=1, keepdims=True))
            theirs /= theirs.sum(axis=1, keepdims=True)
            yield absolute(f"class probabilities{number}", probs[0], theirs)
            ours = deltas[0][..., YX]
            ours = ours[:, 0] if cascade else ours[:, CLASS_STEPS[self.rules.name]]  # a cascade has one box for all
            yield absolute(f"box deltas{number}", ours, record[f"box_deltas{number}"])

    def _of_masks(self, soft: SoftMasks, pairs: np.ndarray, record: Record) -> Iterator[StageError]:
        """The masks that the record has.

        A box that is 0.001 px away, as is usual in float32, moves pixels across the threshold whose probability was
        close to 0.5. All other pixels are the same.
        """
        expected = masks_of(record)
        ours, theirs = pairs[pairs[:, 1] < len(expected)].T
        expected = np.moveaxis(expected[theirs], 0, -1)
        mask, smaller, larger = (
            paste_masks(soft.masks[ours], soft.boxes[ours], expected.shape, threshold, self.rules.mask_paste)
            for threshold in (0.5, 0.5 + MASK_TIE, 0.5 - MASK_TIE)
        )
        both, either = (mask & expected).sum(), (mask | expected).sum()
        yield StageError("1 - IoU of the masks", float(1 - both / max(either, 1)), 1e-3, NUMBER)
        wrong = (smaller & ~expected) | (expected & ~larger)
        yield StageError("mask pixels not near 0.5", int(wrong.sum()), 0, NUMBER)

    def _by_level(self, values: np.ndarray, found: dict) -> Iterator[tuple[str, np.ndarray]]:
        """Splits rows of all anchors [A, ...]: name of the level, and [h, w, anchors, ...]."""
        start = 0
        per_cell = len(values) // sum(x.shape[1] * x.shape[2] for x in found["levels"])
        for level, x in zip(self.levels, found["levels"]):
            height, width = x.shape[1:3]
            rows = values[start : start + height * width * per_cell]
            start += len(rows)
            yield level, rows.reshape(height, width, per_cell, *values.shape[1:])


def _of_detections(boxes: np.ndarray, scores: np.ndarray, pairs: np.ndarray, record: Record) -> Iterator[StageError]:
    ours, theirs = pairs.T
    alone = len(boxes) + len(record["boxes"]) - 2 * len(pairs)
    yield StageError("detections without a partner", alone, 0, NUMBER)
    difference = np.abs(boxes[ours] - record["boxes"][theirs][:, YX])
    yield StageError("boxes", float(difference.max(initial=0)), SAME_BOX, PIXELS)
    yield absolute("scores", scores[ours], record["scores"][theirs])


def match_detections(
    boxes: np.ndarray, class_ids: np.ndarray, their_boxes: np.ndarray, their_ids: np.ndarray
) -> np.ndarray:
    """Pairs [p, (row of ours, row of theirs)] of one class and nearly the same box; equal scores may change places."""
    distance = np.abs(boxes[:, None] - their_boxes[None]).max(axis=-1)
    distance[class_ids[:, None] != their_ids[None]] = np.inf
    pairs = []
    for row in range(len(boxes)):
        best = int(distance[row].argmin()) if distance.shape[1] else 0
        if distance.shape[1] and distance[row, best] <= SAME_BOX:
            pairs.append((row, best))
            distance[:, best] = np.inf
    return np.reshape(np.array(pairs, int), (-1, 2))


def relative(stage: str, ours: np.ndarray, theirs: np.ndarray) -> StageError:
    error = np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-30)
    return StageError(stage, float(error), 1e-4, RELATIVE)


def absolute(stage: str, ours: np.ndarray, theirs: np.ndarray) -> StageError:
    return StageError(stage, float(np.abs(ours - theirs).max(initial=0)), 1e-4, NUMBER)


def to_numpy(tensors: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, tensors)
