"""Exports: equal to Keras or not written. The runtime beside them, which has only NumPy, equal to the package.

One tiny network is exported to each format. ONNX and OpenVINO need packages that the tests don't install; their cases
are skipped without them.
"""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from kit import photo, spread_scores, tiny_config, tiny_model
from typer.testing import CliRunner

from mrcnn import MaskRCNN, cli
from mrcnn.conventions import CONVENTIONS
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.coco import save_coco
from mrcnn.export import EXPORT_FORMATS, ParityError, export_model, mrcnn_runtime, parity, saved_model
from mrcnn.export.export import runtime_settings
from mrcnn.inference import molding
from mrcnn.ops.images import resize_image
from mrcnn.ops.masks import paste_masks
from mrcnn.weights.layouts.network import CASCADE_STD_DEVS
from samples.shapes import ShapesDataset

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = tiny_model("inference", tmp_path_factory.mktemp("runs"))
    spread_scores(model)
    model.class_names = ["BG", "square", "disc"]
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """`exported(format)`: the folder of an export, the path of the model in it, and what `export` returned."""
    done = {}

    def export(name: str):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            record = model.export(folder / "model", format=name, verbose=False)
            suffix = EXPORT_FORMATS[name].SUFFIX
            done[name] = folder, folder / f"model{suffix}", record
        return done[name]

    return export


def format_param(name: str, *packages: str):
    return pytest.param(name, packages, id=name)


FORMATS = [
    format_param("saved_model"),
    format_param("litert"),
    format_param("onnx", "tf2onnx", "onnxruntime"),
    format_param("openvino", "openvino"),
]


# ---- Whole exports -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, packages", FORMATS)
def test_exports_agree_on_images_with_no_and_many_objects(exported, name, packages):
    for package in packages:
        pytest.importorskip(package)
    folder, path, record = exported(name)
    assert path.exists() and json.loads((folder / "parity.json").read_text()) == {path.name: record}
    assert record["images"] == 20 and record["batch_sizes"] == [1, 4]
    assert min(record["objects"]) == 0 and max(record["objects"]) == 6  # DETECTION_MAX_INSTANCES
    assert set(record["errors"]) == {"boxes", "scores", "masks"} and not parity.failures(record["errors"])


@pytest.mark.parametrize("name, packages", FORMATS)
def test_photos_of_odd_sizes_give_the_results_of_detect(model, exported, name, packages):
    for package in packages:
        pytest.importorskip(package)
    photos = [photo(97, 61, seed=1), photo(33, 129, seed=2), photo(64, 64, seed=3)]
    runtime = mrcnn_runtime.Model(exported(name)[1])
    assert runtime.class_names == ["BG", "square", "disc"]
    for found, expected in zip(runtime.detect(photos), model.detect(photos), strict=True):
        assert len(expected["scores"]) > 0
        np.testing.assert_array_equal(found["class_ids"], expected["class_ids"])
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        np.testing.assert_allclose(found["rois"], expected["rois"], atol=1)
        assert found["rois"].dtype == np.int32 and found["masks"].shape == expected["masks"].shape
        assert np.mean(found["masks"] != expected["masks"]) < 0.01
    assert [len(x["scores"]) for x in runtime.detect(photos, min_confidence=1.0)] == [0, 0, 0]


def test_a_litert_file_uses_only_built_in_operations(exported):
    """Flex and custom operations need an interpreter that was built for them."""
    from tensorflow.lite.python import schema_py_generated as schema

    file = schema.Model.GetRootAs(exported("litert")[1].read_bytes())
    codes = [file.OperatorCodes(i) for i in range(file.OperatorCodesLength())]
    assert len(codes) > 20
    assert not [code.CustomCode() for code in codes if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM]


