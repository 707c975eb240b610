"""Checks what matplotlib draws: patches, texts, image arrays, and saved files."""

from __future__ import annotations

import inspect
import json
import random
import sys
import types
import warnings
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skimage.draw
import skimage.io
from evaluate_kit import FakeModel, MaskSet, result
from matplotlib.patches import Polygon, Rectangle
from skimage.color import rgb2lab

from mrcnn import utils, visualize
from mrcnn.drawing import figures, palette
from mrcnn.drawing.renderer import draw_instances
from mrcnn.evaluation import EvaluateDataset, evaluate_dataset
from mrcnn.text import printable
from mrcnn.video import draw_frame

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
NAMES = ["BG", "cat", "dog"]

CONTRACT = {
    "display_images": "images, titles=None, cols=4, cmap=None, norm=None, interpolation=None",
    "random_colors": "N, bright=True",
    "apply_mask": "image, mask, color, alpha=0.5",
    "display_instances": "image, boxes, masks, class_ids, class_names, scores=None, title='', figsize=(16, 16),"
    " ax=None, show_mask=True, show_bbox=True, colors=None, captions=None",
    "display_differences": "image, gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask,"
    " class_names, title='', ax=None, show_mask=True, show_box=True, iou_threshold=0.5, score_threshold=0.5",
    "draw_rois": "image, rois, refined_rois, mask, class_ids, class_names, limit=10",
    "draw_box": "image, box, color",
    "display_top_masks": "image, mask, class_ids, class_names, limit=4",
    "plot_precision_recall": "AP, precisions, recalls",
    "plot_overlaps": "gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5",
    "draw_boxes": "image, boxes=None, refined_boxes=None, masks=None, captions=None, visibilities=None, title='',"
    " ax=None",
    "display_table": "table",
    "display_weight_stats": "model",
}


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """Counts the calls of plt.show."""
    calls = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: calls.append(args))
    return calls


def two_squares(size=20):
    """Image [size, size, 3], boxes, masks and class ids of a cat at the top left corner and a dog further in."""
    masks = np.zeros((size, size, 2), bool)
    masks[0:5, 0:5, 0] = True
    masks[8:14, 10:18, 1] = True
    return np.full((size, size, 3), 100, np.uint8), np.array([[0, 0, 5, 5], [8, 10, 14, 18]]), masks, np.array([1, 2])


def of_kind(ax, kind):
    return [patch for patch in ax.patches if type(patch) is kind]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def picture_of(ax):
    return ax.images[0].get_array()


# ---- matterport's functions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CONTRACT)
def test_signature_is_matterports_with_keyword_only_additions(name):
    parameters = inspect.signature(getattr(visualize, name)).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert str(inspect.Signature(bare)) == f"({CONTRACT[name]})"


def test_star_import_brings_what_scripts_rely_on():
    names: dict = {}
    exec("from mrcnn.visualize import *", names)
    relied_on = {"np", "plt", "patches", "lines", "Polygon", "find_contours", "utils"}
    relied_on |= {"random", "itertools", "colorsys", "os", "sys", *CONTRACT}
    assert not relied_on - set(names)


# ---- Colors ---------------------------------------------------------------------------------------------------------
def test_random_colors_are_distinct():
    assert visualize.random_colors(0) == []
    assert sorted(visualize.random_colors(3)) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert sorted(visualize.random_colors(3, bright=False)) == [(0, 0, 0.7), (0, 0.7, 0), (0.7, 0, 0)]
    random.seed(1)
    first = visualize.random_colors(9)
    random.seed(1)
    assert visualize.random_colors(9) == first != visualize.random_colors(9)


def test_class_colors_are_fixed_and_far_apart():
    colors = palette.class_colors(range(1, 81))
    assert palette.class_colors([7, -7, 7.0]) == [colors[6]] * 3
    assert len(set(colors)) == 80
    for count, least in ((10, 45), (20, 30), (80, 10)):  # differences from 2 up can be seen side by side
        lab = rgb2lab(np.array(colors[:count]))
        distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
        assert distance[~np.eye(count, dtype=bool)].min() > least


@pytest.mark.parametrize("background, color", [("white", "black"), ("yellow", "black"), ("lime", "black"),
                                               ("red", "white"), ("blue", "white"), ("gray", "white")])  # fmt: skip
def test_captions_stand_out_from_their_tag(background, color):
    assert palette.text_color(background) == color


@pytest.mark.parametrize("color", [(255, 0, 0), "no color", (1, 0)])
def test_an_invalid_color_is_refused(color):
    with pytest.raises(ValueError, match=r"expected red, green and blue in 0\.\.1"):
        visualize.apply_mask(np.zeros((2, 2, 3)), np.ones((2, 2)), color)


# ---- apply_mask and color_splash -------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask", [[[0, 0], [0, 1]], [[0, 0], [0, 255]], [[0.0, 0.4], [np.nan, 0.5]],
                                  [[False, False], [False, True]]])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float64])
