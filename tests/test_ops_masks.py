"""Masks: minimized, expanded and pasted, on tiny arrays and compared with the reference."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path

import numpy as np
import pytest

from mrcnn.ops import images
from mrcnn.ops.images import resize_mask_like_image
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.masks import (
    expand_mask,
    minimize_mask,
    minimize_resized,
    paste_masks,
    resize_inside_boxes,
    unmold_mask,
)


def disks(count, height=60, width=80, seed=0):
    """[height, width, count] bool; some reach over the border, the smallest are one pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width, :1][:2]
    center_y, center_x = rng.integers(0, height, count), rng.integers(0, width, count)
    return (y - center_y) ** 2 + (x - center_x) ** 2 <= rng.integers(0, 25, count) ** 2


# ---- minimize_mask ---------------------------------------------------------------------------------------------------
def test_no_masks():
    assert minimize_mask(np.zeros((0, 4), int), np.zeros((9, 9, 0), bool), (5, 7)).shape == (5, 7, 0)
    assert expand_mask(np.zeros((0, 4), int), np.zeros((5, 7, 0), bool), (9, 8, 3)).shape == (9, 8, 0)
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4), int), (9, 8, 3)).shape == (9, 8, 0)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (8, 8, 9, 9), (0, 0, 9, 9), (3, 0, 4, 9), (0, 8, 9, 9), (2, 3, 7, 6)])
@pytest.mark.parametrize("mini_shape", [(1, 1), (2, 2), (28, 28), (56, 40)])
def test_issue_80_a_full_mask_stays_full(box, mini_shape):
    # 80, 367, 2038: a mask that filled its box became all zeros.
    mask = np.zeros((9, 9, 1), bool)
    y1, x1, y2, x2 = box
    mask[y1:y2, x1:x2] = True
    mini = minimize_mask(np.array([box]), mask, mini_shape)
    assert mini.dtype == bool and mini.shape == mini_shape + (1,) and mini.all()
    np.testing.assert_array_equal(expand_mask(np.array([box]), mini, (9, 9)), mask)


@pytest.mark.parametrize("kind", [bool, "uint8", "float32", "255"])
def test_issue_2243_masks_of_any_type_are_minimized(kind):
    mask = disks(3)
    given = mask.astype("uint8") * 255 if kind == "255" else mask.astype(kind)
    boxes = extract_bboxes(mask)
    np.testing.assert_array_equal(minimize_mask(boxes, given, (20, 20)), minimize_mask(boxes, mask, (20, 20)))


def test_hand_computed_minimize():
    mask = np.zeros((6, 4, 1), bool)
    mask[1:5, :2, 0] = True
    mask[1:3, 2:, 0] = True
    halves = minimize_mask([[1, 0, 5, 4]], mask, (2, 2))[..., 0]
    np.testing.assert_array_equal(halves, [[True, True], [True, False]])
    # Half of the four pixels that each new pixel lies between: a tie is background.
    chequered = np.indices((4, 4)).sum(axis=0)[..., None] % 2 == 0
    assert not minimize_mask([[0, 0, 4, 4]], chequered, (2, 2)).any()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (3, 3, 3, 5), (0, 0, 61, 5), (-1, 0, 5, 5)])
def test_minimize_refuses_boxes_without_area_or_outside(box):
    with pytest.raises(ValueError, match="Instance 0 has the box"):
        minimize_mask([box], disks(1), (28, 28))


def test_invalid_or_missing_boxes_are_refused():
    with pytest.raises(ValueError, match="2 masks and 1 boxes"):
        paste_masks(np.ones((2, 4, 4)), [[0, 0, 4, 4]], (9, 9))
    for wrong in (0.5, np.nan):
        with pytest.raises(ValueError, match="whole pixels"):
            paste_masks(np.ones((1, 4, 4)), [[0, 0, 4, wrong]], (9, 9))
    assert paste_masks(np.ones((1, 4, 4)), np.float32([[0, 0, 4, 4]]), (9, 9)).sum() == 16


def test_minimizing_a_crop_equals_minimizing_the_whole():
    mask = disks(12, seed=4)
    boxes = extract_bboxes(mask)
    mini = minimize_mask(boxes, mask, (28, 20))
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        whole = images.resize(mask[y1:y2, x1:x2, i], (28, 20))
        clear = np.abs(whole - 0.5) > 1e-5  # at ties the last bit of a float decides
        np.testing.assert_array_equal(mini[clear, i], whole[clear] > 0.5)


