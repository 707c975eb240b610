"""Boundary IoU: masks compared in a band along their contour.

The mask IoU of a large object depends little on its contour: shrinking a disc of 300 pixels by 5 pixels on all sides
costs 7 %. Boundary IoU only counts the pixels of each mask within a distance d of its contour, d = 2 % of the image's
diagonal. Matching uses the smaller of mask IoU and boundary IoU, because the band of a ring could equal that of a disc.

Only pairs whose mask IoU reaches the lowest threshold are computed, because the result is at most the mask IoU.

Reference: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", 2021.
"""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask

WIDTH = 0.02  # width of the band, as a fraction of the image's diagonal


def band_width(height: int, width: int) -> int:
    """Width of the band in pixels, at least 1."""
    return max(1, round(WIDTH * float(np.hypot(height, width))))


def band(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a mask within `distance` (maximum norm) of a pixel outside it or of the image's border.

    Args:
        mask: [H, W] bool.
        distance: Pixels.

    Returns:
        [H, W] bool.
    """
    padded = np.pad(mask.view(np.uint8), distance)
    side = 2 * distance + 1
    inner = cv2.erode(padded, np.ones((side, side), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & ~inner[distance:-distance, distance:-distance].astype(bool)


def boundary_ious(
    det_rles: list[dict],
    gt_rles: list[dict],
    crowd: np.ndarray,
    mask_ious: np.ndarray,
    pairs: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """The smaller of mask IoU and boundary IoU, for some pairs of a detection and a ground-truth instance.

    Args:
        det_rles, gt_rles: D and G masks of one image as run lengths.
        crowd: [G] bool; for a crowd, the union is the area of the detection.
        mask_ious: [D, G].
        pairs: [D, G] bool, the pairs to compute.
        size: Height and width of the image.

    Returns:
        [D, G] float64; 0 for the other pairs.
    """
    result = np.zeros_like(mask_ious)
    dets, gts = np.nonzero(pairs)
    if len(dets) == 0:
        return result
    distance = band_width(*size)
    det_bands = {d: _crop_band(det_rles[d], distance) for d in np.unique(dets).tolist()}
    gt_bands = {g: _crop_band(gt_rles[g], distance) for g in np.unique(gts).tolist()}
    for d, g in zip(dets.tolist(), gts.tolist()):
        common = _common_pixels(det_bands[d], gt_bands[g])
        union = det_bands[d].pixels + (0 if crowd[g] else gt_bands[g].pixels - common)
        boundary = common / union if union else 0.0
        result[d, g] = min(mask_ious[d, g], boundary)
    return result


class _Band:
    """A band, cropped to its bounding box: top, left, and [h, w] bool."""

    def __init__(self, top: int, left: int, crop: np.ndarray):
        self.top, self.left, self.crop = top, left, crop
        self.bottom, self.right = top + crop.shape[0], left + crop.shape[1]
        self.pixels = int(np.count_nonzero(crop))


def _crop_band(rle: dict, distance: int) -> _Band:
    left, top, width, height = (int(v) for v in coco_mask.toBbox(rle))
    mask = coco_mask.decode(rle)[top : top + height, left : left + width]
    return _Band(top, left, band(np.ascontiguousarray(mask).view(bool), distance))


def _common_pixels(a: _Band, b: _Band) -> int:
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom, right = min(a.bottom, b.bottom), min(a.right, b.right)
    if bottom <= top or right <= left:
        return 0
    of_a = a.crop[top - a.top : bottom - a.top, left - a.left : right - a.left]
    of_b = b.crop[top - b.top : bottom - b.top, left - b.left : right - b.left]
    return int(np.count_nonzero(of_a & of_b))