def test_an_onnx_file_uses_only_standard_operations(exported):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    file = onnx.load(exported("onnx")[1])
    graphs, nodes = [file.graph], []
    while graphs:
        nodes += graphs[-1].node
        graphs += [a.g for node in graphs.pop().node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    assert {node.domain for node in nodes} == {""}
    assert "NonMaxSuppression" in {node.op_type for node in nodes}  # a loop over the boxes takes most of the time
    onnx.checker.check_model(file)


def test_a_wrong_export_is_refused_with_the_first_wrong_stage(model, tmp_path, monkeypatch):
    def write(network, path):
        """Faulty on purpose: changes the scores by more than a hundredth."""
        bias = model.get_layer("mrcnn_class_logits").weights[1]
        at = [variable is bias for variable in network.model.variables].index(True)
        network.constants[at] = network.constants[at] + np.float32([0, 0.1, 0])
        saved_model.write(network, path)

    faulty = SimpleNamespace(SUFFIX="", FIXED_SHAPES=False, write=write)
    monkeypatch.setitem(EXPORT_FORMATS, "faulty", faulty)
    with pytest.raises(ParityError, match=r'scores .* \(allowed: 0.0001\).* first stage that differs is "classes"'):
        export_model(model, tmp_path / "out" / "model", "faulty", images=[photo(50, 40)])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow  # three class heads
def test_a_cascade_with_the_rules_of_detectron2_is_exported(tmp_path):
    """Other networks than matterport's were never exported: padding, boxes and heads are others."""
    settings = {"CONVENTION": "detectron2", "CASCADE_BBOX_STD_DEVS": CASCADE_STD_DEVS, "CLASS_AGNOSTIC_BOX": True}
    model = tiny_model("inference", tmp_path, **settings, IMAGE_RESIZE_MODE="pad32")
    spread_scores(model)
    photos = [photo(97, 61, seed=1), photo(33, 60, seed=2), photo(64, 64, seed=3)]
    record = model.export(tmp_path / "model", verbose=False, images=photos)
    assert max(record["objects"]) > 1 and not parity.failures(record["errors"])
    (found,), (expected,) = mrcnn_runtime.Model(tmp_path / "model").detect(photos[:1]), model.detect(photos[:1])
    np.testing.assert_allclose(found["rois"], expected["rois"], atol=0.1)


class OwnDetections(Dataset):
    """Photos whose annotations are what a model finds in them."""

    def add_photos(self, model, count):
        for i, name in enumerate(model.class_names[1:], start=1):
            self.add_class("found", i, name)
        photos = [photo(64, 64, seed=i) for i in range(count)]
        for i, (image, found) in enumerate(zip(photos, model.detect(photos))):
            self.add_image("found", i, None, image=image, found=found)
        self.prepare()
        return self

    def load_image(self, image_id):
        return self.image_info[image_id]["image"]

    def load_mask(self, image_id):
        found = self.image_info[image_id]["found"]
        return found["masks"], found["class_ids"]


def test_an_int8_file_whose_ap_is_a_point_lower_is_refused(model, tmp_path, monkeypatch):
    def write(network, path, representative):
        """Faulty on purpose: takes everything for background."""
        assert representative[0]["images"].shape == (1, 64, 64, 3)
        bias = model.get_layer("mrcnn_class_logits").weights[1]
        at = [variable is bias for variable in network.model.variables].index(True)
        network.constants[at] = network.constants[at] + np.float32([20, 0, 0])
        saved_model.write(network, path)

    monkeypatch.setitem(EXPORT_FORMATS, "litert", SimpleNamespace(SUFFIX="", FIXED_SHAPES=True, write=write))
    dataset = OwnDetections().add_photos(model, 3)
    with pytest.raises(ParityError, match=r"mask AP of 0\.0000, Keras (0\.[1-9]\d+|1\.0000): .* more than 0.01"):
        export_model(model, tmp_path / "out" / "model", "litert", images=[photo(50, 40)], dataset=dataset, int8=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_writes_an_int8_file(tmp_path):
    """With LiteRT's quantizer, which the tests don't install."""
    pytest.importorskip("ai_edge_quantizer")
    pytest.importorskip("ai_edge_litert")
    model = MaskRCNN("inference", weights="shapes")
    shapes = ShapesDataset()
    shapes.load_shapes(12, 128, 128)
    shapes.prepare()
    save_coco(shapes, tmp_path / "shapes.json")
    arguments = ["--format", "litert", "--int8", "--images", tmp_path, "--data", tmp_path / "shapes.json", "--json"]
    result = CliRunner().invoke(cli.app, ["export", "shapes", *map(str, arguments), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["int8"] and abs(record["mask_ap"]["difference"]) <= parity.AP_TOLERANCE
    size = (tmp_path / "out" / "model.tflite").stat().st_size
    assert size < 0.4 * 4 * model.count_params()  # a third of float32
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["model.tflite"]["int8"]


# ---- Refusals ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "coreml"}, "format is 'coreml'; expected one of 'onnx', 'litert'"),
        ({"format": "litert", "int8": True}, "pass a dataset"),
        ({"format": "onnx", "int8": True}, "int8 is for"),
        ({"format": "saved_model", "image_size": (64, 100)}, r"image_size is \(64, 100\); .* multiples of 64"),
        ({"format": "saved_model", "images": []}, "images is empty"),
    ],
)
def test_unsupported_models_are_refused_before_the_conversion(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_pad64_models_need_an_image_size(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model.config, "IMAGE_RESIZE_MODE", "pad64")
    with pytest.raises(ValueError, match='"pad64", which has no largest image; pass image_size'):
        export_model(model, tmp_path / "model", "saved_model")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--int8", "--format", "litert"], "needs"),
        (["--size", "800"], "such as"),
        (["--format", "coreml"], "coreml"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(arguments, message):
    result = CliRunner().invoke(cli.app, ["export", "shapes", *arguments])
    assert result.exit_code == 2 and message in result.output


# ---- Comparing ---------------------------------------------------------------------------------------------------
def outputs(count: int = 3, rows: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    real = (np.arange(rows) < count)[None]
    return {
        "boxes": (rng.uniform(0, 1, (1, rows, 4)) * real[..., None]).astype(np.float32),
        "class_ids": (real * np.array([[1, 2, 1, 1, 1]])).astype(np.int32),
        "scores": (real * np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])).astype(np.float32),
        "masks": rng.uniform(0, 1, (1, rows, 4, 4)).astype(np.float32),
    }


def errors_of(expected: dict, found: dict) -> dict[str, float]:
    sample = parity.Sample(np.zeros((1, 8, 8, 3)), np.zeros((1, 4)), np.zeros(2), expected)
    return parity.compare([sample], lambda *inputs: found)["errors"]


def test_rows_after_the_last_object_are_not_compared():
    found = outputs()
    found["masks"][0, 3:] = 0.123
    assert errors_of(outputs(), found) == {"boxes": 0, "scores": 0, "masks": 0}
    assert errors_of(outputs(0), outputs(0)) == {"boxes": 0, "scores": 0, "masks": 0}


@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
@pytest.mark.parametrize("number", [0.01, math.nan])
def test_an_error_in_a_single_value_is_found(name, number):
    found = outputs()
    found[name][0, 2, ...] += np.float32(number)
    errors = errors_of(outputs(), found)
    assert [text.split()[0] for text in parity.failures(errors)] == [name]


def test_a_different_count_or_class_is_an_infinite_error():
    assert errors_of(outputs(3), outputs(2))["boxes"] == math.inf
    other_class = outputs()
    other_class["class_ids"][0, 1] = 1
    assert errors_of(outputs(), other_class)["scores"] == math.inf


def test_two_objects_with_nearly_the_same_score_may_swap_places():
    expected = outputs()
    expected["scores"][0, 2] = expected["scores"][0, 0] - 1e-6
    found = {key: x[:, [2, 1, 0, 3, 4]] for key, x in expected.items()}
    assert max(errors_of(expected, found).values()) == 0


def test_the_first_wrong_stage_is_named():
    expected = {"pyramid_2": np.full((1, 2), 100.0), "proposals": np.ones((1, 4)), "masks": np.ones((1, 2))}
    within = {"pyramid_2": expected["pyramid_2"] + 0.005, "proposals": np.ones((1, 4)), "masks": np.ones((1, 2))}
    assert parity.first_wrong_stage(expected, within) is None
    wrong = {**within, "proposals": np.zeros((1, 4)), "masks": np.zeros((1, 2))}
    assert parity.first_wrong_stage(expected, wrong) == "proposals"


# ---- The runtime -------------------------------------------------------------------------------------------------
def test_the_runtime_needs_only_numpy_to_be_imported():
    tree = ast.parse(Path(mrcnn_runtime.__file__).read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert names == {"__future__", "json", "sys", "collections.abc", "pathlib", "numpy"}


@pytest.mark.parametrize("size", [(97, 61), (33, 129), (128, 128), (20, 30), (1, 7), (300, 200)])
@pytest.mark.parametrize("rules", ["matterport", "torchvision", "detectron2"])
def test_the_runtime_scales_photos_as_the_package_does(model, rules, size):
    convention = CONVENTIONS[rules]
    mode = "square" if rules == "matterport" else "pad32"
    config = tiny_config(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=128)
    settings = runtime_settings(SimpleNamespace(config=config, class_names=None), (128, 128), None)
    settings["resize"] |= {"rounding": convention.side_rounding, "resampling": convention.resampling}
    image = photo(*size)
    expected, window, *_ = resize_image(
        image, 64, 128, None, mode, rounding=convention.side_rounding, resampling=convention.resampling
    )
    fitted, found_window = mrcnn_runtime.fit(image, settings)
    assert tuple(found_window) == tuple(window)
    found = fitted[: expected.shape[0], : expected.shape[1]]
    np.testing.assert_allclose(found, expected, atol=1 if rules != "torchvision" else 1e-3)
    assert np.mean(np.abs(found - expected) > 1e-3) < 1e-3  # a byte may be rounded the other way


@pytest.mark.parametrize("method", ["resize", "padded_resize", "grid_sample"])
def test_the_runtime_pastes_masks_as_the_package_does(method):
    rng = np.random.default_rng(0)
    masks = rng.uniform(0, 1, (4, 8, 8)).astype(np.float32)
    boxes = np.array([[3, 5, 30, 21], [0, 0, 50, 40], [48, 38, 50, 40], [7, 7, 8, 8]], np.float32)
    boxes = boxes.astype(np.int32) if method == "resize" else boxes + np.float32([0.3, 0.1, -0.4, -0.2])
    expected = paste_masks(masks, boxes, (50, 40), method=method)
    found = np.zeros((4, 50, 40), bool)
    for canvas, mask, box in zip(found, masks, boxes):
        mrcnn_runtime.PASTE[method](canvas, mask, box)
    assert expected.any()
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), expected)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))])
def test_the_runtime_refuses_invalid_photos(bad):
    with pytest.raises(ValueError, match="The photo has"):
        mrcnn_runtime.to_channels(bad, 3)


def test_the_runtime_says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.onnx does not exist"):
        mrcnn_runtime.Model(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileNotFoundError, match="model.onnx.json is missing"):
        mrcnn_runtime.Model(tmp_path / "model.onnx")


def test_the_runtime_resizes_like_molding(model):
    settings = runtime_settings(model, (64, 64), None)
    resized, _, windows = molding.resize_inputs([photo(97, 61)], model.config)
    fitted, window = mrcnn_runtime.fit(photo(97, 61), settings)
    np.testing.assert_allclose(fitted, resized[0], atol=1)
    np.testing.assert_array_equal(window, windows[0])