def test_apply_mask_blends_in_place(mask, dtype):
    image = np.full((2, 2, 3), 100, dtype)
    assert visualize.apply_mask(image, np.array(mask), (1, 0, 0.5)) is image
    blended = np.array([177.5, 50, 113.75]).astype(dtype)  # half of 100, half of 255, 0, 127.5
    np.testing.assert_array_equal(image, [[[100] * 3] * 2, [[100] * 3, blended]])


def test_an_empty_mask_changes_nothing():
    image = np.full((4, 3, 3), 9, np.uint8)
    np.testing.assert_array_equal(visualize.apply_mask(image, np.zeros((4, 3), bool), RED), np.full((4, 3, 3), 9))


def test_apply_mask_keeps_alpha():
    image = np.full((2, 2, 4), 100, np.uint8)
    assert (visualize.apply_mask(image, np.ones((2, 2)), RED, alpha=1)[0, 0] == [255, 0, 0, 100]).all()


def test_apply_mask_equals_the_whole_image_formula():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (31, 17, 3), dtype=np.uint8), np.zeros((31, 17), bool)
    mask[5:20, 3:9] = rng.random((15, 6)) > 0.5
    expected = np.where(mask[..., None], image * 0.7 + 0.3 * np.array([0.2, 0.4, 1]) * 255, image).astype(np.uint8)
    np.testing.assert_array_equal(visualize.apply_mask(image, mask, (0.2, 0.4, 1), alpha=0.3), expected)


def test_apply_mask_names_invalid_arguments():
    with pytest.raises(ValueError, match=r"image has the shape \(4, 4\).*np\.dstack"):
        visualize.apply_mask(np.zeros((4, 4)), np.ones((4, 4)), RED)
    with pytest.raises(ValueError, match=r"mask has the shape \(3, 4, 1\); expected \[4, 4, N\]"):
        visualize.apply_mask(np.zeros((4, 4, 3)), np.ones((3, 4)), RED)


def test_color_splash_keeps_color_only_inside():
    image, _, masks, _ = two_squares()
    image[:] = (200, 100, 50)
    splash = visualize.color_splash(image, masks)
    inside = masks.any(-1)
    gray = round(0.2126 * 200 + 0.7152 * 100 + 0.0722 * 50)
    assert splash.dtype == np.uint8
    assert (splash[inside] == (200, 100, 50)).all()
    assert (splash[~inside] == gray).all()
    assert (visualize.color_splash(image, masks[..., :0]) == gray).all()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 4), (4, 5, 12)])
def test_color_splash_accepts_gray_and_rgba(shape):
    image = np.full(shape, 80, np.uint8)
    assert (visualize.color_splash(image, np.ones((4, 5, 1))) == np.full((4, 5, 3), 80)).all()


@pytest.mark.parametrize("shape", [(4,), (4, 5, 13), (0, 5, 3), (1, 4, 5, 3)])
def test_a_non_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"image has shape"):
        visualize.color_splash(np.zeros(shape), np.zeros((4, 5, 0)))


# ---- display_instances -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masks", [np.zeros((20, 20, 0)), np.zeros((0,)), None])
def test_without_instances_the_image_is_shown_with_a_message(masks, capsys):
    ax = visualize.display_instances(two_squares()[0], np.zeros((0, 4)), masks, np.array([]), NAMES)
    assert "No instances to display" in capsys.readouterr().out
    assert (picture_of(ax) == 100).all()
    assert not ax.patches and not ax.texts


def test_instances_are_drawn():
    image, boxes, masks, class_ids = two_squares()
    ax = visualize.display_instances(image, boxes, masks, class_ids, NAMES, [0.5, 0.987], "two", colors=[RED, GREEN])
    assert (image == 100).all(), "the caller's image is left alone"
    assert ax.get_title() == "two"
    assert texts(ax) == ["cat 0.500", "dog 0.987"]
    assert [r.get_bbox().extents.tolist() for r in of_kind(ax, Rectangle)] == [[0, 0, 5, 5], [10, 8, 18, 14]]
    assert {r.get_linestyle() for r in of_kind(ax, Rectangle)} == {"dashed"}
    picture = picture_of(ax)
    assert (picture[masks[..., 0]] == (177, 50, 50)).all() and (picture[masks[..., 1]] == (50, 177, 50)).all()
    assert (picture[~masks.any(-1)] == 100).all()


def test_captions_without_scores_and_given_captions():
    image, boxes, masks, class_ids = two_squares()
    assert texts(visualize.display_instances(image, boxes, masks, class_ids, NAMES)) == ["cat", "dog"]
    assert texts(visualize.display_instances(image, boxes, masks, class_ids, NAMES, captions=["a", ""])) == ["a"]
    assert texts(visualize.display_instances(image, boxes, masks, -class_ids, NAMES))[0] == "cat (crowd)"


