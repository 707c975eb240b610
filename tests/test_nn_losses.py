"""The five losses on handmade examples and without valid rows, and their gradients against finite differences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import finite_differences, gradients, numpy

from mrcnn.nn.losses import (
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
)

RNG = np.random.default_rng(0)


def value(loss, *arrays) -> float:
    """A loss of arrays, as a number."""
    found = loss(*[ops.convert_to_tensor(np.asarray(x)) for x in arrays])
    assert tuple(found.shape) == () and numpy(found).dtype == np.float32
    return float(numpy(found))


def rpn_bbox_loss(target, match, deltas):
    return rpn_bbox_loss_graph(None, target, match, deltas)


def class_loss(target_class_ids, active_class_ids, weights, logits):
    return mrcnn_class_loss_graph(target_class_ids, logits, active_class_ids, weights)


def floats(*shape):
    return RNG.normal(size=shape).astype("float32")


def shares(*shape):
    return RNG.uniform(0.3, 0.7, shape).astype("float32")


# ---- In graphs of scripts ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (rpn_class_loss_graph, [(None, 1, "int32"), (None, 2)]),
        (rpn_bbox_loss, [(None, 4), (None, 1, "int32"), (None, 4)]),
        (mrcnn_class_loss_graph, [(None, "int32"), (None, 3), (3, "int32")]),
        (mrcnn_bbox_loss_graph, [(None, 4), (None, "int32"), (None, 3, 4)]),
        (mrcnn_mask_loss_graph, [(None, 28, 28), (None, "int32"), (None, 28, 28, 3)]),
    ],
    ids=["rpn_class", "rpn_bbox", "class", "bbox", "mask"],
)
def test_losses_work_in_lambda_layers_and_on_symbolic_tensors(loss, inputs):
    """A copied `build` calls KL.Lambda(lambda x: rpn_bbox_loss_graph(config, *x)) on inputs of shape [None, 4].

    That was an error, and on symbolic tensors the RPN's class loss took all anchors for background.
    """
    tensors, arrays = [], []
    for *shape, last in [(*one, "float32") if one[-1] != "int32" else one for one in inputs]:
        tensors.append(keras.Input(shape, dtype=last))
        sizes = [2, *(5 if side is None else side for side in shape)]
        arrays.append(np.ones(sizes, "int32") if last == "int32" else shares(*sizes))
    wrapped = keras.layers.Lambda(lambda x: ops.reshape(loss(*x), (1,)))(tensors)
    found = keras.Model(tensors, [wrapped, ops.reshape(loss(*tensors), (1,))])(arrays)
    expected = value(loss, *arrays)
    np.testing.assert_allclose([float(numpy(one)[0]) for one in found], [expected, expected], rtol=1e-6)


# ---- By hand ---------------------------------------------------------------------------------------------------------
def test_smooth_l1():
    found = numpy(
        smooth_l1_loss(ops.convert_to_tensor([0.0, 0.0, 0.0, 3.0]), ops.convert_to_tensor([0.5, 1.0, -3.0, 3.0]))
    )
    np.testing.assert_allclose(found, [0.125, 0.5, 2.5, 0])


@pytest.mark.parametrize(("beta", "expected"), [(1 / 9, [0.045, 4 / 9, 17 / 18]), (0.0, [0.1, 0.5, 1.0])])
def test_smooth_l1_with_beta(beta, expected):
    """1/9: 4.5 * distance ** 2 below 1/9, distance - 1/18 above; 0: the distance."""
    found = smooth_l1_loss(ops.zeros(3), ops.convert_to_tensor([0.1, -0.5, 1.0]), beta)
    np.testing.assert_allclose(numpy(found), expected, rtol=1e-6)


def test_per_sample_box_losses_divide_by_all_sampled_rows():
    """One positive of four rows; the rows that are not sampled count in neither."""
    match = np.array([[[1], [-1], [0], [-1]]], "int32")
    deltas = np.array([[[1, 2, 3, 4], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]], "float32")
    rpn = rpn_bbox_loss_graph(None, np.zeros((1, 2, 4), "float32"), match, deltas, beta=0, average="samples")
    assert float(numpy(rpn)) == pytest.approx((1 + 2 + 3 + 4) / 3)
    class_ids, target = np.array([[1, 0, 0, 0]], "int32"), np.zeros((1, 4, 4), "float32")
    by_class = np.stack([np.full_like(deltas, 7), deltas], axis=2)  # of the background and of class 1
    weights = np.array([[1, 1, 1, 0]], "float32")
    box = mrcnn_bbox_loss_graph(target, class_ids, by_class, beta=0, average="samples", weights=weights)
    assert float(numpy(box)) == pytest.approx((1 + 2 + 3 + 4) / 3)
    whole = mrcnn_bbox_loss_graph(target, class_ids, by_class, beta=0, average="samples")
    assert float(numpy(whole)) == pytest.approx((1 + 2 + 3 + 4) / 4)


def test_rpn_class_loss_is_the_mean_over_sampled_anchors():
    match = np.array([[[1], [-1], [0]], [[0], [0], [-1]]], "int32")
    logits = np.array([[[0, 0], [2, 0], [9, -9]], [[-9, 9], [9, 9], [0, np.log(3)]]], "float32")
    # -log of the right answer's probability: 1/2, 1 / (1 + e^-2), 1/4
    expected = (np.log(2) + np.log1p(np.exp(-2)) + np.log(4)) / 3
    assert value(rpn_class_loss_graph, match, logits) == pytest.approx(expected, rel=1e-6)


def test_rpn_bbox_loss_reads_targets_in_order_of_positive_anchors():
    match = np.array([[[-1], [1], [0], [1]], [[1], [-1], [-1], [-1]]], "int32")
    target = np.array(
        [[[1, 1, 1, 1], [2, 2, 2, 2], [7, 7, 7, 7]], [[3, 3, 3, 3], [7, 7, 7, 7], [7, 7, 7, 7]]], "float32"
    )
    deltas = np.zeros((2, 4, 4), "float32")
    deltas[0, 1] = 1  # as wanted
    deltas[0, 3] = [2, 2, 2, 4]  # off by 2 in one of four: 1.5 / 4
    deltas[1, 0] = [3, 3.5, 3, 3]  # off by a half in one of four: 0.125 / 4
    deltas[0, 0] = deltas[1, 2] = 99  # not positive
    assert value(rpn_bbox_loss, target, match, deltas) == pytest.approx((0 + 1.5 / 4 + 0.125 / 4) / 3, rel=1e-6)


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 4.0], [0.0, 1.0, 0.0]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_class_weights_and_focal_loss_match_their_formulas(class_weights, gamma):
    """Lin et al. 2017, equation 4, as a mean weighted by class. The third RoI is classified with certainty."""
    class_ids, real = np.array([[1, 0, 2, 1]], "int32"), np.array([[1, 1, 1, 0]], "float32")
    logits = np.array([[[0, 1, 2], [3, 0, 1], [0, 0, 99], [5, 5, 5]]], "float32")
    active = np.ones((1, 3), "float32")

    def loss(logits):
        return mrcnn_class_loss_graph(class_ids, logits, active, real, class_weights, gamma)

    odds = np.exp(logits.astype("float64"))
    true = (odds / odds.sum(axis=-1, keepdims=True))[0, range(4), class_ids[0]]
    weights = real[0] * (np.ones(3) if class_weights is None else np.array(class_weights))[class_ids[0]]
    expected = np.sum(weights * (1 - true) ** gamma * -np.log(true)) / weights.sum()
    assert float(numpy(loss(ops.convert_to_tensor(logits)))) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradients(loss, logits)[0]).all()


def test_mrcnn_class_loss_counts_only_active_classes():
    # The first image's dataset has no class 2. Its second RoI is taken for a 2 and does not count.
    active = np.array([[1, 1, 0], [1, 1, 1]])
    logits = np.array([[[0, 0, -50], [0, 1, 5]], [[0, 0, 0], [0, 1, 5]]], "float32")
    targets = np.array([[1, 1], [0, 2]], "int32")
    last = np.log(1 + np.exp(1) + np.exp(5)) - 5
    assert value(mrcnn_class_loss_graph, targets, logits, active) == pytest.approx(
        (np.log(2) + np.log(3) + last) / 3, rel=1e-6
    )


def test_active_classes_are_those_of_each_image():
    """matterport looked at the first image's only."""
    logits = np.array([[[0, 9, 0]], [[0, 0, 9]]], "float32")
    targets = np.array([[0], [0]], "int32")
    both = value(mrcnn_class_loss_graph, targets, logits, [[1, 1, 0], [1, 0, 1]])
    assert both == pytest.approx(9, abs=1e-3)  # both count
    assert value(mrcnn_class_loss_graph, targets, logits, [[1, 1, 0], [1, 1, 0]]) == pytest.approx(both)
    assert value(mrcnn_class_loss_graph, targets, logits, [[1, 0, 0], [1, 1, 0]]) == 0


