"""Masks as run lengths, COCO's compressed form: {"size": [H, W], "counts": bytes}.

A mask is read down its columns, the left one first; its counts are the lengths of the runs, of 0s and 1s in turn,
beginning with 0s. They are written as characters of 6 bits (48 + 5 bits of the number + 1 "more follows" bit), from the
fourth on as the difference to the count two before.

pycocotools does the work. It trusts what it is given, and a damaged string can end the whole process, so strings from
outside pass `check_rles` first.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Run lengths of masks.

    Args:
        masks: [H, W, n] bool or numbers; above 0.5 is inside.

    Returns:
        n dicts {"size": [H, W], "counts": bytes}.
    """
    if masks.shape[-1] == 0:
        return []
    if masks.dtype != bool:
        masks = masks > 0.5
    return coco_mask.encode(np.asfortranarray(masks.view(np.uint8)))


def to_rle(segmentation, height: int, width: int) -> dict:
    """Any of COCO's forms of a mask (polygons, plain counts, compressed counts) as compressed run lengths.

    Raises:
        ValueError: what it is instead, or a size other than [height, width].
    """
    if isinstance(segmentation, list):
        if not segmentation or not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
            raise ValueError("polygons must be lists [x1, y1, x2, y2, x3, y3, ...] of at least three points")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
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
        counts = counts.encode("ascii", "replace")
    return {"size": [height, width], "counts": counts}


def check_rles(rles: list[dict]) -> int | None:
    """Index of the first mask whose counts don't fill its size exactly, or None.

    All strings are decoded together, in a few array operations.
    """
    if not rles:
        return None
    lengths = np.array([len(rle["counts"]) for rle in rles])
    if (lengths == 0).any():
        return int(np.argmin(lengths))
    owner = np.repeat(np.arange(len(rles)), lengths)
    code = np.frombuffer(b"".join(rle["counts"] for rle in rles), np.uint8).astype(np.int64) - 48
    alien = (code < 0) | (code > 63)
    if alien.any():
        return int(owner[np.argmax(alien)])
    last = (code & 32) == 0  # of a number's characters
    unfinished = ~last[np.cumsum(lengths) - 1]
    if unfinished.any():
        return int(np.argmax(unfinished))
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 8:  # 40 bits: no image has runs that long
        return int(owner[ends[np.argmax(digits)]])
    place = np.arange(len(code)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((code & 31) << (5 * place), starts)
    numbers -= np.where(code[ends] & 16, np.int64(1) << (5 * digits), 0)  # the sign
    owner = owner[ends]
    counts = _undo_differences(numbers, owner)
    pixels = np.zeros(len(rles), np.int64)
    np.add.at(pixels, owner, counts)
    sizes = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    negative = np.zeros(len(rles), bool)
    negative[owner[counts < 0]] = True
    bad = (pixels != sizes) | negative
    return int(np.argmax(bad)) if bad.any() else None


def _undo_differences(numbers: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """counts[m] = numbers[m] for m <= 2, else numbers[m] + counts[m - 2]; m counts within a mask (`owner`, sorted)."""
    first = np.searchsorted(owner, owner)  # index of the mask's first number
    m = np.arange(len(numbers)) - first
    counts = numbers.copy()
    for chain in ((m % 2 == 1), (m % 2 == 0) & (m > 0)):
        values, owners = numbers[chain], owner[chain]
        if len(values):
            total = np.cumsum(values)
            begin = np.searchsorted(owners, owners)
            counts[chain] = total - (total - values)[begin]
    return counts
