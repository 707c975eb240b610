"""Images on their way into the network and back: the mean pixel, resizing and padding.

Shapes and units:
    image     [H, W, C], or [H, W] where stated
    window    (y1, x1, y2, x2) pixels of the resized image: the part that is not padding
    padding   [(top, bottom), (left, right), (0, 0)] pixels
    crop      (y, x, height, width) pixels of the scaled image, or None
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops.interpolation import FIXED_BITS, bilinear, fine_bilinear, image_sources, nearest_sources, value_limits
from mrcnn.ops.resize_modes import RESIZE_MODES, SIZE_MULTIPLE
from mrcnn.ops.shorter_side import fit_shorter_side


# ---- The mean pixel --------------------------------------------------------------------------------------------------
def subtract_mean(images: ArrayLike, mean: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
    """Subtracts the mean pixel: the network's input. Inverse of `add_mean`.

    Args:
        images: [..., H, W, C], any number type.
        mean: [C], or one number for all channels.
        out: Contiguous [..., H, W, C] float32 array for the result, such as an image's place in its batch. None
            creates one.

    Returns:
        [..., H, W, C] float32; `out`, if given.
    """
    images = np.asarray(images)
    out = np.empty(images.shape, np.float32) if out is None else out
    if out.shape != images.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(
            f"out is {out.dtype} of shape {out.shape}; expected float32 of shape {images.shape}, contiguous."
        )
    width, channels = images.shape[-2:]
    # OpenCV's scalars have four values, and it would take an image of 1 x 4 for one.
    if images.dtype == np.uint8 and channels <= 4 and width > 4 and images.size:
        scalar = np.broadcast_to(np.asarray(mean, np.float32), channels).tolist() + [0.0] * (4 - channels)
        lines = (-1, width, channels)
        cv2.subtract(images.reshape(lines), tuple(scalar), dst=out.reshape(lines), dtype=cv2.CV_32F)
        return out
    row = np.tile(np.broadcast_to(np.asarray(mean, np.float32), channels), width)  # whole rows: 5 times as fast
    rows = images.shape[:-2] + (width * channels,)
    np.subtract(images.reshape(rows), row, out=out.reshape(rows), dtype=np.float32, casting="unsafe")
    return out


def add_mean(images: ArrayLike, mean: ArrayLike) -> np.ndarray:
    """Adds the mean pixel [C] (or one number for all channels) to [..., C]: uint8, rounded and clipped to 0..255."""
    pixels = np.add(images, np.asarray(mean, np.float32), dtype=np.float32)
    return np.clip(np.around(pixels), 0, 255).astype(np.uint8)


def clear_padding(molded: np.ndarray, window: Sequence[int]) -> None:
    """Sets a mean-subtracted image [H, W, C] to 0 outside `window`, in place: the padding then equals the mean."""
    y1, x1, y2, x2 = (int(v) for v in window)
    for border in (molded[:y1], molded[y2:], molded[:, :x1], molded[:, x2:]):
        border[...] = 0


# ---- Resizing --------------------------------------------------------------------------------------------------------
def resize(image: ArrayLike, output_shape: Sequence[int], order: int = 1, mode: str = "constant", cval: float = 0,
           clip: bool = True, preserve_range: bool = False, anti_aliasing: bool = False,
           anti_aliasing_sigma: float | None = None) -> np.ndarray:  # fmt: skip
    """scikit-image's `resize` with fixed defaults, computed by OpenCV in the usual case (order 1, constant 0).

    Args:
        image: [H, W] or [H, W, C] of any number type; bool counts as 0 and 1.
        output_shape: (height, width), or (height, width, C).
        order: 0..5. 1 is bilinear.
        mode: How to continue the image outside its border; see scikit-image.
        cval: The value outside for mode "constant".
        clip: Whether to keep the result within the range of the image's values.
        preserve_range: False scales integers to 0..1.
        anti_aliasing: Whether to blur before shrinking.
        anti_aliasing_sigma: Width of that blur.

    Returns:
        [height, width(, C)]: float32 from float16 and float32, otherwise float64.

    Raises:
        ValueError: for an empty image, or an output shape that does not match.
    """
    image = np.asarray(image)
    if image.ndim < 2 or 0 in image.shape or min(output_shape, default=0) < 1:
        raise ValueError(
            f"Can't resize an image of shape {image.shape} to {tuple(output_shape)}; expected [height, width] or"
            " [height, width, channels], both with at least one pixel."
        )
    usual = order == 1 and mode == "constant" and cval == 0 and not anti_aliasing
    same_channels = len(output_shape) == 2 or tuple(output_shape[2:]) == image.shape[2:]
    if image.dtype == bool:
        image = image.astype(np.float64)
    elif image.dtype.kind in "iu" and not preserve_range:
        image = image / np.iinfo(image.dtype).max
    if usual and same_channels and image.ndim in (2, 3):
        floats = image.astype(np.float32 if image.dtype in (np.float16, np.float32) else np.float64, order="C")
        return bilinear(floats, output_shape[:2], value_limits(floats) if clip else None)
    from skimage import transform  # takes a second to import, and is only needed here

    return transform.resize(
        image, output_shape, order=order, mode=mode, cval=cval, clip=clip, preserve_range=preserve_range,
        anti_aliasing=anti_aliasing, anti_aliasing_sigma=anti_aliasing_sigma,
    )  # fmt: skip


def resize_image(
    image: ArrayLike,
    min_dim: int | None = None,
    max_dim: int | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    rng: np.random.Generator | None = None,
    rounding: str = "round",
    resampling: str = "opencv",
) -> tuple[np.ndarray, tuple, float, list, tuple | None]:
    """Scales an image, keeping its aspect ratio, and pads or crops it to the network's input size.

    Args:
        image: [H, W, C] or [H, W].
        min_dim: The shorter side is scaled up to it (never down); side of the crop in mode "crop".
        max_dim: Mode "square": side of the result; the longer side is scaled down to it.
        min_scale: Smallest scaling, even if `min_dim` needs less; `max_dim` takes precedence.
        mode: "none" returns the image unchanged. "square" pads with zeros to [max_dim, max_dim]. "pad64" pads to the
            next multiples of 64. "crop" cuts out a random square of [min_dim, min_dim]. "pad32" and "shorter_side"
            scale the shorter side to min_dim, up or down, the longer one to at most max_dim; "pad32" then pads to
            multiples of 32, on the right and below.
        rng: Places the crop. None uses Python's global `random`, as matterport does.
        rounding, resampling: Of "pad32" and "shorter_side", see `ops.shorter_side.fit_shorter_side`.

    Returns:
        The image, in its dtype (integers are truncated, not rounded, as in matterport's code); its window (y1, x1, y2,
        x2) in pixels of the result; resized / original; padding [(top, bottom), (left, right), (0, 0)]; crop (y, x,
        height, width) in pixels of the scaled image, or None.

    Raises ValueError for an unknown mode, a missing size that the mode needs, or an image without pixels.

    >>> resized, window, scale, padding, _ = resize_image(np.ones((50, 100, 3)), min_dim=64, max_dim=128)
    >>> resized.shape, window, scale, padding
    ((128, 128, 3), (32, 0, 96, 128), 1.28, [(32, 32), (0, 0), (0, 0)])
    """
    image = np.asarray(image)
    _check_resize(image, min_dim, max_dim, mode)
    height, width = image.shape[:2]
    padding, crop = [(0, 0), (0, 0), (0, 0)], None
    if mode == "none":
        return image, (0, 0, height, width), 1.0, padding, crop

    if mode in ("pad32", "shorter_side"):
        return fit_shorter_side(image, min_dim, max_dim, 32 if mode == "pad32" else 1, rounding, resampling)

    scale = image_scale(height, width, min_dim, max_dim, min_scale, mode)
    height, width = scaled(height, scale), scaled(width, scale)
    if mode == "crop":
        pick = random.randint if rng is None else lambda low, high: int(rng.integers(low, high + 1))
        y, x = pick(0, height - min_dim), pick(0, width - min_dim)
        crop = (y, x, min_dim, min_dim)
        return scale_into(image, (height, width), padding, crop), (0, 0, min_dim, min_dim), scale, padding, crop

    for axis, side in enumerate((height, width)):
        target = max_dim if mode == "square" else -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
        padding[axis] = ((target - side) // 2, target - side - (target - side) // 2)
    (top, _), (left, _), _ = padding
    window = (top, left, top + height, left + width)
    return scale_into(image, (height, width), padding, crop), window, scale, padding, crop


def _check_resize(image: np.ndarray, min_dim, max_dim, mode) -> None:
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, RESIZE_MODES))}.")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"The image has shape {image.shape}; expected [height, width, channels], none of them 0.")
    if mode in ("pad32", "shorter_side") and not (min_dim and max_dim):
        raise ValueError(f'min_dim is {min_dim} and max_dim is {max_dim}; mode "{mode}" needs both.')
    if mode == "square" and not max_dim:
        raise ValueError(f'max_dim is {max_dim}; mode "square" needs it: the side of the result in pixels.')
    if mode == "crop" and not min_dim:
        raise ValueError(f'min_dim is {min_dim}; mode "crop" needs it: the side of the crop in pixels.')
    if mode == "pad64" and min_dim and min_dim % SIZE_MULTIPLE:
        raise ValueError(f'min_dim is {min_dim}; mode "pad64" needs a multiple of {SIZE_MULTIPLE}, or None.')


def image_scale(
    height: int, width: int, min_dim: int | None, max_dim: int | None, min_scale: float | None, mode: str
) -> float:
    """The factor by which `resize_image` scales an image in the modes "square", "pad64" and "crop"."""
    scale = max(1.0, min_dim / min(height, width)) if min_dim else 1.0
    if min_scale and scale < min_scale:
        scale = min_scale
    if mode == "square" and round(max(height, width) * scale) > max_dim:
        scale = max_dim / max(height, width)
    return scale


def scaled(side: int, scale: float) -> int:
    """A side after scaling, pixels: rounded, and at least 1."""
    return max(1, round(side * scale))


def scale_into(image: np.ndarray, shape: tuple[int, int], padding: Sequence, crop: tuple | None) -> np.ndarray:
    """The image scaled to shape (height, width), cropped and zero-padded, in its own dtype.

    Only the borders are set to zero, and scaled pixels are written directly into the result, once
    (docs/performance.md, "loading").
    """
    scales = shape != image.shape[:2]
    resized = fine_bilinear(image, shape) if scales else image
    if crop is not None:
        y, x, height, width = crop
        resized = resized[y : y + height, x : x + width]
    (top, bottom), (left, right), _ = padding
    height, width = resized.shape[:2]
    molded = np.empty((top + height + bottom, left + width + right) + image.shape[2:], image.dtype)
    inside = molded[top : top + height, left : left + width]
    for border in (molded[:top], molded[top + height :], molded[:, :left], molded[:, left + width :]):
        border[...] = 0
    if scales and image.dtype == np.uint8:
        np.right_shift(resized, FIXED_BITS, out=inside, casting="unsafe")
    else:
        inside[:] = resized
    return molded


def resize_mask(mask: ArrayLike, scale: float, padding: Sequence, crop: tuple | None = None) -> np.ndarray:
    """matterport's `resize_mask`: applies to masks what `resize_image` did to their image, but with the grid of
    `scipy.ndimage.zoom`. The package itself uses `resize_mask_like_image`.

    Args:
        mask: [H, W, N] or [H, W], any type.
        scale: As returned by `resize_image`, like the next two.
        padding: [(top, bottom), (left, right), ...] pixels.
        crop: (y, x, height, width) pixels, or None.

    Returns:
        [height, width, N] or [height, width] of the same type, 0 in the padding.
    """
    mask = np.asarray(mask)
    rows, columns = mask_sources(mask.shape, scale, crop, nearest_sources)
    return _place_mask(mask, rows, columns, padding, crop)


def resize_mask_like_image(
    mask: ArrayLike, scale: float | Sequence[float], padding: Sequence, crop: tuple | None = None
) -> np.ndarray:
    """Applies to masks exactly what `resize_image` did to their image; pixels are picked, not blended.

    Arguments and result as of `resize_mask`; `scale` may also be (y, x), one for each axis.

    Example:

    >>> resize_mask_like_image(np.eye(2, dtype=int), 2, [(0, 0), (0, 0)])
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    mask = np.asarray(mask)
    rows, columns = mask_sources(mask.shape, scale, crop)
    return _place_mask(mask, rows, columns, padding, crop)


