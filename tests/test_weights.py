"""Weight files and checkpoints, on models of a few numbers with the names of the real one."""

from __future__ import annotations

import datetime
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
from kit import write_layers

from mrcnn import weights
from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS
from mrcnn.weights import matterport_h5
from mrcnn.weights.imagenet import packaged_weights
from mrcnn.weights.readers import keras_archive

layers = keras.layers
HEADS = list(CLASS_DEPENDENT_LAYERS)


def small_model(classes=3, channels=3, ratios=2, extra=False):
    """One layer of each kind that Mask R-CNN has: plain, BatchNorm, nested model, wrapped ones, transposed."""
    image = layers.Input((8, 8, channels), name="input_image")
    c1 = layers.Conv2D(4, 3, padding="same", name="conv1")(image)
    c1 = layers.BatchNormalization(name="bn_conv1")(c1)
    feature_map = layers.Input((None, None, 4), name="input_rpn_feature_map")
    shared_conv = layers.Conv2D(5, 3, name="rpn_conv_shared")(feature_map)
    logits = layers.Conv2D(2 * ratios, 1, name="rpn_class_raw")(shared_conv)
    deltas = layers.Conv2D(4 * ratios, 1, name="rpn_bbox_pred")(shared_conv)
    rpn = keras.Model(feature_map, [logits, deltas], name="rpn_model")
    rois = layers.Reshape((4, 4, 4, 4), name="roi_align_classifier")(c1)
    x = layers.TimeDistributed(layers.BatchNormalization(), name="mrcnn_class_bn1")(rois, training=False)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D(), name="pool_squeeze")(x)
    class_logits = layers.TimeDistributed(layers.Dense(classes), name="mrcnn_class_logits")(x)
    boxes = layers.TimeDistributed(layers.Dense(4 * classes), name="mrcnn_bbox_fc")(x)
    masks = layers.TimeDistributed(layers.Conv2DTranspose(4, 2, strides=2), name="mrcnn_mask_deconv")(rois)
    masks = layers.TimeDistributed(layers.Conv2D(classes, 1), name="mrcnn_mask")(masks)
    if extra:
        masks = layers.Conv3D(2, 1, name="mrcnn_mask_extra")(masks)
    model = keras.Model(image, [*rpn(c1), class_logits, boxes, masks], name="mask_rcnn")
    fill(model, seed=classes)
    return model


def fill(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.weights])


def by_layer(model):
    """{layer: arrays}, the inner layers of `rpn_model` apart."""
    flat = [x for layer in model.layers for x in (layer.layers if isinstance(layer, keras.Model) else [layer])]
    return {layer.name: layer.get_weights() for layer in flat if layer.weights}


def assert_equal_weights(one, other, but=()):
    one, other = by_layer(one), by_layer(other)
    assert one.keys() == other.keys()
    for name in one.keys() - set(but):
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def matterport_file(path, groups, below=""):
    """Writes the legacy layout with h5py alone: groups = {layer: [(weight name, array), ...]}."""
    with h5py.File(path, "w") as file:
        root = file.create_group(below) if below else file
        root.attrs["layer_names"] = [name.encode() for name in groups]
        for layer, arrays in groups.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in arrays], dtype="S99")
            for name, array in arrays:
                group.create_dataset(name, data=array)
    return path


def matterport_groups(model):
    """What matterport's code would have written for `small_model`."""
    kinds = {1: [""], 2: ["kernel", "bias"], 4: ["gamma", "beta", "moving_mean", "moving_variance"]}
    groups = {}
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, keras.Model) else [layer]
        groups[layer.name] = [
            (f"{part.name}/{kind}:0", array)
            for part in inner
            if part.weights
            for kind, array in zip(kinds[len(part.weights)], part.get_weights(), strict=True)
        ]
    return groups


@pytest.fixture(scope="module")
def trained():
    return small_model()


@pytest.fixture
def model():
    """Same shapes as `trained`, other numbers."""
    model = small_model()
    fill(model, seed=99)
    return model


@pytest.fixture
def unchanged(model):
    """Fails the test if it leaves `model` with other numbers."""
    before = model.get_weights()
    yield model
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- Empty inputs ------------------------------------------------------------------------------------------------
def test_a_missing_file_is_named_with_its_neighbors(tmp_path, unchanged):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.h5.*No weight file is in"):
        weights.load_weights_by_name(unchanged, tmp_path / "gone.h5")
    (tmp_path / "other.h5").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"other\.h5"):
        weights.read_weights(tmp_path / "gone.h5")
    with pytest.raises(ValueError, match="is a folder"):
        weights.read_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty \\(0 bytes\\)"),
        (b"\n<!DOCTYPE html><html>Not found", "web page.*Download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x80\x02}q\x00", "pickle exhausted"),
        (b"\x1f\x8b\x08\x00", "gzip.*Unpack"),
        (b"something else", "begins with b'something else', an HDF5 file with"),
    ],
)
def test_other_files_are_recognized_by_their_first_bytes(tmp_path, unchanged, content, says):
    path = tmp_path / "mask_rcnn_coco.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        weights.load_weights_by_name(unchanged, path)