@pytest.mark.parametrize("convert", [lambda m: m.astype(np.uint8), lambda m: m * 255, lambda m: m.astype(float),
                                     lambda m: np.moveaxis(np.moveaxis(m, -1, 0).copy(), 0, -1)])  # fmt: skip
def test_masks_of_any_kind_draw_the_same(convert):
    image, boxes, masks, class_ids = two_squares()
    expected = visualize.display_instances(image, boxes, masks, class_ids, NAMES, colors="class")
    ax = visualize.display_instances(image, boxes, convert(masks), class_ids, NAMES, colors="class")
    np.testing.assert_array_equal(picture_of(ax), picture_of(expected))
    assert len(of_kind(ax, Polygon)) == len(of_kind(expected, Polygon)) == 2


def test_names_without_the_background_are_warned_of():
    image, boxes, masks, class_ids = two_squares()
    with pytest.warns(
        UserWarning, match=r"class_names\[0\] is 'cat'.*captioned 'dog'\. Pass \[\"BG\", \*class_names\]"
    ):
        visualize.display_instances(image, boxes[:1], masks[..., :1], class_ids[:1], ["cat", "dog"])
    with (
        pytest.raises(ValueError, match=r'class_ids holds 2, but class_names has 2 names.*"BG"'),
        pytest.warns(UserWarning),
    ):
        visualize.display_instances(image, boxes, masks, class_ids, ["cat", "dog"])


def test_show_mask_and_show_bbox():
    image, boxes, masks, class_ids = two_squares()
    ax = visualize.display_instances(image, boxes, masks, class_ids, NAMES, show_mask=False, show_bbox=False)
    assert (picture_of(ax) == 100).all()
    assert not of_kind(ax, Rectangle)
    assert len(of_kind(ax, Polygon)) == 2, "outlines stay, as in the original"
    ax = visualize.display_instances(image, boxes, None, class_ids, NAMES)
    assert len(of_kind(ax, Rectangle)) == 2 and not of_kind(ax, Polygon)


def test_outline_of_a_mask_at_the_border_closes():
    full = np.ones((6, 9), bool)
    (outline,) = figures.outlines(full, (0, 0, 6, 9))
    assert (outline[0] == outline[-1]).all()
    assert outline.min(0).tolist() == [-0.5, -0.5] and outline.max(0).tolist() == [8.5, 5.5]


def test_outlines_of_a_ring_and_of_an_empty_mask():
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    found = figures.outlines(ring, utils.extract_bboxes(ring[..., None])[0])
    assert len(found) == 2 and all((o[0] == o[-1]).all() for o in found)
    assert figures.outlines(np.zeros((9, 9), bool), (0, 0, 0, 0)) == []


def test_empty_masks_and_padded_boxes_are_skipped():
    image, boxes, masks, class_ids = two_squares()
    masks[..., 0] = False
    ax = visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    assert len(of_kind(ax, Polygon)) == 1 and len(of_kind(ax, Rectangle)) == 2
    boxes[0], class_ids[0] = 0, 99
    ax = visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    assert len(of_kind(ax, Rectangle)) == 1 and texts(ax) == ["dog"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"boxes": np.ones((1, 4))}, "1 boxes, 2 masks, 2 class_ids; expected as many of each"),
        ({"boxes": np.ones((2, 5))}, r"boxes has the shape \(2, 5\); expected \[N, 4\]"),
        ({"masks": np.ones((20, 20, 3))}, "2 boxes, 3 masks, 2 class_ids"),
        ({"masks": np.ones((28, 28, 2))}, r"masks has the shape \(28, 28, 2\); expected \[20, 20, N\]"),
        ({"class_ids": [1]}, "2 boxes, 2 masks, 1 class_ids"),
        ({"class_ids": [1, 3]}, "class_ids holds 3, but class_names has 3 names"),
        ({"scores": [0.5]}, "scores has 1 entries for 2 instances"),
        ({"captions": ["a"]}, "captions has 1 entries for 2 instances"),
        ({"colors": [RED]}, "colors has 1 entries for 2 instances"),
        ({"colors": "klass"}, "colors is 'klass'; expected a list of colors or \"class\""),
        ({"colors": [RED, (0, 0, 256)]}, r"colors\[1\] is \(0, 0, 256\)"),
        ({"image": np.zeros((20, 20, 13))}, r"image has shape \(20, 20, 13\)"),
    ],
)
def test_wrong_shapes_are_refused_by_name(change, message):
    arguments = dict(zip(("image", "boxes", "masks", "class_ids"), two_squares())) | {"class_names": NAMES} | change
    with pytest.raises(ValueError, match=message):
        visualize.display_instances(**arguments)
    assert not plt.get_fignums(), "refused before a figure is opened"


