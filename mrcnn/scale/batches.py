"""Reads the images of a shard and detects in batches of images that have one size in the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mrcnn.data.image_reading import decode_image, read_image
from mrcnn.ops.images import SIZE_MULTIPLE, image_scale, scaled
from mrcnn.ops.shorter_side import scaled_sides
from mrcnn.scale.plan import Image, is_uri
from mrcnn.scale.rows import ImageResult
from mrcnn.scale.store import read_bytes

WAITING_BATCHES = 4  # photos of other sizes that wait until their batch is full, in batches
Detect = Callable[[list[np.ndarray]], list]


def network_shape(height: int, width: int, config: Any) -> tuple[int, int]:
    """The size that a photo has in the network: that of `molding.resize_inputs`, from its size alone.

    >>> from mrcnn.config import Config
    >>> network_shape(480, 640, Config())
    (1024, 1024)
    >>> network_shape(480, 640, Config(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=512))
    (512, 704)
    """
    mode, min_dim, max_dim = config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM
    if mode == "square":
        return max_dim, max_dim
    if mode == "none":
        return height, width
    if mode in ("pad32", "shorter_side"):
        sides, _ = scaled_sides((height, width), min_dim, max_dim, config.convention.side_rounding)
        multiple = 32 if mode == "pad32" else 1
    else:  # "crop" is detected as "pad64"
        scale = image_scale(height, width, min_dim, max_dim, config.IMAGE_MIN_SCALE, "pad64")
        sides, multiple = (scaled(height, scale), scaled(width, scale)), SIZE_MULTIPLE
    return sides[0] + -sides[0] % multiple, sides[1] + -sides[1] % multiple


def read_photo(path: str) -> np.ndarray:
    """As `detect` reads a path, also from an object store. Raises OSError, ValueError or MemoryError."""
    if is_uri(path):
        return decode_image(read_bytes(path), path, upright=True)
    return read_image(path, upright=True)


def detect_images(
    detect: Detect, images: Sequence[Image], config: Any, batch_size: int, readers: int = 1
) -> list[ImageResult]:
    """What `detect` finds in each image, in their order; images that can't be read or searched have an error.

    Photos are read by `readers` threads, at most two batches ahead of the network. Batches are full as far as the sizes
    of the photos permit. At most `WAITING_BATCHES` batches of photos wait for others of their size.

    Args:
        detect: `MaskRCNN.detect`, with the settings `config`.
        images: Id and path of each.
    """
    results = [ImageResult(image_id, path) for image_id, path in images]
    waiting: dict[tuple[int, int], list[tuple[ImageResult, np.ndarray]]] = {}

    def run(shape: tuple[int, int]) -> None:
        _detect_batch(detect, waiting.pop(shape))

    with ThreadPoolExecutor(max(1, readers)) as pool:
        for result, future in zip(results, _read_ahead(pool, images, 2 * batch_size)):
            try:
                photo = future.result()
                shape = network_shape(*photo.shape[:2], config)
            except (OSError, ValueError, MemoryError) as error:
                result.error = describe(error)
                continue
            waiting.setdefault(shape, []).append((result, photo))
            if len(waiting[shape]) == batch_size:
                run(shape)
            elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch_size:
                run(max(waiting, key=lambda size: len(waiting[size])))
        for shape in list(waiting):
            run(shape)
    return results


def _read_ahead(pool: ThreadPoolExecutor, images: Sequence[Image], count: int) -> Iterator[Future]:
    """A future of each photo, in order; `count` of them are started before they are asked for."""
    started: deque[Future] = deque()
    for _, path in images:
        started.append(pool.submit(read_photo, path))
        if len(started) > count:
            yield started.popleft()
    yield from started


def _detect_batch(detect: Detect, batch: list[tuple[ImageResult, np.ndarray]]) -> None:
    """Detects on a batch; if the model refuses one of its photos, on each separately."""
    try:
        found = detect([photo for _, photo in batch])
    except ValueError as error:
        if len(batch) == 1:
            batch[0][0].error = describe(error)
            return
        for single in batch:
            _detect_batch(detect, [single])
        return
    for (result, _), result.found in zip(batch, found, strict=True):
        result.found.path = result.path


def describe(error: Exception) -> str:
    """An error as the text of a row, with its type."""
    return f"{type(error).__name__}: {error}"
