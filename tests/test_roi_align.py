"""RoIAlign, its levels and the cropping of masks: by hand on 5x5 maps, and against the definition point by point.

Every case runs through every implementation: on TensorFlow its kernel, `keras.ops`, and XLA, eager and compiled.
`test_backends` runs this file on JAX and PyTorch in separate processes.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from mrcnn.ops import roi_align as roi_align_module
from mrcnn.ops import roi_cells
from mrcnn.ops.roi_align import crop_masks, roi_align, roi_align_pixels, roi_levels

BACKEND = keras.backend.backend()
TORCH_OPS = Path(__file__).parent / "golden" / "torch" / "ops.npz"

SLOPE = np.add.outer(10.0 * np.arange(5), np.arange(5)).astype("float32")[None, :, :, None]  # row 10, column 1
WHOLE, PAD = [0, 0, 1, 1], [0, 0, 0, 0]


def compiled(function, for_xla: bool = False):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=for_xla)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def gradient(function, x, weights):
    """d sum(weights * function(x)) / d x."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(weights * function(x))
        return tf.convert_to_tensor(tape.gradient(total, x))
    if BACKEND == "jax":
        import jax

        return jax.grad(lambda x: (weights * function(x)).sum())(x)
    import torch

    x = x.clone().requires_grad_()
    return torch.autograd.grad((function(x) * torch.as_tensor(weights)).sum(), x)[0]


@pytest.fixture
def all_bodies(monkeypatch):
    """Calls every implementation of a function; the results must agree within `within`. Returns the first."""

    def run(function, *arrays, within=2e-5, xla=False):
        tensors = [ops.convert_to_tensor(x) for x in arrays]
        results = [function(*tensors), compiled(function)(*tensors)]
        if BACKEND == "tensorflow":
            if xla:
                results.append(compiled(function, for_xla=True)(*tensors))
            with monkeypatch.context() as patch:
                patch.setattr(roi_align_module, "tensorflow_kernels", lambda: None)
                results += [function(*tensors), compiled(function)(*tensors)]
        results = [ops.convert_to_numpy(x) for x in results]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=within * max(1, np.abs(results[0]).max(initial=0)))
        return results[0]

    return run


@pytest.fixture
def crop(all_bodies):
    """roi_align of one map or several (each [B, H, W, C]) through every body."""

    def run(maps, boxes, shape, levels=None, mode="crop", samples=2, image_shape=None, **options):
        boxes = np.asarray(boxes, "float32")
        boxes = boxes[None] if boxes.ndim == 2 else boxes
        levels = np.full(boxes.shape[:2], 2) if levels is None else np.asarray(levels)

        def function(boxes, levels, *maps):
            return roi_align(list(maps), boxes, levels, shape, mode, samples, image_shape)

        return all_bodies(function, boxes, levels.astype("int32"), *maps, **options)

    return run


# ---- The definition, point by point ------------------------------------------------------------------------------


def sample(image, y, x):
    """One bilinear sample of [H, W, C], clamped."""
    height, width = image.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
    lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def corner_points(low, high, size, count):
    low, high = low * (size - 1), high * (size - 1)
    return [(low + high) / 2] if count == 1 else np.linspace(low, high, count)


def cell_points(low, high, size, pixels, count, samples):
    """[count, samples]: normalized to pixels, to pixels of the map, to cells; half a pixel back."""
    low, high = low * (pixels - 1) * size / pixels, (high * (pixels - 1) + 1) * size / pixels
    return (low + (np.arange(count * samples) + 0.5) / (count * samples) * (high - low) - 0.5).reshape(count, samples)


def by_definition(maps, boxes, levels, shape, mode="crop", samples=2, image_shape=None):
    maps, boxes = [np.asarray(x, "float64") for x in maps], np.asarray(boxes, "float64")
    result = np.zeros((*boxes.shape[:2], *shape, maps[0].shape[-1]))
    for b, n in np.ndindex(boxes.shape[:2]):
        image, (y1, x1, y2, x2) = maps[levels[b, n] - 2][b], boxes[b, n]
        height, width = image.shape[:2]
        for i, j in np.ndindex(*shape):
            if mode == "crop":
                y, x = corner_points(y1, y2, height, shape[0])[i], corner_points(x1, x2, width, shape[1])[j]
                result[b, n, i, j] = sample(image, y, x)
            else:
                ys = cell_points(y1, y2, height, image_shape[0], shape[0], samples)[i]
                xs = cell_points(x1, x2, width, image_shape[1], shape[1], samples)[j]
                result[b, n, i, j] = np.mean([sample(image, y, x) for y, x in itertools.product(ys, xs)], axis=0)
    return result


