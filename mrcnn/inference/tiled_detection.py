"""`MaskRCNN.detect_tiled` and `detect_augmented`: detects on overlapping tiles or views, and joins their results.

A view is the whole image at some magnification, mirrored or not. Each view has its own grid of tiles, and all tiles of
all views go through the network with the same number of pixels. Detections of views are joined like those of tiles.

region      (y1, x1, y2, x2) int pixels of the image; y2 and x2 exclusive
H0, W0      size of the image, pixels
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import keras
import numpy as np
from tqdm.auto import tqdm

from mrcnn.inference.molding import list_photos
from mrcnn.inference.result_masks import Crop, RleMasks
from mrcnn.inference.results import Detections
from mrcnn.inference.tile_merging import SeamJoiner
from mrcnn.inference.tiles import open_tiled
from mrcnn.ops.nms import suppression_groups
from mrcnn.ops.rle import MAX_MASK_PIXELS
from mrcnn.ops.runs import Region
from mrcnn.ops.types import Images

if TYPE_CHECKING:
    from mrcnn.config import Config

OVERLAP = 0.2  # of a tile
FLIPS = {  # whether rows and columns of each view run backwards
    None: ((False, False),),
    "horizontal": ((False, False), (False, True)),
    "vertical": ((False, False), (True, False)),
    "both": ((False, False), (False, True), (True, False), (True, True)),
}
NO_JOINING = 2.0  # an overlap that no two masks have

Detect = Callable[[list[np.ndarray]], Sequence[Detections]]


@dataclass(frozen=True)
class View:
    """A tile as one view shows it.

    Attributes:
        region: Region of the tile in the image.
        shape: (height, width) of the network's photo, pixels.
        scale: Magnification.
        flip: Whether rows and columns are reversed.
    """

    region: Region
    shape: tuple[int, int]
    scale: float
    flip: tuple[bool, bool]

    def show(self, pixels: np.ndarray) -> np.ndarray:
        """The tile [h, w, ...] -> the photo to detect on, [*shape, ...]; black where the image is too small."""
        if self.scale != 1:
            height, width = self.scaled_shape()
            method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
            resized = cv2.resize(_for_opencv(pixels), (width, height), interpolation=method)
            pixels = np.zeros((*self.shape, *pixels.shape[2:]), resized.dtype)
            pixels[:height, :width] = resized.reshape(height, width, *pixels.shape[2:])
        steps = [-1 if backwards else 1 for backwards in self.flip]
        return np.ascontiguousarray(pixels[:: steps[0], :: steps[1]])

    def scaled_shape(self) -> tuple[int, int]:
        """(height, width) of the tile in this magnification."""
        y1, x1, y2, x2 = self.region
        height, width = round((y2 - y1) * self.scale), round((x2 - x1) * self.scale)
        return min(max(height, 1), self.shape[0]), min(max(width, 1), self.shape[1])

    def place(self, found: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Crop]]:
        """What was found in the view -> boxes, class ids, scores and crops in pixels of the image."""
        boxes, rows = np.asarray(found.rois), np.arange(len(found))
        crops = [self._unflip_crop(crop) for crop in found.crops()]
        for axis, backwards in enumerate(self.flip):
            if backwards:
                boxes = boxes.copy()
                boxes[:, [axis, axis + 2]] = self.shape[axis] - boxes[:, [axis + 2, axis]]
        y1, x1, y2, x2 = self.region
        if self.scale != 1:
            factors = np.array([y2 - y1, x2 - x1]) / self.scaled_shape()
            limits = np.tile([y2 - y1, x2 - x1], 2)
            exact = np.clip(boxes * np.tile(factors, 2), 0, limits)
            boxes = np.rint(exact).astype(boxes.dtype) if boxes.dtype.kind == "i" else exact.astype(boxes.dtype)
            crops = [_resize_crop(crop, factors, (y2 - y1, x2 - x1)) for crop in crops]
            rows = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        crops = [_move_crop(crops[i], y1, x1) for i in rows]
        corner = np.array([y1, x1, y1, x1], boxes.dtype)
        return boxes[rows] + corner, np.asarray(found.class_ids)[rows], np.asarray(found.scores)[rows], crops

    def _unflip_crop(self, crop: Crop) -> Crop:
        (y1, x1, y2, x2), pixels = crop
        if self.flip[0]:
            y1, y2, pixels = self.shape[0] - y2, self.shape[0] - y1, pixels[::-1]
        if self.flip[1]:
            x1, x2, pixels = self.shape[1] - x2, self.shape[1] - x1, pixels[:, ::-1]
        return (y1, x1, y2, x2), pixels


class TiledModel(keras.Model):
    """`detect_tiled` and `detect_augmented` of `MaskRCNN`."""

    def detect_tiled(self, image: Any, tile: int | None = None, overlap: int | None = None, merge: str = "mask", *,
                     flips: str | None = None, scales: Sequence[float] = (1.0,), level: int = 0,
                     progress: bool = True) -> Detections:  # fmt: skip
        """Finds objects in an image of any size, tile by tile; objects that a seam cuts come out whole.

        Args:
            image: path of a TIFF, GeoTIFF, Zarr folder or other image file, an array [H0, W0, 3], or what is sliced
                like one (a memory map, `zarr.Array`). TIFF and Zarr are never decoded as a whole.
            tile: side of a tile, pixels; `detect` resizes it for the network like a photo. None: IMAGE_MAX_DIM.
            overlap: pixels that neighbors share, at least; best as long as most objects. None: a fifth of a tile.
            merge: "mask" joins pieces whose masks agree where tiles overlap; "none" returns the pieces.
            flips: "horizontal", "vertical" or "both": detects on mirrored tiles as well, and joins what they show.
            scales: magnifications to detect in, e.g. (1, 2): also on tiles half as long, enlarged.
            level: of a pyramid, 0 is the largest. Results are in pixels of this level.
            progress: whether to show tiles done and time left, if stderr is a terminal.

        Returns:
            `Detections` with masks as run lengths; `transform` and `crs` are those of a GeoTIFF.
        """
        return detect_tiled(
            self.detect, image, config=self.config, class_names=self.class_names, tile=tile, overlap=overlap,
            merge=merge, flips=flips, scales=scales, level=level, progress=progress,
        )  # fmt: skip

    def detect_augmented(
        self, images: Images, flips: str | None = "horizontal", scales: Sequence[float] = (1.0,)
    ) -> list[Detections]:
        """`detect` with test-time augmentation: joins what is found in mirrored and in scaled images.

        Args:
            images: as for `detect`.
            flips, scales: as for `detect_tiled`. In a magnification above 1, the image is cut into tiles.
        """
        photos, names = list_photos(images), self.class_names
        return detect_augmented(self.detect, photos, config=self.config, class_names=names, flips=flips, scales=scales)


def detect_tiled(
    detect: Detect,
    image: Any,
    *,
    config: Config,
    class_names: Sequence[str] | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    merge: str = "mask",
    flips: str | None = None,
    scales: Sequence[float] = (1.0,),
    level: int = 0,
    progress: bool = True,
) -> Detections:
    """`MaskRCNN.detect_tiled` with any function that detects.

    Args:
        detect: A list of tiles [h, w, ...], all of one size -> `Detections` of each.
        image, tile, overlap, merge, flips, scales, level, progress: See `MaskRCNN.detect_tiled`.
        config: `Config`. BATCH_SIZE tiles are given to `detect` together; pieces of the classes that drop each other
            by DETECTION_NMS are joined.
        class_names: Of the result, "BG" first.

    Raises:
        ValueError: An argument is invalid; the message names it.
    """
    _check_choice("merge", merge, ("mask", "none"))
    _check_choice("flips", flips, FLIPS)
    if not len(scales) or min(scales) <= 0:
        raise ValueError(f"scales is {scales!r}; expected magnifications above 0, such as (1, 2).")
    groups = suppression_groups(config.DETECTION_NMS, config.NUM_CLASSES, class_names)
    with open_tiled(image, level) as opened:
        name = opened.path or "the image"
        if opened.shape[0] * opened.shape[1] > MAX_MASK_PIXELS:
            raise ValueError(
                f"{name} has {opened.shape[0]} x {opened.shape[1]} pixels (height x width); masks are held as COCO's"
                f" run lengths, which reach to {MAX_MASK_PIXELS}. Use a smaller level of a pyramid (level=1), or parts."
            )
        tile, overlap = _checked_sizes(tile, overlap, config)
        views = views_of(opened.shape, tile, overlap, flips, scales)
        joiner = SeamJoiner(opened.shape, groups, **({} if merge == "mask" else {"min_overlap": NO_JOINING}))
        with tqdm(total=len(views), unit="tile", disable=None if progress else True) as bar:
            for batch in _batches(views, config.BATCH_SIZE):
                shown = [view.show(opened.read(view.region)) for view in batch]
                for view, found in zip(batch, _detect(detect, shown, batch, name), strict=True):
                    joiner.add(view.region, *view.place(found))
                bar.update(len(batch))
        boxes, class_ids, scores, rles = joiner.objects()
        masks = RleMasks(rles, opened.shape)
        place = {"path": opened.path, "transform": opened.transform, "crs": opened.crs}
        return Detections(boxes, class_ids, scores, masks, class_names=class_names, **place)


def detect_augmented(
    detect: Detect, images: Sequence, *, config: Config, class_names: Sequence[str] | None = None,
    flips: str | None = "horizontal", scales: Sequence[float] = (1.0,),
) -> list[Detections]:  # fmt: skip
    """`MaskRCNN.detect_augmented` with any function that detects: `detect_tiled` with one tile for each image."""
    results = []
    for image in images:
        with open_tiled(image) as opened:
            options = {"tile": max(opened.shape), "flips": flips, "scales": scales, "progress": False}
            results.append(detect_tiled(detect, opened, config=config, class_names=class_names, **options))
    return results


# ---- Tiles -----------------------------------------------------------------------------------------------------------
def views_of(
    image_shape: Sequence[int],
    tile: int,
    overlap: int,
    flips: str | None = None,
    scales: Sequence[float] = (1.0,),
) -> list[View]:
    """All tiles of all views, view by view and row by row.

    Tiles are as far apart as `overlap` allows, but the last of a row or column is moved back to the image's edge, so
    that all have the same size: the image's, where that is smaller than a tile.

    Args:
        image_shape: (H0, W0), pixels.
        tile, overlap: Pixels of the view with magnification 1.
        flips, scales: See `MaskRCNN.detect_tiled`.

    Example:

    >>> [view.region for view in views_of((100, 250), tile=100, overlap=20)]
    [(0, 0, 100, 100), (0, 80, 100, 180), (0, 150, 100, 250)]
    """
    shape = min(tile, int(image_shape[0])), min(tile, int(image_shape[1]))
    views = []
    for scale, flip in itertools.product(scales, FLIPS[flips]):
        sides = [min(max(1, round(side / scale)), int(length)) for side, length in zip(shape, image_shape)]
        step = max(1, round((tile - overlap) / scale))
        for y, x in itertools.product(*(_starts(int(n), side, step) for n, side in zip(image_shape, sides))):
            views.append(View((y, x, y + sides[0], x + sides[1]), shape, float(scale), flip))
    return views


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where tiles of `side` pixels begin that cover `length` pixels."""
    last = length - side
    return [*range(0, last, step), last]


