"""Masks as run lengths (RLE), COCO's compressed form: `{"size": [H, W], "counts": bytes}`.

A mask is read column by column. Its counts are the lengths of the runs, alternately of 0s and of 1s, starting with 0s.
They are stored as text: each number in groups of five bits, lowest first, one character "0" + bits per group. The sixth
bit of a character means that another one follows; the fifth bit of the last one is the sign. From the fourth number on,
the text has the difference from the number two positions before.

pycocotools encodes masks and computes areas, boxes and IoUs. It doesn't check its input, and truncated text makes it
read beyond the end of its memory. Text from files must therefore pass `check_rles` or `decode_rles`, which check it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn.ops.runs import Runs, draw_runs, region_of_runs, runs_of_crop, split_at_columns

SIX_BITS = bytes(range(48, 112))  # the characters of the text
MERGED = 32  # masks at a time
MAX_MASK_PIXELS = 2**32 - 1  # of pycocotools' run lengths
MAX_CHARACTERS = 8  # of a number: 40 bits. No image has longer runs.


class InvalidRle(ValueError):
    """Run lengths are invalid, or don't fill their size exactly. `index` is the position of the mask in the list."""

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(f"mask {index}: the counts aren't run lengths that fill the mask's size exactly")

    def __reduce__(self) -> tuple:
        return type(self), (self.index,)


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Encodes masks as run lengths.

    Args:
        masks: [H, W, N] bool or numbers; above 0.5 is inside.

    Returns:
        N dicts {"size": [H, W], "counts": bytes}.

    Example:

    >>> masks = np.zeros((4, 5, 1), bool)
    >>> masks[1:3, 2:] = True
    >>> encode_masks(masks)
    [{'size': [4, 5], 'counts': b'922000O'}]
    """
    if masks.shape[-1] == 0:
        return []
    if masks.dtype != bool:
        masks = masks > 0.5
    return coco_mask.encode(np.asfortranarray(masks.view(np.uint8)))


def to_rle(segmentation: Any, height: int, width: int) -> dict:
    """Converts any of COCO's forms of a mask to compressed run lengths.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...] in pixels, whose union is the mask; or a dict with "size" and
            "counts", a list of run lengths or compressed text (str or bytes). Text isn't checked, see `check_rles`.
        height, width: of the image, pixels.

    Returns:
        {"size": [height, width], "counts": bytes}.

    Raises:
        ValueError: the mask has none of these forms, or another size.

    Example:

    >>> to_rle([[2, 1, 5, 1, 5, 3, 2, 3]], height=4, width=5)
    {'size': [4, 5], 'counts': b'922000O'}
    """
    if isinstance(segmentation, list):
        if not segmentation or not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
            raise ValueError("polygons must be lists [x1, y1, x2, y2, x3, y3, ...] of at least three points")
        drawn = coco_mask.frPyObjects(segmentation, height, width)
        while len(drawn) > 1:  # merge() takes a time quadratic in the number of masks
            drawn = [coco_mask.merge(drawn[i : i + MERGED]) for i in range(0, len(drawn), MERGED)]
        return drawn[0]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError('a mask is a list of polygons or a dict with "size" and "counts"')
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"the mask is {list(segmentation['size'])} pixels, its image [{height}, {width}]")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError(f"the counts make {sum(counts)} pixels, expected {height} x {width} = {height * width}")
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")
    return {"size": [height, width], "counts": counts}


def check_rles(rles: list[dict]) -> int | None:
    """Index of the first mask whose counts aren't run lengths that fill its size exactly; None if all are valid.

    Args:
        rles: dicts {"size": [H, W], "counts": bytes}; sizes may differ.

    Example:

    >>> check_rles([{"size": [4, 5], "counts": b"922000O"}, {"size": [4, 5], "counts": b"922"}])
    1
    """
    try:
        decode_rles(rles)
    except InvalidRle as error:
        return error.index
    return None


def decode_rles(rles: list[dict]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decodes the run lengths of several masks together, in a few array operations, and checks them.

    Args:
        rles: N dicts {"size": [H, W], "counts": bytes}; sizes may differ.

    Returns:
        runs: [R] run lengths of all masks, one mask after the other.
        starts: [N] index in `runs` of each mask's first one.

    Raises:
        InvalidRle: the counts of a mask aren't run lengths, or don't fill its size exactly.

    Example:

    >>> runs, starts = decode_rles([{"size": [4, 5], "counts": b"922000O"}, {"size": [1, 3], "counts": b"03"}])
    >>> runs.tolist(), starts.tolist()
    ([9, 2, 2, 2, 2, 2, 1, 0, 3], [0, 7])
    """
    texts = [rle["counts"] for rle in rles]
    for index, text in enumerate(texts):
        if not text or text.translate(None, SIX_BITS) or (text[-1] - 48) & 32:
            raise InvalidRle(index)
    if not texts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    runs, starts = _decode_texts(texts)
    pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    invalid = (np.add.reduceat(runs, starts) != pixels) | (np.minimum.reduceat(runs, starts) < 0)
    if invalid.any():
        raise InvalidRle(int(np.argmax(invalid)))
    return runs, starts


def encode_crop(pixels: np.ndarray, corner: Sequence[int], image_shape: Sequence[int]) -> dict:
    """Encodes a mask given as a part of it; the rest is 0. Equal to `encode_masks` of the whole mask.

    Args:
        pixels: [h, w] bool.
        corner: (y1, x1), where `pixels` begins in the image. All of it must be inside the image.
        image_shape: (H, W), pixels; further entries are ignored.

    Returns:
        {"size": [H, W], "counts": bytes}.

    Example:

    >>> encode_crop(np.ones((2, 3), bool), (1, 2), (4, 5))
    {'size': [4, 5], 'counts': b'922000O'}
    """
    return encode_runs(runs_of_crop(pixels, corner), image_shape)


