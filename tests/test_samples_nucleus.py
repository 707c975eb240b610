"""The nucleus sample: run lengths and submission, the split, contrast, and one small run from photos to a CSV file."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from kit import TinyConfig
from samples_kit import config_built_for

from mrcnn.model import MaskRCNN
from samples import nucleus


# ---- Run lengths -----------------------------------------------------------------------------------------------------
def test_run_lengths_go_down_the_columns_from_pixel_1():
    mask = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 1]], bool)  # columns: 010, 111, 001
    assert nucleus.rle_encode(mask) == "2 1 4 3 9 1"
    np.testing.assert_array_equal(nucleus.rle_decode("2 1 4 3 9 1", (3, 3)), mask)


def test_run_lengths_of_empty_and_full_masks():
    assert nucleus.rle_encode(np.zeros((3, 4), bool)) == ""
    assert not nucleus.rle_decode("", (3, 4)).any()
    assert nucleus.rle_encode(np.ones((3, 4))) == "1 12"
    assert nucleus.rle_decode("1 12", (3, 4)).all()


def test_run_lengths_round_trip():
    masks = np.random.default_rng(0).random((20, 17, 23)) < 0.5
    for mask in masks:
        np.testing.assert_array_equal(nucleus.rle_decode(nucleus.rle_encode(mask), mask.shape), mask)


@pytest.mark.parametrize("rle", ["3", "0 2", "11 3"])
def test_run_lengths_outside_the_image(rle):
    with pytest.raises(ValueError, match=r"within 1\.\.12"):
        nucleus.rle_decode(rle, (3, 4))


def two_bars():
    masks = np.zeros((4, 6, 2), bool)
    masks[1, 0:4, 0] = True
    masks[1, 2:6, 1] = True
    return masks


@pytest.mark.parametrize(("scores", "widths"), [([0.9, 0.6], [4, 2]), ([0.6, 0.9], [2, 4]), ([0.7, 0.7], [4, 2])])
def test_an_overlap_goes_to_the_higher_score(scores, widths):  # matterport gave it to the lower one
    kept = nucleus.without_overlaps(two_bars(), np.array(scores))
    assert kept.sum(axis=(0, 1)).tolist() == widths
    assert kept.sum(axis=-1).max() == 1 and (kept.any(axis=-1) == two_bars().any(axis=-1)).all()


def test_lines_of_a_submission():
    lines = nucleus.mask_to_rle("a1", two_bars(), np.array([0.6, 0.9])).split("\n")
    assert lines == ["a1,10 1 14 1 18 1 22 1", "a1,2 1 6 1"]  # the best first
    hidden = np.stack([two_bars()[..., 0]] * 2, axis=-1)
    assert nucleus.mask_to_rle("a1", hidden, np.array([0.6, 0.9])) == "a1,2 1 6 1 10 1 14 1"  # no line for nothing
    assert nucleus.mask_to_rle("a1", np.zeros((4, 6, 0), bool), np.zeros(0)) == "a1,"


# ---- Images ----------------------------------------------------------------------------------------------------------
def test_stretched_contrast():
    image = np.full((50, 50, 3), 4, np.uint8)
    image[:5] = 14
    stretched = nucleus.stretch_contrast(image)
    assert stretched.dtype == np.uint8 and stretched[:5].min() == 255 and stretched[5:].max() == 0
    assert not nucleus.stretch_contrast(np.full((5, 5, 3), 9, np.uint8)).any()  # nothing to stretch


@pytest.fixture
def bowl(tmp_path):
    """A folder like the bowl's, 3 images to train with, 1 for validation, 1 without truth."""
    names = [f"image{i}" for i in range(40)]
    held = [name for name in names if nucleus.for_validation(name)]
    assert 0 < len(held) < 15
    rng = np.random.default_rng(3)
    for name in [name for name in names if name not in held][:3] + held[:1]:
        _write_image(tmp_path / "stage1_train" / name, rng, with_masks=True)
    _write_image(tmp_path / "stage1_test" / "unknown", rng, with_masks=False)
    return tmp_path


