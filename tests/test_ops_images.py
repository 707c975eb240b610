"""Images: channels, the mean pixel, resizing. Handmade examples, the reference, and masks on the same grid."""

from __future__ import annotations

import random

import numpy as np
import pytest
from skimage import transform

from mrcnn.ops import images
from mrcnn.ops.images import add_mean, resize, resize_image, resize_mask, subtract_mean
from mrcnn.ops.interpolation import image_sources, nearest_sources
from mrcnn.ops.pixel_values import to_channels, to_rgb_uint8

MEAN = [123.7, 116.8, 103.9]


def noise(*shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


# ---- What users hand in ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 4), (4, 5, 1), (4, 5), (4, 5, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_is_converted_to_the_requested_channels(shape, channels):
    made = to_channels(noise(*shape), channels)
    assert made.shape == (4, 5, channels) and made.dtype == np.uint8 and made.flags.c_contiguous


def test_converted_channel_values():
    gray, rgba = noise(4, 5), noise(4, 5, 4)
    np.testing.assert_array_equal(to_channels(gray, 3), np.dstack([gray] * 3))
    np.testing.assert_array_equal(to_channels(gray, 1)[..., 0], gray)
    np.testing.assert_array_equal(to_channels(np.dstack([gray, noise(4, 5, seed=1)]), 3), np.dstack([gray] * 3))
    np.testing.assert_array_equal(to_channels(rgba, 3), rgba[..., :3])
    np.testing.assert_array_equal(to_channels(rgba, 4), rgba)
    colors = np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [7, 7, 7]]])
    np.testing.assert_array_equal(to_channels(colors, 1)[0, :, 0], [76, 150, 29, 255, 7])


@pytest.mark.parametrize("image, expected", [
    (np.uint16([[0, 257, 500, 65535]]), [0, 1, 500 / 257, 255]),
    (np.array([[False, True]]), [0, 255]),
    (np.int64([[0, 255]]), [0, 255]),
    (np.float64([[0, 12.5, 255]]), [0, 12.5, 255]),
    (np.float32([[-123.7, 151.1]]), [-123.7, 151.1]),  # the mean already subtracted: an idiom of tutorials
    (np.zeros((1, 2)), [0, 0]),  # black on any scale
])  # fmt: skip
def test_values_become_0_to_255(image, expected):
    made = to_channels(image, 1)
    np.testing.assert_allclose(made[0, :, 0], expected, rtol=1e-6)
    assert made.dtype == (np.float32 if image.dtype.kind == "f" or image.dtype == np.uint16 else np.uint8)


@pytest.mark.parametrize(("image", "seen", "why"), [
    (np.full((2, 2, 3), 0.5), 127, "floats in 0..1"),
    (np.full((2, 2, 3), 200.7), 200, "floats in 0..255"),
    (np.full((2, 2, 3), -30.0), 0, "mean subtracted: clipped, not wrapped around"),
    (np.full((2, 2, 3), 300), 255, "outside the range: clipped"),
    (np.full((2, 2, 3), np.nan), 0, "unknown values are black"),
    (np.full((2, 2, 3), np.inf), 255, "infinity is white"),
    (np.full((2, 2), 65535, np.uint16), 255, "16 bits"),
    (np.uint16([[21000, 21000], [21000, 21000]]), 82, "16 bits are rounded: 21000 / 257 = 81.7"),
    (np.full((2, 2), 4095, np.uint16), 255, "12 bits are not shown as black: scaled from 10, 12, 14 or 16 bits"),
    (np.full((2, 2), 1023, np.uint16), 255, "10 bits"),
    (np.full((2, 2), 200, np.uint16), 1, "8 bits in 16 are no sensor: the type says the range"),
    (np.full((2, 2, 7), 9, np.uint8), 9, "of many bands the first three"),
    (np.full((2, 2), True), 255, "a mask shown as an image"),
    (np.dstack([np.full((2, 2), 9, np.uint8), np.zeros((2, 2), np.uint8)]), 9, "gray with alpha"),
])  # fmt: skip
def test_any_image_becomes_rgb_bytes(image, seen, why):
    before = image.copy()
    rgb = to_rgb_uint8(image)
    assert rgb.shape == (2, 2, 3) and rgb.dtype == np.uint8 and (rgb == seen).all(), why
    rgb[:] = 77
    np.testing.assert_array_equal(image, before)  # a copy, ready to be drawn on


