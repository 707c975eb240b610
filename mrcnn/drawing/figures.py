"""Checks inputs of `mrcnn.visualize`, draws boxes and masks on matplotlib axes, and shows or saves figures.

    H, W  height and width of the picture, pixels
    N     instances; box i, mask i, class id i and caption i belong together
    boxes [N, (y1, x1, y2, x2)] pixels; y2, x2 exclusive; an all-zero row is padding
    masks [H, W, N]
    color  (red, green, blue) in 0..1, with or without alpha, or any name that matplotlib knows

The functions do not depend on models, datasets or class names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike
from skimage.measure import find_contours

from mrcnn.drawing.renderer import fill_mask
from mrcnn.io import replacing
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.pixel_values import to_rgb_uint8
from mrcnn.text import PLAIN_TEXT, printable

LINE_WIDTH = 2


# ---- Checked inputs --------------------------------------------------------------------------------------------------
def as_panel(image: ArrayLike, name: str) -> np.ndarray:
    """Returns a [H, W] image unchanged for a color map (booleans as 0 and 1), any other as `to_rgb_uint8` does."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        return image.astype(np.uint8) if image.dtype == bool else image
    return to_rgb_uint8(image, name)


def as_boxes(boxes: ArrayLike, name: str = "boxes") -> np.ndarray:
    """Converts boxes to an [N, 4] array; an empty list gives [0, 4]. Raises ValueError for any other shape."""
    boxes = np.asarray(boxes)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} has the shape {boxes.shape}; expected [N, 4]: y1, x1, y2, x2 of each instance.")
    return boxes


def as_masks(masks: ArrayLike, image_shape: Sequence[int], name: str = "masks") -> np.ndarray:
    """Converts masks to [H, W, N] bool. Integers other than 0 and floats of 0.5 or more are inside.

    A single [H, W] mask counts as [H, W, 1].

    Raises:
        ValueError: Height and width differ from those of the image.
    """
    masks = np.asarray(masks)
    if masks.ndim == 2:
        masks = masks[..., np.newaxis]
    height, width = image_shape[:2]
    if masks.ndim != 3 or masks.shape[:2] != (height, width):
        raise ValueError(
            f"{name} has the shape {masks.shape}; expected [{height}, {width}, N]: the image's height and width, then"
            " one mask for each instance. Expand mini masks with utils.expand_mask or unmold_mask."
        )
    if masks.dtype == bool:
        return masks
    return masks >= 0.5 if np.issubdtype(masks.dtype, np.floating) else masks != 0


def same_length(**counted: Any) -> None:
    """Raises a ValueError with the length of each argument, unless all lengths are equal."""
    if len(set(counted.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counted.items())
        raise ValueError(f"{found}; expected as many of each: one for each instance.")


def at_least(count: int, **sequences: Any) -> None:
    """Raises a ValueError for the first of the given sequences that is shorter than `count`."""
    for name, values in sequences.items():
        if values is not None and len(values) < count:
            raise ValueError(f"{name} has {len(values)} entries for {count} instances; expected one for each.")


# ---- Boxes -----------------------------------------------------------------------------------------------------------
def add_box(ax: Axes, box: np.ndarray, color: ColorType, style: str, alpha: float | None = None) -> None:
    """Draws one box on the axes. `style` is a line style of matplotlib: "solid", "dashed", "dotted"."""
    y1, x1, y2, x2 = (float(v) for v in box)
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, linewidth=LINE_WIDTH, alpha=alpha, linestyle=style,
                           edgecolor=color, facecolor="none"))  # fmt: skip


def add_before_after(
    ax: Axes,
    before: np.ndarray | None,
    after: np.ndarray | None,
    color: ColorType,
    style: str,
    alpha: float | None = None,
) -> None:
    """Draws a box, the solid box it was refined to, and the line between their top left corners. Either may be None."""
    if before is not None:
        add_box(ax, before, color, style, alpha)
    if after is not None:
        add_box(ax, after, color, "solid")
    if before is not None and after is not None:
        ax.add_line(Line2D([before[1], after[1]], [before[0], after[0]], color=color))


