"""Masks: cropped to their box and shrunk, expanded again, and pasted into the image.

Shapes and units:
    mask        [H, W, N] bool, one layer per instance, of the size of the image
    mini mask   [h, w, N] bool: the part of each mask inside its box, resized to one size (Config.MINI_MASK_SHAPE)
    box         (y1, x1, y2, x2) int, pixels; y2 and x2 exclusive

Resizing is bilinear as in `ops.images`, with a threshold of 0.5; a value of exactly 0.5 is background in mini masks and
object in detections, as in matterport's code.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops import images
from mrcnn.ops.interpolation import source_positions
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.mask_pasting import Region, grid_sample, padded_resize

PIXELS_PER_BLOCK = 2**15  # pixels of mini masks that are resized together: they fit into the cache
PASTE_METHODS = {"padded_resize": padded_resize, "grid_sample": grid_sample}
MaskRegion = tuple[Region, Callable[[], np.ndarray]]  # see `mask_regions`
HUGE_PAGES_FROM, SPARSE = 2**22, 1 / 16  # bytes, and share of rows; see `_sparse_zeros`


def minimize_mask(bbox: ArrayLike, mask: ArrayLike, mini_shape: Sequence[int]) -> np.ndarray:
    """Crops each mask to its box and resizes it, which saves memory in training at the cost of coarser edges.

    `expand_mask` is the inverse, up to the lost detail.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels; see `extract_bboxes`.
        mask: [H, W, N] of any type. Pixels that are not 0 belong to the object.
        mini_shape: (h, w), pixels.

    Returns:
        [h, w, N] bool.

    Raises:
        ValueError: for a box without area, such as that of an empty mask.

    Example:

    >>> mask = np.zeros((100, 100, 1), bool)
    >>> mask[20:60, 10:90] = True
    >>> minimize_mask(extract_bboxes(mask), mask, (28, 28)).shape
    (28, 28, 1)
    """
    mask = np.asarray(mask)
    height, width, count = mask.shape
    boxes = _pixel_boxes(bbox, count)
    for i, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
        if not (0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width):
            raise ValueError(
                f"Instance {i} has the box {[y1, x1, y2, x2]} in a mask of {height} x {width} pixels;"
                " expected an area, inside it. Drop instances with an empty mask first."
            )
    return _shrink_masks(mask, np.arange(count), boxes, np.arange(height), np.arange(width), mini_shape)


def minimize_resized(
    mask: ArrayLike, scale: float | Sequence[float], padding: Sequence, crop: tuple | None, mini_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Combines `resize_mask_like_image`, `extract_bboxes` and `minimize_mask` without the large masks in between.

    The result is the same. Reading only the pixels that mini masks need makes loading faster (docs/performance.md,
    "loading").

    Args:
        mask: [H, W, N] as loaded. Pixels that are not 0 belong to the object.
        scale: As for `images.resize_mask_like_image`, like the next two.
        padding: [(top, bottom), (left, right), ...] pixels.
        crop: (y, x, height, width) pixels, or None.
        mini_shape: (h, w), pixels.

    Returns:
        boxes: [N, (y1, x1, y2, x2)] int32, pixels of the resized, padded image; zeros where nothing is left of a mask.
        mini masks: [h, w, N] bool; all False for those.
    """
    mask, rows, columns, boxes, visible = _resized_boxes(mask, scale, crop)
    mini = np.zeros(tuple(mini_shape) + (mask.shape[-1],), bool)
    mini[..., visible] = _shrink_masks(mask, visible, boxes[visible], rows, columns, mini_shape)
    (pad_top, _), (pad_left, _) = padding[:2]
    boxes[visible] += [pad_top, pad_left, pad_top, pad_left]
    return boxes.astype(np.int32), mini


