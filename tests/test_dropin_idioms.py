"""How public scripts and notebooks call matterport's API, run with today's libraries on a tiny network.

Elsewhere: names and import forms in `test_dropin_api`, functions in `test_utils`, graphs, sessions and threads in
`test_dropin_threads`, imgaug imported first in `test_dropin_imgaug`.
"""

from __future__ import annotations

import glob
import os
import random
from pathlib import Path

import cv2
import h5py
import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from kit import Squares, photo, run_eagerly, tiny_config, tiny_model

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config
from mrcnn.model import MaskRCNN

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # see step_by_step
HEADS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
LOSSES = ["rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"]


@pytest.fixture
def step_by_step():
    """Runs TensorFlow without tracing: for tests that train a step or two, several times as fast."""
    with run_eagerly():
        yield


@pytest.fixture(scope="module")
def toys():
    return Squares(4)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, toys):
    """A model that has trained its heads for one epoch, as scripts do it."""
    model = tiny_model("training", tmp_path_factory.mktemp("logs"))
    model.train(toys, toys, learning_rate=model.config.LEARNING_RATE, epochs=1, layers="heads")
    return model


@pytest.fixture(scope="module")
def finder(trainer):
    """That model for inference, from its checkpoint."""

    class InferenceConfig(trainer.config.__class__):
        GPU_COUNT = 1
        IMAGES_PER_GPU = 1

    model = MaskRCNN(mode="inference", config=InferenceConfig(), model_dir=trainer.model_dir)
    model.load_weights(model.find_last(), by_name=True)
    return model


