"""COCO: 80 classes with matterport's or the paper's schedule; also trains on any dataset in COCO's format.

    python samples/coco.py train --dataset DIR --weights imagenet                    matterport's stages, for a GPU
    python samples/coco.py train --dataset DIR --weights imagenet --schedule paper   the paper's; 1x: Detectron's
    python samples/coco.py evaluate --dataset DIR --weights coco --limit 500
    python samples/coco.py train --annotations my.json --images photos/ --weights efficientnet_lite0 --schedule short

The last command, with --epochs 14, on 206 photos of val2017, took 17 minutes on 3 busy CPU cores in version 1.0, from
ImageNet's MobileNetV2, and ended with

    mask AP50 = 0.365 (206 images)

(mask AP 0.179, box AP 0.255). This only shows that training and evaluation work: it evaluates on the training photos
(use --val-annotations for others). EfficientNet-Lite0 was not measured on it. The GPU commands were not run, for lack
of a GPU and of the full COCO dataset.

DIR has COCO's layout: `annotations/instances_<subset><year>.json` and `<subset><year>/*.jpg`; `--download` fetches
it first (2017: 19 GB). `--weights` (matterport's `--model`) is coco, imagenet, efficientnet_lite0, last, or a file. The
architecture follows the weights: a file of another backbone than a ResNet selects the small network, for a CPU.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars
__path__ = [str(Path(__file__).with_suffix(""))]  # `from samples.coco import coco`, as in matterport's notebooks

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from mrcnn import weights
from mrcnn.config import Config
from mrcnn.data.formats import coco as coco_format
from mrcnn.data.formats.coco import coco_layout
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork
from samples.common import (
    LOGS,
    class_names_of,
    config_for,
    evaluate,
    find_weights,
    load_weights,
)

DEFAULT_YEAR = "2014"  # matterport's
ZIPS = "http://images.cocodataset.org"
OTHER_ANNOTATIONS = {  # not in COCO's own archive
    "minival": "https://dl.dropboxusercontent.com/s/o43o90bna78omob/instances_minival2014.json.zip?dl=0",
    "valminusminival": "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/instances_valminusminival2014.json.zip?dl=0",
}
CLASS_NAMES = """BG, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack,
    umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush"""
CLASS_NAMES = [name.strip() for name in CLASS_NAMES.split(",")]


# ---- Settings and data -----------------------------------------------------------------------------------------------
class CocoConfig(Config):
    """matterport's settings for COCO."""

    NAME = "coco"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = len(CLASS_NAMES)

    # Options of the schedule "short"; the model does not read them.
    EPOCHS = 12
    LAYERS = "all"
    ADAM_RATE = 0.0005


class SmallCocoConfig(SmallNetwork, CocoConfig):
    """EfficientNet-Lite0 and small images: a functional check on a CPU, not a way to a good COCO model."""

    IMAGE_MIN_DIM = 256
    IMAGE_MAX_DIM = 256
    RPN_ANCHOR_SCALES = (12, 24, 48, 96, 192)
    TRAIN_ROIS_PER_IMAGE = 32
    VALIDATION_STEPS = 5


class CocoDataset(coco_format.CocoDataset):
    """COCO, or a subset of its classes, with download. Call `load_coco` or `load_coco_format`, then `prepare`."""

    def auto_download(self, dataset_dir: str | Path, subset: str, year: str) -> None:
        """Downloads and unpacks the photos and annotations of one subset if they are missing."""
        annotations, images = coco_layout(dataset_dir, subset, year)
        _fetch(f"{ZIPS}/zips/{images.name}.zip", images, Path(dataset_dir))
        if subset in OTHER_ANNOTATIONS:
            _fetch(OTHER_ANNOTATIONS[subset], annotations, annotations.parent)
        else:
            _fetch(f"{ZIPS}/annotations/annotations_trainval{year}.zip", annotations, Path(dataset_dir))


def _fetch(url: str, wanted: Path, folder: Path) -> None:
    """Downloads an archive that contains `wanted` and unpacks it into `folder`, unless `wanted` exists."""
    if wanted.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / url.rsplit("/", 1)[-1].split("?")[0]
    weights.download(url, str(archive))
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    if not wanted.exists():
        raise FileNotFoundError(f"{archive} was unpacked but does not contain {wanted}; download that file manually.")
    archive.unlink()