def resize_inside_boxes(
    mask: ArrayLike, scale: float | Sequence[float], padding: Sequence, crop: tuple | None
) -> tuple[np.ndarray, np.ndarray]:
    """Combines `resize_mask_like_image` and `extract_bboxes`, with the same result, but resizes only inside the boxes.

    Args: as of `minimize_resized`.

    Returns:
        boxes: [N, (y1, x1, y2, x2)] int32, pixels of the resized, padded image; zeros where nothing is left of a mask.
        masks: [H, W, N] bool, stored one after the other in memory.

    Example:

    >>> mask = np.zeros((4, 4, 1), bool)
    >>> mask[1, 2] = True
    >>> boxes, masks = resize_inside_boxes(mask, 2, [(0, 0), (3, 3)], None)
    >>> boxes.tolist(), masks.shape, int(masks.sum())
    ([[2, 7, 4, 9]], (8, 14, 1), 4)
    """
    mask, rows, columns, boxes, visible = _resized_boxes(mask, scale, crop)
    (top, bottom), (left, right) = padding[:2]
    layers = np.zeros((mask.shape[-1], top + len(rows) + bottom, left + len(columns) + right), bool)
    for i in visible:
        y1, x1, y2, x2 = boxes[i]
        y, x = rows[y1:y2], columns[x1:x2]
        piece = mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1, i].copy(order="K")
        layers[i, top + y1 : top + y2, left + x1 : left + x2] = _take_grid(piece, y - y[0], x - x[0])
        boxes[i] += [top, left, top, left]
    return boxes.astype(np.int32), layers.transpose(1, 2, 0)


def _resized_boxes(mask: ArrayLike, scale, crop) -> tuple[np.ndarray, ...]:
    """Boxes of masks after resizing and cropping.

    Returns:
        mask: the part that is needed.
        rows [h], columns [w]: of each row and column of the result, its source in `mask`.
        boxes: [N, (y1, x1, y2, x2)] int, pixels of the result.
        visible: indices of the masks of which something is left.
    """
    mask = np.asarray(mask)
    rows, columns = images.mask_sources(mask.shape, scale, crop)
    if np.min(scale) < 1:  # drop the rows and columns that do not appear
        mask = mask[rows].take(columns, axis=1)
        rows, columns = np.arange(len(rows)), np.arange(len(columns))
    else:  # each appears at least once within the crop
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        rows, columns = rows - rows[0], columns - columns[0]
    # Both are sorted, so the border of a box is at the first row not before it.
    y1, x1, y2, x2 = extract_bboxes(mask).T
    boxes = np.stack(
        [rows.searchsorted(y1), columns.searchsorted(x1), rows.searchsorted(y2), columns.searchsorted(x2)], 1
    )
    return mask, rows, columns, boxes, np.flatnonzero(y2 > y1)


