"""Backbones, FPN and RPN: shapes at every level, names, strides, and one head for all levels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from kit import numpy, tiny_backbone, tiny_config

from mrcnn.model import build_rpn_model, resnet_graph, rpn_graph
from mrcnn.nn.backbones import build_backbone, mobilenet_v2_graph
from mrcnn.nn.fpn import fpn_graph
from mrcnn.nn.rpn import SharedConv2D, rpn_over_pyramid


# ---- Backbones -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("architecture", "blocks"), [("resnet50", "abcdef"), ("resnet101", "abcdefghijklmnopqrstuvw")])
def test_resnet_stages_and_names(architecture, blocks):
    image = keras.Input((64, 128, 3))
    stages = resnet_graph(image, architecture, stage5=True, train_bn=False)
    expected = [(None, 32, 64, 64), (None, 16, 32, 256), (None, 8, 16, 512), (None, 4, 8, 1024), (None, 2, 4, 2048)]
    assert [x.shape for x in stages] == expected
    names = {layer.name for layer in keras.Model(image, stages).layers}
    of_stage_4 = {name[4] for name in names if name.startswith("res4") and name.endswith("branch2a")}
    assert of_stage_4 == set(blocks) and {f"res4{blocks[-1]}_out", "res2c_out", "res3d_out", "bn_conv1"} <= names


def test_stages_downsample_in_their_first_1x1_convolutions():
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, resnet_graph(image, "resnet50", stage5=True))
    for stage, stride in ((2, 1), (3, 2), (4, 2), (5, 2)):
        for branch in ("branch1", "branch2a"):
            layer = model.get_layer(f"res{stage}a_{branch}")
            assert (layer.strides, layer.kernel_size, layer.use_bias) == ((stride, stride), (1, 1), True)
        assert model.get_layer(f"res{stage}a_branch2b").strides == (1, 1)
        assert model.get_layer(f"res{stage}b_branch2a").strides == (1, 1)


def test_resnet_without_stage_5():
    stages = resnet_graph(keras.Input((64, 64, 3)), "resnet50", stage5=False)
    assert len(stages) == 5 and stages[4] is None


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(ValueError, match=r"resnet34.*resnet50"):
        resnet_graph(keras.Input((64, 64, 3)), "resnet34")


def test_mobilenet_stages_and_its_preprocessing():
    image = keras.Input((64, 128, 3))
    mean = (100.0, 120.0, 140.0)
    stages = mobilenet_v2_graph(image, mean)
    assert [x.shape[1:] for x in stages] == [(32, 64, 96), (16, 32, 144), (8, 16, 192), (4, 8, 576), (2, 4, 1280)]
    model = keras.Model(image, stages)
    rescale = keras.Model(image, model.get_layer("mobilenet_input").output)
    photo = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3))
    found = rescale.predict_on_batch((photo - np.array(mean)).astype("float32"))
    np.testing.assert_allclose(found, photo / 127.5 - 1, atol=1e-5)  # what the pretrained network expects


@pytest.mark.parametrize(("train_bn", "trains"), [(False, False), (None, True)])
def test_train_bn_reaches_mobilenet(train_bn, trains):
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, mobilenet_v2_graph(image, 127.5, train_bn=train_bn))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 40 and all(bool(layer.trainable_weights) is trains for layer in norms)


def test_mobilenet_needs_three_channels():
    with pytest.raises(ValueError, match="IMAGE_CHANNEL_COUNT = 3; it is 1"):
        mobilenet_v2_graph(keras.Input((64, 64, 1)), 127.5)


def test_a_callable_backbone_gets_the_settings():
    seen = {}

    def backbone(image, architecture, stage5, train_bn):
        seen.update(architecture=architecture, stage5=stage5, train_bn=train_bn)
        return tiny_backbone(image, architecture, stage5, train_bn)

    stages = build_backbone(keras.Input((64, 64, 3)), tiny_config(BACKBONE=backbone, TRAIN_BN=None))
    assert len(stages) == 5 and seen == {"architecture": backbone, "stage5": True, "train_bn": None}


# ---- FPN -------------------------------------------------------------------------------------------------------------
def test_pyramid_shapes_and_names():
    maps = [keras.Input((n, 2 * n, c)) for n, c in ((16, 4), (8, 5), (4, 6), (2, 7))]
    pyramid = fpn_graph(*maps, depth=16)
    assert [x.shape for x in pyramid] == [(None, n, 2 * n, 16) for n in (16, 8, 4, 2, 1)]
    names = {layer.name for layer in keras.Model(maps, pyramid).layers}
    assert {f"fpn_c{i}p{i}" for i in (2, 3, 4, 5)} | {f"fpn_p{i}" for i in (2, 3, 4, 5, 6)} <= names
    assert {"fpn_p5upsampled", "fpn_p4add", "fpn_p4upsampled", "fpn_p3add", "fpn_p3upsampled", "fpn_p2add"} <= names


@pytest.mark.parametrize("scale", [1, 100])
def test_large_features_of_a_backbone_reach_the_rpn_at_the_scale_of_one(scale):
    """On EfficientNet-Lite, whose maps have a deviation of 8, a new RPN gave deltas of 7, and learned no boxes."""
    rng = np.random.default_rng(0)
    maps = [(scale * rng.normal(size=(1, n, n, 8))).astype("float32") for n in (32, 16, 8, 4)]
    for level in fpn_graph(*maps, depth=32, norm="group")[:4]:
        assert 0.9 < np.std(level) < 1.1


def test_every_level_depends_on_the_top_one_and_p6_subsamples_p5():
    maps = [keras.Input((None, None, 1)) for _ in range(4)]
    model = keras.Model(maps, fpn_graph(*maps, depth=1))
    for layer in model.layers:
        if layer.weights:  # each convolution hands on what is at its center
            kernel = np.zeros(layer.weights[0].shape, "float32")
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
            layer.set_weights([kernel, np.zeros(1, "float32")])
    rng = np.random.default_rng(0)
    c2, c3, c4, c5 = (rng.normal(size=(1, n, n, 1)).astype("float32") for n in (32, 16, 8, 4))
    p2, p3, p4, p5, p6 = model.predict_on_batch([c2, c3, c4, c5])

    def twice(x):
        return x.repeat(2, axis=1).repeat(2, axis=2)

    np.testing.assert_allclose(p5, c5, atol=1e-6)
    np.testing.assert_allclose(p4, c4 + twice(c5), atol=1e-6)
    np.testing.assert_allclose(p3, c3 + twice(c4 + twice(c5)), atol=1e-6)
    np.testing.assert_allclose(p2, c2 + twice(c3 + twice(c4 + twice(c5))), atol=1e-6)
    np.testing.assert_array_equal(p6, p5[:, ::2, ::2])


# ---- RPN -------------------------------------------------------------------------------------------------------------
def test_the_head_on_one_level():
    model = build_rpn_model(anchor_stride=1, anchors_per_location=3, depth=16)
    assert model.name == "rpn_model"
    shapes = [(w.path.split("/")[-2], tuple(w.shape)) for w in model.weights]
    assert shapes == [
        ("rpn_conv_shared", (3, 3, 16, 512)), ("rpn_conv_shared", (512,)),
        ("rpn_class_raw", (1, 1, 512, 6)), ("rpn_class_raw", (6,)),
        ("rpn_bbox_pred", (1, 1, 512, 12)), ("rpn_bbox_pred", (12,)),
    ]  # fmt: skip
    logits, probs, deltas = model.predict_on_batch(
        np.random.default_rng(0).normal(size=(2, 4, 5, 16)).astype("float32")
    )
    assert logits.shape == probs.shape == (2, 60, 2) and deltas.shape == (2, 60, 4)
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-6)
    assert keras.Input((4, 4, 16)) is not None and len(rpn_graph(keras.Input((4, 4, 16)), 3, 1)) == 3


@pytest.mark.parametrize(("stride", "cells"), [(1, 5 * 3), (2, 3 * 2)])
def test_the_anchor_stride_subsamples_odd_maps_like_the_anchors(stride, cells):
    model = build_rpn_model(anchor_stride=stride, anchors_per_location=1, depth=2)
    logits, _, deltas = model.predict_on_batch(np.zeros((1, 5, 3, 2), "float32"))
    assert logits.shape == (1, cells, 2) and deltas.shape == (1, cells, 4)


def test_rpn_rows_are_in_anchor_order():
    model = build_rpn_model(anchor_stride=1, anchors_per_location=2, depth=1)
    shared, raw, boxes = (model.get_layer(n) for n in ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"))
    kernel = np.zeros((3, 3, 1, 512), "float32")
    kernel[1, 1, 0, 0] = 1  # channel 0 is the map itself
    shared.set_weights([kernel, np.zeros(512)])
    for layer in (raw, boxes):
        weights = np.zeros(layer.kernel.shape, "float32")
        weights[0, 0, 0] = 1
        layer.set_weights([weights, 100 * np.arange(weights.shape[-1])])  # every output its own hundred
    logits, _, deltas = model.predict_on_batch(np.arange(6, dtype="float32").reshape(1, 2, 3, 1))
    cell, anchor = np.divmod(np.arange(12), 2)
    np.testing.assert_allclose(logits[0], (cell + 200 * anchor)[:, None] + [0, 100], rtol=1e-5)
    np.testing.assert_allclose(deltas[0], (cell + 400 * anchor)[:, None] + [0, 100, 200, 300], rtol=1e-5)


def test_one_head_on_all_levels_equals_the_head_on_each():
    maps = [keras.Input((None, None, 8)) for _ in range(3)]
    model = keras.Model(maps, rpn_over_pyramid(maps, 3, 1))
    assert [x.name for x in model.layers if isinstance(x, keras.Model)] == ["rpn_model"]
    assert len(model.weights) == 6
    assert {"rpn_class_logits", "rpn_class", "rpn_bbox"} <= {layer.name for layer in model.layers}
    single = build_rpn_model(1, 3, 8)
    single.set_weights(model.get_weights())
    levels = [np.random.default_rng(n).normal(size=(2, n, n, 8)).astype("float32") for n in (4, 2, 1)]
    expected = [np.concatenate(parts, axis=1) for parts in zip(*(single.predict_on_batch(x) for x in levels))]
    for found, theirs in zip(model.predict_on_batch(levels), expected):
        np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_the_shared_convolution_equals_conv2d():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    plain = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="a")
    shared = SharedConv2D.from_config(plain.get_config())
    expected = numpy(plain(x))
    several = shared([x, x[:, :3]])
    shared.set_weights(plain.get_weights())
    np.testing.assert_allclose(numpy(shared([x, x[:, :3]])[0]), expected, atol=1e-5)
    np.testing.assert_allclose(numpy(shared(x)), expected, atol=1e-5)
    assert tuple(several[1].shape) == (2, 2, 2, 6) and shared.get_config() == plain.get_config()