# ---- COCO's own evaluation -------------------------------------------------------------------------------------------
def build_coco_results(dataset: CocoDataset, image_ids, rois, class_ids, scores, masks) -> list[dict]:
    """Converts the detections of one image to COCO's results format.

    Args:
        dataset: prepared `CocoDataset`.
        image_ids: COCO's ids of the image, usually a list of one.
        rois: [n, (y1, x1, y2, x2)] pixels; None if there are no detections.
        class_ids, scores: [n].
        masks: [H, W, n] bool.

    Returns:
        list of dicts: image_id, category_id, bbox [x, y, width, height], score, segmentation (RLE).
    """
    if rois is None or not len(rois):
        return []
    codes = rle.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [
        {
            "image_id": image_id,
            "category_id": dataset.get_source_class_id(class_id, "coco"),
            "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": float(score),
            "segmentation": code,
        }
        for image_id in image_ids
        for (y1, x1, y2, x2), class_id, score, code in zip(rois, class_ids, scores, codes)
    ]


def evaluate_coco(
    model: MaskRCNN,
    dataset: CocoDataset,
    coco: COCO,
    eval_type: str = "bbox",
    limit: int = 0,
    image_ids: Sequence[int] | None = None,
) -> COCOeval:
    """Prints COCO's twelve metrics. Kept for matterport's scripts; `model.evaluate_dataset` returns these and more.

    Args:
        model: `MaskRCNN`.
        dataset: prepared `CocoDataset`.
        coco: ground truth, as returned by `load_coco(return_coco=True)`.
        eval_type: "bbox" or "segm".
        limit: number of images to evaluate; 0 means all.
        image_ids: ids in `dataset`; None means all.

    Returns:
        The `COCOeval` object; the metrics are in its `stats`.
    """
    image_ids = list(dataset.image_ids if image_ids is None else image_ids)[: limit or None]
    source_ids = [dataset.image_info[image_id]["id"] for image_id in image_ids]
    results = []
    for image_id, source_id in zip(tqdm(image_ids, unit="image"), source_ids):
        (found,) = model.detect([dataset.load_image(image_id)])
        parts = [found[key] for key in ("rois", "class_ids", "scores", "masks")]
        results += build_coco_results(dataset, [source_id], *parts)
    scores = COCOeval(coco, coco.loadRes(results), eval_type)
    scores.params.imgIds = source_ids
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    return scores


# ---- Schedules -------------------------------------------------------------------------------------------------------
def matterport_stages(config: Config) -> list[tuple[int, str, float]]:
    """Returns (last epoch, layers, learning rate): heads, then ResNet stage 4 and up, then all layers at a tenth."""
    rate = config.LEARNING_RATE
    return [(40, "heads", rate), (120, "4+", rate), (160, "all", rate / 10)]


def paper_stages(config: Config) -> list[tuple[int, str, float]]:
    """Returns (last epoch, layers, learning rate): 160,000 steps of 16 images, divided by 10 after 120,000.

    Reference: He et al., "Mask R-CNN", section 3.1.
    """
    return _falling_stages(config, 120_000, 160_000)


def once_stages(config: Config) -> list[tuple[int, str, float]]:
    """Returns Detectron's "1x" schedule, common in papers: 90,000 steps, divided by 10 after 60,000 and 80,000."""
    return _falling_stages(config, 60_000, 80_000, 90_000)


def _falling_stages(config, *ends: int) -> list[tuple[int, str, float]]:
    """Returns stages that end after `ends` steps of 16 images, with rates 0.02, 0.002, ...

    Rates and steps are scaled with the batch size: Goyal et al., "Accurate, Large Minibatch SGD".
    """
    scale = config.BATCH_SIZE / 16
    epochs = [round(steps / scale / config.STEPS_PER_EPOCH) for steps in ends]
    return [(epoch, "all", 0.02 * scale / 10**i) for i, epoch in enumerate(epochs)]


def short_stages(config: Config) -> list[tuple[int, str, float]]:
    """Returns a schedule for small datasets: one stage, for `SHORT_SETTINGS`."""
    return [(config.EPOCHS, config.LAYERS, config.ADAM_RATE)]


