"""`evaluate_dataset` measures a model on a dataset, `evaluate_predictions` a list or file of COCO results.

Example:

>>> from mrcnn.data.dataset import Dataset
>>> class Squares(Dataset):
...     def load_image(self, image_id):
...         return np.zeros((32, 32, 3), np.uint8)
...     def load_mask(self, image_id):
...         mask = np.zeros((32, 32, 1), bool)
...         mask[4:20, 4:20] = True
...         return mask, np.array([1])
>>> dataset = Squares()
>>> dataset.add_class("shapes", 1, "square")
>>> dataset.add_image("shapes", image_id=0, path=None)
>>> dataset.prepare()
>>> class Model:
...     def detect(self, images, verbose=0):
...         masks, class_ids = dataset.load_mask(0)
...         rois, scores = np.array([[4, 4, 20, 20]]), np.array([0.9])
...         return [{"rois": rois, "class_ids": class_ids, "scores": scores, "masks": masks} for _ in images]
>>> report = evaluate_dataset(Model(), dataset, progress=False)
>>> round(report.mask_ap, 3)
1.0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrcnn.data.dataset import Dataset, describe_image
from mrcnn.evaluation.coco_protocol import MAX_DETECTIONS, Settings
from mrcnn.evaluation.coco_results import Names, Predictions, ResultsWriter
from mrcnn.evaluation.collector import Collector
from mrcnn.evaluation.instances import Instances, detections_of, truth_of
from mrcnn.evaluation.report import Report

DETECTION_AREAS = ("auto", "box", "mask")
NUMBERS = ("box_ap", "mask_ap", "mask_ap50")  # of a report, that callbacks and metrics give
MIN_SCORE = 0.05  # published APs are measured with about this threshold; lower scores change AP very little


def evaluate_dataset(
    model: Any,
    dataset: Dataset,
    image_ids: Sequence[int] | None = None,
    *,
    min_score: float | None = MIN_SCORE,
    batch_size: int | None = None,
    boundary: bool = True,
    detection_area: str = "auto",
    max_detections: Sequence[int] = MAX_DETECTIONS,
    area_ranges: Mapping[str, tuple[float, float]] | None = None,
    save: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Runs a model on a dataset and measures its detections by COCO's protocol.

    One batch of images is in memory at a time. Detections are written to a file as RLE; only numbers stay in memory.

    Args:
        model: A `MaskRCNN`, or any object with `detect(images, verbose=0)` -> list of dicts with rois
            [n, (y1, x1, y2, x2)] pixels, class_ids [n], scores [n], masks [H, W, n].
        dataset: Prepared `Dataset`. Negative class ids from its `load_mask` are crowds.
        image_ids: The dataset's ids of the images to use; None: all.
        min_score: Detections with a lower score are ignored. It replaces `config.DETECTION_MIN_CONFIDENCE` while this
            function runs, so don't call `detect` from another thread. None: use the setting.
        batch_size: Images per call of `detect`; None: `model.config.BATCH_SIZE`.
        boundary: Whether to compute boundary AP.
        detection_area: Whether a detection's size (small, medium, large) is the area of its "box" or of its "mask".
            "auto" is the box, as in pycocotools; detectron2 uses the mask.
        max_detections: Detections per image and class that AP and AR count, in rising order: AP uses the last number,
            and each gives an AR. Errors, F1, confusion and calibration count all detections.
        area_ranges: Name -> (lowest, highest) area in pixels; each gives an AP and an AR. None: COCO's small, medium
            and large.
        save: Path of a COCO results file to write the detections to, or None.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: Arguments or detections are invalid (classes, shapes, NaN, boxes outside the image). The message
            names the image and the index.

    Example:

        print(evaluate_dataset(model, dataset))  # this module's docstring has one that runs
    """
    names, image_ids = _check_arguments(dataset, image_ids, detection_area)
    _check_model(model, dataset, min_score)
    batch_size = batch_size or getattr(getattr(model, "config", None), "BATCH_SIZE", 1)
    batches = [image_ids[first : first + batch_size] for first in range(0, len(image_ids), batch_size)]
    collector, unannotated = Collector(boundary, settings=Settings(area_ranges, max_detections)), 0
    with (
        ResultsWriter(save, names) as writer,
        _progress_bar(len(image_ids), progress) as bar,
        min_confidence(model, min_score),
    ):
        for batch in batches:
            for image_id, found in _detect(model, dataset, batch, detection_area, min_score):
                kept = _of_annotated_classes(found, names, image_id)
                unannotated += len(found) - len(kept)
                writer.add(image_id, kept)
                collector.add(image_id, _read_truth(dataset, image_id, found.size), kept)
                bar.update()
    return Report(names, collector, writer.read, _make_notes(model, min_score, unannotated))


