"""Names and shapes of torchvision and detectron2: every tensor has a place here, and goes back unchanged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn.weights import layouts
from mrcnn.weights.layouts.network import CASCADE_STD_DEVS
from mrcnn.weights.layouts.pieces import to_layers, to_state

GOLDEN = Path(__file__).parent / "golden" / "torch"
MODELS = {  # settings that differ from the convention's, as the file shows them
    "torchvision_v1": {"NUM_CLASSES": 91},
    "torchvision_v2": {
        "NUM_CLASSES": 91, "BOX_HEAD": "conv4fc1", "FPN_NORM": "batch", "HEAD_NORM": "batch", "RPN_CONVS": 2,
    },
    "detectron2_R50-FPN": {"NUM_CLASSES": 81},
    "detectron2_R50-C4": {"NUM_CLASSES": 81, "BOX_HEAD": "c4", "RPN_CHANNELS": 1024},
    "detectron2_cascade": {
        "NUM_CLASSES": 81, "CLASS_AGNOSTIC_BOX": True, "CASCADE_BBOX_STD_DEVS": CASCADE_STD_DEVS,
    },
    "detectron2_LSJ": {
        "NUM_CLASSES": 81, "BOX_HEAD": "conv4fc1", "FPN_NORM": "batch", "HEAD_NORM": "batch", "RPN_CONVS": 2,
    },
}  # fmt: skip


def listing(model: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a model's state dict."""
    rows = (line.split("\t") for line in (GOLDEN / f"{model}_state.txt").read_text().splitlines())
    return {name: tuple(int(n) for n in shape.split(",") if n) for name, shape, _ in rows}


def shapes(model: str) -> dict[str, SimpleNamespace]:
    return {name: SimpleNamespace(shape=shape) for name, shape in listing(model).items()}


def small_state(model: str) -> dict[str, np.ndarray]:
    """The model without stages 4 and 5 of the ResNet, whose blocks repeat those of stage 3, with numbers."""
    numbers = np.random.default_rng(0).random(13_000_000, "float32")
    return {
        name: np.array(7) if name.endswith("tracked") else numbers[: int(np.prod(shape))].reshape(shape)
        for name, shape in listing(model).items()
        if not any(part in name for part in ("layer3", "layer4", "res4", "bottom_up.res5"))
    }


def pieces_of(model: str):
    names = shapes(model)
    module = layouts.LAYOUTS[layouts.find_layout(names)]
    network = module.network_of(names)
    return module, network, module.pieces(network)


@pytest.mark.parametrize("model", MODELS)
def test_the_network_is_recognized_by_names_and_shapes(model):
    _, network, _ = pieces_of(model)
    settings = network.settings()
    assert settings.pop("CONVENTION") == model.split("_")[0]
    assert settings.pop("BACKBONE") == "resnet50"
    plain = {"BOX_HEAD": "fc2", "FPN_NORM": None, "HEAD_NORM": None, "RPN_CONVS": 1, "RPN_CHANNELS": 256,
             "CLASS_AGNOSTIC_BOX": False, "CLASS_AGNOSTIC_MASK": False, "CASCADE_BBOX_STD_DEVS": None,
             "MASK_HEAD_CHANNELS": 256, "TOP_DOWN_PYRAMID_SIZE": 256, "FPN_CLASSIF_FC_LAYERS_SIZE": 1024}  # fmt: skip
    expected = plain | MODELS[model]
    if model.endswith("C4"):
        expected["MASK_SHAPE"] = [14, 14]
        del expected["TOP_DOWN_PYRAMID_SIZE"], expected["FPN_CLASSIF_FC_LAYERS_SIZE"]
    assert settings == expected


@pytest.mark.parametrize("model", MODELS)
def test_tensors_and_variables_match_one_to_one(model):
    module, network, pieces = pieces_of(model)
    sources = [piece.source for piece in pieces if piece.source]
    assert len(sources) == len(set(sources))
    assert len({(piece.layer, piece.kind) for piece in pieces}) == len(pieces)
    assert set(sources) | set(module.counters(network)) == set(listing(model))