# ---- minimize_resized ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["none", "square", "pad64", "crop"])
@pytest.mark.parametrize("height, width", [(60, 80), (90, 30), (300, 210), (7, 5), (1, 1)])
def test_minimize_resized_equals_its_three_steps(mode, height, width):
    mask = np.concatenate([disks(6, height, width), np.zeros((height, width, 1), bool)], axis=-1)
    mask[:, :, 0] = True
    image = np.zeros((height, width, 3), np.uint8)
    _, _, scale, padding, crop = images.resize_image(image, 64, 128, mode=mode, rng=np.random.default_rng(1))
    boxes, mini = minimize_resized(mask, scale, padding, crop, (28, 20))

    resized = images.resize_mask_like_image(mask, scale, padding, crop)
    expected = extract_bboxes(resized)
    np.testing.assert_array_equal(boxes, expected)
    assert boxes.dtype == np.int32 and not boxes[-1].any() and not mini[..., -1].any()
    there = expected[:, 2] > expected[:, 0]
    np.testing.assert_array_equal(mini[..., there], minimize_mask(expected[there], resized[..., there], (28, 20)))
    assert not mini[..., ~there].any()


def test_minimize_resized_without_masks():
    boxes, mini = minimize_resized(np.zeros((9, 9, 0), bool), 2.0, [(1, 1), (0, 0), (0, 0)], None, (5, 5))
    assert boxes.shape == (0, 4) and mini.shape == (5, 5, 0)


# ---- expand, unmold, paste -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("box", [(0, 0, 9, 9), (0, 0, 1, 1), (8, 8, 9, 9), (2, 3, 7, 6)])
def test_a_certain_mask_fills_its_box(box):
    y1, x1, y2, x2 = box
    pasted = unmold_mask(np.full((28, 28), 0.9, np.float32), np.array(box), (9, 9, 3))
    assert pasted.dtype == bool and pasted.shape == (9, 9)
    assert pasted[y1:y2, x1:x2].all() and pasted.sum() == (y2 - y1) * (x2 - x1)


@pytest.mark.parametrize("value, there", [(0.5, True), (0.499, False), (np.nan, False)])
def test_a_value_of_0_5_is_inside_and_nan_is_not(value, there):
    pasted = paste_masks(np.full((1, 4, 4), value, np.float32), [[1, 1, 5, 5]], (6, 6))
    assert pasted[1:5, 1:5].all() == there and pasted.any() == there


def test_threshold_can_be_chosen():
    assert not paste_masks(np.full((1, 4, 4), 0.6), [[0, 0, 4, 4]], (4, 4), threshold=0.7).any()


@pytest.mark.parametrize("box", [(3, 3, 3, 8), (3, 3, 8, 3), (8, 8, 3, 3), (20, 20, 25, 25), (-9, 0, -2, 9)])
def test_boxes_without_area_or_outside_get_an_empty_mask(box):
    assert not paste_masks(np.ones((1, 28, 28)), [box], (9, 9)).any()


def test_masks_beyond_the_image_are_clipped_not_squeezed():
    quarter = np.zeros((1, 4, 4))
    quarter[0, 2:, 2:] = 1  # the lower right one of a box of which only that is in the image
    assert paste_masks(quarter, [[-4, -4, 4, 4]], (9, 9))[:4, :4].sum() >= 9
    assert not paste_masks(quarter[:, ::-1], [[-4, -4, 4, 4]], (9, 9)).any()
    assert not paste_masks(quarter[:, :, ::-1], [[-4, -4, 4, 4]], (9, 9)).any()
    assert not paste_masks(quarter, [[5, 5, 13, 13]], (9, 9)).any()


def test_pasting_many_equals_pasting_each():
    rng = np.random.default_rng(0)
    masks = rng.random((20, 28, 28), np.float32)
    near = rng.integers(0, 50, (20, 2))
    boxes = np.concatenate([near, near + rng.integers(1, 40, (20, 2))], axis=1)
    pasted = paste_masks(masks, boxes, (64, 64))
    for i, box in enumerate(boxes):
        inside = np.minimum(box, 64)
        np.testing.assert_array_equal(pasted[..., i], unmold_mask(masks[i], box, (64, 64)))
        y1, x1, y2, x2 = inside
        assert pasted[..., i].sum() == pasted[y1:y2, x1:x2, i].sum() > 0


def test_minimize_and_expand_keep_the_shape():
    mask = disks(8, 200, 200, seed=2)
    boxes = extract_bboxes(mask)
    back = expand_mask(boxes, minimize_mask(boxes, mask, (56, 56)), mask.shape)
    overlap = (mask & back).sum(axis=(0, 1)) / (mask | back).sum(axis=(0, 1))
    assert overlap.min() > 0.9