def evaluate_predictions(
    dataset: Dataset,
    predictions: Sequence[dict] | str | Path,
    image_ids: Sequence[int] | None = None,
    *,
    boundary: bool = True,
    detection_area: str = "auto",
    max_detections: Sequence[int] = MAX_DETECTIONS,
    area_ranges: Mapping[str, tuple[float, float]] | None = None,
    progress: bool = True,
) -> Report:
    """Measures detections given as COCO results, from any model. Needs no backend.

    Args:
        dataset: Prepared `Dataset` with the ground truth.
        predictions: List of {"image_id", "category_id", "score", "bbox" and/or "segmentation"}, or the path of a JSON
            file with such a list (see `mrcnn.evaluation.coco_results`). A file is read one image at a time.
        image_ids: The dataset's ids of the images to use; None: all. Predictions for other images are left out.
        boundary: Whether to compute boundary AP.
        detection_area: As in `evaluate_dataset`; "auto" is the mask if the results have no boxes.
        max_detections, area_ranges: As in `evaluate_dataset`.
        progress: Whether to show a progress bar.

    Returns:
        A `Report`. If the results have no masks, it has numbers for boxes only.

    Raises:
        ValueError: for invalid input; the message names its index in the list.

    Example:

        report = evaluate_predictions(dataset, "detections/detections.json")
        print(report)
    """
    names, image_ids = _check_arguments(dataset, image_ids, detection_area)
    results = Predictions(predictions, names)
    masks = results.has_masks or len(results) == 0
    notes = [] if masks else ["The results hold no masks: only boxes are measured."]
    if detection_area == "mask" and not masks:
        raise ValueError('detection_area is "mask", but the predictions have no "segmentation".')
    collector = Collector(boundary, masks, Settings(area_ranges, max_detections))
    with _progress_bar(len(image_ids), progress) as bar:
        for image_id in image_ids:
            truth = truth_of(dataset, image_id)
            collector.add(image_id, truth, results.detections(image_id, truth.size, detection_area))
            bar.update()
    return Report(names, collector, lambda: results, notes)


def _check_arguments(dataset, image_ids, detection_area: str) -> tuple[Names, list[int]]:
    """Checks the arguments; returns the dataset's names and the chosen image ids."""
    names = Names(dataset)
    if detection_area not in DETECTION_AREAS:
        raise ValueError(f"detection_area is {detection_area!r}; expected one of {', '.join(DETECTION_AREAS)}.")
    chosen = list(names.image_key) if image_ids is None else list(dict.fromkeys(int(i) for i in np.ravel(image_ids)))
    for image_id in chosen:
        if image_id not in names.image_key:
            raise ValueError(f"image_ids has {image_id}; the dataset's images are 0 to {len(names.image_key) - 1}.")
    return names, chosen


# ---- Detecting -------------------------------------------------------------------------------------------------------
def _check_model(model, dataset, min_score: float | None) -> None:
    classes = getattr(getattr(model, "config", None), "NUM_CLASSES", dataset.num_classes)
    if classes != dataset.num_classes:
        raise ValueError(
            f"The model knows {classes} classes (config.NUM_CLASSES), the dataset {dataset.num_classes}, background"
            " included; expected the same."
        )
    if min_score is not None and not 0 <= min_score <= 1:
        raise ValueError(f"min_score is {min_score}; expected a number in [0, 1], or None for the model's own setting.")


@contextmanager
def min_confidence(model: Any, min_score: float | None) -> Iterator[None]:
    """Sets `model.config.DETECTION_MIN_CONFIDENCE` for the block and restores it, also after an exception."""
    config, name = getattr(model, "config", None), "DETECTION_MIN_CONFIDENCE"
    if min_score is None or not hasattr(config, name):
        yield
        return
    was_set, before = name in vars(config), getattr(config, name)
    setattr(config, name, min_score)
    try:
        yield
    finally:
        if was_set:
            setattr(config, name, before)
        else:  # the value of the class shows again
            delattr(config, name)


def _detect(model, dataset, image_ids, detection_area: str, min_score: float | None) -> Iterator[tuple[int, Instances]]:
    """Yields (image id, detections with at least `min_score`) for a batch of images."""
    images = [dataset.load_image(i) for i in image_ids]
    results = model.detect(images, verbose=0)
    if len(results) != len(images):
        raise ValueError(f"detect gave {len(results)} results for {len(images)} images.")
    for image_id, image, result in zip(image_ids, images, results):
        where = f"detections in {describe_image(dataset, image_id)}"
        found = detections_of(result, image.shape[:2], dataset.num_classes, where, detection_area)
        if min_score is not None and len(found):  # in float32, as the network compares
            found = found.take(np.flatnonzero(found.scores.astype(np.float32) >= np.float32(min_score)))
        yield image_id, found


def _of_annotated_classes(found: Instances, names: Names, image_id: int) -> Instances:
    """Removes detections of classes that the image's source doesn't annotate: they are neither right nor wrong."""
    known = names.annotated[names.dataset.image_info[image_id]["source"]]
    rows = np.flatnonzero(np.isin(found.class_ids, list(known)))
    return found if len(rows) == len(found) else found.take(rows)


def _read_truth(dataset, image_id: int, size: tuple[int, int]) -> Instances:
    truth = truth_of(dataset, image_id)
    if len(truth) and tuple(truth.size) != tuple(size):
        raise ValueError(
            f"The truth of {describe_image(dataset, image_id)}: masks of {tuple(truth.size)} pixels, image of {size}."
        )
    return truth


def _make_notes(model, min_score: float | None, unannotated: int) -> list[str]:
    notes = []
    threshold = min_score
    if threshold is None:
        threshold = getattr(getattr(model, "config", None), "DETECTION_MIN_CONFIDENCE", None) or 0
    if threshold > MIN_SCORE:
        notes.append(
            f"Detections with a score below {threshold} are left out. Published APs include those from about"
            f" {MIN_SCORE} on (min_score={MIN_SCORE}), so this AP is lower."
        )
    if unannotated:
        notes.append(
            f"{unannotated} detections are of classes that the source of their image isn't annotated with; they don't"
            " count."
        )
    return notes


def _progress_bar(total: int, shown: bool) -> tqdm:
    return tqdm(total=total, desc="Evaluating", unit="image", disable=not shown)
