"""Compares detection with torchvision's own Mask R-CNN v1 and v2, on the same weights and photo.

Weights come from a formula (`mrcnn.weights.golden`), so nothing is downloaded, and both sides find the same number of
objects. Each runs in a separate process (see `peer`): torchvision in `torchvision_worker.py`, with an interpreter that
has torch and torchvision, this package in `torchvision_ours.py`.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.peer import ROOT, Worker, in_turns

TARGETS = {"torchvision_v1": ">= 1.3x", "torchvision_v2": ">= 1x"}
HEIGHT, WIDTH = 480, 640
FOLDER = Path(__file__).parent


def against_torchvision(python: str, quick: bool):
    """Yields a row for each of torchvision's networks: its time to detect, divided by ours.

    Args:
        python: An interpreter with torch and torchvision.
        quick: The shorter side is 256 pixels instead of 800, and rounds are fewer.

    Raises:
        RuntimeError: One of the two failed, for instance because torchvision is not installed.
    """
    side, rounds = (256, 3) if quick else (800, 5)
    for name, target in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            prepare(name, data)
            start = {
                "theirs": partial(Worker, "theirs", data, python, name, side, data, FOLDER / "torchvision_worker.py"),
                "ours": partial(Worker, "ours", ROOT, sys.executable, name, side, data, FOLDER / "torchvision_ours.py"),
            }
            what = f"detect() with {name}, {HEIGHT} x {WIDTH} at {side} / {side * 5 // 3}"
            found = yield from in_turns(start, rounds, {"detect": what}, target)
            if found["theirs"] != found["ours"]:
                print(f"detections differ: theirs {found['theirs']}, ours {found['ours']}")


def prepare(name: str, data: Path) -> None:
    """Writes the inputs of both: a checkpoint that torchvision loads, and a photo."""
    from benchmarks.workloads import photo
    from mrcnn.verify import golden_model

    golden_model(name).save_weights(data / "weights.pth", layout="torchvision")
    np.save(data / "photo.npy", photo(HEIGHT, WIDTH))