def test_files_without_weights_are_refused(tmp_path, unchanged):
    h5py.File(tmp_path / "nothing.h5", "w").close()
    with pytest.raises(ValueError, match="no Keras weights.*At its top: nothing"):
        weights.read_weights(tmp_path / "nothing.h5")
    path = matterport_file(tmp_path / "no_layers.h5", {})
    assert weights.read_weights(path) == {}
    path = matterport_file(tmp_path / "empty_layers.h5", {"conv1": [], "bn_conv1": []})
    assert weights.read_weights(path) == {}
    with pytest.raises(ValueError, match="holds no weights at all"):
        weights.load_weights_by_name(unchanged, path)
    with zipfile.ZipFile(tmp_path / "torch.keras", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(ValueError, match=r"torch\.keras can't be read as weights.*opcode b'x' unknown"):
        weights.read_weights(tmp_path / "torch.keras")


def test_loading_into_a_model_without_weights_is_refused(tmp_path, trained):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    image = layers.Input((4, 4, 3))
    with pytest.raises(ValueError, match="has no weights yet"):
        weights.load_weights_by_name(keras.Model(image, layers.ReLU()(image)), tmp_path / "a.h5")


# ---- Round trips -------------------------------------------------------------------------------------------------
def test_the_written_file_has_matterports_layout(tmp_path, trained):
    weights.save_matterport_h5(trained, tmp_path / "sub" / "a.h5")  # the folder is made
    assert os.listdir(tmp_path / "sub") == ["a.h5"]  # and no temporary file is left
    with h5py.File(tmp_path / "sub" / "a.h5") as file:
        assert [n.decode() for n in file.attrs["layer_names"]] == [layer.name for layer in trained.layers]
        assert {"backend", "keras_version"} <= set(file.attrs)
        for name, expected in matterport_groups(trained).items():
            assert [n.decode() for n in file[name].attrs["weight_names"]] == [n for n, _ in expected]
            for weight_name, array in expected:
                np.testing.assert_array_equal(file[name][weight_name][()], array)
        assert list(file["mrcnn_mask_deconv/mrcnn_mask_deconv"]) == ["bias:0", "kernel:0"]
        assert [n.decode() for n in file["rpn_model"].attrs["weight_names"]] == [
            f"{layer}/{kind}:0" for layer in ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
            for kind in ("kernel", "bias")
        ]  # fmt: skip


def save_matterport_full_model(model, path):
    matterport_file(path, matterport_groups(model), below="model_weights")


SAVERS = {
    "ours.h5": weights.save_matterport_h5,
    "matterport.h5": lambda model, path: matterport_file(path, matterport_groups(model)),
    "matterport_full_model.h5": save_matterport_full_model,
    "keras_full_model.h5": lambda model, path: model.save(path),
    "keras.weights.h5": lambda model, path: model.save_weights(path),
    "keras.keras": lambda model, path: model.save(path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_layout_loads_exactly(tmp_path, trained, model, name):
    SAVERS[name](trained, tmp_path / name)
    report = weights.load_weights_by_name(model, tmp_path / name, require_all=True)
    assert_equal_weights(model, trained)
    assert len(report.loaded) == 10 and "rpn_model/rpn_class_raw" in report.loaded
    assert not (report.missing or report.excluded or report.unused or report.not_finite)
    stored = weights.read_weights(tmp_path / name)
    assert stored.keys() == {layer.name for layer in trained.layers if layer.weights}
    for layer, arrays in stored.items():
        for a, b in zip(arrays, trained.get_layer(layer).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_keras_reads_what_we_write(tmp_path, trained, model):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    model.load_weights(tmp_path / "a.h5", by_name=True)
    assert_equal_weights(model, trained)


def test_the_optimizer_of_a_compiled_model_is_ignored(tmp_path, model):
    image = layers.Input((2,))
    small = keras.Model(image, layers.Dense(1, name="conv1")(layers.Dropout(0.5)(image)))
    small.compile("adam", "mse")
    small.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    for name in ("a.weights.h5", "a.keras"):
        (small.save_weights if "weights" in name else small.save)(tmp_path / name)
        assert list(weights.read_weights(tmp_path / name)) == ["conv1"]


def test_the_old_imagenet_file_with_its_own_inner_names_loads_by_position(tmp_path, model):
    kernel, bias = np.ones((3, 3, 3, 4), "float32"), np.full(4, 2.0, "float32")
    bn = [("bn_conv1_gamma_1:0", bias), ("bn_conv1_beta_1:0", bias), ("bn_conv1_running_mean_1:0", bias),
          ("bn_conv1_running_std_1:0", bias * 3)]  # fmt: skip
    path = matterport_file(
        tmp_path / "resnet50_notop.h5",
        {"input_1": [], "conv1": [("conv1_W_1:0", kernel), ("conv1_b_1:0", bias)], "bn_conv1": bn, "fc1000": []},
    )
    report = weights.load_weights_by_name(model, path)
    assert report.loaded == ["conv1", "bn_conv1"]
    np.testing.assert_array_equal(model.get_layer("conv1").get_weights()[0], kernel)
    np.testing.assert_array_equal(model.get_layer("bn_conv1").get_weights()[3], bias * 3)
    assert "rpn_model/rpn_conv_shared" in report.missing


def test_time_distributed_groups_of_tf2_ports_load_whatever_the_inner_names(tmp_path, model):
    kernel, bias = np.ones((4, 3), "float32"), np.full(3, 2.0, "float32")
    for inner in ("mrcnn_class_logits/mrcnn_class_logits", "mrcnn_class_logits", "time_distributed_4/dense", "x"):
        names = [(f"{inner}/kernel:0", kernel), (f"{inner}/bias:0", bias)]
        path = matterport_file(tmp_path / "a.h5", {"mrcnn_class_logits": names})
        fill(model, 7)
        weights.load_weights_by_name(model, path)
        np.testing.assert_array_equal(model.get_layer("mrcnn_class_logits").get_weights()[0], kernel)


def test_a_stored_anchors_weight_is_reported_and_not_an_error(tmp_path, trained, model):
    groups = matterport_groups(trained) | {"anchors": [("Variable:0", np.ones((2, 5, 4), "float32"))]}
    report = weights.load_weights_by_name(model, matterport_file(tmp_path / "a.h5", groups), require_all=True)
    assert report.unused == ["anchors"]
    assert "1 of the file are not in the model, and were not used: anchors" in str(report)
    assert_equal_weights(model, trained)


def test_rpn_model_layers_are_matched_by_name(tmp_path, trained, model):
    # Keras 2 wrote trainable arrays first: with rpn_conv_shared frozen, it came last.
    groups = matterport_groups(trained)
    groups["rpn_model"] = groups["rpn_model"][2:] + groups["rpn_model"][:2]
    weights.load_weights_by_name(model, matterport_file(tmp_path / "a.h5", groups))
    assert_equal_weights(model, trained)


def test_rpn_model_layers_without_names_are_matched_by_position(tmp_path, trained, model):
    groups = matterport_groups(trained)
    groups["rpn_model"] = [(f"weight_{i}", array) for i, (_, array) in enumerate(groups["rpn_model"])]
    weights.load_weights_by_name(model, matterport_file(tmp_path / "a.h5", groups))
    assert_equal_weights(model, trained)


def test_a_wrong_number_of_arrays_in_rpn_model_is_reported(tmp_path, trained, unchanged):
    groups = matterport_groups(trained)
    plain = [(f"weight_{i}", array) for i, (_, array) in enumerate(groups["rpn_model"])]
    path = matterport_file(tmp_path / "few.h5", groups | {"rpn_model": plain[:-1]})
    with pytest.raises(ValueError, match=r"rpn_model/rpn_bbox_pred +in the file 1x1x5x8, in the model 1x1x5x8 8"):
        weights.load_weights_by_name(unchanged, path)
    path = matterport_file(tmp_path / "many.h5", groups | {"rpn_model": [*plain, ("weight_6", np.zeros(3))]})
    assert weights.load_weights_by_name(small_model(), path).unused == ["weight_6"]


class Attention(keras.layers.Layer):
    """A layer of several layers, whose order of creation is not that of their names."""

    def __init__(self, prefix="", **kwargs):
        super().__init__(**kwargs)
        self.value = layers.Dense(4, name=f"{prefix}value")
        self.key = layers.Dense(4, name=f"{prefix}key")

    def build(self, shape):
        self.value.build(shape)
        self.key.build(shape)

    def call(self, x):
        return self.value(x) + self.key(x)


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5"])
def test_layers_inside_a_layer_are_not_swapped(tmp_path, name):
    def build(prefix=""):
        image = layers.Input((4,))
        return keras.Model(image, Attention(prefix, name="attention")(image))

    one, other, renamed = build(), build(), build("my_")
    fill(one, 1)
    (weights.save_matterport_h5 if name == "a.h5" else keras.Model.save_weights)(one, tmp_path / name)
    weights.load_weights_by_name(other, tmp_path / name)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    if name == "a.weights.h5":  # Keras's layout has them in the order of their names, and the names don't help here
        with pytest.raises(ValueError, match="attention is made of several layers, key, value in the file and my_"):
            weights.load_weights_by_name(renamed, tmp_path / name)


class ManyArrays(keras.layers.Layer):
    def build(self, shape):
        self.arrays = [self.add_weight(shape=(1,), name=f"array{i}") for i in range(12)]

    def call(self, x):
        return x


@pytest.mark.parametrize("name", ["ours.h5", "keras.weights.h5"])
def test_more_than_ten_arrays_of_a_layer_keep_their_order(tmp_path, name):
    image = layers.Input((4,))
    model = keras.Model(image, ManyArrays(name="many")(image))
    model.set_weights([np.float32([i]) for i in range(12)])
    SAVERS[name](model, tmp_path / name)
    assert [float(a[0]) for a in weights.read_weights(tmp_path / name)["many"]] == list(range(12))


def test_long_name_lists_are_split_as_keras_splits_them(tmp_path, trained, model, monkeypatch):
    monkeypatch.setattr(matterport_h5, "ATTRIBUTE_BYTES", 64)
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert "layer_names" not in file.attrs and "layer_names1" in file.attrs
    weights.load_weights_by_name(model, tmp_path / "a.h5", require_all=True)
    assert_equal_weights(model, trained)
    fill(model, 5)
    model.load_weights(tmp_path / "a.h5", by_name=True)
    assert_equal_weights(model, trained)


def test_bfloat16_survives_both_layouts(tmp_path):
    def build(seed):
        image = layers.Input((3,))
        model = keras.Model(image, layers.Dense(2, dtype="bfloat16", name="fc")(image))
        model.set_weights([np.float32([[1.5, seed], [0, 1], [2, 3]]), np.float32([seed, 4])])
        return model

    one = build(3)
    weights.save_matterport_h5(one, tmp_path / "a.h5")
    one.save_weights(tmp_path / "a.weights.h5")
    for name in ("a.h5", "a.weights.h5"):
        other = build(7)
        weights.load_weights_by_name(other, tmp_path / name)
        np.testing.assert_array_equal(np.float32(other.get_weights()[0]), [[1.5, 3], [0, 1], [2, 3]])
        assert weights.read_weights(tmp_path / name)["fc"][0].dtype == np.float32


def test_a_failed_save_leaves_the_old_file(tmp_path, trained, monkeypatch):
    path = tmp_path / "a.h5"
    weights.save_matterport_h5(trained, path)
    before = path.read_bytes()

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(matterport_h5, "_write_layer", fails)
    with pytest.raises(OSError, match="disk full"):
        weights.save_matterport_h5(trained, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.h5"]


def test_mobilenet_v2_of_keras_applications_loads_by_name(shared):
    path = shared / "data/mobilenet_v2/imagenet_notop.weights.h5"
    ours = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))
    keras_own = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))
    keras_own.load_weights(path)
    report = weights.load_weights_by_name(ours, path, require_all=True)
    assert len(report.loaded) == 104 and not report.unused
    for a, b in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- What fits and what doesn't ----------------------------------------------------------------------------------
def test_another_class_count_is_refused_with_what_to_exclude(tmp_path, unchanged):
    weights.save_matterport_h5(small_model(classes=81), tmp_path / "coco.h5")
    with pytest.raises(ValueError) as error:
        weights.load_weights_by_name(unchanged, tmp_path / "coco.h5")
    text = str(error.value)
    assert "mrcnn_class_logits  in the file 4x81 81, in the model 4x3 3" in text
    assert "mrcnn_bbox_fc       in the file 4x324 324, in the model 4x12 12" in text
    assert "NUM_CLASSES was 81 and is 3 here" in text and f"exclude={HEADS}" in text


def test_the_usual_exclude_list_loads_the_rest(tmp_path, model):
    coco = small_model(classes=81)
    weights.save_matterport_h5(coco, tmp_path / "coco.h5")
    before = small_model()
    fill(before, 99)
    report = weights.load_weights_by_name(model, tmp_path / "coco.h5", exclude=HEADS, require_all=True)
    assert report.excluded == ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask"] and not report.unused
    for name, arrays in by_layer(model).items():
        expected = by_layer(before if name in HEADS else coco)[name]
        for a, b in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"channels": 1}, r"conv1  in the file 3x3x1x4 4, .*IMAGE_CHANNEL_COUNT was 1 and is 3 .*exclude=\['conv1'\]"),
        ({"ratios": 3}, r"RPN_ANCHOR_RATIOS was 3 and is 2 here.*exclude=\['rpn_model'\]"),
    ],
)
def test_other_settings_are_named(tmp_path, unchanged, kwargs, says):
    weights.save_matterport_h5(small_model(**kwargs), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=f"(?s){says}"):
        weights.load_weights_by_name(unchanged, tmp_path / "a.h5")