def random_case(seed=0, batch=2, count=12, channels=3):
    """Maps of a 64 x 96 image, boxes of all sizes; some touch the edges, one is the whole image, one is padding."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(batch, 64 // s, 96 // s, channels)).astype("float32") for s in (4, 8, 16, 32)]
    center, size = rng.random((batch, count, 2)), np.exp(rng.uniform(-3.5, 0, (batch, count, 2)))
    boxes = np.clip(np.concatenate([center - size / 2, center + size / 2], axis=2), 0, 1).astype("float32")
    boxes[0, 0], boxes[0, 1] = WHOLE, PAD
    return maps, boxes, rng.integers(2, 6, (batch, count))


# ---- Empty inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_roi_align_without_rois(crop, mode):
    assert crop([SLOPE], np.zeros((1, 0, 4)), (7, 7), mode=mode, image_shape=[20, 20]).shape == (1, 0, 7, 7, 1)


@pytest.mark.parametrize("count", [0, 2])
def test_levels_without_rois_when_samples_are_adaptive(all_bodies, count):
    boxes = np.tile(np.array([[[0, 0, 8, 8]]], "float32"), (1, count, 1))

    def align(boxes):
        return roi_align_pixels([SLOPE, SLOPE], boxes, ops.zeros(ops.shape(boxes)[:2], "int32") + 3, (2, 2), [4, 8])

    found = all_bodies(align, boxes)
    assert found.shape == (1, count, 2, 2, 1)
    np.testing.assert_allclose(found[..., 0], np.tile([[0, 0.25], [2.5, 2.75]], (1, count, 1, 1)), atol=1e-5)


def test_padding_is_the_first_pixel(crop):
    result = crop([SLOPE + 3], [PAD, WHOLE], (2, 2))
    np.testing.assert_array_equal(result[0, 0, ..., 0], [[3, 3], [3, 3]])
    np.testing.assert_allclose(result[0, 1, ..., 0], [[3, 7], [43, 47]], rtol=1e-6)


def test_padding_is_a_number_when_aligned(crop):
    result = crop([SLOPE + 3], [PAD], (2, 2), mode="aligned", image_shape=[20, 20])
    np.testing.assert_allclose(result, 3)  # pixel 0 of the image, inside pixel 0 of the map


@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_a_map_of_one_pixel(crop, mode):
    result = crop([np.full((1, 1, 1, 2), 4, "float32")], [PAD, WHOLE, [0.2, 0.4, 0.3, 0.9]], (3, 2), mode=mode,
                  image_shape=[20, 20])  # fmt: skip
    np.testing.assert_allclose(result, 4, rtol=1e-6)


def test_a_nan_box_is_not_read_as_a_box(monkeypatch):
    boxes, levels = ops.convert_to_tensor([[[0, np.nan, 1, 1], WHOLE]]), ops.convert_to_tensor([[2, 2]])
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError):
            roi_align([SLOPE], boxes, levels, (2, 2))
        monkeypatch.setattr(roi_align_module, "tensorflow_kernels", lambda: None)
    result = ops.convert_to_numpy(roi_align([SLOPE], boxes, levels, (2, 2)))
    assert np.isnan(result[0, 0]).all()
    assert np.isfinite(result[0, 1]).all()


# ---- By hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "shape", "expected"),
    [
        (WHOLE, (5, 5), SLOPE[0, ..., 0]),  # the map itself
        (WHOLE, (3, 3), SLOPE[0, ::2, ::2, 0]),  # corners, edges, center
        (WHOLE, (1, 1), [[22]]),  # the center of the box
        (WHOLE, (2, 1), [[2], [42]]),
        ([0.25, 0.5, 0.75, 0.75], (3, 2), [[12, 13], [22, 23], [32, 33]]),  # on pixels: 0.25 is a pixel's step
        ([0.125, 0, 0.375, 0.125], (2, 2), [[5, 5.5], [15, 15.5]]),  # between pixels
        ([0.5, 0.5, 0.5, 0.5], (2, 2), [[22, 22], [22, 22]]),  # an empty box is a point
        ([0, 0, 0.25, 0.25], (3, 3), [[0, 0.5, 1], [5, 5.5, 6], [10, 10.5, 11]]),  # one pixel's step
    ],
)
def test_crop_samples_from_corner_to_corner(crop, box, shape, expected):
    np.testing.assert_allclose(crop([SLOPE], [box], shape)[0, 0, ..., 0], expected, atol=5e-5)


def test_regions_outside_the_image_are_clipped(crop):
    outside = [[-1, -0.5, 0.5, 0.5], [0.5, 0.5, 3, 1.25], [-1, -1, -0.5, -0.5]]
    inside = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], PAD]
    np.testing.assert_array_equal(crop([SLOPE], outside, (3, 3)), crop([SLOPE], inside, (3, 3)))


@pytest.mark.parametrize("size", [2, 3, 5, 32, 56, 100, 256, 511])
def test_the_last_row_is_never_lost_to_rounding(crop, size):
    """Contract 1.7: `crop_and_resize` gives zeros where the last point rounds an ulp outside of the map."""
    rng = np.random.default_rng(size)
    boxes = np.concatenate([rng.random((1, 500, 2)), np.ones((1, 500, 2))], axis=2).astype("float32")
    ones = np.ones((1, size, size, 1), "float32")
    if BACKEND == "tensorflow" and size == 256:  # the fault is there to be seen
        import tensorflow as tf

        assert np.min(tf.image.crop_and_resize(ones, boxes[0], np.zeros(500, int), (7, 7))) == 0
    for shape in ((7, 7), (14, 14)):
        # Under PyTorch, the weights of the four pixels add up to 1 up to rounding.
        np.testing.assert_allclose(crop([ones], boxes, shape), np.ones((1, 500, *shape, 1)), rtol=0, atol=2**-22)


def test_aligned_is_the_mean_of_each_cell(crop):
    """A 40-pixel image, so 8 pixels a map pixel; pixel k of the map has its center at image 8k + 4."""
    box = (np.array([8, 8, 24, 32]) - [0, 0, 1, 1]) / 39
    result = crop([SLOPE], [box], (2, 3), mode="aligned", image_shape=[40, 40])
    # Cells are 8 x 8 pixels, 8..16 is map pixel 1; the mean of a slope is its value in the middle.
    np.testing.assert_allclose(result[0, 0, ..., 0], [[11, 12, 13], [21, 22, 23]], atol=1e-4)


def test_aligned_repeats_the_edge_pixel_half_a_pixel_out(crop):
    result = crop([SLOPE], [WHOLE], (10, 10), mode="aligned", samples=1, image_shape=[40, 40])[0, 0, ..., 0]
    points = np.clip((np.arange(10) + 0.5) / 2 - 0.5, 0, 4)  # -0.25 becomes 0, 4.25 becomes 4
    np.testing.assert_allclose(result, np.add.outer(10 * points, points), atol=1e-4)


def test_each_roi_reads_its_own_level_and_image(crop):
    maps = [np.array([10 * i, 10 * i + 1], "float32")[:, None, None, None] * np.ones((1, 8 // 2**i, 8 // 2**i, 1))
            for i in range(4)]  # fmt: skip
    levels = [[5, 2, 3, 4, 2], [2, 5, 5, 3, 4]]
    result = crop([x.astype("float32") for x in maps], [[WHOLE] * 5] * 2, (2, 2), levels)
    np.testing.assert_allclose(result[:, :, 0, 0, 0], [[30, 0, 10, 20, 0], [1, 31, 31, 11, 21]], rtol=1e-6)


@pytest.mark.parametrize("options", [{"mode": "nearest"}, {"mode": "aligned"}])
def test_invalid_arguments_are_refused(options):
    with pytest.raises(ValueError, match=options["mode"]):
        roi_align([SLOPE], np.zeros((1, 1, 4)), np.full((1, 1), 2), (7, 7), **options)


# ---- Against the definition --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "samples", "shape"),
    [("crop", 1, (7, 7)), ("crop", 1, (1, 14)), ("aligned", 1, (7, 7)), ("aligned", 2, (3, 5)), ("aligned", 3, (1, 2))],
)
def test_equals_the_definition(crop, mode, samples, shape):
    maps, boxes, levels = random_case()
    expected = by_definition(maps, boxes, levels, shape, mode, samples, [64, 96])
    result = crop(maps, boxes, shape, levels, mode, samples, np.array([[64, 96, 3]] * 2), xla=True)
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_equals_the_reference(golden, crop):
    data = golden("resnet50_inference.npz")
    maps = [data[f"layer0_fpn_p{i}"] for i in (2, 3, 4, 5)]  # every fourth channel
    boxes = data["rpn_rois0"][:, :20]
    levels = ops.convert_to_numpy(roi_levels(boxes, data["meta0"][:, 4:7]))
    result = crop(maps, boxes, (7, 7), levels)
    expected = data["layer0_roi_align_classifier"]
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares with a kernel of TensorFlow")
def test_the_gather_form_is_bit_identical_to_the_kernel(monkeypatch):
    import tensorflow as tf

    maps, boxes, _ = random_case(count=200)
    boxes = boxes[:, np.all(boxes[..., 2:] < 1, axis=(0, 2))]
    count = boxes.shape[1]
    monkeypatch.setattr(roi_align_module, "tensorflow_kernels", lambda: None)
    for level, image in enumerate(maps):
        ours = roi_align(maps, boxes, np.full(boxes.shape[:2], level + 2), (7, 7))
        theirs = tf.image.crop_and_resize(image, boxes.reshape(-1, 4), np.repeat([0, 1], count), (7, 7))
        np.testing.assert_array_equal(ours, tf.reshape(theirs, ours.shape))


# ---- Gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "level"), [("crop", 0), ("crop", 2), ("aligned", 1)])
def test_the_gradient_of_the_features_equals_finite_differences(all_bodies, mode, level):
    """The crop is linear in the features: a difference of any size is exact, so each pixel is moved by 1."""
    maps, boxes, levels = random_case(count=6, channels=1)
    maps = [x[:1] for x in maps]
    boxes, levels = boxes[:1], np.full((1, 6), level + 2)
    weights = np.random.default_rng(1).normal(size=(1, 6, 3, 4, 1)).astype("float32")

    def align(changed, boxes, levels):
        return roi_align([*maps[:level], changed, *maps[level + 1 :]], boxes, levels, (3, 4), mode, 2, [64, 96])

    ours = all_bodies(
        lambda changed, boxes, levels: gradient(lambda x: align(x, boxes, levels), changed, weights),
        maps[level], boxes, levels.astype("int32"), xla=True,
    )  # fmt: skip
    expected = np.zeros_like(maps[level])
    zeros = [np.zeros_like(x) for x in maps]
    for pixel in np.ndindex(expected.shape):
        zeros[level][pixel] = 1
        expected[pixel] = (weights * by_definition(zeros, boxes, levels, (3, 4), mode, 2, [64, 96])).sum()
        zeros[level][pixel] = 0
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about a kernel of TensorFlow")
@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_tensorflow_issue_42033_overlapping_rois_keep_their_gradients(all_bodies, mode):
    """TensorFlow's gradient kernel adds RoIs up in several threads without a lock, and loses sums that way."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, size, size, 64)).astype("float32") for size in (16, 8, 4, 2)]
    boxes = np.concatenate([rng.uniform(0.3, 0.4, (1, 256, 2)), rng.uniform(0.6, 0.7, (1, 256, 2))], -1).astype(
        "float32"
    )
    levels = np.full((1, 256), 2, "int32")
    weights = rng.normal(size=(1, 256, 7, 7, 64)).astype("float32")

    def of_features(changed, boxes):
        return gradient(lambda x: roi_align([x, *maps[1:]], boxes, levels, (7, 7), mode, 2, [64, 64]), changed, weights)

    all_bodies(of_features, maps[0], boxes)
    again = [ops.convert_to_numpy(of_features(*map(ops.convert_to_tensor, (maps[0], boxes)))) for _ in range(3)]
    np.testing.assert_array_equal(again[1], again[0])
    np.testing.assert_array_equal(again[2], again[0])


