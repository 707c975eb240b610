"""matterport's 13 drawing functions, and a color splash. `mrcnn.drawing` implements them.

    N     instances; box i, mask i and class id i belong together
    boxes, rois   [N, (y1, x1, y2, x2)] pixels of the image; y2, x2 exclusive; all-zero rows are padding, not drawn
    masks         [H, W, N] bool, integer (0 and anything else) or float (0.5 and more is inside)
    image         [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; values 0..255, or floats in 0..1
    class_ids     [N] integers; class_names[class_id] is the name; a negative id is a crowd of that class
    color        (red, green, blue) in 0..1, or a name that matplotlib knows

Functions that make a figure return the axes they drew on, and have keyword arguments that matterport's lack:

    ax      Axes to draw on. The figure is then neither shown nor closed.
    save    Path of an image file to write instead of showing the figure, which is then closed.
    colors  One color per instance; with class ids also "class": each class in its fixed color, the same in all
            pictures; None: random ones.

Without `ax` and `save`, functions that call plt.show() in matterport's package call it here. Without a screen it
returns at once, and plt.savefig() still works afterwards.

Text is drawn as it is, never as a formula, and characters that cannot be drawn are replaced.
"""

from __future__ import annotations

# os, lines, patches, Polygon and find_contours stay at module level: `from mrcnn.visualize import *` exports them.
import colorsys
import itertools
import os
import random
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import lines, patches
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from numpy.typing import ArrayLike
from skimage.measure import find_contours

from mrcnn import utils
from mrcnn.data.class_names import is_background
from mrcnn.drawing import figures
from mrcnn.drawing.captions import class_caption, instance_caption, place_captions
from mrcnn.drawing.image_grids import apply_mask, color_splash, display_images, display_top_masks, draw_box
from mrcnn.drawing.match_plots import plot_overlaps, plot_precision_recall
from mrcnn.drawing.palette import choose_colors, random_colors
from mrcnn.drawing.tables import display_table, display_weight_stats
from mrcnn.ops.pixel_values import to_rgb_uint8

STYLE_OF_VISIBILITY = {0: ("dotted", 0.5), 1: ("dotted", 1.0), 2: ("solid", 1.0)}  # line style, alpha
GRAY = (0.5, 0.5, 0.5)
GROUND_TRUTH_COLOR = (0.0, 1.0, 0.0, 0.8)
PREDICTION_COLOR = (1.0, 0.0, 0.0, 1.0)


# ---- Instances -------------------------------------------------------------------------------------------------------
def display_instances(
    image: np.ndarray,
    boxes: ArrayLike,
    masks: ArrayLike,
    class_ids: ArrayLike,
    class_names: Sequence[str],
    scores: ArrayLike | None = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: Axes | None = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: str | Sequence | None = None,
    captions: Sequence[str] | None = None,
    *,
    save: str | Path | None = None,
) -> Axes:
    """Shows instances: dashed boxes, painted masks with their outlines, captions of class and score.

    Args:
        boxes: [N, 4]. If N is 0, prints "No instances to display" and shows the image alone.
        masks: [H, W, N], or None for boxes only.
        scores: [N] in 0..1, or None for captions without scores.
        figsize: Inches, for a new figure.
        show_mask: Whether to fill the masks. Their outlines are drawn in any case.
        colors: One color per instance, or "class"; None: random ones.
        captions: Text of each instance instead of class and score.

    Raises:
        ValueError: Numbers of boxes, masks and class ids differ, a mask does not fit, or a class id has no name.
    """
    picture = to_rgb_uint8(image)
    boxes = figures.as_boxes(boxes)
    count = len(boxes)
    if not count:
        print("\n*** No instances to display *** \n")
        masks = None
    else:
        masks = None if masks is None else figures.as_masks(masks, picture.shape)
        figures.same_length(boxes=count, masks=count if masks is None else masks.shape[-1], class_ids=len(class_ids))
        figures.at_least(count, scores=scores, captions=captions)
        if captions is None or len(captions) == 0:
            _warn_without_background(class_names)
    colors = choose_colors(colors, count, class_ids)
    there = np.flatnonzero(boxes.any(axis=1))
    if captions is None or len(captions) == 0:
        captions = [instance_caption(class_ids, class_names, scores, i) if i in there else "" for i in range(count)]

    ax, opened = figures.open_axes(ax, figsize)
    if masks is not None:
        figures.draw_masks(ax, picture, masks, colors, there, fill=show_mask)
    figures.show_picture(ax, picture, title)
    if show_bbox:
        for i in there:
            figures.add_box(ax, boxes[i], colors[i], "dashed", alpha=0.7)
    place_captions(ax, [(captions[i], boxes[i], colors[i]) for i in there])
    figures.finish(ax.figure, opened, save)
    return ax