def test_issue_972_padded_rois_are_not_background():
    logits = np.array([[[0, 0, -90], [5, 0, 0]]], "float32")
    targets, active = np.array([[1, 0]], "int32"), np.ones((1, 3))
    alone = value(mrcnn_class_loss_graph, targets, logits, active, [[1, 0]])
    assert alone == pytest.approx(np.log(2), rel=1e-6)
    assert value(mrcnn_class_loss_graph, targets, logits, active) < alone  # an easy background waters it down


def test_mrcnn_bbox_loss_uses_the_deltas_of_the_true_class():
    targets = np.array([[1, 0, 2]], "int32")
    target_bbox = np.array([[[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]], "float32")
    pred = np.full((1, 3, 3, 4), 99, "float32")
    pred[0, 0, 1], pred[0, 2, 2] = [1, 1, 1, 3], [0.5, 0, 0, 0]
    assert value(mrcnn_bbox_loss_graph, target_bbox, targets, pred) == pytest.approx(
        (1.5 / 4 + 0.125 / 4) / 2, rel=1e-6
    )


def test_mrcnn_mask_loss_uses_the_mask_of_the_true_class():
    targets = np.array([[2, 0]], "int32")
    target = np.array([[[[1, 0]], [[1, 1]]]], "float32")  # [1, 2, 1, 2]
    pred = np.full((1, 2, 1, 2, 3), 0.999, "float32")
    pred[0, 0, 0, :, 2] = [0.5, 0.75]
    expected = -(np.log(0.5) + np.log(0.25)) / 2
    assert value(mrcnn_mask_loss_graph, target, targets, pred) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_confident_wrong_mask_has_a_finite_loss(sure):
    loss = value(
        mrcnn_mask_loss_graph, np.full((1, 1, 2, 2), 1 - sure), [[1]], np.full((1, 1, 2, 2, 2), sure, "float32")
    )
    assert 10 < loss < 20
    loss = value(mrcnn_mask_loss_graph, np.full((1, 1, 2, 2), sure), [[1]], np.full((1, 1, 2, 2, 2), sure, "float32"))
    assert loss < 1e-5


def test_the_mask_loss_on_positives_equals_that_on_all_rows():
    targets = np.array([[1, 2, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]], "int32")  # positives come first
    target_masks = RNG.integers(0, 2, (2, 6, 4, 4)).astype("float32")
    pred = RNG.uniform(0.1, 0.9, (2, 6, 4, 4, 3)).astype("float32")
    whole = value(mrcnn_mask_loss_graph, target_masks, targets, pred)
    for first in (2, 3):
        part = value(mrcnn_mask_loss_graph, target_masks[:, :first], targets[:, :first], pred[:, :first])
        assert part == pytest.approx(whole, rel=1e-6)


def test_large_logits_do_not_overflow():
    logits = np.array([[[1e4, -1e4], [-1e4, 1e4]]], "float32")
    assert value(rpn_class_loss_graph, [[[1], [1]]], logits) == pytest.approx(1e4)


# ---- Nothing counts --------------------------------------------------------------------------------------------------
NO_MATCH, NO_CLASS = np.zeros((2, 3, 1), "int32"), np.zeros((2, 3), "int32")
ALL, NONE = np.ones((2, 3), "int32"), np.zeros((2, 3), "int32")
# Name: the loss as a function of what the network says last, the arguments before, and what it says.
EMPTY = {
    "rpn_class": (rpn_class_loss_graph, [NO_MATCH], floats(2, 3, 2)),
    "rpn_bbox": (rpn_bbox_loss, [floats(2, 4, 4), NO_MATCH - 1], floats(2, 3, 4)),
    "mrcnn_class_of_padding": (class_loss, [NO_CLASS, ALL, NONE], floats(2, 3, 3)),
    "mrcnn_class_of_another_data_set": (class_loss, [NO_CLASS, NONE, ALL], floats(2, 3, 3)),
    "mrcnn_bbox": (mrcnn_bbox_loss_graph, [floats(2, 3, 4), NO_CLASS], floats(2, 3, 3, 4)),
    "mrcnn_mask": (mrcnn_mask_loss_graph, [floats(2, 3, 4, 4), NO_CLASS], shares(2, 3, 4, 4, 3)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_without_samples_loss_and_gradient_are_zero(name):
    loss, fixed, pred = EMPTY[name]
    fixed = [ops.convert_to_tensor(x) for x in fixed]
    assert value(lambda x: loss(*fixed, x), pred) == 0
    (gradient,) = gradients(lambda x: loss(*fixed, x), pred)
    assert not gradient.any()


def test_a_partly_empty_batch_is_averaged_over_its_samples():
    match = np.array([[[1], [-1]], [[0], [0]]], "int32")
    logits = floats(2, 2, 2)
    assert value(rpn_class_loss_graph, match, logits) == pytest.approx(
        value(rpn_class_loss_graph, match[:1], logits[:1])
    )
    targets, boxes, pred = np.array([[1, 2], [0, 0]]), floats(2, 2, 4), floats(2, 2, 3, 4)
    whole = value(mrcnn_bbox_loss_graph, boxes, targets, pred)
    assert whole == pytest.approx(value(mrcnn_bbox_loss_graph, boxes[:1], targets[:1], pred[:1]))


def test_more_positive_anchors_than_target_rows_give_a_finite_loss():
    loss = value(rpn_bbox_loss, floats(1, 1, 4), np.ones((1, 3, 1), "int32"), floats(1, 3, 4))
    assert np.isfinite(loss)


# ---- Gradients -------------------------------------------------------------------------------------------------------
MATCH = np.array([[[1], [-1], [0], [1]], [[-1], [-1], [0], [0]]], "int32")
CLASSES = np.array([[1, 2, 0], [2, 0, 0]], "int32")
GRADIENTS = {
    "rpn_class": (rpn_class_loss_graph, [MATCH], floats(2, 4, 2)),
    "rpn_bbox": (rpn_bbox_loss, [floats(2, 3, 4), MATCH], 3 * floats(2, 4, 4)),
    "mrcnn_class": (class_loss, [CLASSES, ALL, np.array([[1, 1, 1], [1, 1, 0]])], floats(2, 3, 3)),
    "mrcnn_bbox": (mrcnn_bbox_loss_graph, [floats(2, 3, 4), CLASSES], 3 * floats(2, 3, 3, 4)),
    "mrcnn_mask": (mrcnn_mask_loss_graph, [shares(2, 3, 2, 2).round(), CLASSES], shares(2, 3, 2, 2, 3)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_agree_with_finite_differences(name):
    loss, fixed, pred = GRADIENTS[name]
    fixed = [ops.convert_to_tensor(x) for x in fixed]

    def of_prediction(x):
        return loss(*fixed, x)

    (gradient,) = gradients(of_prediction, pred)
    assert np.count_nonzero(gradient) > 3
    # A float32 loss of 1 is rounded by 6e-8, and a step of 1e-2 divides that by 2e-2: 3e-6; the rest is curvature.
    np.testing.assert_allclose(gradient, finite_differences(of_prediction, [pred], 0), atol=2e-4, rtol=2e-3)
