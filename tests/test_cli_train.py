"""`mrcnn train`: the split, the choices, and training on each format without a Python file."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from kit import run_eagerly, write_layers
from train_kit import FORMATS, NAMES, SIDE, Scenes, write_scenes

from mrcnn.cli import plan as planning
from mrcnn.cli.train_data import open_split, reading_masks_once
from mrcnn.cli.train_start import choose_start
from mrcnn.config import Config
from mrcnn.data.summary import summarize
from mrcnn.recipes import SMALL_DATA, SmallNetwork
from mrcnn.weights import imagenet

CLASSES = {"instance_pngs": ["nucleus", "nucleus"], "voc": ["aeroplane", "bicycle"]}  # formats with their own names
SMALL = planning.Start("shapes", {"BACKBONE": "small_resnet"}, "for the test", "small")


# ---- Split -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMATS)
def test_a_subset_has_the_masks_of_the_full_dataset(tmp_path, form):
    """Some formats look masks up by the image's place in the whole set."""
    split = open_split(write_scenes(tmp_path, form, 5), None, seed=0)
    assert split.kind == "hash" and (split.train.num_images, split.val.num_images) == (4, 1)
    scenes = Scenes().load_scenes(5)
    seen = []
    for part in (split.train, split.val):
        for i in part.image_ids:
            masks, class_ids = part.load_mask(i)
            info = part.image_info[i]
            number = next(n for n in range(5) if f"scene{n}" in f"{info['id']} {info['path']}")
            expected, _ = scenes.load_mask(number)
            union, there = masks.any(axis=-1), expected.any(axis=-1)
            assert (union & there).sum() / (union | there).sum() > 0.95
            names = sorted(part.class_names[c] for c in class_ids)
            assert names == CLASSES.get(form, list(NAMES))
            seen.append(number)
    assert sorted(seen) == list(range(5)), "no image is in both parts, and none in neither"


def test_the_split_depends_only_on_the_seed(tmp_path):
    path = write_scenes(tmp_path, "coco", 20)
    ids = [[info["id"] for info in open_split(path, None, seed).val.image_info] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) == 4


def test_splits_of_the_dataset_are_used(tmp_path):
    for name, count in (("train", 3), ("val", 2)):
        write_scenes(tmp_path / name, "labelme", count)
    split = open_split(tmp_path, None, seed=0)
    assert split.kind == "splits" and (split.train.num_images, split.val.num_images) == (3, 2)
    split = open_split(tmp_path / "train", tmp_path / "val", seed=0)
    assert split.kind == "given" and split.train.class_names == split.val.class_names == ["BG", *NAMES]


def test_validation_on_the_single_training_image_is_flagged(tmp_path):
    split = open_split(write_scenes(tmp_path, "coco", 1), None, seed=0)
    assert split.kind == "one" and "meaningless" in split.reason


def test_masks_are_read_once_for_all_choices():
    """Polygons of 500 images were drawn twice."""
    dataset = Scenes().load_scenes(2)
    read, load_mask = [], dataset.load_mask
    dataset.load_mask = lambda image_id: (read.append(image_id), load_mask(image_id))[1]
    sample = reading_masks_once(dataset)
    first, again = ([sample.load_mask(i) for i in (0, 1)] for _ in range(2))
    assert read == [0, 1] and first[0][0].any()
    for (masks, class_ids), (kept, kept_ids) in zip(first, again):
        np.testing.assert_array_equal(kept, masks != 0)
        np.testing.assert_array_equal(kept_ids, class_ids)


# ---- Choices ---------------------------------------------------------------------------------------------------------
def planned(side, start=SMALL, on_gpu=False, **given):
    """The plan for images of 640 x 480 with a square object of `side` pixels in each."""
    dataset = Scenes().load_scenes(3)
    mask = np.zeros((480, 640, 1), bool)
    mask[10 : 10 + side, 20 : 20 + side] = True
    dataset.load_mask = lambda image_id: (mask, np.ones(1, np.int32))
    summary = summarize(dataset, progress=False)
    return planning.make_plan(summary, start, on_gpu, given.get("image_size"), given.get("batch"))