SCHEDULES = {"matterport": matterport_stages, "paper": paper_stages, "1x": once_stages, "short": short_stages}
SHORT_SETTINGS = {"OPTIMIZER": "adamw", "LEARNING_SCHEDULE": "cosine", "LEARNING_WARMUP": 0.05}
OTHER_SETTINGS = {"OPTIMIZER": "sgd", "LEARNING_SCHEDULE": "constant", "LEARNING_WARMUP": 0.0}  # as in the paper


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model: MaskRCNN, training: CocoDataset, validation: CocoDataset, schedule: str = "matterport") -> None:
    """Trains through the stages of a schedule; flips half of the images horizontally."""
    from imgaug import augmenters  # after mrcnn, which makes imgaug work on NumPy 2

    config = model.config
    for name, value in (SHORT_SETTINGS if schedule == "short" else OTHER_SETTINGS).items():
        setattr(config, name, value)
    flip = None if config.FLIP_PROBABILITY else augmenters.Fliplr(0.5)
    for epochs, layers, rate in SCHEDULES[schedule](config):
        print(f"Training {layers} until epoch {epochs}")
        model.train(training, validation, learning_rate=rate, epochs=epochs, layers=layers, augmentation=flip)


def coco_config(path: str | Path | None, num_classes: int = len(CLASS_NAMES)) -> CocoConfig:
    """Returns the settings that match a weight file."""
    config = config_for(path, CocoConfig, SmallCocoConfig)
    config.NUM_CLASSES = num_classes
    return config


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection, with COCO's classes or those saved next to the checkpoint."""
    path = find_weights(weights, CocoConfig.NAME, logs)
    config = coco_config(path, len(class_names_of(path) or CLASS_NAMES))
    model = MaskRCNN("inference", config, str(logs))
    load_weights(model, weights, path)
    return model


def open_data(args: argparse.Namespace, subset: str) -> CocoDataset:
    """Returns the prepared dataset selected by the options: COCO's `subset`, or the user's files."""
    dataset = CocoDataset()
    own = args.val_annotations if subset != "train" and args.val_annotations else args.annotations
    if own:
        dataset.load_coco_format(own, args.images or Path(own).parent)
    elif subset == "train" and args.year == "2014":  # "trainval35k", as in the paper
        dataset.load_coco(args.dataset, "train", args.year, auto_download=args.download)
        dataset.load_coco(args.dataset, "valminusminival", args.year, auto_download=args.download)
    else:
        dataset.load_coco(args.dataset, subset, args.year, auto_download=args.download)
    dataset.prepare()
    return dataset


def yes_or_no(text: str) -> bool:
    """Parses the value of `--download`, `--download=True` or `--download no`."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r}; expected one of {', '.join(words)}")
    return words[text.lower()]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate"))
    parser.add_argument("--dataset", help="folder in COCO's layout")
    parser.add_argument("--year", default=DEFAULT_YEAR, help="2014 or 2017 (%(default)s)")
    parser.add_argument("--weights", "--model", dest="weights", required=True, help="coco, imagenet, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--limit", type=int, default=500, help="images to evaluate, 0 for all (%(default)s)")
    parser.add_argument("--download", type=yes_or_no, nargs="?", const=True, default=False, help="download COCO first")
    parser.add_argument("--schedule", choices=SCHEDULES, default="matterport", help="schedule for train (%(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=CocoConfig.EPOCHS, help="number of epochs, for --schedule short (%(default)s)"
    )
    parser.add_argument("--annotations", help="annotations in COCO's format, instead of --dataset")
    parser.add_argument("--val-annotations", help="annotations for validation (default: --annotations)")
    parser.add_argument("--images", help="folder of the photos (default: that of the annotations)")
    args = parser.parse_args(arguments)
    if bool(args.dataset) == bool(args.annotations):
        parser.error("give either --dataset or --annotations")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    validation = open_data(args, "minival" if args.year == "2014" else "val")
    path = find_weights(args.weights, CocoConfig.NAME, args.logs)
    config = coco_config(path, validation.num_classes)
    if args.command == "train":
        training = open_data(args, "train")
        if args.schedule == "short":
            config.EPOCHS, config.STEPS_PER_EPOCH = args.epochs, math.ceil(training.num_images / config.BATCH_SIZE)
        model = MaskRCNN("training", config, args.logs)
        load_weights(model, args.weights, path)
        train(model, training, validation, args.schedule)
    else:
        model = MaskRCNN("inference", config, args.logs)
        load_weights(model, args.weights, path)
    evaluate(model, validation, validation.image_ids[: args.limit or None])


if __name__ == "__main__":
    main()
