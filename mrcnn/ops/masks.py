"""Masks: shrunk into their box and back, and pasted into the image.

Shapes and units:
    mask        [H, W, N] bool, one layer an instance, of the size of the image
    mini mask   [h, w, N] bool: what lies in the box of each mask, resized to one size (Config.MINI_MASK_SHAPE)
    box         (y1, x1, y2, x2) int, pixels; y2 and x2 exclusive

Resizing is bilinear as in `ops.images`; 0.5 decides, and a tie is background in mini masks, object in detections.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np

from mrcnn.ops import images
from mrcnn.ops.boxes import extract_bboxes

SHRUNK_AT_ONCE = 2**15  # pixels of mini masks: what fits in the cache
LARGE, SPARSE = 2**22, 1 / 16  # see `_zeros`; the first is NumPy's own measure, in bytes


def minimize_mask(bbox, mask, mini_shape) -> np.ndarray:
    """Cuts each mask out at its box and resizes it: less memory for training, at coarser edges.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels, as `extract_bboxes` gives them.
        mask: [H, W, N] of any type; a pixel that is not 0 belongs to the object.
        mini_shape: (h, w), pixels.

    Returns:
        [h, w, N] bool. Inverse, but for coarseness: `expand_mask`.

    Raises:
        ValueError: a box without area, such as that of an empty mask.
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
    return _shrink(mask, np.arange(count), boxes, np.arange(height), np.arange(width), mini_shape)


def minimize_resized(mask, scale, padding, crop, mini_shape) -> tuple[np.ndarray, np.ndarray]:
    """`resize_mask`, `extract_bboxes` and `minimize_mask` in one, equal to them, without the large masks in between.

    Args:
        mask: [H, W, N] as loaded; a pixel that is not 0 belongs to the object.
        scale, padding, crop: as `images.resize_image` returned them.
        mini_shape: (h, w), pixels.

    Returns:
        boxes: [N, (y1, x1, y2, x2)] int32, pixels of the resized, padded image; zeros where nothing is left of a mask.
        mini masks: [h, w, N] bool; all False there.
    """
    mask = np.asarray(mask)
    rows, columns = images.mask_sources(mask.shape, scale, crop)
    if scale < 1:  # rows and columns are left out: the mask becomes what is left
        mask = mask[rows].take(columns, axis=1)
        rows, columns = np.arange(len(rows)), np.arange(len(columns))
    else:  # each shows at least once, as far as the crop reaches
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        rows, columns = rows - rows[0], columns - columns[0]
    # Both grow steadily, so that a box's border is where the first row at or behind it shows.
    y1, x1, y2, x2 = extract_bboxes(mask).T
    boxes = np.stack(
        [rows.searchsorted(y1), columns.searchsorted(x1), rows.searchsorted(y2), columns.searchsorted(x2)], 1
    )
    mini = np.zeros(tuple(mini_shape) + (mask.shape[-1],), bool)
    there = np.flatnonzero(y2 > y1)
    mini[..., there] = _shrink(mask, there, boxes[there], rows, columns, mini_shape)
    (pad_top, _), (pad_left, _) = padding[:2]
    boxes[there] += [pad_top, pad_left, pad_top, pad_left]
    return boxes.astype(np.int32), mini


