"""samples/coco.py: classes, schedules, downloads, and the user's files in COCO format."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from mrcnn.data.formats import coco as coco_format
from mrcnn.training.schedule import scheduled_rate
from samples import coco, common
from samples.shapes import ShapesConfig


# ---- Classes and settings --------------------------------------------------------------------------------------------
def test_class_names_match_coco(shared):
    dataset = coco.CocoDataset()
    dataset.load_coco(shared / "data" / "coco_val", "val", 2017)
    dataset.prepare()
    assert dataset.class_names == coco.CLASS_NAMES


def test_eighty_names_and_the_background():
    assert len(coco.CLASS_NAMES) == len(set(coco.CLASS_NAMES)) == coco.CocoConfig.NUM_CLASSES == 81
    assert coco.CLASS_NAMES[0] == "BG" and coco.CLASS_NAMES[-1] == "toothbrush"


def test_reading_prints_one_message():
    assert coco.CocoDataset.load_coco is coco_format.CocoDataset.load_coco
    assert coco.coco_layout is coco_format.coco_layout


@pytest.mark.parametrize(
    ("backbone", "kind", "side"), [("mobilenet_v2", coco.SmallCocoConfig, 256), ("resnet50", coco.CocoConfig, 1024)]
)
def test_the_settings_follow_the_weights(monkeypatch, backbone, kind, side):
    monkeypatch.setattr(common, "backbone_of", lambda path: backbone)
    config = coco.coco_config("x.h5", 5)
    assert type(config) is kind and config.BACKBONE == backbone and config.NUM_CLASSES == 5
    assert tuple(config.IMAGE_SHAPE) == (side, side, 3)


# ---- Schedules -------------------------------------------------------------------------------------------------------
def test_detectrons_1x():
    config = coco.CocoConfig()
    config.IMAGES_PER_GPU = 16
    epochs, layers, rates = zip(*coco.once_stages(config))
    assert epochs == (60, 80, 90) and set(layers) == {"all"}
    np.testing.assert_allclose(rates, [0.02, 0.002, 0.0002])
    config.IMAGES_PER_GPU, config.STEPS_PER_EPOCH = 8, 500  # half of the batch, half of the steps in an epoch
    epochs, _, rates = zip(*coco.once_stages(config))
    assert epochs == (240, 320, 360)
    np.testing.assert_allclose(rates, [0.01, 0.001, 0.0001])


def test_the_short_schedule_warms_up_and_decays():
    config = coco.SmallCocoConfig()
    config.EPOCHS, config.STEPS_PER_EPOCH = 4, 10
    ((epochs, layers, rate),) = coco.short_stages(config)
    assert (epochs, layers) == (4, "3+")
    rate = scheduled_rate(coco.CocoConfig(**coco.SHORT_SETTINGS), rate, steps=epochs * config.STEPS_PER_EPOCH)
    values = [float(rate(step)) for step in range(41)]
    assert values[0] == 0 and values[2] == pytest.approx(config.ADAM_RATE) and values[40] == pytest.approx(0, abs=1e-9)
    assert np.all(np.diff(values[2:]) < 0)


class NoModel:
    """Notes what it would be trained with."""

    def __init__(self, log_dir):
        self.config, self.log_dir, self.runs = coco.SmallCocoConfig(), str(log_dir), []

    def train(self, training, validation, **options):
        self.runs.append(options)


@pytest.mark.parametrize(
    ("schedule", "until", "optimizer", "decay"),
    [("matterport", [40, 120, 160], "sgd", "constant"), ("short", [12], "adamw", "cosine")],
)
def test_each_stage_is_trained(tmp_path, schedule, until, optimizer, decay):
    dataset = coco.CocoDataset()
    dataset.add_class("coco", 7, "cat")
    dataset.prepare()
    model = NoModel(tmp_path / "run")
    coco.train(model, dataset, dataset, schedule)
    assert [run["epochs"] for run in model.runs] == until
    assert (model.config.OPTIMIZER, model.config.LEARNING_SCHEDULE) == (optimizer, decay)


# ---- Download --------------------------------------------------------------------------------------------------------
def archive_of(*names) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("subset", "year", "urls"),
    [
        ("val", "2017", ["/zips/val2017.zip", "/annotations/annotations_trainval2017.zip"]),
        ("minival", "2014", ["/zips/val2014.zip", "/instances_minival2014.json.zip?dl=0"]),
    ],
)
def test_auto_download_brings_photos_and_annotations_once(tmp_path, monkeypatch, subset, year, urls):
    asked = []

    def download(url, path):
        asked.append(url)
        inside = [f"val{year}/1.jpg"] if "zips" in url else [f"annotations/instances_val{year}.json"]
        Path(path).write_bytes(archive_of(*inside, f"instances_minival{year}.json"))

    monkeypatch.setattr(coco.weights, "download", download)
    for _ in range(2):
        coco.CocoDataset().auto_download(tmp_path, subset, year)
    assert len(asked) == 2 and all(url.endswith(end) for url, end in zip(asked, urls))
    annotations, photos = coco.coco_layout(tmp_path, subset, year)
    assert annotations.is_file() and photos.is_dir()
    assert not list(tmp_path.rglob("*.zip"))


def test_an_archive_without_the_needed_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(coco.weights, "download", lambda url, path: Path(path).write_bytes(archive_of("x")))
    with pytest.raises(FileNotFoundError, match="does not contain .*val2017"):
        coco.CocoDataset().auto_download(tmp_path, "val", "2017")


# ---- The user's files ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [[], ["--dataset", "x", "--annotations", "y"]])
def test_either_dataset_or_annotations_is_needed(words, capsys):
    with pytest.raises(SystemExit):
        coco.parse(["evaluate", "--weights", "coco", *words])
    assert "either --dataset or --annotations" in capsys.readouterr().err


def write_own_files(folder, count: int = 3):
    """Photos with one square each and their annotations, without `info` and with another id for the category."""
    images, annotations = [], []
    for i in range(1, count + 1):
        image = np.full((64, 64, 3), 40, np.uint8)
        x, y, side = 8 * i, 10, 30
        image[y : y + side, x : x + side] = (200, 120, 30)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        outline = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append({"id": i, "image_id": i, "category_id": 42, "segmentation": [outline], "iscrowd": 0,
                            "area": side * side, "bbox": [x, y, side, side]})  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 42, "name": "tile"}]}
    (folder / "own.json").write_text(json.dumps(content))
    return folder / "own.json"


@pytest.mark.slow
def test_the_users_files_are_trained_on_and_evaluated(tmp_path, monkeypatch):
    class Tiny(ShapesConfig):
        NAME, EPOCHS, ADAM_RATE = "coco", 1, 0.001
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
        NUM_CLASSES, IMAGES_PER_GPU, VALIDATION_STEPS = 2, 2, 0

    evaluated, start, logs = [], tmp_path / "start.h5", tmp_path / "logs"
    h5py.File(start, "w").close()
    monkeypatch.setattr(coco, "coco_config", lambda path, num_classes=0: Tiny())
    monkeypatch.setattr(coco, "load_weights", lambda model, word, path: None)
    monkeypatch.setattr(coco, "evaluate", lambda model, dataset, image_ids: evaluated.append(list(image_ids)))
    words = ["--annotations", str(write_own_files(tmp_path)), "--logs", str(logs), "--weights", str(start)]
    coco.main(["train", *words, "--schedule", "short", "--epochs", "2"])
    coco.main(["evaluate", *words, "--limit", "1"])
    (run,) = logs.iterdir()
    assert common.class_names_of(run / "mask_rcnn_coco_0002.h5") == ["BG", "tile"]
    assert (run / "mask_rcnn_coco_0002.h5").is_file()
    assert len((run / "losses.csv").read_text().splitlines()) == 3
    assert evaluated == [[0, 1, 2], [0]]
