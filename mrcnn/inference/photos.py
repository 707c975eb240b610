"""Photos in, a dict of arrays out: implements `MaskRCNN.predict` and `model(photos)`.

Shapes: B photos, D rows of detections (`DETECTION_MAX_INSTANCES`), h x w the mask head's size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mrcnn.inference import molding
from mrcnn.inference.detector import Detector

if TYPE_CHECKING:
    from mrcnn.config import Config


def are_photos(x: Any) -> bool:
    """Whether x is a batch of photos: an array or tensor [B, H, W, channels], or a list of photos or paths.

    The other inputs are matterport's, `[molded_images, image_metas]`, and dicts of the graph's inputs.
    """
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(isinstance(image, (str, Path)) or np.ndim(image) in (2, 3) for image in x)
    return len(getattr(x, "shape", ())) == 4


def batches_of_photos(x: Any, batch_size: int, steps: int | None = None) -> tuple[Iterator[Any] | None, Any]:
    """Batches of photos from anything that `predict` takes.

    Args:
        x: An array or a list of photos; or a `keras.utils.PyDataset`, a `tf.data.Dataset` or another iterable, whose
            batches are arrays or lists of photos, or tuples that begin with them, such as `(images, truth)`.
        batch_size: Photos in each batch of an array or list.
        steps: Maximum number of batches; None: all.

    Returns:
        The batches, or None if x has no photos; and x, still whole.
    """
    if are_photos(x):
        batches = (x[first : first + batch_size] for first in range(0, len(x), batch_size))
        return itertools.islice(batches, steps), x
    batches = _iterate(x)
    first = next(batches, None) if batches is not None else None
    if batches is not None:
        x = _put_back(first, batches) if isinstance(x, Iterator) else x
        batches = _iterate(x)
    if first is None or not are_photos(photos_of(first)):
        return None, x
    return (photos_of(batch) for batch in itertools.islice(batches, steps)), x


def _put_back(first: Any, rest: Iterator) -> Iterator:
    """A generator: Keras accepts generators, but not other iterators."""
    if first is not None:
        yield first
    yield from rest


def _iterate(x: Any) -> Iterator | None:
    """Iterates once over the batches of a dataset; None for arrays and structures of arrays."""
    if isinstance(x, keras.utils.PyDataset):
        numbers = itertools.count() if x.num_batches is None else range(x.num_batches)
        return (x[i] for i in numbers)
    if isinstance(x, (list, tuple, dict, str)) or hasattr(x, "dtype") or not isinstance(x, Iterable):
        return None
    return iter(x)


def batches_with_truth(x: Any, y: Any, batch_size: int, steps: int | None = None) -> Iterator[tuple[Any, dict]]:
    """Batches of photos and their objects from anything that `fit` takes: arrays x and y, or a dataset x.

    Raises:
        ValueError: x can be read only once, or has no objects.
    """
    if y is not None:
        starts = range(0, len(x), batch_size)
        batches = (
            (x[i : i + batch_size], {name: array[i : i + batch_size] for name, array in y.items()}) for i in starts
        )
    elif isinstance(x, Iterator):
        raise ValueError(
            "AP needs to read the data a second time, but an iterator can be read only once. Give a PyDataset, a"
            " tf.data.Dataset or arrays, or compile without MeanAveragePrecision."
        )
    else:
        batches = _iterate(x)
    for batch in itertools.islice(batches, steps):
        if not isinstance(batch, tuple) or len(batch) < 2 or not isinstance(batch[1], dict):
            raise ValueError(
                'AP needs batches (images, {"boxes": ..., "labels": ..., "masks": ...}); got '
                f"{type(batch).__name__}. For a Dataset of this package, use `evaluate_dataset`."
            )
        yield batch[0], batch[1]


def photos_of(batch: Any) -> Any:
    """The photos of a batch: the batch, or its first part if it is a tuple."""
    return batch[0] if isinstance(batch, tuple) else batch


def detect_by_name(
    detector: Detector, photos: Any, config: Config, class_names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Runs detection on photos of any sizes. The numbers are those of `detect`.

    Returns:
        dict of `boxes` [B, D, (y1, x1, y2, x2)] float32 pixels of the photo, `classes` [B, D] int32, `scores` [B, D]
        float32, `masks` [B, D, h, w] float32 in 0..1 inside the box, `valid` [B, D] bool. Valid rows come first.
    """
    if not isinstance(photos, (list, tuple)):
        photos = list(keras.ops.convert_to_numpy(photos))
    found = detector.detect_arrays(molding.read_photos(photos), config, class_names=class_names)
    shape = len(found), config.DETECTION_MAX_INSTANCES
    named = {
        "boxes": np.zeros((*shape, 4), np.float32), "classes": np.zeros(shape, np.int32),
        "scores": np.zeros(shape, np.float32), "masks": np.zeros((*shape, *config.MASK_SHAPE), np.float32),
        "valid": np.zeros(shape, bool),
    }  # fmt: skip
    for i, (boxes, class_ids, scores, masks) in enumerate(found):
        rows = slice(0, len(boxes))
        for name, values in zip(named, (boxes, class_ids, scores, masks.masks, True)):
            named[name][i, rows] = values
    return named


def concatenate(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The results of several batches as one."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