def _shrink(mask, instances, boxes, rows, columns, mini_shape) -> np.ndarray:
    """The piece mask[rows[y1:y2]][:, columns[x1:x2], i] of each instance i, resized. Only pixels it needs are read.

    instances: [K] int. boxes: [K, (y1, x1, y2, x2)] int. rows, columns: int, see `images.mask_sources`.
    Returns [h, w, K] bool.
    """
    y, y_weights = _taps(boxes[:, 0], boxes[:, 2], rows, mini_shape[0])  # [K, 2, h]
    x, x_weights = _taps(boxes[:, 1], boxes[:, 3], columns, mini_shape[1])  # [K, 2, w]
    height, width = mini_shape
    shrunk = np.empty((height, width, len(instances)), bool)
    many = max(1, SHRUNK_AT_ONCE // (height * width))
    for start in range(0, len(instances), many):
        part = slice(start, start + many)
        rows, columns = y[part].reshape(-1, 2 * height), x[part].reshape(-1, 2 * width)
        pixels = np.empty((len(rows), 2 * height, 2 * width), bool)
        for k, i in enumerate(instances[part]):
            pixels[k] = _picked(mask[:, :, i], rows[k], columns[k])
        y0, y1 = np.moveaxis(y_weights[part], 1, 0)[..., None]  # [K, h, 1] each
        x0, x1 = np.moveaxis(x_weights[part], 1, 0)[:, :, None]  # [K, 1, w] each
        values = pixels[:, :height] * y0 + pixels[:, height:] * y1  # [K, h, 2w]
        values = values[..., :width] * x0 + values[..., width:] * x1  # [K, h, w]
        # Margins blend with the nothing outside the box, but a full piece stays full (values are clipped to its range).
        full = pixels.all(axis=(1, 2))[:, None, None]
        shrunk[:, :, part] = np.moveaxis((values > 0.5) | full, 0, -1)
    return shrunk


def _picked(layer, rows, columns) -> np.ndarray:
    """layer[rows][:, columns], in the order that suits how the layer lies in memory."""
    if layer.flags.f_contiguous:
        return layer.T.take(columns, axis=0).take(rows, axis=1).T
    if layer.flags.c_contiguous:
        return layer.take(rows, axis=0).take(columns, axis=1)
    return layer[rows[:, None], columns]


def _taps(starts, ends, sources, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The two source pixels that each of `target` pixels lies between, and their weights; 0 outside. [K, 2, target].

    The K pieces are sources[start:end]; sources holds the index of each pixel in the mask it is taken from.
    """
    starts, lengths = starts[:, None, None], (ends - starts)[:, None, None]  # [K, 1, 1]
    positions = images.source_positions(lengths, target)  # [K, 1, target]
    taps = np.floor(positions).astype(np.intp) + np.array([[0], [1]])  # [K, 2, target]
    inside = (taps >= 0) & (taps < lengths)
    return sources[starts + np.where(inside, taps, 0)], (1 - np.abs(positions - taps)) * inside


def expand_mask(bbox, mini_mask, image_shape) -> np.ndarray:
    """Resizes mini masks to their box and sets them into the image.

    Args:
        bbox: [N, (y1, x1, y2, x2)] int, pixels.
        mini_mask: [h, w, N] bool, or 0..1.
        image_shape: (height, width), pixels; more entries are ignored.

    Returns:
        [height, width, N] bool.
    """
    layers = np.moveaxis(np.asarray(mini_mask), -1, 0)
    return _paste(layers.astype(np.float64), bbox, image_shape, lambda pixels: pixels > 0.5)


def unmold_mask(mask, bbox, image_shape) -> np.ndarray:
    """One predicted mask in the image.

    Args:
        mask: [h, w] float 0..1, such as 28 x 28.
        bbox: (y1, x1, y2, x2) int, pixels.
        image_shape: (height, width), pixels; more entries are ignored.

    Returns:
        [height, width] bool: where the resized mask is 0.5 or more.
    """
    return paste_masks(np.asarray(mask)[None], np.reshape(bbox, (1, 4)), image_shape)[..., 0]


def paste_masks(masks, boxes, image_shape, threshold=0.5) -> np.ndarray:
    """Predicted masks in the image, each worked on only inside its box.

    Args:
        masks: [N, h, w] float 0..1.
        boxes: [N, (y1, x1, y2, x2)] int, pixels. What lies outside the image is cut off; without area: nothing.
        image_shape: (height, width), pixels; more entries are ignored.
        threshold: number. A pixel belongs to the object from this value on; NaN never does.

    Returns:
        [height, width, N] bool. The memory lies layer by layer: `result[..., i]` is one piece.
    """
    return _paste(np.asarray(masks), boxes, image_shape, lambda pixels: pixels >= threshold)


def _paste(layers, boxes, image_shape, is_object) -> np.ndarray:
    height, width = (int(side) for side in image_shape[:2])
    boxes = _pixel_boxes(boxes, len(layers))
    rows = np.clip(boxes[:, 2], 0, height) - np.clip(boxes[:, 0], 0, height)
    pasted = _zeros((len(layers), height, width), share=rows.clip(0).sum() / max(1, len(layers) * height))
    for layer, canvas, (y1, x1, y2, x2) in zip(layers, pasted, boxes.tolist()):
        if y2 <= y1 or x2 <= x1:
            continue
        pixels = is_object(images.resize(layer, (y2 - y1, x2 - x1)))
        top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, height), min(x2, width)
        if top < bottom and left < right:
            canvas[top:bottom, left:right] = pixels[top - y1 : bottom - y1, left - x1 : right - x1]
    return np.moveaxis(pasted, 0, -1)


def _zeros(shape, share: float) -> np.ndarray:
    """`np.zeros(shape, bool)`, of which that share will be written to.

    NumPy asks Linux for pages of 2 MB for large arrays. Where little is written to each of them that is slower, and
    takes memory for all that lies around: of 100 masks of small objects on a photo of 12 megapixels some 300 MB.
    """
    size = math.prod(shape)
    if share > SPARSE or size < LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, bool)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without such pages refuses to do without them
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, bool).reshape(shape)


def _pixel_boxes(boxes, count: int) -> np.ndarray:
    """boxes [count, 4 or more] as [count, 4] int64; anything else is refused."""
    boxes = np.reshape(boxes, (-1, np.shape(boxes)[-1] if np.size(boxes) else 4))[:, :4]
    if len(boxes) != count:
        raise ValueError(f"{count} masks and {len(boxes)} boxes; expected a box for each mask.")
    if boxes.dtype.kind == "f" and np.any(boxes != np.around(boxes)):  # also NaN
        raise ValueError(f"A box is {boxes[np.any(boxes != np.around(boxes), axis=1)][0]}; expected whole pixels.")
    return boxes.astype(np.int64)
