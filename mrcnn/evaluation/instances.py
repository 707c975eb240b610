"""The instances of one image, ground truth or detections, in the form that the metrics use.

    class_ids [n] int, 1..C-1, of the dataset
    boxes [n, (x, y, width, height)] float64 pixels, COCO's order
    areas [n] float64 pixels, which decide what is small, medium and large
    crowd [n] bool: a region of many objects; a detection in it is neither correct nor wrong
    scores [n] float64, detections only
    rles: n masks as run lengths, or None where there are boxes only

Ground truth comes from `dataset.load_mask`. If the `image_info` of an image has COCO annotations, box and area are
those of the annotations, as in pycocotools: the area of a COCO polygon isn't its number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.data.dataset import Dataset, describe_image
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.inference.results import Detections
from mrcnn.ops.rle import encode_masks, to_rle

BOX_TOLERANCE = 1.0  # pixels a box may reach beyond its image: annotation tools round outwards


@dataclass
class Instances:
    """Instances of one image; the module's docstring has the shapes."""

    size: tuple[int, int]  # height, width
    class_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray | None = None
    rles: list[dict] | None = None

    def __len__(self) -> int:
        return len(self.class_ids)

    def take(self, rows: np.ndarray) -> Instances:
        """The instances of these rows, in the order of `rows`."""
        return Instances(
            self.size,
            self.class_ids[rows],
            self.boxes[rows],
            self.areas[rows],
            self.crowd[rows],
            None if self.scores is None else self.scores[rows],
            None if self.rles is None else [self.rles[i] for i in rows],
        )

    def corners(self) -> np.ndarray:
        """[n, (y1, x1, y2, x2)] float64 pixels: the boxes in this package's order."""
        return _corners(self.boxes)

    def mask_corners(self) -> np.ndarray:
        """[n, (y1, x1, y2, x2)] float64 pixels: the smallest boxes around the masks."""
        return _corners(coco_mask.toBbox(self.rles).reshape(-1, 4))

    def masks(self) -> np.ndarray:
        """[H, W, n] bool."""
        if not self.rles:
            return np.zeros((*self.size, 0), bool)
        return coco_mask.decode(self.rles).astype(bool)


def _corners(boxes: np.ndarray) -> np.ndarray:
    x, y, width, height = boxes.T
    return np.stack([y, x, y + height, x + width], axis=1)


# ---- Truth -----------------------------------------------------------------------------------------------------------
def truth_of(dataset: Dataset, image_id: int) -> Instances:
    """Ground-truth instances of an image.

    Args:
        dataset: A prepared `Dataset`. Negative class ids from its `load_mask` are crowds.
        image_id: The dataset's id of the image.

    Raises:
        ValueError: Masks and class ids don't fit together or don't fit the image, which the message names.
    """
    annotations = _coco_annotations(dataset.image_info[image_id])
    if annotations:
        return _truth_of_annotations(dataset, image_id, annotations)
    info = dataset.image_info[image_id]
    stated = (info.get("height"), info.get("width"))
    masks, class_ids = load_masks(dataset, image_id, size=stated if all(stated) else None)
    check_class_ids(class_ids, dataset, image_id)
    return truth_of_masks(masks, class_ids)


def truth_of_masks(masks: np.ndarray, class_ids: np.ndarray) -> Instances:
    """Ground-truth instances from masks [H, W, n] and class ids [n], negative for crowds. Empty masks are left out."""
    if not len(class_ids):
        return empty(masks.shape[:2])
    rles = encode_masks(masks)
    areas = coco_mask.area(rles).astype(np.float64)
    kept = np.flatnonzero(areas > 0)  # an empty mask cannot be detected
    boxes = coco_mask.toBbox(rles).reshape(-1, 4)
    whole = Instances(masks.shape[:2], np.abs(class_ids).astype(np.int64), boxes, areas, class_ids < 0, None, rles)
    return whole.take(kept)


def empty(size: tuple[int, int]) -> Instances:
    """No instances."""
    return Instances(size, np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), np.zeros(0), [])


def _coco_annotations(info: dict) -> list[dict] | None:
    """The COCO annotations in `image_info`, where matterport's CocoDataset keeps them; None if there are none."""
    annotations = info.get("annotations")
    needed = {"segmentation", "category_id", "bbox", "area"}
    if not isinstance(annotations, list) or not info.get("height") or not info.get("width"):
        return None
    return annotations if all(isinstance(a, dict) and needed <= a.keys() for a in annotations) else None


def _truth_of_annotations(dataset, image_id: int, annotations: list[dict]) -> Instances:
    info = dataset.image_info[image_id]
    size = int(info["height"]), int(info["width"])
    classes = class_numbers(dataset)
    known = [(classes.get((info["source"], plain(a["category_id"]))), a) for a in annotations]
    known = [(class_id, a) for class_id, a in known if class_id is not None]  # classes that were not loaded
    if not known:
        return empty(size)
    rles = []
    for i, (_, annotation) in enumerate(known):
        try:
            rles.append(to_rle(annotation["segmentation"], *size))
        except ValueError as error:
            raise ValueError(f"the truth of {describe_image(dataset, image_id)}, annotation {i}: {error}.") from error
    return Instances(
        size,
        np.array([class_id for class_id, _ in known]),
        np.array([a["bbox"] for _, a in known], np.float64).reshape(-1, 4),
        np.array([a["area"] for _, a in known], np.float64),
        np.array([bool(a.get("iscrowd", 0)) for _, a in known]),
        None,
        rles,
    )