@pytest.mark.parametrize(
    ("side", "on_gpu", "size"),
    [
        (200, False, 128),  # large objects: the smallest size
        (40, False, 256),  # 16 pixels of 256
        (20, False, 512),  # 16 pixels of 512
        (5, False, 512),  # would need 2048: the most for a processor
        (5, True, 1024),  # and the most for a GPU
    ],
)
def test_small_objects_keep_their_pixels(side, on_gpu, size):
    settings = planned(side, on_gpu=on_gpu).settings
    assert settings["IMAGE_MIN_DIM"] == settings["IMAGE_MAX_DIM"] == size


@pytest.mark.parametrize("side", [5, 20, 40, 200])
def test_anchors_fit_the_objects(side):
    settings = planned(side).settings
    scaled = max(side * settings["IMAGE_MAX_DIM"] / 640, 8)  # twice the finest stride
    scales = settings["RPN_ANCHOR_SCALES"]
    assert len(scales) == 5 and all(a < b for a, b in itertools.pairwise(scales))
    assert min(abs(math.log2(scale / scaled)) for scale in scales) < 0.5
    assert all(scale >= 2 * stride for scale, stride in zip(scales, (4, 8, 16, 32, 64))), (
        "no object between two anchors"
    )
    Config(NAME="x", NUM_CLASSES=2, **settings).validate()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_processor_trains_large_heads_on_few_rois(on_gpu):
    """torchvision's 512 RoIs of an image made a step of two small images take ten seconds on two cores."""
    settings = planned(40, planning.Start("torchvision_v2", {}, "", "trained"), on_gpu).settings
    assert settings.get("TRAIN_ROIS_PER_IMAGE") == (None if on_gpu else 64)


def test_options_override_the_plan_and_weights_keep_their_anchors():
    trained = planning.Start("torchvision_v2", {}, "", "trained")
    settings = planned(40, trained, image_size=320, batch=3).settings
    assert (settings["IMAGE_MAX_DIM"], settings["IMAGES_PER_GPU"]) == (320, 3)
    assert "RPN_ANCHOR_SCALES" not in settings and "MASK_SHAPE" not in settings


def test_images_without_objects_are_refused(tmp_path):
    dataset = Scenes().load_scenes(2)
    dataset.load_mask = lambda image_id: (np.zeros((SIDE, SIDE, 0), bool), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="no object with a pixel in 2 images"):
        planning.make_plan(summarize(dataset, progress=False), SMALL, False, None, None)


def test_the_length_follows_the_number_of_images():
    for images in (10, 100, 100_000):
        plan = planned(40)
        planning.choose_recipe(plan, SMALL, images, 5, None, None)
        seen = plan.recipe["epochs"] * plan.settings["STEPS_PER_EPOCH"] * plan.settings["IMAGES_PER_GPU"]
        assert max(4000, images) <= seen < 1.6 * max(4000, images)
        assert plan.recipe["epochs"] <= planning.MOST_EPOCHS or plan.settings["STEPS_PER_EPOCH"] == 500


@pytest.mark.parametrize(
    ("steps", "says"), [(2, "a cosine to 0, without warm-up"), (40, "warm-up of 4 steps, then a cosine to 0")]
)
def test_the_plan_says_which_warm_up_the_training_has(steps, says):
    """It promised a warm-up to trainings of fewer than ten steps, which have none."""
    plan = planned(40)
    planning.choose_recipe(plan, SMALL, 10, 5, 1, steps)
    assert dict(row[::2] for row in plan.why)["learning rate"].endswith(says)
    assert str(planning.warm_up_steps(1, steps)) in says or not planning.warm_up_steps(1, steps)


@pytest.mark.parametrize(
    ("on_gpu", "weights", "optimizer", "layers"),
    [(False, "shapes", "adam", "all"), (True, "torchvision_v2", "sgd", "all")],
)
def test_weights_and_recipe_follow_the_device(monkeypatch, tmp_path, on_gpu, weights, optimizer, layers):
    """What a GPU gets can't be seen on a machine without one: large pretrained weights, SGD, larger images."""
    monkeypatch.setattr(imagenet, "is_installed", lambda name: False)
    start = choose_start(None, on_gpu)
    plan = planned(5, start, on_gpu)
    planning.choose_recipe(plan, start, 100, 5, None, None)
    assert start.weights == weights
    assert (plan.settings["OPTIMIZER"], plan.recipe["layers"]) == (optimizer, layers)
    assert plan.settings["IMAGE_MAX_DIM"] == (1024 if on_gpu else 512)