def test_exclude_accepts_inner_layers_and_ignores_unknown_names(tmp_path, trained, model):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    exclude = ["rpn_class_raw", "no_such_layer", "mrcnn_bbox"]
    report = weights.load_weights_by_name(model, tmp_path / "a.h5", exclude=exclude)
    assert report.excluded == ["rpn_model/rpn_class_raw"]
    assert_equal_weights(model, trained, but=["rpn_class_raw"])
    assert not np.array_equal(by_layer(model)["rpn_class_raw"][0], by_layer(trained)["rpn_class_raw"][0])


def test_excluding_rpn_model_excludes_its_layers(tmp_path, model):
    weights.save_matterport_h5(small_model(ratios=3), tmp_path / "a.h5")
    report = weights.load_weights_by_name(model, tmp_path / "a.h5", exclude="rpn_model")  # a lone name is a name
    assert [name.split("/")[0] for name in report.excluded] == ["rpn_model"] * 3


def test_exclude_none_is_matterports_default(tmp_path, trained, model):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    assert len(weights.load_weights_by_name(model, tmp_path / "a.h5", exclude=None).loaded) == 10


def test_excluding_everything_gives_a_warning(tmp_path, trained, unchanged):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    with pytest.raises(ValueError, match="`exclude` names every layer"):
        weights.load_weights_by_name(unchanged, tmp_path / "a.h5", exclude=[x.name for x in unchanged.layers])