def test_levels_without_rois_have_a_gradient_of_zero(all_bodies):
    maps, boxes, levels = random_case()
    got = all_bodies(
        lambda unused, boxes: gradient(
            lambda x: roi_align([maps[0], x, *maps[2:]], boxes, np.full(levels.shape, 2), (2, 2)), unused, 1.0
        ),
        maps[1], boxes,
    )  # fmt: skip
    np.testing.assert_array_equal(got, np.zeros_like(maps[1]))


@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_the_gradient_of_the_boxes_equals_finite_differences(all_bodies, mode):
    """Of boxes whose points stay clear of pixel centers, where the gradient jumps."""
    maps, _, _ = random_case(channels=2)
    boxes = np.array([[[0.131, 0.222, 0.437, 0.519], [0.51, 0.33, 0.91, 0.87]]] * 2, "float32")
    levels, weights = np.array([[2, 3]] * 2), np.random.default_rng(1).normal(size=(2, 2, 2, 2, 2)).astype("float32")
    ours = all_bodies(
        lambda boxes: gradient(lambda x: roi_align(maps, x, levels, (2, 2), mode, 1, [64, 96]), boxes, weights),
        boxes,
        within=1e-3,
    )
    for index in np.ndindex(boxes.shape):
        step = np.zeros(boxes.shape)
        step[index] = 1e-6
        higher, lower = (by_definition(maps, boxes + s, levels, (2, 2), mode, 1, [64, 96]) for s in (step, -step))
        np.testing.assert_allclose(ours[index], (weights * (higher - lower)).sum() / 2e-6, rtol=2e-3, atol=2e-3)


