"""Channels and values of images: what the network takes, and what a screen shows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # gray value of an RGB pixel, ITU-R BT.601
MAX_FLOAT = 512  # interpolation and augmentation may exceed 255 a little; larger values mean another scale
WHITE16 = 65535
SENSOR_BITS = (10, 12, 14)  # of sensors whose values are stored in 16 bits
MAX_SHOWN_BANDS = 12  # more are probably masks, given in place of an image


def to_channels(
    image: ArrayLike,
    channels: int,
    name: str = "image",
    value_range: str | Sequence[float] = "auto",
    mean: ArrayLike = 127.5,
) -> np.ndarray:
    """Converts an image of any usual kind to the channels and values that the model takes.

    Args:
        image: Gray [H, W] or [H, W, 1], gray with alpha [H, W, 2], RGB [H, W, 3], RGBA [H, W, 4], or as many bands as
            `channels`.
        channels: Number of channels of the result. Alpha is dropped, gray repeated, RGB converted to gray.
        name: Name of the image in error messages.
        value_range: `Config.IMAGE_RANGE`. (low, high) become 0 and 255. "raw" leaves all numbers as they are. "auto":
            uint8, other integers 0..255 and floats 0..255 (negative ones pass: images minus a mean) stay; uint16 is
            scaled from 0..65535, bool from 0..1; other values are an error. Where `mean` is not one of images 0..255,
            "auto" is "raw".
        mean: `Config.MEAN_PIXEL`.

    Returns:
        [H, W, channels]: uint8 from uint8, bool and integers 0..255; other integers if they are "raw"; else float32.

    Raises:
        ValueError: if the array is empty or not an image, has NaN or another range of values, or if its channels
            cannot be converted.

    Example:

    >>> to_channels(np.zeros((4, 5), bool), 3).shape
    (4, 5, 3)
    >>> to_channels(np.uint16([[0, 2047, 4095]]), 1, value_range=(0, 4095))[0, :, 0].round(1)
    array([  0. , 127.5, 255. ], dtype=float32)
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {image.shape}; expected [height, width] or [height, width, channels].")
    if image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; expected at least one pixel. Could the file be read?")
    if image.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {image.dtype}; expected bool, integers or floats.")
    image = _to_range(image[..., None] if image.ndim == 2 else image, value_range, mean, name)
    given = image.shape[2]
    if given == channels:
        return image
    if given in (2, 4) and channels in (1, 3):  # the last is alpha
        image = image[..., :-1]
    if image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 3 and channels == 1:
        gray = image @ LUMA
        image = (np.around(gray) if image.dtype.kind in "iu" else gray).astype(image.dtype)[..., None]
    if image.shape[2] != channels:
        raise ValueError(
            f"{name} has {given} channels (shape {image.shape[:2] + (given,)}), the model takes {channels}"
            " (Config.IMAGE_CHANNEL_COUNT)."
        )
    return np.ascontiguousarray(image)


def _to_range(image: np.ndarray, value_range: str | Sequence[float], mean: ArrayLike, name: str) -> np.ndarray:
    """The image in the network's range of values; see `to_channels`."""
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype.kind == "f":
        image = image.astype(np.float32, copy=False)
        if not np.isfinite(image.min()) or not np.isfinite(image.max()):
            raise ValueError(f"{name} has NaN or infinite values; expected finite numbers.")
    if not isinstance(value_range, str):
        low, high = value_range
        if image.dtype == np.uint8 and (low, high) == (0, 255):
            return image
        return (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    if value_range == "raw" or np.max(mean) <= 1 or np.min(mean) < 0 or np.max(mean) > 255:
        return image
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        _warn_of_dark(image)
        return image * np.float32(255 / WHITE16)
    _check_range(image, name)
    return image if image.dtype.kind == "f" else image.astype(np.uint8)


def _warn_of_dark(image: np.ndarray) -> None:
    bits = _sensor_bits(image)
    if bits < 16:
        warnings.warn(
            f"A uint16 image has no value above {2**bits - 1} ({bits} bits): scaled from 0..{WHITE16}, it is almost"
            f" black. Set Config.IMAGE_RANGE = (0, {2**bits - 1}), or (low, high) of your images;"
            f" (0, {WHITE16}) turns this warning off.",
            stacklevel=2,
        )


def _sensor_bits(image: np.ndarray) -> int:
    """10, 12 or 14 if all values of a uint16 image fit into so many bits, else 16; also 16 for a black image."""
    highest = int(image.max())
    return next((bits for bits in SENSOR_BITS if 0 < highest < 2**bits), 16)


def _check_range(image: np.ndarray, name: str) -> None:
    """Raises ValueError for integers that are not 0..255, and for floats that are on another scale."""
    low, high = image.min(), image.max()
    advice = "Set Config.IMAGE_RANGE = (low, high) of your images, or"
    if image.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(
                f"{name} has dtype {image.dtype} and values {low}..{high}; expected 0..255. {advice}"
                ' "raw" with their MEAN_PIXEL.'
            )
    elif low >= -1 and high <= 1 and (low, high) != (0, 0):
        raise ValueError(
            f"{name} has float values {low:.3g}..{high:.3g}; expected 0..255. It looks like an image scaled to 0..1 or"
            f" -1..1. {advice} scale it back, for 0..1 with image * 255, or set a MEAN_PIXEL of at most 1."
        )
    elif high > MAX_FLOAT:
        raise ValueError(
            f"{name} has float values up to {high:.6g}; expected 0..255. {advice} give a 16-bit image as uint16."
        )


def to_rgb_uint8(image: ArrayLike, name: str = "image") -> np.ndarray:
    """Converts an image of any usual kind to 8-bit RGB, for showing it.

    Unlike `to_channels`, it accepts any range of values: a shown image need not be valid network input.

    Args:
        image: Gray [H, W] or [H, W, 1], gray with alpha [H, W, 2], RGB [H, W, 3], RGBA [H, W, 4], or up to 12 bands,
            of which the first three are shown. Alpha is dropped. bool becomes 0 and 255. uint16 is scaled from 10, 12,
            14 or 16 bits, whichever its values need, and rounded; floats that are all in 0..1 are scaled to 0..255.
            Other numbers above 512 are scaled from their lowest..highest. All others are clipped to 0..255 (so that a
            mean-subtracted image does not wrap around) and truncated. NaN becomes 0.
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
    if image.ndim != 3 or not 1 <= image.shape[2] <= MAX_SHOWN_BANDS or 0 in image.shape:
        raise ValueError(
            f"{name} has shape {image.shape}; expected [height, width] or [height, width, channels] with 1 to"
            f" {MAX_SHOWN_BANDS} channels and at least one pixel."
        )
    if image.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {image.dtype}; expected bool, integers or floats.")
    pixels = _scale_for_display(image[..., : 3 if image.shape[2] > 2 else 1])
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def _scale_for_display(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype == np.uint16:
        white = 2 ** _sensor_bits(image) - 1 if image.max() > 255 else WHITE16
        return np.around(image / (white / 255)).astype(np.uint8)
    if image.dtype.kind == "f":
        image = np.where(np.isnan(image), 0, image)
        image = image * 255 if image.min() >= 0 and image.max() <= 1 else image
    low, high = image.min(), image.max()
    if high > MAX_FLOAT and np.isfinite(high) and np.isfinite(low) and low < high:
        image = (image.astype(np.float64) - low) * (255 / (float(high) - float(low)))
    return np.clip(image, 0, 255).astype(np.uint8)