# ---- MaskRCNN(...) and its folders ---------------------------------------------------------------------------------
@pytest.mark.parametrize("model_dir", ["", "./", "not/there/yet", "mask_rcnn.h5"])
def test_model_dir_of_any_form_is_not_touched_by_building(model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = MaskRCNN("inference", tiny_config(), model_dir)
    assert model.model_dir == model_dir and os.listdir(tmp_path) == []
    assert model.log_dir.split("/")[-1].startswith("tiny2") and model.epoch == 0
    with pytest.raises(FileNotFoundError):
        model.find_last()


def test_checkpoints_are_named_and_placed_as_scripts_expect(trainer):
    (path,) = glob.glob(os.path.join(trainer.model_dir, "**/mask*.h5"), recursive=True)
    folder, name = os.path.split(path)
    assert name == "mask_rcnn_tiny_0001.h5" and int(name.split(".")[0].split("_")[-1]) == 1
    run = os.path.basename(folder)
    assert run == trainer.log_dir.split("/")[-1] and run.startswith("tiny") and len(run) == len("tiny20180101T0000")
    assert trainer.checkpoint_path.format(epoch=1) == path == trainer.find_last()


def test_find_last_returns_a_pair_as_in_matterport_2_0(trainer, finder):
    path = trainer.find_last()
    assert isinstance(path, str) and path[1] == path and path[-3:] == ".h5" and os.path.isfile(path[1])
    finder.load_weights(finder.find_last()[1], by_name=True)


def test_find_last_among_other_runs_and_beyond_epoch_9999(tmp_path):
    for name in ("tiny20240101T0000/mask_rcnn_tiny_9999.h5", "tiny20240101T0000/mask_rcnn_tiny_10000.h5",
                 "tiny_two20250101T0000/mask_rcnn_tiny_two_0003.h5", "tiny20250101T0000/events.out.h5"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        h5py.File(tmp_path / name, "w").close()
    model = MaskRCNN("inference", tiny_config(), str(tmp_path))
    assert model.find_last().endswith("tiny20240101T0000/mask_rcnn_tiny_10000.h5")
    model.set_log_dir(model.find_last())
    assert model.epoch == 10000 and model.log_dir == str(tmp_path / "tiny20240101T0000")


# ---- load_weights --------------------------------------------------------------------------------------------------
def changed_layers(model, before):
    now = {layer.name: layer.get_weights() for layer in model.layers}
    return {n for n in now if any((a != b).any() for a, b in zip(now[n], before[n]))}


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("exclude", [None, HEADS, [*HEADS, "conv1"], [*HEADS, "rpn_model"], [*HEADS, "no_such_layer"]])
def test_load_weights_by_name_with_the_excludes_of_scripts(mode, exclude, trainer, tmp_path):
    model = tiny_model(mode, tmp_path, seed=7)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    if exclude is None:
        model.load_weights(trainer.find_last(), by_name=True)
    else:
        model.load_weights(trainer.find_last(), by_name=True, exclude=exclude)
    changed = changed_layers(model, before)
    assert changed & set(exclude or ()) == set()
    expected = {"conv1", "fpn_p2", "rpn_model", "mrcnn_class_conv1", *HEADS} - {"mrcnn_bbox"}
    assert expected - set(exclude or ()) <= changed


def test_heads_for_another_class_count_can_be_excluded(trainer, tmp_path):
    model = tiny_model("training", tmp_path, seed=7, NUM_CLASSES=1 + 7)
    with pytest.raises(ValueError, match="mrcnn_class_logits"):
        model.load_weights(trainer.find_last(), by_name=True)
    model.load_weights(filepath=trainer.find_last(), by_name=True, exclude=HEADS)
    np.testing.assert_array_equal(
        model.get_layer("conv1").get_weights()[0], trainer.get_layer("conv1").get_weights()[0]
    )


def test_only_a_checkpoint_of_the_run_sets_the_epoch(trainer, tmp_path):
    model = tiny_model("training", trainer.model_dir)
    model.load_weights(trainer.find_last(), by_name=True)
    assert model.epoch == 1 and model.log_dir == trainer.log_dir
    trainer.keras_model.save_weights(str(tmp_path / "mask_rcnn_coco.h5"))
    model.load_weights(str(tmp_path / "mask_rcnn_coco.h5"), by_name=True)
    assert model.epoch == 0


# ---- train ---------------------------------------------------------------------------------------------------------
def test_training_again_needs_a_larger_total_of_epochs(toys, tmp_path, step_by_step):
    model = tiny_model("training", tmp_path)
    model.train(toys, toys, learning_rate=0.001, epochs=1, layers="heads")
    first = [w.copy() for w in model.get_weights()]
    history = model.train(toys, toys, learning_rate=0.001, epochs=1, layers="all")  # the total is done already
    assert history.history == {} and model.epoch == 1
    for before, after in zip(first, model.get_weights()):
        np.testing.assert_array_equal(before, after)
    model.train(toys, toys, learning_rate=0.001, epochs=3, layers="4+")
    assert model.epoch == 3 and model.keras_model.history.epoch == [1, 2]
    assert sorted(p.name[-7:] for p in Path(model.log_dir).glob("mask*.h5")) == ["0001.h5", "0002.h5", "0003.h5"]


def test_losses_are_not_doubled_by_a_second_train(trainer, toys, tmp_path, step_by_step):
    model = tiny_model("training", tmp_path, WEIGHT_DECAY=0.0)
    for epochs in (1, 2, 3):
        model.train(toys, None, learning_rate=0.0, epochs=epochs, layers="heads")
        logs = {name: values[0] for name, values in model.keras_model.history.history.items()}
        assert logs["loss"] == pytest.approx(sum(logs[name] for name in LOSSES), rel=1e-4)
    assert set(logs) == {"loss", "weight_decay", *LOSSES}


def test_history_is_on_keras_model(trainer):
    history = trainer.keras_model.history.history
    names = ("loss", "weight_decay", *LOSSES)
    assert set(history) == {*names, *("val_" + name for name in names)}
    assert all(len(values) == 1 and np.isfinite(values).all() for values in history.values())


def names_trained(model, layers, toys, step=0.0, **kwargs):
    model.train(toys, None, learning_rate=step, epochs=model.epoch, layers=layers, **kwargs)
    found = set()
    for layer in [*model.layers, *model.get_layer("rpn_model").layers]:
        if layer.trainable_weights and not isinstance(layer, keras.Model):
            found.add(layer.name)
    return found


@pytest.mark.parametrize("layers, inside, outside", [
    ("heads", {"fpn_c5p5", "rpn_conv_shared", "mrcnn_mask"}, {"conv1", "res5a_branch2a"}),
    ("all", {"conv1", "res2a_branch2a", "mrcnn_mask", "rpn_bbox_pred"}, {"bn_conv1", "bn5a_branch2a"}),
    ("3+", {"res3a_branch2a", "res5a_branch2a", "mrcnn_mask"}, {"conv1", "res2a_branch2a"}),
    ("4+", {"res4a_branch2a", "rpn_class_raw"}, {"res3a_branch2a"}),
    ("5+", {"res5a_branch2a", "fpn_p2"}, {"res4a_branch2a"}),
    (r"(fpn\_.*)", {"fpn_p2", "fpn_c5p5"}, {"rpn_conv_shared", "mrcnn_mask", "conv1"}),
    (r"(res1.*)|(res2.*)|(res3.*)", {"res2a_branch2a", "res3a_branch2a"}, {"res4a_branch2a", "fpn_p2", "mrcnn_mask"}),
    (r"rpn_model", {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"}, {"fpn_p2", "mrcnn_mask"}),
])  # fmt: skip
def test_layers_are_chosen_by_name_or_regex(layers, inside, outside, trainer, toys):
    trained = names_trained(trainer, layers, toys)
    assert inside <= trained and not outside & trained


def test_custom_callbacks_run_after_the_built_in_ones(toys, tmp_path, step_by_step):
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, os.path.isfile(self.model.find_last()), "val_loss" in logs))

    model = tiny_model("training", tmp_path)
    model.train(
        train_dataset=toys, val_dataset=toys, learning_rate=0.001, epochs=1, layers="heads",
        custom_callbacks=[Looks(), keras.callbacks.ReduceLROnPlateau(), keras.callbacks.EarlyStopping()],
        no_augmentation_sources=["toys"], augmentation=None,
    )  # fmt: skip
    assert seen == [(0, True, True)]


@pytest.mark.parametrize("kind", ["imgaug", "own imgaug augmenter", "callable", "keras layer"])
def test_augmentation_accepts_what_scripts_pass(kind, toys, trainer):
    import imgaug.augmenters as iaa  # NumPy 2: works, as mrcnn was imported before

    class AddNothing(iaa.meta.Augmenter):
        def _augment_images(self, images, random_state, parents, hooks):
            return images

        def get_parameters(self):
            return []

    augmentation = {
        "imgaug": iaa.SomeOf((0, 2), [
            iaa.Fliplr(1.0), iaa.OneOf([iaa.Affine(rotate=90), iaa.Affine(rotate=180)]), iaa.Multiply((0.8, 1.5)),
            iaa.GaussianBlur(sigma=(0.0, 5.0)),
        ]),
        "own imgaug augmenter": iaa.Sequential([AddNothing(), iaa.Fliplr(0.5)]),
        "callable": lambda image, masks: (image[:, ::-1], masks[:, ::-1]),
        "keras layer": keras.layers.RandomFlip("horizontal"),
    }[kind]  # fmt: skip
    generator = modellib.data_generator(toys, trainer.config, augmentation=augmentation, batch_size=2)
    inputs, outputs = next(generator)
    assert outputs == [] and inputs[0].shape == (2, 64, 64, 3) and inputs[6].any()
    names_trained(trainer, "heads", toys, augmentation=augmentation)  # accepted by train as well


def test_imgaug_transforms_image_and_masks_together(toys, trainer):
    import imgaug.augmenters as iaa

    plain = modellib.load_image_gt(toys, trainer.config, 0)
    flipped = modellib.load_image_gt(toys, trainer.config, 0, augmentation=iaa.Fliplr(1.0))
    np.testing.assert_array_equal(flipped[0], plain[0][:, ::-1])
    np.testing.assert_array_equal(flipped[4], plain[4][:, ::-1])
    old = {np.array_equal(modellib.load_image_gt(toys, trainer.config, 0, augment=True)[0], x[0])
           for x in (plain, flipped) for _ in range(20)}  # fmt: skip
    assert old == {True, False}  # the deprecated argument flips now and then


# ---- detect --------------------------------------------------------------------------------------------------------
def check(result, shape):
    assert isinstance(result, dict) and {"rois", "class_ids", "scores", "masks"} <= set(result)
    n = len(result["rois"])
    assert result["rois"].shape == (n, 4) and result["rois"].dtype == np.int32
    assert result["class_ids"].shape == (n,) and result["class_ids"].dtype == np.int32
    assert result["scores"].shape == (n,) and result["scores"].dtype == np.float32
    assert result["masks"].shape == (*shape, n) and result["masks"].dtype == bool


def test_detect_as_scripts_call_it(finder):
    image = photo(50, 70)
    for results in (finder.detect([image]), finder.detect([image], verbose=1), finder.detect(images=[image]),
                    finder.detect([image] * finder.config.BATCH_SIZE, verbose=0)):  # fmt: skip
        check(results[0], (50, 70))
        assert len(results[0]["rois"])


def test_detected_masks_index_images_and_rois_go_to_opencv(finder):
    image = photo(50, 70)
    r = finder.detect([image], verbose=0)[0]
    for i in range(r["masks"].shape[-1]):
        mask, roi = r["masks"][:, :, i], r["rois"][i]
        image[mask] = (255, 0, 0)
        image = np.where(mask[..., None], image, 0).astype(np.uint8)
        y1, x1, y2, x2 = roi
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 255, 0), 2)
        cv2.putText(image, f"{r['class_ids'][i]} {r['scores'][i]:.2f}", (x1, y1), cv2.FONT_HERSHEY_COMPLEX, 0.7, 1)
    r["class_ids"] = r["class_ids"] + 1  # the dict and its arrays are the script's own
    r["masks"][...] = True
    r["note"] = "kept"


