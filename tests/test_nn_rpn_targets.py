"""RPNTargetLayer: the same anchors and deltas as the NumPy form, `data.rpn_targets.build_rpn_targets`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import numpy, tiny_config

from mrcnn.data.rpn_targets import build_rpn_targets
from mrcnn.nn.rpn_targets import RPNTargetLayer
from mrcnn.ops.anchors import anchors_of_image

MOST = 8  # rows of objects


class FirstAnchors(RPNTargetLayer):
    """Uses the first candidates instead of random ones."""

    def draw_order(self, shape):
        return ops.broadcast_to(1.0 - ops.arange(shape[1], dtype="float32")[None] / 2048, shape)


class FirstChoice:
    """The same choice, as a NumPy generator."""

    def choice(self, ids, count, replace, shuffle):
        return ids[:count]

    def integers(self, high, size):
        return np.arange(size) % high


def objects(seed, count=4, crowds=0):
    """Class ids [count] and boxes [count, 4] of 3 to 40 pixels; small ones have many equally good anchors."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.integers(0, 50, (count, 2)), rng.integers(3, 41, (count, 2))
    boxes = np.minimum(np.concatenate([corners, corners + sides], axis=1), 64)
    return np.where(np.arange(count) < crowds, -1, rng.integers(1, 3, count)), boxes


def padded(images):
    class_ids, boxes = np.zeros((len(images), MOST), np.int32), np.zeros((len(images), MOST, 4), np.float32)
    for i, (ids, corners) in enumerate(images):
        class_ids[i, : len(ids)], boxes[i, : len(ids)] = ids, corners
    return class_ids, boxes


IMAGE = np.zeros((1, 64, 64, 3), np.float32)  # only its size counts


def both(images, config):
    """(match, bbox) of the layer and of the NumPy form, for a batch."""
    anchors = anchors_of_image((64, 64), **config.anchor_settings())
    found = [numpy(x) for x in FirstAnchors(config)([*padded(images), IMAGE])]
    expected = [build_rpn_targets(None, anchors, *image, config, rng=FirstChoice()) for image in images]
    return (found[0][..., 0], found[1]), tuple(np.stack(part) for part in zip(*expected))


NOTHING = (np.zeros(0, int), np.zeros((0, 4)))
TWINS = (np.array([1, 2]), np.array([[8, 8, 40, 40], [8, 8, 40, 40]]))  # the first one owns every anchor


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        pytest.param([NOTHING, TWINS], {}, id="no objects, and two in the same place"),
        pytest.param([objects(i) for i in range(12)], {"RPN_TRAIN_ANCHORS_PER_IMAGE": 4000}, id="all candidates"),
        pytest.param([objects(i, 6) for i in range(4)], {"RPN_TRAIN_ANCHORS_PER_IMAGE": 8}, id="a few of many"),
        pytest.param(
            [objects(1, 6, crowds=2), objects(9, 3, crowds=3)], {"RPN_TRAIN_ANCHORS_PER_IMAGE": 4000}, id="crowds"
        ),
        pytest.param(
            [objects(i, 5) for i in range(4)], {"CONVENTION": "torchvision", "BATCH_NORM_EPS": 0.0},
            id="the best anchors choose their object",
        ),
    ],
)  # fmt: skip
def test_the_layer_equals_the_numpy_form(images, settings):
    config = tiny_config(**settings)
    (match, bbox), (expected_match, expected_bbox) = both(images, config)
    np.testing.assert_array_equal(match, expected_match)
    np.testing.assert_allclose(bbox, expected_bbox, rtol=1e-6, atol=1e-7)


SMALL = {"RPN_ANCHOR_SCALES": (10, 1, 1, 1, 1), "RPN_ANCHOR_RATIOS": [1]}  # P2: 16 x 16 anchors, 4 pixels apart


def test_ious_equal_to_the_thresholds():
    """In float32, an IoU of 60 / 140 may be less than the threshold 60 / 140."""
    image = np.array([1]), np.array([[3, 3, 13, 13]])  # an anchor; 60 / 140 with the four next to it
    for settings, label in (({"RPN_POSITIVE_IOU": 60 / 140}, 1), ({"RPN_NEGATIVE_IOU": 60 / 140}, 0)):
        config = tiny_config(**SMALL, **settings, RPN_TRAIN_ANCHORS_PER_IMAGE=600)
        (match, _), (expected, _) = both([image], config)
        assert match[0, :256].reshape(16, 16)[1:4, 1:4].tolist() == [
            [-1, label, -1],
            [label, 1, label],
            [-1, label, -1],
        ]
        np.testing.assert_array_equal(match, expected)


def test_an_object_overlapping_no_anchor_makes_none_positive():
    config = tiny_config(**SMALL, RPN_TRAIN_ANCHORS_PER_IMAGE=600)
    (match, bbox), _ = both([(np.array([1]), np.array([[70, 70, 80, 80]]))], config)
    assert (match == -1).all() and not bbox.any()


def test_the_sample_is_random_and_of_the_right_size():
    config = tiny_config(RPN_TRAIN_ANCHORS_PER_IMAGE=12)
    images = [objects(1, 6), objects(2, 1)]
    layer, everything = RPNTargetLayer(config), RPNTargetLayer(tiny_config(RPN_TRAIN_ANCHORS_PER_IMAGE=4000))
    first, second, candidates = (numpy(some([*padded(images), IMAGE])[0]) for some in (layer, layer, everything))
    assert (first != second).any()
    for match in (first, second):
        assert ((match == candidates) | (match == 0)).all()
        positives = np.minimum((candidates == 1).sum(axis=(1, 2)), 6)
        np.testing.assert_array_equal((match == 1).sum(axis=(1, 2)), positives)
        np.testing.assert_array_equal((match != 0).sum(axis=(1, 2)), [12, 12])


def test_get_config_is_complete():
    layer = RPNTargetLayer(tiny_config(CONVENTION="detectron2", SEED=5, RPN_POSITIVE_IOU=0.6))
    again = RPNTargetLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config() and again.seed == 5
    assert again.positive_iou == 0.6 and isinstance(keras.saving.serialize_keras_object(again), dict)
