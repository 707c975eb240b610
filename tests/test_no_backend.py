"""Loading samples and evaluating COCO results use no backend, which would take seconds to import and 0.5 GB."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = {
    "evaluating COCO results": """
import mrcnn.evaluation.html_report
from mrcnn.evaluation import evaluate_predictions
dataset = Squares()
box = [4.0, 4.0, 16.0, 16.0]
result = {"image_id": 0, "category_id": 1, "score": 0.9, "bbox": box, "segmentation": [[4, 4, 20, 4, 20, 20, 4, 20]]}
assert evaluate_predictions(dataset, [result], progress=False).mask_ap > 0.99
""",
    "what a worker process does": """
import mrcnn.data.worker_processes
from mrcnn import Config
from mrcnn.data.collate import make_batch
from mrcnn.data.sample_stream import SampleStream
sizes = dict(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, RPN_ANCHOR_SCALES=[4, 8, 16, 32, 64])
config = Config(NUM_CLASSES=2, FLIP_PROBABILITY=0.5, **sizes)
stream = SampleStream(Squares(), config, shuffle=True, seed=0)
assert (make_batch([stream.sample(0)], stream)["input_rpn_match"] == 1).any()
""",
    "opening a dataset and its summary": """
import mrcnn.data.convert
from mrcnn import Config, open_dataset
from mrcnn.data.doctor import check
assert Squares().summary(Config(NUM_CLASSES=2)) is not None
""",
}
SQUARES = """
import sys
import numpy as np
from mrcnn import Dataset

class Squares(Dataset):
    def __init__(self):
        super().__init__()
        self.add_class("shapes", 1, "square")
        self.add_image("shapes", image_id=0, path=None)
        self.prepare()

    def load_image(self, image_id):
        return np.zeros((32, 32, 3), np.uint8)

    def load_mask(self, image_id):
        mask = np.zeros((32, 32, 1), bool)
        mask[4:20, 4:20] = True
        return mask, np.array([1])
"""


@pytest.mark.parametrize("use", USE)
def test_no_backend_is_imported_by(use):
    code = SQUARES + USE[use] + "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"  # the summary prints a table before it