def test_16_bit_images_are_shown_as_the_network_sees_them():
    values = np.arange(0, 65536, 7, np.uint16)[None]
    np.testing.assert_array_equal(to_rgb_uint8(values)[..., :1], np.around(to_channels(values, 1)))


def test_other_value_ranges_are_stretched_for_display():
    # Astronomy, CT, depth: int16 -300..29998 was clipped to black and white.
    for dtype in (np.int16, np.float32, np.int32):
        image = np.array([[-300, 14849, 29998]], dtype)
        assert to_rgb_uint8(image)[0, :, 1].tolist() == [0, 127, 255]


# ---- Config.IMAGE_RANGE ----------------------------------------------------------------------------------------------
DEEP = np.arange(4096, dtype=np.uint16)[None]  # 12 bits


def test_12_bits_keep_all_their_levels_and_a_dark_image_gives_a_warning():
    # Version 1.0 made 17 gray levels of them, silently.
    with pytest.warns(UserWarning, match=r"no value above 4095 \(12 bits\).*IMAGE_RANGE = \(0, 4095\)"):
        made = to_channels(DEEP, 1)
    assert len(np.unique(made)) == 4096 and made.max() < 16


@pytest.mark.parametrize("values", [[0, 65535], [0, 16384], [0, 0]], ids=["all", "more than 14 bits", "black"])
def test_full_range_images_and_given_ranges_give_no_warning(values, recwarn):
    to_channels(np.uint16([values]), 1)
    to_channels(DEEP, 1, value_range=(0, 65535))
    assert not recwarn


@pytest.mark.parametrize(("image", "limits", "expected"), [
    (np.uint16([[0, 1023, 4095]]), (0, 4095), [0, 63.703, 255]),
    (np.int16([[-1000, 0, 1000]]), (-1000, 1000), [0, 127.5, 255]),
    (np.float64([[0, 0.5, 1]]), (0, 1), [0, 127.5, 255]),
    (np.uint8([[0, 100, 255]]), (0, 255), [0, 100, 255]),
    (np.uint8([[0, 10, 15]]), (0, 15), [0, 170, 255]),
    (np.uint16([[5000]]), (0, 4095), [311.355]),  # nothing is cut off
])  # fmt: skip
def test_a_range_becomes_0_to_255(image, limits, expected):
    made = to_channels(image, 1, value_range=limits)
    np.testing.assert_allclose(made[0, :, 0], expected, rtol=1e-5)
    assert made.dtype == (np.uint8 if limits == (0, 255) else np.float32)


@pytest.mark.parametrize("image", [np.int16([[-300, 29998]]), np.uint16([[0, 4095]]), np.float32([[0.1, 0.9]]),
                                   np.float32([[0, 70000]]), np.int32([[-5, 300]]), np.uint8([[0, 255]])])  # fmt: skip
@pytest.mark.parametrize(("limits", "mean"), [("raw", 127), ("auto", -200), ("auto", [0.5, 0.4, 0.4]), ("auto", 1200)])
def test_raw_values_reach_the_network_unchanged(image, limits, mean):
    """With "raw", or with a MEAN_PIXEL that isn't one of images 0..255, as in matterport."""
    made = to_channels(image, 3, value_range=limits, mean=mean)
    assert made.dtype == image.dtype
    np.testing.assert_array_equal(made, np.dstack([image] * 3))


def test_extra_bands_are_kept_for_networks_that_take_them():
    bands = noise(4, 5, 12, dtype="int16")
    np.testing.assert_array_equal(to_channels(bands, 12), bands)
    with pytest.raises(ValueError, match="12 channels"):
        to_channels(bands, 3)