def test_detect_accepts_molded_arrays_as_in_the_kangaroo_tutorial(finder):
    """With matterport the mean was then subtracted twice, and so it is here: the scores printed there come out."""
    image = photo()
    sample = np.expand_dims(modellib.mold_image(image, finder.config), 0)
    twice = image.astype(np.float32) - 2 * np.asarray(finder.config.MEAN_PIXEL, np.float32)
    check(finder.detect(sample, verbose=0)[0], (64, 64))
    molded, _, _ = finder.mold_inputs(sample)
    np.testing.assert_allclose(molded[0], twice, atol=1e-3)


@pytest.mark.parametrize("image", [
    photo(64, 64, dtype=np.float32), photo(64, 64, channels=4), photo(64, 64, channels=1)[..., 0],
    photo(64, 64).astype(np.int64), np.zeros((9, 300, 3), np.uint8),
], ids=["img_to_array's float32", "RGBA", "gray", "int64", "thin"])  # fmt: skip
def test_images_of_other_kinds_are_detected(finder, image):
    check(finder.detect([image], verbose=0)[0], image.shape[:2])


def test_any_number_of_images_whatever_the_batch_size(finder):
    results = finder.detect([photo(), photo(40, 80), photo(seed=2)], verbose=0)
    assert [r["masks"].shape[:2] for r in results] == [(64, 64), (40, 80), (64, 64)]


