"""RoIAlign over the pyramid as a layer, and the two heads of the second stage."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import finite_differences, gradients, numpy, tiny_config

from mrcnn.config import Config
from mrcnn.graph import build_stages, detection_graph
from mrcnn.model import build_fpn_mask_graph, fpn_classifier_graph, log2_graph
from mrcnn.nn.c4 import RoiStage5
from mrcnn.nn.cascade import CascadeHead, RefinedBoxes
from mrcnn.nn.heads import ClassHead, MaskHead
from mrcnn.nn.roi_align import PyramidROIAlign
from mrcnn.ops.meta import compose_image_meta

P = [0, 0, 0, 0]


def meta_of(*shapes, classes=3):
    """[B, 12 + C], one row for each (height, width)."""
    rows = [compose_image_meta(0, (*s, 3), (*s, 3), (0, 0, *s), 1.0, np.ones(classes)) for s in shapes]
    return np.array(rows, "float32")


def pyramid_of(height, width, value, batch=1, channels=1):
    """P2..P5; `value(level)` fills a level."""
    return [
        np.full((batch, height // 2**level, width // 2**level, channels), value(level), "float32")
        for level in (2, 3, 4, 5)
    ]


# ---- RoIAlign --------------------------------------------------------------------------------------------------------
def test_each_roi_takes_the_level_of_its_size():
    # 1024 x 1024 pixels: a box of 224 pixels goes to P4, each halving one level down, each doubling one up, 2..5.
    sides = np.array([20, 56, 112, 224, 448, 900])
    boxes = np.stack([0 * sides, 0 * sides, sides / 1024, sides / 1024], axis=1)[None]
    layer = PyramidROIAlign((2, 2))
    found = numpy(layer([boxes.astype("float32"), meta_of((1024, 1024)), *pyramid_of(1024, 1024, lambda level: level)]))
    np.testing.assert_allclose(found[0, :, 0, 0, 0], [2, 2, 3, 4, 5, 5])
    assert found.shape == (1, 6, 2, 2, 1)


def test_padding_reads_a_finite_crop_of_the_finest_level():
    boxes = np.array([[P, [1, 1, 1, 1], [0.5, 0.2, 0.5, 0.9]]], "float32")  # a point, and a line
    found = numpy(PyramidROIAlign((3, 3))([boxes, meta_of((64, 64)), *pyramid_of(64, 64, lambda level: level)]))
    np.testing.assert_allclose(found, np.full((1, 3, 3, 3, 1), 2.0))


@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_a_linear_ramp_is_sampled_at_the_rois_position(mode):
    """P2 holds the x of each of its pixels' centers in the image; a crop of a small RoI holds the x of its samples."""
    centers = (np.arange(16) + 0.5) * 4  # of 16 cells of 4 pixels
    maps = pyramid_of(64, 64, lambda level: 0)
    maps[0] = np.broadcast_to(centers[None, None, :, None], (1, 16, 16, 1)).astype("float32")
    box = np.array([[[16 / 63, 16 / 63, 31 / 63, 31 / 63]]], "float32")  # pixels 16..32, exclusive
    found = numpy(PyramidROIAlign((2, 4), mode=mode)([box, meta_of((64, 64)), *maps]))[0, 0, :, :, 0]
    if mode == "aligned":  # the centers of four cells of 4 pixels
        expected = [18, 22, 26, 30]
    else:  # corner to corner on the map, whose first and last center are 0 and 1 of the image
        expected = np.interp(np.linspace(16 / 63, 31 / 63, 4) * 15, np.arange(16), centers)
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-5)


def test_images_of_a_batch_are_independent():
    maps = pyramid_of(64, 64, lambda level: 0, batch=2)
    for x in maps:
        x[1] = 7
    boxes = np.array([[[0, 0, 0.5, 0.5]], [[0.2, 0.2, 1, 1]]], "float32")
    found = numpy(PyramidROIAlign((2, 2))([boxes, meta_of((64, 64), (64, 64)), *maps]))
    assert not found[0].any() and (found[1] == 7).all()


