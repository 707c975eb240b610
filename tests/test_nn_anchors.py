"""The anchors in the graph are those of `utils.generate_pyramid_anchors`, normalized, for images of any size."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from kit import numpy

from mrcnn.config import Config
from mrcnn.nn.anchors import Anchors
from mrcnn.ops.anchors import backbone_shapes, generate_pyramid_anchors
from mrcnn.ops.boxes import norm_boxes

STRIDES = (4, 8, 16, 32, 64)
SCALES = (8, 16, 32, 48, 64)
RATIOS = (0.5, 1, 2)


def expected(shape, ratios=RATIOS, anchor_stride=1):
    boxes = generate_pyramid_anchors(SCALES, ratios, backbone_shapes(shape, STRIDES), STRIDES, anchor_stride)
    return norm_boxes(boxes, shape)


def maps_of(shape):
    """An image and P2..P6, whose values don't matter."""
    sizes = [shape, *backbone_shapes(shape, STRIDES)]
    return [ops.zeros((1, int(h), int(w), 1)) for h, w in sizes]


def test_hand_computed_anchors_of_one_cell():
    # One level, one cell, ratio 1, scale 2, on an image of 5 x 3 pixels: the box -1..1 around the first pixel's corner.
    layer = Anchors([2], [1], [4])
    found = numpy(layer([ops.zeros((1, 5, 3, 1)), ops.zeros((1, 1, 1, 1))]))
    np.testing.assert_allclose(found, [[[-1 / 4, -1 / 2, 0, 0]]])  # (y - 0) / 4, (x - 0) / 2; y2, x2: (1 - 1) / ...


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (192, 64), (1024, 1024)])
def test_anchors_equal_the_numpy_form(shape):
    found = numpy(Anchors(SCALES, RATIOS, STRIDES)(maps_of(shape)))
    assert found.dtype == np.float32 and found.shape[0] == 1
    np.testing.assert_allclose(found[0], expected(shape), atol=1e-6)


@pytest.mark.parametrize(("ratios", "anchor_stride"), [((1,), 1), (RATIOS, 2), ((0.3, 3), 3)])
def test_other_ratios_and_strides(ratios, anchor_stride):
    shape = (64, 192)  # P5 is 2 x 6 cells and P6 1 x 3: odd sizes with a stride of 2
    found = numpy(Anchors(SCALES, ratios, STRIDES, anchor_stride)(maps_of(shape)))
    np.testing.assert_allclose(found[0], expected(shape, ratios, anchor_stride), atol=1e-6)


def test_a_fixed_size_graph_knows_the_number_of_anchors():
    image = keras.Input((64, 64, 3))
    maps = [layers.AveragePooling2D(s)(image) for s in STRIDES]
    anchors = Anchors(SCALES, RATIOS, STRIDES)([image, *maps])
    assert anchors.shape == (1, 3 * (16**2 + 8**2 + 4**2 + 2**2 + 1), 4)
    found = keras.Model(image, anchors).predict_on_batch(np.zeros((1, 64, 64, 3), "float32"))
    np.testing.assert_allclose(found[0], expected((64, 64)), atol=1e-6)


def test_a_variable_size_graph_serves_every_size():
    image = keras.Input((None, None, 3))
    maps = [layers.AveragePooling2D(s)(image) for s in STRIDES]
    anchors = Anchors(SCALES, RATIOS, STRIDES)([image, *maps])
    assert anchors.shape == (1, None, 4)
    model = keras.Model(image, anchors)
    for shape in ((64, 64), (128, 64), (64, 192)):
        found = model.predict_on_batch(np.zeros((1, *shape, 3), "float32"))
        np.testing.assert_allclose(found[0], expected(shape), atol=1e-6)


def test_a_variable_size_graph_with_a_thin_last_level():
    """Sizes that no level divides: the maps decide how many anchors there are, rounded up as a convolution does."""
    shape = (100, 36)
    found = numpy(Anchors(SCALES, RATIOS, STRIDES)(maps_of(shape)))
    np.testing.assert_allclose(found[0], expected(shape), atol=1e-6)


def test_settings_survive_get_config():
    layer = Anchors(Config.RPN_ANCHOR_SCALES, np.array([0.5, 2]), STRIDES, 2, name="anchors")
    again = Anchors.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(numpy(again(maps_of((64, 64)))), numpy(layer(maps_of((64, 64)))))


def test_anchors_add_no_weights():
    layer = Anchors(SCALES, RATIOS, STRIDES)
    layer(maps_of((64, 64)))
    assert layer.weights == []


def test_mismatched_levels_are_refused():
    with pytest.raises(ValueError):
        Anchors(SCALES[:4], RATIOS, STRIDES)(maps_of((64, 64)))