# ---- As torchvision and detectron2 compute it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_ops():
    """Inputs and results of both projects' operations (tests/golden/torch); boxes are x1, y1, x2, y2 there."""
    with np.load(TORCH_OPS) as file:
        return dict(file)


@pytest.mark.parametrize(("aligned", "samples"), [(False, 2), (True, 0)], ids=["torchvision", "detectron2"])
def test_pixel_rois_outside_inverted_and_tiny(all_bodies, torch_ops, aligned, samples):
    boxes = torch_ops["align_rois"][None][..., [1, 0, 3, 2]]
    features = torch_ops["align_features"].transpose(0, 2, 3, 1)
    levels = np.full(boxes.shape[:2], 2)

    def align(features, boxes):
        return roi_align_pixels([features], boxes, levels, (7, 7), [16], aligned, samples)

    expected = torch_ops[f"align_aligned{aligned:d}_samples{samples}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(all_bodies(align, features, boxes, xla=True)[0], expected, atol=3e-5)


def test_the_gradient_with_adaptive_samples_is_the_adjoint(all_bodies, monkeypatch):
    """RoIAlign is linear in the map: sum(w * align(x)) = sum(gradient * x) for every x."""
    monkeypatch.setattr(roi_cells, "POINTS_PER_STEP", 500)  # several steps
    monkeypatch.setattr(roi_cells, "ROIS_PER_STEP", 10)
    maps, boxes, levels = random_case()
    boxes, levels = boxes * [64, 96, 64, 96], levels.astype("int32")
    weights = np.random.default_rng(1).normal(size=(2, 12, 3, 2, 3)).astype("float32")

    def align(x, boxes):
        return roi_align_pixels([x, *maps[1:]], boxes, levels, (3, 2), [4, 8, 16, 32])

    slope = all_bodies(
        lambda x, boxes: gradient(lambda x: align(x, boxes), x, weights), maps[0], boxes.astype("float32")
    )
    other = np.random.default_rng(2).normal(size=maps[0].shape).astype("float32")
    change = align(ops.convert_to_tensor(other), boxes) - align(ops.zeros_like(other), boxes)
    assert (slope * other).sum() == pytest.approx((weights * ops.convert_to_numpy(change)).sum(), rel=1e-3)


@pytest.mark.parametrize(("rule", "project"), [("floor_after", "torchvision"), ("floor_before", "detectron2")])
def test_levels_at_the_size_boundaries(all_bodies, torch_ops, rule, project):
    boxes = torch_ops["level_boxes"][None][..., [1, 0, 3, 2]]
    found = all_bodies(lambda boxes: roi_levels(boxes, (1, 1), rule), boxes, xla=True)
    np.testing.assert_array_equal(found[0], torch_ops[f"level_{project}"])


def test_an_unknown_level_rule_is_refused():
    with pytest.raises(ValueError, match="nearest"):
        roi_levels(np.zeros((1, 1, 4), "float32"), (1, 1), "nearest")


# ---- Dtypes and models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["crop", "aligned"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once_at_the_end(monkeypatch, dtype, mode):
    maps, boxes, levels = random_case()
    halves = [ops.cast(x, dtype) for x in maps]
    expected = by_definition([ops.convert_to_numpy(ops.cast(x, "float32")) for x in halves], boxes, levels, (3, 3),
                             mode, 2, [64, 96])  # fmt: skip
    for _ in range(2):
        result = roi_align(halves, boxes, levels, (3, 3), mode, 2, [64, 96])
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        tolerance = {"float16": 1e-3, "bfloat16": 8e-3}[dtype] * np.abs(expected).max()
        np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(result, "float32")), expected, atol=tolerance)
        monkeypatch.setattr(roi_align_module, "tensorflow_kernels", lambda: None)