@pytest.mark.parametrize("mode", ["crop", "aligned"])
def test_gradients_agree_with_finite_differences(mode):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, 64 // 2**level, 64 // 2**level, 1)).astype("float32") for level in (2, 3, 4, 5)]
    boxes = np.array([[[0.1, 0.1, 0.22, 0.31], [0.13, 0.2, 0.77, 0.83]]], "float32")
    weights = rng.normal(size=(1, 2, 2, 2, 1)).astype("float32")
    boxes, weights = ops.convert_to_tensor(boxes), ops.convert_to_tensor(weights)
    # Said to be of 512 pixels, so that the RoIs of 82 and 328 pixels lie on P3 and P5.
    layer, meta = PyramidROIAlign((2, 2), mode=mode), ops.convert_to_tensor(meta_of((512, 512)))

    def total(p2, p3, p4, p5):
        return ops.sum(layer([boxes, meta, p2, p3, p4, p5]) * weights)

    found = gradients(total, *maps)
    assert [bool(np.any(g)) for g in found] == [False, True, False, True]
    for i, gradient in enumerate(found):
        if gradient.any():  # linear in the features: central differences are exact up to rounding
            np.testing.assert_allclose(gradient, finite_differences(total, maps, i, step=0.5), atol=1e-4)


def test_boxes_pass_no_gradient():
    """As in matterport: the mask loss must not move proposals."""
    maps = [np.random.default_rng(0).normal(size=(1, n, n, 1)).astype("float32") for n in (16, 8, 4, 2)]
    inputs = [ops.convert_to_tensor(x) for x in (meta_of((64, 64)), *maps)]
    boxes = np.array([[[0.1, 0.1, 0.5, 0.6]]], "float32")
    (gradient,) = gradients(lambda x: ops.sum(PyramidROIAlign((2, 2))([x, *inputs])), boxes)
    assert not gradient.any()


def test_settings_survive_get_config_and_unknown_ones_are_refused():
    layer = PyramidROIAlign(
        [7, 5], "unaligned", 3, level_rule="floor_after", strides=(8, 16), box_offset=0, name="roi_align_mask"
    )
    again = PyramidROIAlign.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.pool_shape, again.mode, again.samples, again.box_offset) == ((7, 5), "unaligned", 3, 0)
    with pytest.raises(ValueError, match="crop"):
        PyramidROIAlign([2, 2], mode="pool")
    with pytest.raises(ValueError, match="floor_after"):
        PyramidROIAlign([2, 2], level_rule="floor")


@pytest.mark.parametrize("mode", ["crop", "aligned", "unaligned"])
def test_both_normalizations_of_a_box_mean_the_same_pixels(mode):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, 64 // s, 96 // s, 2)).astype("float32") for s in (4, 8, 16, 32)]
    corner = rng.uniform(0, [32, 48], (1, 5, 2))
    pixels = np.concatenate([corner, corner + rng.uniform(2, [32, 48], (1, 5, 2))], -1)
    shifted, plain = (pixels - [0, 0, 1, 1]) / [63, 95, 63, 95], pixels / [64, 96, 64, 96]
    found = [
        numpy(PyramidROIAlign((3, 2), mode, box_offset=n)([boxes.astype("float32"), meta_of((64, 96)), *maps]))
        for n, boxes in ((1, shifted), (0, plain))
    ]
    np.testing.assert_allclose(found[1], found[0], atol=2e-5)


def test_log2():
    np.testing.assert_allclose(numpy(log2_graph(ops.convert_to_tensor([1.0, 2, 0.25]))), [0, 1, -2], atol=1e-6)


# ---- Heads -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def symbols():
    """RoIs, image_meta and a pyramid 16 channels wide, as inputs of a graph."""
    pyramid = [keras.Input((None, None, 16)) for _ in range(4)]
    return keras.Input((None, 4)), keras.Input((15,)), pyramid