def test_a_file_of_another_network_is_refused_by_names(tmp_path, unchanged):
    image = layers.Input((8, 8, 3))
    other = keras.Model(image, layers.Conv2D(2, 3, name="stem_conv")(image))
    for name in ("a.h5", "a.weights.h5", "a.keras"):
        SAVERS["ours.h5" if name == "a.h5" else f"keras{name[1:]}"](other, tmp_path / name)
        with pytest.raises(ValueError, match=r"(?s)none of its layers.*in the file:  stem_conv.*conv1, bn_conv1"):
            weights.load_weights_by_name(unchanged, tmp_path / name)


def test_a_different_network_gets_no_long_exclude_list(tmp_path):
    def build(width):
        x = image = layers.Input((4,))
        for i in range(30):
            x = layers.Dense(width, name=f"fc{i}")(x)
        return keras.Model(image, x)

    weights.save_matterport_h5(build(2), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"(?s)shapes of 30 layers.*and 10 more.*or a file of this network") as error:
        weights.load_weights_by_name(build(3), tmp_path / "a.h5")
    assert "exclude=" not in str(error.value)


def test_require_all_refuses_a_file_that_lacks_a_layer(tmp_path, trained):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    bigger = small_model(extra=True)
    with pytest.raises(ValueError, match="lacks 1 layers of the model: mrcnn_mask_extra"):
        weights.load_weights_by_name(bigger, tmp_path / "a.h5", require_all=True)
    report = weights.load_weights_by_name(bigger, tmp_path / "a.h5")
    assert report.missing == ["mrcnn_mask_extra"]
    assert "1 of the model are not in the file, and keep their values: mrcnn_mask_extra" in str(report)
    weights.load_weights_by_name(bigger, tmp_path / "a.h5", exclude=["mrcnn_mask_extra"], require_all=True)


