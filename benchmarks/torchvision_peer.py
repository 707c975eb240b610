"""Compares with torchvision's own Mask R-CNN: detection with v1 and v2 on the same weights and photo, and training.

Weights come from a formula (`mrcnn.weights.golden`), so nothing is downloaded, and both sides find the same number of
objects. Each runs in a separate process (see `peer`): torchvision in `torchvision_worker.py`, with an interpreter that
has torch and torchvision, this package in `torchvision_ours.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.peer import ROOT, Worker, in_turns

TARGETS = {"torchvision_v1": ">= 1.3x", "torchvision_v2": ">= 1x"}
HEIGHT, WIDTH = 480, 640
ROIS = (512, 200)  # RoIs per image in training: torchvision's default and matterport's
OBJECTS = 8
SAMPLES = 40
FOLDER = Path(__file__).parent

ALIKE = """Detection, alike: weights, photo, its size in the network, thresholds, limits, masks on the photo. Not alike:
this package pads the photo to a square or to 64 pixels as the preset says, and folds BatchNorm into its convolutions.
Training, alike: ResNet-50, all layers, the photo, its objects, the RoIs per image, a quarter of them positive, up to
2,000 proposals, RPN targets made in the step, SGD with momentum and weight decay, learning rate 0. Not alike:
torchvision's BatchNorm is constants, this package trains its scale and offset; this package clips gradients by their
norm, and has no proposals per level; its RPN has 512 channels, torchvision's 256; how many RoIs are positive depends on
the weights; torchvision's masks are as large as the photo, this package's are mini masks.
Loading, alike: files decoded, polygons to masks, photo and masks resized, no augmentation. Not alike: torchvision pads
to a multiple of 32 pixels, this package to a square, and it makes RPN targets and room for 100 masks, too."""


def against_torchvision(python: str, quick: bool):
    """Yields the rows: times to detect with each network, and of a training step, theirs / ours.

    Args:
        python: An interpreter with torch and torchvision.
        quick: Smaller images and fewer rounds.

    Raises:
        RuntimeError: One of the two failed, for instance because torchvision is not installed.
    """
    print(ALIKE)
    side, rounds = (256, 3) if quick else (800, 5)
    for name, target in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            prepare(name, data)
            what = f"detect() with {name}, {HEIGHT} x {WIDTH} at {side} / {side * 5 // 3}"
            found = yield from in_turns(workers(name, python, side, data), rounds, {"detect": what}, target)
            if found["theirs"] != found["ours"]:
                print(f"detections differ: theirs {found['theirs']}, ours {found['ours']}")
    yield from training_steps(python, 256 if quick else 512, rounds)
    yield from full_masks(python, 256 if quick else 1024, rounds)


def training_steps(python: str, side: int, rounds: int, rois=ROIS):
    """Yields the rows of a training step of v1, for each number of RoIs per image."""
    for count in rois:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            prepare_training(side, data)
            what = f"a training step, ResNet-50, {side} x {side}, batch 1, all layers, {count} RoIs"
            task = f"training_{count}"
            found = yield from in_turns(workers(task, python, side, data), rounds, {"step": what}, ">= 1x")
            print(f"positive RoIs: theirs {found['theirs']}, ours at most {found['ours']}")


def full_masks(python: str, side: int, rounds: int):
    """Yields the row of loading samples with full masks."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        count = prepare_loading(data)
        what = f"loading {count} training samples with full masks, {side} x {side}, one process"
        found = yield from in_turns(workers("loading", python, side, data), rounds, {"load": what}, ">= 1x")
        print(f"masks: theirs {found['theirs']}, ours {found['ours']}")


def workers(task: str, python: str, side: int, data: Path) -> dict:
    """Functions that start the two processes."""
    return {
        "theirs": partial(Worker, "theirs", data, python, task, side, data, FOLDER / "torchvision_worker.py"),
        "ours": partial(Worker, "ours", ROOT, sys.executable, task, side, data, FOLDER / "torchvision_ours.py"),
    }


def prepare(name: str, data: Path) -> None:
    """Writes the inputs of both: a checkpoint that torchvision loads, and a photo."""
    from benchmarks.workloads import photo
    from mrcnn.verify import golden_model

    golden_model(name).save_weights(data / "weights.pth", layout="torchvision")
    np.save(data / "photo.npy", photo(HEIGHT, WIDTH))


def prepare_training(side: int, data: Path) -> None:
    """Writes a photo with the boxes, classes and masks of its objects, and the same as a batch of this package."""
    from benchmarks.workloads import network_config, photo, training_batch

    batch = training_batch(network_config(side), OBJECTS)
    image = photo(side, side)
    batch["input_image"][0] = image - np.float32(127)
    boxes = batch["input_gt_boxes"][0, :OBJECTS].astype(np.int32)
    masks = np.zeros((OBJECTS, side, side), np.uint8)
    for mask, (y1, x1, y2, x2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    classes = batch["input_gt_class_ids"][0, :OBJECTS]
    np.savez(data / "batch.npz", image=image / np.float32(255), boxes=boxes, classes=classes, masks=masks)
    np.savez(data / "ours.npz", **batch)


def prepare_loading(data: Path) -> int:
    """Writes a file in COCO's format: 40 of COCO's images, or generated photos. Returns the number of images."""
    from benchmarks.workloads import SHARED, made_up_dataset

    folder = SHARED / "data/coco_val"
    annotations, photos = folder / "annotations/instances_val2017.json", folder / "val2017"
    if not folder.is_dir():
        made_up_dataset(data, images=SAMPLES, objects=9)
        annotations, photos = data / "annotations.json", data
    content = json.loads(annotations.read_text())
    objects = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    shown = {entry["image_id"] for entry in objects}
    content["images"] = [image for image in content["images"] if image["id"] in shown][:SAMPLES]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [entry for entry in objects if entry["image_id"] in chosen]
    (data / "chosen.json").write_text(json.dumps(content))
    (data / "photos").symlink_to(photos)
    return len(chosen)
