"""Processor time and memory of one backbone: detecting, and a training step, at 512 x 512 pixels, batch 1.

    python benchmarks/backbones.py efficientnet_lite0 narrow

The second argument is "narrow" (the settings below, for CPUs) or "plain" (the defaults). Takes one to two minutes and
prints a row of the table in docs/training.md, "Backbones". Weights are new ones: they don't change the time. Processor
seconds are user and system time of all threads; medians of 5 detections and 3 steps after the first.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork

SIDE = 512
COMMON = {
    "NUM_CLASSES": 2, "IMAGES_PER_GPU": 1, "IMAGE_MIN_DIM": SIDE, "IMAGE_MAX_DIM": SIDE,
    "RPN_ANCHOR_SCALES": (16, 32, 64, 128, 256), "DETECTION_MIN_CONFIDENCE": 0, "TRAIN_BN": False,
}  # fmt: skip


def median_seconds(function, times: int) -> float:
    function()
    seconds = []
    for _ in range(times):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="a name for BACKBONE")
    parser.add_argument("heads", choices=["narrow", "plain"])
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    network = vars(SmallNetwork).items() if options.heads == "narrow" else ()
    narrow = {name: value for name, value in network if name in Config.settings_table}
    config = Config(**{**narrow, **COMMON, "BACKBONE": options.backbone})
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3)).astype("uint8")
    with tempfile.TemporaryDirectory() as folder:
        model = MaskRCNN("training", config, folder)
        detect = median_seconds(lambda: model.detect([image]), 5)
        detect_gb = peak_gb()
        model.set_trainable(".*", verbose=0)
        model.compile("sgd", learning_rate=0.001)
        corners = rng.integers(0, 320, (8, 2))
        boxes = np.concatenate([corners, corners + rng.integers(32, 192, (8, 2))], axis=1).astype("float32")
        masks = np.zeros((1, SIDE, SIDE, 8), bool)
        for i, (y1, x1, y2, x2) in enumerate(boxes.astype(int)):
            masks[0, y1:y2, x1:x2, i] = True
        truth = {"boxes": boxes[None], "labels": np.ones((1, 8), int), "masks": masks}
        step = median_seconds(lambda: model.fit(image[None], truth, verbose=0), 3)
    size = model.count_params() / 1e6
    print(
        f"| `{options.backbone}` | {options.heads} | {size:.1f} | {detect:.2f} | {detect_gb:.1f} | {step:.1f} |"
        f" {peak_gb():.1f} |"
    )


if __name__ == "__main__":
    main()
