"""The masks of one image's detections, kept in a compact form until their pixels are needed.

Three forms, from small to large; each is computed from the one before it:

    soft masks  [n, 28, 28] float 0..1 and the boxes that they are pasted into, or run lengths read from a file
    RLE         n dicts {"size": [H0, W0], "counts": bytes}
    dense       [H0, W0, n] bool, matterport's form. On a photo of 8,000 x 8,000 pixels each mask takes 64 MB.

    H0, W0      size of the photo, pixels
    region      (y1, x1, y2, x2) int pixels, inside the photo; y2 and x2 exclusive
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.masks import draw_regions, mask_regions
from mrcnn.ops.rle import check_rles, decode_crops, draw_rles, encode_crop, encode_masks

Crop = tuple[tuple[int, int, int, int], np.ndarray]  # region, pixels [y2 - y1, x2 - x1] bool


class Masks:
    """n masks of a photo. Each subclass holds them in one form.

    Once created, the dense array is kept, since scripts index it in loops and write into it. From then on, the other
    forms are computed from it.

    Args:
        image_shape: (H0, W0), pixels.
    """

    def __init__(self, image_shape: Sequence[int]):
        self.image_shape = int(image_shape[0]), int(image_shape[1])
        self._dense: np.ndarray | None = None

    def dense(self) -> np.ndarray:
        """[H0, W0, n] bool, the same array at each call."""
        if self._dense is None:
            self._dense = self._draw()
        return self._dense

    def rles(self) -> list[dict]:
        """n COCO RLE dicts, counts as bytes."""
        return self._encode() if self._dense is None else encode_masks(self._dense)

    def crops(self) -> Iterator[Crop]:
        """Each mask's pixels in a region that holds all of it; an empty mask may have the region (0, 0, 0, 0)."""
        return self._crops() if self._dense is None else DenseMasks(self._dense)._crops()

    def take(self, rows: np.ndarray) -> Masks:
        """The masks of these rows, [m] int."""
        return self._take(rows) if self._dense is None else DenseMasks(self._dense[..., rows])


class SoftMasks(Masks):
    """Masks as the network predicts them, with the boxes that they are pasted into.

    Args:
        masks: [n, 28, 28] float 0..1.
        boxes: [n, (y1, x1, y2, x2)] pixels of the photo.
        image_shape: (H0, W0), pixels.
        method: Of `ops.masks.paste_masks`.
    """

    def __init__(self, masks: np.ndarray, boxes: np.ndarray, image_shape: Sequence[int], method: str):
        super().__init__(image_shape)
        self.masks, self.boxes, self.method = masks, boxes, method

    def __len__(self) -> int:
        return len(self.masks)

    def _regions(self) -> list:
        return mask_regions(self.masks, self.boxes, self.image_shape, method=self.method)

    def _draw(self) -> np.ndarray:
        return draw_regions(self._regions(), self.image_shape)

    def _encode(self) -> list[dict]:
        return [encode_crop(pixels, region[:2], self.image_shape) for region, pixels in self._crops()]

    def _crops(self) -> Iterator[Crop]:
        for found in self._regions():
            yield ((0, 0, 0, 0), np.zeros((0, 0), bool)) if found is None else (found[0], found[1]())

    def _take(self, rows: np.ndarray) -> SoftMasks:
        return SoftMasks(self.masks[rows], self.boxes[rows], self.image_shape, self.method)


class RleMasks(Masks):
    """Masks read from a file.

    Args:
        rles: n dicts {"size": [H0, W0], "counts": bytes}.
        image_shape: (H0, W0), pixels.

    Raises:
        ValueError: A mask has another size, or counts that don't fill it.
    """

    def __init__(self, rles: Sequence[dict], image_shape: Sequence[int]):
        super().__init__(image_shape)
        self._rles = list(rles)
        for i, rle in enumerate(self._rles):
            if tuple(rle["size"]) != self.image_shape:
                raise ValueError(f"mask {i} has the size {list(rle['size'])}; expected {list(self.image_shape)}.")
        broken = check_rles(self._rles)
        if broken is not None:
            raise ValueError(f"mask {broken}: its counts are damaged; expected run lengths that fill its size.")

    def __len__(self) -> int:
        return len(self._rles)

    def _draw(self) -> np.ndarray:
        height, width = self.image_shape
        layers = np.zeros((len(self._rles), width, height), bool)
        draw_rles(self._rles, layers)
        return layers.transpose(2, 1, 0)

    def _encode(self) -> list[dict]:
        return [dict(rle) for rle in self._rles]

    def _crops(self) -> Iterator[Crop]:
        for rle in self._rles:
            yield decode_crops([rle])[0]

    def _take(self, rows: np.ndarray) -> RleMasks:
        return RleMasks([self._rles[i] for i in rows], self.image_shape)


class DenseMasks(Masks):
    """Masks [H0, W0, n] as an array of bool, or of numbers, where above 0.5 is inside."""

    def __init__(self, masks: np.ndarray):
        masks = np.asarray(masks)
        if masks.ndim != 3:
            raise ValueError(f"masks have the shape {masks.shape}; expected [height, width, objects].")
        super().__init__(masks.shape)
        self._dense = masks

    def __len__(self) -> int:
        return self._dense.shape[-1]

    def _crops(self) -> Iterator[Crop]:
        masks = self._dense if self._dense.dtype == bool else self._dense > 0.5
        for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(masks).tolist()):
            yield (y1, x1, y2, x2), masks[y1:y2, x1:x2, i]
