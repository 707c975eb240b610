"""Training under the rules of torchvision and detectron2: the losses fall, and their settings are those documented."""

from __future__ import annotations

import numpy as np
import pytest
from kit import TWO_IMAGES, make_batch, tiny_model

from mrcnn.config import Config

SMALL = {"RPN_CHANNELS": 16, "MASK_HEAD_CHANNELS": 16, "WEIGHT_DECAY": 0.0}
CASCADE = {"CASCADE_BBOX_STD_DEVS": [[0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]}


@pytest.mark.parametrize(
    ("convention", "parts"), [("torchvision", {}), ("detectron2", CASCADE)], ids=["torchvision", "detectron2 cascade"]
)
def test_training_lowers_the_losses(convention, parts, tmp_path):
    model = tiny_model("training", tmp_path, CONVENTION=convention, **SMALL, **parts)
    model.compile(learning_rate=0.02)
    model.run_eagerly = True  # six steps take less time than building the graph
    batch = make_batch(model.config, TWO_IMAGES)
    first = model.train_on_batch(batch, return_dict=True)
    for _ in range(5):
        model.reset_metrics()
        last = model.train_on_batch(batch, return_dict=True)
    assert np.isfinite(list(last.values())).all() and last["mrcnn_mask_loss"] > 0
    for name in ("loss", "rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss"):
        assert last[name] < 0.5 * first[name], name


def test_settings_of_training_follow_the_convention():
    expected = {
        "torchvision": (2000, 2000, 512, 0.25, True, True, 1 / 9, "samples"),
        "detectron2": (2000, 1000, 512, 0.25, True, True, 0.0, "samples"),
        "matterport": (None, 2000, 200, 0.33, False, False, 1.0, "positives"),
    }
    names = ("PRE_NMS_LIMIT_TRAINING", "POST_NMS_ROIS_TRAINING", "TRAIN_ROIS_PER_IMAGE", "ROI_POSITIVE_RATIO",
             "ADD_GT_TO_PROPOSALS", "FILL_ROIS_WITH_NEGATIVES", "SMOOTH_L1_BETA", "BOX_LOSS_AVERAGE")  # fmt: skip
    for convention, values in expected.items():
        config = Config(CONVENTION=convention)
        assert tuple(getattr(config, name) for name in names) == values