class Align(keras.layers.Layer):
    def call(self, boxes, *maps):
        image_shape = ops.convert_to_tensor([64, 96])
        return roi_align(list(maps), boxes, roi_levels(boxes, image_shape), (7, 7), "crop")


@pytest.mark.parametrize("known", [True, False])
def test_batch_and_map_sizes_may_be_unknown(known):
    maps, boxes, _ = random_case()
    inputs = [keras.Input((12, 4)), *(keras.Input((*(x.shape[1:3] if known else (None, None)), 3)) for x in maps)]
    model = keras.Model(inputs, Align()(*inputs))
    assert model.output_shape == (None, 12, 7, 7, 3)
    levels = ops.convert_to_numpy(roi_levels(boxes, [64, 96]))
    expected = by_definition(maps, boxes, levels, (7, 7))
    np.testing.assert_allclose(model.predict_on_batch([boxes, *maps]), expected, atol=1e-4)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX shares a batch between the devices of one process in one graph")
def test_sharded_roi_align_needs_no_communication():
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    if len(jax.devices()) < 2:
        pytest.skip("one device; XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two of a CPU")
    by_image = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("batch",)), PartitionSpec("batch"))
    maps, boxes, levels = random_case()
    masks, index = np.ones((2, 3, 8, 8), bool), np.zeros(levels.shape, "int32")

    def function(maps, boxes, levels, masks, index):
        loss = lambda maps: (roi_align(maps, boxes, levels, (3, 3)) ** 2).sum((1, 2, 3, 4))  # noqa: E731
        return jax.vjp(loss, maps)[1](np.ones(2, "float32")), crop_masks(masks, boxes, index, (3, 3))

    arguments = jax.device_put((maps, boxes, levels.astype("int32"), masks, index), by_image)
    program = jax.jit(function).lower(*arguments).compile().as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in program]