def test_results_equal_the_reference(golden):
    data = golden("utils_golden.npz")
    masks, boxes = data["masks1"], data["extract_bboxes_out"]
    for shape in ((56, 56), (28, 28), (40, 24)):
        name = "{}x{}".format(*shape)
        np.testing.assert_array_equal(minimize_mask(boxes, masks, shape), data[f"minimize_{name}"])
        expanded = expand_mask(boxes, data[f"minimize_{name}"], masks.shape)
        assert (expanded != data[f"expand_{name}"]).sum() <= 4  # at ties the last bit of a float decides
    unmolded = unmold_mask(data["unmold_mask_in"], data["unmold_mask_bbox"], (90, 110))
    np.testing.assert_array_equal(unmolded, data["unmold_mask_out"])


@pytest.mark.parametrize("side", (20, 2100), ids=("small", "of many megabytes"))
def test_small_pasted_masks_are_ordinary_arrays(side):
    boxes = np.array([[3, 4, 9, 12], [-2, side - 5, 4, side + 3]])
    pasted = paste_masks(np.ones((2, 28, 28), np.float32), boxes, (side, side))
    expected = np.zeros((side, side, 2), bool)
    expected[3:9, 4:12, 0] = expected[:4, side - 5 :, 1] = True
    np.testing.assert_array_equal(pasted, expected)
    assert pasted.dtype == bool and pasted[..., 0].flags.c_contiguous
    pasted[0, 0, 0] = True
    assert pasted.copy()[..., 0].sum() == 6 * 8 + 1 and pickle.loads(pickle.dumps(pasted)).sum() == pasted.sum()


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="Linux's")
def test_pasting_works_without_large_pages(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *args):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    pasted = paste_masks(np.ones((1, 28, 28), np.float32), np.array([[3, 4, 9, 12]]), (2100, 2100))
    assert pasted.sum() == 6 * 8 and pasted[3:9, 4:12].all()


@pytest.mark.parametrize(
    ("method", "project"), [("padded_resize", "torchvision"), ("grid_sample", "detectron2")], ids=lambda x: x
)
def test_pasting_is_bit_identical_to(method, project):
    """26 boxes: tiny, without area, inverted, larger than the image, and outside of it."""
    with np.load(Path(__file__).parent / "golden" / "torch" / "ops.npz") as data:
        masks, boxes, shape = data["paste_masks"], data["paste_boxes"][:, [1, 0, 3, 2]], data["paste_size"]
        expected = np.unpackbits(data[f"paste_{project}"])[: len(masks) * shape.prod()].reshape(-1, *shape)
    np.testing.assert_array_equal(paste_masks(masks, boxes, shape, method=method), np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize("method", ["padded_resize", "grid_sample"])
def test_nan_and_infinite_boxes_give_no_mask(method):
    boxes = [[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [0, 0, 5, 5]]
    masks = paste_masks(np.ones((3, 28, 28)), boxes, (10, 10), method=method)
    assert masks.any(axis=(0, 1)).tolist() == [False, False, True]


def test_an_unknown_way_to_paste_is_refused():
    with pytest.raises(ValueError, match="nearest"):
        paste_masks(np.ones((1, 28, 28)), [[0, 0, 5, 5]], (10, 10), method="nearest")


# ---- Whole masks, resized inside their boxes ------------------------------------------------------------------------
RESIZINGS = [
    (1, [(0, 0), (0, 0)], None),
    (2.3, [(3, 2), (0, 5)], None),
    ((1.7, 1.2), [(0, 4), (0, 1)], None),
    (0.4, [(1, 1), (2, 2)], None),
    (1.6, [(0, 0), (0, 0)], (9, 4, 20, 20)),  # objects that the crop cuts or misses
    (0.8, [(0, 0), (0, 0)], (3, 7, 16, 16)),
]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])  # F: as pycocotools decodes masks
@pytest.mark.parametrize(("scale", "padding", "crop"), RESIZINGS)
def test_masks_resized_inside_their_boxes_are_those_resized_whole(scale, padding, crop, order, dtype):
    rng = np.random.default_rng(0)
    masks = np.zeros((30, 40, 9), dtype, order=order)
    for i in range(7):  # the other two stay empty
        y, x = rng.integers(0, 22, 2)
        masks[y : y + 8, x : x + 2 * i + 1, i] = rng.random((8, 2 * i + 1)) > 0.5
    masks[:, :, 6] = 3  # without a border
    boxes, inside = resize_inside_boxes(masks, scale, padding, crop)
    whole = resize_mask_like_image(masks, scale, padding, crop) != 0
    assert inside.dtype == bool and boxes.dtype == np.int32
    np.testing.assert_array_equal(inside, whole)
    np.testing.assert_array_equal(boxes, extract_bboxes(whole))


def test_no_masks_are_resized_to_no_masks():
    boxes, masks = resize_inside_boxes(np.zeros((4, 6, 0), bool), 2, [(0, 0), (2, 2)], None)
    assert boxes.shape == (0, 4) and masks.shape == (8, 16, 0)