def test_issue_2846_nan_weights_of_a_diverged_training_warn(tmp_path, trained, model):
    groups = matterport_groups(trained)
    groups["conv1"][1][1][0] = np.nan
    path = matterport_file(tmp_path / "a.h5", groups)
    with pytest.warns(UserWarning, match=r"NaN or infinite weights in 1 of \d+ layers: conv1\. .*diverged"):
        report = weights.load_weights_by_name(model, path)
    assert report.not_finite == ["conv1"] and "diverged" in str(report)


@pytest.mark.parametrize("name", ["ours.h5", "keras.weights.h5", "keras.keras"])
def test_skip_mismatch_leaves_layers_of_other_shapes_alone_and_reports_them(tmp_path, model, name):
    other = small_model(classes=81)
    SAVERS[name](other, tmp_path / name)
    before = by_layer(model)
    report = weights.load_weights_by_name(model, tmp_path / name, require_all=True, skip_mismatch=True)
    assert report.mismatched == ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask"] and len(report.loaded) == 7
    assert "3 have other shapes in the file, and keep their values: mrcnn_class_logits" in str(report)
    for layer, arrays in by_layer(model).items():
        expected = before if layer in HEADS else by_layer(other)
        for a, b in zip(arrays, expected[layer], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=layer)


def test_skip_mismatch_accepts_a_file_without_some_layers(tmp_path, trained):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    bigger = small_model(extra=True)
    report = weights.load_weights_by_name(bigger, tmp_path / "a.h5", require_all=True, skip_mismatch=True)
    assert report.missing == ["mrcnn_mask_extra"]