# ---- Levels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (224, 4),  # by definition
        (112, 3),
        (56, 2),
        (20, 2),  # no level below P2
        (448, 5),
        (1024, 5),  # nor above P5
        (1, 2),
        (224 * 2**0.5 * 0.999, 4),  # the border lies half way in the logarithm
        (224 * 2**0.5 * 1.001, 5),
        (224 / 2**0.5 * 0.999, 3),
    ],
)
def test_the_level_follows_the_side_in_pixels(side, level):
    for height, width in ((side, side), (side / 1.5, side * 1.5)):
        box = [[[0, 0, height / 1024, width / 1024]]]  # the formula takes the box as a share of the image
        levels = ops.convert_to_numpy(roi_levels(np.array(box, "float32"), [1024, 1024]))
        assert levels.dtype == np.int32
        assert levels.tolist() == [[level]]


@pytest.mark.parametrize("box", [PAD, [0.5, 0.5, 0.5, 0.9], [0.9, 0.9, 0.1, 0.1], [0, 0, np.nan, 1]])
def test_invalid_boxes_use_the_first_level(box):
    assert ops.convert_to_numpy(roi_levels(np.array([[box, WHOLE]], "float32"), [1024, 1024])).tolist() == [[2, 5]]


def test_levels_follow_the_shape_of_each_image():
    boxes = np.array([[[0, 0, 0.25, 0.25]]] * 3, "float32")
    shapes = np.array([[256, 256, 3], [1024, 768, 3], [2048, 2048, 3]])
    assert ops.convert_to_numpy(roi_levels(boxes, shapes)).tolist() == [[2], [4], [5]]