def _shrink_masks(mask, instances, boxes, rows, columns, mini_shape) -> np.ndarray:
    """Resizes mask[rows[y1:y2]][:, columns[x1:x2], i] of each instance i, reading only the pixels that this needs.

    Args: instances [K] int; boxes [K, (y1, x1, y2, x2)] int; rows, columns int, see `images.mask_sources`.
    Returns: [h, w, K] bool.
    """
    y, y_weights = _bilinear_taps(boxes[:, 0], boxes[:, 2], rows, mini_shape[0])  # [K, 2, h]
    x, x_weights = _bilinear_taps(boxes[:, 1], boxes[:, 3], columns, mini_shape[1])  # [K, 2, w]
    height, width = mini_shape
    shrunk = np.empty((height, width, len(instances)), bool)
    many = max(1, PIXELS_PER_BLOCK // (height * width))
    for start in range(0, len(instances), many):
        part = slice(start, start + many)
        rows, columns = y[part].reshape(-1, 2 * height), x[part].reshape(-1, 2 * width)
        pixels = np.empty((len(rows), 2 * height, 2 * width), bool)
        for k, i in enumerate(instances[part]):
            pixels[k] = _take_grid(mask[:, :, i], rows[k], columns[k])
        y0, y1 = np.moveaxis(y_weights[part], 1, 0)[..., None]  # [K, h, 1] each
        x0, x1 = np.moveaxis(x_weights[part], 1, 0)[:, :, None]  # [K, 1, w] each
        values = pixels[:, :height] * y0 + pixels[:, height:] * y1  # [K, h, 2w]
        values = values[..., :width] * x0 + values[..., width:] * x1  # [K, h, w]
        # Margins blend with zeros outside the box, but a full piece stays full (values are clipped to its range).
        full = pixels.all(axis=(1, 2))[:, None, None]
        shrunk[:, :, part] = np.moveaxis((values > 0.5) | full, 0, -1)
    return shrunk


def _take_grid(layer, rows, columns) -> np.ndarray:
    """layer[rows][:, columns], in the order that suits the memory layout (docs/performance.md, "loading")."""
    if layer.flags.f_contiguous:
        return layer.T.take(columns, axis=0).take(rows, axis=1).T
    if layer.flags.c_contiguous:
        return layer.take(rows, axis=0).take(columns, axis=1)
    return layer[rows[:, None], columns]


def _bilinear_taps(starts, ends, sources, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The two source pixels on both sides of each target pixel, and their weights (0 outside): [K, 2, target] each.

    The K pieces are sources[start:end]; `sources` holds the index of each pixel in the original mask.
    """
    starts, lengths = starts[:, None, None], (ends - starts)[:, None, None]  # [K, 1, 1]
    positions = source_positions(lengths, target)  # [K, 1, target]
    taps = np.floor(positions).astype(np.intp) + np.array([[0], [1]])  # [K, 2, target]
    inside = (taps >= 0) & (taps < lengths)
    return sources[starts + np.where(inside, taps, 0)], (1 - np.abs(positions - taps)) * inside


def expand_mask(bbox: ArrayLike, mini_mask: ArrayLike, image_shape: Sequence[int]) -> np.ndarray:
    """Resizes mini masks to their box and places them in the image. Inverse of `minimize_mask`.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels.
        mini_mask: [h, w, N] bool, or 0..1.
        image_shape: (height, width), pixels; further entries are ignored.

    Returns:
        [height, width, N] bool.
    """
    layers = np.moveaxis(np.asarray(mini_mask), -1, 0).astype(np.float64)
    height, width = (int(side) for side in image_shape[:2])
    boxes = _pixel_boxes(bbox, len(layers)).tolist()
    above_half = partial(np.less, 0.5)
    return draw_regions(
        [_resized_region(m, box, height, width, above_half) for m, box in zip(layers, boxes)], image_shape
    )


def unmold_mask(mask: ArrayLike, bbox: ArrayLike, image_shape: Sequence[int]) -> np.ndarray:
    """Places one predicted mask in the image.

    Args:
        mask: [h, w] float 0..1, such as 28 x 28.
        bbox: (y1, x1, y2, x2) int, pixels.
        image_shape: (height, width), pixels; further entries are ignored.

    Returns:
        [height, width] bool, True where the resized mask is at least 0.5.
    """
    return paste_masks(np.asarray(mask)[None], np.reshape(bbox, (1, 4)), image_shape)[..., 0]


def paste_masks(
    masks: ArrayLike, boxes: ArrayLike, image_shape: Sequence[int], threshold: float = 0.5, method: str = "resize"
) -> np.ndarray:
    """Places predicted masks in the image, computing each only inside its box.

    Args:
        masks: [N, h, w] float 0..1.
        boxes: [N, (y1, x1, y2, x2)], pixels. Parts outside the image are cut off; a box without area stays empty.
            Whole numbers for "resize", floats for the other methods.
        image_shape: (height, width), pixels; further entries are ignored.
        threshold: Pixels with at least this value belong to the object, with "padded_resize" those with a larger one;
            NaN never does.
        method: "resize" to the size of the box, as matterport does; "padded_resize" as torchvision or "grid_sample" as
            detectron2 does, see `ops.mask_pasting`.

    Returns:
        [height, width, N] bool, where each `result[..., i]` is contiguous in memory.

    Raises:
        ValueError: for an unknown method, or boxes that are not whole with "resize".

    Example:

    >>> masks = paste_masks(np.ones((1, 28, 28)), [[10, 20, 30, 60]], (100, 100))
    >>> masks.shape, int(masks.sum())
    ((100, 100, 1), 800)
    """
    return draw_regions(mask_regions(masks, boxes, image_shape, threshold, method), image_shape)


def mask_regions(
    masks: ArrayLike, boxes: ArrayLike, image_shape: Sequence[int], threshold: float = 0.5, method: str = "resize"
) -> list[MaskRegion | None]:
    """Where `paste_masks` would draw each mask, without drawing it.

    Args and Raises: as for `paste_masks`.

    Returns:
        N pairs of a region (y1, x1, y2, x2) inside the image, and a function without arguments that computes the mask
        in it, [y2 - y1, x2 - x1] bool. None for a mask outside the image.
    """
    layers = np.asarray(masks)
    height, width = (int(side) for side in image_shape[:2])
    if method == "resize":
        boxes = _pixel_boxes(boxes, len(layers)).tolist()
        is_object = partial(np.less_equal, threshold)  # threshold <= pixels; NaN never is
        return [_resized_region(layer, box, height, width, is_object) for layer, box in zip(layers, boxes)]
    if method not in PASTE_METHODS:
        raise ValueError(f"method is {method!r}; expected 'resize', {', '.join(map(repr, PASTE_METHODS))}.")
    place = PASTE_METHODS[method]
    boxes = np.reshape(np.asarray(boxes, np.float32), (-1, 4))
    _check_count(boxes, len(layers))
    layers = layers.astype(np.float32, copy=False)
    is_object = partial(np.less if method == "padded_resize" else np.less_equal, np.float32(threshold))
    placed = [place(layer, box, height, width) for layer, box in zip(layers, boxes)]
    return [found and (found[0], partial(_threshold, found[1], is_object)) for found in placed]


def draw_regions(regions: Sequence[MaskRegion | None], image_shape: Sequence[int]) -> np.ndarray:
    """Draws masks of `mask_regions` into an image each: [height, width, N] bool."""
    height, width = (int(side) for side in image_shape[:2])
    rows = sum(region[2] - region[0] for region, _ in filter(None, regions))
    pasted = _blank_masks(len(regions), height, width, rows)
    for canvas, found in zip(pasted, regions):
        if found is not None:
            (y1, x1, y2, x2), compute = found
            canvas[y1:y2, x1:x2] = compute()
    return np.moveaxis(pasted, 0, -1)


def _threshold(compute: Callable[[], np.ndarray], is_object: Callable) -> np.ndarray:
    return is_object(compute())


def _resized_region(layer, box, height: int, width: int, is_object: Callable) -> MaskRegion | None:
    """`mask_regions` of one mask for the method "resize"."""
    y1, x1, y2, x2 = box
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, height), min(x2, width)
    if top >= bottom or left >= right:
        return None

    def compute() -> np.ndarray:
        pixels = is_object(images.resize(layer, (y2 - y1, x2 - x1)))
        return pixels[top - y1 : bottom - y1, left - x1 : right - x1]

    return (top, left, bottom, right), compute


def _blank_masks(count: int, height: int, width: int, rows: int) -> np.ndarray:
    """[count, height, width] False; `rows` rows of it will be written."""
    share = rows / max(1, count * height)
    return (_sparse_zeros if share <= SPARSE else np.zeros)((count, height, width), bool)


def _sparse_zeros(shape: Sequence[int], dtype: type) -> np.ndarray:
    """`np.zeros` in memory without huge pages, for an array with few rows to write.

    NumPy asks Linux for pages of 2 MB for large arrays, and touching one byte then costs the whole page: 300 MB for the
    masks of 100 small objects on a photo of 12 megapixels (docs/performance.md, "pasting masks").
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < HUGE_PAGES_FROM or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without huge pages refuses the advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def _pixel_boxes(boxes, count: int) -> np.ndarray:
    """Checks boxes [count, 4 or more] and returns them as [count, 4] int64."""
    boxes = np.reshape(boxes, (-1, np.shape(boxes)[-1] if np.size(boxes) else 4))[:, :4]
    _check_count(boxes, count)
    if boxes.dtype.kind == "f" and np.any(boxes != np.around(boxes)):  # also NaN
        raise ValueError(f"A box is {boxes[np.any(boxes != np.around(boxes), axis=1)][0]}; expected whole pixels.")
    return boxes.astype(np.int64)


def _check_count(boxes: np.ndarray, count: int) -> None:
    if len(boxes) != count:
        raise ValueError(f"{count} masks and {len(boxes)} boxes; expected one box for each mask.")
