"""Repeat-factor sampling: images with rare classes are shown more often.

Shapes:
    factors [n] float >= 1, one for each of n images

Reference: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, appendix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.broken import BrokenAnnotation


def repeat_factors(classes: Sequence[Iterable[int]], threshold: float) -> np.ndarray:
    """How often each image is shown, relative to images whose classes are all frequent.

    A class c that is in a share f(c) of the images has the factor r(c) = max(1, sqrt(threshold / f(c))), and an image
    the largest factor of its classes.

    Args:
        classes: the class ids in each image.
        threshold: t in [0, 1], the share of images from which on a class is frequent.

    Returns:
        [n] float64; 1 for an image without objects.

    Example:
        >>> repeat_factors([{1}, {1}, {1}, {1, 2}], threshold=0.5).round(3).tolist()  # f(1) = 1, f(2) = 1/4
        [1.0, 1.0, 1.0, 1.414]
    """
    images_with = Counter(c for ids in classes for c in set(ids))
    of_class = {c: max(1.0, (threshold * len(classes) / count) ** 0.5) for c, count in images_with.items()}
    return np.array([max((of_class[c] for c in set(ids)), default=1.0) for ids in classes], np.float64)


def repeated_order(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images of an epoch that has as many places as there are images: [n] int, in random order.

    On average, image i is at n * factors[i] / sum(factors) places; in each epoch that number is rounded up or down.
    """
    count = len(factors)
    images = rng.permutation(count)
    ends = np.cumsum(factors[images]) * (count / factors.sum()) + rng.random()
    # Whole numbers that lie between the end of the image before and its own (systematic sampling).
    wholes = np.floor(ends).astype(int)
    wholes[-1] = count
    return rng.permutation(np.repeat(images, np.diff(wholes, prepend=0)))


def classes_in_images(dataset: Dataset) -> list[set[int]]:
    """The classes of the objects in each image, without crowds."""
    found = []
    for image_id in dataset.image_ids:
        try:
            ids = dataset.load_class_ids(image_id)
        except BrokenAnnotation:
            raise
        except Exception:
            ids = ()  # the stream says so when it is the image's turn
        found.append({int(c) for c in ids if c > 0})
    return found
