"""Images on their way into the network, and back: channels, resizing, padding, the mean pixel.

Shapes and units:
    image     [H, W, C], or [H, W] where said; values 0..255
    window    (y1, x1, y2, x2) pixels of the resized image: the part that is not padding
    padding   [(top, bottom), (left, right), (0, 0)] pixels
    crop      (y, x, height, width) pixels of the scaled image, or None

Resizing is bilinear between pixel centres: row r of L rows has its centre at (r + 0.5) / L of the height. Outside the
image lies `cval` (0): rows whose centre falls beyond the outermost centres of the source blend towards it, as in
scikit-image's `resize`, mode "constant". OpenCV does the interpolation.
"""

from __future__ import annotations

import random
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mrcnn.ops.resize_modes import RESIZE_MODES, SIZE_MULTIPLE

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # grey value of an RGB pixel, ITU-R BT.601
BRIGHTEST_FLOAT = 512  # interpolation and augmentation overshoot 255 a little; more is another scale
# Whole numbers come out of interpolation a hair below themselves; so little lifts them over the edge when cut to ints.
BELOW_WHOLE = 1e-4
FIXED_BITS = 8  # bytes are interpolated as uint16, in steps of 1 / 256
FIXED_POINT = 2**FIXED_BITS


# ---- What users hand in ----------------------------------------------------------------------------------------------
def to_channels(image, channels, name="image") -> np.ndarray:
    """An image of any usual kind as [H, W, channels] with values 0..255.

    Args:
        image: grey [H, W] or [H, W, 1], grey with alpha [H, W, 2], RGB [H, W, 3] or RGBA [H, W, 4]. uint8 and other
            whole numbers 0..255; uint16 0..65535; bool; floats of the range 0..255 (negative ones are let through:
            images from which a mean was taken).
        channels: int. Channels that the model takes. Alpha is dropped, grey repeated, RGB weighted to grey.
        name: str. What the image is called in an error.

    Returns:
        [H, W, channels]: uint8 from whole numbers and bool, float32 from floats.

    Raises:
        ValueError: no image: dimensions, emptiness, NaN, another range of values, channels that can't be made.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {image.shape}; expected [height, width] or [height, width, channels].")
    if image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; expected at least one pixel. Could the file be read?")
    image = _to_range(image[..., None] if image.ndim == 2 else image, name)
    given = image.shape[2]
    if given == channels:
        return image
    if given in (2, 4) and channels in (1, 3):  # the last is alpha
        image = image[..., :-1]
    if image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 3 and channels == 1:
        grey = image @ LUMA
        image = (np.around(grey) if image.dtype == np.uint8 else grey).astype(image.dtype)[..., None]
    if image.shape[2] != channels:
        raise ValueError(
            f"{name} has {given} channels (shape {image.shape[:2] + (given,)}), the model takes {channels}"
            " (Config.IMAGE_CHANNEL_COUNT)."
        )
    return np.ascontiguousarray(image)


def to_rgb_uint8(image: ArrayLike, name: str = "image") -> np.ndarray:
    """Converts an image of any usual kind to 8-bit RGB, for showing it and for reading files.

    Unlike `to_channels` it accepts every range of values, because what is shown need not be valid network input.

    Args:
        image: Gray [H, W] or [H, W, 1], gray with alpha [H, W, 2], RGB [H, W, 3] or RGBA [H, W, 4]. Alpha is dropped.
            bool becomes 0 and 255; uint16 is scaled from 0..65535 and rounded; floats that all lie in 0..1 are scaled
            to 0..255. Other numbers are clipped to 0..255 (so a mean-subtracted image does not wrap around) and
            truncated. NaN becomes 0.
        name: Name of the image in error messages.

    Returns:
        [H, W, 3] uint8, always a new array.

    Raises:
        ValueError: for any other shape or type.

    Example:

    >>> to_rgb_uint8(np.uint16([[0, 257, 65535]]))[0, :, 0]
    array([  0,   1, 255], dtype=uint8)
    """
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{name} has shape {image.shape}; expected [height, width] or [height, width, channels] with 1 to 4"
            " channels and at least one pixel."
        )
    image = image[..., : 3 if image.shape[2] > 2 else 1]
    pixels = _exact_bytes(image)
    if pixels is None and image.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {image.dtype}; expected bool, integers or floats.")
    if pixels is None:
        if image.dtype.kind == "f":
            image = np.where(np.isnan(image), 0, image)
            image = image * 255 if image.min() >= 0 and image.max() <= 1 else image
        pixels = np.clip(image, 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def _exact_bytes(image: np.ndarray) -> np.ndarray | None:
    """uint8, bool and uint16 as uint8 of the range 0..255; None for types whose values don't say their range."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype == np.uint16:
        return np.around(image / 257).astype(np.uint8)  # 65535 / 255 = 257
    return None