def test_issue_858_colors_are_the_same_in_every_call():
    image, boxes, masks, class_ids = two_squares()
    first = visualize.display_instances(image, boxes, masks, class_ids, NAMES, colors="class")
    second = visualize.display_instances(image, boxes[::-1], masks[..., ::-1], class_ids[::-1], NAMES, colors="class")
    edges = [[r.get_edgecolor() for r in of_kind(ax, Rectangle)] for ax in (first, second)]
    assert edges[0] == edges[1][::-1] and edges[0][0] != edges[0][1]


def test_colors_may_be_an_array():
    ax = visualize.display_instances(*two_squares(), NAMES, colors=np.array([RED, GREEN]))
    assert [r.get_edgecolor()[:3] for r in of_kind(ax, Rectangle)] == [RED, GREEN]


def test_issue_134_figures_are_saved_whole_and_closed(tmp_path, shown):
    path = tmp_path / "new folder" / "instances.png"
    visualize.display_instances(*two_squares(), NAMES, save=path)
    assert skimage.io.imread(path).shape[0] > 500
    assert [p.name for p in path.parent.iterdir()] == ["instances.png"], "nothing temporary stays"
    assert not plt.get_fignums() and not shown


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "picture.nonsense"
    path.write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        visualize.display_instances(*two_squares(), NAMES, save=path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_save_without_an_extension_writes_png_under_that_name(tmp_path):
    visualize.display_instances(*two_squares(), NAMES, save=str(tmp_path / "picture"))
    assert (tmp_path / "picture").read_bytes()[:4] == b"\x89PNG"


def test_figures_are_shown_only_without_ax(shown):
    image, boxes, masks, class_ids = two_squares()
    visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    assert len(shown) == 1
    own = plt.subplots()[1]
    assert visualize.display_instances(image, boxes, masks, class_ids, NAMES, ax=own) is own
    visualize.draw_boxes(image, boxes)  # never called plt.show in the original
    assert len(shown) == 1


def test_without_a_display_nothing_blocks_or_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visualize.display_instances(*two_squares(), NAMES)
        visualize.display_images([np.zeros((3, 3))])
    assert len(plt.get_fignums()) == 2, "left open, so that plt.savefig works"


# ---- Captions --------------------------------------------------------------------------------------------------------
def tag_extents(ax):
    ax.figure.canvas.draw()
    return np.array([t.get_bbox_patch().get_window_extent().extents for t in ax.texts]), ax.get_window_extent().extents


def test_captions_stay_inside_the_picture():
    corners = np.array([[0, 0, 3, 3], [0, 17, 3, 20], [17, 0, 20, 3], [17, 17, 20, 20]])
    names = ["BG", "a rather long name of a class"]
    tags, frame = tag_extents(visualize.display_instances(np.zeros((20, 20)), corners, None, [1] * 4, names))
    assert (tags[:, :2] >= frame[:2] - 1).all() and (tags[:, 2:] <= frame[2:] + 1).all()


def test_captions_of_equal_boxes_do_not_cover_each_other():
    boxes = np.array([[80, 80, 120, 120]] * 4)
    tags, _ = tag_extents(visualize.display_instances(np.zeros((200, 200)), boxes, None, [1] * 4, NAMES))
    low, high = np.maximum(tags[:, None, :2], tags[:, :2]), np.minimum(tags[:, None, 2:], tags[:, 2:])
    shared_area = np.prod(np.clip(high - low, 0, None), axis=-1)
    assert np.allclose(shared_area, np.diag(np.diag(shared_area)), atol=1)


def test_wide_captions_start_at_the_left_edge():
    tags, frame = tag_extents(visualize.display_instances(
        np.zeros((9, 9)), [[1, 5, 8, 8]], None, [1], ["BG", "x" * 300], ax=plt.subplots()[1]))  # fmt: skip
    assert abs(tags[0, 0] - frame[0]) < 1.5


def test_dollar_signs_are_not_parsed_as_math():
    ax = visualize.display_instances(*two_squares(), ["BG", r"$\frac$", "$"])
    ax.figure.canvas.draw()
    assert texts(ax) == [r"$\frac$", "$"]


# ---- display_images, display_top_masks -------------------------------------------------------------------------------
def test_display_images_draws_no_extra_row():
    axes = visualize.display_images([np.zeros((4, 4, 3))] * 4, cols=4)
    assert len(axes[0].figure.axes) == len(axes) == 4
    axes = visualize.display_images([np.zeros((4, 4, 3))] * 5, titles=["a"], cols=4)
    assert len(axes) == 5 and [a.get_title() for a in axes[:2]] == ["a", ""]
    assert [a.get_visible() for a in axes[0].figure.axes] == [True] * 5 + [False] * 3


def test_display_images_without_images(capsys):
    assert len(visualize.display_images([])) == 0
    assert "No images to display" in capsys.readouterr().out


def test_flat_images_keep_their_values_for_the_color_map():
    flat = np.array([[-1.5, 2.0]])
    axes = visualize.display_images([flat, flat[..., None], flat > 0], cmap="gray", interpolation="nearest")
    assert [picture_of(a).tolist() for a in axes] == [[[-1.5, 2]], [[-1.5, 2]], [[0, 1]]]
    assert axes[0].images[0].get_cmap().name == "gray"


def test_display_images_on_given_axes(shown, tmp_path):
    own = plt.subplots(1, 3)[1]
    axes = visualize.display_images(np.zeros((2, 5, 5, 3)), ax=own, save=tmp_path / "a.png")
    assert list(axes) == list(own[:2]) and not shown
    assert plt.get_fignums() and (tmp_path / "a.png").exists(), "saved, not closed: it is the caller's"
    with pytest.raises(ValueError, match="ax has 1 entries for 2"):
        visualize.display_images(np.zeros((2, 5, 5, 3)), ax=own[:1])
    with pytest.raises(ValueError, match=r"images\[1\] has shape"):
        visualize.display_images([np.zeros((2, 2)), np.zeros((2, 2, 13))])


def test_long_titles_are_wrapped():
    title = visualize.display_images([np.zeros((4, 4))], titles=["word " * 40])[0].get_title()
    assert max(map(len, title.split("\n"))) < 60


def test_top_masks_by_area():
    image, _, masks, _ = two_squares()
    masks = np.concatenate([masks, masks[::-1, :, 1:]], axis=-1)  # 25, 48 and 48 pixels
    axes = visualize.display_top_masks(image, masks, [1, 2, 2], NAMES, limit=3)
    assert [a.get_title() for a in axes] == ["H x W=20x20", "dog", "cat", "-"]
    assert np.bincount(picture_of(axes[1]).astype(int).ravel())[[1, 2, 3]].tolist() == [
        16,
        16,
        32,
    ]  # where both dogs lie: 1 + 2
    assert picture_of(axes[2]).sum() == 25 and picture_of(axes[3]).sum() == 0


def test_top_masks_without_masks():
    axes = visualize.display_top_masks(np.zeros((5, 5, 3)), np.zeros((5, 5, 0)), [], NAMES)
    assert [a.get_title() for a in axes] == ["H x W=5x5", "-", "-", "-", "-"]


# ---- display_differences ---------------------------------------------------------------------------------------------
def test_differences_with_unsorted_scores_caption_the_right_box():
    image, boxes, masks, class_ids = two_squares()
    shifted = np.roll(masks, 1, axis=0)  # cat: 20 of 30 pixels shared; dog: 40 of 56
    shifted[0, :, 0] = False
    moved = boxes + [1, 0, 1, 0]
    ax = visualize.display_differences(image, boxes, class_ids, masks, moved, class_ids, [0.6, 0.9], shifted, NAMES)
    by_box = {tuple(r.get_bbox().extents): r for r in of_kind(ax, Rectangle)}
    assert len(by_box) == 4
    assert texts(ax) == ["0.90 / 0.71", "0.60 / 0.67"]
    edges = [r.get_edgecolor()[:3] for r in of_kind(ax, Rectangle)]
    assert edges == [GREEN, GREEN, RED, RED]
    assert [r.get_bbox().y0 for r in of_kind(ax, Rectangle)[2:]] == [9, 1]


def test_differences_drop_padding_and_show_the_nearest_iou():
    image, boxes, masks, class_ids = two_squares()
    padded, padded_ids = np.vstack([boxes, np.zeros((3, 4))]), np.append(class_ids, [0, 0, 0])
    ax = visualize.display_differences(
        image, padded, padded_ids, masks, boxes[:1], [2], [0.8], masks[..., :1], NAMES, show_mask=False)  # fmt: skip
    assert texts(ax) == ["0.80 / 1.00"], "of another class: no match, but the overlap is shown"
    assert len(of_kind(ax, Rectangle)) == 3


def test_differences_show_the_iou_with_the_match():
    image, boxes = np.zeros((10, 4, 3)), [[0, 0, 10, 4], [0, 0, 8, 4]]
    masks = np.ones((10, 4, 2), bool)
    masks[8:, :, 1] = False  # all of the image is a dog, 8 of its 10 rows a cat
    ax = visualize.display_differences(image, boxes, [2, 1], masks, boxes[:1], [1], [0.9], masks[..., :1], NAMES)
    assert texts(ax) == ["0.90 / 0.80"]


def test_differences_without_ground_truth_or_predictions(capsys):
    image, boxes, masks, class_ids = two_squares()
    none = (np.zeros((0, 4)), np.zeros(0), np.zeros((20, 20, 0)))
    ax = visualize.display_differences(image, *none, boxes, class_ids, [0.9, 0.8], masks, NAMES)
    assert texts(ax) == ["0.90 / 0.00", "0.80 / 0.00"]
    ax = visualize.display_differences(image, boxes, class_ids, masks, *none[:2], [], none[2], NAMES, show_box=False)
    assert not texts(ax) and len(of_kind(ax, Polygon)) == 2
    visualize.display_differences(image, *none, *none[:2], [], none[2], NAMES)
    assert "No instances" in capsys.readouterr().out


def test_differences_of_unequal_numbers_are_refused():
    image, boxes, masks, class_ids = two_squares()
    with pytest.raises(ValueError, match="2 pred_box, 2 pred_class_id, 2 pred_mask, 1 pred_score"):
        visualize.display_differences(image, boxes, class_ids, masks, boxes, class_ids, [0.6], masks, NAMES)


# ---- draw_box, draw_boxes, draw_rois ---------------------------------------------------------------------------------
def test_hand_computed_draw_box():
    image = np.zeros((8, 8), int)
    assert visualize.draw_box(image, np.array([1, 1, 5, 5]), 1) is image
    assert image.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 1, 1, 0],
        [0, 1, 1, 0, 0, 1, 1, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_draw_box_beyond_the_image_does_not_wrap_around():
    image = visualize.draw_box(np.zeros((6, 6, 3), np.uint8), (-4, -4, 3, 30), [0, 0, 255])
    assert (image[3:5] == [0, 0, 255]).all()
    image[3:5] = 0
    assert not image.any()


def test_draw_boxes_before_and_after():
    image, boxes, masks, _ = two_squares()
    ax = visualize.draw_boxes(image, boxes, boxes + 1.9, masks, captions=["a", "b"], title="t")
    rectangles = of_kind(ax, Rectangle)
    assert [r.get_linestyle() for r in rectangles] == ["dashed", "solid", "dashed", "solid"]
    assert [r.get_bbox().x0 for r in rectangles] == [0, 1, 10, 11]  # refined boxes are whole pixels
    joins = [(line.get_xdata(), line.get_ydata()) for line in ax.lines]
    assert joins == [([0, 1], [0, 1]), ([10, 11], [8, 9])]
    assert texts(ax) == ["a", "b"] and ax.get_title() == "t"
    assert (picture_of(ax)[masks[..., 0]] != 100).any()


def test_visibilities_set_color_and_line_style():
    image, boxes, _, _ = two_squares()
    three = np.vstack([boxes, [[2, 2, 9, 9]]])
    ax = visualize.draw_boxes(image, three, visibilities=np.array([0, 1, 2]), colors=[RED] * 3)
    looks = [(r.get_edgecolor()[:3], r.get_linestyle(), r.get_alpha()) for r in of_kind(ax, Rectangle)]
    assert looks == [((0.5, 0.5, 0.5), "dotted", 0.5), (RED, "dotted", 1.0), (RED, "solid", 1.0)]
    with pytest.raises(ValueError, match="visibilities holds 3; expected 0"):
        visualize.draw_boxes(image, boxes, visibilities=[0, 3])


def test_draw_boxes_names_invalid_arguments():
    image, boxes, masks, _ = two_squares()
    with pytest.raises(ValueError, match="boxes and refined_boxes are both None"):
        visualize.draw_boxes(image)
    with pytest.raises(ValueError, match="2 boxes, 1 refined_boxes"):
        visualize.draw_boxes(image, boxes, boxes[:1])
    with pytest.raises(ValueError, match="2 refined_boxes, 1 masks"):
        visualize.draw_boxes(image, refined_boxes=boxes, masks=masks[..., :1])
    with pytest.raises(ValueError, match="colors is 'class'; expected a list of colors"):
        visualize.draw_boxes(image, boxes, colors="class")


def test_draw_boxes_without_boxes_shows_the_image():
    ax = visualize.draw_boxes(np.zeros((5, 5)), boxes=[], masks=np.zeros((5, 5, 0)), captions=[])
    assert not ax.patches and (picture_of(ax) == 0).all()


def test_draw_rois_counts_rois_and_draws_background_gray(capsys):
    image, boxes, _, _ = two_squares()
    ax = visualize.draw_rois(image, boxes, boxes + 1, np.ones((2, 28, 28)), [0, 2], NAMES)
    said = " ".join(capsys.readouterr().out.split())
    assert said == "Positive ROIs: 1 Negative ROIs: 1 Positive Ratio: 0.50"
    assert ax.get_title() == "2 ROIs" and texts(ax) == ["dog"]
    rectangles = of_kind(ax, Rectangle)
    assert [r.get_linestyle() for r in rectangles] == ["dashed", "dashed", "solid"]
    assert rectangles[0].get_edgecolor()[:3] == (0.5, 0.5, 0.5)
    painted = (picture_of(ax) != 100).any(-1)
    assert painted[8:14, 10:18].all() and painted.sum() == 48


def test_draw_rois_shows_at_most_the_limit():
    rois = np.tile([[1, 1, 6, 6]], (30, 1))
    ax = visualize.draw_rois(np.zeros((20, 20, 3)), rois, None, None, np.ones(30), NAMES, limit=4, colors="class")
    assert ax.get_title() == "Showing 4 random ROIs out of 30"
    assert len(of_kind(ax, Rectangle)) == len(texts(ax)) == 4


def test_draw_rois_without_rois(capsys):
    ax = visualize.draw_rois(np.zeros((9, 9, 3)), np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 28, 28)), [], NAMES)
    assert ax.get_title() == "0 ROIs"
    assert "Positive Ratio: 0.00" in capsys.readouterr().out


