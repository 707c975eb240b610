"""ProposalLayer: the best anchors, refined, clipped, without overlaps. Empty cases come first."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import gradients, numpy, tiny_config

from mrcnn.nn.proposals import ProposalLayer

# A and B overlap with IoU 0.45 / 0.55 = 0.818; C stands alone; P is padding.
A, B, C, P = [0, 0, 0.5, 1], [0.05, 0, 0.55, 1], [0.8, 0.8, 0.9, 0.9], [0, 0, 0, 0]
NAN, INF = float("nan"), float("inf")


def propose(anchors, fg, deltas=None, count=3, **settings):
    """One image's proposals [N, 4]."""
    return propose_batch([anchors], [fg], None if deltas is None else [deltas], count, **settings)[0]


def propose_batch(anchors, fg, deltas=None, count=3, **settings):
    anchors, fg = np.array(anchors, "float32"), np.array(fg, "float32")
    deltas = np.zeros((*fg.shape, 4), "float32") if deltas is None else np.array(deltas, "float32")
    probs = np.stack([1 - fg, fg], axis=-1)
    return numpy(ProposalLayer(count, 0.7, **settings)([probs, deltas, anchors]))


# ---- Empty inputs ----------------------------------------------------------------------------------------------------
def test_missing_proposals_are_zero_rows():
    np.testing.assert_allclose(propose([A], fg=[0.9], count=3), [A, P, P])


def test_anchors_without_area_give_no_nan():
    rows = propose([[0.2, 0.2, 0.2, 0.2], C], fg=[0.9, 0.8])
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[1], C, atol=1e-6)