def display_differences(
    image: np.ndarray,
    gt_box: ArrayLike,
    gt_class_id: ArrayLike,
    gt_mask: ArrayLike,
    pred_box: ArrayLike,
    pred_class_id: ArrayLike,
    pred_score: ArrayLike,
    pred_mask: ArrayLike,
    class_names: Sequence[str],
    title: str = "",
    ax: Axes | None = None,
    show_mask: bool = True,
    show_box: bool = True,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
    *,
    save: str | Path | None = None,
) -> Axes:
    """Shows ground-truth instances in green and predictions in red, with the caption "score / IoU".

    The IoU is that with the matched ground-truth mask; for a prediction without a match, the highest with any mask.

    Args:
        gt_box, gt_class_id, gt_mask: N ground-truth instances.
        pred_box, pred_class_id, pred_score, pred_mask: M predictions, in any order.
        iou_threshold, score_threshold: Thresholds for a match, see `utils.compute_matches`.

    Returns:
        The axes drawn on.
    """
    shape = to_rgb_uint8(image).shape
    truth = _without_padding(shape, "gt", gt_box, gt_class_id, gt_mask)
    predicted = _without_padding(shape, "pred", pred_box, pred_class_id, pred_mask, pred_score)
    ious = _matched_ious(truth, predicted, iou_threshold, score_threshold)
    captions = [""] * len(truth[0]) + [f"{score:.2f} / {iou:.2f}" for score, iou in zip(predicted[3], ious)]
    return display_instances(
        image,
        np.concatenate([truth[0], predicted[0]]),
        np.concatenate([truth[2], predicted[2]], axis=-1),
        np.concatenate([truth[1], predicted[1]]),
        class_names,
        title=title or "Ground Truth and Detections\n GT=green, pred=red, captions: score/IoU",
        ax=ax,
        show_mask=show_mask,
        show_bbox=show_box,
        colors=[GROUND_TRUTH_COLOR] * len(truth[0]) + [PREDICTION_COLOR] * len(predicted[0]),
        captions=captions,
        save=save,
    )


def _without_padding(image_shape, name: str, boxes, class_ids, masks, scores=None) -> tuple:
    """(boxes, class ids, masks, scores) of the instances whose box isn't all zero, best score first."""
    boxes, class_ids = figures.as_boxes(boxes, f"{name}_box"), np.asarray(class_ids).astype(int)
    scores = np.zeros(len(class_ids)) if scores is None else np.asarray(scores)
    masks = figures.as_masks(masks, image_shape, f"{name}_mask")
    there = boxes.any(axis=1)
    count = int(there.sum())
    if masks.shape[-1] == count < len(boxes):  # a model pads boxes with zeros, but not masks
        boxes, class_ids, scores = boxes[there], class_ids[: len(there)][there], scores[: len(there)][there]
        there = np.ones(count, bool)
    lengths = {"box": len(boxes), "class_id": len(class_ids), "mask": masks.shape[-1], "score": len(scores)}
    figures.same_length(**{f"{name}_{part}": length for part, length in lengths.items()})
    order = np.flatnonzero(there)
    order = order[np.argsort(scores[order], kind="stable")[::-1]]
    return boxes[order], class_ids[order], masks[..., order], scores[order]


def _matched_ious(truth: tuple, predicted: tuple, iou_threshold: float, score_threshold: float) -> np.ndarray:
    """[M] IoU of each prediction, best score first, with its matched ground-truth mask, or the highest with any."""
    if not len(truth[0]) or not len(predicted[0]):
        return np.zeros(len(predicted[0]))
    boxes, class_ids, masks, scores = predicted
    ranks = np.arange(len(scores), 0, -1)  # only their order matters; ranks have no ties, so sorting keeps it
    _, pred_match, overlaps = utils.compute_matches(
        *truth[:3], boxes, class_ids, ranks, masks, iou_threshold=iou_threshold, score_threshold=score_threshold
    )
    matched = np.asarray(pred_match).astype(int)
    return np.where(matched > -1, overlaps[np.arange(len(matched)), matched], overlaps.max(axis=1))