def test_class_head_shapes_names_and_weights(symbols):
    rois, meta, pyramid = symbols
    head = ClassHead(7, 3, train_bn=False, fc_layers_size=32)
    outputs = head(rois, meta, pyramid)
    assert [x.shape for x in outputs] == [(None, None, 3), (None, None, 3), (None, None, 3, 4)]
    model = keras.Model([rois, meta, *pyramid], outputs)
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers if layer.weights}
    assert shapes == {
        "mrcnn_class_conv1": [(7, 7, 16, 32), (32,)],
        "mrcnn_class_bn1": [(32,)] * 4,
        "mrcnn_class_conv2": [(1, 1, 32, 32), (32,)],
        "mrcnn_class_bn2": [(32,)] * 4,
        "mrcnn_class_logits": [(32, 3), (3,)],
        "mrcnn_bbox_fc": [(32, 12), (12,)],
    }
    names = {layer.name for layer in model.layers}
    assert {"roi_align_classifier", "pool_squeeze", "mrcnn_class", "mrcnn_bbox"} <= names


def test_mask_head_shapes_names_and_weights(symbols):
    rois, meta, pyramid = symbols
    masks = MaskHead(14, 3, train_bn=False)(rois, meta, pyramid)
    assert masks.shape == (None, None, 28, 28, 3)
    model = keras.Model([rois, meta, *pyramid], masks)
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers if layer.weights}
    assert shapes == {
        "mrcnn_mask_conv1": [(3, 3, 16, 256), (256,)],  # 256 wide inside, whatever the pyramid's width
        **{f"mrcnn_mask_conv{i}": [(3, 3, 256, 256), (256,)] for i in (2, 3, 4)},
        **{f"mrcnn_mask_bn{i}": [(256,)] * 4 for i in (1, 2, 3, 4)},
        "mrcnn_mask_deconv": [(2, 2, 256, 256), (256,)],
        "mrcnn_mask": [(1, 1, 256, 3), (3,)],
    }


def test_the_widths_of_the_rpn_and_the_mask_head_are_settings():
    config = tiny_config(RPN_CHANNELS=24, MASK_HEAD_CHANNELS=12)
    model = keras.Model(*detection_graph(build_stages(config), config))
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers if layer.weights}
    assert shapes["mrcnn_mask_conv1"] == [(3, 3, 16, 12), (12,)] and shapes["mrcnn_mask"][0] == (1, 1, 12, 3)
    assert shapes["rpn_model"][0] == (3, 3, 16, 24)
    restored = Config.from_json(Config(RPN_CHANNELS=24, MASK_HEAD_CHANNELS=12).to_json())
    assert (restored.RPN_CHANNELS, restored.MASK_HEAD_CHANNELS) == (24, 12)


def test_a_head_shares_its_weights_between_calls(symbols):
    rois, meta, pyramid = symbols
    head, other = ClassHead(7, 3, fc_layers_size=8), keras.Input((None, 4))
    first, second = head(rois, meta, pyramid), head(other, meta, pyramid)
    model = keras.Model([rois, other, meta, *pyramid], [first[0], second[0]])
    assert len(model.weights) == 2 * 2 + 2 * 4 + 2  # two convolutions, two norms, the logits
    boxes = np.array([[[0.1, 0.1, 0.5, 0.6]]], "float32")
    maps = [np.random.default_rng(0).normal(size=(1, n, n, 16)).astype("float32") for n in (16, 8, 4, 2)]
    a, b = model.predict_on_batch([boxes, boxes, meta_of((64, 64)), *maps])
    np.testing.assert_array_equal(a, b)


