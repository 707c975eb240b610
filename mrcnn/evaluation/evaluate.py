"""The two ways in: evaluate a model on a data set, or results that lie there already."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from mrcnn.data.dataset import describe_image
from mrcnn.evaluation.coco_results import Names, Predictions, ResultsWriter
from mrcnn.evaluation.collector import Collector
from mrcnn.evaluation.instances import Instances, detections_of, truth_of
from mrcnn.evaluation.report import Report

AREAS_OF_DETECTIONS = ("auto", "box", "mask")
PAPER_CONFIDENCE = 0.05  # detections below it hardly change COCO's AP; published numbers are made with about this


def evaluate_dataset(
    model,
    dataset,
    image_ids=None,
    *,
    batch_size: int | None = None,
    boundary: bool = True,
    detection_area: str = "auto",
    save=None,
    progress: bool = True,
) -> Report:
    """Runs a model over a data set and measures its detections by COCO's protocol and beyond.

    One batch of images is in memory at a time. Detections go to a file as run lengths, and only numbers stay.

    Args:
        model: anything with `detect(images, verbose=0)` -> list of dicts with rois [n, (y1, x1, y2, x2)] pixels,
            class_ids [n], scores [n], masks [H, W, n].
        dataset: a prepared `Dataset`. Negative class ids of its `load_mask` mean crowds.
        image_ids: which of its images; None: all.
        batch_size: images given to `detect` at once; None: the model's `config.BATCH_SIZE`.
        boundary: measure boundary AP too.
        detection_area: whether a detection is small, medium or large by its "box" or by its "mask". "auto": by its
            box, as pycocotools does with results that have boxes. detectron2's numbers are by "mask".
        save: path of a COCO results file to keep the detections in, or None.
        progress: show a progress bar.

    Returns:
        A `Report`.

    Raises:
        ValueError: something doesn't fit (classes, shapes, NaN, boxes outside the image), named with image and index.
    """
    names, image_ids = _prepare(dataset, image_ids, detection_area)
    notes = _notes_on(model, dataset)
    config = getattr(model, "config", None)
    batch_size = batch_size or getattr(config, "BATCH_SIZE", 1)
    collector = Collector(boundary)
    strangers = 0
    with ResultsWriter(save, names) as writer, _bar(len(image_ids), progress) as bar:
        for first in range(0, len(image_ids), batch_size):
            batch = image_ids[first : first + batch_size]
            images = [dataset.load_image(i) for i in batch]
            results = model.detect(images, verbose=0)
            if len(results) != len(batch):
                raise ValueError(f"detect gave {len(results)} results for {len(batch)} images.")
            for image_id, image, result in zip(batch, images, results):
                where = f"detections in {describe_image(dataset, image_id)}"
                found = detections_of(result, image.shape[:2], dataset.num_classes, where, detection_area)
                kept = _of_known_classes(found, names, image_id)
                strangers += len(found) - len(kept)
                writer.add(image_id, kept)
                collector.add(image_id, _truth(dataset, image_id, image.shape[:2]), kept)
                bar.update()
    if strangers:
        notes.append(f"{strangers} detections are of classes that the source of their image isn't annotated with;"
                     " they don't count.")  # fmt: skip
    return Report(names, collector, writer.read, notes)


def evaluate_predictions(
    dataset,
    predictions,
    image_ids=None,
    *,
    boundary: bool = True,
    detection_area: str = "auto",
    progress: bool = True,
) -> Report:
    """Measures detections in COCO's results form, from whatever model.

    Args:
        dataset: a prepared `Dataset`, the truth.
        predictions: list of {"image_id", "category_id", "score", "bbox" and / or "segmentation"}, or the path of a
            JSON file that holds one (see `mrcnn.evaluation.coco_results`). A file is read one image at a time.
        image_ids: the data set's numbers of the images to look at; None: all. Predictions of others are left out.
        boundary, detection_area, progress: as in `evaluate_dataset`; "auto" takes the mask's area where results have
            no boxes.

    Returns:
        A `Report`. Without masks in the results it has numbers for boxes only.

    Raises:
        ValueError: bad input, named by its index in the list.
    """
    names, image_ids = _prepare(dataset, image_ids, detection_area)
    results = Predictions(predictions, names)
    masks = results.has_masks or len(results) == 0
    notes = [] if masks else ["The results hold no masks: only boxes are measured."]
    if detection_area == "mask" and not masks:
        raise ValueError('detection_area is "mask", but the predictions have no "segmentation".')
    collector = Collector(boundary, masks)
    with _bar(len(image_ids), progress) as bar:
        for image_id in image_ids:
            truth = truth_of(dataset, image_id)
            collector.add(image_id, truth, results.detections(image_id, truth.size, detection_area))
            bar.update()
    return Report(names, collector, lambda: results, notes)


def _prepare(dataset, image_ids, detection_area: str) -> tuple[Names, list[int]]:
    """Names of the data set, and the images chosen."""
    names = Names(dataset)
    if detection_area not in AREAS_OF_DETECTIONS:
        raise ValueError(f"detection_area is {detection_area!r}; expected one of {', '.join(AREAS_OF_DETECTIONS)}.")
    chosen = list(names.image_key) if image_ids is None else list(dict.fromkeys(int(i) for i in np.ravel(image_ids)))
    for image_id in chosen:
        if image_id not in names.image_key:
            raise ValueError(f"image_ids has {image_id}; the data set's images are 0 to {len(names.image_key) - 1}.")
    return names, chosen


def _notes_on(model, dataset) -> list[str]:
    config = getattr(model, "config", None)
    classes = getattr(config, "NUM_CLASSES", dataset.num_classes)
    if classes != dataset.num_classes:
        raise ValueError(
            f"The model knows {classes} classes (config.NUM_CLASSES), the data set {dataset.num_classes}, background"
            " included; expected the same."
        )
    confidence = getattr(config, "DETECTION_MIN_CONFIDENCE", None) or 0
    if confidence <= PAPER_CONFIDENCE:
        return []
    return [
        f"The model gives out no detection with a score below {confidence} (config.DETECTION_MIN_CONFIDENCE). AP as"
        f" papers report it wants {PAPER_CONFIDENCE} or less there: recall is cut off."
    ]


def _of_known_classes(found: Instances, names: Names, image_id: int) -> Instances:
    """Without detections of classes the image's source isn't annotated with: nobody can say if they are right."""
    known = names.annotated[names.dataset.image_info[image_id]["source"]]
    rows = np.flatnonzero(np.isin(found.class_ids, list(known)))
    return found if len(rows) == len(found) else found.take(rows)


def _truth(dataset, image_id: int, size: tuple[int, int]) -> Instances:
    truth = truth_of(dataset, image_id)
    if len(truth) and tuple(truth.size) != tuple(size):
        raise ValueError(
            f"The truth of {describe_image(dataset, image_id)}: masks of {tuple(truth.size)} pixels, image of {size}."
        )
    return truth


def _bar(total: int, shown: bool) -> tqdm:
    return tqdm(total=total, desc="Evaluating", unit="image", disable=not shown)