@pytest.mark.parametrize("model", MODELS)
def test_the_round_trip_is_bit_identical(model):
    _, _, pieces = pieces_of(model)
    state = small_state(model)
    arrays = {(found.piece.layer, found.piece.kind): found for found in to_layers(pieces, state)}
    pieces = [piece for piece in pieces if (piece.layer, "kernel") in arrays or piece.source in state]
    back = to_state(pieces, lambda layer, kind: arrays[layer, kind].read())
    assert set(back) == {name for name in state if not name.endswith("tracked")}
    for name, values in back.items():
        np.testing.assert_array_equal(values, state[name], err_msg=name)


def test_hand_computed_layer_conversions():
    """torchvision: [out, in, h, w], C, H, W flattened, and (class, dx dy dw dh)."""
    _, _, pieces = pieces_of("torchvision_v1")
    state = small_state("torchvision_v1")
    found = {(f.piece.layer, f.piece.kind): f.read() for f in to_layers(pieces, state) if f.tensor is not None}
    conv = state["backbone.body.conv1.weight"]
    assert found["conv1", "kernel"][2, 5, 1, 40] == conv[40, 1, 2, 5]
    fc6 = state["roi_heads.box_head.fc6.weight"]
    assert found["mrcnn_class_conv1", "kernel"][3, 4, 200, 9] == fc6[9, 200 * 49 + 3 * 7 + 4]
    boxes = state["roi_heads.box_predictor.bbox_pred.weight"]
    np.testing.assert_array_equal(found["mrcnn_bbox_fc", "kernel"][:, 8:12], boxes[[9, 8, 11, 10]].T)
    deconv = state["roi_heads.mask_predictor.conv5_mask.weight"]  # [in, out, h, w]
    assert found["mrcnn_mask_deconv", "kernel"][1, 0, 30, 20] == deconv[20, 30, 1, 0]
    logits = state["rpn.head.cls_logits.bias"]
    np.testing.assert_array_equal(found["rpn_model/rpn_class_raw", "bias"], logits)