# ---- Config --------------------------------------------------------------------------------------------------------
class WildConfig(Config):
    """All settings that public scripts change."""

    NAME = "Kangaroo_cfg"
    BACKBONE = "resnet50"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    BATCH_SIZE = 5  # recomputed
    NUM_CLASSES = 1 + 1
    STEPS_PER_EPOCH = 131 / 2
    VALIDATION_STEPS = 131 // 20
    DETECTION_MIN_CONFIDENCE = 0.9
    DETECTION_NMS_THRESHOLD = 0.0
    DETECTION_MAX_INSTANCES = 400
    IMAGE_RESIZE_MODE = "square"
    IMAGE_MAX_DIM = 512  # below the default IMAGE_MIN_DIM
    IMAGE_MIN_SCALE = 2.0
    MEAN_PIXEL = (43.53, 39.56, 48.22)
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_ANCHOR_RATIOS = [0.5, 1, 2]
    RPN_NMS_THRESHOLD = 0.9
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    BACKBONE_STRIDES = [4, 8, 16, 32, 64, 128]
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    TRAIN_ROIS_PER_IMAGE = 128
    USE_MINI_MASK = False
    MINI_MASK_SHAPE = (56, 56)
    MAX_GT_INSTANCES = 200
    LEARNING_RATE = 1e-4
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 1e-4
    TRAIN_BN = None
    GRADIENT_CLIP_NORM = 5.0
    LOSS_WEIGHTS = {"rpn_class_loss": 1.0, "rpn_bbox_loss": 2, "mrcnn_mask_loss": 10.0}
    IMAGE_PADDING = True  # of an older version
    ZOOM = 3