@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((0, 5, 3)), np.zeros((4, 5, 13)), np.zeros((1, 4, 5, 3)),
                                   np.zeros((4, 5), complex)])  # fmt: skip
def test_non_images_cannot_become_rgb(image):
    with pytest.raises(ValueError, match="photo has (shape|dtype)"):
        to_rgb_uint8(image, "photo")


@pytest.mark.parametrize("image, message", [
    (np.zeros(5, np.uint8), "shape"),
    (np.zeros((2, 4, 5, 3), np.uint8), "shape"),
    (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
    (None, "shape"),  # what cv2.imread returns for a missing file
    (noise(4, 5, 5), "5 channels"),
    (np.full((4, 5, 3), np.nan), "NaN"),
    (np.full((4, 5, 3), np.inf), "infinite"),
    (np.full((4, 5, 3), 0.5), "image \\* 255"),
    (np.linspace(-1, 1, 60).reshape(4, 5, 3), "-1..1"),
    (np.full((4, 5, 3), 40000.0), "uint16"),
    (np.full((4, 5, 3), 300), "0..255"),
    (np.full((4, 5, 3), -1), "0..255"),
    (np.full((4, 5, 3), "x"), "dtype"),
])  # fmt: skip
def test_a_non_image_is_refused_by_name(image, message):
    with pytest.raises(ValueError, match=message) as error:
        to_channels(image, 3, name="images[2]")
    assert "images[2]" in str(error.value)


def test_issue_1178_gray_images_are_handled():
    # 1178, 1629: a 2-D image crashed.
    assert resize_image(noise(20, 30), 64, 64)[0].shape == (64, 64)
    assert to_channels(noise(20, 30), 3).shape == (20, 30, 3)


# ---- The mean pixel --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("image", [noise(3, 4, 3), noise(2, 3, 4, 3), noise(0, 4, 3)])
def test_subtract_and_add_mean_are_inverse(image):
    molded = subtract_mean(image, MEAN)
    np.testing.assert_array_equal(add_mean(molded, MEAN), image)
    assert add_mean(molded, MEAN).dtype == np.uint8


def test_molded_images_are_float32():
    # matterport returned float64, which doubled the memory of every batch.
    assert subtract_mean(noise(3, 4, 3), np.array(MEAN)).dtype == np.float32
    assert subtract_mean(np.float64(noise(3, 4, 1)), np.array([100.0])).dtype == np.float32


def test_the_mean_is_subtracted_in_place_in_a_batch():
    batch, image = np.full((2, 3, 4, 3), -1, np.float32), noise(3, 4, 3)
    made = subtract_mean(image[::-1], MEAN, out=batch[1])
    np.testing.assert_allclose(batch[1], np.float64(image[::-1]) - MEAN, rtol=1e-5)
    assert np.shares_memory(made, batch)
    assert (batch[0] == -1).all()
    for wrong in (np.zeros((3, 4, 3)), np.zeros((3, 4), np.float32), np.zeros((3, 3, 4), np.float32).swapaxes(1, 2)):
        with pytest.raises(ValueError, match="expected float32 of shape"):
            subtract_mean(image, MEAN, out=wrong)


def test_unmolding_clips_instead_of_wrapping_around():
    # matterport's uint8 sum wrapped around: 255 + 3 became 2.
    np.testing.assert_array_equal(add_mean(np.float32([[-130, -104, 160]]), 100), [[0, 0, 255]])


def test_mean_is_equal_to_the_reference(golden):
    data = golden("utils_golden.npz")
    np.testing.assert_allclose(subtract_mean(data["mold_in"], MEAN), data["mold_out"], atol=1e-5)
    np.testing.assert_array_equal(add_mean(data["mold_out"], MEAN), data["unmold_image_out"])


# ---- resize ----------------------------------------------------------------------------------------------------------
def test_hand_computed_resize():
    # Twice as long: centers at -0.25, 0.25, 0.75, 1.25; the outer quarter blends with the 0 outside, not below 4.
    np.testing.assert_allclose(resize(np.float32([[0, 8]]), (1, 4)), [[0, 2, 6, 6]])
    np.testing.assert_allclose(resize(np.float32([[4, 8]]), (1, 4)), [[4, 5, 7, 6]])
    np.testing.assert_allclose(resize(np.float32([[4, 8]]), (1, 4), clip=False), [[3, 5, 7, 6]])
    np.testing.assert_allclose(resize(np.float32([[0, 4, 8, 8]]), (1, 2)), [[2, 8]])


@pytest.mark.parametrize("shape, target", [
    ((17, 23), (40, 31)), ((17, 23), (9, 12)), ((1, 1), (7, 5)), ((1, 9), (5, 3)), ((30, 2), (2, 30)),
    ((12, 9, 3), (20, 20)), ((12, 9, 1), (20, 20, 1)), ((12, 9, 7), (5, 30, 7)),
])  # fmt: skip
@pytest.mark.parametrize("low", [0.0, 0.3, -0.5])
def test_resize_equals_scikit_image(shape, target, low):
    image = np.random.default_rng(0).random(shape) + low
    expected = transform.resize(image, target, order=1, mode="constant", anti_aliasing=False)
    made = resize(image, target)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.parametrize("options", [
    {"order": 0}, {"order": 3}, {"mode": "edge"}, {"cval": 0.5}, {"anti_aliasing": True},
    {"anti_aliasing": True, "anti_aliasing_sigma": 2.0},
])  # fmt: skip
def test_unusual_resize_options_use_scikit_image(options):
    image = noise(20, 30) / 255
    defaults = {"order": 1, "mode": "constant", "anti_aliasing": False}
    np.testing.assert_array_equal(
        resize(image, (9, 21), **options), transform.resize(image, (9, 21), **defaults | options)
    )


def test_resize_keeps_types():
    image = noise(6, 6)
    assert resize(image, (6, 6)).max() <= 1 and resize(image, (6, 6)).dtype == np.float64
    np.testing.assert_array_equal(resize(image, (6, 6), preserve_range=True), image)
    assert resize(image.astype(np.float32), (3, 3)).dtype == np.float32


@pytest.mark.parametrize("order", [0, 1])
def test_issue_2243_bool_images_can_be_resized(order):
    full = resize(np.ones((5, 5), bool), (8, 8), order=order)
    np.testing.assert_array_equal(full, np.ones((8, 8)))


@pytest.mark.parametrize(
    "image, target", [(np.zeros((0, 4)), (2, 2)), (np.zeros((4, 4)), (0, 2)), (np.zeros(4), (2, 2))]
)
def test_resizing_an_empty_image_is_refused(image, target):
    with pytest.raises(ValueError, match="Can't resize"):
        resize(image, target)


def test_resize_is_equal_to_the_reference(golden):
    data = golden("utils_golden.npz")
    np.testing.assert_allclose(resize(data["resizefn_in"], (40, 31)), data["resizefn_out_40x31"], atol=2e-6)
    np.testing.assert_allclose(resize(data["resizefn_in"], (9, 12)), data["resizefn_out_9x12"], atol=2e-6)
    made = resize(data["resizefn_bool_in"], (56, 56))
    np.testing.assert_allclose(made, data["resizefn_bool_out_56x56"], atol=1e-6)
    assert made.dtype == data["resizefn_bool_out_56x56"].dtype


# ---- resize_image ----------------------------------------------------------------------------------------------------
def bits(packed, shape):
    return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).astype(bool)


