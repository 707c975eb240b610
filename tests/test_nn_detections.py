"""DetectionLayer: class, box and score of each proposal; low scores and duplicates are dropped. Empty cases first.

The image is 101 x 101 pixels with a window over all of it, unless a test says otherwise. Classes: background, 1, 2.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import gradients, numpy, tiny_config

from mrcnn.model import refine_detections_graph
from mrcnn.nn.detections import DetectedBoxes, DetectionLayer, FilledRows, first_maximum
from mrcnn.ops.meta import compose_image_meta
from mrcnn.ops.nms import non_max_suppression, suppression_groups

# A and B overlap with IoU 0.45 / 0.55 = 0.818; C stands alone; P is padding.
A, B, C, P = [0, 0, 0.5, 1], [0.05, 0, 0.55, 1], [0.7, 0.7, 0.9, 0.9], [0, 0, 0, 0]
NONE = [0] * 6
NAN, INF = float("nan"), float("inf")
WHOLE = (0, 0, 101, 101)


def of(class_id, score):
    """Probabilities of three classes, with `score` for one of them."""
    probs = np.full(3, (1 - score) / 2)
    probs[class_id] = score
    return probs


def detect(rois, probs, deltas=None, window=WHOLE, **settings):
    """One image's detections [D, 6]."""
    return detect_batch([rois], [probs], None if deltas is None else [deltas], [window], **settings)[0]


def detect_batch(rois, probs, deltas, windows, max_instances=3, min_confidence=0.0, **settings):
    rois, probs = np.array(rois, "float32"), np.array(probs, "float32")
    deltas = np.zeros((*probs.shape, 4), "float32") if deltas is None else np.array(deltas, "float32")
    shape = (101, 101, 3)
    meta = np.array([compose_image_meta(0, shape, shape, w, 1.0, [1, 1, 1]) for w in windows], "float32")
    layer = DetectionLayer(max_instances=max_instances, min_confidence=min_confidence, **settings)
    return numpy(layer([rois, probs, deltas, meta]))


# ---- Empty inputs ----------------------------------------------------------------------------------------------------
def test_background_proposals_give_no_detections():
    np.testing.assert_array_equal(detect([A, C], [of(0, 0.9), of(0, 0.5)]), [NONE] * 3)


def test_padding_is_never_a_detection():
    np.testing.assert_array_equal(detect([P, P], [of(1, 0.99), of(2, 0.99)]), [NONE] * 3)


def test_no_score_reaches_the_threshold():
    np.testing.assert_array_equal(detect([A, C], [of(1, 0.69), of(2, 0.5)], min_confidence=0.7), [NONE] * 3)


def test_fewer_proposals_than_detections():
    np.testing.assert_allclose(detect([C], [of(1, 0.9)], max_instances=5), [[*C, 1, 0.9]] + [NONE] * 4, atol=1e-6)