def test_custom_settings_are_accepted_and_displayed(capsys):
    config = WildConfig()
    config.display()
    shown = capsys.readouterr().out
    assert config.BATCH_SIZE == 1 and config.IMAGE_META_SIZE == 14 and list(config.IMAGE_SHAPE) == [512, 512, 3]
    assert "IMAGE_PADDING" in shown and "ZOOM" in shown and "BATCH_SIZE" in shown


def test_an_overridden_init_can_set_the_number_of_classes():
    class Counting(Config):
        NAME = "counting"

        def __init__(self, classes):
            self.NUM_CLASSES = 1 + classes
            super().__init__()

    assert Counting(4).IMAGE_META_SIZE == 12 + 5


def test_six_strides_and_fractional_steps_train(toys, tmp_path, step_by_step):
    model = tiny_model("training", tmp_path, BACKBONE_STRIDES=[4, 8, 16, 32, 64, 128], STEPS_PER_EPOCH=1.5)
    model.train(toys, None, learning_rate=0.001, epochs=1, layers="heads")
    assert np.isfinite(model.history.history["loss"]).all()
    assert len(model.get_anchors((64, 64, 3))) == len(model.anchors) == 3 * (16**2 + 8**2 + 4**2 + 2**2 + 1)


def test_settings_changed_after_building_take_effect(trainer, tmp_path):
    model = tiny_model("inference", tmp_path)
    model.load_weights(trainer.find_last(), by_name=True)
    everything = model.detect([photo()])[0]["scores"]
    assert len(everything) > 1
    model.config.DETECTION_MIN_CONFIDENCE = float(everything[0])
    assert len(model.detect([photo()])[0]["scores"]) == (everything >= everything[0]).sum()
    model.config.DETECTION_MIN_CONFIDENCE = 0
    model.config.DETECTION_MAX_INSTANCES = 1
    assert len(model.detect([photo()])[0]["scores"]) == 1
    model.config.BATCH_SIZE = 3
    assert model.config.IMAGES_PER_GPU == 3 and len(model.detect([photo()] * 4)) == 4


def test_more_gpus_than_exist_keep_the_batch_size(toys, tmp_path, step_by_step):
    model = tiny_model("training", tmp_path, GPU_COUNT=2, IMAGES_PER_GPU=2, STEPS_PER_EPOCH=1)
    assert model.config.BATCH_SIZE == 4
    model.train(toys, None, learning_rate=0.001, epochs=1, layers="heads")
    assert len(model.detect([photo()])) == 1


# ---- One channel, and the ways to resize ---------------------------------------------------------------------------
class Gray(Squares):
    def load_image(self, image_id):
        return super().load_image(image_id)[..., :1]


@pytest.mark.parametrize("mean", [np.array([43.5]), (43.5,), [43.5]])
def test_mean_pixel_of_length_one(mean):
    config = tiny_config(IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=mean)
    np.testing.assert_allclose(modellib.mold_image(np.full((2, 2, 1), 44, np.uint8), config), 0.5)


def test_one_channel_trains_and_detects(tmp_path, step_by_step):
    changes = {"IMAGE_CHANNEL_COUNT": 1, "MEAN_PIXEL": np.array([43.5]), "STEPS_PER_EPOCH": 1}
    model = tiny_model("training", tmp_path, **changes)
    model.train(Gray(2), None, learning_rate=0.001, epochs=1, layers="all")
    for image in (photo(channels=1), photo(channels=1)[..., 0], photo()):
        check(model.detect([image])[0], (64, 64))


def test_weights_of_three_channels_load_without_conv1(trainer, tmp_path):
    model = tiny_model("inference", tmp_path, IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=np.array([43.5]))
    with pytest.raises(ValueError, match="conv1"):
        model.load_weights(trainer.find_last(), by_name=True)
    model.load_weights(trainer.find_last(), by_name=True, exclude=["conv1"])