@pytest.mark.parametrize("number", range(36))
def test_resize_image_is_equal_to_the_reference(golden, number):
    data, case = golden("utils_golden.npz"), golden("utils_golden.json")["resize_cases"][number]
    random.seed(case["random_seed"])
    sizes = case["min_dim"], case["max_dim"], case["min_scale"]
    image, window, scale, padding, crop = resize_image(data["resize_in_" + case["img"]], *sizes, case["mode"])
    assert list(window) == case["window"] and scale == case["scale"]
    assert [list(pair) for pair in padding] == case["padding"]
    assert (crop if crop is None else list(crop)) == case["crop"]

    expected = data[f"resize_{number:02d}_out"]
    assert image.dtype == expected.dtype and image.shape == expected.shape
    # Never off by more than one of 255. Where the factor makes whole numbers (2.0, 1.5), the reference's rounding noise
    # of 1e-15 decides whether 100 is cut to 99; ours stays 100. Elsewhere 997 of 1000 values are equal.
    differs = image.astype(int) - expected
    assert np.abs(differs).max() <= 1
    assert np.mean(differs != 0) < (0.2 if scale in (1.5, 2.0) else 0.003)

    mask = resize_mask(bits(data[f"resize_{number:02d}_mask_in"], case["mask_in_shape"]), scale, padding, crop)
    expected = bits(data[f"resize_{number:02d}_mask_out"], case["mask_out_shape"])
    wrong_rows, wrong_columns = np.nonzero((mask != expected).any(axis=-1))
    # scipy, by rounding, left the last row and the last column of some masks empty (in 4 of these 36); ours are not.
    last_row, last_column = window[2] - 1, window[3] - 1
    assert np.all((wrong_rows == last_row) | (wrong_columns == last_column))
    assert not expected[wrong_rows, wrong_columns].any()


