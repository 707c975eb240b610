"""The class MaskRCNN: detection on all kinds of photos, changed settings and weights, files, matterport's names.

Empty cases come first: no photos, no objects, photos of one pixel.
"""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
from keras import ops
from kit import TWO_IMAGES, Batches, Squares, make_batch, model_layer, numpy, photo, tiny_config, tiny_model
from PIL import Image

from mrcnn import model as modellib
from mrcnn.distribution import Devices
from mrcnn.inference.detector import Detector
from mrcnn.model import (
    CLASS_DEPENDENT_LAYERS,
    INFERENCE_OUTPUTS,
    MaskRCNN,
    batch_pack_graph,
    compute_backbone_shapes,
    log,
)
from mrcnn.ops.anchors import backbone_shapes, generate_pyramid_anchors
from mrcnn.ops.boxes import norm_boxes
from mrcnn.training import frozen_layers
from mrcnn.weights import read_class_names

CLASSES = 3


def shake(model, seed=0):
    """Weights with which the random network finds something: no class is always the likeliest."""
    rng = np.random.default_rng(seed)
    logits, deltas = (model.get_layer(name).layer for name in ("mrcnn_class_logits", "mrcnn_bbox_fc"))
    logits.kernel.assign(0.05 * rng.normal(size=logits.kernel.shape))
    logits.bias.assign(np.array([-2.0, 0, 0]))
    deltas.kernel.assign(1e-4 * rng.normal(size=deltas.kernel.shape))
    return model


@pytest.fixture(scope="module")
def inference(tmp_path_factory):
    return shake(tiny_model("inference", tmp_path_factory.mktemp("logs")))


@pytest.fixture(scope="module")
def training(tmp_path_factory, inference):
    """A model for training with the weights of `inference`."""
    model = tiny_model("training", tmp_path_factory.mktemp("logs"), seed=5)
    for name, weights in by_layer(inference).items():
        model_layer(model, name).set_weights(weights)
    return model


def by_layer(model) -> dict:
    """Arrays by the layers' names, those in `rpn_model` included. Modes differ in the order of their layers."""
    found = {}
    for layer in model.layers:
        found.update(by_layer(layer) if isinstance(layer, keras.Model) else {layer.name: layer.get_weights()})
    return {name: weights for name, weights in found.items() if weights}


def assert_equal_weights(ours, theirs):
    ours, theirs = by_layer(ours), by_layer(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture
def settings(inference):
    """The inference model's settings; put back afterwards."""
    before = dict(vars(inference.config))
    yield inference.config
    vars(inference.config).clear()
    vars(inference.config).update(before)


def same(ours, theirs, atol=1e-5):
    """Equal results of `detect` on one photo."""
    np.testing.assert_array_equal(ours["class_ids"], theirs["class_ids"])
    np.testing.assert_array_equal(ours["rois"], theirs["rois"])
    np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=atol)
    assert ours["masks"].shape == theirs["masks"].shape
    assert np.mean(ours["masks"] != theirs["masks"]) < 1e-3 if ours["masks"].size else True


def check(result, height, width):
    """Shapes, types and ranges of one photo's result."""
    n = len(result["class_ids"])
    assert set(result) == {"rois", "class_ids", "scores", "masks"}
    assert result["rois"].shape == (n, 4) and result["rois"].dtype == np.int32
    assert result["class_ids"].shape == (n,) and result["class_ids"].dtype == np.int32
    assert result["scores"].shape == (n,) and result["scores"].dtype == np.float32
    assert result["masks"].shape == (height, width, n) and result["masks"].dtype == bool
    y1, x1, y2, x2 = result["rois"].T
    assert ((y1 >= 0) & (x1 >= 0) & (y2 <= height) & (x2 <= width) & (y1 < y2) & (x1 < x2)).all()
    assert ((result["class_ids"] >= 1) & (result["class_ids"] < CLASSES)).all()
    assert (np.diff(result["scores"]) <= 0).all() and (result["scores"] <= 1).all()
    for i, (top, left, bottom, right) in enumerate(result["rois"]):  # a mask stays inside its box
        outside = result["masks"][..., i].copy()
        outside[top:bottom, left:right] = False
        assert not outside.any()
    return n


# ---- Empty inputs ----------------------------------------------------------------------------------------------------
def test_detect_without_photos(inference):
    assert inference.detect([]) == []