def row(boxes: np.ndarray | None, i: int) -> np.ndarray | None:
    """Returns box i, or None if there are no boxes or this one is padding."""
    return None if boxes is None or not boxes[i].any() else boxes[i]


# ---- Masks -----------------------------------------------------------------------------------------------------------
def outlines(mask: np.ndarray, box: Sequence[int]) -> list[np.ndarray]:
    """Closed outlines of a mask, each [K, (x, y)] in pixels of the picture, including along the border.

    Args:
        mask: [H, W] bool.
        box: (y1, x1, y2, x2) around the whole mask. Pixels outside are ignored.
    """
    y1, x1, y2, x2 = (int(v) for v in box)
    if y2 <= y1 or x2 <= x1:
        return []
    padded = np.pad(mask[y1:y2, x1:x2], 1).astype(np.float32)  # the zeros close outlines that touch the border
    return [(contour + (y1 - 1, x1 - 1))[:, ::-1] for contour in find_contours(padded, 0.5)]


def draw_masks(
    ax: Axes,
    picture: np.ndarray,
    masks: np.ndarray,
    colors: Sequence[ColorType],
    which: Iterable[int],
    fill: bool = True,
    alpha: float = 0.5,
) -> None:
    """Paints masks into `picture` [H, W, 3] (in place, if `fill`) and draws their outlines on `ax`.

    `masks` is [H, W, N] bool; `which` has the indices to draw. Only pixels inside each mask's box are processed.
    """
    extents = extract_bboxes(masks)
    for i in which:
        y1, x1, y2, x2 = extents[i]
        if fill:
            fill_mask(picture[y1:y2, x1:x2], masks[y1:y2, x1:x2, i], colors[i], alpha)
        for outline in outlines(masks[..., i], extents[i]):
            # Not add_patch: it checks each corner in Python to fit the axes limits, which are already set.
            ax.add_artist(Polygon(outline, facecolor="none", edgecolor=colors[i]))


# ---- Captions --------------------------------------------------------------------------------------------------------
# ---- Figures ---------------------------------------------------------------------------------------------------------
def open_axes(ax: Axes | None, figsize: tuple[float, float]) -> tuple[Axes, bool]:
    """Returns (axes, whether they are new): `ax`, or the axes of a new figure of `figsize` inches."""
    if ax is not None:
        return ax, False
    return plt.subplots(1, figsize=figsize)[1], True


def show_picture(ax: Axes, picture: np.ndarray, title: str = "", margin: tuple[int, int] = (10, 10)) -> None:
    """Shows a [H, W, 3] uint8 picture without ticks, with a margin of (y, x) pixels for boxes at the border."""
    height, width = picture.shape[:2]
    ax.imshow(picture)
    ax.set_ylim(height + margin[0], -margin[0])
    ax.set_xlim(-margin[1], width + margin[1])
    ax.axis("off")
    if title:
        ax.set_title(printable(title), **PLAIN_TEXT)


def finish(figure: Figure, opened: bool, save: str | Path | None = None, show: bool = True) -> None:
    """Saves or shows what was drawn.

    Args:
        figure: A matplotlib figure.
        opened: Whether this call made the figure. Other figures are neither shown nor closed.
        save: Path to write to. A new figure is then closed, so that a loop over images does not accumulate figures.
        show: Whether to show a new figure that is not saved. Without a screen, nothing happens.
    """
    if save is not None:
        save_figure(figure, save)
        if opened:
            plt.close(figure)
    elif opened and show:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*non-interactive.*")
            plt.show()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, including content outside its axes. The file is complete or does not exist.

    The extension sets the format (png, jpg, pdf, svg ...; png without one). Missing folders are created.
    """
    with replacing(path) as unfinished:
        figure.canvas.figure.savefig(
            unfinished, format=Path(path).suffix[1:] or "png", bbox_inches="tight", pad_inches=0.1
        )
