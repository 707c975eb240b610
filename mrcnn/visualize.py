"""Pictures of what goes in, what comes out and what happens between: matterport's 13 functions, and a colour splash.

    N     instances; box i, mask i and class id i belong together
    boxes, rois   [N, (y1, x1, y2, x2)] pixels of the image; y2, x2 exclusive; all-zero rows are padding, not drawn
    masks         [H, W, N] bool, integer (0 and anything else) or float (0.5 and more is inside)
    image         [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; values 0..255, or floats in 0..1
    class_ids     [N] whole numbers; class_names[class_id] is a name; a negative id is a crowd of that class
    colour        (red, green, blue) in 0..1, or a name that matplotlib knows

What the functions that make a figure have beyond matterport's arguments, by keyword:

    ax      where to draw; then nothing is shown or closed. All of them return the axes they drew on.
    save    path of a picture file, written instead of showing the figure, which is closed afterwards.
    colors  one colour for each instance; where there are class ids, "class" gives each class its fixed colour, the
            same in all pictures; None: random ones.

Without `ax` and `save`, those that called plt.show() in matterport's package still do. Without a screen that shows
nothing and never waits; plt.savefig() works after it.
"""

from __future__ import annotations

# os, lines, patches, Polygon and find_contours stay at module level: `from mrcnn.visualize import *` hands them on.
import colorsys
import itertools
import os
import random
import re
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import lines, patches
from matplotlib.patches import Polygon
from skimage.measure import find_contours

from mrcnn import utils
from mrcnn.data.class_names import is_background
from mrcnn.drawing import figures, palette
from mrcnn.ops.images import to_rgb_uint8

BOX_WIDTH = 2  # pixels, of draw_box
STYLE_OF_VISIBILITY = {0: ("dotted", 0.5), 1: ("dotted", 1.0), 2: ("solid", 1.0)}  # line style, alpha
GREY = (0.5, 0.5, 0.5)
GROUND_TRUTH_COLOR = (0.0, 1.0, 0.0, 0.8)
PREDICTION_COLOR = (1.0, 0.0, 0.0, 1.0)
ROOM_FOR_NUMBERS = 1200  # plot_overlaps writes zeros too in grids of at most this many cells
OVERFLOW = 1000  # display_weight_stats flags weights beyond it


# ---- Images ----------------------------------------------------------------------------------------------------------
def display_images(
    images, titles=None, cols=4, cmap=None, norm=None, interpolation=None, *, ax=None, save=None
) -> np.ndarray:
    """Shows images in a grid.

    Args:
        images: list or array of images. Two-dimensional ones (masks, activations) keep their values and go through
            `cmap` and `norm`.
        titles: one for each image; missing ones are blank.
        cols: images in a row.
        cmap, norm, interpolation: of plt.imshow.
        ax: axes, one for each image.

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
        if picture is None:  # an unfilled place in the last row
            if opened:
                panel.set_visible(False)
            continue
        panel.set_title(figures.wrap_title(title, 14 / cols), fontsize=figures.TITLE_POINTS)
        panel.axis("off")
        panel.imshow(picture, cmap=cmap, norm=norm, interpolation=interpolation)
    figures.finish(axes[0].figure, opened, save)
    return axes[: len(pictures)]


def color_splash(image, masks) -> np.ndarray:
    """The image in colour inside the masks and in grey outside.

    Args:
        masks: [H, W, N] or [H, W]; none of them: all of the image is grey.

    Returns:
        [H, W, 3] uint8.
    """
    image = to_rgb_uint8(image)
    inside = figures.as_masks(masks, image.shape).any(axis=-1)
    grey = np.rint(image @ palette.LUMINANCE).astype(np.uint8)
    return np.where(inside[..., np.newaxis], image, grey[..., np.newaxis])


def random_colors(N, bright=True) -> list[tuple]:
    """N colours evenly spaced in hue, in random order (`random.seed` fixes it). Darker ones unless `bright`."""
    value = 1.0 if bright else 0.7
    colors = [colorsys.hsv_to_rgb(i / N, 1, value) for i in range(N)]
    random.shuffle(colors)
    return colors


def apply_mask(image, mask, color, alpha=0.5) -> np.ndarray:
    """Paints a mask on the image, in place.

    Args:
        image: [H, W, 3 or more] array of values 0..255, changed.
        mask: [H, W].
        alpha: 0 leaves the image as it is, 1 covers it.

    Returns:
        The image.

    Raises:
        ValueError: a grey image, or a mask of another size.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] < 3:
        raise ValueError(
            f"image has the shape {np.shape(image)}; expected an array [H, W, 3] that can be painted in place."
            " Of a grey one make three channels: np.dstack([image] * 3)."
        )
    masks = figures.as_masks(mask, image.shape, "mask")
    y1, x1, y2, x2 = utils.extract_bboxes(masks)[0]
    figures.paint(image[y1:y2, x1:x2], masks[y1:y2, x1:x2, 0], color, alpha)
    return image


