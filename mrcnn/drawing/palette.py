"""Colors of classes and of captions, the same in figures, reports, videos and TensorBoard.

A color is (red, green, blue) in 0..1, with or without alpha, or any name that matplotlib knows.
"""

from __future__ import annotations

import colorsys
import functools
import random
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import colors as mpl_colors
from matplotlib.typing import ColorType
from skimage.color import rgb2lab

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green, blue: ITU-R BT.709
WHITE_TEXT_BELOW = 0.25  # luminance: red has 0.21, orange 0.35; both contrasts are above 3 there, as WCAG 2 asks
PALETTE_SIZE = 128


@functools.lru_cache(maxsize=1)
def palette() -> tuple[tuple[float, float, float], ...]:
    """PALETTE_SIZE colors, each as far as possible from all before it, so the first few differ most.

    Distance is Euclidean in CIELAB. Colors near black, white and gray are excluded: they are hard to see in photos.
    """
    steps = np.linspace(0, 1, 16)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = rgb2lab(candidates[np.newaxis])[0]
    vivid = (lab[:, 0] > 35) & (lab[:, 0] < 92) & (np.hypot(lab[:, 1], lab[:, 2]) > 35)
    candidates, lab = candidates[vivid], lab[vivid]
    chosen = [int(np.argmin(np.abs(candidates - [1, 0.2, 0.2]).sum(axis=1)))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < PALETTE_SIZE:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return tuple(tuple(float(v) for v in candidates[i]) for i in chosen)


def class_colors(class_ids: Iterable[int]) -> list[tuple[float, float, float]]:
    """The color of each class id: the same in every picture and every run. Repeats after PALETTE_SIZE ids.

    A negative id, a crowd of a class, has the color of its class.

    Example:

    >>> [as_bytes(color) for color in class_colors([1, 2, -1])]
    [(255, 51, 51), (0, 255, 0), (255, 51, 51)]
    """
    colors = palette()
    return [colors[(abs(int(class_id)) - 1) % PALETTE_SIZE] for class_id in class_ids]


def as_color(color: ColorType, name: str = "color") -> tuple[float, float, float, float]:
    """(red, green, blue, alpha) in 0..1. Raises ValueError for invalid colors, such as values in 0..255."""
    try:
        return mpl_colors.to_rgba(color)
    except ValueError as error:
        raise ValueError(f"{name} is {color!r}; expected red, green and blue in 0..1 or a color's name.") from error


def as_bytes(color: ColorType) -> tuple[int, int, int]:
    """(red, green, blue) in 0..255; alpha is dropped.

    Example:

    >>> as_bytes("orange")
    (255, 165, 0)
    """
    red, green, blue = (round(255 * value) for value in as_color(color)[:3])
    return red, green, blue


def text_color(background: ColorType) -> str:
    """Black or white, whichever reads better on the background: white up to a bright red's luminance."""
    rgb = np.asarray(as_color(background)[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ LUMINANCE < WHITE_TEXT_BELOW else "black"


def random_colors(N: int, bright: bool = True) -> list[tuple[float, float, float]]:
    """N colors evenly spaced in hue, in random order (`random.seed` fixes it). Darker ones unless `bright`."""
    value = 1.0 if bright else 0.7
    colors = [colorsys.hsv_to_rgb(i / N, 1, value) for i in range(N)]
    random.shuffle(colors)
    return colors


def choose_colors(
    colors: str | Sequence[ColorType] | None, count: int, class_ids: Iterable[int] | None = None
) -> list[tuple]:
    """The color of each of `count` instances, from the argument `colors` of `mrcnn.visualize`.

    Args:
        colors: None for random colors, "class" for those of the classes, or a list with one color per instance.
        class_ids: [N] class ids, or None where "class" is not allowed.

    Raises:
        ValueError: Another text, too few colors, or something that is not a color.
    """
    if colors is None or len(colors) == 0:
        return random_colors(count)
    if isinstance(colors, str):
        if colors != "class" or class_ids is None:
            allowed = "a list of colors" if class_ids is None else 'a list of colors or "class"'
            raise ValueError(f"colors is {colors!r}; expected {allowed}.")
        return class_colors(class_ids[:count])
    if len(colors) < count:
        raise ValueError(f"colors has {len(colors)} entries for {count} instances; expected one for each.")
    return [as_color(color, f"colors[{i}]") for i, color in enumerate(colors[:count])]