def _to_range(image: np.ndarray, name: str) -> np.ndarray:
    """Values as uint8 or float32 of the range 0..255."""
    kind, pixels = image.dtype.kind, _exact_bytes(image)
    if pixels is not None:
        return pixels
    if kind not in "iuf":
        raise ValueError(f"{name} has dtype {image.dtype}; expected uint8, uint16, bool or float.")
    low, high = image.min(), image.max()
    if kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(
                f"{name} has dtype {image.dtype} and values {low}..{high}; expected 0..255."
                " Scale it, or give 16-bit images as uint16."
            )
        return image.astype(np.uint8)
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError(f"{name} has NaN or infinite values; expected finite numbers 0..255.")
    if low >= -1 and high <= 1 and (low, high) != (0, 0):
        raise ValueError(
            f"{name} has float values {low:.3g}..{high:.3g}; expected 0..255. It looks like an image scaled to 0..1 or"
            " -1..1: scale it back, for 0..1 with image * 255."
        )
    if high > BRIGHTEST_FLOAT:
        raise ValueError(
            f"{name} has float values up to {high:.6g}; expected 0..255. Give a 16-bit image as uint16, or scale it."
        )
    return image.astype(np.float32)


def subtract_mean(images, mean, out=None) -> np.ndarray:
    """What the network sees: images minus the mean pixel. Inverse of `add_mean`.

    Args:
        images: [..., H, W, C], any number type.
        mean: [C], or one number for all channels.
        out: [..., H, W, C] float32 in one piece, such as an image's place in its batch; None: a new array.

    Returns:
        [..., H, W, C] float32: out, if given.
    """
    images = np.asarray(images)
    out = np.empty(images.shape, np.float32) if out is None else out
    if out.shape != images.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(
            f"out is {out.dtype} of shape {out.shape}; expected float32 of shape {images.shape}, in one piece."
        )
    width, channels = images.shape[-2:]
    # OpenCV's scalars hold four values, and it takes them for an image where the image is that small.
    if images.dtype == np.uint8 and channels <= 4 and width > 4 and images.size:
        scalar = np.broadcast_to(np.asarray(mean, np.float32), channels).tolist() + [0.0] * (4 - channels)
        lines = (-1, width, channels)
        cv2.subtract(images.reshape(lines), tuple(scalar), dst=out.reshape(lines), dtype=cv2.CV_32F)
        return out
    row = np.tile(np.broadcast_to(np.asarray(mean, np.float32), channels), width)  # whole rows: 5 times as fast
    rows = images.shape[:-2] + (width * channels,)
    np.subtract(images.reshape(rows), row, out=out.reshape(rows), dtype=np.float32, casting="unsafe")
    return out


def add_mean(images, mean) -> np.ndarray:
    """images [..., C] plus the mean pixel [C] (or one number for all), rounded and clipped to 0..255, uint8."""
    pixels = np.add(images, np.asarray(mean, np.float32), dtype=np.float32)
    return np.clip(np.around(pixels), 0, 255).astype(np.uint8)


# ---- Resizing --------------------------------------------------------------------------------------------------------
def resize(image, output_shape, order=1, mode="constant", cval=0, clip=True, preserve_range=False,
           anti_aliasing=False, anti_aliasing_sigma=None) -> np.ndarray:  # fmt: skip
    """scikit-image's `resize` under one set of defaults, with OpenCV's speed for the usual case (order 1, constant 0).

    Args:
        image: [H, W] or [H, W, C] of any number type; bool counts as 0 and 1.
        output_shape: (height, width), or with the same C behind.
        order: int 0..5. 1: bilinear.
        mode, cval: what lies outside the image.
        clip: bool. Keeps the result in the range of the values of image.
        preserve_range: bool. False: whole numbers are scaled to 0..1.
        anti_aliasing, anti_aliasing_sigma: blur first, when making smaller.

    Returns:
        [height, width(, C)] float32 from float16 and float32, else float64.

    Raises:
        ValueError: an empty image, or an output shape that doesn't fit.
    """
    image = np.asarray(image)
    _refuse_empty(image, output_shape)
    usual = order == 1 and mode == "constant" and cval == 0 and not anti_aliasing
    same_channels = len(output_shape) == 2 or tuple(output_shape[2:]) == image.shape[2:]
    if image.dtype == bool:
        image = image.astype(np.float64)
    elif image.dtype.kind in "iu" and not preserve_range:
        image = image / np.iinfo(image.dtype).max
    if usual and same_channels and image.ndim in (2, 3):
        floats = image.astype(np.float32 if image.dtype in (np.float16, np.float32) else np.float64, order="C")
        return _bilinear(floats, output_shape[:2], _limits(floats) if clip else None)
    from skimage import transform  # a second to import, and only needed here

    return transform.resize(
        image, output_shape, order=order, mode=mode, cval=cval, clip=clip, preserve_range=preserve_range,
        anti_aliasing=anti_aliasing, anti_aliasing_sigma=anti_aliasing_sigma,
    )  # fmt: skip


