"""This package's side of benchmarks/torchvision_peer.py: python torchvision_ours.py TASK SHORTER_SIDE DATA_FOLDER"""

import json
import sys
import time

import numpy as np

from mrcnn import MaskRCNN


def detecting(name: str, side: int, data: str):
    """A function that detects, and returns how many objects it found."""
    from mrcnn.weights.golden.records import GOLDEN

    sides = {"IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side * 5 // 3}
    model = MaskRCNN.from_preset(GOLDEN[name].preset, weights=f"{data}/weights.pth", **sides)
    image = np.load(f"{data}/photo.npy")
    return lambda: model.detect([image])[0]["masks"].shape[-1]  # pasted on the photo now


def training(rois: int, side: int, data: str):
    """A function that makes a training step from an image with its truth: RPN targets are part of it."""
    from benchmarks.workloads import network
    from mrcnn.data.rpn_targets import build_rpn_targets
    from mrcnn.ops.anchors import anchors_of_image

    model = network("training", side, TRAIN_ROIS_PER_IMAGE=rois, ROI_POSITIVE_RATIO=0.25)
    model.set_trainable(".*", verbose=0)
    model.compile(0.0)
    with np.load(f"{data}/batch.npz") as file:
        boxes, classes = file["boxes"], file["classes"]
    with np.load(f"{data}/ours.npz") as file:
        batch = dict(file)
    anchors = anchors_of_image((side, side), **model.config.anchor_settings())
    rng = np.random.default_rng(0)

    def step() -> int:
        match, deltas = build_rpn_targets((side, side, 3), anchors, classes, boxes, model.config, rng=rng)
        batch["input_rpn_match"] = np.asarray(match, np.int32).reshape(1, -1, 1)
        batch["input_rpn_bbox"] = np.asarray(deltas, np.float32)[None]
        model.train_on_batch(batch)
        return rois // 4

    return step


task, side, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if task.startswith("training_"):
    call = training(int(task.removeprefix("training_")), side, data)
else:
    call = detecting(task, side, data)
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    start, processor = time.perf_counter(), time.process_time()
    found = call()
    seconds = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**seconds, "found": found}), flush=True)