# ---- Curves and grids ------------------------------------------------------------------------------------------------
def test_precision_recall_curve_is_plotted():
    ax = visualize.plot_precision_recall(0.5, np.array([0, 1, 0.5, 0]), np.array([0, 0.5, 1, 1]))
    assert ax.get_title() == "Precision-Recall Curve. AP@50 = 0.500"
    assert ax.lines[0].get_xdata().tolist() == [0, 0.5, 1, 1] and ax.lines[0].get_ydata().tolist() == [0, 1, 0.5, 0]


def test_overlaps_grid_is_plotted():
    overlaps = np.array([[0.6, 0.0], [0.7, 0.2], [0.1, 0.9]])
    ax = visualize.plot_overlaps([1, 2, 0], [2, 1, 2, 0], [0.9, 0.8, 0.7, 0], overlaps, NAMES)
    assert texts(ax) == ["0.600\nwrong", "0.000", "0.700\nmatch", "0.200", "0.100", "0.900\nmatch"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["dog (0.90)", "cat (0.80)", "dog (0.70)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog"]


@pytest.mark.parametrize("true, predicted", [([], [1]), ([1], []), ([], [])])
def test_overlaps_without_boxes(true, predicted):
    ax = visualize.plot_overlaps(true, predicted, [0.5] * len(predicted), np.zeros((len(predicted), len(true))), NAMES)
    assert not texts(ax) and len(ax.get_yticks()) == len(predicted)


def test_overlaps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"overlaps has the shape \(1, 2\); expected \[2 predictions, 1 true\]"):
        visualize.plot_overlaps([1], [1, 2], [0.5, 0.4], np.zeros((1, 2)), NAMES)