def test_an_anchor_outside_the_image_has_no_area_after_clipping():
    rows = propose([[-0.5, 0.2, -0.1, 0.4], [1.2, 1.2, 1.5, 1.5]], fg=[0.9, 0.8], count=2)
    np.testing.assert_allclose(rows, [[0, 0.2, 0, 0.4], [1, 1, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("bad", [NAN, -NAN])
def test_a_nan_box_is_never_proposed(bad):
    # The bad one has the best score: it must not come through, nor into the padding rows, which repeat the best row.
    rows = propose([A, C], fg=[0.9, 0.8], deltas=[[bad] * 4, [0] * 4])
    np.testing.assert_allclose(rows, [C, P, P], atol=1e-6)


@pytest.mark.parametrize("delta", [[INF, 0, 0, 0], [-INF, 0, 0, 0], [0, 0, INF, INF], [0, 0, -INF, -INF], [1e30] * 4])
def test_infinite_deltas_give_finite_boxes_inside_the_image(delta):
    rows = propose([A, C], fg=[0.9, 0.8], deltas=[delta, [0] * 4])
    assert np.isfinite(rows).all() and rows.min() >= 0 and rows.max() <= 1
    assert any(np.allclose(row, C, atol=1e-6) for row in rows)


def test_a_nan_score_is_never_proposed():
    np.testing.assert_allclose(propose([A, C], fg=[NAN, 0.8]), [C, P, P], atol=1e-6)


# ---- By hand ---------------------------------------------------------------------------------------------------------
def test_drops_the_lower_scored_of_two_overlapping_anchors():
    np.testing.assert_allclose(propose([A, B, C], fg=[0.6, 0.9, 0.7]), [B, C, P], atol=1e-6)


def test_equal_scores_keep_the_first_anchor():
    np.testing.assert_allclose(propose([A, B, C], fg=[0.9, 0.9, 0.9]), [A, C, P], atol=1e-6)


def test_at_most_proposal_count_rows():
    np.testing.assert_allclose(propose([A, B, C], fg=[0.6, 0.9, 0.7], count=1), [B], atol=1e-6)


def test_only_the_best_anchors_go_into_nms():
    # With K = 2, A and B are looked at, though B falls to A then: C has no chance.
    np.testing.assert_allclose(propose([A, B, C], fg=[0.9, 0.8, 0.7], pre_nms_limit=2), [A, P, P], atol=1e-6)


def test_pre_nms_limit_above_the_number_of_anchors():
    np.testing.assert_allclose(propose([A, C], fg=[0.9, 0.8], pre_nms_limit=6000), [A, C, P], atol=1e-6)


def test_an_anchor_is_moved_by_its_own_deltas_times_the_standard_deviations():
    # Height 0.2, width 0.4. dy = 1 * 0.1 of the height up... and dh doubles: exp(log(2) / 0.2 * 0.2) = 2.
    anchor, delta = [0.4, 0.2, 0.6, 0.6], [1, -2, np.log(2) / 0.2, 0]
    rows = propose([C, anchor], fg=[0.1, 0.9], deltas=[[0] * 4, delta], count=1)
    np.testing.assert_allclose(rows, [[0.52 - 0.2, 0.4 - 0.08 - 0.2, 0.52 + 0.2, 0.4 - 0.08 + 0.2]], atol=1e-6)
    rows = propose([anchor], fg=[0.9], deltas=[[1, 0, 0, 0]], count=1, bbox_std_dev=(0.5, 1, 1, 1))
    np.testing.assert_allclose(rows, [[0.5, 0.2, 0.7, 0.6]], atol=1e-6)


def test_overlap_is_judged_after_moving_and_clipping():
    # These two anchors are far apart; the deltas bring the second one onto the first.
    rows = propose([[0, 0, 0.2, 0.2], [0.5, 0, 0.7, 0.2]], fg=[0.9, 0.8], deltas=[[0] * 4, [-25, 0, 0, 0]])
    np.testing.assert_allclose(rows, [[0, 0, 0.2, 0.2], P, P], atol=1e-6)


def test_images_of_a_batch_are_independent():
    rows = propose_batch([[A, B, C], [C, B, A]], fg=[[0.6, 0.9, 0.7], [0.2, 0.3, 0.9]])
    np.testing.assert_allclose(rows, [[B, C, P], [A, C, P]], atol=1e-6)


def test_anchors_are_broadcast_over_the_batch():
    rows = propose_batch([[A, B, C]], fg=[[0.6, 0.9, 0.7], [0.9, 0.3, 0.2]])
    np.testing.assert_allclose(rows, [[B, C, P], [A, C, P]], atol=1e-6)


# ---- As a layer ------------------------------------------------------------------------------------------------------
def test_intermediate_steps_are_named():
    layer = ProposalLayer(3, 0.7)
    probs = np.array([[[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]], "float32")
    deltas = np.zeros((1, 3, 4), "float32")
    deltas[0, 2] = [50, 0, 0, 0]  # C goes off the image
    inputs = [ops.convert_to_tensor(x) for x in (probs, deltas, np.array([[A, B, C]], "float32"))]
    steps = {k: numpy(v) for k, v in layer.steps(inputs).items()}
    np.testing.assert_allclose(steps["pre_nms_anchors"][0], [B, C, A])
    np.testing.assert_allclose(steps["refined_anchors"][0], [B, [1.3, 0.8, 1.4, 0.9], A], atol=1e-6)
    np.testing.assert_allclose(steps["refined_anchors_clipped"][0], [B, [1, 0.8, 1, 0.9], A], atol=1e-6)
    np.testing.assert_array_equal(steps["rpn_non_max_suppression"], [[0, 1, -1]])


@pytest.mark.parametrize("stop", [True, False])
def test_proposals_pass_no_gradient_by_default(stop):
    layer = ProposalLayer(2, 0.7, stop_gradient=stop)
    probs = ops.convert_to_tensor([[[0.1, 0.9], [0.3, 0.7]]])
    anchors = ops.convert_to_tensor([[[0.2, 0.2, 0.4, 0.4], C]])

    def total(deltas):
        return ops.sum(layer([probs, deltas, anchors]))

    (gradient,) = gradients(total, np.zeros((1, 2, 4), "float32"))
    if stop:
        assert not gradient.any()
    else:
        # d(y1 + y2) / d dy = 2 * height * std dev; dh and dw move the two ends apart, their sum stays
        np.testing.assert_allclose(gradient[0, 0], [2 * 0.2 * 0.1, 2 * 0.2 * 0.1, 0, 0], atol=1e-6)


def test_settings_are_read_from_a_config_and_survive_get_config():
    config = tiny_config(PRE_NMS_LIMIT=7, RPN_BBOX_STD_DEV=np.array([1.0, 2, 3, 4]), STOP_PROPOSAL_GRADIENT=False)
    layer = ProposalLayer(5, 0.6, config, name="ROI")
    again = ProposalLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.proposal_count, again.nms_threshold, again.pre_nms_limit) == (5, 0.6, 7)
    assert again.bbox_std_dev == [1, 2, 3, 4] and again.stop_gradient is False and again.name == "ROI"


def test_symbolic_shapes():
    inputs = [keras.Input((None, 2)), keras.Input((None, 4)), keras.Input((None, 4))]
    assert ProposalLayer(5, 0.7)(inputs).shape == (None, 5, 4)