def _batches(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    return (views[first : first + size] for first in range(0, len(views), size))


def _detect(detect: Detect, shown: list[np.ndarray], batch: Sequence[View], name: str) -> Sequence[Detections]:
    try:
        return detect(shown)
    except ValueError as error:
        raise ValueError(f"{name}, tiles {', '.join(str(view.region) for view in batch)}: {error}") from error


def _checked_sizes(tile: int | None, overlap: int | None, config) -> tuple[int, int]:
    tile = int(config.IMAGE_MAX_DIM if tile is None else tile)
    overlap = round(OVERLAP * tile) if overlap is None else int(overlap)
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tile is {tile} and overlap is {overlap}; expected pixels, 0 <= overlap < tile.")
    return tile, overlap


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


# ---- Magnification ---------------------------------------------------------------------------------------------------
def _for_opencv(pixels: np.ndarray) -> np.ndarray:
    """Pixels in a number type that OpenCV resizes."""
    if pixels.dtype in (np.uint8, np.uint16, np.float32):
        return pixels
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels.astype(np.float32)


def _resize_crop(crop: Crop, factors: np.ndarray, limits: tuple[int, int]) -> Crop:
    """A crop in an image `factors` times as high and wide: each pixel has the value at its center."""
    (y1, x1, y2, x2), pixels = crop
    low = np.clip(np.floor(np.array([y1, x1]) * factors), 0, limits).astype(int)
    high = np.clip(np.ceil(np.array([y2, x2]) * factors), 0, limits).astype(int)
    if not pixels.size or np.any(low >= high):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    wide = np.pad(pixels, 1)  # a center may lie just outside
    rows, columns = (
        np.clip(np.floor((np.arange(low[i], high[i]) + 0.5) / factors[i]).astype(int) - start + 1, 0, size + 1)
        for i, (start, size) in enumerate(zip((y1, x1), pixels.shape))
    )
    return (*low.tolist(), *high.tolist()), wide[np.ix_(rows, columns)]


def _move_crop(crop: Crop, y: int, x: int) -> Crop:
    (y1, x1, y2, x2), pixels = crop
    return (y1 + y, x1 + x, y2 + y, x2 + x), pixels