# ---- Instances -------------------------------------------------------------------------------------------------------
def display_instances(
    image, boxes, masks, class_ids, class_names, scores=None, title="", figsize=(16, 16), ax=None,
    show_mask=True, show_bbox=True, colors=None, captions=None, *, save=None,
):  # fmt: skip
    """Shows instances: dashed boxes, painted masks with their outlines, captions of class and score.

    Args:
        boxes: [N, 4]; None of them: prints "No instances to display" and shows the image alone.
        masks: [H, W, N], or None for boxes only.
        scores: [N] in 0..1; captions without scores if None.
        figsize: inches, for a figure made here.
        show_mask: whether masks are filled. Their outlines are drawn in any case.
        colors: one colour for each instance, or "class"; None: random ones.
        captions: text for each instance instead of class and score.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: boxes, masks and class ids that differ in number; masks of another size than the image; a class id
            without a name. The message names them.
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
    colors = _choose_colors(colors, count, class_ids)
    there = np.flatnonzero(boxes.any(axis=1))
    if captions is None or len(captions) == 0:
        captions = [_caption(class_ids, class_names, scores, i) if i in there else "" for i in range(count)]

    ax, opened = figures.open_axes(ax, figsize)
    if masks is not None:
        figures.draw_masks(ax, picture, masks, colors, there, fill=show_mask)
    figures.show_picture(ax, picture, title)
    if show_bbox:
        for i in there:
            figures.add_box(ax, boxes[i], colors[i], "dashed", alpha=0.7)
    figures.place_captions(ax, [(captions[i], boxes[i], colors[i]) for i in there])
    figures.finish(ax.figure, opened, save)
    return ax


def display_differences(
    image, gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask, class_names, title="", ax=None,
    show_mask=True, show_box=True, iou_threshold=0.5, score_threshold=0.5, *, save=None,
):  # fmt: skip
    """Shows true instances in green and predicted ones in red, each captioned "score / IoU".

    The IoU is the one with the true mask that a prediction was matched with; if with none, the largest with any.

    Args:
        gt_box, gt_class_id, gt_mask: of N true instances.
        pred_box, pred_class_id, pred_score, pred_mask: of M predictions, in any order.
        iou_threshold, score_threshold: what counts as a match, see utils.compute_matches.

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
    if masks.shape[-1] == count < len(boxes):  # as from a model: boxes padded with zeros, masks not
        boxes, class_ids, scores = boxes[there], class_ids[: len(there)][there], scores[: len(there)][there]
        there = np.ones(count, bool)
    lengths = {"box": len(boxes), "class_id": len(class_ids), "mask": masks.shape[-1], "score": len(scores)}
    figures.same_length(**{f"{name}_{part}": length for part, length in lengths.items()})
    order = np.flatnonzero(there)
    order = order[np.argsort(scores[order], kind="stable")[::-1]]
    return boxes[order], class_ids[order], masks[..., order], scores[order]


