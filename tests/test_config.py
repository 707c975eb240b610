"""Settings: derived values are never stale, and invalid settings are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrcnn.config import DERIVED, LOSS_NAMES, Config
from mrcnn.settings import settings_page

# matterport's defaults.
DEFAULTS = {
    "NAME": None, "GPU_COUNT": 1, "IMAGES_PER_GPU": 2, "STEPS_PER_EPOCH": 1000, "VALIDATION_STEPS": 50,
    "BACKBONE": "resnet101", "COMPUTE_BACKBONE_SHAPE": None, "BACKBONE_STRIDES": [4, 8, 16, 32, 64],
    "FPN_CLASSIF_FC_LAYERS_SIZE": 1024, "TOP_DOWN_PYRAMID_SIZE": 256, "NUM_CLASSES": 1,
    "RPN_ANCHOR_SCALES": (32, 64, 128, 256, 512), "RPN_ANCHOR_RATIOS": [0.5, 1, 2], "RPN_ANCHOR_STRIDE": 1,
    "RPN_NMS_THRESHOLD": 0.7, "RPN_TRAIN_ANCHORS_PER_IMAGE": 256, "PRE_NMS_LIMIT": 6000,
    "POST_NMS_ROIS_TRAINING": 2000, "POST_NMS_ROIS_INFERENCE": 1000, "USE_MINI_MASK": True,
    "MINI_MASK_SHAPE": (56, 56), "IMAGE_RESIZE_MODE": "square", "IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1024,
    "IMAGE_MIN_SCALE": 0, "IMAGE_CHANNEL_COUNT": 3, "MEAN_PIXEL": np.array([123.7, 116.8, 103.9]),
    "TRAIN_ROIS_PER_IMAGE": 200, "ROI_POSITIVE_RATIO": 0.33, "POOL_SIZE": 7, "MASK_POOL_SIZE": 14,
    "MASK_SHAPE": [28, 28], "MAX_GT_INSTANCES": 100, "RPN_BBOX_STD_DEV": np.array([0.1, 0.1, 0.2, 0.2]),
    "BBOX_STD_DEV": np.array([0.1, 0.1, 0.2, 0.2]), "DETECTION_MAX_INSTANCES": 100, "DETECTION_MIN_CONFIDENCE": 0.7,
    "DETECTION_NMS_THRESHOLD": 0.3, "LEARNING_RATE": 0.001, "LEARNING_MOMENTUM": 0.9, "WEIGHT_DECAY": 0.0001,
    "USE_RPN_ROIS": True, "TRAIN_BN": False, "GRADIENT_CLIP_NORM": 5.0, "BATCH_SIZE": 2, "IMAGE_META_SIZE": 13,
    "IMAGE_SHAPE": np.array([1024, 1024, 3]), "LOSS_WEIGHTS": dict.fromkeys(LOSS_NAMES, 1.0),
}  # fmt: skip


def config(**settings) -> Config:
    return type("MyConfig", (Config,), settings)()


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_match_matterport(name):
    ours, theirs = getattr(Config(), name), DEFAULTS[name]
    assert type(ours) is type(theirs)
    np.testing.assert_equal(ours, theirs)


# ---- What follows from other settings --------------------------------------------------------------------------------
def test_derived_values_follow_settings_of_the_class_and_of_the_instance():
    c = config(IMAGES_PER_GPU=3, GPU_COUNT=2, NUM_CLASSES=4, IMAGE_MAX_DIM=512, IMAGE_MIN_DIM=512)
    assert (c.BATCH_SIZE, c.IMAGE_META_SIZE, list(c.IMAGE_SHAPE)) == (6, 16, [512, 512, 3])
    c.IMAGES_PER_GPU, c.NUM_CLASSES, c.IMAGE_MAX_DIM, c.IMAGE_CHANNEL_COUNT = 1, 81, 1024, 1
    assert (c.BATCH_SIZE, c.IMAGE_META_SIZE, list(c.IMAGE_SHAPE)) == (2, 93, [1024, 1024, 1])
    type(c).GPU_COUNT = 1
    assert c.BATCH_SIZE == 1
    c.IMAGE_RESIZE_MODE = "crop"
    assert list(c.IMAGE_SHAPE) == [512, 512, 1]


def test_derived_values_set_on_a_class_are_still_computed():
    c = config(BATCH_SIZE=9, IMAGE_SHAPE=[64, 64, 3], IMAGE_META_SIZE=1)
    assert (c.BATCH_SIZE, list(c.IMAGE_SHAPE), c.IMAGE_META_SIZE) == (2, [1024, 1024, 3], 13)


@pytest.mark.parametrize(("gpus", "batch", "expected"), [(1, 4, (1, 4)), (2, 4, (2, 2)), (2, 3, (1, 3))])
def test_setting_the_batch_size_sets_images_per_gpu(gpus, batch, expected):
    c = config(GPU_COUNT=gpus)
    c.BATCH_SIZE = batch
    assert (c.GPU_COUNT, c.IMAGES_PER_GPU) == expected and c.BATCH_SIZE == batch


def test_setting_the_image_shape_sets_the_dimensions():
    c = Config()
    c.IMAGE_SHAPE = [256, 256, 1]
    assert (c.IMAGE_MAX_DIM, c.IMAGE_MIN_DIM, c.IMAGE_CHANNEL_COUNT) == (256, 256, 1)
    c = config(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64)
    c.IMAGE_SHAPE = (128, 128, 3)
    assert (c.IMAGE_MAX_DIM, c.IMAGE_MIN_DIM) == (128, 128)
    with pytest.raises(ValueError, match="square"):
        c.IMAGE_SHAPE = [64, 128, 3]


def test_a_wrong_meta_size_is_refused():
    c = Config()
    c.IMAGE_META_SIZE = 13
    with pytest.raises(ValueError, match="NUM_CLASSES"):
        c.IMAGE_META_SIZE = 14


def test_values_set_before_super_init_are_kept():
    class Mine(Config):
        def __init__(self, classes):
            self.NUM_CLASSES = classes
            super().__init__()

    assert Mine(7).IMAGE_META_SIZE == 19


def test_a_config_can_be_derived_from_the_class_of_an_instance():
    training = config(NAME="a", NUM_CLASSES=3)

    class Inference(training.__class__):
        IMAGES_PER_GPU = 1
        DETECTION_MIN_CONFIDENCE = 0

    c = Inference()
    assert (c.NAME, c.NUM_CLASSES, c.BATCH_SIZE) == ("a", 3, 1)


def test_lists_dicts_and_arrays_are_copied_per_instance():
    first, second = Config(), Config()
    first.LOSS_WEIGHTS["rpn_class_loss"] = 9.0
    first.MEAN_PIXEL[0] = 9.0
    first.RPN_ANCHOR_RATIOS.append(4)
    assert second.LOSS_WEIGHTS["rpn_class_loss"] == 1.0 and second.MEAN_PIXEL[0] == 123.7
    assert Config.RPN_ANCHOR_RATIOS == second.RPN_ANCHOR_RATIOS == [0.5, 1, 2]


def a_backbone(image, architecture, stage5=True, train_bn=None):
    return [image] * 5


def test_a_plain_function_as_backbone_is_not_bound_as_a_method():
    c = config(BACKBONE=a_backbone, COMPUTE_BACKBONE_SHAPE=lambda shape: [shape])
    assert c.BACKBONE is a_backbone
    assert c.COMPUTE_BACKBONE_SHAPE((1, 2)) == [(1, 2)]
    assert c.to_dict()["BACKBONE"] is a_backbone


# ---- What can't work -------------------------------------------------------------------------------------------------
WRONG = [
    ("NUM_CLASSES", 0, "background is a class"),
    ("NUM_CLASSES", 2.0, "no whole number"),
    ("IMAGES_PER_GPU", 0, "no images"),
    ("IMAGES_PER_GPU", True, "a bool is no count"),
    ("STEPS_PER_EPOCH", 0, "no steps"),
    ("VALIDATION_STEPS", -1, "fewer than none"),
    ("RPN_NMS_THRESHOLD", -0.1, "no IoU"),
    ("ROI_POSITIVE_RATIO", 0, "negatives are counted by a division by it"),
    ("RPN_NMS_THRESHOLD", None, "not a number"),
    ("DETECTION_NMS_THRESHOLD", 1.5, "no IoU"),
    ("ROI_POSITIVE_RATIO", float("nan"), "not a number"),
    ("DETECTION_MIN_CONFIDENCE", 70, "percent"),
    ("DETECTION_MIN_CONFIDENCE", "0.7", "text"),
    ("IMAGE_RESIZE_MODE", "pad16", "no mode"),
    ("IMAGE_MAX_DIM", 1000, "not divisible by 64"),
    ("IMAGE_MAX_DIM", 0, "no pixels"),
    ("IMAGE_MAX_DIM", 1024.0, "no whole number"),
    ("IMAGE_MAX_DIM", None, "none"),
    ("IMAGE_MIN_DIM", "800", "text"),
    ("MEAN_PIXEL", [1, 2], "neither 1 nor 3 values"),
    ("MEAN_PIXEL", None, "none"),
    ("MEAN_PIXEL", [1, 2, float("nan")], "not a number"),
    ("BACKBONE_STRIDES", [4, 8, 16, 32], "four levels"),
    ("RPN_ANCHOR_SCALES", (32, 64, 128), "three scales for five levels"),
    ("RPN_ANCHOR_SCALES", 32, "no list"),
    ("RPN_ANCHOR_SCALES", (0, 64, 128, 256, 512), "a side of 0"),
    ("RPN_ANCHOR_RATIOS", [], "no anchors"),
    ("RPN_ANCHOR_RATIOS", [1, -1], "a negative side"),
    ("RPN_ANCHOR_RATIOS", 1, "no list"),
    ("BACKBONE", "resnet34", "unknown"),
    ("LOSS_WEIGHTS", {"rpn_class": 1.0}, "an unknown loss"),
    ("LOSS_WEIGHTS", None, "no dict"),
    ("LOSS_WEIGHTS", {"rpn_class_loss": None}, "no number"),
    ("ROI_ALIGN", "bilinear", "unknown"),
    ("TRAIN_BN", "no", "text"),
    ("MASK_SHAPE", [56, 56], "not twice MASK_POOL_SIZE"),
    ("MASK_SHAPE", 28, "no pair"),
    ("MINI_MASK_SHAPE", (0, 56), "no pixels"),
    ("MINI_MASK_SHAPE", 56, "no pair"),
    ("BBOX_STD_DEV", [0.1, 0.1], "two of four"),
    ("RPN_BBOX_STD_DEV", [0, 0.1, 0.2, 0.2], "a division by 0"),
    ("GRADIENT_CLIP_NORM", -5.0, "negative"),
    ("RPN_CHANNELS", 0, "no channels"),
    ("MASK_HEAD_CHANNELS", 12.5, "half a channel"),
    ("WEIGHT_DECAY", None, "none"),
]


@pytest.mark.parametrize(("name", "value", "why"), WRONG, ids=[f"{name}-{why}" for name, _, why in WRONG])
def test_invalid_settings_are_refused_with_name_and_value(name, value, why):
    with pytest.raises(ValueError) as error:
        config(**{name: value})
    assert f"MyConfig.{name} is {value!r}; expected " in str(error.value)
    c = Config()
    setattr(c, name, value)
    with pytest.raises(ValueError, match=name):
        c.validate()


def test_an_invalid_size_error_suggests_the_nearest_valid_size():
    with pytest.raises(ValueError, match="nearest is 832"):
        config(IMAGE_MAX_DIM=850, IMAGE_MIN_DIM=800)


RIGHT = [
    {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_DIM": 512, "IMAGE_MAX_DIM": 512},
    {"IMAGE_RESIZE_MODE": "pad64", "IMAGE_MIN_DIM": None},
    {"IMAGE_RESIZE_MODE": "none", "IMAGE_MIN_DIM": None},
    {"IMAGE_MIN_DIM": None},
    {"IMAGE_MIN_DIM": 2048},  # IMAGE_MAX_DIM then decides
    {"STEPS_PER_EPOCH": 12.5},  # images divided by batch size
    {"BACKBONE_STRIDES": [4, 8, 16, 32, 64, 128]},
    {"RPN_NMS_THRESHOLD": 0},
    {"DETECTION_MIN_CONFIDENCE": None},
    {"DETECTION_MIN_CONFIDENCE": 0},
    {"GRADIENT_CLIP_NORM": None},
    {"VALIDATION_STEPS": 0},
    {"VALIDATION_STEPS": None},
    {"MEAN_PIXEL": 100},
    {"MEAN_PIXEL": (127,), "IMAGE_CHANNEL_COUNT": 1},
    {"IMAGE_MAX_DIM": np.int64(128), "IMAGE_MIN_DIM": np.int64(128)},
    {"RPN_NMS_THRESHOLD": np.float32(0.5)},
    {"LOSS_WEIGHTS": {"mrcnn_mask_loss": 2}},
    {"USE_MINI_MASK": False, "MINI_MASK_SHAPE": None},
    {"IMAGE_PADDING": True, "ZOOM": "x"},  # a user's own names
]


@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_valid_settings_are_accepted(settings):
    config(**settings)


# ---- Reading ---------------------------------------------------------------------------------------------------------
def test_display_prints_every_setting(capsys):
    c = config(NAME="mine", ZOOM=3)
    c.display()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert set(DEFAULTS) <= set(lines)
    assert lines["NAME"].split()[1] == "mine" and lines["BATCH_SIZE"].split()[1] == "2" and "ZOOM" in lines


def test_to_dict_has_settings_and_derived_values_but_no_methods():
    c = Config()
    c.NUM_CLASSES = 5
    settings = c.to_dict()
    assert set(DEFAULTS) <= set(settings) and settings["IMAGE_META_SIZE"] == 17
    assert not {"validate", "display", "to_dict", "to_json", "from_json"} & set(settings)


def test_json_round_trip():
    c = config(NAME="a", ZOOM=(1, 2), NUM_CLASSES=5)
    c.MEAN_PIXEL = np.array([1.0, 2.0, 3.0])
    again = Config.from_json(json.loads(json.dumps(c.to_json())))
    ours, theirs = again.to_dict(), c.to_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(ours[name], theirs[name]), name


def test_values_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"BACKBONE .*weights\.h5"):
        config(BACKBONE=a_backbone).to_json()


# ---- Names -----------------------------------------------------------------------------------------------------------
def test_a_misspelt_setting_of_a_class_or_an_instance_warns_with_the_right_name():
    with pytest.warns(UserWarning, match=r"MyConfig.LERNING_RATE is no setting; did you mean LEARNING_RATE\?"):
        config(LERNING_RATE=3)
    with pytest.warns(UserWarning, match="did you mean NUM_CLASSES"):
        Config().NUM_CLASES = 3


def test_names_that_scripts_add_do_not_warn(recwarn):
    c = config(IMAGE_PADDING=True, ZOOM=2, VAL_IMAGE_IDS=[1], lr=3)
    c.CLASS_NAMES = ["a"]
    assert not recwarn.list


def test_settings_are_keywords_and_unknown_ones_are_refused():
    c = Config(NUM_CLASSES=3, MEAN_PIXEL=[1, 2, 3])
    assert c.IMAGE_META_SIZE == 15 and Config.NUM_CLASSES == 1
    with pytest.raises(TypeError, match="has no setting NUM_CLASES; did you mean NUM_CLASSES"):
        Config(NUM_CLASES=3)
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        Config(NUM_CLASSES=0)


def test_repr_shows_what_differs_from_the_defaults():
    c = config(NAME="a", LOSS_WEIGHTS={"rpn_class_loss": 2.0}, ZOOM=3)
    c.MEAN_PIXEL[0] = 5.0
    assert repr(Config()) == "Config()"
    assert repr(c).startswith("MyConfig(NAME='a', MEAN_PIXEL=array([  5. , 116.8, 103.9]), LOSS_WEIGHTS={'rpn_class")
    assert repr(c).endswith("ZOOM=3)")


def test_every_setting_is_explained_in_help_and_in_the_docs():
    declared = Config.settings_table
    public = {name for name in vars(Config) if name.isupper()} - set(DERIVED)
    assert set(declared) == public
    document = Path(__file__).parents[1] / "docs" / "settings.md"
    assert document.read_text() == settings_page(declared), "python -m mrcnn.config > docs/settings.md"
    for name, setting in declared.items():
        assert len(setting.meaning.split()) >= 3 and setting.meaning in Config.__doc__, name
        assert setting.default is None or setting.default in setting.values, name


CONTRADICTIONS = [
    ({"DETECTION_MAX_INSTANCES": 50, "POST_NMS_ROIS_INFERENCE": 20}, "more detections than proposals"),
    ({"ROI_ALIGN_SAMPLES": 3}, "ROI_ALIGN_SAMPLES = 3 has no effect"),
    ({"COMPUTE_BACKBONE_SHAPE": len}, "COMPUTE_BACKBONE_SHAPE has no effect"),
]


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_contradictory_settings_are_named(settings, message):
    (sentence,) = config(**settings).contradictions()
    assert message in sentence
    assert not Config().contradictions()