@pytest.mark.parametrize(
    "mode, shape", [("square", (64, 64)), ("pad64", (64, 128)), ("crop", (64, 64)), ("none", (9, 14))]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "float16"])
def test_type_and_channels_are_kept(mode, shape, dtype):
    for channels in ((), (1,), (3,), (7,)):
        image, window, *_ = resize_image(noise(9, 14, *channels, dtype=dtype), 64, 64, mode=mode)
        assert image.shape == shape + channels and image.dtype == dtype
        assert window[2] - window[0] <= shape[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_integers_are_rounded_not_truncated(dtype):
    # 1.5 times: pixel t lies at (4t - 1) / 6. On a slope of 6 a pixel that is the whole number 4t - 1; 6.99999 is 7.
    slope = np.tile(6 * np.arange(40, dtype=dtype)[:, None], (1, 40))
    rows = np.arange(1, 59)
    for image in (slope, slope.T):
        resized = resize_image(image, 60, 60)[0]
        np.testing.assert_array_equal((resized if image is slope else resized.T)[1:-1, 30], 4 * rows - 1)
    for value in (1, 100, 255):
        for side in (1, 7, 50, 61, 200):
            image, (y1, x1, y2, x2), *_ = resize_image(np.full((side, 33, 3), value, dtype), 50, 100)
            assert np.all(image[y1:y2, x1:x2] == value)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3)])
def test_images_of_one_pixel_and_of_one_line(shape):
    image, window, *_ = resize_image(noise(*shape) | 1, 100, 128)
    assert image.shape == (128, 128, 3) and image.any()
    assert window[2] > window[0] and window[3] > window[1]


def test_pad64_without_min_dim_is_no_type_error():
    # matterport failed with a TypeError (None % 64). Without `min_dim` the image is padded, never scaled.
    image, window, scale, padding, _ = resize_image(noise(70, 64, 3), mode="pad64")
    assert image.shape == (128, 64, 3) and scale == 1
    assert window == (29, 0, 99, 64) and padding == [(29, 29), (0, 0), (0, 0)]


def test_min_scale_yields_to_max_dim():
    assert resize_image(noise(50, 50, 3), None, 128, min_scale=2)[2] == 2
    assert resize_image(noise(100, 50, 3), None, 128, min_scale=2)[2] == 1.28