def _matched_ious(truth: tuple, predicted: tuple, iou_threshold: float, score_threshold: float) -> np.ndarray:
    """[M] IoU of each prediction, best score first, with its true mask or else with the nearest one."""
    if not len(truth[0]) or not len(predicted[0]):
        return np.zeros(len(predicted[0]))
    boxes, class_ids, masks, scores = predicted
    ranks = np.arange(len(scores), 0, -1)  # only their order counts; ranks have no ties, so it stays as it is
    _, pred_match, overlaps = utils.compute_matches(
        *truth[:3], boxes, class_ids, ranks, masks, iou_threshold=iou_threshold, score_threshold=score_threshold
    )
    matched = np.asarray(pred_match).astype(int)
    return np.where(matched > -1, overlaps[np.arange(len(matched)), matched], overlaps.max(axis=1))


def display_top_masks(image, mask, class_ids, class_names, limit=4, *, ax=None, save=None) -> np.ndarray:
    """Shows the image and, for each of the classes that cover most of it, that class's masks in shades of blue.

    Args:
        mask: [H, W, N].
        limit: classes at most. Places without a class are titled "-".
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
        titles.append(_name(class_names, class_id))
    empty = limit - len(largest)
    panels += [np.zeros(picture.shape[:2], np.uint8)] * empty
    titles += ["-"] * empty
    return display_images(panels, titles=titles, cols=limit + 1, cmap="Blues_r", ax=ax, save=save)


# ---- Boxes and RoIs --------------------------------------------------------------------------------------------------
def draw_box(image, box, color) -> np.ndarray:
    """Draws a box two pixels wide on the array, in place, and returns it. Parts outside the image are left out.

    Args:
        image: [H, W] or [H, W, C] array.
        box: (y1, x1, y2, x2) whole pixels.
        color: what a pixel of the image may hold: a number, or C numbers.
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


def draw_boxes(
    image, boxes=None, refined_boxes=None, masks=None, captions=None, visibilities=None, title="", ax=None, *,
    colors=None, save=None,
):  # fmt: skip
    """Shows boxes dashed, refined ones solid, and a line from the corner of one to that of the other.

    Args:
        boxes: [N, 4], and/or
        refined_boxes: [N, 4], of the same instances after refinement.
        masks: [H, W, N], painted, or None.
        captions: text for each, on its refined box if there is one.
        visibilities: [N] of 0 (grey, dotted, faint), 1 (dotted) or 2 (solid).
        colors: one colour for each; None: random ones.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: neither boxes nor refined boxes; numbers or sizes that differ.
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
    colors = _choose_colors(colors, count)
    styles = [("dashed", 1.0)] * count
    if visibilities is not None:
        unknown = set(visibilities) - set(STYLE_OF_VISIBILITY)
        if unknown:
            raise ValueError(f"visibilities holds {unknown.pop()}; expected 0 (grey), 1 (normal) or 2 (emphasised).")
        styles = [STYLE_OF_VISIBILITY[visibility] for visibility in visibilities[:count]]
        colors = [GREY if visibility == 0 else color for visibility, color in zip(visibilities, colors)]

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
    figures.place_captions(ax, tags)
    figures.finish(ax.figure, opened, save, show=False)
    return ax


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10, *, ax=None, colors=None, save=None):
    """Shows RoIs before (dashed) and after refinement (solid), the masks of those that hold an object, and counts them.

    Args:
        rois: [N, 4].
        refined_rois: [N, 4], or None.
        mask: [N, h, w] of any size, each stretched over its RoI, or None.
        class_ids: [N]; 0 is background: grey, without refinement, mask and caption.
        limit: at most so many, picked at random (`random.seed` fixes them).

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
    if colors is None:  # hues as far apart as so few allow
        colors = dict(zip(chosen, random_colors(len(chosen))))
    else:
        colors = _choose_colors(colors, count, class_ids)

    ax, opened = figures.open_axes(ax, (12, 12))
    tags = []
    for i in chosen:
        if not class_ids[i]:
            figures.add_before_after(ax, figures.row(rois, i), None, GREY, "dashed")
            continue
        figures.add_before_after(ax, figures.row(rois, i), figures.row(refined, i), colors[i], "dashed")
        box = rois[i] if refined is None else refined[i]
        tags.append((_name(class_names, class_ids[i]), box, colors[i]))
        if mask is not None:
            whole = utils.unmold_mask(np.asarray(mask[i], np.float32), rois[i].astype(np.int32), picture.shape)
            apply_mask(picture, whole, colors[i])
    figures.show_picture(ax, picture, title, margin=(20, 50))
    figures.place_captions(ax, tags)
    positive = int((class_ids > 0).sum())
    print("Positive ROIs: ", positive)
    print("Negative ROIs: ", int((class_ids == 0).sum()))
    print(f"Positive Ratio: {positive / max(1, count):.2f}")
    figures.finish(ax.figure, opened, save, show=False)
    return ax