def _place_mask(mask: np.ndarray, rows, columns, padding, crop) -> np.ndarray:
    (top, bottom), (left, right) = padding[:2]
    molded = np.zeros((top + len(rows) + bottom, left + len(columns) + right) + mask.shape[2:], mask.dtype)
    inside = molded[top : top + len(rows), left : left + len(columns)]
    if crop is None and (len(rows), len(columns)) == mask.shape[:2]:
        inside[:] = mask
    elif len(rows) < mask.shape[0]:
        inside[:] = mask[rows].take(columns, axis=1)  # the step that shrinks comes first
    else:
        inside[:] = mask.take(columns, axis=1)[rows]
    return molded


def mask_sources(
    shape: Sequence[int],
    scale: float | Sequence[float],
    crop: tuple | None = None,
    sources: Callable[[int, int], np.ndarray] = image_sources,
) -> tuple[np.ndarray, np.ndarray]:
    """The source row [h] and column [w] of each row and column of the scaled and cropped, unpadded mask.

    Args:
        shape: (H, W, ...) of the mask.
        scale: As for `resize_mask_like_image`, like the next one.
        crop: (y, x, height, width) pixels, or None.
        sources: The grid, a function of `ops.interpolation`.
    """
    scales = np.broadcast_to(scale, 2)
    rows, columns = (sources(side, scaled(side, float(factor))) for side, factor in zip(shape, scales))
    if crop is None:
        return rows, columns
    y, x, height, width = crop
    return rows[y : y + height], columns[x : x + width]