def _refuse_empty(image: np.ndarray, output_shape) -> None:
    if image.ndim < 2 or 0 in image.shape or min(output_shape, default=0) < 1:
        raise ValueError(
            f"Can't resize an image of shape {image.shape} to {tuple(output_shape)}; expected [height, width] or"
            " [height, width, channels], both with at least one pixel."
        )


def _bilinear(image: np.ndarray, shape, limits=None) -> np.ndarray:
    """image [H, W(, C)] uint16 or float -> [height, width(, C)]; beyond the outermost pixel centres towards 0.

    limits: (low, high), as scikit-image clips to the range of the image's values; None: not clipped. Only the margins
    need it: between centres nothing exceeds the values around.
    """
    height, width = (int(side) for side in shape)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    resized = resized.reshape((height, width) + image.shape[2:])  # OpenCV drops a single channel's axis
    floats = np.float64 if image.dtype == np.float64 else np.float32
    for axis, source in enumerate(image.shape[:2]):
        lanes = resized.swapaxes(axis, 0)  # a view
        for edge, keep in _margins(source, len(lanes)):
            blended = lanes[edge] * keep.astype(floats).reshape((-1,) + (1,) * (lanes.ndim - 1))
            lanes[edge] = blended if limits is None else np.clip(blended, *limits)
    return resized


@lru_cache(maxsize=256)
def _margins(source: int, target: int) -> list:
    """The rows (or columns) at both edges that blend with what is outside: slice, and which share [rows] they keep."""
    outside = outside_share(source, target)
    margin = np.count_nonzero(outside) // 2
    edges = (slice(0, margin), slice(target - margin, target))
    return [(edge, 1 - outside[edge]) for edge in edges if margin]


def _limits(image: np.ndarray) -> tuple:
    """Smallest and largest value, NaN left out."""
    if image.dtype == np.uint8:
        return cv2.minMaxLoc(image.reshape(len(image), -1))[:2]
    return np.fmin.reduce(image, axis=None), np.fmax.reduce(image, axis=None)


def source_positions(source, target: int) -> np.ndarray:
    """Where the centres of `target` pixels lie on the centres 0..source-1 of the source: [target] float64.

    source: int, or [..., 1] for [..., target].
    """
    return (np.arange(target) + 0.5) * (source / target) - 0.5


def outside_share(source: int, target: int) -> np.ndarray:
    """[target] float64 in [0, 0.5]: how far each pixel centre lies beyond the outermost centres of the source."""
    positions = source_positions(source, target)
    return np.maximum(np.maximum(-positions, positions - (source - 1)), 0)


def resize_image(image, min_dim=None, max_dim=None, min_scale=None, mode="square", rng=None):
    """Scales an image, its aspect kept, and pads or crops it to the size that the network takes.

    Args:
        image: [H, W, C] or [H, W].
        min_dim: int. The shorter side is scaled up to it (never down); side of the crop in mode "crop".
        max_dim: int. Mode "square": side of the result; the longer side is scaled down to it.
        min_scale: number. At least this scaling, even if min_dim needs less; max_dim still holds.
        mode: "none": nothing is done. "square": padded with zeros to [max_dim, max_dim]. "pad64": padded to the next
            multiples of 64. "crop": a random piece [min_dim, min_dim] is cut out.
        rng: numpy.random.Generator that places the crop; None: Python's global `random`, as matterport did.

    Returns:
        image: like the given one in type and channels; whole numbers are cut, not rounded, as matterport did.
        window: (y1, x1, y2, x2) of the image within it, pixels.
        scale: float. Resized / original.
        padding: [(top, bottom), (left, right), (0, 0)] pixels.
        crop: (y, x, height, width) pixels within the scaled image, or None.

    Raises:
        ValueError: unknown mode, a size missing that the mode needs, an image without pixels.
    """
    image = np.asarray(image)
    _check_resize(image, min_dim, max_dim, mode)
    height, width = image.shape[:2]
    padding, crop = [(0, 0), (0, 0), (0, 0)], None
    if mode == "none":
        return image, (0, 0, height, width), 1.0, padding, crop

    scale = _image_scale(height, width, min_dim, max_dim, min_scale, mode)
    height, width = scaled(height, scale), scaled(width, scale)
    if mode == "crop":
        pick = random.randint if rng is None else lambda low, high: int(rng.integers(low, high + 1))
        y, x = pick(0, height - min_dim), pick(0, width - min_dim)
        crop = (y, x, min_dim, min_dim)
        return _scale_into(image, (height, width), padding, crop), (0, 0, min_dim, min_dim), scale, padding, crop

    for axis, side in enumerate((height, width)):
        target = max_dim if mode == "square" else -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
        padding[axis] = ((target - side) // 2, target - side - (target - side) // 2)
    (top, _), (left, _), _ = padding
    window = (top, left, top + height, left + width)
    return _scale_into(image, (height, width), padding, crop), window, scale, padding, crop


def _check_resize(image: np.ndarray, min_dim, max_dim, mode) -> None:
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, RESIZE_MODES))}.")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"The image has shape {image.shape}; expected [height, width, channels], none of them 0.")
    if mode == "square" and not max_dim:
        raise ValueError(f'max_dim is {max_dim}; mode "square" needs it: the side of the result in pixels.')
    if mode == "crop" and not min_dim:
        raise ValueError(f'min_dim is {min_dim}; mode "crop" needs it: the side of the crop in pixels.')
    if mode == "pad64" and min_dim and min_dim % SIZE_MULTIPLE:
        raise ValueError(f'min_dim is {min_dim}; mode "pad64" needs a multiple of {SIZE_MULTIPLE}, or None.')


