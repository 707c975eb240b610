"""Networks of `keras.applications`, and Keras models with named layers, as backbones."""

from __future__ import annotations

import inspect
import re

import keras
import numpy as np
import pytest
from keras import layers
from kit import numpy, photo, tiny_config, tiny_model

from mrcnn import weights
from mrcnn.config_checks import KERAS_APPLICATIONS
from mrcnn.nn.keras_backbones import SIDE, application, application_graph, last_maps, leading_layers, tapped_graph
from mrcnn.nn.norm import BatchNorm
from mrcnn.training.trainable_layers import layer_regex, set_trainable

MEAN = [123.0, 117.0, 104.0]
STRIDES = (4, 8, 16, 32)


def a_keras_model(pools=(4, 2, 2, 2)) -> keras.Model:
    image = x = keras.Input((None, None, 3))
    for i, pool in enumerate(pools):
        x = layers.AveragePooling2D(pool, name=f"pool{i}")(x)
        x = layers.Conv2D(4, 1, name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.ReLU(name=f"out{i}")(x)
    return keras.Model(image, x, name="mine")


TAPS = ["out0", "out1", "out2", "out3"]


# ---- Names -----------------------------------------------------------------------------------------------------------
def test_all_networks_of_keras_applications_are_known():
    assert set(KERAS_APPLICATIONS) == {n for n, f in vars(keras.applications).items() if inspect.isfunction(f)}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EfficientNetV2-B0", "EfficientNetV2B0"),
        ("mobilenetv3small", "MobileNetV3Small"),
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("resnet34", "resnet50"),
        ("convnext_tiny", "ConvNeXtTiny"),
    ],
)
def test_a_wrong_name_is_refused_with_similar_ones(name, near):
    with pytest.raises(ValueError, match=rf"BACKBONE is '{name}'; expected one like [\w, ]*{near}"):
        tiny_config(BACKBONE=name)


@pytest.mark.parametrize("value", [(a_keras_model, TAPS), (3, TAPS), 3, None, ("resnet50", TAPS)])
def test_a_backbone_that_is_no_network_is_refused(value):
    with pytest.raises(ValueError, match=r"BACKBONE is .*expected .*\(keras_model, \[names"):
        tiny_config(BACKBONE=value)


# ---- keras.applications ----------------------------------------------------------------------------------------------
def pixels_as_keras_wants_them(source: keras.Model, name: str, pixels: np.ndarray) -> np.ndarray:
    """Pixels for the whole network of Keras, which scales them itself or has a `preprocess_input`."""
    if name.startswith("EfficientNetB"):  # its statistics are in the file of weights
        norm = source.get_layer(leading_layers(source)[1])
        values = {"mean": [0.485, 0.456, 0.406], "variance": np.square([0.229, 0.224, 0.225])}
        for weight in norm.weights:
            weight.assign(values.get(weight.name, 0))
        norm.finalize_state()
    return inspect.getmodule(getattr(keras.applications, name)).preprocess_input(pixels.copy())


@pytest.mark.parametrize(
    ("name", "channels", "why"),
    [
        ("EfficientNetB0", (144, 240, 672, 1280), "its preprocessing has weights"),
        ("VGG16", (256, 512, 512, 512), "BGR"),
        ("Xception", (128, 256, 728, 2048), "convolutions without padding"),
    ],
)
def test_maps_are_those_of_keras(name, channels, why):
    """Of its whole network on its own preprocessing, at the strides 4 to 32."""
    source = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    image = keras.Input((None, None, 3))
    ours = keras.Model(image, application_graph(image, name, MEAN)[1:])
    theirs = keras.Model(source.inputs[0], last_maps(source))
    weighted = [layer for layer in theirs.layers if layer.weights and layer.name not in leading_layers(source)]
    for layer, copy in zip(weighted, [layer for layer in ours.layers if layer.weights], strict=True):
        copy.set_weights(layer.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3)).astype("float32")
    expected = keras.models.clone_model(theirs, input_tensors=image, clone_function=lambda layer: layer)(
        pixels_as_keras_wants_them(source, name, pixels)
    )
    for found, wanted, stride, count in zip(ours(pixels - np.float32(MEAN)), expected, STRIDES, channels, strict=True):
        found, wanted = numpy(found), numpy(wanted)
        assert found.shape == (1, 128 // stride, 128 // stride, count)
        start = (found.shape[1] - wanted.shape[1]) // 2  # padded
        middle = found[:, start : start + wanted.shape[1], start : start + wanted.shape[2]]
        np.testing.assert_allclose(middle, wanted, atol=1e-5 * np.abs(wanted).max())
        assert found.sum() == pytest.approx(middle.sum(), rel=1e-3)


def test_weights_that_keras_reads_are_copied(tmp_path):
    source = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    source.save_weights(tmp_path / "mobilenet.weights.h5")
    network = application("MobileNet", weights=str(tmp_path / "mobilenet.weights.h5"))
    np.testing.assert_array_equal(
        network.get_layer("conv_pw_13").get_weights()[0], source.get_layer("conv_pw_13").get_weights()[0]
    )
    assert type(network.get_layer("conv1_bn")) is BatchNorm


def test_one_channel_is_refused():
    with pytest.raises(ValueError, match="'MobileNet' needs IMAGE_CHANNEL_COUNT = 3; it is 1"):
        application_graph(keras.Input((64, 64, 1)), "MobileNet", 0)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_model("training", tmp_path_factory.mktemp("trainer"), BACKBONE="MobileNetV3Small", MEAN_PIXEL=MEAN)


def test_a_model_with_an_application_is_saved_and_loaded(trainer, tmp_path):
    trainer.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.config.BACKBONE == "MobileNetV3Small"
    for before, after in zip(trainer.weights, again.weights, strict=True):
        np.testing.assert_array_equal(after, before, err_msg=before.path)
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3))
    maps, same = (keras.Model(m.stages.image, m.stages.backbone)(image) for m in (trainer, again))
    assert all(np.array_equal(numpy(a), numpy(b)) for a, b in zip(maps, same, strict=True))
    assert len(trainer.detect([photo()])) == 1
    trainer.config.MEAN_PIXEL = [0, 0, 0]
    with pytest.raises(ValueError, match="MEAN_PIXEL was"):
        trainer.detect([photo()])
    trainer.config.MEAN_PIXEL = MEAN


