"""The report about a failed training step: a JSON file, and a picture of the batch with its objects.

B images of [H, W, C], molded or as given to `fit`; G objects each, padded with class id 0. Boxes (y1, x1, y2, x2) in
pixels.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.io import replacing
from mrcnn.ops.images import add_mean
from mrcnn.ops.masks import expand_mask
from mrcnn.ops.meta import parse_image_meta
from mrcnn.training.arrays import is_finite

MOST_IMAGES = 8  # in a picture
SIDE = 512  # pixels of an image in the picture
GROUPS = {"fpn_": "fpn", "rpn_": "rpn", "mrcnn_mask": "mask_head", "mrcnn_": "box_head"}  # by the layer's name


def write_report(
    folder: Path, facts: dict, batch: dict[str, np.ndarray], config: Config, dataset: Dataset | None = None
) -> None:
    """Writes `step.json` and, if there are images, `batch.png`.

    Args:
        folder: created if it does not exist.
        facts: facts about the step.
        batch: the inputs of the network; may be empty.
        config: `Config` of the model.
        dataset: the dataset of the images, which has their paths; or None.

    Raises:
        OSError: the folder can't be written.
    """
    facts = {**facts, "images": _origins(batch, dataset), "arrays": {name: _describe(a) for name, a in batch.items()}}
    with replacing(folder / "step.json") as unfinished:
        unfinished.write_text(json.dumps(_encode(facts), indent=1), encoding="utf-8")
    if "images" in batch or "input_image" in batch:
        from mrcnn.drawing.renderer import encode  # matplotlib takes long to import

        with replacing(folder / "batch.png") as unfinished:
            unfinished.write_bytes(encode(draw_batch(batch, config), ".png"))


def gradient_norms(variables: Iterable[keras.Variable], squares: np.ndarray) -> dict[str, float]:
    """The norm of the gradient of each group of layers, from the sum of squares of each variable's gradient."""
    sums: dict[str, float] = {}
    for variable, square in zip(variables, squares, strict=True):
        name = variable.path.split("/")[0]
        group = next((group for start, group in GROUPS.items() if name.startswith(start)), "backbone")
        sums[group] = sums.get(group, 0.0) + float(square)
    return {group: math.sqrt(total) if total >= 0 else math.nan for group, total in sums.items()}


def broken_arrays(batch: dict[str, np.ndarray]) -> list[str]:
    """Names of the inputs that hold NaN or infinite values."""
    return [name for name, array in batch.items() if not is_finite(array)]


def draw_batch(batch: dict[str, np.ndarray], config: Config) -> np.ndarray:
    """[h, w, 3] uint8: the images of a batch side by side, with the boxes and masks of their objects."""
    from mrcnn.drawing.renderer import side_by_side

    molded = "input_image" in batch
    names = ("input_image", "input_gt_boxes", "input_gt_class_ids", "input_gt_masks")
    images, boxes, class_ids, masks = (
        batch.get(name) for name in (names if molded else ("images", "boxes", "labels", "masks"))
    )
    pictures = []
    for i in range(min(len(images), MOST_IMAGES)):
        image = np.nan_to_num(np.asarray(images[i], np.float32))
        image = add_mean(image, config.MEAN_PIXEL) if molded else np.clip(image, 0, 255).astype(np.uint8)
        objects = (boxes[i], class_ids[i], None if masks is None else masks[i]) if boxes is not None else None
        pictures.append(_draw_objects(image[..., :3], objects))
    return functools.reduce(side_by_side, pictures)


def _draw_objects(image: np.ndarray, objects: tuple | None) -> np.ndarray:
    from mrcnn.drawing.palette import class_colors
    from mrcnn.drawing.renderer import draw_instances

    if objects is None:
        return draw_instances(image, np.zeros((0, 4)), None, [], [], side=SIDE)
    boxes, class_ids, masks = objects
    height, width = image.shape[:2]
    boxes = np.asarray(boxes, np.float64)
    shown = np.isfinite(boxes).all(axis=1) & (np.asarray(class_ids) > 0)
    boxes = np.rint(boxes[shown]).clip(0, [height, width, height, width]).astype(int)
    class_ids = np.asarray(class_ids)[shown].astype(int)
    if masks is not None:
        masks = np.asarray(masks)[..., shown] > 0.5
        if masks.shape[:2] != image.shape[:2]:
            masks = expand_mask(boxes, masks, image.shape)
    return draw_instances(image, boxes, masks, [str(i) for i in class_ids], class_colors(class_ids), side=SIDE)


def _origins(batch: dict[str, np.ndarray], dataset: Dataset | None) -> list[dict]:
    if "input_image_meta" not in batch or not is_finite(batch["input_image_meta"]):
        return []
    ids = [int(i) for i in parse_image_meta(batch["input_image_meta"])["image_id"]]
    if dataset is None:
        return [{"image_id": i} for i in ids]
    links = [dataset.source_image_link(i) if i < len(dataset.image_info) else None for i in ids]
    return [{"image_id": i, "path": link and str(link)} for i, link in zip(ids, links)]


def _describe(array: np.ndarray) -> dict:
    found = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.size and array.dtype.kind in "iuf":
        finite = array[np.isfinite(array)]
        found |= {"not_finite": int(array.size - finite.size)}
        found |= {"min": finite.min(), "max": finite.max()} if finite.size else {}
    return found


def _encode(value):
    """JSON has no NaN and no infinite numbers; they become "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