def test_detect_finds_no_objects(inference, settings):
    settings.DETECTION_MIN_CONFIDENCE = 1.0
    for result in inference.detect([photo(), photo(30, 90)]):
        assert len(result["rois"]) == 0
    check(result, 30, 90)


def test_photos_of_one_pixel_or_line(inference):
    for height, width in ((1, 1), (1, 200), (300, 1)):
        check(inference.detect([np.full((height, width, 3), 200, np.uint8)])[0], height, width)


def test_a_black_and_a_white_photo(inference):
    for value in (0, 255):
        check(inference.detect([np.full((64, 64, 3), value, np.uint8)])[0], 64, 64)


def test_objects_are_found(inference):
    """Otherwise the tests below would compare empty results."""
    assert min(check(r, 64, 64) for r in inference.detect([photo(seed=i) for i in range(4)])) > 0


# ---- Photos of every kind --------------------------------------------------------------------------------------------
def test_photos_of_different_sizes_do_not_affect_each_other(inference):
    photos = [
        photo(64, 64),
        photo(40, 90, seed=1),
        photo(128, 128, seed=2),
        photo(90, 33, seed=3),
        photo(64, 64, seed=4),
    ]
    together = inference.detect(photos)  # five photos, a batch of two
    assert len(together) == 5
    for image, result in zip(photos, together):
        assert check(result, *image.shape[:2]) > 0
        same(result, inference.detect([image])[0])


def test_images_do_not_share_results(inference):
    """matterport #31, #96: the same result for all images of a batch."""
    first, second = inference.detect([photo(seed=0), photo(64, 64, seed=1)])
    assert not np.array_equal(first["scores"], second["scores"])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_photos(inference, count):
    assert len(inference.detect([photo()] * count)) == count


def test_a_stack_of_photos_and_a_tuple(inference):
    expected = inference.detect([photo(), photo(seed=1)])
    for images in (np.stack([photo(), photo(seed=1)]), (photo(), photo(seed=1))):
        for ours, theirs in zip(inference.detect(images), expected):
            same(ours, theirs)


def test_one_photo_without_a_list_is_refused(inference):
    with pytest.raises(ValueError, match=r"\(64, 64, 3\).*detect\(\[image\]\)"):
        inference.detect(photo())


