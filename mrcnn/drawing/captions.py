"""Captions of instances that do not overlap, and titles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from mrcnn.drawing.palette import text_color
from mrcnn.text import PLAIN_TEXT, printable

CAPTION_POINTS = 11
CAPTION_PAD_POINTS = 2
CAPTION_ALPHA = 0.8
FULL_SIZE_INCHES = 6  # axes at least this wide get captions at full size, narrower ones smaller captions
TITLE_POINTS = 9


def place_captions(ax: Axes, captions: Sequence[tuple]) -> None:
    """Writes each caption at its box, on a tag in the box's color, inside the axes and clear of earlier captions.

    The candidates, in order, are above and inside the top left corner, below and inside the bottom left corner, then
    the same on the right. If all of them overlap earlier captions, the one with the smallest overlap is used.

    Args:
        ax: Axes whose limits are set.
        captions: Tuples of (text, box, color). An empty text draws nothing.
    """
    captions = [caption for caption in captions if caption[0]]
    if not captions:
        return
    ax.apply_aspect()  # the axes take their final place, so that pixels on the screen can be counted
    frame = ax.get_window_extent()
    points = CAPTION_POINTS * min(1.0, frame.width / ax.figure.dpi / FULL_SIZE_INCHES)
    pad = CAPTION_PAD_POINTS * ax.figure.dpi / 72
    to_data = ax.transData.inverted()
    taken = np.zeros((len(captions), 4))
    for i, (text, (y1, x1, y2, x2), color) in enumerate(captions):
        tag = {"facecolor": color, "edgecolor": "none", "alpha": CAPTION_ALPHA, "pad": CAPTION_PAD_POINTS}
        label = ax.text(x1, y1, printable(text), size=max(6.0, points), color=text_color(color), bbox=tag, va="bottom",
                        zorder=4, **PLAIN_TEXT)  # fmt: skip
        extent = label.get_window_extent()
        width, height = extent.width + 2 * pad, extent.height + 2 * pad
        (left, right), (bottom, top) = np.sort(ax.transData.transform([(x1, y1), (x2, y2)]).T)
        corners = np.array(
            [(x, y) for x in (left, right - width) for y in (top, top - height, bottom - height, bottom)]
        )
        corners = np.clip(corners, (frame.x0, frame.y0), np.maximum((frame.x1 - width, frame.y1 - height), frame.min))
        places = np.hstack([corners, corners + (width, height)])  # [8, (x0, y0, x1, y1)] of the screen
        taken[i] = places[np.argmin(_shared_area(places, taken[:i]))]
        label.set_position(to_data.transform(taken[i, :2] + pad))


def _shared_area(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[P]: how much of each of `places` [P, (x0, y0, x1, y1)] is covered by all of `taken` [T, 4] together."""
    low = np.maximum(places[:, np.newaxis, :2], taken[:, :2])
    high = np.minimum(places[:, np.newaxis, 2:], taken[:, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=-1).sum(axis=1)


def wrap_title(title: str, inches: float) -> str:
    """Breaks a title into lines that fit a width of `inches` in letters of TITLE_POINTS."""
    letters = max(8, int(inches * 72 / (0.55 * TITLE_POINTS)))
    return "\n".join(textwrap.fill(line, letters) for line in printable(title).split("\n"))


def class_caption(class_names: Sequence[str], class_id: int) -> str:
    """The name of a class. A negative id, which marks a crowd, gives the name of its class and "(crowd)".

    Raises:
        ValueError: The id has no name.

    Example:

    >>> class_caption(["BG", "cat"], -1)
    'cat (crowd)'
    """
    class_id = int(class_id)
    try:
        name = class_names[abs(class_id)]
    except (IndexError, KeyError) as error:
        raise ValueError(
            f"class_ids holds {class_id}, but class_names has {len(class_names)} names; expected one for each id,"
            ' the background\'s first: class id 1 is class_names[1]. Without it, pass ["BG", *class_names].'
        ) from error
    return f"{name} (crowd)" if class_id < 0 else str(name)


def instance_caption(
    class_ids: Sequence[int], class_names: Sequence[str], scores: Sequence[float] | None, i: int
) -> str:
    """The caption of instance i: its class and, unless it is None or zero, its score."""
    name = class_caption(class_names, class_ids[i])
    return f"{name} {scores[i]:.3f}" if scores is not None and scores[i] else name