# ---- Captions and colours --------------------------------------------------------------------------------------------
def _name(class_names, class_id) -> str:
    """The name of a class id; of a negative one, that of its class with "(crowd)" behind it."""
    class_id = int(class_id)
    try:
        name = class_names[abs(class_id)]
    except (IndexError, KeyError) as error:
        raise ValueError(
            f"class_ids holds {class_id}, but class_names has {len(class_names)} names; expected one for each id,"
            ' the background\'s first: class id 1 is class_names[1]. Without it, pass ["BG", *class_names].'
        ) from error
    return f"{name} (crowd)" if class_id < 0 else str(name)


def _warn_without_background(class_names) -> None:
    """Warns if the first name isn't the background's: then each instance is captioned with another class's name."""
    if isinstance(class_names, (list, tuple)) and not is_background(class_names[0]):
        warnings.warn(
            f"class_names[0] is {class_names[0]!r}, not the background's name: objects with class id 1 are captioned"
            f' {class_names[1] if len(class_names) > 1 else None!r}. Pass ["BG", *class_names] if {class_names[0]!r}'
            " has the id 1.",
            stacklevel=3,
        )


def _caption(class_ids, class_names, scores, i: int) -> str:
    name = _name(class_names, class_ids[i])
    return f"{name} {scores[i]:.3f}" if scores is not None and scores[i] else name


def _choose_colors(colors, count: int, class_ids=None) -> list:
    """A colour for each of `count` instances, from the argument that users give."""
    if colors is None or len(colors) == 0:
        return random_colors(count)
    if isinstance(colors, str):
        if colors != "class" or class_ids is None:
            allowed = "a list of colours" if class_ids is None else 'a list of colours or "class"'
            raise ValueError(f"colors is {colors!r}; expected {allowed}.")
        return palette.class_colors(class_ids[:count])
    figures.at_least(count, colors=colors)
    return [palette.as_color(color, f"colors[{i}]") for i, color in enumerate(colors[:count])]


# ---- Curves and grids ------------------------------------------------------------------------------------------------
def plot_precision_recall(AP, precisions, recalls, *, ax=None, save=None):
    """Draws the precision-recall curve, both in 0..1, with the average precision in its title. Returns the axes."""
    ax, opened = figures.open_axes(ax, (6.4, 4.8))
    ax.set_title(f"Precision-Recall Curve. AP@50 = {AP:.3f}")
    ax.set_xlabel("Recall")
    ax.set_ylabel("Precision")
    ax.set_xlim(0, 1.1)
    ax.set_ylim(0, 1.1)
    ax.plot(recalls, precisions)
    figures.finish(ax.figure, opened, save, show=False)
    return ax


