"""Grids of images, and drawing on an image array. `mrcnn.visualize` exports the functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike

from mrcnn.drawing import figures
from mrcnn.drawing.captions import TITLE_POINTS, class_caption, wrap_title
from mrcnn.drawing.palette import LUMINANCE
from mrcnn.drawing.renderer import fill_mask
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.pixel_values import to_rgb_uint8
from mrcnn.text import PLAIN_TEXT

BOX_WIDTH = 2  # pixels, of draw_box


def display_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    cols: int = 4,
    cmap: str | Colormap | None = None,
    norm: Normalize | None = None,
    interpolation: str | None = None,
    *,
    ax: Sequence[Axes] | None = None,
    save: str | Path | None = None,
) -> np.ndarray:
    """Shows images in a grid.

    Args:
        images: List or array of images. Two-dimensional ones (masks, activations) keep their values and are drawn with
            `cmap` and `norm`.
        titles: A title for each image; missing ones are blank.
        cols: Images per row.
        cmap, norm, interpolation: Arguments of plt.imshow.
        ax: Axes, one for each image.

    Returns:
        [number of images] array of axes.
    """
    pictures = [figures.as_panel(image, f"images[{i}]") for i, image in enumerate(images)]
    if not pictures:
        print("\n*** No images to display *** \n")
        return np.array([], dtype=object)
    titles = list(titles) if titles is not None else []
    titles += [""] * (len(pictures) - len(titles))
    rows = -(-len(pictures) // cols)
    opened = ax is None
    if opened:
        slim = [min(2, picture.shape[0] / picture.shape[1]) for picture in pictures]
        heights = [14 / cols * max(slim[i : i + cols]) + 0.5 for i in range(0, len(slim), cols)]  # 0.5 for the title
        axes = plt.subplots(
            rows, cols, figsize=(14, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
        )[1].ravel()
    else:
        axes = np.array(ax, dtype=object).ravel()
        figures.at_least(len(pictures), ax=axes)
    for panel, picture, title in itertools.zip_longest(axes, pictures, titles[: len(pictures)]):
        if picture is None:  # an unused place in the last row
            if opened:
                panel.set_visible(False)
            continue
        panel.set_title(wrap_title(title, 14 / cols), fontsize=TITLE_POINTS, **PLAIN_TEXT)
        panel.axis("off")
        panel.imshow(picture, cmap=cmap, norm=norm, interpolation=interpolation)
    figures.finish(axes[0].figure, opened, save)
    return axes[: len(pictures)]


def color_splash(image: np.ndarray, masks: ArrayLike) -> np.ndarray:
    """Returns the image in color inside the masks and in gray outside.

    Args:
        masks: [H, W, N] or [H, W]. If N is 0, the whole image is gray.

    Returns:
        [H, W, 3] uint8.
    """
    image = to_rgb_uint8(image)
    inside = figures.as_masks(masks, image.shape).any(axis=-1)
    gray = np.rint(image @ LUMINANCE).astype(np.uint8)
    return np.where(inside[..., np.newaxis], image, gray[..., np.newaxis])


def apply_mask(image: np.ndarray, mask: ArrayLike, color: ColorType, alpha: float = 0.5) -> np.ndarray:
    """Paints a mask on the image, in place.

    Args:
        image: [H, W, 3 or more] array of values 0..255, changed.
        mask: [H, W].
        alpha: 0 leaves the image as it is, 1 covers it.

    Returns:
        The image.

    Raises:
        ValueError: The image is gray, or the mask has another size.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] < 3:
        raise ValueError(
            f"image has the shape {np.shape(image)}; expected an array [H, W, 3] that can be painted in place."
            " Give a gray image three channels with np.dstack([image] * 3)."
        )
    masks = figures.as_masks(mask, image.shape, "mask")
    y1, x1, y2, x2 = extract_bboxes(masks)[0]
    fill_mask(image[y1:y2, x1:x2], masks[y1:y2, x1:x2, 0], color, alpha)
    return image


def display_top_masks(
    image: np.ndarray,
    mask: ArrayLike,
    class_ids: ArrayLike,
    class_names: Sequence[str],
    limit: int = 4,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> np.ndarray:
    """Shows the image, and for each of the classes with the largest area, its masks in shades of blue.

    Args:
        mask: [H, W, N].
        limit: Maximum number of classes. If there are fewer, the other axes have the title "-".
        ax: limit + 1 axes.

    Returns:
        [limit + 1] array of axes.
    """
    picture = to_rgb_uint8(image)
    masks, class_ids = figures.as_masks(mask, picture.shape, "mask"), np.asarray(class_ids).astype(int)
    figures.same_length(mask=masks.shape[-1], class_ids=len(class_ids))
    area = {class_id: masks[..., class_ids == class_id].sum() for class_id in np.unique(class_ids)}
    largest = sorted((c for c in area if area[c] > 0), key=area.get, reverse=True)[:limit]
    panels, titles = [picture], [f"H x W={picture.shape[0]}x{picture.shape[1]}"]
    for class_id in largest:
        of_class = masks[..., class_ids == class_id]
        panels.append(of_class @ np.arange(1, of_class.shape[-1] + 1))  # the k-th instance has the value k
        titles.append(class_caption(class_names, class_id))
    empty = limit - len(largest)
    panels += [np.zeros(picture.shape[:2], np.uint8)] * empty
    titles += ["-"] * empty
    return display_images(panels, titles=titles, cols=limit + 1, cmap="Blues_r", ax=ax, save=save)


def draw_box(image: np.ndarray, box: ArrayLike, color: float | Sequence[float]) -> np.ndarray:
    """Draws a box two pixels wide on the array, in place, and returns it. Parts outside the image are left out.

    Args:
        image: [H, W] or [H, W, C] array.
        box: (y1, x1, y2, x2), whole pixels.
        color: Value of the pixels: a number, or C numbers.
    """
    y1, x1, y2, x2 = (int(v) for v in box)
    for rows, columns in (
        ((y1, y1 + BOX_WIDTH), (x1, x2)),
        ((y2, y2 + BOX_WIDTH), (x1, x2)),
        ((y1, y2), (x1, x1 + BOX_WIDTH)),
        ((y1, y2), (x2, x2 + BOX_WIDTH)),
    ):
        (top, bottom), (left, right) = np.maximum(rows, 0), np.maximum(columns, 0)
        image[top:bottom, left:right] = color
    return image