def test_detectron2_background_goes_first_with_zero_boxes_and_masks():
    _, _, pieces = pieces_of("detectron2_R50-FPN")
    state = small_state("detectron2_R50-FPN")
    found = {(f.piece.layer, f.piece.kind): f.read() for f in to_layers(pieces, state) if f.tensor is not None}
    logits = state["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(found["mrcnn_class_logits", "kernel"][:, 0], logits[80])
    np.testing.assert_array_equal(found["mrcnn_class_logits", "kernel"][:, 1], logits[0])
    boxes = state["roi_heads.box_predictor.bbox_pred.weight"]
    assert not found["mrcnn_bbox_fc", "kernel"][:, :4].any()
    np.testing.assert_array_equal(found["mrcnn_bbox_fc", "kernel"][:, 4:8], boxes[[1, 0, 3, 2]].T)
    assert not found["mrcnn_mask", "kernel"][..., 0].any()
    masks = state["roi_heads.mask_head.predictor.weight"]
    np.testing.assert_array_equal(found["mrcnn_mask", "kernel"][0, 0, :, 1], masks[0, :, 0, 0])
    stem = state["backbone.bottom_up.stem.conv1.weight"]  # for B, G, R
    assert found["conv1", "kernel"][2, 5, 0, 40] == stem[40, 2, 2, 5]


BGR = "backbone.bottom_up.stem.conv1.weight"
RED, BLUE = 0, 2  # of ours


@pytest.mark.parametrize(
    ("mean", "std", "settings", "reversed_"),
    [
        (None, None, {}, True),
        ([103.53, 116.28, 123.675], [1, 1, 1], {"MEAN_PIXEL": [123.675, 116.28, 103.53]}, True),
        ([10, 20, 30], [57.375, 57.12, 58.395], {"MEAN_PIXEL": [30.0, 20.0, 10.0]}, True),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], {"MEAN_PIXEL": [123.675, 116.28, 103.53]}, False),
    ],
    ids=["none", "detectron2's own", "others", "of RGB images"],
)
def test_the_mean_pixel_of_a_file_is_a_setting_and_its_deviation_is_in_the_first_convolution(
    mean, std, settings, reversed_
):
    # Both were ignored, so that a network trained with others saw images that it did not know.
    names, stem = shapes("detectron2_R50-FPN"), np.random.default_rng(0).random((64, 3, 7, 7), "float32")
    names[BGR] = stem
    pixels = {} if mean is None else {"pixel_mean": np.float32(mean), "pixel_std": np.float32(std)}
    names |= {name: values.reshape(3, 1, 1) for name, values in pixels.items()}
    module = layouts.LAYOUTS["detectron2"]
    network = module.network_of(names)
    assert {k: v for k, v in network.settings().items() if k == "MEAN_PIXEL"} == settings
    kernel = next(p for p in module.pieces(network) if (p.layer, p.kind) == ("conv1", "kernel"))
    ours = kernel.to_ours(stem)
    first = 2 if reversed_ else 0  # their channel of red
    deviations = np.float32(std or [1, 1, 1])
    np.testing.assert_array_equal(ours[..., RED, :], stem[:, first].transpose(1, 2, 0) / deviations[first])
    np.testing.assert_array_equal(ours[..., BLUE, :], stem[:, 2 - first].transpose(1, 2, 0) / deviations[2 - first])
    back = kernel.to_theirs(ours)
    np.testing.assert_allclose(back, stem, rtol=2e-7)
    if std in (None, [1, 1, 1]):
        np.testing.assert_array_equal(back, stem)
        assert module.pixel_tensors(network) == {}
    else:
        for name, values in module.pixel_tensors(network).items():
            np.testing.assert_array_equal(values, names[name], err_msg=name)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        ({"pixel_mean": np.zeros((4, 1, 1))}, r"pixel_mean has the shape \(4, 1, 1\), and its images have 3 channels"),
        ({"pixel_std": np.zeros((3, 1, 1))}, "pixel_std is .*expected positive"),
        ({"pixel_mean": np.full(3, np.nan)}, "pixel_mean is .*expected finite"),
    ],
)
def test_a_mean_pixel_that_can_not_be_one_is_named(pixels, says):
    with pytest.raises(ValueError, match=says):
        layouts.LAYOUTS["detectron2"].network_of(shapes("detectron2_R50-FPN") | pixels)


def test_older_torchvision_names_are_accepted():
    renames = {f"roi_heads.mask_head.{i - 1}.0": f"roi_heads.mask_head.mask_fcn{i}" for i in range(1, 5)}
    renames |= {f"{block}_blocks.{i}.0": f"{block}_blocks.{i}" for i in range(4) for block in ("inner", "layer")}
    renames["rpn.head.conv.0.0"] = "rpn.head.conv"
    old = {}
    for name, tensor in shapes("torchvision_v1").items():
        for new, before in renames.items():
            name = name.replace(new, before)
        old[name] = tensor
    module = layouts.LAYOUTS["torchvision"]
    pieces = module.pieces(module.network_of(old))
    assert {piece.source for piece in pieces if piece.source} == set(old)
    assert [(p.layer, p.kind) for p in pieces] == [(p.layer, p.kind) for p in pieces_of("torchvision_v1")[2]]


def test_groupnorm_heads_and_class_agnostic_masks():
    names = {}
    for name, tensor in shapes("detectron2_LSJ").items():
        if "running" in name and ("fpn" in name or "head" in name):
            continue
        names[name] = SimpleNamespace(shape=(1, *tensor.shape[1:])) if "mask_head.predictor" in name else tensor
    module = layouts.LAYOUTS["detectron2"]
    network = module.network_of(names)
    assert (network.fpn_norm, network.head_norm, network.class_agnostic_mask) == ("group", "group", True)
    pieces = module.pieces(network)
    assert {piece.source for piece in pieces if piece.source} == {n for n in names if not n.endswith("tracked")}
    found = {(f.piece.layer, f.piece.kind): f.shape for f in to_layers(pieces, names)}
    assert found["mrcnn_mask", "kernel"] == (1, 1, 256, 1)
    assert ("mrcnn_mask_bn1", "gamma") in found and ("mrcnn_mask_bn1", "moving_mean") not in found


