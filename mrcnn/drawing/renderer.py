"""Draws instances on an image array, for reports, TensorBoard and videos. Needs no display.

`mrcnn.visualize` draws on matplotlib's figures, in higher quality and about a hundred times slower. Both take their
colors from `mrcnn.drawing.palette` and fill masks with `fill_mask`.

    H, W   height and width of the image, pixels
    N      instances; box i, mask i, caption i and color i belong together
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.typing import ColorType
from PIL import Image, ImageDraw, ImageFont

from mrcnn.drawing.palette import as_bytes, as_color, text_color
from mrcnn.ops.pixel_values import to_rgb_uint8
from mrcnn.text import printable

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # shipped with matplotlib
TEXT_HEIGHT = 1 / 36  # fraction of the picture's shorter side
SMALLEST_TEXT = 10  # pixels
MASK_ALPHA = 0.45


def fill_mask(image: np.ndarray, mask: np.ndarray, color: ColorType, alpha: float) -> None:
    """Blends `color` into the pixels of `image` where `mask` is true, in place.

    Args:
        image: [H, W, 3 or more] of values 0..255; the first three channels change.
        mask: [H, W] bool.
        color: (red, green, blue) in 0..1, or any color that matplotlib knows.
        alpha: 0 leaves the image as it is, 1 covers it.
    """
    rgb = np.asarray(as_color(color)[:3]) * 255
    inside = image[mask, :3]
    image[mask, :3] = (inside * (1 - alpha) + alpha * rgb).astype(image.dtype)


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | Iterable[tuple] | None,
    captions: Sequence[str],
    colors: Sequence[ColorType],
    *,
    side: int | None = None,
    show_boxes: bool = True,
) -> np.ndarray:
    """Draws masks with outlines, boxes and captions on a copy of an image. Later instances cover earlier ones.

    Args:
        image: [H, W], [H, W, 3] or [H, W, 4], see `to_rgb_uint8`; not modified.
        boxes: [N, (y1, x1, y2, x2)] pixels; y2, x2 exclusive.
        masks: [H, W, N] bool, each mask inside its box; or N pairs of a region (y1, x1, y2, x2) and the mask in it,
            [y2 - y1, x2 - x1] bool; or None.
        captions: N texts; an empty one draws nothing.
        colors: N colors: (red, green, blue) in 0..1, or any color that matplotlib knows.
        side: Longer side of the returned picture, pixels; None: that of the image.
        show_boxes: Whether to draw the outlines of the boxes. Without masks they are drawn in any case.

    Returns:
        [h, w, 3] uint8.

    Example:

    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> picture = draw_instances(image, np.array([[5, 5, 20, 30]]), None, ["cat 0.98"], ["red"], side=120)
    >>> picture.shape
    (80, 120, 3)
    """
    picture = to_rgb_uint8(image)  # a copy
    height, width = picture.shape[:2]
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    if isinstance(masks, np.ndarray):
        regions = np.rint(boxes).clip(0, [height, width, height, width]).astype(int).tolist()
        masks = [((y1, x1, y2, x2), masks[y1:y2, x1:x2, i]) for i, (y1, x1, y2, x2) in enumerate(regions)]
    scale = 1.0 if side is None else side / max(height, width)
    boxes = np.rint(boxes * scale).astype(int)
    if scale != 1:
        picture = _resize(picture, scale, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    size, new_size = (height, width), picture.shape[:2]
    for (region, mask), color in zip(masks or [], colors):
        (y1, x1, y2, x2), mask = _scale_mask(region, mask.astype(bool), size, new_size)
        if mask.size:
            _draw_mask(picture[y1:y2, x1:x2], mask, color)
    if show_boxes or masks is None:
        for (y1, x1, y2, x2), color in zip(boxes.tolist(), colors):
            corners = (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1))
            cv2.rectangle(picture, *corners, as_bytes(color))
    font = _font(max(SMALLEST_TEXT, round(min(picture.shape[:2]) * TEXT_HEIGHT)))
    for (y1, x1, _, _), text, color in zip(boxes.tolist(), captions, colors):
        _draw_caption(picture, font, printable(text), (x1, y1), color)
    return picture


def _resize(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    height, width = (max(1, round(pixels * scale)) for pixels in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _scale_mask(
    region: Sequence[int], mask: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]
) -> tuple[list[int], np.ndarray]:
    """A mask and its region, resized by nearest neighbors as the picture was, from `size` to `new_size`."""
    low, high = [], []
    for axis, (old, new) in enumerate(zip(size, new_size)):
        start, stop = (-(-side * new // old) for side in region[axis::2])  # pixels whose source is in the region
        mask = mask.take(np.arange(start, stop) * old // new - region[axis], axis=axis)
        low, high = [*low, start], [*high, stop]
    return [*low, *high], mask


def _draw_mask(part: np.ndarray, mask: np.ndarray, color: ColorType) -> None:
    """Fills a mask and draws its outline, in place."""
    fill_mask(part, mask, color, MASK_ALPHA)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        part[outline[:, 0, 1], outline[:, 0, 0]] = as_bytes(color)


def _draw_caption(picture: np.ndarray, font: ImageFont.FreeTypeFont, text: str, corner, color: ColorType) -> None:
    """Draws a caption on a colored tag above the corner, or below it at the top edge; always inside the picture."""
    text = " ".join(text.split("\n"))
    if not text:
        return
    _, _, right, bottom = font.getbbox(text)
    width, height = int(right) + 4, int(bottom) + 3
    x = max(0, min(corner[0], picture.shape[1] - width))
    y = corner[1] - height if corner[1] >= height else max(corner[1], 0)
    place = picture[y : y + height, x : x + width]
    tag = Image.new("RGB", (width, height), as_bytes(color))
    ImageDraw.Draw(tag).text((2, 1), text, font=font, fill=text_color(color))
    place[:] = np.asarray(tag)[: place.shape[0], : place.shape[1]]


@functools.lru_cache(maxsize=8)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), pixels)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[h, w, 3] uint8: two pictures of the same height, with a white gap between them."""
    gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def encode(picture: np.ndarray, kind: str = ".jpg") -> bytes:
    """The bytes of an image file.

    Args:
        picture: [h, w, 3] RGB uint8.
        kind: ".jpg" or ".png".
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if kind == ".jpg" else []
    return cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