def test_class_scores_are_softmax_and_masks_sigmoid(symbols):
    rois, meta, pyramid = symbols
    logits, probs, deltas = ClassHead(7, 3, fc_layers_size=8)(rois, meta, pyramid)
    masks = MaskHead(2, 3)(rois, meta, pyramid)
    model = keras.Model([rois, meta, *pyramid], [logits, probs, masks])
    maps = [10 * np.random.default_rng(0).normal(size=(2, n, n, 16)).astype("float32") for n in (16, 8, 4, 2)]
    boxes = np.array([[[0.1, 0.1, 0.5, 0.6], P]] * 2, "float32")
    logits, probs, masks = model.predict_on_batch([boxes, meta_of((64, 64), (64, 64)), *maps])
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probs.argmax(axis=-1), logits.argmax(axis=-1))
    assert masks.shape == (2, 2, 4, 4, 3) and masks.min() >= 0 and masks.max() <= 1


def test_matterports_functions_give_the_same_layers(symbols):
    rois, meta, pyramid = symbols
    outputs = fpn_classifier_graph(rois, pyramid, meta, 7, 3, train_bn=False, fc_layers_size=32)
    masks = build_fpn_mask_graph(rois, pyramid, meta, 14, 3, train_bn=False)
    model = keras.Model([rois, meta, *pyramid], [*outputs, masks])
    assert outputs[2].shape == (None, None, 3, 4) and masks.shape == (None, None, 28, 28, 3)
    bn = [layer for layer in model.layers if "_bn" in layer.name]
    assert len(bn) == 6 and not any(layer.trainable_weights for layer in bn)


def test_the_mask_of_one_class_equals_its_slice_of_all_masks(symbols):
    rois, meta, pyramid = symbols
    head, class_ids = MaskHead(2, 3), keras.Input((None,))
    every = head(rois, meta, pyramid)
    model = keras.Model([rois, class_ids, meta, *pyramid], [every, head.of_class(rois, class_ids, meta, pyramid)])
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, n, n, 16)).astype("float32") for n in (16, 8, 4, 2)]
    boxes = np.array([[[0.1, 0.1, 0.5, 0.6], [0, 0, 1, 1], [0.2, 0.3, 0.4, 0.4]]] * 2, "float32")
    wanted = np.array([[0, 2, 1], [1, 1, 0]], "float32")  # as detections have them
    every, of_class = model.predict_on_batch([boxes, wanted, np.repeat(meta_of((64, 64)), 2, 0), *maps])
    assert of_class.shape == (2, 3, 4, 4) and of_class.std() > 0
    expected = np.take_along_axis(every, wanted.astype(int)[:, :, None, None, None], axis=-1)[..., 0]
    np.testing.assert_allclose(of_class, expected, atol=1e-6)


# ---- Variants of the heads -------------------------------------------------------------------------------------------
def shapes_of(model):
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers if layer.weights}


def random_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if "variance" in weight.path else
                      0.3 * rng.normal(size=weight.shape))  # fmt: skip


@pytest.mark.parametrize(("norm", "weights"), [(None, 0), ("batch", 4), ("group", 2)])
def test_four_convolutions_and_one_layer(symbols, norm, weights):
    """A convolution has a bias only without normalization after it, as in both projects' files."""
    rois, meta, pyramid = symbols
    head = ClassHead(7, 3, False, 32, kind="conv4fc1", norm=norm, epsilon=1e-5, suffix="_s2")
    masks = MaskHead(14, 3, False, channels=64, norm=norm, epsilon=1e-5)
    model = keras.Model([rois, meta, *pyramid], [*head(rois, meta, pyramid), masks(rois, meta, pyramid)])
    found = shapes_of(model)
    bias = [] if norm else [(256,)]
    assert found["mrcnn_class_conv1_s2"] == [(3, 3, 16, 256), *bias]
    assert found["mrcnn_class_conv4_s2"] == [(3, 3, 256, 256), *bias]
    assert found["mrcnn_class_fc1_s2"] == [(7, 7, 256, 32), (32,)]
    assert found["mrcnn_class_logits_s2"] == [(32, 3), (3,)]
    for i in (1, 4):
        assert found.get(f"mrcnn_class_bn{i}_s2", []) == [(256,)] * weights
        assert found.get(f"mrcnn_mask_bn{i}", []) == [(64,)] * weights
    norms = [layer.layer for layer in model.layers if "_bn" in layer.name]
    assert {layer.epsilon for layer in norms} == ({1e-5} if norm else set())