@pytest.mark.parametrize(
    ("model", "prefix"), [("torchvision_v1", "backbone.body."), ("detectron2_LSJ", "backbone.bottom_up.")]
)
def test_a_resnet_alone_is_the_backbone(model, prefix):
    alone = {name.removeprefix(prefix): t for name, t in shapes(model).items() if name.startswith(prefix)}
    alone["fc.weight"] = SimpleNamespace(shape=(1000, 2048))
    layout = layouts.find_layout(alone)
    module = layouts.LAYOUTS[layout]
    network = module.network_of(alone)
    assert network.settings() == {"CONVENTION": model.split("_")[0], "BACKBONE": "resnet50"}
    assert {p.layer for p in module.pieces(network)} >= {"conv1", "bn_conv1", "res5c_branch2c"}


def renamed(model, old, new):
    return {name.replace(old, new): tensor for name, tensor in shapes(model).items()}


def without(model, part):
    return {name: tensor for name, tensor in shapes(model).items() if part not in name}


def with_shape(model, name, shape):
    return shapes(model) | {name: SimpleNamespace(shape=shape)}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (without("torchvision_v1", "layer3.5."), r"\(3, 4, 5, 3\) blocks"),
        (with_shape("torchvision_v1", "backbone.body.layer1.0.conv2.weight", (128, 4, 3, 3)), "ResNeXt"),
        (without("torchvision_v1", "roi_heads."), "no roi_heads.box_predictor"),
        (without("detectron2_R50-FPN", "fpn_"), "dilated C5"),
        (with_shape("detectron2_R50-FPN", "backbone.bottom_up.res2.0.conv2.weight", (256, 8, 3, 3)), "ResNeXt"),
        (renamed("detectron2_R50-FPN", "res5.1.conv2.", "res5.1.conv2_offset."), "deformable.*conv2_offset"),
        (renamed("detectron2_R50-FPN", "mask_head.deconv", "mask_head.point_head.fc1"), "PointRend"),
        (renamed("detectron2_R50-FPN", "bottom_up.res2.0", "bottom_up.s1.b1"), "RegNet"),
        (without("detectron2_R50-FPN", "running_mean"), "GroupNorm"),
        (renamed("detectron2_R50-FPN", "bottom_up.res2.0", "bottom_up.net.blocks.0"), "vision transformer"),
        (renamed("detectron2_R50-FPN", "roi_heads.box_predictor", "x"), "no roi_heads.box_predictor"),
    ],
)  # fmt: skip
def test_unsupported_networks_are_named(names, says):
    module = layouts.LAYOUTS[layouts.find_layout(names)]
    with pytest.raises(ValueError, match=says):
        module.network_of(names)


def test_a_missing_bias_is_folded_into_the_batchnorm_mean():
    _, _, pieces = pieces_of("torchvision_v1")
    pieces = [piece for piece in pieces if piece.layer in ("conv1", "bn_conv1")]
    arrays = {"kernel": np.ones((7, 7, 3, 64), "float32")}
    values = {"bias": 0.25, "gamma": 2.0, "beta": 0.5, "moving_mean": 1.0, "moving_variance": 4.0}
    arrays |= {kind: np.full(64, value, "float32") for kind, value in values.items()}
    state = to_state(pieces, lambda layer, kind: arrays[kind])
    assert (state["backbone.body.bn1.running_mean"] == 0.75).all()
    assert "backbone.body.conv1.bias" not in state
    with pytest.raises(ValueError, match="conv1 has a bias, for which the layout has no place"):
        to_state([p for p in pieces if p.layer == "conv1"], lambda layer, kind: arrays[kind])
