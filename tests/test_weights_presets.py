"""Whole models from checkpoints of torchvision: the right network, all weights, and the same file back."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mrcnn import Config, MaskRCNN, verify, weights
from mrcnn.weights import downloads
from mrcnn.weights.coco_classes import COCO_80, COCO_91
from mrcnn.weights.golden.records import GOLDEN, golden_of
from mrcnn.weights.layouts import Network
from mrcnn.weights.presets import PRESETS

LISTING = Path(__file__).parent / "golden" / "torch" / "torchvision_v1_state.txt"
DETECTRON2_LISTING = LISTING.with_name("detectron2_R50-FPN_state.txt")
SMALL = {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "POST_NMS_ROIS_INFERENCE": 10, "DETECTION_MAX_INSTANCES": 5}
FEATURES, CLASSES = 16, 3


def small_state() -> dict[str, np.ndarray]:
    """A torchvision v1 with 3 classes and 16 features in the class head."""
    rng = np.random.default_rng(0)
    state = {}
    for line in LISTING.read_text().splitlines():
        name, sizes, _ = line.split("\t")
        shape = [int(n) for n in sizes.split(",")]
        if "fc6" in name or "fc7" in name:
            shape[0] = FEATURES
        if "fc7.weight" in name or ("box_predictor" in name and name.endswith("weight")):
            shape[1] = FEATURES
        shape = [{91: CLASSES, 364: 4 * CLASSES}.get(n, n) for n in shape]
        values = rng.random(shape, "float32") - np.float32(0.5)
        state[name] = np.abs(values) if name.endswith("running_var") else values
    return state


@pytest.fixture(scope="module")
def state():
    return small_state()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    weights.write_state_dict(path, state)
    return path


@pytest.fixture(scope="module")
def model(path):
    return MaskRCNN.from_preset("torchvision", weights=path, **SMALL)


def test_the_network_is_built_from_the_file(model, state):
    config = model.config
    assert (config.CONVENTION, config.NUM_CLASSES, config.FPN_CLASSIF_FC_LAYERS_SIZE) == ("torchvision", 3, 16)
    assert (config.BATCH_NORM_EPS, config.BACKBONE_STRIDE_IN, config.IMAGE_MIN_DIM) == (0.0, "3x3", 64)
    assert model.class_names is None  # nobody says what its three classes are
    kernel = model.get_layer("conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, state["backbone.body.conv1.weight"].transpose(2, 3, 1, 0))


def test_saving_in_torchvision_layout_reproduces_the_file(model, state, tmp_path):
    model.save_weights(tmp_path / "back.pth", layout="torchvision")
    back = weights.read_state_dict(tmp_path / "back.pth")
    assert list(back) != [] and set(back) == set(state)
    for name, values in state.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
    with pytest.raises(ValueError, match="needs a model with CONVENTION = 'detectron2'; this one has 'torchvision'"):
        model.save_weights(tmp_path / "no.pth", layout="detectron2")
    with pytest.raises(ValueError, match="layout is 'caffe'; expected one of torchvision, detectron2"):
        model.save_weights(tmp_path / "no.pth", layout="caffe")


def test_each_load_can_report_its_mapping(model, path, tmp_path):
    report = model.load_weights(path)
    assert report.missing == report.unused == []
    report.to_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        rows = {row["in the file"]: row for row in csv.DictReader(file)}
    fc6 = rows["roi_heads.box_head.fc6.weight"]
    assert (fc6["layer"], fc6["array"], fc6["shape"]) == ("mrcnn_class_conv1", "kernel", "7x7x256x16")
    assert (fc6["shape in the file"], fc6["conversion"]) == ("16x12544", "O(IHW) to HWIO")
    assert rows["rpn.head.bbox_pred.bias"]["conversion"] == "xy to yx"


def test_a_class_mismatch_names_the_setting_and_what_to_exclude(model, state, tmp_path):
    other = dict(state)
    heads = ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask")
    for name in [name for name in other if name.startswith(heads)]:
        shape = (5 * len(other[name]) // CLASSES, *other[name].shape[1:])
        other[name] = np.zeros(shape, "float32")
    weights.write_state_dict(tmp_path / "five.pth", other)
    with pytest.raises(ValueError, match=r"5 classes: set NUM_CLASSES = 5 \(here 3\)\. For other classes, exclude="):
        model.load_weights(tmp_path / "five.pth")
    report = model.load_weights(tmp_path / "five.pth", exclude=["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask"])
    assert len(report.excluded) == 3


def test_a_model_with_another_convention_is_refused(path):
    image = keras.Input((8, 8, 3))
    other = keras.Model(image, keras.layers.Conv2D(64, 7, name="conv1")(image))
    other.config = Config(NAME="plain", NUM_CLASSES=3)
    with pytest.raises(ValueError, match=r"stride in 3x3.*Build it with .*set CONVENTION = 'torchvision'\."):
        weights.load_weights_by_name(other, path, skip_mismatch=True)


def test_another_mean_pixel_than_that_of_the_file_warns_with_the_setting(tmp_path):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.Conv2D(64, 7, name="conv1")(image))
    path = tmp_path / "resnet.pth"
    # The backbone's names and shapes are enough: no tensor but that of conv1 is read.
    rows = (line.split("\t") for line in DETECTRON2_LISTING.read_text().splitlines())
    names = {name.removeprefix("backbone.bottom_up."): sizes for name, sizes, _ in rows if "bottom_up" in name}
    state = {name: np.zeros([int(n) for n in sizes.split(",")], "float16") for name, sizes in names.items()}
    weights.write_state_dict(path, state | {"pixel_mean": np.float32([[[1]], [[2]], [[3]]])})
    model.config = Config(NAME="own", CONVENTION="detectron2")
    with pytest.warns(
        UserWarning, match=r"mean pixel \[3.0, 2.0, 1.0\] .*has MEAN_PIXEL = \[123.675, 116.28, 103.53\]"
    ):
        weights.load_weights_by_name(model, path, skip_mismatch=True)
    model.config = Config(NAME="own", CONVENTION="detectron2", MEAN_PIXEL=[3, 2, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.load_weights_by_name(model, path, skip_mismatch=True)


def test_custom_classes_skip_the_class_layers(path):
    model = MaskRCNN.from_preset("torchvision", "inference", classes=["cat"], weights=path, **SMALL)
    assert model.class_names == ["BG", "cat"] and model.config.NUM_CLASSES == 2
    assert model.get_layer("mrcnn_class_logits").get_weights()[0].shape == (FEATURES, 2)


def test_a_resnet_without_a_detector_is_loaded_by_name(model, state, path, tmp_path, capsys):
    alone = {
        key.removeprefix("backbone.body."): array for key, array in state.items() if key.startswith("backbone.body")
    }
    alone |= {"conv1.weight": 2 * alone["conv1.weight"], "fc.weight": np.zeros((1000, 2048), "float32")}
    weights.write_state_dict(tmp_path / "resnet50.pth", alone)
    report = model.load_weights(tmp_path / "resnet50.pth", by_name=True)
    assert {"conv1", "bn_conv1", "res5c_branch2c"} <= set(report.loaded) and "mrcnn_mask" in report.missing
    kernel = model.get_layer("conv1").get_weights()[0]
    model.load_weights(path)
    np.testing.assert_array_equal(kernel, 2 * model.get_layer("conv1").get_weights()[0])
    assert verify.main([str(tmp_path / "resnet50.pth")]) == 0
    assert "a backbone alone" in capsys.readouterr().out


def test_diverged_weights_warn(model, state, tmp_path):
    weights.write_state_dict(tmp_path / "nan.pth", {**state, "rpn.head.cls_logits.bias": np.full(3, np.nan, "float32")})
    with pytest.warns(UserWarning, match=r"NaN or infinite weights in 1 of .*rpn_model/rpn_class_raw"):
        report = model.load_weights(tmp_path / "nan.pth")
    assert report.not_finite == ["rpn_model/rpn_class_raw"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("torchvison_v2", {}, "no preset or folder 'torchvison_v2'. Did you mean 'torchvision_v2'?"),
        ("imagenet", {}, "no preset or folder 'imagenet'. Expected"),
        ("torchvision", {"classes": ["cat"], "num_classes": 3}, "num_classes is 3, and classes has 2"),
        ("detectron2/mask_rcnn_R_50_FPN_3x", {}, "has weights of torchvision, which 'detectron2"),
    ],
)
def test_unsupported_networks_are_named(path, name, arguments, says):
    with pytest.raises(ValueError, match=says):
        MaskRCNN.from_preset(name, weights=path, **arguments)


def test_presets_are_valid_settings_with_all_class_names():
    assert len(COCO_91) == 91 and len(COCO_80) == 81
    assert (COCO_91[90], COCO_91[12], COCO_80[80]) == ("toothbrush", "N/A 12", "toothbrush")
    for name, preset in PRESETS.items():
        config = Config(NAME="preset", **preset.settings)
        assert config.NUM_CLASSES == len(preset.class_names), name
        assert config.BACKBONE == ("resnet101" if "R_101" in name else "resnet50"), name
        digits = preset.checksum.removeprefix("md5:")
        assert digits in preset.url.rsplit("/", 1)[1], name


def test_the_documented_table_has_all_presets_with_their_figures():
    lines = (Path(__file__).parents[1] / "docs" / "weights.md").read_text().splitlines()
    table = {
        cells[1].strip("` "): [c.strip() for c in cells[2:-1]] for line in lines if len(cells := line.split("|")) == 9
    }
    for name, preset in PRESETS.items():
        aps = ["-" if ap is None else str(ap) for ap in (preset.box_ap, preset.mask_ap)]
        size = f"{preset.megabytes} MB" if preset.megabytes else "-"
        license = "CC BY-SA 3.0" if "CC BY-SA" in preset.license else "no text"
        assert table[name][:2] + table[name][3:5] == [*aps, size, license], name
        original = any(golden.preset == name for golden in GOLDEN.values())
        assert table[name][5] == ("itself" if original else "parts"), name
    assert {"coco", "balloon", "shapes"} < set(table)


def test_preset_facts_are_shown_once_before_the_download(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(downloads, "download", lambda url, path, checksum: Path(path).touch() or path)
    for name, preset in PRESETS.items():
        caplog.clear()
        downloads.pretrained(name, tmp_path)
        downloads.pretrained(name, tmp_path)  # the file is there now
        (record,) = caplog.records
        message = record.getMessage()
        assert record.levelname == "WARNING" and message.startswith(f"{name}: {preset.url}")
        assert preset.license in message and f"begins with {preset.checksum.removeprefix('md5:')}" in message
        assert "AP" not in message or f"box AP {preset.box_ap}, mask AP {preset.mask_ap}" in message
        assert (name in ("torchvision", "torchvision_v2")) == (f"({preset.megabytes} MB)" in message)
        assert ("CC BY-SA 3.0" in message) == name.startswith("detectron2/")
    assert len(list(tmp_path.iterdir())) == len(PRESETS)


def test_verify_checks_the_arrays_the_conversion_and_each_stage(path, state, tmp_path, capsys):
    assert verify.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "NUM_CLASSES = 3" in printed and "0 arrays have no place" in printed
    assert "0 tensors differ when converted back" in printed
    for stage in ("C5", "rpn_deltas_P6", "proposals missing", "box deltas", "scores", "mask pixels not near 0.5"):
        assert stage in printed
    assert "TOO LARGE" not in printed
    broken = {
        **state,
        "extra.weight": np.zeros(1, "float32"),
        "rpn.head.cls_logits.bias": np.full(3, np.inf, "float32"),
    }
    del broken["roi_heads.box_head.fc7.bias"]
    weights.write_state_dict(tmp_path / "broken.pth", broken)
    assert verify.main([str(tmp_path / "broken.pth")]) == 1
    printed = capsys.readouterr().out
    for line in (
        "missing: roi_heads.box_head.fc7.bias",
        "place: extra.weight",
        "infinite values: rpn.head.cls_logits.bias",
    ):
        assert line in printed
    (tmp_path / "text.pth").write_bytes(b"text")
    assert verify.main([str(tmp_path / "text.pth")]) == 1
    assert "text.pth is not a weight file" in capsys.readouterr().err


def test_verify_names_tensors_that_changed():
    before = {"a": np.ones(3, "float32"), "b": np.zeros(2, "float32"), "c": np.zeros(1)}
    after = {"a": before["a"] + np.float32(1e-7), "b": before["b"], "d": np.zeros(1)}
    assert verify.changed_tensors(before, after) == ["a", "c", "d"]
    assert verify.changed_tensors(before, dict(before)) == []


def test_the_recorded_network_is_recognized_by_its_parts():
    for name, golden in GOLDEN.items():
        network = Network.of_config(Config(NAME="golden", **PRESETS[golden.preset].settings), name.split("_")[0])
        assert golden_of(network) == name
    network = Network("torchvision", classes=3)
    assert golden_of(network) == "torchvision_v1" and golden_of(replace(network, backbone="resnet101")) is not None
    assert golden_of(replace(network, head_norm="group")) is None
    assert golden_of(Network("detectron2", classes=3, class_agnostic_mask=True)) is None