@pytest.mark.parametrize("mode, settings, shape", [
    ("none", {}, (64, 128)),
    ("pad64", {"IMAGE_MIN_DIM": None}, (70, 90)),
    ("pad64", {"IMAGE_MIN_DIM": 64, "IMAGE_MIN_SCALE": 1.5}, (64, 64)),
    ("crop", {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 128}, (80, 100)),
    ("square", {"IMAGE_MIN_DIM": 100, "IMAGE_MAX_DIM": 64}, (80, 100)),
])  # fmt: skip
def test_every_resize_mode_trains_and_detects(mode, settings, shape, tmp_path, step_by_step):
    class Sized(Squares):
        def load_image(self, image_id):
            return photo(*shape, seed=image_id)

        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            return np.pad(masks, ((0, shape[0] - 64), (0, shape[1] - 64), (0, 0))), class_ids

    model = tiny_model("training", tmp_path, IMAGE_RESIZE_MODE=mode, STEPS_PER_EPOCH=1, IMAGES_PER_GPU=1, **settings)
    model.train(Sized(2), None, learning_rate=0.001, epochs=1, layers="heads")
    assert np.isfinite(model.history.history["loss"]).all()
    check(model.detect([photo(*shape)])[0], shape)


def test_mode_crop_detects_on_the_whole_photo():
    """matterport detected on a random crop, which misses the rest of the photo."""
    config = tiny_config(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=128)
    molded, _, windows = MaskRCNN("inference", config, "logs").mold_inputs([photo(80, 100)])
    assert molded.shape == (1, 128, 128, 3) and windows.tolist() == [[24, 14, 104, 114]]


# ---- Dataset -------------------------------------------------------------------------------------------------------
class WildDataset(utils.Dataset):
    """Overrides that public scripts use."""

    def load_wild(self, mask_type, id_type):
        self.mask_type, self.id_type = mask_type, id_type
        self.add_class("wild", 1, "square")
        self.add_class("wild", 2, "disc")
        for i in range(3):
            self.add_image(
                "wild", image_id=i, path=None, width=64, height=64, polygons=[{"all_points_x": [1]}],
                annotation="a.xml", annotations=[], mask_path=None, names=["square"], num_ids=[1],
            )  # fmt: skip
        self.add_image("other", image_id=9, path="x.jpg", height=64, width=64)

    def load_image(self, image_id):
        return photo(seed=image_id)

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        if info["source"] != "wild":
            return super(self.__class__, self).load_mask(image_id)
        masks = np.zeros([info["height"], info["width"], len(self.class_names) - 1], dtype=np.uint8)
        masks[5:30, 5:40, 0] = 1
        masks[20:60, 10:50, 1] = 1
        if self.mask_type == "0/255":
            masks *= 255
        else:
            masks = masks.astype(self.mask_type)
        ids = np.array([self.class_names.index(name) for name in ("square", "disc")])
        return masks, ids.astype(self.id_type)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "wild":
            return info["annotation"]
        super(self.__class__, self).image_reference(image_id)


@pytest.mark.parametrize("mask_type", ["bool", "uint8", "0/255", "float32", "float64", "int64"])
@pytest.mark.parametrize("id_type", ["int32", "int64", "uint8", "float64"])
def test_masks_and_ids_of_any_type_load_the_same(mask_type, id_type, trainer):
    dataset = WildDataset()
    dataset.load_wild(mask_type, id_type)
    dataset.prepare()
    config = trainer.config
    image, meta, class_ids, boxes, masks = modellib.load_image_gt(dataset, config, 0)
    assert masks.dtype == bool and masks.shape == (64, 64, 2) and class_ids.tolist() == [1, 2]
    assert boxes.tolist() == [[5, 5, 30, 40], [20, 10, 60, 50]]
    mini = modellib.load_image_gt(dataset, config, 0, use_mini_mask=True)[4]
    assert mini.shape == (*config.MINI_MASK_SHAPE, 2) and mini.all()


def test_calling_super_load_mask_gives_no_objects():
    dataset = WildDataset()
    dataset.load_wild("bool", "int32")
    dataset.prepare()
    masks, class_ids = dataset.load_mask(3)
    assert masks.shape == (64, 64, 0) and len(class_ids) == 0
    assert dataset.image_reference(0) == "a.xml" and dataset.image_reference(3) is None
    assert dataset.map_source_class_id("wild.2") == 2 and dataset.get_source_class_id(2, "wild") == 2
    assert (dataset.num_classes, dataset.num_images, len(dataset.image_ids)) == (3, 4, 4)
    assert random.choice(dataset.image_ids) in dataset.image_ids and len(np.random.choice(dataset.image_ids, 2)) == 2