# ---- Tables ----------------------------------------------------------------------------------------------------------
TABLE = [["NAME", "SIZE"], ["a <span style='color:red'>bad</span>", 3], ["b"]]


def test_table_without_a_notebook_is_plain_text(capsys):
    visualize.display_table(TABLE)
    assert capsys.readouterr().out == "NAME   SIZE\na bad  3\nb\n"
    visualize.display_table([])
    assert capsys.readouterr().out == ""


def test_table_in_a_notebook_is_html(monkeypatch):
    shown = []
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = str, shown.append
    notebook = types.ModuleType("IPython")
    notebook.display, notebook.get_ipython = display, lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    visualize.display_table(TABLE)
    assert shown[0].startswith("<table><tr><td>NAME</td><td>SIZE</td></tr><tr><td>a <span style='color:red'>bad</span>")


def layer(name, **weights):
    values = {key: np.asarray(value, np.float32) for key, value in weights.items()}
    return types.SimpleNamespace(
        weights=[types.SimpleNamespace(name=key, path=f"{name}/{key}") for key in values],
        get_weights=lambda: list(values.values()),
    )


def test_weight_stats_flag_what_looks_wrong(capsys):
    layers = [
        layer("fine", kernel=[[1, -2]], bias=[0, 0]),
        layer("dead", kernel=[[3, 3]]),
        layer("wild", kernel=[[-1001, 0]]),
        layer("lost", kernel=[[np.nan, 0]]),
    ]
    visualize.display_weight_stats(types.SimpleNamespace(get_trainable_layers=lambda: layers))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WEIGHT", "NAME", "SHAPE", "MIN", "MAX", "STD"]
    assert lines[1].split() == ["fine/kernel", "(1,", "2)", "-2.0000", "+1.0000", "1.5000"]
    flags = [line.split("***")[1].split("  ")[0].strip() if "***" in line else "" for line in lines[1:]]
    assert flags == ["", "", "dead?", "overflow?", "not a number"]


