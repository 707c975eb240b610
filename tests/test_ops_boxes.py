"""Boxes: handmade examples, the reference, and each graph function compared with its NumPy function."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from mrcnn.ops import boxes as B
from mrcnn.ops.mask_boxes import extract_bboxes

EMPTY = np.zeros((0, 4))
UNIT, HALF, LINE = [0, 0, 2, 2], [0, 0, 2, 1], [1, 0, 1, 2]  # LINE has no area


@pytest.fixture(autouse=True)
def no_warning_goes_unseen():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a division by 0, a log of 0
        yield


def random_boxes(n, seed=0, size=1.0):
    corners = np.random.default_rng(seed).random((n, 2, 2)).astype("float32") * size
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


# ---- extract_bboxes --------------------------------------------------------------------------------------------------
def test_boxes_without_masks_and_of_empty_masks():
    assert extract_bboxes(np.zeros((5, 5, 0), bool)).shape == (0, 4)
    assert extract_bboxes(np.zeros((0, 5, 2), bool)).tolist() == [[0, 0, 0, 0]] * 2
    assert extract_bboxes(np.zeros((5, 5, 2), bool)).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize("y, x", [(0, 0), (4, 6), (2, 3), (0, 6)])
def test_the_box_of_one_pixel_has_size_one(y, x):
    mask = np.zeros((5, 7, 1), bool)
    mask[y, x] = True
    assert extract_bboxes(mask).tolist() == [[y, x, y + 1, x + 1]]


@pytest.mark.parametrize("layout", ["in one piece", "by layers", "flipped"])
def test_box_of_scattered_pixels_in_any_memory_layout(layout):
    mask = np.zeros((9, 8, 3), bool)
    mask[[2, 7], [6, 1], 1] = True
    if layout == "by layers":
        mask = np.moveaxis(np.ascontiguousarray(np.moveaxis(mask, -1, 0)), 0, -1)
    if layout == "flipped":
        mask = mask[::-1, ::-1]
    expected = [1, 1, 7, 7] if layout == "flipped" else [2, 1, 8, 7]
    boxes = extract_bboxes(mask)
    assert boxes.tolist() == [[0] * 4, expected, [0] * 4] and boxes.dtype == np.int32


@pytest.mark.parametrize("dtype, value", [("uint8", 255), ("float32", 0.25), ("int64", 1), ("float32", np.nan)])
def test_any_nonzero_value_belongs_to_the_object(dtype, value):
    mask = np.zeros((4, 4, 1), dtype)
    mask[1:3, 2] = value
    assert extract_bboxes(mask).tolist() == [[1, 2, 3, 3]]


def test_masks_without_an_instance_axis_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\); expected \[height, width, instances\]"):
        extract_bboxes(np.zeros((4, 4)))


# ---- Overlaps --------------------------------------------------------------------------------------------------------
def test_overlaps_without_boxes():
    assert B.compute_overlaps(EMPTY, [UNIT]).shape == (0, 1)
    assert B.compute_overlaps([UNIT], EMPTY).shape == (1, 0)
    assert B.compute_overlaps([], []).shape == (0, 0)


def test_hand_computed_overlaps():
    boxes = [UNIT, HALF, [1, 1, 3, 3], [5, 5, 6, 6]]
    np.testing.assert_allclose(B.compute_overlaps([UNIT], boxes), [[1, 1 / 2, 1 / 7, 0]])


def test_boxes_without_area_have_iou_zero():
    overlaps = B.compute_overlaps([LINE, UNIT, [0] * 4], [LINE, [0] * 4])
    np.testing.assert_array_equal(overlaps, np.zeros((3, 2)))
    np.testing.assert_array_equal(B.compute_iou(np.array(LINE), np.array([LINE]), 0, np.array([0])), [0])


def test_overlaps_do_not_depend_on_blocks_order_or_type():
    many, few = random_boxes(3000, 1, 100), random_boxes(40, 2, 100)
    overlaps = B.compute_overlaps(many, few)
    assert len(many) * len(few) > 3 * B.PAIRS_PER_BLOCK
    np.testing.assert_array_equal(overlaps, B.compute_overlaps(few, many).T)
    areas = (few[:, 2] - few[:, 0]) * (few[:, 3] - few[:, 1])
    for i in (0, 1234, 2999):
        area = np.prod(many[i, 2:] - many[i, :2])
        np.testing.assert_allclose(overlaps[i], B.compute_iou(many[i], few, area, areas), atol=1e-5)
    whole = np.around(few).astype(np.int32)
    np.testing.assert_array_equal(B.compute_overlaps(whole, whole), B.compute_overlaps(np.float64(whole), whole))


def test_overlaps_graph_equals_numpy():
    boxes1, boxes2 = random_boxes(12, 3), random_boxes(7, 4)
    boxes1[3], boxes2[2] = 0, 0
    twin = numbers(B.overlaps_graph(ops.convert_to_tensor(boxes1), ops.convert_to_tensor(boxes2)))
    np.testing.assert_allclose(twin, B.compute_overlaps(boxes1, boxes2), atol=1e-6)
    stacked = B.overlaps_graph(np.stack([boxes1, boxes1[::-1]]), np.stack([boxes2, boxes2]))
    np.testing.assert_allclose(numbers(stacked)[1], twin[::-1], atol=1e-6)


# ---- Deltas ----------------------------------------------------------------------------------------------------------
def test_deltas_without_boxes():
    assert B.apply_box_deltas(EMPTY, EMPTY).shape == (0, 4)
    assert B.box_refinement(EMPTY, EMPTY).shape == (0, 4)


def test_hand_computed_deltas():
    # Half a height down, a quarter of the width left, twice as high, as wide as before.
    moved = B.apply_box_deltas([[0, 0, 2, 4]], [[0.5, -0.25, np.log(2), 0]])
    np.testing.assert_allclose(moved, [[0, -1, 4, 3]], atol=1e-6)
    assert moved.dtype == np.float32


def test_refinement_and_apply_are_inverse():
    boxes, targets = random_boxes(50, 5, 300), random_boxes(50, 6, 300)
    np.testing.assert_allclose(B.apply_box_deltas(boxes, B.box_refinement(boxes, targets)), targets, atol=1e-2)


def test_issue_7_boxes_without_area_have_deltas_zero():
    # 7, 47, 112, 351: log(0) and divisions by 0 made the loss NaN.
    deltas = B.box_refinement([LINE, UNIT, [0] * 4, UNIT], [UNIT, LINE, [0] * 4, UNIT])
    np.testing.assert_array_equal(deltas, np.zeros((4, 4)))


def test_huge_deltas_stay_finite():
    moved = B.apply_box_deltas([UNIT, LINE], [[0, 0, 1e4, 1e4]] * 2)
    assert np.isfinite(moved).all()


def test_delta_graphs_equal_numpy():
    boxes, targets = random_boxes(20, 7), random_boxes(20, 8)
    boxes[0], targets[1] = 0, 0
    deltas = B.box_refinement(boxes, targets)
    np.testing.assert_allclose(numbers(B.box_refinement_graph(boxes, targets)), deltas, atol=1e-5)
    deltas[2] = [0, 0, 1e4, 1e4]
    moved = B.apply_box_deltas(boxes, deltas)
    batch = B.apply_box_deltas_graph(ops.convert_to_tensor(boxes[None]), ops.convert_to_tensor(deltas[None]))
    np.testing.assert_allclose(numbers(batch)[0], moved, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradient is taken with TensorFlow's tape")
def test_gradients_are_finite_where_boxes_have_no_area():
    import tensorflow as tf

    boxes = tf.constant([[0.0, 0, 0, 0], [0.2, 0.2, 0.2, 0.4], [0.1, 0.1, 0.5, 0.6]])
    deltas = tf.constant([[0.0, 0, 1e4, 1e4], [0.0, 0, 1e4, 1e4], [0.1, 0.1, 0.1, 0.1]])
    with tf.GradientTape() as tape:
        tape.watch([boxes, deltas])
        moved = B.clip_boxes_graph(B.apply_box_deltas_graph(boxes, deltas), [0, 0, 1, 1])
        total = tf.reduce_sum(moved) + tf.reduce_sum(B.box_refinement_graph(boxes, boxes[::-1]))
        total += tf.reduce_sum(B.overlaps_graph(boxes, boxes))
    for gradient in tape.gradient(total, [boxes, deltas]):
        assert np.isfinite(gradient).all()
        assert np.any(gradient[2] != 0)


# ---- Clipping, normalizing, trimming ---------------------------------------------------------------------------------
def test_clipping_collapses_boxes_outside_the_window():
    boxes = np.float32([[-1, -1, 3, 3], [4, 4, 5, 5], [1, 1, 2, 2]])
    clipped = B.clip_boxes_graph(ops.convert_to_tensor(boxes), [0, 0, 2, 3])
    np.testing.assert_array_equal(numbers(clipped), [[0, 0, 2, 3], [2, 3, 2, 3], [1, 1, 2, 2]])


@pytest.mark.parametrize("middle", [(), (3,), (3, 2)])
def test_each_image_of_a_batch_is_clipped_to_its_window(middle):
    boxes = np.broadcast_to(np.float32([-9, -9, 9, 9]), (2, *middle, 4))
    windows = np.float32([[0, 1, 2, 3], [4, 5, 6, 7]])
    clipped = numbers(B.clip_boxes_graph(ops.convert_to_tensor(boxes), ops.convert_to_tensor(windows)))
    for image in (0, 1):
        np.testing.assert_array_equal(clipped[image], np.broadcast_to(windows[image], (*middle, 4)))


def test_the_whole_image_is_the_unit_square():
    np.testing.assert_array_equal(B.norm_boxes([[0, 0, 11, 21]], (11, 21)), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(B.denorm_boxes([[0, 0, 1, 1]], (11, 21, 3)), [[0, 0, 11, 21]])
    assert B.norm_boxes(EMPTY, (11, 21)).shape == (0, 4)


def test_pixels_survive_normalization():
    boxes = np.around(random_boxes(100, 9, 200)).astype(np.int32)
    back = B.denorm_boxes(B.norm_boxes(boxes, (200, 150)), (200, 150))
    np.testing.assert_array_equal(back, boxes)
    assert back.dtype == np.int32


def test_an_image_of_one_pixel_can_be_normalized():
    np.testing.assert_array_equal(B.norm_boxes([[0, 0, 1, 1]], (1, 1)), [[0, 0, 0, 0]])
    np.testing.assert_array_equal(numbers(B.norm_boxes_graph(np.float32([[0, 0, 1, 1]]), (1, 1))), [[0, 0, 0, 0]])


def test_normalization_graphs_equal_numpy():
    boxes = np.around(random_boxes(10, 10, 150)).astype(np.int32)
    shapes = np.array([[200, 150], [160, 300]])
    normed = [B.norm_boxes(boxes, shape) for shape in shapes]
    np.testing.assert_allclose(numbers(B.norm_boxes_graph(boxes, shapes[0])), normed[0], atol=1e-7)
    batch = B.norm_boxes_graph(np.stack([boxes, boxes]), ops.convert_to_tensor(shapes))
    np.testing.assert_allclose(numbers(batch), normed, atol=1e-7)
    back = B.denorm_boxes_graph(batch, shapes)
    np.testing.assert_array_equal(numbers(back), [boxes, boxes])
    assert keras.backend.standardize_dtype(back.dtype) == "int32"


@pytest.mark.parametrize("rows", [[], [0, 0], [1, 0, 1, 0], [1, 1]])
def test_trim_zeros_graph_removes_padding(rows):
    boxes = np.float32(rows).reshape(-1, 1) * np.float32([[-1, 0, 1, 2]])
    trimmed, kept = B.trim_zeros_graph(ops.convert_to_tensor(boxes), name="trim")
    np.testing.assert_array_equal(numbers(kept), np.array(rows, bool))
    np.testing.assert_array_equal(numbers(trimmed), boxes[np.array(rows, bool)])


# ---- The reference ---------------------------------------------------------------------------------------------------
def test_results_equal_the_reference(golden):
    data = golden("utils_golden.npz")
    np.testing.assert_array_equal(extract_bboxes(data["masks1"]), data["extract_bboxes_out"])
    np.testing.assert_array_equal(B.compute_overlaps(data["ov_b1"], data["ov_b2"]), data["ov_out"])
    np.testing.assert_array_equal(B.compute_overlaps(data["ovi_b1"], data["ovi_b2"]), data["ovi_out"])
    moved = B.apply_box_deltas(data["deltas_boxes"], data["deltas_in"])
    np.testing.assert_allclose(moved, data["deltas_out"], rtol=1e-6, atol=1e-5)
    deltas = B.box_refinement(data["refine_box"], data["refine_gt"])
    np.testing.assert_allclose(deltas, data["refine_out"], atol=1e-6)
    for name in ("sq", "rect"):
        shape = data[f"norm_{name}_shape"]
        np.testing.assert_array_equal(B.norm_boxes(data[f"norm_{name}_in"], shape), data[f"norm_{name}_out"])
        np.testing.assert_array_equal(B.denorm_boxes(data[f"denorm_{name}_in"], shape), data[f"denorm_{name}_out"])
    box, others = data["iou_box"], data["ov_b2"]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    iou = B.compute_iou(box, others, (box[2] - box[0]) * (box[3] - box[1]), areas)
    np.testing.assert_array_equal(iou, data["iou_out"])
