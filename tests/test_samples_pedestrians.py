"""The pedestrians sample: its split, its schedule, and a small run with the AP of each epoch."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from kit import TinyConfig
from samples_kit import config_built_for

from mrcnn.model import MaskRCNN
from samples import pedestrians


@pytest.fixture
def penn_fudan(tmp_path):
    """A folder like Penn-Fudan's: 7 photos of two bright columns each."""
    folder = tmp_path / "PennFudanPed"
    for sub in ("PNGImages", "PedMasks"):
        (folder / sub).mkdir(parents=True)
    rng = np.random.default_rng(4)
    for i in range(7):
        photo, mask = np.full((60, 50, 3), 60, np.uint8), np.zeros((60, 50), np.uint8)
        for person, x in ((1, 6), (2, 30)):
            y = int(rng.integers(5, 15))
            photo[y : y + 40, x : x + 12] = 220
            mask[y : y + 40, x : x + 12] = person
        cv2.imwrite(str(folder / "PNGImages" / f"FudanPed{i:05}.png"), photo)
        cv2.imwrite(str(folder / "PedMasks" / f"FudanPed{i:05}_mask.png"), mask)
    return folder


def test_the_parts_share_no_photo(penn_fudan):
    training, test = (pedestrians.pedestrians_dataset(penn_fudan, part) for part in ("train", "test"))
    assert (len(training.image_ids), len(test.image_ids)) == (5, 2)
    assert not set(training.image_from_source_map) & set(test.image_from_source_map)
    assert test.class_names == pedestrians.CLASS_NAMES
    again = pedestrians.pedestrians_dataset(penn_fudan.parent, "test")  # the same ones each time
    assert again.image_from_source_map == test.image_from_source_map


def test_the_real_photos(shared):
    folder = shared / "data" / "penn_fudan"
    counts = [len(pedestrians.pedestrians_dataset(folder, part).image_ids) for part in ("train", "test")]
    assert counts[1] >= 1 and counts[0] > counts[1]


def test_the_tutorials_learning_rate():
    config = pedestrians.PedestriansConfig()
    rate = pedestrians.steps_down(config)
    starts = [float(rate(60 * epoch + 1)) for epoch in range(10)]
    np.testing.assert_allclose(starts, [0.005] * 3 + [0.0005] * 3 + [0.00005] * 3 + [0.000005], rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("mobilenet_v2", pedestrians.SmallPedestriansConfig), ("resnet50", pedestrians.PedestriansConfig)],
)
def test_the_network_follows_the_weights(monkeypatch, backbone, expected):
    build = pedestrians.pedestrians_model
    config = config_built_for(monkeypatch, backbone, lambda path: build("training", path, "logs"))
    assert type(config) is expected and config.BACKBONE == backbone


def test_results_on_the_users_photos_have_class_names(tmp_path):
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((8, 9, 3), np.uint8))
    dataset = pedestrians.photos_dataset([tmp_path / "street.png"])
    assert dataset.class_names == pedestrians.CLASS_NAMES
    assert dataset.load_image(0).shape == (8, 9, 3)


@pytest.mark.parametrize("command", ["train", "evaluate", "detect", "cross-validate"])
def test_every_command_needs_photos(command, capsys):
    with pytest.raises(SystemExit):
        pedestrians.main([command, "--weights", "last"])
    assert f"{command} needs --dataset" in capsys.readouterr().err


class NothingFound:
    def to_coco(self, image_id):
        return []


class NotingModel:
    """Notes on what it was trained and what it was shown."""

    def __init__(self):
        self.config, self.trained_on, self.shown = pedestrians.SmallPedestriansConfig(), [], []

    def train(self, training, *_, **options):
        self.trained_on += [training.load_image(image_id) for image_id in training.image_ids]

    def detect(self, images):
        assert self.config.DETECTION_MIN_CONFIDENCE == 0.05  # as in other evaluations
        self.shown += images
        return [NothingFound()]


def test_no_photo_is_evaluated_by_a_model_that_was_trained_on_it(penn_fudan, tmp_path, monkeypatch):
    models = []

    def build(mode, weights, logs):
        models.append(NotingModel())
        return models[-1]

    monkeypatch.setattr(pedestrians, "pedestrians_model", build)
    report = pedestrians.cross_validate("x.h5", penn_fudan, tmp_path, folds=3)
    assert report.mask_ap50 == 0 and [len(model.shown) for model in models] == [3, 2, 2]
    for model in models:
        assert len(model.trained_on) + len(model.shown) == 7
        assert not any(np.array_equal(a, b) for a in model.trained_on for b in model.shown)


class TinyPedestriansConfig(TinyConfig, pedestrians.SmallPedestriansConfig):
    NAME = "pedestrians"
    TOP_DOWN_PYRAMID_SIZE = 32  # GroupNorm has 32 groups
    NUM_CLASSES = 2
    STEPS_PER_EPOCH = 1
    VALIDATION_STEPS = 0
    DETECTION_MIN_CONFIDENCE = 0.7


def test_a_small_run_trains_and_detects(penn_fudan, tmp_path, capsys):
    model = MaskRCNN("training", TinyPedestriansConfig(), str(tmp_path / "logs"))
    pedestrians.train(model, penn_fudan, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if re.match(r"Epoch \d: box AP \d\.\d{3}, mask AP \d\.\d{3}, mask AP50 \d", line)]
    assert [line[6] for line in epochs] == ["1", "2"]
    assert re.fullmatch(r"mask AP50 = \d\.\d{3} \(2 images\)", lines[-1])
    assert model.config.DETECTION_MIN_CONFIDENCE == 0.7  # as it was before
    run = Path(model.log_dir)
    assert (run / "mask_rcnn_pedestrians_0002.h5").is_file() and (run / "detections.png").is_file()
    assert "val_mask_ap50" in (run / "losses.csv").read_text().splitlines()[0]