def class_numbers(dataset: Dataset) -> dict[tuple[str, int | str], int]:
    """(source, the source's class id) -> the dataset's class id, the background left out.

    A class that `prepare(class_map)` merged from several has several such keys.
    """
    numbers = {}
    for i, info in enumerate(dataset.class_info):
        for source, own_id in info.get("members") or [(info["source"], info["id"])]:
            if i > 0:
                numbers[source, plain(own_id)] = i
    return numbers


def plain(value: object) -> object:
    """A NumPy number as a Python number, for JSON and as a key; other values as they are."""
    return value.item() if isinstance(value, np.generic) else value


# ---- Detections ------------------------------------------------------------------------------------------------------
def detections_of(result: dict, size: tuple[int, int], num_classes: int, where: str, area: str = "auto") -> Instances:
    """Detected instances of an image from a result of `model.detect`.

    Args:
        result: `Detections`, or a dict with rois [n, (y1, x1, y2, x2)] pixels, class_ids [n], scores [n], masks
            [H, W, n].
        size: Height and width of the image.
        num_classes: C, including the background.
        where: The image, for messages.
        area: The area of a detection is that of its "mask" or of its "box"; "auto" is the box.

    Raises:
        ValueError: shapes that don't fit together, NaN, a box outside the image, a class id out of range: named,
            with the index of the detection.
    """
    missing = [key for key in ("rois", "class_ids", "scores", "masks") if key not in result]
    if missing:
        raise ValueError(f"{where}: the result has no {missing[0]!r}; expected rois, class_ids, scores and masks.")
    class_ids = np.asarray(result["class_ids"]).reshape(-1)
    n = len(class_ids)
    rois = np.asarray(result["rois"], np.float64)
    scores = np.asarray(result["scores"], np.float64).reshape(-1)
    if n == 0:
        return empty(size)
    rles = result.rle if isinstance(result, Detections) else None  # without pasting
    masks = np.asarray(result["masks"]) if rles is None else None
    shape = (*result.image_shape, len(rles)) if masks is None else masks.shape
    if rois.shape != (n, 4) or len(scores) != n:
        raise ValueError(f"{where}: {n} class_ids, rois of shape {rois.shape}, {len(scores)} scores; expected [{n}, 4]"
                         f" and {n}.")  # fmt: skip
    if shape != (*size, n):
        raise ValueError(f"{where}: masks of shape {shape}; expected {(*size, n)}, one mask of the image each.")
    boxes = np.stack([rois[:, 1], rois[:, 0], rois[:, 3] - rois[:, 1], rois[:, 2] - rois[:, 0]], axis=1)
    require_detections(class_ids, scores, boxes, size, num_classes, where)
    rles = encode_masks(masks) if rles is None else rles
    areas = coco_mask.area(rles).astype(np.float64) if area == "mask" else boxes[:, 2] * boxes[:, 3]
    return Instances(size, class_ids.astype(np.int64), boxes, areas, np.zeros(n, bool), scores, rles)


def require_detections(
    class_ids: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    num_classes: int,
    where: str,
    indices: np.ndarray | None = None,
) -> None:
    """Raises a ValueError for NaN, classes out of range and boxes outside the image; it names the first index.

    Args:
        boxes: [n, (x, y, width, height)].
        indices: [n] indices for the message; None: the rows.
    """
    _require_classes(class_ids, num_classes, where, "class_ids", indices)
    _require(np.isfinite(scores), where, "score", scores, "a finite number", indices)
    _require(np.isfinite(boxes).all(axis=1), where, "box", boxes, "finite numbers", indices)
    _require((boxes[:, 2:] >= 0).all(axis=1), where, "box", boxes, "a width and height of at least 0", indices)
    height, width = size
    inside = (boxes[:, :2] >= -BOX_TOLERANCE).all(axis=1)
    inside &= boxes[:, 0] + boxes[:, 2] <= width + BOX_TOLERANCE
    inside &= boxes[:, 1] + boxes[:, 3] <= height + BOX_TOLERANCE
    _require(inside, where, "box (x, y, width, height)", boxes, f"one inside its image of {width} x {height}", indices)


def _require_classes(class_ids, num_classes: int, where: str, name: str, indices=None) -> None:
    good = (class_ids >= 1) & (class_ids < num_classes)
    _require(good, where, name, class_ids, f"1 to {num_classes - 1} (0 is the background)", indices)


def _require(good, where: str, name: str, values, expected: str, indices=None) -> None:
    if not np.all(good):
        row = int(np.argmin(good))
        value = values[row].tolist()
        index = row if indices is None else int(indices[row])
        raise ValueError(f"{where}, index {index}: {name} is {value}; expected {expected}.")