# ---- keras_model ---------------------------------------------------------------------------------------------------
def test_keras_model_saves_and_loads_h5(trainer, tmp_path):
    path = str(tmp_path / "mask_rcnn_shapes.h5")
    trainer.keras_model.save_weights(path)
    model = tiny_model("inference", tmp_path, seed=7)
    model.keras_model.load_weights(path, by_name=True)
    for name in ("conv1", "mrcnn_mask"):
        np.testing.assert_array_equal(model.get_layer(name).get_weights()[0], trainer.get_layer(name).get_weights()[0])


def test_keras_model_keeps_its_tf1_attributes(finder, trainer, capsys):
    finder.keras_model._make_predict_function()
    trainer.keras_model.metrics_tensors = []
    trainer.keras_model.summary()
    assert "mrcnn_mask" in capsys.readouterr().out
    assert {"ROI", "mrcnn_detection"} <= {layer.name for layer in finder.keras_model.layers}
    assert finder.keras_model.get_layer("mrcnn_mask").get_weights()
    assert finder.keras_model.get_layer("conv1").get_weights()[0].shape == (3, 3, 3, 8)


LAYERS = ["ROI", "mrcnn_detection", "mrcnn_mask", "mrcnn_bbox", "mrcnn_class", "rpn_class", "rpn_bbox", "input_image"]


def test_run_graph_and_ancestor_accept_the_notebooks_names(finder):
    image = photo(48, 64)
    pillar = finder.keras_model.get_layer("ROI").output
    nms = finder.ancestor(pillar, "ROI/rpn_non_max_suppression:0")
    if nms is None:
        nms = finder.ancestor(pillar, "ROI/rpn_non_max_suppression/NonMaxSuppressionV2:0")
    steps = ["pre_nms_anchors", "refined_anchors", "refined_anchors_clipped"]
    wanted = [(name, finder.keras_model.get_layer(name).output) for name in LAYERS]
    wanted += [(name, finder.ancestor(pillar, f"ROI/{name}:0")) for name in steps] + [("nms", nms)]
    found = finder.run_graph([image], wanted)
    assert list(found) == [*LAYERS, *steps, "nms"]
    limit = 50
    kept = found["refined_anchors_clipped"][0][found["nms"]][:limit]
    np.testing.assert_allclose(kept, found["ROI"][0, : len(kept)], atol=1e-6)
    ids = found["mrcnn_detection"][0, :, 4].astype(np.int32)
    count = np.where(ids == 0)[0][0] if (ids == 0).any() else len(ids)
    assert count and found["mrcnn_mask"].shape == (1, 6, 8, 8, 3)
    assert np.argsort(found["rpn_class"][:, :, 1].flatten())[::-1].max() == len(finder.anchors) - 1


@pytest.mark.parametrize("version", ["", "/NonMaxSuppressionV2", "/NonMaxSuppressionV3"])
def test_ancestor_finds_nms_under_the_name_of_each_tensorflow(finder, version):
    pillar = finder.keras_model.get_layer("ROI").output
    assert finder.ancestor(pillar, f"ROI/rpn_non_max_suppression{version}:0") is not None


def test_ancestor_of_an_unknown_name_is_none(finder):
    assert finder.ancestor(finder.output, "ROI/no_such_step:0") is None
    assert finder.ancestor(finder.output, "no_such_layer:0") is None


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.identity")
def test_run_graph_takes_tf_identity_of_a_layers_output(finder):
    import tensorflow as tf

    wanted = [("input_image", tf.identity(finder.keras_model.get_layer("input_image").output))]
    assert finder.run_graph([photo()], wanted)["input_image"].shape == (1, 64, 64, 3)
    assert float(tf.identity(2.0)) == 2.0
    with pytest.raises(ValueError):
        tf.identity(object())


