"""Tracks the objects of a video from frame to frame.

Shapes: n detections on a frame, T tracked objects; boxes (y1, x1, y2, x2) pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from mrcnn.ops.boxes import compute_overlaps


class Tracker:
    """Assigns a number to each object of a video that stays the same from frame to frame.

    The position of each object is extrapolated from its last motion. Detections are assigned to objects of the same
    class so that the sum of box IoUs is maximal (Hungarian method); unassigned detections become new objects. An object
    that is not detected keeps its number for some frames and is then dropped.

    Args:
        min_iou: least IoU of a detection with the expected box of its object.
        max_missed: number of consecutive frames without the object before it is dropped.

    Reference: Bewley et al., "Simple Online and Realtime Tracking", which predicts with a Kalman filter.
    """

    SMOOTHING = 0.5  # weight of the newest step in the motion; lower is smoother but slower to react

    def __init__(self, min_iou: float = 0.3, max_missed: int = 10):
        self.min_iou, self.max_missed = min_iou, max_missed
        self._last_number = 0
        self._numbers = np.zeros(0, int)  # [T]
        self._class_ids = np.zeros(0, int)  # [T]
        self._boxes = np.zeros((0, 4))  # [T, 4] last detected box
        self._steps = np.zeros((0, 4))  # [T, (dy, dx, dy, dx)] of a frame
        self._missed = np.zeros(0, int)  # [T] frames since

    def update(self, boxes: ArrayLike, class_ids: ArrayLike) -> np.ndarray:
        """Returns the numbers of the detections in the next frame.

        Args:
            boxes: [n, 4]; may be an empty list.
            class_ids: [n].

        Returns:
            [n] int, starting at 1; no number occurs twice.
        """
        boxes, class_ids = np.asarray(boxes, float).reshape(-1, 4), np.asarray(class_ids, int).reshape(-1)
        objects, found = self._match(boxes, class_ids)
        self._missed += 1
        self._follow(objects, boxes[found])
        numbers = np.zeros(len(boxes), int)
        numbers[found] = self._numbers[objects]
        new = np.flatnonzero(numbers == 0)
        numbers[new] = self._last_number + 1 + np.arange(len(new))
        self._last_number += len(new)
        self._keep(self._missed <= self.max_missed)
        self._add(numbers[new], class_ids[new], boxes[new])
        return numbers

    def _match(self, boxes, class_ids) -> tuple[np.ndarray, np.ndarray]:
        """Returns indices of objects and of the detections assigned to them."""
        expected = self._boxes + self._steps * (self._missed + 1)[:, np.newaxis]
        ious = compute_overlaps(expected, boxes)  # [T, n]
        ious[(ious < self.min_iou) | (self._class_ids[:, np.newaxis] != class_ids)] = 0
        objects, found = linear_sum_assignment(ious, maximize=True)
        real = ious[objects, found] > 0
        return objects[real], found[real]

    def _follow(self, objects, boxes) -> None:
        center_moved = (boxes - self._boxes[objects]).reshape(-1, 2, 2).mean(axis=1)  # [found objects, (dy, dx)]
        steps = np.tile(center_moved / self._missed[objects, np.newaxis], 2)
        self._steps[objects] += self.SMOOTHING * (steps - self._steps[objects])
        self._boxes[objects], self._missed[objects] = boxes, 0

    def _keep(self, kept) -> None:
        for name in ("_numbers", "_class_ids", "_boxes", "_steps", "_missed"):
            setattr(self, name, getattr(self, name)[kept])

    def _add(self, numbers, class_ids, boxes) -> None:
        self._numbers = np.concatenate([self._numbers, numbers])
        self._class_ids = np.concatenate([self._class_ids, class_ids])
        self._boxes = np.concatenate([self._boxes, boxes])
        self._steps = np.concatenate([self._steps, np.zeros((len(boxes), 4))])
        self._missed = np.concatenate([self._missed, np.zeros(len(boxes), int)])