@pytest.mark.parametrize(("word", "first"), [("heads", 99), ("3+", 1), ("4+", 3), ("5+", 8)])
def test_stages_of_an_application_follow_its_strides(trainer, word, first):
    """C2 of MobileNetV3Small ends inside block 1, C3 in block 3 and C4 in block 8, before their strides."""
    set_trainable(trainer, layer_regex(trainer, word), None, verbose=0)
    for layer in trainer.layers:
        block = re.match(r"expanded_conv_(\d+)_(?!expand)", layer.name)
        if layer.weights and block:
            assert bool(layer.trainable_weights) == (int(block[1]) >= first), layer.name
    assert trainer.get_layer("fpn_c5p5").trainable_weights and not trainer.get_layer("conv").trainable_weights
    set_trainable(trainer, ".*", False, verbose=0)
    norms = [layer for layer in trainer.layers if isinstance(layer, BatchNorm)]
    assert len(norms) > 30 and not any(layer.trainable_weights for layer in norms)


# ---- Keras models with named layers ----------------------------------------------------------------------------------
def test_a_model_with_a_keras_model_as_backbone_is_saved_and_loaded(tmp_path):
    backbone = a_keras_model()
    model = tiny_model("inference", tmp_path, BACKBONE=(backbone, TAPS), MEAN_PIXEL=MEAN)
    assert model.get_layer("conv0") is backbone.get_layer("conv0")  # with the user's weights
    molded, _, _ = model.mold_inputs([photo()])
    c2 = numpy(keras.Model(model.stages.image, model.stages.backbone[0])(molded))
    expected = numpy(keras.Model(backbone.inputs[0], backbone.get_layer("out0").output)(np.float32(photo()[None])))
    np.testing.assert_allclose(c2, expected, atol=1e-3)  # it gets pixels of 0..255
    assert not backbone.get_layer("norm2").trainable_weights  # TRAIN_BN is False
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.config.BACKBONE[1] == TAPS and again.get_layer("conv0") is not backbone.get_layer("conv0")
    for before, after in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(after, before, err_msg=before.path)
    model.save_weights(tmp_path / "model.h5")
    assert weights.read_settings(tmp_path / "model.h5") is None  # too large for an attribute
    assert not again.load_weights(tmp_path / "model.h5").missing
    with pytest.raises(ValueError, match="which has its own weights"):
        again.load_weights("imagenet")


def test_stages_of_a_keras_model_follow_its_taps(tmp_path):
    model = tiny_model("training", tmp_path, BACKBONE=(a_keras_model(), TAPS))
    set_trainable(model, layer_regex(model, "4+"), None, verbose=0)
    assert [bool(model.get_layer(f"conv{i}").trainable_weights) for i in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("pools", "taps", "train_bn", "message"),
    [
        ((4, 2, 2, 2), ["out0", "out1", "out2", "ouut3"], None, r"'mine' has no layer 'ouut3'; similar ones are out3"),
        ((2, 2, 2, 2), TAPS, None, r"'out0' of 'mine' gives \(1, 256, 256, 4\).*expected a map of the stride 4"),
        ((4, 2, 2, 2), TAPS, True, "TRAIN_BN = True isn't possible"),
    ],
)
def test_wrong_taps_are_refused_by_name(pools, taps, train_bn, message):
    with pytest.raises(ValueError, match=message):
        tapped_graph(keras.Input((None, None, 3)), a_keras_model(pools), taps, 0.0, train_bn)


# ---- ImageNet --------------------------------------------------------------------------------------------------------
def test_imagenet_weights_of_an_application_are_loaded(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("MRCNN_CACHE", str(tmp_path))
    network = application("MobileNetV3Small")
    weights.save_matterport_h5(network, tmp_path / f"MobileNetV3Small_imagenet_keras{keras.__version__}.h5")
    report = trainer.load_weights("imagenet")
    names = {layer.name for layer in trainer.layers}  # do not depend on what was built before
    assert {layer.name for layer in network.layers[1:]} <= names
    assert not report.unused and not [name for name in report.missing if not re.match("fpn|rpn|mrcnn", name)]
    np.testing.assert_array_equal(trainer.get_layer("conv").kernel, network.get_layer("conv").kernel)


def test_no_connection_is_an_error_that_says_where_the_file_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("MRCNN_CACHE", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    config = tiny_config(BACKBONE="VGG19")
    with pytest.raises(ConnectionError, match=r"ImageNet weights of VGG19: .*vgg19.*~/.keras/models"):
        weights.imagenet_weights(config)