def test_two_layers_without_normalization(symbols):
    rois, meta, pyramid = symbols
    model = keras.Model([rois, meta, *pyramid], ClassHead(7, 3, False, 32, norm=None)(rois, meta, pyramid))
    assert list(shapes_of(model)) == [
        "mrcnn_class_conv1", "mrcnn_class_conv2", "mrcnn_class_logits", "mrcnn_bbox_fc"
    ]  # fmt: skip


def test_one_box_and_one_mask_for_all_classes(symbols):
    rois, meta, pyramid = symbols
    head, masks = ClassHead(2, 3, False, 8, class_agnostic=True), MaskHead(2, 3, False, channels=8, class_agnostic=True)
    class_ids = keras.Input((None,))
    outputs = [head(rois, meta, pyramid)[2], masks(rois, meta, pyramid)]
    outputs.append(masks.of_class(rois, class_ids, meta, pyramid))
    model = keras.Model([rois, class_ids, meta, *pyramid], outputs)
    found = shapes_of(model)
    assert found["mrcnn_bbox_fc"] == [(8, 4), (4,)] and found["mrcnn_mask"] == [(1, 1, 8, 1), (1,)]
    assert outputs[0].shape == (None, None, 3, 4) and outputs[1].shape == (None, None, 4, 4, 3)
    random_weights(model)
    maps = [np.random.default_rng(0).normal(size=(1, n, n, 16)).astype("float32") for n in (16, 8, 4, 2)]
    boxes = np.array([[[0.1, 0.1, 0.5, 0.6], [0, 0, 1, 1]]], "float32")
    deltas, every, of_class = model.predict_on_batch([boxes, np.array([[2, 1]], "float32"), meta_of((64, 64)), *maps])
    assert deltas.std() > 0 and every.std() > 0
    for i in (1, 2):
        np.testing.assert_array_equal(deltas[:, :, i], deltas[:, :, 0])
        np.testing.assert_array_equal(every[..., i], every[..., 0])
    np.testing.assert_allclose(of_class, every[..., 0], atol=1e-6)


def test_each_head_of_a_cascade_sees_the_boxes_of_the_one_before(symbols):
    """Both heads say the same of every RoI: half its height down. The window ends at 0.75."""
    rois, meta, pyramid = symbols
    heads = [ClassHead(2, 3, False, 8, class_agnostic=True, suffix=suffix) for suffix in ("", "_s2", "_s3")]
    refine = [RefinedBoxes([n, n, 2 * n, 2 * n], box_offset=0, name=f"refine{n}") for n in (1, 0.5)]
    cascade = CascadeHead(heads, refine)
    boxes, probs, deltas = cascade.classify(rois, meta, pyramid)
    model = keras.Model([rois, meta, *pyramid], [boxes, probs, deltas])
    for i, head in enumerate(heads):
        for weight in (head.logits, head.bbox_fc):
            weight.layer.kernel.assign(np.zeros(weight.layer.kernel.shape))
        head.bbox_fc.layer.bias.assign([0.5, 0, 0, 0])
        head.logits.layer.bias.assign(np.log([0.1 * i + 0.2, 0.5, 0.3 - 0.1 * i]))
    image = meta_of((64, 64))
    image[0, 7:11] = [0, 0, 48, 64]
    maps = pyramid_of(64, 64, lambda level: 1, channels=16)
    boxes, probs, deltas = model.predict_on_batch([np.array([[[0.1, 0, 0.5, 1], P]], "float32"), image, *maps])
    # 0.1..0.5, moved by 0.2 to 0.3..0.7, then by 0.25 * 0.4 to 0.4..0.8, which is clipped
    np.testing.assert_allclose(boxes, [[[0.4, 0, 0.75, 1], P]], atol=1e-6)
    np.testing.assert_allclose(probs[0, 0], [0.3, 0.5, 0.2], atol=1e-6)
    np.testing.assert_allclose(deltas[0, 0], [[0.5, 0, 0, 0]] * 3)
    again = RefinedBoxes.from_config(refine[1].get_config())
    assert again.get_config() == refine[1].get_config() and again.bbox_std_dev == [0.5, 0.5, 1, 1]