def test_crops_use_the_given_generator_or_pythons_random():
    image = noise(90, 200, 3)
    same = [resize_image(image, 64, mode="crop", rng=np.random.default_rng(3))[4] for _ in range(2)]
    assert same[0] == same[1]
    state = random.getstate()
    resize_image(image, 64, mode="crop", rng=np.random.default_rng(3))
    assert random.getstate() == state
    crops = {resize_image(image, 64, mode="crop")[4] for _ in range(5)}
    assert len(crops) > 1
    for y, x, height, width in crops:
        assert 0 <= y <= 26 and 0 <= x <= 136 and (height, width) == (64, 64)


def test_crop_returns_that_part_of_the_image():
    image = noise(64, 200, 3)
    cropped, _, _, _, (y, x, height, width) = resize_image(image, 64, mode="crop")
    np.testing.assert_array_equal(cropped, image[y : y + height, x : x + width])


@pytest.mark.parametrize("arguments, message", [
    ({"mode": "sqare"}, "'sqare'.*'square'"),
    ({"mode": "square"}, "max_dim is None"),
    ({"mode": "crop"}, "min_dim is None"),
    ({"mode": "pad64", "min_dim": 100}, "multiple of 64"),
    ({"image": np.zeros((0, 5, 3))}, r"\(0, 5, 3\)"),
    ({"image": np.zeros((2, 4, 5, 3))}, "shape"),
])  # fmt: skip
def test_resize_image_names_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resize_image(**{"image": noise(9, 9, 3), **arguments})


def test_the_input_image_is_not_modified():
    image = noise(30, 40, 3)
    before = image.copy()
    for mode in ("square", "pad64", "crop"):
        made = resize_image(image, None if mode == "square" else 64, 64, mode=mode)[0]
        made[:] = 0
    np.testing.assert_array_equal(image, before)


# ---- resize_mask -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["none", "square", "pad64", "crop"])
@pytest.mark.parametrize("shape", [(30, 45, 0), (30, 45, 2), (1, 1, 1), (200, 90, 3), (20, 30)])
def test_masks_are_resized_with_their_image(mode, shape):
    image, _, scale, padding, crop = resize_image(noise(*shape[:2], 3), 64, 128, mode=mode)
    for dtype in (bool, np.uint8, np.float32):
        mask = resize_mask(np.ones(shape, dtype), scale, padding, crop)
        assert mask.shape == image.shape[:2] + shape[2:] and mask.dtype == dtype
        inside = np.ones(image.shape[:2], bool)
        inside[: padding[0][0]] = inside[:, : padding[1][0]] = False
        inside[len(inside) - padding[0][1] :] = inside[:, inside.shape[1] - padding[1][1] :] = False
        np.testing.assert_array_equal(mask, np.broadcast_to(inside.T, shape[2:] + inside.T.shape).T)


def test_mask_resizing_keeps_first_and_last_pixels():
    mask = np.arange(4)[:, None] * np.ones((1, 4), int)
    resized = resize_mask(mask, 2, [(1, 0), (0, 2), (0, 0)])
    np.testing.assert_array_equal(resized[:, 0], [0, 0, 0, 1, 1, 2, 2, 3, 3])
    assert resized.shape == (9, 10) and not resized[:, 8:].any()
    np.testing.assert_array_equal(images.mask_sources((4, 4), 2, (2, 0, 3, 3), nearest_sources)[0], [1, 1, 2])


def test_hand_computed_image_grid():
    assert image_sources(2, 4).tolist() == [0, 0, 1, 1]  # each pixel four times as large; scipy's grid: 0 0 1 1
    assert image_sources(3, 12).tolist() == [0] * 4 + [1] * 4 + [2] * 4  # scipy's grid: 0 0 0 1 1 1 1 1 1 2 2 2
    assert image_sources(3, 2).tolist() == [0, 2] and image_sources(5, 1).tolist() == [2]
    assert image_sources(8, 4).tolist() == [0, 3, 4, 7]  # between two pixels: alternating
    assert image_sources(7, 7).tolist() == list(range(7))
    for source, target in np.random.default_rng(0).integers(1, 200, (50, 2)):
        steps = np.diff(image_sources(source, target))
        assert (steps >= 0).all() and (target < source or (steps <= 1).all())