def _image_scale(height, width, min_dim, max_dim, min_scale, mode):
    scale = max(1.0, min_dim / min(height, width)) if min_dim else 1.0
    if min_scale and scale < min_scale:
        scale = min_scale
    if mode == "square" and round(max(height, width) * scale) > max_dim:
        scale = max_dim / max(height, width)
    return scale


def scaled(side: int, scale) -> int:
    """A side in pixels after scaling: rounded, and never less than one pixel."""
    return max(1, round(side * scale))


def _scale_into(image: np.ndarray, shape, padding, crop) -> np.ndarray:
    """image scaled to shape (height, width), cropped, and set into zeros with padding around; same type."""
    scales = shape != image.shape[:2]
    resized = _interpolate(image, shape) if scales else image
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


def _interpolate(image: np.ndarray, shape) -> np.ndarray:
    """image resized to shape (height, width), finer than its type: uint8 as uint16 times 256, others as floats."""
    limits = _limits(image) if max(shape) > max(image.shape[:2]) else None
    if image.dtype == np.uint8:  # half the memory of floats, and memory is what this costs: 0.8 ms to 1024, not 1.4
        fixed = np.multiply(image, FIXED_POINT, dtype=np.uint16, order="C")
        return _bilinear(fixed, shape, limits and tuple(FIXED_POINT * int(limit) for limit in limits))
    floats = np.float32 if image.dtype in (np.int8, np.float16, np.float32) else np.float64
    lift = BELOW_WHOLE if image.dtype.kind in "iu" else 0
    return _bilinear(np.add(image, lift, dtype=floats, order="C"), shape, limits)


def resize_mask(mask, scale, padding, crop=None) -> np.ndarray:
    """Does to masks what `resize_image` did to their image; pixels are picked, not blended.

    Args:
        mask: [H, W, N] or [H, W], any type.
        scale, padding, crop: as `resize_image` returned them.

    Returns:
        [height, width, N] or [height, width] of the same type, 0 in the padding.
    """
    mask = np.asarray(mask)
    rows, columns = mask_sources(mask.shape, scale, crop)
    (top, bottom), (left, right) = padding[:2]
    molded = np.zeros((top + len(rows) + bottom, left + len(columns) + right) + mask.shape[2:], mask.dtype)
    inside = molded[top : top + len(rows), left : left + len(columns)]
    if scale == 1 and crop is None:
        inside[:] = mask
    elif len(rows) < mask.shape[0]:
        inside[:] = mask[rows].take(columns, axis=1)  # the step that makes less comes first
    else:
        inside[:] = mask.take(columns, axis=1)[rows]
    return molded


def mask_sources(shape, scale, crop=None) -> tuple[np.ndarray, np.ndarray]:
    """Which row and which column of a mask each row [h] and column [w] of the scaled, cropped, unpadded mask shows."""
    rows, columns = (_nearest(side, scaled(side, scale)) for side in shape[:2])
    if crop is None:
        return rows, columns
    y, x, height, width = crop
    return rows[y : y + height], columns[x : x + width]


def _nearest(source: int, target: int) -> np.ndarray:
    """[target] int: the source pixel that each target pixel takes; first on first and last on last.

    scipy.ndimage.zoom's grid, which matterport used for masks. It differs from that of images by less than a pixel.
    """
    step = (source - 1) / (target - 1) if target > 1 else 1.0
    return np.floor(np.arange(target) * step + 0.5).astype(np.intp)