def test_the_c4_heads_share_the_last_stage_and_pool_one_map(symbols):
    rois, meta, _ = symbols
    c4 = keras.Input((None, None, 6))
    stage5 = RoiStage5(lambda x: keras.layers.Conv2D(10, 1, strides=2, name="res5a_branch2a")(x), 4, 6)
    align = {"mode": "aligned", "samples": 0, "strides": (16,), "box_offset": 0}
    head = ClassHead(4, 3, False, roi_align=align, stage5=stage5)
    masks = MaskHead(4, 3, False, align, channels=8, stage5=stage5)
    model = keras.Model([rois, meta, c4], [head(rois, meta, [c4])[0], masks(rois, meta, [c4])])
    assert shapes_of(model) == {
        "res5_model": [(1, 1, 6, 10), (10,)], "mrcnn_class_logits": [(10, 3), (3,)],
        "mrcnn_mask_deconv": [(2, 2, 8, 10), (8,)], "mrcnn_mask": [(1, 1, 8, 3), (3,)],
    }  # fmt: skip
    random_weights(model)
    features = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype("float32")
    boxes = np.array([[[0, 0, 0.5, 0.6], [0.2, 0, 1, 1]]] * 2, "float32")
    logits, pasted = model.predict_on_batch([boxes, np.repeat(meta_of((64, 80)), 2, 0), features])
    assert logits.shape == (2, 2, 3) and pasted.shape == (2, 2, 4, 4, 3)
    crop = numpy(PyramidROIAlign((4, 4), **align)([boxes, meta_of((64, 80)), features]))  # by hand from here
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    (kernel, bias), (dense, dense_bias) = weights["res5_model"], weights["mrcnn_class_logits"]
    by_hand = (crop[:, :, ::2, ::2] @ kernel[0, 0] + bias).mean((2, 3)) @ dense + dense_bias
    np.testing.assert_allclose(logits, by_hand, atol=1e-4)


@pytest.mark.parametrize(("kind", "norm"), [("fc2", None), ("conv4fc1", "group"), ("conv4fc1", "batch")])
def test_gradients_of_the_variants_agree_with_finite_differences(symbols, kind, norm):
    """Through RoIAlign with adaptive samples, the hidden layers, and a box for all classes."""
    rois, meta, pyramid = symbols
    align = {"mode": "aligned", "samples": 0, "box_offset": 0}
    head = ClassHead(2, 3, False, 8, align, kind=kind, norm=norm, class_agnostic=True)
    model = keras.Model([rois, meta, *pyramid], head(rois, meta, pyramid)[1:])
    random_weights(model)
    maps = [np.random.default_rng(1).normal(size=(1, n, n, 16)).astype("float32") for n in (16, 8, 4, 2)]
    boxes = np.array([[[0.1, 0.1, 0.32, 0.41], [0.13, 0.2, 0.77, 0.83]]], "float32")
    arrays = (np.arange(1, 5, dtype="float32"), boxes, meta_of((64, 64)), *maps[1:])
    factors, boxes, image, *others = (ops.convert_to_tensor(x) for x in arrays)

    def loss(p2):
        probs, deltas = model([boxes, image, p2, *others])
        return ops.sum(probs[..., 1]) + 0.01 * ops.sum(deltas[:, :, 0] * factors)

    (slope,) = gradients(loss, maps[0])
    direction = np.random.default_rng(2).normal(size=maps[0].shape).astype("float32")
    step = 2e-3
    change = [numpy(loss(ops.convert_to_tensor(maps[0] + s * direction))) for s in (step, -step)]
    assert (slope * direction).sum() == pytest.approx((change[0] - change[1]) / (2 * step), rel=0.03, abs=1e-3)