def test_a_batch_with_one_empty_image():
    found = detect_batch([[A, C], [A, C]], [[of(0, 0.9)] * 2, [of(2, 0.8), of(0, 0.9)]], None, [WHOLE] * 2)
    np.testing.assert_allclose(found, [[NONE] * 3, [[*A, 2, 0.8], NONE, NONE]], atol=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_deltas_of_other_classes_do_not_matter(bad):
    found = detect([C], [of(1, 0.9)], [[[bad] * 4, [0] * 4, [bad] * 4]])
    np.testing.assert_allclose(found[0], [*C, 1, 0.9], atol=1e-6)


def test_a_nan_box_is_dropped():
    found = detect([A, C], [of(1, 0.9), of(1, 0.8)], [[[NAN] * 4] * 3, [[0] * 4] * 3])
    np.testing.assert_allclose(found, [[*C, 1, 0.8], NONE, NONE], atol=1e-6)


def test_a_nan_score_is_dropped():
    found = detect([A, C], [[0.1, NAN, 0.1], of(1, 0.8)])
    np.testing.assert_allclose(found, [[*C, 1, 0.8], NONE, NONE], atol=1e-6)


def test_a_box_outside_the_window_is_dropped():
    found = detect([C], [of(1, 0.9)], [[[0] * 4, [100, 0, 0, 0], [0] * 4]])
    np.testing.assert_allclose(found[0], [1, 0.7, 1, 0.9, 1, 0.9], atol=1e-6)


# ---- By hand ---------------------------------------------------------------------------------------------------------
def test_detections_are_sorted_and_duplicates_of_a_class_dropped():
    found = detect([A, B, C], [of(1, 0.6), of(1, 0.9), of(2, 0.95)])
    np.testing.assert_allclose(found, [[*C, 2, 0.95], [*B, 1, 0.9], NONE], atol=1e-6)


def test_boxes_of_different_classes_do_not_drop_each_other():
    found = detect([A, B], [of(1, 0.6), of(2, 0.9)])
    np.testing.assert_allclose(found, [[*B, 2, 0.9], [*A, 1, 0.6], NONE], atol=1e-6)


def test_overlap_up_to_the_threshold_is_allowed():
    probs = [of(1, 0.6), of(1, 0.9)]
    assert np.count_nonzero(detect([A, B], probs, nms_threshold=0.81)[:, 4]) == 1
    assert np.count_nonzero(detect([A, B], probs, nms_threshold=0.83)[:, 4]) == 2


def test_a_score_equal_to_the_threshold_is_kept():
    assert detect([C], [[0.25, 0.5, 0.25]], min_confidence=0.5)[0, 4] == 1
    assert detect([C], [[0.25, 0.5, 0.25]], min_confidence=0.51)[0, 4] == 0


@pytest.mark.parametrize("nothing", [None, 0])
def test_no_threshold_keeps_all(nothing):
    assert detect([C], [[0.33, 0.34, 0.33]], min_confidence=nothing)[0, 4] == 1


def test_the_best_are_kept_when_there_are_too_many():
    found = detect([A, B, C], [of(1, 0.6), of(2, 0.9), of(1, 0.7)], max_instances=2)
    np.testing.assert_allclose(found, [[*B, 2, 0.9], [*C, 1, 0.7]], atol=1e-6)


def test_the_box_is_moved_by_the_deltas_of_its_class():
    # C is 0.2 high and wide. Class 2: dy = 1 * 0.1 of the height, dw = log(2) / 0.2 * 0.2: twice as wide.
    deltas = [[[5, 5, 5, 5], [-5, -5, -5, -5], [1, 0, 0, np.log(2) / 0.2]]]
    found = detect([C], [of(2, 0.9)], deltas)
    np.testing.assert_allclose(found[0], [0.72, 0.6, 0.92, 1.0, 2, 0.9], atol=1e-6)
    found = detect([C], [of(2, 0.9)], deltas, bbox_std_dev=(0.5, 1, 1, 0))
    np.testing.assert_allclose(found[0], [0.8, 0.7, 1.0, 0.9, 2, 0.9], atol=1e-6)


def test_boxes_are_clipped_to_the_window_of_their_image():
    # Windows in pixels of 101: rows 20..60 of the first image (exclusive), columns 11..91 of the second.
    windows = [(20, 0, 61, 101), (0, 11, 101, 92)]
    found = detect_batch([[A], [A]], [[of(1, 0.9)]] * 2, None, windows, max_instances=1)
    np.testing.assert_allclose(found[0, 0, :4], [0.2, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(found[1, 0, :4], [0, 0.11, 0.5, 0.91], atol=1e-6)


def test_duplicates_are_judged_after_moving_and_clipping():
    # Far apart at first; the second box is moved onto the first.
    rois, probs = [[0, 0, 0.2, 0.2], [0.5, 0, 0.7, 0.2]], [of(1, 0.9), of(1, 0.8)]
    deltas = [[[0] * 4] * 3, [[0] * 4, [-25, 0, 0, 0], [0] * 4]]
    assert np.count_nonzero(detect(rois, probs, deltas)[:, 4]) == 1


# ---- As a layer ------------------------------------------------------------------------------------------------------
def test_intermediate_steps_are_named():
    layer = DetectionLayer(max_instances=3, min_confidence=0.5)
    meta = compose_image_meta(0, (101, 101, 3), (101, 101, 3), WHOLE, 1.0, [1, 1, 1])[None].astype("float32")
    probs = np.array([[of(1, 0.9), of(0, 0.9), of(2, 0.4), of(1, 0.8)]], "float32")
    inputs = [np.array([[A, C, C, B]], "float32"), probs, np.zeros((1, 4, 3, 4), "float32"), meta]
    steps = layer.steps([ops.convert_to_tensor(x) for x in inputs])
    steps = {name: numpy(value) for name, value in steps.items()}
    np.testing.assert_array_equal(steps["class_ids"], [[1, 0, 2, 1]])
    np.testing.assert_allclose(steps["class_scores"], [[0.9, 0.9, 0.4, 0.8]], atol=1e-6)
    np.testing.assert_allclose(steps["refined_rois"][0], [A, C, C, B], atol=1e-6)
    np.testing.assert_array_equal(steps["confident"], [[True, False, False, True]])
    np.testing.assert_array_equal(steps["keep"], [[0, -1, -1]])


def test_matterports_function_for_one_image():
    config = tiny_config(DETECTION_MAX_INSTANCES=2, DETECTION_MIN_CONFIDENCE=0.7)
    found = numpy(
        refine_detections_graph([A, B], [of(1, 0.9), of(1, 0.6)], np.zeros((2, 3, 4)), [0, 0, 1, 0.5], config)
    )
    np.testing.assert_allclose(found, [[0, 0, 0.5, 0.5, 1, 0.9], NONE], atol=1e-6)


# ---- Every class of a proposal ---------------------------------------------------------------------------------------
def test_a_proposal_can_be_several_classes_each_with_its_own_box():
    probs, deltas = [[0.5, 0.2, 0.3]], np.zeros((1, 3, 4))
    deltas[0, 1, 0] = 1  # times 0.1 of the height
    found = detect([C], probs, deltas, min_confidence=0.1, multi_label=True)
    np.testing.assert_allclose(found, [[*C, 2, 0.3], [0.72, 0.7, 0.92, 0.9, 1, 0.2], NONE], atol=1e-6)


def test_low_scores_and_padding_are_dropped_for_every_class():
    found = detect([C, P], [[0.5, 0.2, 0.3], [0.1, 0.5, 0.4]], min_confidence=0.25, multi_label=True)
    np.testing.assert_allclose(found, [[*C, 2, 0.3], NONE, NONE], atol=1e-6)
    assert not detect([C], [[1.0, 0, 0]], min_confidence=0.05, multi_label=True).any()


def test_limiting_classes_per_proposal_loses_no_candidate():
    """24 classes and 8 proposals; the largest number of scores above 0.05 is 19 each."""
    probs = np.full((1, 8, 25), 0.004, "float32")
    probs[..., 3:22] = 0.0505 + 1e-4 * np.arange(8)[None, :, None]
    rois = np.array([[[k / 8, 0, (k + 1) / 8, 1] for k in range(8)]], "float32")
    meta = np.array([compose_image_meta(0, (101, 101, 3), (101, 101, 3), WHOLE, 1.0, np.ones(25))], "float32")
    layer = DetectionLayer(max_instances=200, min_confidence=0.05, multi_label=True)
    found = numpy(layer([rois, probs, np.zeros((1, 8, 25, 4), "float32"), meta]))[0]
    assert np.count_nonzero(found[:, 4]) == 8 * 19
    np.testing.assert_array_equal(np.bincount(found[: 8 * 19, 4].astype(int))[3:], np.full(19, 8))


@pytest.mark.parametrize("nms", ["all", [[1, 2]], [["cat", 2]]])
def test_classes_may_drop_each_other(nms):
    settings = {"min_confidence": 0.1, "multi_label": True, "nms_threshold": 0.5}
    probs = [[0.5, 0.2, 0.3], [0.4, 0.35, 0.25]]
    assert np.count_nonzero(detect([A, B], probs, max_instances=4, **settings)[:, 4]) == 2  # one of each class
    groups = suppression_groups(nms, 3, ["BG", "cat", "dog"])
    found = detect([A, B], probs, max_instances=4, nms_groups=groups, **settings)
    np.testing.assert_allclose(found, [[*B, 1, 0.35], NONE, NONE, NONE], atol=1e-6)


def test_class_groups_equal_nms_within_each_group():
    rng, classes = np.random.default_rng(3), 6
    corners = rng.random((300, 2), np.float32) * 0.7
    rois = np.concatenate([corners, corners + 0.05 + 0.2 * rng.random((300, 2), np.float32)], axis=1)
    probs = rng.random((300, classes), np.float32)
    meta = np.array([compose_image_meta(0, (101, 101, 3), (101, 101, 3), WHOLE, 1.0, np.ones(classes))], "float32")
    inputs = [rois[None], probs[None], np.zeros((1, 300, classes, 4), "float32"), meta]
    layer = DetectionLayer(max_instances=300, min_confidence=0)
    class_ids, scores, counts = probs.argmax(axis=1), probs.max(axis=1), []
    for nms in ("class", "all", [[1, 4], [2, 5]], [[1, 2, 3, 4, 5]]):
        groups = suppression_groups(nms, classes)
        if layer.built:
            layer.set_thresholds(0, 0.3, groups)
        found = numpy(layer(inputs))[0]
        rows = []
        for group in np.unique(groups[class_ids[class_ids > 0]]):
            members = np.flatnonzero((groups[class_ids] == group) & (class_ids > 0))
            rows += members[non_max_suppression(rois[members], scores[members], 0.3)].tolist()
        rows = np.array(rows)[np.argsort(-scores[rows])]
        expected = np.column_stack([rois, class_ids, scores])[rows]
        np.testing.assert_allclose(found[: len(rows)], expected, atol=1e-6)
        assert not found[len(rows) :].any()
        counts.append(len(rows))
    assert counts[0] > counts[2] > counts[1] == counts[3]


@pytest.mark.parametrize(
    ("nms", "names", "message"),
    [
        ([["cat", "bird"]], ["BG", "cat"], r"class 'bird'; expected ids from 1 to 2, or one of \['cat'\]"),
        ([["cat"]], None, "class 'cat'; .* the model has no class names"),
        ([[1, 3]], None, "class 3; expected ids from 1 to 2"),
        ([[0, 1]], None, "class 0; expected ids from 1 to 2"),
        ([[1, "cat"], ["dog"], [1]], ["BG", "cat", "dog"], "expected class 1 in one list only"),
        ("none", None, "'none'; expected 'class', 'all', or lists"),
    ],
)
def test_class_groups_with_an_unknown_class_are_refused(nms, names, message):
    with pytest.raises(ValueError, match=message):
        suppression_groups(nms, 3, names)


def test_class_groups_for_another_class_count_are_refused():
    with pytest.raises(ValueError, match="nms_groups has 2 numbers; expected one for each of the 3 classes"):
        detect([C], [of(1, 0.9)], nms_groups=[0, 1])


def test_boxes_that_clipping_makes_too_small_are_dropped():
    """With box_offset 0, 1 is 101 pixels: the window ends at 50.5, half a pixel into the second box."""
    rois = [[0.1, 0.1, 0.9, 0.9], [50 / 101, 0.1, 0.9, 0.9]]
    options = {"window": (0, 0, 50.5, 101), "box_offset": 0}
    found = detect(rois, [of(1, 0.9), of(1, 0.8)], min_side=0.6, **options)
    np.testing.assert_allclose(found, [[0.1, 0.1, 0.5, 0.9, 1, 0.9], NONE, NONE], atol=1e-6)
    assert np.count_nonzero(detect(rois, [of(1, 0.9), of(1, 0.8)], min_side=0.4, **options)[:, 4]) == 2


def test_size_deltas_are_clipped():
    deltas = np.zeros((1, 3, 4))
    deltas[0, 1, 2] = 50  # times 0.2
    found = detect([[0.4, 0.4, 0.5, 0.5]], [of(1, 0.9)], deltas, max_log_scale=float(np.log(2)))
    np.testing.assert_allclose(found[0, :4], [0.35, 0.4, 0.55, 0.5], atol=1e-6)


def test_settings_are_read_from_a_config_and_survive_get_config():
    config = tiny_config(
        DETECTION_MAX_INSTANCES=7, DETECTION_MIN_CONFIDENCE=None, DETECTION_NMS_THRESHOLD=0.4,
        BBOX_STD_DEV=np.array([1.0, 2, 3, 4]), DETECTION_NMS="all",
    )  # fmt: skip
    layer = DetectionLayer(config, name="mrcnn_detection", multi_label=True, min_side=2, max_log_scale=4, box_offset=0)
    again = DetectionLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.max_instances, again.min_confidence, again.nms_threshold) == (7, 0.0, 0.4)
    assert again.bbox_std_dev == [1, 2, 3, 4] and again.nms_groups == [0] * config.NUM_CLASSES


def test_symbolic_shapes():
    inputs = [keras.Input(shape) for shape in ((None, 4), (None, 3), (None, 3, 4), (15,))]
    detections = DetectionLayer(max_instances=5)(inputs)
    assert detections.shape == (None, 5, 6) and DetectedBoxes()(detections).shape == (None, 5, 4)


def test_detected_boxes_pass_no_gradient():
    found = numpy(DetectedBoxes()(np.array([[[*A, 1, 0.9], NONE]], "float32")))
    np.testing.assert_allclose(found, [[A, P]])
    (gradient,) = gradients(lambda x: ops.sum(DetectedBoxes()(x)), np.ones((1, 2, 6), "float32"))
    assert not gradient.any()


@pytest.mark.parametrize("found, rows", [((0, 0), 10), ((3, 1), 10), ((10, 4), 10), ((2, 11), 20), ((25, 0), 25)])
def test_the_mask_head_runs_on_no_more_rows_than_needed(found, rows):
    detections = np.zeros((2, 25, 6), "float32")
    for image, count in enumerate(found):
        detections[image, :count] = [0.1, 0.1, 0.5, 0.5, 2, 0.9]
    cut = numpy(FilledRows()(detections))
    rows = 25 if keras.backend.backend() == "jax" else rows  # JAX has to know the shape beforehand
    np.testing.assert_array_equal(cut, detections[:, :rows])


def test_the_first_of_equal_maxima_counts():
    """`top_k` of PyTorch may choose any of them, and detections would differ between backends."""
    index, value = first_maximum(ops.convert_to_tensor([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0], [-1.0, -2.0, -0.5]]))
    assert numpy(index).tolist() == [1, 0, 2] and numpy(index).dtype == np.int32
    np.testing.assert_array_equal(numpy(value), np.float32([0.4, 0.5, -0.5]))


def test_argmax_is_valid_with_nan():
    assert numpy(first_maximum(ops.convert_to_tensor([[NAN, 0.5, 0.5]]))[0]).tolist() == [2]