def plot_overlaps(
    gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5, *, ax=None, save=None
):
    """Draws the IoU of each prediction (row) with each true instance (column).

    Cells above the threshold say "match" where the classes agree, "wrong" where not.

    Args:
        gt_class_ids: [G]; zeros are padding.
        pred_class_ids: [P]; zeros are padding.
        pred_scores: [P].
        overlaps: [P, G] IoU in 0..1, as compute_matches and compute_ap give it.

    Returns:
        The axes drawn on.
    """
    true_ids, pred_ids = (ids[ids != 0] for ids in map(np.asarray, (gt_class_ids, pred_class_ids)))
    rows, columns = len(pred_ids), len(true_ids)
    overlaps = np.asarray(overlaps, float).reshape(rows, columns) if not rows * columns else np.asarray(overlaps)
    if overlaps.ndim != 2 or overlaps.shape[0] < rows or overlaps.shape[1] < columns:
        raise ValueError(f"overlaps has the shape {overlaps.shape}; expected [{rows} predictions, {columns} true].")
    figures.at_least(rows, pred_scores=pred_scores)
    overlaps = overlaps[:rows, :columns]
    ax, opened = figures.open_axes(ax, (np.clip(0.5 * columns, 12, 40), np.clip(0.3 * rows, 10, 40)))
    shade = plt.Normalize(0, max(overlaps.max(initial=0), 1e-6))
    if overlaps.size:
        ax.imshow(overlaps, interpolation="nearest", cmap=plt.cm.Blues, norm=shade, aspect="auto")
    ax.set_yticks(range(rows), [f"{_name(class_names, c)} ({s:.2f})" for c, s in zip(pred_ids, pred_scores)])
    ax.set_xticks(range(columns), [_name(class_names, c) for c in true_ids], rotation=90)
    ax.set_xlabel("Ground Truth")
    ax.set_ylabel("Predictions")
    written = overlaps > 0 if overlaps.size > ROOM_FOR_NUMBERS else np.ones(overlaps.shape, bool)
    for row, column in np.argwhere(written):
        iou = overlaps[row, column]
        verdict = ("match" if true_ids[column] == pred_ids[row] else "wrong") if iou > threshold else ""
        color = palette.text_color(plt.cm.Blues(shade(iou))) if iou > 0 else "grey"
        ax.text(column, row, f"{iou:.3f}\n{verdict}".strip(), ha="center", va="center", fontsize=9, color=color)
    if opened:
        ax.figure.tight_layout()
    figures.finish(ax.figure, opened, save, show=False)
    return ax


# ---- Tables ----------------------------------------------------------------------------------------------------------
def display_table(table) -> None:
    """Shows rows of cells: as an HTML table in a notebook (cells may hold HTML), elsewhere printed in columns."""
    rows = [[str(cell) for cell in row] for row in table]
    if _in_notebook():
        import IPython.display

        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        IPython.display.display(IPython.display.HTML(f"<table>{body}</table>"))
        return
    rows = [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this: only there an HTML table can be seen."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return shell is not None and hasattr(shell, "kernel")


def display_weight_stats(model) -> None:
    """Shows shape, least, largest and standard deviation of each weight of a MaskRCNN, with what looks wrong.

    "dead?": all values are equal (biases, which may start as zeros, are let off). "overflow?": a value beyond 1000
    in size. "not a number": NaN or infinite values.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in model.get_trainable_layers():
        for weight, values in zip(layer.weights, layer.get_weights()):
            name = getattr(weight, "path", weight.name)
            low, high, spread = values.min(), values.max(), values.astype(np.float64).std()
            alerts = "".join(f" <span style='color:red'>*** {alert}</span>" for alert in _alerts(name, low, high))
            table.append([name + alerts, str(values.shape), f"{low:+9.4f}", f"{high:+9.4f}", f"{spread:9.4f}"])
    display_table(table)


def _alerts(name: str, low: float, high: float) -> list[str]:
    if not np.isfinite([low, high]).all():
        return ["not a number"]
    looks = {"dead?": low == high and not re.search(r"bias(:0)?$", name), "overflow?": max(-low, high) > OVERFLOW}
    return [alert for alert, found in looks.items() if found]