def test_weight_stats_of_keras_layers(capsys):
    import keras

    dense = keras.layers.Dense(2, name="head")
    dense.build((None, 3))
    visualize.display_weight_stats(types.SimpleNamespace(get_trainable_layers=lambda: [dense]))
    printed = capsys.readouterr().out
    assert "head/kernel" in printed and "head/bias" in printed and "***" not in printed


# ---- Real data -------------------------------------------------------------------------------------------------------
def balloons(shared):
    """The balloon photo with most balloons: image, masks [H, W, N], class ids."""
    folder = shared / "data" / "balloon" / "train"
    photos = json.loads((folder / "via_region_data.json").read_text()).values()
    photo = max(photos, key=lambda p: len(p["regions"]))
    image = skimage.io.imread(folder / photo["filename"])
    masks = np.zeros((*image.shape[:2], len(photo["regions"])), bool)
    for i, region in enumerate(photo["regions"].values()):
        shape = region["shape_attributes"]
        masks[..., i][skimage.draw.polygon(shape["all_points_y"], shape["all_points_x"], image.shape[:2])] = True
    return image, masks, np.ones(masks.shape[-1], int)


def test_every_figure_of_a_real_photo_is_saved(shared, tmp_path, capsys):
    image, masks, class_ids = balloons(shared)
    boxes, names, count = utils.extract_bboxes(masks), ["BG", "balloon"], masks.shape[-1]
    moved, scores = np.roll(masks, 9, axis=1), np.linspace(0.5, 0.99, count)
    found = utils.extract_bboxes(moved)
    ap, precisions, recalls, overlaps = utils.compute_ap(boxes, class_ids, masks, found, class_ids, scores, moved)
    minis = np.moveaxis(utils.minimize_mask(boxes, masks, (28, 28)), -1, 0)
    pictures = {
        "images": lambda path: visualize.display_images([image, masks[..., 0]], ["photo", "mask"], save=path),
        "instances": lambda path: visualize.display_instances(image, boxes, masks, class_ids, names, scores, save=path),
        "differences": lambda path: visualize.display_differences(
            image, boxes, class_ids, masks, found, class_ids, scores, moved, names, save=path),
        "rois": lambda path: visualize.draw_rois(image, boxes, found, minis, class_ids, names, save=path),
        "top_masks": lambda path: visualize.display_top_masks(image, masks, class_ids, names, save=path),
        "curve": lambda path: visualize.plot_precision_recall(ap, precisions, recalls, save=path),
        "overlaps": lambda path: visualize.plot_overlaps(class_ids, class_ids, scores, overlaps, names, save=path),
        "boxes": lambda path: visualize.draw_boxes(image, boxes, found, masks, ["b"] * count, [1] * count, save=path),
    }  # fmt: skip
    for name, draw in pictures.items():
        draw(tmp_path / f"{name}.png")
        saved = skimage.io.imread(tmp_path / f"{name}.png")
        assert min(saved.shape[:2]) > 150 and saved[..., :3].std() > 5, name
    assert not plt.get_fignums()


