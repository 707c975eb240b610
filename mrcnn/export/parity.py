"""Compares an exported model with Keras, output by output, on images that give 0 to the most objects.

Shapes: those of `mrcnn.export.export_graphs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

TOLERANCES = {"boxes": 1e-4, "scores": 1e-4, "masks": 1e-3}  # largest absolute error; boxes are normalized
AP_TOLERANCE = 0.01
SAMPLES = 20
BATCH = 4
IN_BATCHES = 8  # of the 20 images; the others run one by one
NOTHING, EVERYTHING = (2.0, 0.5), (0.0, 1.0)  # thresholds that give no object, and the most objects

Run = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]


@dataclass
class Sample:
    """What a model takes: images [B, H, W, channels], windows [B, 4], thresholds [2]; and what Keras finds in it."""

    images: np.ndarray
    windows: np.ndarray
    thresholds: np.ndarray
    expected: dict[str, np.ndarray]

    @property
    def counts(self) -> list[int]:
        """Objects in each image."""
        return (self.expected["class_ids"] > 0).sum(axis=1).tolist()


# ---- Images ----------------------------------------------------------------------------------------------------------
def drawn_photos(count: int, height: int, width: int, channels: int, seed: int = 0) -> list[np.ndarray]:
    """Photos [h, w, channels] uint8 of odd sizes with ellipses and rectangles on a gradient with noise."""
    rng = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        h, w = (2 * (int(side * rng.uniform(0.3, 1.2)) // 2) + 1 for side in (height, width))
        y, x = np.mgrid[:h, :w]
        photo = rng.uniform(0, 255, channels) * (y / h)[..., None] + rng.uniform(0, 60, (h, w, channels))
        for _ in range(rng.integers(1, 9)):
            center, radius = rng.uniform(0, 1, 2) * (h, w), rng.uniform(0.05, 0.25) * min(h, w)
            dy, dx = (y - center[0]) / radius, (x - center[1]) / (radius * rng.uniform(0.5, 2))
            inside = dy**2 + dx**2 < 1 if rng.uniform() < 0.5 else np.maximum(abs(dy), abs(dx)) < 1
            photo[inside] = rng.uniform(0, 255, channels)
        photos.append(photo.clip(0, 255).astype(np.uint8))
    return photos


def make_samples(run: Run, fitted: list[tuple[np.ndarray, np.ndarray]], thresholds: tuple) -> Iterator[Sample]:
    """The images with thresholds that give from no object to the most, first one by one and then in batches.

    Args:
        run: The model in Keras.
        fitted: (image, window) of each photo.
        thresholds: Those of the model's settings.
    """
    single = max(1, len(fitted) - IN_BATCHES)
    for i, (image, window) in enumerate(fitted[:single]):
        share = i / max(1, single - 1)
        wanted = NOTHING if i == 0 and single > 1 else EVERYTHING if share == 1 else None
        yield _sample(run, [image], [window], wanted, thresholds, share)
    for start in range(single, len(fitted), BATCH):
        images, windows = zip(*fitted[start : start + BATCH])
        yield _sample(run, images, windows, None, thresholds, 0.5)


def _sample(run: Run, images, windows, wanted, thresholds, share: float) -> Sample:
    images, windows = np.stack(images), np.stack(windows)
    if wanted is None:  # the threshold is halfway between two scores, where rounding errors don't matter
        scores = run(images, windows, np.float32([0.0, thresholds[1]]))["scores"]
        scores = np.append(np.unique(scores[scores > 0])[::-1], 0.0)
        count = max(1, int(share * (len(scores) - 1)))
        wanted = float(scores[count - 1 : count + 1].mean()), thresholds[1]
    wanted = np.array(wanted, np.float32)
    return Sample(images, windows, wanted, run(images, windows, wanted))


# ---- Errors ----------------------------------------------------------------------------------------------------------
def largest_errors(sample: Sample, found: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest absolute error of boxes, scores and masks; infinity if there is another number of objects.

    Detections are compared in their order. Where two have nearly the same score, rounding can swap them; so where rows
    differ, each is compared with the most similar one of its class.
    """
    errors = dict.fromkeys(TOLERANCES, 0.0)
    for i, count in enumerate(sample.counts):
        expected = {name: x[i] for name, x in sample.expected.items()}
        actual = {name: x[i] for name, x in found.items()}
        if count != int((actual["class_ids"] > 0).sum()):
            return dict.fromkeys(TOLERANCES, math.inf)
        rows = _matching_rows(expected, actual, count)
        if rows is None:
            return dict.fromkeys(TOLERANCES, math.inf)
        for name in errors:
            difference = np.abs(expected[name][:count].astype(np.float64) - actual[name][rows])
            errors[name] = max(errors[name], float(np.nan_to_num(difference, nan=math.inf).max(initial=0.0)))
    return errors


def _matching_rows(expected: dict, actual: dict, count: int) -> np.ndarray | None:
    """For each of the `count` detections the row of the most similar one of its class; None if there is none left."""
    free, rows = np.arange(count), []
    for i in range(count):
        same = free[actual["class_ids"][free] == expected["class_ids"][i]]
        if not len(same):
            return None
        distance = np.abs(actual["boxes"][same] - expected["boxes"][i]).max(axis=1)
        distance = distance + np.abs(actual["scores"][same] - expected["scores"][i])
        rows.append(int(same[np.argmin(np.nan_to_num(distance, nan=math.inf))]))
        free = free[free != rows[-1]]
    return np.array(rows, int)


def compare(samples: Iterable[Sample], run: Run) -> dict:
    """Runs an exported model on the samples.

    Returns:
        dict of `errors` (largest of boxes, scores and masks), `images`, `batch_sizes`, and `objects`, the number of
        detections of each image.
    """
    errors, objects, batches = dict.fromkeys(TOLERANCES, 0.0), [], []
    for sample in samples:
        found = run(sample.images, sample.windows, sample.thresholds)
        errors = {name: max(error, errors[name]) for name, error in largest_errors(sample, found).items()}
        objects += sample.counts
        batches.append(len(sample.images))
    return {"errors": errors, "images": len(objects), "batch_sizes": sorted(set(batches)), "objects": objects}


def failures(errors: dict[str, float]) -> list[str]:
    """A text for each error beyond its tolerance."""
    return [
        f"{name} {error:.3g} (allowed: {TOLERANCES[name]:g})"
        for name, error in errors.items()
        if not error <= TOLERANCES[name]
    ]


def first_wrong_stage(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> str | None:
    """The name of the first stage whose result differs by more than its scale allows, or None.

    Args:
        expected, actual: arrays by the stages' names, in the order in which they are computed. What is computed from
            wrong inputs is wrong too, so only the first name says where to look.
    """
    for name, array in expected.items():
        allowed = TOLERANCES.get(name, TOLERANCES["boxes"]) * max(1.0, float(np.abs(array).max(initial=0.0)))
        same_shape = array.shape == actual[name].shape
        if not same_shape or not np.abs(array - actual[name]).max(initial=0.0) <= allowed:
            return name
    return None
