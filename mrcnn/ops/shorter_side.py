"""Resizing to a given length of the shorter side, and padding on the right and below, as most detectors do.

Shapes and units: an image of H x W pixels becomes one of h x w, on a canvas whose sides are multiples of a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mrcnn.ops.interpolation import FIXED_BITS, fine_bilinear

ROUNDINGS = ("round", "floor", "half_up")
RESAMPLINGS = ("opencv", "bilinear", "pillow")


def scaled_sides(
    size: Sequence[int], min_dim: int, max_dim: int, rounding: str = "round"
) -> tuple[tuple[int, int], float]:
    """The size of an image whose shorter side is scaled to `min_dim`, or less if the longer one would exceed `max_dim`.

    Args:
        size: (H, W) pixels.
        min_dim: Pixels.
        max_dim: Pixels.
        rounding: "round" rounds to the nearest, half to even; "half_up" to the nearest, half up; "floor" rounds down,
            which can give 799 for 800: 161 * (800 / 161) is below 800 in floating point, as in torchvision.

    Returns:
        (h, w) pixels, at least 1, and the scale.

    Example:

    >>> scaled_sides((480, 640), 800, 1333, "floor"), scaled_sides((480, 640), 800, 1333, "half_up")
    (((800, 1066), 1.6666666666666667), ((800, 1067), 1.6666666666666667))
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is {rounding!r}; expected one of {', '.join(map(repr, ROUNDINGS))}.")
    shorter, longer = min(size), max(size)
    scale = min(min_dim / shorter, max_dim / longer)
    if rounding == "half_up":  # the shorter side is exact, and a second factor is applied to both where needed
        sides = [float(min_dim) if side == shorter else min_dim / shorter * side for side in size]
        if max(sides) > max_dim:
            sides = [side * (max_dim / max(sides)) for side in sides]
        sides = [int(side + 0.5) for side in sides]
    else:
        sides = [int(side * scale) if rounding == "floor" else round(side * scale) for side in size]
    return (max(1, sides[0]), max(1, sides[1])), scale


def fit_shorter_side(
    image: np.ndarray,
    min_dim: int,
    max_dim: int,
    multiple: int = 32,
    rounding: str = "round",
    resampling: str = "opencv",
) -> tuple[np.ndarray, tuple, float, list, None]:
    """Scales an image and pads it with zeros on the right and below.

    Args:
        image: [H, W, C] or [H, W].
        min_dim: Length of the shorter side.
        max_dim: Largest length of the longer side.
        multiple: Sides of the result are multiples of it; 1 does not pad.
        rounding: Of the scaled sides, see `scaled_sides`.
        resampling: "opencv" as `ops.images.resize_image`; "bilinear" in float32 without antialiasing; "pillow"
            antialiased, on bytes in fixed point.

    Returns:
        As `ops.images.resize_image`. With "bilinear" the image is float32, otherwise of the given dtype.
    """
    (height, width), scale = scaled_sides(image.shape[:2], min_dim, max_dim, rounding)
    resized = RESIZE[resampling](image, (height, width)) if (height, width) != image.shape[:2] else image
    if resampling == "bilinear":
        resized = resized.astype(np.float32, copy=False)
    padding = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    window = (0, 0, height, width)
    return np.pad(resized, padding[: resized.ndim]), window, scale, padding, None


def _resize_opencv(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    resized = fine_bilinear(image, shape)
    return (resized >> FIXED_BITS).astype(np.uint8) if image.dtype == np.uint8 else resized.astype(image.dtype)


def _resize_bilinear(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Without antialiasing: each pixel blends two rows and two columns, at centers aligned between both images.

    Everything is float32, including coordinates, as in the training of the weights; OpenCV differs by up to 0.02.
    """
    x = image.astype(np.float32)
    for axis, (source, target) in enumerate(zip(image.shape[:2], shape)):
        step = float(np.float32(source) / np.float32(target))
        position = np.maximum(step * (np.arange(target) + 0.5) - 0.5, 0).astype(np.float32)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, source - 1)
        share = (position - low.astype(np.float32)).reshape((-1, *[1] * (x.ndim - 1 - axis)))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def _resize_pillow(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    size = shape[1], shape[0]
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    planes = image[..., None] if image.ndim == 2 else image
    mode = np.uint8 if image.dtype == np.uint8 else np.float32
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(planes[..., i], mode)).resize(size, Image.Resampling.BILINEAR))
        for i in range(planes.shape[2])
    ]
    return np.stack(resized, axis=-1).reshape(*shape, *image.shape[2:]).astype(image.dtype)


RESIZE = {"opencv": _resize_opencv, "bilinear": _resize_bilinear, "pillow": _resize_pillow}