def test_skip_mismatch_refuses_a_file_where_nothing_matches(tmp_path):
    def build(width):
        image = layers.Input((width,))
        return keras.Model(image, layers.Dense(width, name="fc")(image))

    weights.save_matterport_h5(build(2), tmp_path / "a.h5")
    with pytest.raises(ValueError, match="does not fit the model; nothing was loaded"):
        weights.load_weights_by_name(build(3), tmp_path / "a.h5", skip_mismatch=True)


def test_the_report_is_one_line_unless_printed(tmp_path, trained):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    report = weights.load_weights_by_name(small_model(extra=True), tmp_path / "a.h5", exclude=["conv1"])
    assert repr(report) == f"<LoadReport {tmp_path / 'a.h5'}: 9 layers loaded, 1 missing, 1 excluded>"
    assert len(str(report).splitlines()) == 3


# ---- Class names -------------------------------------------------------------------------------------------------
class NamedModel(keras.Model):
    """A model that knows its classes, as `MaskRCNN` does."""

    class_names = None

    @classmethod
    def build_with(cls, class_names):
        image = layers.Input((2,))
        model = cls(image, layers.Dense(2, name="mrcnn_class_logits")(image))
        model.class_names = class_names
        return model


@pytest.mark.parametrize(
    "names", [["BG", "cat"], ["BG", "Straße, naß"], ["BG", *(f"class {i} " * 9 for i in range(1500))]]
)
def test_class_names_are_stored_with_the_weights(tmp_path, names):
    model = NamedModel.build_with(names)
    weights.save_matterport_h5(model, tmp_path / "a.h5")
    assert weights.read_class_names(tmp_path / "a.h5") == names
    plain = keras.Model(model.inputs, model.outputs)
    plain.load_weights(tmp_path / "a.h5")  # Keras's reader takes no notice
    np.testing.assert_array_equal(plain.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("name", SAVERS)
def test_a_file_without_class_names_has_none(tmp_path, trained, name):
    SAVERS[name](trained, tmp_path / name)
    assert weights.read_class_names(tmp_path / name) is None


# ---- Broken and hostile files ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ours.h5", "keras.weights.h5", "keras.keras"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, trained, unchanged, name, keep):
    path = tmp_path / name
    SAVERS[name](trained, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match="Delete it"):
        weights.load_weights_by_name(unchanged, path)


def test_a_truncated_file_error_names_both_sizes(tmp_path, trained):
    path = tmp_path / "a.h5"
    weights.save_matterport_h5(trained, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"stops after 5,000 of {size:,} bytes"):
        weights.read_weights(path)


def change(path, action):
    with h5py.File(path, "r+") as file:
        action(file)


def external_link(file):
    del file["conv1"]
    file["conv1"] = h5py.ExternalLink("secret.h5", "/conv1")


def soft_link(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = h5py.SoftLink("/bn_conv1/bn_conv1/gamma:0")


def external_storage(file):
    del file["conv1/conv1/bias:0"]
    file["conv1/conv1"].create_dataset("bias:0", shape=(4,), dtype="float32", external=[("secret.bin", 0, 16)])


def virtual_dataset(file):
    del file["conv1/conv1/bias:0"]
    layout = h5py.VirtualLayout(shape=(4,), dtype="float32")
    layout[:] = h5py.VirtualSource("secret.h5", "bias", shape=(4,))
    file["conv1/conv1"].create_virtual_dataset("bias:0", layout)


def huge_shape(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1"].create_dataset("kernel:0", shape=(2**20, 2**20, 2**10), dtype="float32")


def huge_chunked_shape(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1"].create_dataset("kernel:0", shape=(2**20, 2**20), chunks=(64, 64), dtype="float32")


def bomb(file):
    del file["conv1/conv1/kernel:0"]
    kernel = file["conv1/conv1"].create_dataset("kernel:0", shape=(2**33,), chunks=(1000,), compression="gzip")
    kernel[:1000] = 0


def text(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = ["a", "b"]


def group_for_array(file):
    del file["conv1/conv1/kernel:0"]
    file.create_group("conv1/conv1/kernel:0")


def lost_array(file):
    del file["conv1/conv1/kernel:0"]


def lost_layer(file):
    del file["conv1"]


HOSTILE = {
    external_link: r"link to secret\.h5:/conv1.*hostile",
    soft_link: "link to another place:/bn_conv1.*hostile",
    external_storage: "are in another file.*hostile",
    virtual_dataset: "are in another file.*hostile",
    huge_shape: "claims the shape .* but the file holds 0 bytes",
    huge_chunked_shape: "claims the shape .* but the file holds 0 bytes",
    bomb: "would unpack to 34,359,",
    text: "expected an array of numbers",
    group_for_array: "should be an array but is a group",
    lost_array: "lists conv1/kernel:0, but holds no such",
    lost_layer: "lists conv1, but holds no such",
}


@pytest.mark.parametrize("action", HOSTILE, ids=lambda action: action.__name__)
def test_a_hostile_or_broken_file_is_refused(tmp_path, trained, unchanged, action):
    weights.save_matterport_h5(trained, tmp_path / "a.h5")
    weights.save_matterport_h5(trained, tmp_path / "secret.h5")
    change(tmp_path / "a.h5", action)
    with pytest.raises(ValueError, match=HOSTILE[action]):
        weights.load_weights_by_name(unchanged, tmp_path / "a.h5")


def links_in_a_circle(file):
    file["layers/conv2d/again"] = file["layers"]


def one_group_many_ways(file):
    file["layers/conv2d_9"] = file["layers/conv2d"]


def external_vars(file):
    del file["layers/conv2d/vars"]
    file["layers/conv2d/vars"] = h5py.ExternalLink("secret.h5", "/layers/conv2d/vars")


def no_names(file):
    file.visititems(lambda name, item: item.attrs.pop("name", None) and None)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (links_in_a_circle, "several ways lead to"),
        (one_group_many_ways, "several ways lead to"),
        (external_vars, r"link to secret\.h5"),
        (no_names, "doesn't say the names of its layers"),
    ],
)
def test_a_hostile_or_broken_file_of_keras_is_refused(tmp_path, trained, unchanged, action, says):
    trained.save_weights(tmp_path / "a.weights.h5")
    change(tmp_path / "a.weights.h5", action)
    with pytest.raises(ValueError, match=says):
        weights.load_weights_by_name(unchanged, tmp_path / "a.weights.h5")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_archive, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(100_000))
    with pytest.raises(ValueError, match="would unpack to 100,000 bytes; refused"):
        weights.read_weights(tmp_path / "a.keras")


# ---- Checkpoints -------------------------------------------------------------------------------------------------
def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        h5py.File(root / path, "w").close()


def test_names_are_matterports(tmp_path):
    now = datetime.datetime(2026, 7, 29, 9, 5)
    assert weights.run_folder(tmp_path, "Balloon", now) == str(tmp_path / "balloon20260729T0905")
    assert os.path.basename(weights.run_folder("", "b"))[:3] == "b20"
    assert weights.checkpoint_name("Balloon", 7) == "mask_rcnn_balloon_0007.h5"
    assert weights.checkpoint_name("balloon", 12345) == "mask_rcnn_balloon_12345.h5"
    assert weights.checkpoint_name("balloon") == "mask_rcnn_balloon_{epoch:04d}.h5"


def test_find_last_names_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone does not exist.*mask_rcnn_balloon_0001\.h5"):
        weights.find_last(tmp_path / "gone", "balloon")
    with pytest.raises(FileNotFoundError, match=r"no run of 'balloon'.*<yyyymmddThhmm>.*config\.NAME"):
        weights.find_last(tmp_path, "balloon")
    touch(tmp_path, "balloon20260101T0000/events.tfevents")
    with pytest.raises(FileNotFoundError, match=r"1 run\(s\).*balloon20260101T0000, but none holds"):
        weights.find_last(tmp_path, "balloon")


def test_issue_886_find_last_counts_epochs_also_after_9999(tmp_path):
    run = "balloon20260101T0000"
    touch(tmp_path, *(f"{run}/mask_rcnn_balloon_{e}.h5" for e in ("0002", "9999", "10000")), f"{run}/zzz.h5",
          f"{run}/mask_rcnn_balloon_99999.h5.123.part", f"{run}/mask_rcnn_other_99999.h5")  # fmt: skip
    assert weights.find_last(tmp_path, "Balloon") == str(tmp_path / run / "mask_rcnn_balloon_10000.h5")


def test_issue_362_find_last_ignores_other_files(tmp_path):
    wanted = "balloon20260101T0000/mask_rcnn_balloon_0003.h5"
    touch(
        tmp_path,
        wanted,
        "balloon20251231T2359/mask_rcnn_balloon_0009.h5",  # an older run, though further on
        "balloons20270101T0000/mask_rcnn_balloons_0001.h5",  # another name that begins alike
        "balloon220270101T0000/mask_rcnn_balloon2_0001.h5",
        "balloon_old/mask_rcnn_balloon_0001.h5",
        "balloon20270101T0000",  # a file
    )
    (tmp_path / "balloon20260601T0000").mkdir()  # a newer run that broke off before its first epoch
    assert weights.find_last(tmp_path, "balloon") == str(tmp_path / wanted)


def test_find_last_works_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "shapes20260101T0000/mask_rcnn_shapes_0001.h5")
    for model_dir in ("", ".", "./"):
        assert os.path.isfile(weights.find_last(model_dir, "shapes"))


def test_parse_checkpoint(tmp_path, monkeypatch):
    run = tmp_path / "balloon20260101T0000"
    for epoch in (1, 42, 12345):
        path = run / weights.checkpoint_name("balloon", epoch)
        assert weights.parse_checkpoint(path, "Balloon") == (str(run), epoch)
    touch(tmp_path, "balloon20260101T0000/mask_rcnn_balloon_0007.h5")
    monkeypatch.chdir(run)
    assert weights.parse_checkpoint("mask_rcnn_balloon_0007.h5", "balloon") == (str(run), 7)


@pytest.mark.parametrize(
    "path",
    [
        "mask_rcnn_coco.h5",
        "logs/mask_rcnn_balloon_0001.h5",  # in no run's folder
        "balloon20260101T0000/mask_rcnn_balloon.h5",
        "balloon20260101T0000/mask_rcnn_balloon_0001.h5.part",
        "coco20260101T0000/mask_rcnn_coco_0160.h5",  # weights of another task: its epochs are not ours
        "balloon20260101T0000/mask_rcnn_coco_0160.h5",
    ],
)
def test_issue_907_other_files_start_at_epoch_0(path):
    assert weights.parse_checkpoint(path, "balloon") is None


@pytest.mark.parametrize("damage", ["object of no size", "object beyond the end", "heap beyond the end"])
def test_hdf5_heaps_that_never_end_are_refused(tmp_path, damage):
    # One flipped bit of a file with names of variable length: HDF5 1.14 ran forever.
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["conv1", "conv2"]
    content = bytearray((tmp_path / "w.h5").read_bytes())
    heap = content.index(b"GCOL")
    place, value = {
        "object of no size": (16, bytes(16)),  # number 0, the free one
        "object beyond the end": (24, b"\xff" * 8),
        "heap beyond the end": (8, b"\xff" * 7 + b"\0"),
    }[damage]
    content[heap + place : heap + place + len(value)] = value
    (tmp_path / "w.h5").write_bytes(content)
    for read in (weights.read_weights, weights.read_class_names):
        with pytest.raises(ValueError, match=r"w\.h5 is damaged: an? (object|heap) at byte"):
            read(tmp_path / "w.h5")


@pytest.mark.parametrize(
    ("layers", "backbone"),
    [
        (["Conv1", "block_1_expand"], "mobilenet_v2"),
        (["conv1", "res5a_branch2a", "res4f_branch2a"], "resnet50"),
        (["conv1", "res5a_branch2a", "res4w_branch2a"], "resnet101"),
        (["stem_conv"], None),
    ],
)
def test_the_backbone_is_detected_from_the_weights(tmp_path, layers, backbone):
    write_layers(tmp_path / "x.h5", layers)
    assert weights.backbone_of(tmp_path / "x.h5") == backbone


def test_shipped_and_installed_weights_name_their_backbone():
    assert weights.backbone_of(weights.pretrained("shapes")) == "small_resnet"
    assert weights.backbone_of(packaged_weights("efficientnet_lite0")) == "efficientnet_lite0"
