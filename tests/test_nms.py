"""NMS compared with handmade cases and the box-by-box loop. Every case runs through every implementation.

On the backend of this process these are: eager, compiled, and, on TensorFlow, also without its kernel, as in exports
and, for the larger comparisons, with XLA. `test_backends` runs this file on JAX and PyTorch in separate processes.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from mrcnn.ops import nms
from mrcnn.ops.kernels import exporting
from mrcnn.ops.nms import nms_graph, non_max_suppression

BACKEND = keras.backend.backend()

# A and B: IoU 8 / 12. B and C likewise. A and C: 6 / 14. D stands alone. P is padding.
A, B, C = [0, 0, 10, 1], [2, 0, 12, 1], [4, 0, 14, 1]
D, P = [50, 50, 60, 60], [0, 0, 0, 0]


def compiled(function, for_xla: bool = False):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=for_xla)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


@pytest.fixture
def pick(monkeypatch):
    """Runs every implementation of nms_graph, which must agree, on one image, or on a batch [B, N, 4] of boxes."""

    def run(boxes, scores, count=5, threshold=0.5, class_ids=None, valid=None, xla=False):
        boxes, scores = np.asarray(boxes, "float32"), np.asarray(scores, "float32")
        single = boxes.ndim == 2
        arrays = {"boxes": boxes, "scores": scores}
        arrays |= {"class_ids": np.asarray(class_ids, "int32")} if class_ids is not None else {}
        arrays |= {"valid": np.asarray(valid, bool)} if valid is not None else {}
        tensors = {k: ops.convert_to_tensor(v[None] if single else v) for k, v in arrays.items()}

        def function(tensors):
            return nms_graph(**tensors, max_output_size=count, iou_threshold=threshold)

        results = [function(tensors), compiled(function)(tensors)]
        if BACKEND == "tensorflow":
            if xla:
                results.append(compiled(function, for_xla=True)(tensors))
            with monkeypatch.context() as patch:
                patch.setattr(nms, "tensorflow_nms", lambda: None)
                results += [function(tensors), compiled(function)(tensors)]
            with exporting(fixed_shapes=False):
                results += [function(tensors), compiled(function)(tensors)]
        results = [ops.convert_to_numpy(x) for x in results]
        for result in results:
            assert result.dtype == np.int32
            assert result.shape == (1 if single else len(boxes), count)
            np.testing.assert_array_equal(result, results[0])
        return results[0][0].tolist() if single else results[0].tolist()

    return run


def box_by_box(boxes, scores, count, threshold, class_ids=None, valid=None):
    """The definition, one box at a time, in float32."""
    boxes = np.asarray(boxes, "float32")
    alive = np.isfinite(boxes).all(1) & (scores > -np.inf)
    if valid is not None:
        alive &= valid
    picked = []
    for i in sorted(np.flatnonzero(alive), key=lambda i: (-scores[i], i)):
        if len(picked) == count:
            break
        for j in picked:
            if class_ids is not None and class_ids[i] != class_ids[j]:
                continue
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = np.maximum(high - low, 0).prod()
            area = np.maximum(boxes[[i, j], 2:] - boxes[[i, j], :2], 0).prod(1)
            if inter > 0 and inter / (area[0] + area[1] - inter) > np.float32(threshold):
                break
        else:
            picked.append(int(i))
    return picked + [-1] * (count - len(picked))


# ---- Empty inputs ------------------------------------------------------------------------------------------------


def test_no_candidates(pick):
    assert pick(np.zeros((0, 4)), np.zeros(0), count=3) == [-1, -1, -1]
    assert pick(np.zeros((0, 4)), np.zeros(0), count=3, class_ids=np.zeros(0)) == [-1, -1, -1]


def test_no_valid_candidates(pick):
    assert pick([A, D], [0.9, 0.8], count=3, valid=[False, False]) == [-1, -1, -1]


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_a_nan_score_is_never_picked(pick, score):
    assert pick([A, D, C], [score, 0.1, score], count=3) == [1, -1, -1]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_nan_box_is_never_picked_and_suppresses_nothing(pick, number):
    assert pick([[0, 0, number, 10], A], [0.9, 0.8], count=2) == [1, -1]


def test_padding_rows_have_no_overlap_even_with_each_other(pick):
    assert pick([P, P, A], [0.5, 0.5, 0.1], count=4) == [0, 1, 2, -1]


def test_an_inverted_box_is_empty(pick):
    assert pick([[10, 0, 0, 1], A], [0.9, 0.8], count=2) == [0, 1]


# ---- By hand -----------------------------------------------------------------------------------------------------


def test_the_best_comes_first_and_suppresses_its_neighbor(pick):
    assert pick([A, B, D], [0.6, 0.9, 0.7]) == [1, 2, -1, -1, -1]


def test_a_suppressed_box_suppresses_nothing(pick):
    assert pick([A, B, C], [0.9, 0.8, 0.7]) == [0, 2, -1, -1, -1]


def test_a_chain_of_many_boxes_is_resolved_to_its_end(pick):
    """Each box drops the next: of 100 every second one stays, however deep the chain."""
    boxes = [[2 * i, 0, 2 * i + 10, 1] for i in range(100)]  # neighbors 8 / 12, next but one 6 / 14
    assert pick(boxes, np.linspace(0.9, 0.1, 100), count=50) == list(range(0, 100, 2))


def test_an_iou_equal_to_the_threshold_does_not_suppress(pick):
    half = [[0, 0, 4, 4], [0, 0, 4, 2]]  # IoU 8 / 16, exact in float32
    assert pick(half, [0.9, 0.8], count=2, threshold=0.5) == [0, 1]
    assert pick(half, [0.9, 0.8], count=2, threshold=0.4999999) == [0, -1]


def test_identical_boxes_survive_threshold_one(pick):
    assert pick([A, A], [0.9, 0.8], count=2, threshold=1.0) == [0, 1]


def test_equal_scores_keep_index_order(pick):
    assert pick([D, B, A, D], [0.5, 0.5, 0.5, 0.5]) == [0, 1, -1, -1, -1]


def test_nms_stops_at_the_limit(pick):
    far = [[20 * i, 0, 20 * i + 10, 1] for i in range(6)]
    assert pick(far, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], count=2) == [5, 4]


def test_classes_do_not_suppress_each_other(pick):
    assert pick([A, A, A, A], [0.9, 0.8, 0.7, 0.6], class_ids=[1, 2, 1, 2]) == [0, 1, -1, -1, -1]


def test_classes_do_not_suppress_each_other_at_large_coordinates(pick):
    """Shifting boxes by class, the usual trick, would lose the difference between these in float32."""
    boxes = np.array([[0, 0, 1e-4, 1e-4], [0, 0.5e-4, 1e-4, 1.5e-4]])  # IoU 1 / 3
    assert pick(boxes, [0.9, 0.8], count=2, threshold=0.3, class_ids=[90, 90]) == [0, -1]
    assert pick(boxes, [0.9, 0.8], count=2, threshold=0.34, class_ids=[90, 90]) == [0, 1]


def test_an_invalid_row_is_not_picked_and_suppresses_nothing(pick):
    assert pick([B, A, D], [0.9, 0.8, 0.7], valid=[False, True, True]) == [1, 2, -1, -1, -1]


def test_images_of_a_batch_are_independent(pick):
    boxes = [[A, B, D], [D, B, A], [P, P, P]]
    scores = [[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0, 0, 0]]
    assert pick(boxes, scores, count=3, valid=[[True] * 3, [True] * 3, [False] * 3]) == [
        [0, 2, -1],
        [2, 0, -1],
        [-1, -1, -1],
    ]


# ---- Against the definition --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("with_classes", [False, True])
def test_equals_the_box_by_box_loop(pick, monkeypatch, threshold, with_classes):
    """Small whole numbers make many ties, in scores and at the threshold; small tiles make many tiles."""
    monkeypatch.setattr(nms, "TILE", 16)
    rng = np.random.default_rng(3)
    for count in (7, 40):
        corner = rng.integers(0, 12, (3, 70, 2))
        boxes = np.concatenate([corner, corner + rng.integers(0, 9, (3, 70, 2))], axis=2).astype("float32")
        scores = rng.integers(0, 10, (3, 70)).astype("float32") / 10
        valid = rng.random((3, 70)) > 0.1
        class_ids = rng.integers(1, 3, (3, 70)) if with_classes else None
        expected = [
            box_by_box(boxes[i], scores[i], count, threshold, None if class_ids is None else class_ids[i], valid[i])
            for i in range(3)
        ]
        assert pick(boxes, scores, count, threshold, class_ids, valid, xla=True) == expected


def test_equals_the_box_by_box_loop_on_many_proposals(pick):
    """Normalized boxes of any size around some objects, several tiles of the real size; one image fills up."""
    rng = np.random.default_rng(5)
    center = rng.random((2, 20, 2)).repeat(40, axis=1) + rng.normal(0, 0.02, (2, 800, 2))
    size = np.exp(rng.uniform(-3, -1, (2, 20, 2))).repeat(40, axis=1) * np.exp(rng.normal(0, 0.2, (2, 800, 2)))
    boxes = np.clip(np.concatenate([center - size / 2, center + size / 2], axis=2), 0, 1).astype("float32")
    scores = rng.random((2, 800)).astype("float32")
    expected = [box_by_box(boxes[i], scores[i], 150, 0.7) for i in range(2)]
    assert pick(boxes, scores, 150, 0.7, xla=True) == expected


def test_both_implementations_agree_on_many_candidates(pick):
    rng = np.random.default_rng(7)
    center, size = rng.random((1, 6000, 2)), np.exp(rng.uniform(-4, -1, (1, 6000, 2)))
    boxes = np.clip(np.concatenate([center - size / 2, center + size / 2], axis=2), 0, 1)
    picked = pick(boxes, rng.random((1, 6000)), 1000, 0.7)[0]
    assert -1 not in picked
    assert len(set(picked)) == 1000


# ---- Inside a model ----------------------------------------------------------------------------------------------


class Suppress(keras.layers.Layer):
    def call(self, boxes, scores):
        return nms_graph(boxes, scores, 3, 0.5)


@pytest.mark.parametrize("candidates", [4, None])
def test_batch_and_candidate_counts_may_be_unknown(candidates):
    boxes, scores = keras.Input((candidates, 4)), keras.Input((candidates,))
    model = keras.Model([boxes, scores], Suppress()(boxes, scores))
    assert model.output_shape == (None, 3)
    picked = model.predict_on_batch([np.array([[A, B, C, D]] * 2, "float32"), np.array([[0.9, 0.8, 0.7, 0.6]] * 2)])
    np.testing.assert_array_equal(picked, [[0, 2, 3]] * 2)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends have static shapes or none")
@pytest.mark.parametrize("kernel", [True, False])
def test_any_number_of_candidates_in_one_graph(kernel, monkeypatch):
    import tensorflow as tf

    if not kernel:
        monkeypatch.setattr(nms, "tensorflow_nms", lambda: None)
    signature = [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None])]
    function = tf.function(lambda boxes, scores: nms_graph(boxes, scores, 2, 0.5), input_signature=signature)
    assert function(np.zeros((1, 0, 4), "f"), np.zeros((1, 0), "f")).numpy().tolist() == [[-1, -1]]
    assert function(np.array([[B, A, D]], "f"), np.array([[0.3, 0.2, 0.1]], "f")).numpy().tolist() == [[0, 2]]


def test_half_precision_is_computed_in_float32(pick):
    boxes = ops.cast([[A, B, C, D]], "float16")
    scores = ops.cast([[0.9, 0.8, 0.7, 0.6]], "bfloat16")
    assert ops.convert_to_numpy(nms_graph(boxes, scores, 3, 0.5)).tolist() == [[0, 2, 3]]


@pytest.mark.skipif(BACKEND != "jax", reason="JAX differentiates what is traced, also loops it can't reverse")
def test_the_gradient_through_nms_is_zero():
    import jax

    def loss(boxes):
        picked = nms_graph(boxes, ops.ones((1, 3)), 2, 0.5)
        return ops.sum(boxes) + ops.sum(ops.cast(picked, "float32"))

    gradient = jax.jit(jax.grad(loss))(np.array([[A, B, D]], "float32"))
    np.testing.assert_array_equal(gradient, np.ones((1, 3, 4)))


# ---- NumPy, for users --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("case", ["nms", "nmsi"])
def test_numpy_nms_equals_the_reference(golden, pick, case, threshold):
    data = golden("utils_golden.npz")
    boxes, scores = data[f"{case}_boxes"], data[f"{case}_scores"]
    picked = non_max_suppression(boxes, scores, threshold)
    assert picked.dtype == np.int32
    if f"{case}_out_{threshold}" in data:
        np.testing.assert_array_equal(picked, data[f"{case}_out_{threshold}"])
    assert pick(boxes, scores, len(boxes), threshold) == picked.tolist() + [-1] * (len(boxes) - len(picked))


def test_numpy_nms_without_boxes():
    assert non_max_suppression(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
    assert non_max_suppression(np.zeros((2, 4)), np.zeros(2), 0.5).tolist() == [0, 1]  # no division by zero


def test_numpy_iou_equal_to_the_threshold_does_not_suppress():
    half = np.array([[0, 0, 4, 4], [0, 0, 4, 2]])  # IoU 8 / 16
    assert non_max_suppression(half, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert non_max_suppression(half, np.array([0.9, 0.8]), 0.4999).tolist() == [0]


def test_numpy_nms_accepts_integer_boxes():
    """Unsigned coordinates and scores would wrap around when subtracted or negated."""
    boxes = np.array([A, B, D], "uint8")
    assert non_max_suppression(boxes, np.array([0, 1, 2], "uint8"), 0.5).tolist() == [2, 1]


def test_numpy_names_mismatched_shapes():
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(3,\)"):
        non_max_suppression(np.zeros((2, 4)), np.zeros(3), 0.5)