def encode_runs(runs: Runs, image_shape: Sequence[int]) -> dict:
    """Encodes a mask given as vertical runs, see `ops.runs`.

    Args:
        runs: [R, (x, y1, y2)], inside the image.
        image_shape: (H, W), pixels; further entries are ignored. At most `MAX_MASK_PIXELS`.

    Returns:
        {"size": [H, W], "counts": bytes}.

    Example:

    >>> encode_runs(np.array([[2, 1, 3], [3, 1, 3], [4, 1, 3]]), (4, 5))
    {'size': [4, 5], 'counts': b'922000O'}
    """
    height, width = (int(side) for side in image_shape[:2])
    starts, ends = runs[:, 0] * height + runs[:, 1], runs[:, 0] * height + runs[:, 2]
    apart = starts[1:] > ends[:-1]  # a run to the end of a column goes on in the next one
    places = np.stack([starts[np.append(True, apart)[: len(runs)]], ends[np.append(apart, True)[: len(runs)]]], axis=1)
    counts = np.diff(places.reshape(-1), prepend=0, append=height * width)
    counts = counts[: len(counts) - (len(runs) > 0 and counts[-1] == 0)]
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def decode_crops(rles: list[dict]) -> list[tuple[tuple[int, int, int, int], NDArray[np.bool_]]]:
    """Decodes each mask inside the smallest box around it.

    Args:
        rles: N dicts {"size": [H, W], "counts": bytes}.

    Returns:
        N pairs of (y1, x1, y2, x2), y2 and x2 exclusive, and [y2 - y1, x2 - x1] bool; zeros for an empty mask.

    Raises:
        InvalidRle: as `decode_rles`.

    Example:

    >>> decode_crops([{"size": [4, 5], "counts": b"922000O"}])
    [((1, 2, 3, 5), array([[ True,  True,  True],
           [ True,  True,  True]]))]
    """
    runs, starts = decode_rles(rles)
    crops = []
    for rle, counts in zip(rles, np.split(runs, starts[1:])):
        edges = np.cumsum(counts[: len(counts) // 2 * 2])
        object_runs = split_at_columns(edges[::2], edges[1::2], rle["size"][0])
        region = region_of_runs(object_runs)
        crops.append((region, draw_runs(object_runs, region)))
    return crops


def draw_rles(rles: list[dict], layers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Draws masks into zeroed memory, pixel for pixel as pycocotools' `decode`.

    Args:
        rles: N dicts {"size": [H, W], "counts": bytes}, all of one size.
        layers: [N, W, H] bool, C-contiguous, all False; changed in place. These are the masks' transposes, because run
            lengths go by columns. Only the pixels between an object's first and last one are written.

    Returns:
        [N] bool: whether the mask has a pixel.

    Raises:
        InvalidRle: as `decode_rles`.

    Example:

    >>> layers = np.zeros((1, 5, 4), bool)
    >>> draw_rles(encode_masks(np.eye(4, 5)[..., None]), layers)
    array([ True])
    >>> layers[0].T.astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 0, 0, 0],
           [0, 0, 1, 0, 0],
           [0, 0, 0, 1, 0]])
    """
    has_pixels = np.zeros(len(rles), bool)
    if not rles:
        return has_pixels
    runs, starts = decode_rles(rles)
    numbers = np.diff(starts, append=len(runs))
    is_object = np.arange(numbers.max()) % 2 == 0  # of the runs 1, 2, 3, ...
    for i, (start, number) in enumerate(zip(starts.tolist(), (numbers // 2 * 2).tolist())):
        if number:
            own_runs = runs[start : start + number]
            begin, pixels = own_runs[0], np.repeat(is_object[: number - 1], own_runs[1:])
            layers[i].reshape(-1)[begin : begin + len(pixels)] = pixels
            has_pixels[i] = own_runs[1::2].any()
    return has_pixels


def _decode_texts(texts: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(runs [R], starts [N]) of N >= 1 texts, each ending with the last character of a number."""
    codes = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    last = np.flatnonzero(codes < 32)  # of each number
    first = np.append(0, last[:-1] + 1)
    length = last - first + 1
    ends = np.cumsum([len(text) for text in texts])
    if length.max() > MAX_CHARACTERS:
        raise InvalidRle(int(np.searchsorted(ends, first[np.argmax(length)], side="right")))
    values = (codes[first] & 31).astype(np.int64)
    for group in range(1, length.max()):  # most numbers have one or two
        longer = np.flatnonzero(length > group)
        values[longer] |= (codes[first[longer] + group] & 31).astype(np.int64) << 5 * group
    negative = np.flatnonzero(codes[last] & 16)
    values[negative] -= np.int64(1) << 5 * length[negative]

    # Every second number of a text is a chain of differences: the numbers 1, 3, 5, ... and 2, 4, 6, ...; number 0 is
    # separate. A chain's sums are those over every second number of all texts, minus the sum before its text.
    starts = np.append(0, np.searchsorted(last, ends[:-1]))
    sums = np.zeros(len(values) + 2, np.int64)  # two zeros in front
    sums[2::2], sums[3::2] = np.cumsum(values[::2]), np.cumsum(values[1::2])
    before_odd, before_even = sums[starts + 1], sums[starts + 2]  # of the chains 1, 3, 5, ... and 2, 4, 6, ...
    text = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    runs = sums[2:]
    runs[::2] -= np.where(starts % 2, before_odd, before_even)[text[::2]]
    runs[1::2] -= np.where(starts % 2, before_even, before_odd)[text[1::2]]
    runs[starts] = values[starts]
    return runs, starts