# ---- What scripts do with the truth and the detections -------------------------------------------------------------
def test_metrics_accept_ground_truth_and_detections(finder, toys):
    config = finder.config
    image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(toys, config, 0, use_mini_mask=False)
    modellib.log("image", image)
    modellib.log("gt_bbox", gt_bbox)
    modellib.log("nothing", np.zeros((0, 4)))
    assert modellib.parse_image_meta(image_meta[np.newaxis])["image_id"][0] == 0
    r = finder.detect([image], verbose=0)[0]
    found = r["rois"], r["class_ids"], r["scores"], r["masks"]
    for more in ({}, {"iou_threshold": 0.7}):
        AP, precisions, recalls, overlaps = utils.compute_ap(gt_bbox, gt_class_id, gt_mask, *found, **more)
        assert 0 <= AP <= 1 and len(precisions) == len(recalls) and overlaps.shape == (len(found[0]), 2)
    assert utils.compute_ap(gt_bbox, gt_class_id, gt_mask, *found, 0.5)[0] <= 1
    names = ("gt_box", "gt_class_id", "gt_mask", "pred_box", "pred_class_id", "pred_score", "pred_mask")
    arguments = dict(zip(names, (gt_bbox, gt_class_id, gt_mask, *found)))
    assert 0 <= utils.compute_ap_range(**arguments, iou_thresholds=np.arange(0.5, 1, 0.05), verbose=0) <= 1
    rpn_match, rpn_bbox = modellib.build_rpn_targets(
        image.shape, utils.denorm_boxes(finder.get_anchors(image.shape), image.shape[:2]), gt_class_id, gt_bbox, config
    )
    assert set(np.unique(rpn_match)) <= {-1, 0, 1} and len(rpn_bbox) == config.RPN_TRAIN_ANCHORS_PER_IMAGE


def test_detect_molded_accepts_the_output_of_load_image_gt(finder, toys):
    image, meta, *_ = modellib.load_image_gt(toys, finder.config, 0)
    molded = np.expand_dims(modellib.mold_image(image, finder.config), 0)
    r = finder.detect_molded(molded, np.expand_dims(meta, 0), verbose=1)[0]
    check(r, (64, 64))


def test_data_generator_accepts_the_notebooks_calls(toys, trainer):
    generator = modellib.data_generator(
        toys, trainer.config, shuffle=True, random_rois=20, batch_size=2, detection_targets=True
    )
    (images, meta, rpn_match, rpn_bbox, gt_ids, gt_boxes, gt_masks, rpn_rois, rois), outputs = next(generator)
    mrcnn_class_ids, mrcnn_bbox, mrcnn_mask = outputs
    assert rpn_rois.shape == (2, 20, 4) and rois.shape == (2, 16, 4)
    assert mrcnn_class_ids.shape == (2, 16, 1) and mrcnn_bbox.shape == (2, 16, 3, 4)
    assert mrcnn_mask.shape == (2, 16, 8, 8, 3)
    b = 0
    anchors = utils.denorm_boxes(trainer.get_anchors(images.shape[1:]), images.shape[1:3])
    assert np.where(rpn_match[b] == 1)[0].max(initial=0) < len(anchors)
    assert modellib.unmold_image(images[b], trainer.config).dtype == np.uint8


def test_instances_are_displayed_in_every_call_form(finder, toys, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: None)
    image, names = toys.load_image(0), toys.class_names
    r = finder.detect([image])[0]
    parts = image, r["rois"], r["masks"], r["class_ids"], names
    _, ax = plt.subplots(1, figsize=(8, 8))
    visualize.display_instances(*parts, r["scores"], ax=ax, title="Predictions", figsize=(8, 8))
    visualize.display_instances(*parts, figsize=(5, 5), show_mask=False, show_bbox=False)
    colors = visualize.random_colors(len(r["rois"]))
    visualize.display_instances(
        image=image, boxes=r["rois"], masks=r["masks"], class_ids=r["class_ids"], class_names=names, colors=colors,
        captions=["x"] * len(r["rois"]),
    )  # fmt: skip
    masks, ids = toys.load_mask(0)
    visualize.display_top_masks(image, masks, ids, names, limit=2)
    visualize.display_images([image, masks[..., 0]], cols=2, titles=["a", "b"], cmap="gray", interpolation=None)
    visualize.draw_boxes(image, boxes=r["rois"], refined_boxes=r["rois"] + 1, visibilities=[1] * len(r["rois"]), ax=ax)
    boxes = utils.extract_bboxes(masks)
    visualize.display_differences(
        image, boxes, ids, masks, r["rois"], r["class_ids"], r["scores"], r["masks"], names, show_mask=False,
        show_box=False, iou_threshold=0.5, score_threshold=0.5, ax=ax, title="d",
    )  # fmt: skip
    plt.close("all")