@pytest.mark.parametrize("start", ["small", "backbone"])
@pytest.mark.parametrize("given", [{}, {"OPTIMIZER": "adamw"}, {"LEARNING_RATE": 0.3, "LEARNING_SCHEDULE": "constant"}])
def test_the_optimizer_follows_the_settings(start, given):
    """They were ignored: `mrcnn train` had an optimizer and a schedule of its own."""
    plan = planning.Plan({"IMAGES_PER_GPU": 4, "STEPS_PER_EPOCH": 10})
    planning.choose_optimizer(plan, planning.Start(None, {}, "", start), 5, given)
    optimizer = given.get("OPTIMIZER", {"small": "adam", "backbone": "sgd"}[start])
    expected = {"OPTIMIZER": optimizer, "LEARNING_RATE": 0.01 if optimizer == "sgd" else 0.001,
                "LEARNING_SCHEDULE": "cosine", "LEARNING_WARMUP": 0.1, **given}  # fmt: skip
    assert {name: plan.settings[name] for name in expected} == expected
    assert ("cosine" in plan.why[0][2]) == (expected["LEARNING_SCHEDULE"] == "cosine")


SMALL_BACKBONE = planning.Start("x.pth", {}, "", "small backbone")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OPTIMIZER": "adamw", "LEARNING_RATE": 0.0007, "WEIGHT_DECAY": 0.01, "RECIPE": "small-data"}),
        ({"OPTIMIZER": "sgd"}, {"OPTIMIZER": "sgd", "LEARNING_RATE": 0.01, "WEIGHT_DECAY": None}),  # 0.01 is AdamW's
        ({"RECIPE": "matterport"}, {"RECIPE": None, "EMA_MOMENTUM": None}),
    ],
)
def test_a_small_backbone_is_trained_as_in_the_samples(given, expected):
    plan = planned(40, SMALL_BACKBONE)
    planning.choose_recipe(plan, SMALL_BACKBONE, 61, 5, None, None, given)
    assert plan.recipe["layers"] == SmallNetwork.LAYERS
    assert {name: plan.settings.get(name) for name in expected} == expected


def test_a_short_training_does_not_average_its_untrained_heads():
    """After 40 steps, an average over the recipe's 200 steps consists mostly of the heads as they began."""
    plan = planned(40, SMALL_BACKBONE)
    planning.choose_recipe(plan, SMALL_BACKBONE, 61, 5, 1, 40)
    assert plan.settings["EMA_MOMENTUM"] ** 40 < 0.001


def test_hundreds_of_objects_fit_among_the_proposals_of_a_small_backbone():
    dataset = Scenes().load_scenes(1)
    masks = np.eye(64 * 64, 300, dtype=bool).reshape(64, 64, 300)
    dataset.load_mask = lambda image_id: (masks, np.ones(300, np.int32))
    plan = planning.make_plan(summarize(dataset, progress=False), SMALL_BACKBONE, False, None, None)
    assert plan.settings["POST_NMS_ROIS_INFERENCE"] >= plan.settings["DETECTION_MAX_INSTANCES"] == 400


@pytest.mark.parametrize(
    ("layers", "kind", "base"),
    [
        (["block_1_expand"], "small backbone", {"BACKBONE": "mobilenet_v2", "MASK_HEAD_CHANNELS": 64}),
        (["res5a_branch2a", "res4w_branch2a"], "backbone", {"BACKBONE": "resnet101"}),
        (["res5a_branch2a", "mrcnn_class_logits"], "trained", {"BACKBONE": "resnet50"}),
    ],
)
def test_a_file_without_settings_is_recognized_by_its_layers(tmp_path, layers, kind, base):
    write_layers(tmp_path / "x.h5", layers)
    start = choose_start(str(tmp_path / "x.h5"), on_gpu=False)
    assert start.kind == kind and base.items() <= start.base.items()


@pytest.fixture
def eagerly():
    """Runs steps without tracing them, which takes longer than the few steps of a test."""
    with run_eagerly():
        yield