# ---- Masks -------------------------------------------------------------------------------------------------------

MASKS = np.zeros((1, 2, 5, 5), bool)
MASKS[0, 0, :, 2:] = True  # the right three columns
MASKS[0, 1, 4, 4] = True  # the last pixel


@pytest.fixture
def cut(all_bodies):
    def run(masks, boxes, index, shape):
        boxes, index = np.asarray([boxes], "float32"), np.asarray([index], "int32")
        return all_bodies(lambda m, b, i: crop_masks(m, b, i, shape), masks, boxes, index, xla=True)[0]

    return run


def test_a_mask_is_cropped_for_each_roi(cut):
    result = cut(MASKS, [WHOLE, WHOLE, [0.5, 0.5, 1, 1]], [0, 1, 1], (3, 3))
    np.testing.assert_allclose(result[0], [[0, 1, 1]] * 3)
    np.testing.assert_allclose(result[1], [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(result[2], [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_masks_are_interpolated_between_pixels(cut):
    np.testing.assert_allclose(cut(MASKS, [[0, 0.375, 1, 0.375]], [0], (2, 1)), [[[0.5], [0.5]]])


def test_masks_are_zero_outside_the_mini_mask(cut):
    """A RoI that is larger than its object: the mini mask is the object's box, and there is no object beside it."""
    result = cut(np.ones((1, 1, 5, 5), bool), [[-1, -1, 2, 2], [0, 0, 2, 0.5]], [0, 0], (4, 4))
    np.testing.assert_array_equal(result[0], [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(result[1], [[1] * 4, [1] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize("size", [28, 56, 112, 1024])
def test_the_last_row_of_a_mask_is_never_lost_to_rounding(cut, size):
    low = np.random.default_rng(size).uniform(-1, 0.9, (100, 2))
    result = cut(np.ones((1, 1, size, size), bool), np.concatenate([low, np.ones((100, 2))], axis=1), [0] * 100, (9, 9))
    np.testing.assert_array_equal(result[:, -1, -1], np.ones(100))


def test_mask_targets_without_rois(cut):
    assert cut(MASKS, np.zeros((0, 4)), np.zeros(0), (3, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
def test_masks_of_any_number_type(cut, dtype):
    result = cut(MASKS.astype(dtype), [WHOLE], [0], (1, 3))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[[0, 1, 1]]])


def test_a_mask_of_one_pixel(cut):
    np.testing.assert_array_equal(cut(np.ones((1, 1, 1, 1), bool), [WHOLE, PAD], [0, 0], (2, 2)), np.ones((2, 2, 2)))


def test_mask_targets_equal_the_reference(golden, all_bodies):
    """The stored RoIs of one training batch, each with the object it overlaps most, in that object's own frame."""
    data = golden("resnet50_training_mini.npz")
    shape = data["in_gt_masks_shape"]
    masks = np.unpackbits(data["in_gt_masks"])[: np.prod(shape)].reshape(shape).astype(bool).transpose(0, 3, 1, 2)
    objects = (data["in_gt_boxes"] - np.float32([0, 0, 1, 1])) / np.float32(127)
    rois, positive = data["out_rois"], data["out_target_class_ids"] > 0
    low, high = (f(rois[:, :, None], objects[:, None]) for f in (np.maximum, np.minimum))
    overlap = np.maximum(high[..., 2:] - low[..., :2], 0).prod(-1)  # [2, rois, objects]
    union = (rois[..., 2:] - rois[..., :2]).prod(-1)[..., None] + (objects[..., 2:] - objects[..., :2]).prod(-1)[
        :, None
    ]
    index = np.argmax(overlap / (union - overlap), axis=2).astype("int32")
    objects = np.take_along_axis(objects, index[..., None], axis=1)
    size = np.tile(objects[..., 2:] - objects[..., :2], 2)
    boxes = np.where(positive[..., None], (rois - np.tile(objects[..., :2], 2)) / size, 0).astype("float32")
    result = all_bodies(lambda m, b, i: crop_masks(m, b, i, (28, 28)), masks, boxes, index)
    assert positive.sum() >= 4
    np.testing.assert_array_equal(np.round(result[positive]), data["out_target_mask"][positive])