# ---- Text from data --------------------------------------------------------------------------------------------------
STRANGE_NAMES = [r"$\frac$", r"$\unknown{x}$ 5$", "half \ud800 pair", "nul \x00 \x1b", "日本 \ufffe", "100 % {a} \\"]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_text_from_data_cannot_break_a_figure(name, tmp_path):
    image, box, mask = np.zeros((24, 24, 3), np.uint8), np.array([[4, 4, 20, 20]]), np.ones((24, 24, 1), bool)
    names, one = ["BG", name], np.array([1])
    small = plt.figure(figsize=(2, 2)).subplots(1, 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        visualize.display_instances(image, box, mask, one, names, title=name, ax=small[0])
        visualize.plot_overlaps(one, one, np.ones(1), np.ones((1, 1)), names, ax=small[1])
        visualize.display_images([image], [name], ax=small[2:])
        small[0].figure.savefig(tmp_path / "drawn.svg")
    ElementTree.parse(tmp_path / "drawn.svg")  # a control character would make it no XML
    plt.close(small[0].figure)
    text = small[0].texts[0].get_text()
    assert text == printable(name) and (text == name or "\ufffd" in text)
    assert draw_instances(image, box, mask, [name], ["red"]).shape == image.shape
    visualize.display_table([[name]])


def test_a_class_has_one_color_everywhere():
    image, mask = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60, 1), bool)
    mask[20:50, 20:50] = True
    box, expected = np.array([[20, 20, 50, 50]]), palette.class_colors([7])
    ax = plt.figure().subplots()
    visualize.display_instances(image, box, mask, [7], ["BG", *"abcdefg"], colors="class", ax=ax)
    assert ax.patches[0].get_edgecolor()[:3] == expected[0]
    plt.close(ax.figure)
    names = ["BG", *"abcdefg"]
    found = result(mask, [7], [1.0])
    dataset = MaskSet([(mask, np.array([7]))], names[1:])
    callback = EvaluateDataset(dataset, min_score=None)
    callback.report = evaluate_dataset(FakeModel([found]), dataset, progress=False)
    height = callback.picture(0).shape[0]
    drawn = {
        "video": draw_frame(image, found, [7], names)[49, 30],
        "TensorBoard": callback.picture(0)[height * 5 // 6 - 1, height // 2],
    }
    for where, color in drawn.items():  # a pixel of the outline, at the lower edge of the mask
        np.testing.assert_array_equal(color, palette.as_bytes(expected[0]), err_msg=where)