# ---- Training --------------------------------------------------------------------------------------------------------
def test_train_without_a_python_file(run, tmp_path, eagerly):
    """Two steps of a small network: files, JSON, and the choices in the run folder."""
    path = write_scenes(tmp_path / "scenes", "via", 5)
    short = ["--epochs", 1, "--steps", 2, "--batch", 1, "--image-size", 64, "--set", "VALIDATION_STEPS=0"]
    result = run("train", path, "-o", tmp_path / "runs", *short, "--json")
    assert result.exit_code == 0, result.stderr
    assert "anchor recall" in result.stderr and "epoch 1 of 1: loss" in result.stderr
    done = json.loads(result.stdout)
    assert set(done["validation"]) == {"mask_ap", "mask_ap50", "box_ap", "box_ap50"}
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "mask_rcnn_scenes_0001.h5").is_file() and (folder / "report.html").is_file()
    record = json.loads((folder / "mrcnn_train.json").read_text())
    assert record["classes"] == ["BG", *NAMES] and record["recipe"]["epochs"] == 1 and record["split"] == "hash"
    assert len(record["validation_images"]) == 1 and record["config"]["SEED"] == 0
    assert record["config"]["LEARNING_SCHEDULE"] == "cosine" and record["config"]["FLIP_PROBABILITY"] == 0.5
    assert "not used" not in result.stderr
    shown = json.loads(run("info", done["checkpoint"], "--json").stdout)
    assert shown["classes"] == ["BG", *NAMES] and shown["run"]["epoch"] == 1


def test_a_dry_run_only_prints_the_plan(run, tmp_path):
    path = write_scenes(tmp_path / "scenes", "coco", 5)
    result = run("train", path, "-o", tmp_path / "runs", "--dry-run", "--set", "DETECTION_MIN_CONFIDENCE=0.3", "--json")
    record = json.loads(result.stdout)
    assert record["settings"]["DETECTION_MIN_CONFIDENCE"] == 0.3 and not (tmp_path / "runs").exists()


def test_a_recipe_gives_its_settings_unless_other_options_do(run, tmp_path):
    path = write_scenes(tmp_path / "scenes", "coco", 5)
    options = ["--recipe", "small-data", "--no-flip", "--set", "LEARNING_RATE=0.02", "--set", "COLOR_JITTER=0.1"]
    result = run("train", path, "-o", tmp_path / "runs", "--dry-run", "--json", *options)
    expected = {**SMALL_DATA, "RECIPE": "small-data", "FLIP_PROBABILITY": 0, "COLOR_JITTER": 0.1,
                "LEARNING_RATE": 0.02}  # fmt: skip
    settings = json.loads(result.stdout)["settings"]
    assert json.loads(json.dumps(expected)).items() <= settings.items()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 1, "nowhere does not exist"),
        (["scenes", "--resume"], 1, "No checkpoint"),
        (["scenes", "--weights", "nowhere.h5"], 1, "nowhere.h5: no such file"),
        (["scenes", "--image-size", "100"], 2, "a multiple of 64"),
        (["scenes", "--set", "STEPS=3"], 2, "STEPS=3"),
        (["scenes", "--recipe", "best"], 1, "no recipe 'best'; expected one of matterport, small-data"),
    ],
)
def test_invalid_settings_are_reported_before_training(run, tmp_path, monkeypatch, arguments, code, says):
    write_scenes(tmp_path / "scenes", "labelme", 3)
    monkeypatch.chdir(tmp_path)
    result = run("train", *arguments)
    assert result.exit_code == code and says in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_training_learns_on_each_format(run, tmp_path, form):
    path = write_scenes(tmp_path / "scenes", form, 16)
    arguments = ["train", path, "-o", tmp_path / "runs", "--epochs", 1, "--steps", 40, "--batch", 4, "--json"]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["validation"]["mask_ap50"] > 0.8


@pytest.mark.slow
def test_resume_continues_where_the_run_ended(run, tmp_path):
    """A resumed run took other images for validation, or began with epoch 1."""
    path = write_scenes(tmp_path / "scenes", "coco", 6)
    arguments = ["train", path, "-o", tmp_path / "runs", "--batch", 1, "--json"]
    first = json.loads(run(*arguments, "--epochs", 1, "--steps", 2, "--seed", 5).stdout)
    second = json.loads(run(*arguments, "--resume", "--epochs", 2).stdout)
    assert second["run"] == first["run"] and second["checkpoint"].endswith("_0002.h5")
    assert second["validation_images"] == first["validation_images"] and second["seed"] == 5
    again = json.loads(run("evaluate", path, "--weights", second["checkpoint"], "--json").stdout)
    assert again["images"] == len(first["validation_images"]) == 1
