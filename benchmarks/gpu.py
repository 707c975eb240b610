"""Compares images per second on a GPU, in detection and training, with torchvision's Mask R-CNN.

    python benchmarks/gpu.py              batches of 1 to 16, float32 and bfloat16, 1024 x 1024; needs a GPU
    python benchmarks/gpu.py --quick      small network and images, one round; checks that it runs, also without a GPU

Results go to benchmarks/results/gpu.json, or to another file with --json. **It has not been run on a GPU yet**, only
with --quick on a CPU, whose figures are meaningless.

Needs JAX with GPU support (pip install 'jax[cuda12]'), and PyTorch and torchvision with GPU support (pip install torch
torchvision). Without torchvision, the rows contain only the images per second of this package, with a note.

Both models are ResNet-50 FPN with 81 classes, random weights, and 100 detections or 9 ground-truth objects per image.
Detection is timed from photos in memory to boxes, classes, scores and full-size masks in memory; a training step from a
batch in memory to weights updated with SGD. float32 may use TF32 in both. The two models run in turns.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared with PyTorch
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import keras
import numpy as np

from benchmarks import workloads
from benchmarks.timing import Row, compare, machine, take_turns

OBJECTS = 9  # per training image, about COCO's mean
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # Config.COMPUTE_DTYPE
# With --quick, this package uses a network that compiles and runs fast on a CPU; torchvision's does not change.
QUICK = {
    "BACKBONE": "mobilenet_v2", "TOP_DOWN_PYRAMID_SIZE": 32, "FPN_CLASSIF_FC_LAYERS_SIZE": 64, "PRE_NMS_LIMIT": 200,
    "POST_NMS_ROIS_TRAINING": 50, "POST_NMS_ROIS_INFERENCE": 50, "TRAIN_ROIS_PER_IMAGE": 16,
    "DETECTION_MAX_INSTANCES": 10,
}  # fmt: skip
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")  # in the messages of JAX and PyTorch


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 x 64, one batch size, one round, a small network")
    parser.add_argument("--side", type=int, help="size of the images in pixels; default 1024, with --quick 64")
    parser.add_argument("--batches", help="e.g. 1,4,16; default 1,2,4,8,16, with --quick 2")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="float32, bfloat16, or both (default)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    args = parser.parse_args(arguments)
    device = jax.devices()[0]
    if device.platform != "gpu" and not args.quick:
        parser.error(f"JAX finds no GPU, only {device.device_kind!r}. Install jax[cuda12], or use --quick on a CPU.")
    if unknown := set(args.dtypes.split(",")) - set(DTYPES):
        parser.error(f"--dtypes names {', '.join(sorted(unknown))}; expected {' or '.join(DTYPES)}.")
    side = args.side or (64 if args.quick else 1024)
    batches = [int(n) for n in (args.batches or ("2" if args.quick else "1,2,4,8,16")).split(",")]

    report = {"machine": machine(), "device": device.device_kind, "platform": device.platform, "side": side, "rows": []}
    for task, measure in (("detect", detecting), ("train", training)):
        for dtype in args.dtypes.split(","):
            for batch in batches:
                row = measure_row(f"{task}, {dtype}, batch {batch}", measure, side, batch, dtype, args.quick)
                report["rows"].append(asdict(row))
                print(
                    f"{row.what:28} {row.value if row.value is not None else '-':>9} {row.unit:9} {row.note}",
                    flush=True,
                )
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"Written to {args.json}")


def measure_row(what: str, measure, side: int, batch: int, dtype: str, quick: bool) -> Row:
    """Speed relative to torchvision, or images per second without torchvision; no value if memory is too small."""
    gc.collect()
    try:
        calls, images = measure(side, batch, dtype, QUICK if quick else {})
        seconds = take_turns(calls, rounds=1 if quick else 15, warm_up=1 if quick else 3)
    except RuntimeError as error:  # the base class of JAX's and PyTorch's errors
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        return Row(0, what, None, unit="", note=f"out of memory: {str(error).splitlines()[0][:120]}")
    rates = {f"{name}, images/s": round(images / seconds.median(name), 2) for name in calls}
    if "torchvision" not in calls:
        note = "this package only: torchvision is not installed"
        return Row(0, what, rates["ours, images/s"], unit="images/s", medians=rates, note=note)
    row = compare(0, what, seconds, "torchvision", "ours", ">= 1x")
    row.medians |= rates
    row.note = ", ".join(f"{name} {rate}" for name, rate in rates.items())
    return row


# ---- Detection ---------------------------------------------------------------------------------------------------
def detecting(side: int, batch: int, dtype: str, changes: dict) -> tuple[dict, int]:
    """Functions to time, by name, and the number of images in each call."""
    photos = [workloads.photo(side, side, seed) for seed in range(batch)]
    model = workloads.network("inference", side, IMAGES_PER_GPU=batch, COMPUTE_DTYPE=DTYPES[dtype], **changes)
    calls = {"ours": functools.partial(model.detect, photos)}
    if has_torchvision():
        calls["torchvision"] = torchvision_detect(photos, dtype)
    return calls, batch


def torchvision_detect(photos: list, dtype: str):
    import torch

    model, device = torchvision_model(photos[0].shape[0]).eval(), torch_device()

    def detect():
        images = [torch.from_numpy(photo).to(device).permute(2, 0, 1) / 255 for photo in photos]
        with torch.inference_mode(), torch_dtype(dtype):
            found = model(images)
        return [{name: (x > 0.5 if name == "masks" else x).cpu() for name, x in one.items()} for one in found]

    return detect


# ---- Training ----------------------------------------------------------------------------------------------------
class Repeated(keras.utils.PyDataset):
    """The same batch, `times` times per epoch."""

    def __init__(self, batch: dict, times: int):
        super().__init__()
        self.batch, self.times = batch, times

    def __len__(self):
        return self.times

    def __getitem__(self, index):
        return (self.batch,)


def training(side: int, batch: int, dtype: str, changes: dict) -> tuple[dict, int]:
    """Functions to time, by name, and the number of images in each call."""
    steps = 1 if changes else 5
    model = workloads.network("training", side, IMAGES_PER_GPU=batch, COMPUTE_DTYPE=DTYPES[dtype], **changes)
    model.compile(0.0001)
    samples = [workloads.training_batch(model.config, OBJECTS, seed) for seed in range(batch)]
    arrays = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    calls = {"ours": functools.partial(model.fit, Repeated(arrays, steps), epochs=1, verbose=0)}
    if has_torchvision():
        calls["torchvision"] = torchvision_training(arrays, dtype, steps)
    return calls, batch * steps


def torchvision_training(arrays: dict, dtype: str, steps: int):
    import torch

    side, device = arrays["input_image"].shape[1], torch_device()
    model = torchvision_model(side).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.0001, momentum=0.9)
    images = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in arrays["input_image"]]
    targets = []
    for ids, boxes in zip(arrays["input_gt_class_ids"], arrays["input_gt_boxes"]):
        boxes = boxes[ids > 0]
        masks = np.zeros((len(boxes), side, side), np.uint8)
        for mask, (y1, x1, y2, x2) in zip(masks, boxes.astype(int)):
            mask[y1:y2, x1:x2] = 1
        target = {"boxes": boxes[:, [1, 0, 3, 2]], "labels": ids[ids > 0].astype(np.int64), "masks": masks}
        targets.append({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in target.items()})

    def train():
        for _ in range(steps):
            on_device = [{name: x.to(device) for name, x in target.items()} for target in targets]
            with torch_dtype(dtype):
                loss = sum(model([image.to(device) for image in images], on_device).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()  # waits for the GPU

    return train


# ---- torchvision -------------------------------------------------------------------------------------------------
def has_torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def torchvision_model(side: int):
    """torchvision's ResNet-50 FPN model for square images; detects 100 objects, regardless of their scores."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=workloads.CLASSES, min_size=side, max_size=side,
        box_score_thresh=0.0, box_detections_per_img=100,
    ).to(torch_device())  # fmt: skip


def torch_device():
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_dtype(name: str):
    """PyTorch's context manager for computing in this type."""
    import torch

    return torch.autocast(torch_device().type, torch.bfloat16, enabled=name == "bfloat16")


if __name__ == "__main__":
    main()