def _write_image(folder, rng, with_masks):
    """Three bright discs on black, 48 x 40 pixels."""
    image = np.zeros((48, 40, 3), np.uint8)
    for sub in ("images", "masks")[: 1 + with_masks]:
        (folder / sub).mkdir(parents=True)
    for i, (y, x) in enumerate([(10, 10), (30, 12), (24, 29)]):
        mask = cv2.circle(np.zeros((48, 40), np.uint8), (x, y), int(rng.integers(5, 9)), 255, -1)
        image[mask > 0] = 20
        if with_masks:
            cv2.imwrite(str(folder / "masks" / f"{i}.png"), mask)
    cv2.imwrite(str(folder / "images" / f"{folder.name}.png"), image)


def test_subsets_can_be_selected(bowl):
    sizes = {}
    for subset in ("train", "val", "stage1_train", "stage1_test"):
        dataset = nucleus.NucleusDataset()
        dataset.load_nucleus(bowl, subset)
        dataset.prepare()
        sizes[subset] = len(dataset.image_ids)
        assert dataset.class_names == nucleus.CLASS_NAMES
        assert all(
            nucleus.for_validation(dataset.image_reference(i)) == (subset == "val") for i in dataset.image_ids
        ) or (subset.startswith("stage1"))
    assert sizes == {"train": 3, "val": 1, "stage1_train": 4, "stage1_test": 1}


def test_the_real_images_are_split(shared):
    config = nucleus.NucleusConfig()
    training, validation = (
        nucleus.nucleus_dataset(shared / "data" / "nuclei", subset, config) for subset in ("train", "val")
    )
    assert (len(training.image_ids), len(validation.image_ids)) == (37, 11)
    assert not set(training.image_from_source_map) & set(validation.image_from_source_map)


# ---- Command line and run --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("backbone", "mode", "expected"),
    [
        ("mobilenet_v2", "training", nucleus.SmallNucleusConfig),
        ("resnet101", "training", nucleus.NucleusConfig),
        (None, "inference", nucleus.NucleusInferenceConfig),
    ],
)
def test_the_network_follows_the_weights(monkeypatch, backbone, mode, expected):
    config = config_built_for(monkeypatch, backbone, lambda path: nucleus.nucleus_model(mode, path, "logs"))
    assert type(config) is expected and config.BACKBONE == (backbone or "resnet50")


class BrightFinder:
    """Stands in for a model: what is bright in the upper and in the lower two thirds, so that they overlap."""

    config = nucleus.NucleusConfig()

    def detect(self, images, verbose=0):
        (image,) = images
        bright = image[..., 0] > 5
        rows = np.arange(len(bright))[:, None] / len(bright)
        masks = np.stack([bright & (rows < 0.67), bright & (rows > 0.33)], axis=-1)
        boxes = np.array([[0, 0, *bright.shape]] * 2)
        return [{"rois": boxes, "masks": masks, "class_ids": np.array([1, 1]), "scores": np.array([0.6, 0.9])}]


def test_a_submission_decodes_to_the_masks(bowl, tmp_path):
    model = BrightFinder()
    submission = nucleus.detect(model, bowl, "stage1_test", tmp_path / "results")
    with open(submission, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ImageId"] for row in rows] == ["unknown", "unknown"]
    image = cv2.imread(str(bowl / "stage1_test" / "unknown" / "images" / "unknown.png"))
    upper, lower = np.moveaxis(model.detect([image])[0]["masks"], -1, 0)
    for row, mask in zip(rows, (lower, upper & ~lower)):  # the better one first, and whole
        np.testing.assert_array_equal(nucleus.rle_decode(row["EncodedPixels"], (48, 40)), mask)
    assert sorted(file.name for file in submission.parent.iterdir()) == ["submit.csv", "unknown.png"]


class TinyNucleusConfig(TinyConfig, nucleus.SmallNucleusConfig):
    NAME = "nucleus"
    TOP_DOWN_PYRAMID_SIZE = 32  # GroupNorm has 32 groups
    NUM_CLASSES = 2
    STEPS_PER_EPOCH = 1
    STAGES = ((1, "heads"),)


def test_a_small_run_trains_and_detects(bowl, tmp_path, capsys):
    model = MaskRCNN("training", TinyNucleusConfig(), str(tmp_path / "logs"))
    nucleus.train(model, bowl)
    assert (Path(model.log_dir) / "mask_rcnn_nucleus_0001.h5").is_file()
    assert (Path(model.log_dir) / "detections.png").is_file()
    assert re.fullmatch(r"mask AP50 = \d\.\d{3} \(1 images\)", capsys.readouterr().out.splitlines()[-1])
