"""This package's side of benchmarks/torchvision_peer.py: python torchvision_ours.py TASK SHORTER_SIDE DATA_FOLDER"""

import numpy as np
from torchvision_task import answer_calls


def detecting(name: str, side: int, data: str):
    """A function that detects, and returns how many objects it found."""
    from mrcnn import MaskRCNN
    from mrcnn.weights.golden.records import GOLDEN

    sides = {"IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side * 5 // 3}
    model = MaskRCNN.from_preset(GOLDEN[name].preset, weights=f"{data}/weights.pth", **sides)
    image = np.load(f"{data}/photo.npy")
    return lambda: model.detect([image])[0]["masks"].shape[-1]  # pasted on the photo now


def training(rois: int, side: int, data: str):
    """A function that makes a training step, RPN targets included, and returns how many RoIs can be positive."""
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


def loading(side: int, data: str):
    """A function that loads the samples as batches of one, with full masks; it returns how many masks they have."""
    from mrcnn.config import Config
    from mrcnn.data.formats.coco import CocoDataset
    from mrcnn.data.generator import DataGenerator

    dataset = CocoDataset()
    dataset.load_coco_format(f"{data}/chosen.json", f"{data}/photos")
    dataset.prepare()
    square = {"IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side}
    config = Config(NUM_CLASSES=dataset.num_classes, USE_MINI_MASK=False, IMAGES_PER_GPU=1, **square)
    batches = DataGenerator(dataset, config, shuffle=False, steps=dataset.num_images, seed=0)

    def samples() -> int:
        return sum(int((batches[i][0]["input_gt_class_ids"] > 0).sum()) for i in range(dataset.num_images))

    return samples


answer_calls(detecting, training, loading)