def test_paths_are_read_upright(inference, tmp_path):
    """`detect(["photo.jpg"])` failed with a message about shapes, and `detect("photo.jpg")` about a string."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo()).save(tmp_path / "a.png")
    Image.fromarray(np.rot90(photo()).copy()).save(tmp_path / "turned.png", exif=exif)
    (expected,) = inference.detect([photo()])
    for images in (str(tmp_path / "a.png"), tmp_path / "a.png", [tmp_path / "turned.png"], [photo()]):
        same(inference.detect(images)[0], expected)
    same(inference.detect(iter([photo()]))[0], expected)
    mixed = inference.detect([str(tmp_path / "a.png"), photo()])
    same(mixed[0], mixed[1])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        inference.detect("nowhere.jpg")
    with pytest.raises(ValueError, match=r"images\[0\] is None.*cv2\.imread"):
        inference.detect([None])


def test_standardized_floats_are_molded_as_in_training(inference, settings):
    # Training took floats 0..1 with a MEAN_PIXEL below 1, detect refused them.
    settings.MEAN_PIXEL = np.array([0.5, 0.5, 0.5])
    (found,) = inference.detect([photo() / 255])
    check(found, 64, 64)


def test_a_value_range_applies_to_the_photo(inference, settings):
    (expected,) = inference.detect([photo()])
    settings.IMAGE_RANGE = (0, 1)
    same(inference.detect([photo() / 255])[0], expected, atol=1e-4)
    settings.IMAGE_RANGE = (0, 255 * 16)
    same(inference.detect([photo().astype("uint16") * 16])[0], expected, atol=1e-4)


GRAY = photo()[..., 0]
KINDS = {
    "float 0..255": (photo().astype("float32"), photo()),
    "float64": (photo().astype("float64"), photo()),
    "int64": (photo().astype("int64"), photo()),
    "16 bit": (photo().astype("uint16") * 257, photo()),
    "RGBA": (np.dstack([photo(), np.full((64, 64), 255, np.uint8)]), photo()),
    "gray": (GRAY, np.dstack([GRAY] * 3)),
    "gray with a channel": (GRAY[..., None], np.dstack([GRAY] * 3)),
    "bool": (GRAY > 100, np.dstack([(GRAY > 100) * np.uint8(255)] * 3)),
    "a view": (photo(64, 128)[:, ::2], np.ascontiguousarray(photo(64, 128)[:, ::2])),
    "read only": (np.frombuffer(photo().tobytes(), np.uint8).reshape(64, 64, 3), photo()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_other_types_give_the_results_of_their_rgb(inference, kind):
    given, rgb = KINDS[kind]
    before = given.copy()
    same(inference.detect([given])[0], inference.detect([rgb])[0], atol=1e-4)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((64, 64, 3), np.nan), "NaN"),
        (photo() / 255, "0..1"),
        (np.zeros((0, 64, 3), np.uint8), "pixel"),
        (np.zeros((64, 64, 5), np.uint8), "5 channels"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"\(2, 64, 64, 3\)"),
        (None, "expected"),
    ],
)
def test_an_invalid_photo_is_refused_with_its_index(inference, image, message):
    with pytest.raises(ValueError, match=rf"images\[1\].*{message}"):
        inference.detect([photo(), image])


def test_a_molded_image_is_accepted_as_in_matterport(inference):
    """The idiom `detect(np.expand_dims(mold_image(image, config), 0))`: floats below 0 are no error."""
    molded = modellib.mold_image(photo(), inference.config)
    check(inference.detect(np.expand_dims(molded, 0))[0], 64, 64)


# ---- All resize modes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "min_dim", "shape", "molded"),
    [
        ("square", 64, (50, 100), (64, 64)),
        ("square", None, (20, 30), (64, 64)),
        ("pad64", None, (50, 100), (64, 128)),
        ("pad64", 64, (32, 100), (64, 256)),
        ("none", None, (64, 128), (64, 128)),
        ("crop", 64, (64, 64), (64, 64)),
        ("crop", 64, (100, 50), (128, 64)),
    ],
)
def test_every_resize_mode_detects(inference, settings, mode, min_dim, shape, molded):
    settings.IMAGE_RESIZE_MODE, settings.IMAGE_MIN_DIM = mode, min_dim
    images, metas, windows = inference.mold_inputs([photo(*shape)])
    assert images.shape == (1, *molded, 3) and images.dtype == np.float32
    y1, x1, y2, x2 = windows[0]
    assert abs((y2 - y1) / (x2 - x1) - shape[0] / shape[1]) < 0.1  # the whole photo, its sides in proportion
    check(inference.detect([photo(*shape)])[0], *shape)


def test_mode_crop_detects_the_whole_photo_repeatably(inference, settings):
    """matterport detected on a random crop and stretched the result over the photo."""
    settings.IMAGE_RESIZE_MODE = "crop"
    first, second = (inference.detect([photo(300, 200)])[0] for _ in range(2))
    same(first, second)


def test_mode_none_refuses_sizes_that_the_pyramid_cannot_halve(inference, settings):
    settings.IMAGE_RESIZE_MODE = "none"
    with pytest.raises(ValueError, match=r"images\[1\] is 64 x 100 .*pad64"):
        inference.detect([photo(64, 64), photo(64, 100)])


def test_sizes_mixed_in_a_batch_of_pad64(inference, settings):
    settings.IMAGE_RESIZE_MODE, settings.IMAGE_MIN_DIM = "pad64", None
    photos = [photo(64, 64), photo(64, 64, seed=1), photo(100, 64), photo(64, 64, seed=2), photo(30, 120)]
    for image, result in zip(photos, inference.detect(photos)):
        check(result, *image.shape[:2])
        same(result, inference.detect([image])[0])


# ---- The same whatever the way ---------------------------------------------------------------------------------------
def test_a_batch_of_two_equals_two_batches_of_one(inference):
    images, metas, _ = inference.mold_inputs([photo(), photo(50, 60, seed=1)])
    inputs = [images, metas.astype("float32")]
    both = inference.predict_on_batch(inputs)
    for i in range(2):
        alone = inference.predict_on_batch([x[i : i + 1] for x in inputs])
        for name, ours, theirs in zip(INFERENCE_OUTPUTS, both, alone):
            np.testing.assert_allclose(ours[i], theirs[0], atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    ("sides", "devices", "sizes", "why"),
    [
        ([512] * 9, 1, [4, 4, 1], "memory of four images"),
        ([64] * 9, 1, [8, 1], "small images: BATCH_SIZE"),
        ([1024, 1024], 1, [1, 1], "at least one"),
        ([512] * 6 + [256] * 3, 1, [4, 2, 3], "images of one shape"),
        ([1024] * 3, 2, [3], "devices share a whole batch"),
    ],
)
def test_large_batches_do_not_take_the_memory_of_all_images(sides, devices, sizes, why):
    images = [np.empty((side, side, 3), np.uint8) for side in sides]
    parts = list(Detector(None, Devices(count=devices), (64, 64, 3)).parts(images, batch_size=8))
    assert [part.stop - part.start for part in parts] == sizes, why
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(sides)))


def test_issue_801_detect_molded_equals_detect(inference):
    """matterport ignored the window. With photos of the network's size, both results are comparable."""
    photos = [photo(), photo(seed=1), photo(seed=2)]
    images, metas, _ = inference.mold_inputs(photos)
    for as_type in (np.asarray, list):
        molded = inference.detect_molded(as_type(images), as_type(metas))
        for ours, theirs in zip(molded, inference.detect(photos)):
            same(ours, theirs)
    wide = inference.detect_molded(*inference.mold_inputs([photo(32, 64)])[:2])[0]
    check(wide, 64, 64)
    assert wide["rois"][:, 0].min() >= 16 and wide["rois"][:, 2].max() <= 48  # the window: rows 16..48


