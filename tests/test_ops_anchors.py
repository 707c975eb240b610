"""Anchors: counted and computed by hand, and equal to the reference."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn.ops.anchors import backbone_shapes, generate_anchors, generate_pyramid_anchors

SCALES, RATIOS, STRIDES = (32, 64, 128, 256, 512), [0.5, 1, 2], [4, 8, 16, 32, 64]


def test_empty_levels_give_no_anchors():
    assert generate_pyramid_anchors([], RATIOS, [], [], 1).shape == (0, 4)
    assert generate_anchors(32, RATIOS, (0, 5), 4, 1).shape == (0, 4)


def test_backbone_shapes_are_rounded_up_and_ignore_channels():
    np.testing.assert_array_equal(backbone_shapes((65, 128, 3), [4, 64]), [[17, 32], [2, 2]])
    assert backbone_shapes(np.array([1024, 1024, 3]), STRIDES).dtype == np.int64


def test_hand_computed_anchors_of_one_cell():
    # Ratio is width / height at equal area: 0.25 makes 8 -> 16 high and 4 wide, 4 the other way round.
    anchors = generate_anchors(8, [0.25, 1, 4], (1, 1), 16, 1)
    np.testing.assert_array_equal(anchors, [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8]])


def test_anchors_are_ordered_by_row_column_and_ratio():
    anchors = generate_anchors([2, 4], [1], (2, 2), 10, 1)
    centers, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    np.testing.assert_array_equal(centers[::2], [[0, 0], [0, 10], [10, 0], [10, 10]])
    np.testing.assert_array_equal(sides, [2, 4] * 4)


def test_anchor_stride_skips_cells():
    centers = generate_anchors(2, [1], (3, 3), 10, 2)[:, :2] + 1
    np.testing.assert_array_equal(centers, [[0, 0], [0, 20], [20, 0], [20, 20]])


@pytest.mark.parametrize("shapes, strides", [(4, 5), (5, 4)])
def test_scales_without_shape_or_stride_are_refused(shapes, strides):
    with pytest.raises(ValueError, match="one of each for every pyramid level"):
        generate_pyramid_anchors(SCALES, RATIOS, backbone_shapes((128, 128), STRIDES[:shapes]), STRIDES[:strides], 1)


def test_extra_strides_are_ignored():
    strides = [*STRIDES, 128]  # seen in the wild
    more = generate_pyramid_anchors(SCALES, RATIOS, backbone_shapes((128, 128), strides), strides, 1)
    as_usual = generate_pyramid_anchors(SCALES, RATIOS, backbone_shapes((128, 128), STRIDES), STRIDES, 1)
    np.testing.assert_array_equal(more, as_usual)


def test_results_equal_the_reference(golden):
    data = golden("utils_golden.npz")
    small = generate_pyramid_anchors((8, 16, 32, 64, 128), RATIOS, backbone_shapes((128, 128), STRIDES), STRIDES, 1)
    np.testing.assert_array_equal(small, data["anchors_128"])
    oblong = generate_pyramid_anchors(SCALES, RATIOS, data["anchors_rect_backbone_shapes"], STRIDES, 1)
    np.testing.assert_array_equal(oblong, data["anchors_rect"])
    sparse = generate_pyramid_anchors((16, 48), [0.5, 1, 2, 3], [(8, 6), (4, 3)], [8, 16], 2)
    np.testing.assert_array_equal(sparse, data["anchors_stride2_ratios2"])
    np.testing.assert_array_equal(generate_anchors(32, RATIOS, (5, 7), 16, 1), data["anchors_single"])


def test_default_anchors_at_1024_equal_the_reference(golden):
    data = golden("utils_golden.npz")
    shapes = backbone_shapes((1024, 1024, 3), STRIDES)
    np.testing.assert_array_equal(shapes, data["anchors_1024_backbone_shapes"])
    anchors = generate_pyramid_anchors(SCALES, RATIOS, shapes, STRIDES, 1)
    assert len(anchors) == data["anchors_1024_count"] == 261888
    np.testing.assert_array_equal(anchors[::97], data["anchors_1024_every97"])
    np.testing.assert_allclose(anchors.sum(axis=0), data["anchors_1024_sum"], rtol=1e-12)
