"""AP is measured from score 0.05 on, whatever threshold the model's config sets for daily use."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate_kit import MaskSet, rectangle, result

from mrcnn.evaluation import evaluate_dataset

MASK = rectangle(30, 40, (5, 5, 25, 35))
WRONG = rectangle(30, 40, (0, 0, 4, 4))


class Config:
    NUM_CLASSES, BATCH_SIZE, DETECTION_MIN_CONFIDENCE = 3, 1, 0.7


class Model:
    """Finds the object with score 0.3, and something else with 0.01; drops what its config says."""

    def __init__(self, config=None):
        self.config = Config() if config is None else config
        self.used = []

    def detect(self, images, verbose=0):
        self.used.append(self.config.DETECTION_MIN_CONFIDENCE)
        scores = np.array([0.3, 0.01])
        kept = scores >= (self.used[-1] or 0)
        return [result(np.stack([MASK, WRONG], -1)[..., kept], [1] * kept.sum(), scores[kept]) for _ in images]


@pytest.fixture
def dataset():
    return MaskSet([(MASK[..., None], np.array([1]))])


def evaluate(model, dataset, **keywords):
    return evaluate_dataset(model, dataset, progress=False, **keywords)


@pytest.mark.parametrize("own", [0.7, 0, None, 0.05])
def test_ap_does_not_depend_on_the_models_threshold(dataset, own):
    model = Model()
    model.config.DETECTION_MIN_CONFIDENCE = own
    report = evaluate(model, dataset)
    assert model.used == [0.05] and model.config.DETECTION_MIN_CONFIDENCE == own
    assert report.mask_ap == pytest.approx(1) and len(report.detections.score) == 1 and report.notes == []


def test_the_threshold_is_restored_after_an_exception(dataset):
    model = Model()
    dataset.load_image = lambda image_id: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(model, dataset)
    assert vars(model.config) == {}, "a value of the config's class stays there"
    model.config.DETECTION_MIN_CONFIDENCE = 0.9
    with pytest.raises(ZeroDivisionError):
        evaluate(model, dataset)
    assert vars(model.config) == {"DETECTION_MIN_CONFIDENCE": 0.9}


def test_other_min_scores_are_used(dataset):
    assert len(evaluate(Model(), dataset, min_score=0).detections.score) == 2
    report = evaluate(Model(), dataset, min_score=0.5)
    assert report.mask_ap == 0 and "below 0.5" in report.notes[0] and "min_score=0.05" in str(report)
    report = evaluate(Model(), dataset, min_score=None)
    assert report.mask_ap == 0 and "below 0.7" in report.notes[0]
    with pytest.raises(ValueError, match="min_score is 5; expected a number in"):
        evaluate(Model(), dataset, min_score=5)


def test_a_model_without_a_threshold_is_filtered_too(dataset):
    class Plain:
        def detect(self, images, verbose=0):
            return [result(np.stack([MASK, MASK, WRONG], -1), [1] * 3, np.array([0.3, 0.05, 0.049], np.float32))]

    assert len(evaluate(Plain(), dataset).detections.score) == 2
    assert len(evaluate(Plain(), dataset, min_score=None).detections.score) == 3