def test_a_model_for_training_detects_as_one_for_inference(inference, training):
    photos = [photo(), photo(40, 90, seed=1), photo(100, 100, seed=2)]
    for ours, theirs in zip(training.detect(photos), inference.detect(photos)):
        assert len(theirs["rois"])
        same(ours, theirs)


def test_verbose_logs_the_inputs_and_changes_no_result(inference, capsys):
    quiet = inference.detect([photo()])[0]
    assert capsys.readouterr().out == ""
    same(inference.detect([photo()], verbose=1)[0], quiet)
    out = capsys.readouterr().out
    assert "Processing 1 images" in out and "image_metas" in out
    inference.detect_molded(*inference.mold_inputs([photo()])[:2], verbose=1)
    assert "molded_images" in capsys.readouterr().out


def test_detect_from_several_threads(inference):
    expected, found = inference.detect([photo()])[0], []

    def work():
        found.append(inference.detect([photo()])[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for result in found:
        same(result, expected)


# ---- What changes later ----------------------------------------------------------------------------------------------
def test_detection_settings_changed_later_take_effect(inference, training):
    for model in (inference, training):
        config = model.config
        before = model.detect([photo()])[0]
        assert len(before["rois"]) > 2
        config.DETECTION_MAX_INSTANCES = 2
        two = model.detect([photo()])[0]
        np.testing.assert_array_equal(two["rois"], before["rois"][:2])
        config.DETECTION_MAX_INSTANCES, config.DETECTION_MIN_CONFIDENCE = 6, float(before["scores"][1])
        assert len(model.detect([photo()])[0]["rois"]) == np.sum(before["scores"] >= before["scores"][1])
        config.DETECTION_MIN_CONFIDENCE = 0
        config.POST_NMS_ROIS_INFERENCE = 1
        assert len(model.detect([photo()])[0]["rois"]) <= 1
        config.POST_NMS_ROIS_INFERENCE = 20
        same(model.detect([photo()])[0], before)


def test_nms_settings_changed_later_take_effect(inference, settings):
    settings.DETECTION_MAX_INSTANCES = 20

    def overlaps():
        """How many pairs of boxes of one class overlap by a pixel or more."""
        result = inference.detect([photo()])[0]
        first, second = np.triu_indices(len(result["rois"]), 1)
        near = np.maximum(result["rois"][first, :2], result["rois"][second, :2])
        far = np.minimum(result["rois"][first, 2:], result["rois"][second, 2:])
        same_class = result["class_ids"][first] == result["class_ids"][second]
        return np.sum((far - near > 1).all(axis=1) & same_class)

    some = overlaps()
    settings.DETECTION_NMS_THRESHOLD = 0
    assert 0 == overlaps() < some
    settings.DETECTION_NMS_THRESHOLD, settings.RPN_NMS_THRESHOLD = 0.3, 0
    assert overlaps() < some


def test_batch_and_image_size_can_be_changed_later(inference, settings):
    expected = inference.detect([photo()] * 3)
    settings.BATCH_SIZE = 1
    for ours, theirs in zip(inference.detect([photo()] * 3), expected):
        same(ours, theirs)
    settings.IMAGE_MAX_DIM = 128
    assert inference.mold_inputs([photo()])[0].shape == (1, 128, 128, 3)
    check(inference.detect([photo(90, 90)])[0], 90, 90)


def test_a_setting_made_invalid_later_is_refused(inference, settings):
    settings.IMAGE_MAX_DIM = 100
    with pytest.raises(ValueError, match="IMAGE_MAX_DIM is 100"):
        inference.detect([photo()])


def test_new_weights_take_effect_at_once(tmp_path):
    for mode in ("training", "inference"):
        model = shake(tiny_model(mode, tmp_path))
        first = model.detect([photo()])[0]
        kept = model.get_weights()
        shake(model, seed=1)
        second = model.detect([photo()])[0]
        assert not np.array_equal(first["scores"], second["scores"])
        model.set_weights(kept)
        same(model.detect([photo()])[0], first)


def test_detecting_while_training_uses_the_current_weights(tmp_path):
    model = shake(tiny_model("training", tmp_path))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.detect([photo()])[0])

    batch = make_batch(model.config, TWO_IMAGES)
    model.compile(learning_rate=1e-3, run_eagerly=True)
    before = model.detect([photo()])[0]
    model.fit(Batches(batch), epochs=2, verbose=0, callbacks=[Look()])
    same(seen[-1], model.detect([photo()])[0])
    assert not np.array_equal(before["scores"], seen[0]["scores"])


# ---- Files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
@pytest.mark.parametrize(("mode", "other"), [("training", "inference"), ("inference", "training")])
def test_weights_round_trip_between_modes_is_exact(tmp_path, ending, mode, other):
    model = shake(tiny_model(mode, tmp_path, seed=1))
    path = str(tmp_path / f"x{ending}")
    model.save_weights(path)
    for by_name in (True, False):
        again = tiny_model(other, tmp_path, seed=2)
        report = again.load_weights(path, by_name=by_name)
        assert not report.missing and not report.unused
        assert_equal_weights(again, model)
        same(again.detect([photo()])[0], model.detect([photo()])[0], atol=0)


def test_a_checkpoint_with_matterports_name_sets_the_epoch(tmp_path, training):
    folder = tmp_path / "tiny20200102T0304"
    folder.mkdir()
    path = folder / "mask_rcnn_tiny_0007.h5"
    training.keras_model.save_weights(str(path))
    model = tiny_model("training", tmp_path)
    assert model.epoch == 0
    model.load_weights(str(path), by_name=True)
    assert (model.epoch, model.log_dir) == (7, str(folder))
    assert model.checkpoint_path == str(folder / "mask_rcnn_tiny_{epoch:04d}.h5")
    assert model.find_last() == str(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a backbone that a .keras file can name, trained for a step, and the file."""
    folder = tmp_path_factory.mktemp("saved")
    model = shake(tiny_model("training", folder, BACKBONE="mobilenet_v2", ADD_GT_TO_PROPOSALS=True))
    model.set_trainable(r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)", verbose=0)
    model.compile(learning_rate=0.002, momentum=0.8, run_eagerly=True)
    batch = make_batch(model.config, TWO_IMAGES)
    model.fit(Batches(batch), verbose=0)
    path = str(folder / "model.keras")
    model.class_names = ["BG", "square", "disc"]
    model.save(path)
    return model, path, batch


def test_keras_file_round_trip_is_exact(saved):
    model, path, _ = saved
    again = keras.saving.load_model(path)
    assert isinstance(again, MaskRCNN) and again.mode == "training"
    assert again.class_names == model.class_names == read_class_names(path) == ["BG", "square", "disc"]
    for name, value in model.config.to_dict().items():
        np.testing.assert_array_equal(value, again.config.to_dict()[name], err_msg=name)
    assert_equal_weights(again, model)
    same(again.detect([photo()])[0], model.detect([photo()])[0], atol=0)


def test_keras_file_keeps_the_optimizer_and_frozen_layers(saved):
    model, path, batch = saved
    again = keras.saving.load_model(path)
    assert frozen_layers(again) == frozen_layers(model) and "block_3_expand" in frozen_layers(again)
    assert again.optimizer.momentum == 0.8 and float(numpy(again.optimizer.learning_rate)) == pytest.approx(0.002)
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    history = again.fit(Batches(batch), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_weights_of_a_keras_file_load_into_the_other_mode(saved, tmp_path):
    model, path, _ = saved
    other = tiny_model("inference", tmp_path, seed=9, BACKBONE="mobilenet_v2")
    other.load_weights(path)
    same(other.detect([photo()])[0], model.detect([photo()])[0])


def test_saving_a_callable_backbone_to_keras_is_refused(inference, tmp_path):
    with pytest.raises(ValueError, match=r"BACKBONE .*weights\.h5"):
        inference.save(tmp_path / "x.keras")


# ---- matterport's names ----------------------------------------------------------------------------------------------
def test_inputs_and_outputs_of_inference(inference):
    assert [x.name for x in inference.inputs] == ["input_image", "input_image_meta"]
    images, metas, _ = inference.mold_inputs([photo()])
    shapes = [x.shape for x in inference.keras_model.predict([images, metas.astype("float32")], verbose=0)]
    assert shapes == [(1, 6, 6), (1, 20, 3), (1, 20, 3, 4), (1, 6, 8, 8, 3), (1, 20, 4), (1, 1023, 2), (1, 1023, 4)]


def test_outputs_of_training_by_name(training):
    assert set(training.output) == {
        "rpn_class_logits", "rpn_class", "rpn_bbox", "rpn_rois", "output_rois", "target_class_ids", "target_bbox",
        "target_mask", "mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask",
    }  # fmt: skip
    rows = 5 if keras.backend.backend() == "jax" else None  # int(16 * 0.33) can be positive; a step drops empty ones
    assert training.output["mrcnn_mask"].shape == (None, rows, 8, 8, 3)


def test_layer_names_match_matterport(inference, training):
    names = {layer.name for layer in inference.layers}
    assert {
        "ROI", "mrcnn_detection", "mrcnn_mask", "mrcnn_bbox", "mrcnn_class", "rpn_class", "rpn_bbox", "input_image",
        "rpn_model", "anchors", "roi_align_classifier", "roi_align_mask", "fpn_p6",
    } <= names  # fmt: skip
    assert {"proposal_targets", "ROI"} <= {layer.name for layer in training.layers}
    with_weights = [{x.name for x in m.layers if x.weights} for m in (inference, training)]
    assert with_weights[0] == with_weights[1]
    assert inference.name == training.name == "mask_rcnn"


def test_keras_model_is_the_model_itself(inference):
    assert inference.keras_model is inference and isinstance(inference, keras.Model)
    inference.keras_model._make_predict_function()
    inference.summary(print_fn=lambda *args, **kwargs: None)


def test_the_constructor_takes_positions_and_keywords(tmp_path, capsys):
    config = tiny_config()
    first = MaskRCNN("inference", config, str(tmp_path))
    second = MaskRCNN(mode="inference", config=config, model_dir="")
    assert first.mode == second.mode == "inference" and first.config is config
    assert first.log_dir.startswith(str(tmp_path)) and first.epoch == 0
    assert not list(tmp_path.iterdir())  # a run folder is made when training begins


@pytest.mark.parametrize("mode", ["train", None, "Inference"])
def test_an_unknown_mode_is_refused(mode, tmp_path):
    with pytest.raises(ValueError, match=rf"mode is {mode!r}; expected one of training, inference"):
        MaskRCNN(mode, tiny_config(), str(tmp_path))


def test_a_wrong_setting_is_refused_when_building(tmp_path):
    config = tiny_config()
    config.IMAGE_MAX_DIM = 1000
    with pytest.raises(ValueError, match="IMAGE_MAX_DIM is 1000"):
        MaskRCNN("inference", config, str(tmp_path))


def test_matterports_build_gives_a_plain_model(inference):
    config = inference.config
    assert len(inference.build("inference", config).outputs) == 7
    assert len(inference.build(mode="training", config=config).inputs) == 7


@pytest.mark.parametrize("shape", [(64, 64, 3), (128, 192, 3)])
def test_get_anchors(inference, shape):
    config = inference.config
    expected = generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, backbone_shapes(shape, config.BACKBONE_STRIDES),
        config.BACKBONE_STRIDES, 1,
    )  # fmt: skip
    for _ in range(2):
        np.testing.assert_allclose(inference.get_anchors(shape), norm_boxes(expected, shape[:2]))
        np.testing.assert_array_equal(inference.anchors, expected)
        inference.get_anchors((64, 128, 3))  # in between, another size: `anchors` is never stale


def test_anchors_in_the_graph_are_those_of_get_anchors(inference):
    images, metas, _ = inference.mold_inputs([photo()])
    found = inference.run_graph(images, [("a", inference.get_layer("anchors").output)], metas)["a"]
    np.testing.assert_allclose(found[0], inference.get_anchors(images.shape[1:]), atol=1e-6)


def test_compute_backbone_shapes():
    config = tiny_config()
    np.testing.assert_array_equal(compute_backbone_shapes(config, (64, 100, 3))[:2], [[16, 25], [8, 13]])
    config = tiny_config(COMPUTE_BACKBONE_SHAPE=lambda shape: [(1, 2)] * 5)
    np.testing.assert_array_equal(compute_backbone_shapes(config, (64, 64, 3)), [[1, 2]] * 5)


def test_mold_and_unmold_image_are_inverse(inference):
    config = inference.config
    molded = modellib.mold_image(photo(), config)
    assert molded.dtype == np.float32
    np.testing.assert_allclose(molded[0, 0], photo()[0, 0] - config.MEAN_PIXEL, atol=1e-4)
    np.testing.assert_array_equal(modellib.unmold_image(molded, config), photo())


def test_mold_inputs(inference):
    images, metas, windows = inference.mold_inputs([photo(), photo(32, 128)])
    assert images.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(windows, [[0, 0, 64, 64], [24, 0, 40, 64]])
    meta = modellib.parse_image_meta(metas)
    np.testing.assert_array_equal(meta["original_image_shape"], [[64, 64, 3], [32, 128, 3]])
    np.testing.assert_array_equal(meta["image_shape"], [[64, 64, 3]] * 2)
    np.testing.assert_array_equal(meta["window"], windows)
    np.testing.assert_allclose(meta["scale"], [1, 0.5])
    assert meta["active_class_ids"].all()


def test_hand_computed_unmold_detections(inference):
    # A photo of 20 x 40 on a molded image of 41 x 41, rows 10..31 of it. Normalized, the window is 0.25..0.75 high.
    detections = np.zeros((4, 6))
    detections[0] = [0.25, 0, 0.75, 0.5, 2, 0.9]  # the left half
    detections[1] = [0.5, 0.5, 0.5, 0.9, 1, 0.8]  # a line: no area left
    detections[2] = [0.5, 0.5, 0.75, 1, 1, 0.7]  # the lower right quarter
    masks = np.zeros((4, 4, 4, CLASSES))
    masks[0, :, :, 2] = masks[2, :, 2:, 1] = 1  # of the second only the right half
    boxes, class_ids, scores, full = inference.unmold_detections(
        detections, masks, (20, 40, 3), (41, 41, 3), (10, 0, 31, 41)
    )
    np.testing.assert_array_equal(boxes, [[0, 0, 20, 20], [10, 20, 20, 40]])  # b * (size - 1) + [0, 0, 1, 1], rounded
    np.testing.assert_array_equal(class_ids, [2, 1])
    np.testing.assert_allclose(scores, [0.9, 0.7])
    assert full.shape == (20, 40, 2) and full[2:18, 2:18, 0].all() and not full[:, 20:, 0].any()
    assert full[12:18, 31:38, 1].all() and not full[:10, :, 1].any() and not full[:, :29, 1].any()


def test_unmold_without_detections(inference):
    boxes, class_ids, scores, masks = inference.unmold_detections(
        np.zeros((4, 6)), np.zeros((4, 4, 4, 3)), (20, 40, 3), (64, 64, 3), (0, 0, 64, 64)
    )
    assert boxes.shape == (0, 4) and len(class_ids) == len(scores) == 0 and masks.shape == (20, 40, 0)


def test_trainable_layers_are_unwrapped(inference):
    layers = inference.get_trainable_layers()
    assert all(layer.get_weights() for layer in layers)
    assert not any(hasattr(layer, "layer") for layer in layers) and len(layers) > 20


def test_log_prints_shape_and_range(capsys):
    log("image", np.array([[1.0, 2.0]]))
    log("empty", np.zeros((0, 4)))
    log("words")
    lines = capsys.readouterr().out.splitlines()
    assert "shape: (1, 2)" in lines[0] and "min:    1.00000" in lines[0] and "max:    2.00000" in lines[0]
    assert "float64" in lines[0] and "shape: (0, 4)" in lines[1] and lines[2] == "words"


def test_batch_pack_graph_concatenates_rows():
    x = ops.convert_to_tensor(np.arange(12).reshape(2, 3, 2))
    found = numpy(batch_pack_graph(x, [1, 2], 2))
    np.testing.assert_array_equal(found, [[0, 1], [6, 7], [8, 9]])


@pytest.mark.parametrize("name", [
    "BatchNorm", "compute_backbone_shapes", "identity_block", "conv_block", "resnet_graph", "apply_box_deltas_graph",
    "clip_boxes_graph", "ProposalLayer", "log2_graph", "PyramidROIAlign", "overlaps_graph", "detection_targets_graph",
    "DetectionTargetLayer", "refine_detections_graph", "DetectionLayer", "rpn_graph", "build_rpn_model",
    "fpn_classifier_graph", "build_fpn_mask_graph", "smooth_l1_loss", "rpn_class_loss_graph", "rpn_bbox_loss_graph",
    "mrcnn_class_loss_graph", "mrcnn_bbox_loss_graph", "mrcnn_mask_loss_graph", "load_image_gt",
    "build_detection_targets", "build_rpn_targets", "generate_random_rois", "data_generator", "MaskRCNN",
    "compose_image_meta", "parse_image_meta", "parse_image_meta_graph", "mold_image", "unmold_image",
    "trim_zeros_graph", "batch_pack_graph", "norm_boxes_graph", "denorm_boxes_graph", "log",
])  # fmt: skip
def test_every_name_of_matterport_exists(name):
    assert callable(getattr(modellib, name))


def test_gray_images_of_one_channel(tmp_path):
    model = tiny_model("inference", tmp_path, IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=np.array([100.0]))
    check(model.detect([GRAY])[0], 64, 64)
    same(model.detect([GRAY[..., None]])[0], model.detect([GRAY])[0])


def test_a_config_without_a_name_still_detects(tmp_path):
    model = tiny_model("inference", tmp_path, NAME=None)
    check(model.detect([photo()])[0], 64, 64)


# ---- What a weight file says about its model -------------------------------------------------------------------------
def test_class_names_travel_with_checkpoints_but_not_with_excluded_heads(tmp_path):
    model = tiny_model("inference", tmp_path, BACKBONE="mobilenet_v2")
    model.class_names = ["BG", "square", "disc"]
    path = str(tmp_path / "a.h5")
    model.save_weights(path)
    again = MaskRCNN("inference", model_dir=str(tmp_path), weights=path)
    assert again.class_names == ["BG", "square", "disc"]
    assert again.config.to_json() == model.config.to_json()
    again.class_names = None
    again.load_weights(path, by_name=True, exclude=list(CLASS_DEPENDENT_LAYERS))
    assert again.class_names is None


def test_a_model_without_config_and_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got no config, and weights=None has no settings"):
        MaskRCNN("inference", model_dir=str(tmp_path))


def test_skip_mismatch_leaves_layers_of_other_shapes_alone(tmp_path):
    path = str(tmp_path / "three.h5")
    tiny_model("inference", tmp_path).save_weights(path)
    other = tiny_model("inference", tmp_path, NUM_CLASSES=5)
    report = other.load_weights(path, by_name=True, skip_mismatch=True)
    assert set(report.mismatched) == {"mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask"}
    assert "conv1" in report.loaded and "3 have other shapes in the file" in str(report)
    assert repr(report).endswith("3 mismatched>")


def test_a_validation_set_whose_ids_mean_other_classes_is_refused(tmp_path):
    class Renamed(Squares):
        def prepare(self, class_map=None):
            for info, name in zip(self.class_info[1:], ("disc", "square")):
                info["name"] = name
            super().prepare(class_map)

    model = tiny_model("training", tmp_path)
    with pytest.raises(ValueError, match="'disc' in the validation set .*'square' was expected"):
        model.train(Squares(2), Renamed(2), 0.001, 1, "heads")
    model.class_names = ["BG", "square", "disc"]
    with pytest.raises(ValueError, match="but 'square' was expected"):
        model.evaluate_dataset(Renamed(2))
