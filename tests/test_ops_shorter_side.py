"""Resizing by the shorter side: sizes as torchvision and detectron2 compute them, and pixels of the same grid."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from mrcnn.ops.shorter_side import fit_shorter_side, scaled_sides

# (H, W), sides of torchvision, sides of detectron2 at 800 / 1333: from the real projects.
SIZES = [
    ((480, 640), (800, 1066), (800, 1067)),
    ((427, 640), (800, 1199), (800, 1199)),
    ((161, 200), (799, 993), (800, 994)),  # 161 * (800 / 161) is below 800 in floating point
]


@pytest.mark.parametrize(("size", "floor", "half_up"), SIZES)
def test_sides_are_rounded_as_in(size, floor, half_up):
    assert scaled_sides(size, 800, 1333, "floor")[0] == floor
    assert scaled_sides(size, 800, 1333, "half_up")[0] == half_up


def test_two_hundred_sizes_match_torchvision_and_detectron2(shared):
    with open(shared / "golden-torch" / "sizes_800_1333.csv") as file:
        rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 200
    for row in rows:
        size = row["h"], row["w"]
        for prefix, rounding in (("tv", "floor"), ("d2", "half_up")):
            (height, width), _ = scaled_sides(size, 800, 1333, rounding)
            assert (height, width) == (row[f"{prefix}_h"], row[f"{prefix}_w"]), (size, rounding)
            padded = height + -height % 32, width + -width % 32
            assert padded == (row[f"{prefix}_pad_h"], row[f"{prefix}_pad_w"]), size


@pytest.mark.parametrize("resampling", ["opencv", "bilinear", "pillow"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_window_has_the_image_and_the_rest_is_zero(resampling, dtype):
    image = np.full((30, 50, 3), 200, dtype)
    fitted, window, scale, padding, crop = fit_shorter_side(image, 40, 64, 32, "round", resampling)
    assert fitted.shape == (64, 64, 3) and window == (0, 0, 38, 64) and scale == 64 / 50 and crop is None
    assert padding == [(0, 26), (0, 0), (0, 0)]
    np.testing.assert_allclose(fitted[2:36, 2:62], 200, atol=0.01)
    assert not fitted[38:].any()


@pytest.mark.parametrize("resampling", ["bilinear", "pillow"])
def test_a_gradient_keeps_its_place_when_enlarged(resampling):
    """Centers are aligned: pixel i of 4 times the size shows the source at (i + 0.5) / 4 - 0.5."""
    ramp = np.tile(np.arange(20, dtype=np.float32) * 10, (20, 1))
    fitted, *_ = fit_shorter_side(ramp, 80, 80, 1, resampling=resampling)
    expected = np.clip((np.arange(80) + 0.5) / 4 - 0.5, 0, 19) * 10
    np.testing.assert_allclose(fitted[40], expected, atol=0.01)


def test_an_image_of_one_pixel_is_resized():
    fitted, window, *_ = fit_shorter_side(np.ones((1, 1000, 3), np.uint8), 64, 128)
    assert window == (0, 0, 1, 128) and fitted.shape == (32, 128, 3)


def test_an_unknown_rounding_is_refused():
    with pytest.raises(ValueError, match="rounding is 'up'"):
        scaled_sides((10, 20), 5, 10, "up")