# ---- Boxes and RoIs --------------------------------------------------------------------------------------------------
def draw_boxes(
    image: np.ndarray,
    boxes: ArrayLike | None = None,
    refined_boxes: ArrayLike | None = None,
    masks: ArrayLike | None = None,
    captions: Sequence[str] | None = None,
    visibilities: Sequence[int] | None = None,
    title: str = "",
    ax: Axes | None = None,
    *,
    colors: str | Sequence | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Shows boxes dashed, refined ones solid, and a line from the corner of one to that of the other.

    Args:
        boxes: [N, 4] before refinement, or None.
        refined_boxes: [N, 4] of the same instances after refinement, or None.
        masks: [H, W, N], or None.
        captions: Text of each instance, drawn at its refined box if it has one.
        visibilities: [N] of 0 (gray, dotted, faint), 1 (dotted) or 2 (solid).
        colors: One color per instance; None: random ones.

    Raises:
        ValueError: Neither boxes nor refined boxes are given, or numbers or sizes differ.
    """
    if boxes is None and refined_boxes is None:
        raise ValueError("boxes and refined_boxes are both None; expected at least one of them, [N, 4].")
    picture = to_rgb_uint8(image)
    before = None if boxes is None else figures.as_boxes(boxes)
    after = None if refined_boxes is None else figures.as_boxes(refined_boxes, "refined_boxes").astype(np.int32)
    count = len(after if before is None else before)
    masks = None if masks is None or not count else figures.as_masks(masks, picture.shape)
    given = {"boxes": before, "refined_boxes": after, "masks": None if masks is None else masks[0, 0]}
    figures.same_length(**{name: len(values) for name, values in given.items() if values is not None})
    figures.at_least(count, captions=captions, visibilities=visibilities)
    colors = choose_colors(colors, count)
    styles = [("dashed", 1.0)] * count
    if visibilities is not None:
        unknown = set(visibilities) - set(STYLE_OF_VISIBILITY)
        if unknown:
            raise ValueError(f"visibilities holds {unknown.pop()}; expected 0 (gray), 1 (normal) or 2 (emphasized).")
        styles = [STYLE_OF_VISIBILITY[visibility] for visibility in visibilities[:count]]
        colors = [GRAY if visibility == 0 else color for visibility, color in zip(visibilities, colors)]

    ax, opened = figures.open_axes(ax, (12, 12))
    if masks is not None:
        figures.draw_masks(ax, picture, masks, colors, range(count))
    figures.show_picture(ax, picture, title, margin=(picture.shape[0] // 10, picture.shape[1] // 10))
    tags = []
    for i, (color, (style, alpha)) in enumerate(zip(colors, styles)):
        figures.add_before_after(ax, figures.row(before, i), figures.row(after, i), color, style, alpha)
        box = figures.row(before, i) if figures.row(after, i) is None else figures.row(after, i)
        if captions is not None and box is not None:
            tags.append((captions[i], box, color))
    place_captions(ax, tags)
    figures.finish(ax.figure, opened, save, show=False)
    return ax


def draw_rois(
    image: np.ndarray,
    rois: ArrayLike,
    refined_rois: ArrayLike | None,
    mask: ArrayLike | None,
    class_ids: ArrayLike,
    class_names: Sequence[str],
    limit: int = 10,
    *,
    ax: Axes | None = None,
    colors: str | Sequence | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Shows RoIs before (dashed) and after refinement (solid) and the masks of those with an object, and counts them.

    Args:
        rois: [N, 4].
        refined_rois: [N, 4], or None.
        mask: [N, h, w] of any size, each stretched over its RoI, or None.
        class_ids: [N]; 0 is background: gray, without refinement, mask and caption.
        limit: Maximum number of RoIs, picked at random (`random.seed` makes the choice repeatable).

    Returns:
        The axes drawn on.
    """
    picture = to_rgb_uint8(image)
    rois, class_ids = figures.as_boxes(rois, "rois"), np.asarray(class_ids).astype(int)
    refined = None if refined_rois is None else figures.as_boxes(refined_rois, "refined_rois")
    given = {"rois": rois, "refined_rois": refined, "mask": mask, "class_ids": class_ids}
    figures.same_length(**{name: len(values) for name, values in given.items() if values is not None})
    count = len(rois)
    chosen = random.sample(range(count), limit) if count > limit else list(range(count))
    title = f"Showing {limit} random ROIs out of {count}" if count > limit else f"{count} ROIs"
    if colors is None:  # as many different hues as colors
        colors = dict(zip(chosen, random_colors(len(chosen))))
    else:
        colors = choose_colors(colors, count, class_ids)

    ax, opened = figures.open_axes(ax, (12, 12))
    tags = []
    for i in chosen:
        if not class_ids[i]:
            figures.add_before_after(ax, figures.row(rois, i), None, GRAY, "dashed")
            continue
        figures.add_before_after(ax, figures.row(rois, i), figures.row(refined, i), colors[i], "dashed")
        box = rois[i] if refined is None else refined[i]
        tags.append((class_caption(class_names, class_ids[i]), box, colors[i]))
        if mask is not None:
            whole = utils.unmold_mask(np.asarray(mask[i], np.float32), rois[i].astype(np.int32), picture.shape)
            apply_mask(picture, whole, colors[i])
    figures.show_picture(ax, picture, title, margin=(20, 50))
    place_captions(ax, tags)
    positive = int((class_ids > 0).sum())
    print("Positive ROIs: ", positive)
    print("Negative ROIs: ", int((class_ids == 0).sum()))
    print(f"Positive Ratio: {positive / max(1, count):.2f}")
    figures.finish(ax.figure, opened, save, show=False)
    return ax


def _warn_without_background(class_names) -> None:
    """Warns if the first name isn't the background's: then each instance is captioned with another class's name."""
    if isinstance(class_names, (list, tuple)) and not is_background(class_names[0]):
        warnings.warn(
            f"class_names[0] is {class_names[0]!r}, not the background's name: objects with class id 1 are captioned"
            f' {class_names[1] if len(class_names) > 1 else None!r}. Pass ["BG", *class_names] if {class_names[0]!r}'
            " has the id 1.",
            stacklevel=3,
        )
