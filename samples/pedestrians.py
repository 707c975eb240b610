"""Pedestrians: fine-tune on Penn-Fudan as in torchvision's tutorial, with COCO's AP after each epoch.

    python samples/pedestrians.py train --dataset DIR --weights coco                 the tutorial's recipe, for a GPU
    python samples/pedestrians.py train --dataset DIR --weights efficientnet_lite0   for a CPU: 3 minutes
    python samples/pedestrians.py evaluate --dataset DIR --weights last
    python samples/pedestrians.py detect --image street.jpg --weights last           writes detections.png
    python samples/pedestrians.py cross-validate --dataset DIR --weights efficientnet_lite0   5 trainings

DIR is PennFudanPed: `PNGImages/*.png` and `PedMasks/*_mask.png`, 170 photos; 50 of them, chosen with a fixed seed, are
the test set. `--weights` is coco, imagenet, efficientnet_lite0, last, or a file. If the file was trained for other
classes, the heads are replaced for background and person. The architecture follows the weights: a file of another
backbone than a ResNet selects the small network.

Only the first 5 photos of the dataset were available. The last command, 5 trainings of 200 steps of 2 photos in 23
minutes of processor time, ends with

    mask AP50 = 0.856 (5 photos, each unseen by its model)

(mask AP 0.254, box AP 0.484, box AP50 1.000). docs/pedestrians.png shows a model of version 1.0 on unrelated photos
from COCO (CC BY 2.0): flickr.com/photo.gne?id=3232237447, 30474880, 4320314557 and 3364389746.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.id_png import PennFudanDataset
from mrcnn.evaluation import EvaluateDataset, evaluate_predictions
from mrcnn.evaluation.evaluate import MIN_SCORE
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork
from samples.common import LOGS, build_model, draw_detections, evaluate

CLASS_NAMES = ["BG", "person"]
TEST_SHARE = 50 / 170  # the tutorial's
SPLIT_SEED = 1


# ---- Settings and data -----------------------------------------------------------------------------------------------
class PedestriansConfig(Config):
    """The tutorial's training settings: 10 epochs, two photos per step, all layers."""

    NAME = "pedestrians"
    NUM_CLASSES = len(CLASS_NAMES)
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 60  # 120 photos
    VALIDATION_STEPS = 0  # the AP is more informative than the loss

    LEARNING_RATE = 0.005
    WEIGHT_DECAY = 0.00025  # equals PyTorch's 0.0005, which multiplies half of the squared weights
    WEIGHT_DECAY_PER_SIZE = False
    DETECTION_MIN_CONFIDENCE = 0.7

    # Options of `train`; the model does not read them.
    EPOCHS = 10
    LAYERS = "all"


class SmallPedestriansConfig(SmallNetwork, PedestriansConfig):
    """EfficientNet-Lite0 and 384 pixels; trains on a CPU and on few photos."""

    IMAGES_PER_GPU = 2
    IMAGE_MIN_DIM = 384
    IMAGE_MAX_DIM = 384
    RPN_ANCHOR_SCALES = (24, 48, 96, 192, 384)
    DETECTION_MAX_INSTANCES = 50
    STEPS_PER_EPOCH = 20


def pedestrians_dataset(folder: str | Path, part: str) -> PennFudanDataset:
    """Returns the prepared dataset of one part.

    Args:
        folder: PennFudanPed, or its parent folder.
        part: "train" or "test".
    """
    count = len(some_photos(folder).image_info)
    photos = np.random.default_rng(SPLIT_SEED).permutation(count)
    first = count - max(1, round(TEST_SHARE * count))
    return some_photos(folder, photos[first:] if part == "test" else photos[:first])


def some_photos(folder: str | Path, positions: Iterable[int] | None = None) -> PennFudanDataset:
    """Returns the prepared dataset of the photos at some positions in the order of their names; None: of all."""
    dataset = PennFudanDataset()
    dataset.load_penn_fudan(folder)
    if positions is not None:
        dataset.image_info = [dataset.image_info[i] for i in sorted(positions)]
    dataset.prepare()
    return dataset


def pedestrians_model(mode: str, weights: str, logs: str | Path) -> MaskRCNN:
    """Builds a model and loads the weights given by `--weights`; the architecture follows the weights."""
    return build_model(mode, weights, logs, PedestriansConfig, SmallPedestriansConfig)


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection."""
    return pedestrians_model("inference", weights, logs)


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model: MaskRCNN, folder: str | Path, epochs: int | None = None) -> None:
    """Trains and prints the test AP after each epoch, then draws detections and evaluates."""
    test = pedestrians_dataset(folder, "test")
    fit(
        model, pedestrians_dataset(folder, "train"), epochs,
        [EvaluateDataset(test), keras.callbacks.LambdaCallback(on_epoch_end=print_ap)],
    )  # fmt: skip
    draw(model, test, Path(model.log_dir) / "detections.png")
    evaluate(model, test)


def fit(model: MaskRCNN, training: Dataset, epochs: int | None, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Trains with the tutorial's recipe, or that of the model's config."""
    config = model.config
    own = config.RECIPE != "matterport"
    model.train(
        training,
        None,
        learning_rate=config.LEARNING_RATE if own else steps_down(config),
        epochs=epochs or config.EPOCHS,
        layers=config.LAYERS,
        augmentation=None if own else flip(),
        custom_callbacks=list(callbacks),
    )


def cross_validate(weights: str, folder: str | Path, logs: str | Path, epochs: int | None = None, folds: int = 5):
    """Trains one model for each part of the photos, on the other parts, and evaluates all parts together.

    Args:
        weights: the value of `--weights`; each model starts from it.
        folder: PennFudanPed, or its parent folder.
        logs: folder for runs and checkpoints.
        epochs: number of epochs of each model.
        folds: number of parts.

    Returns:
        `mrcnn.evaluation.Report` of all photos, each with the detections of the model that was not trained on it.
    """
    everything, found = some_photos(folder), []
    order = np.random.default_rng(SPLIT_SEED).permutation(len(everything.image_info))
    for number, part in enumerate(np.array_split(order, min(folds, len(order))), start=1):
        model = pedestrians_model("training", weights, logs)
        fit(model, some_photos(folder, set(order) - set(part)), epochs, [])
        model.config.DETECTION_MIN_CONFIDENCE = MIN_SCORE
        for image_id in part:
            (detections,) = model.detect([everything.load_image(image_id)])
            found += detections.to_coco(everything.image_info[image_id]["id"])
        print(f"part {number}: trained on {len(order) - len(part)} photos, {len(part)} for the evaluation", flush=True)
    report = evaluate_predictions(everything, found)
    print(report)
    print(f"mask AP50 = {report.mask_ap50:.3f} ({len(order)} photos, each unseen by its model)")
    return report


def steps_down(config: Config) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """Returns the tutorial's learning rate schedule: divided by 10 every three epochs."""
    bounds = [epoch * config.STEPS_PER_EPOCH for epoch in (3, 6, 9)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        bounds, [config.LEARNING_RATE / 10**i for i in range(len(bounds) + 1)]
    )


def flip():
    """Returns the tutorial's only augmentation: flip half of the photos horizontally."""
    from imgaug import augmenters as iaa  # after mrcnn, which makes imgaug work on NumPy 2

    return iaa.Fliplr(0.5)


def print_ap(epoch: int, logs: dict) -> None:
    """Prints the results of `EvaluateDataset` after each epoch."""
    box_ap, mask_ap, mask_ap50 = (logs[f"val_{name}"] for name in ("box_ap", "mask_ap", "mask_ap50"))
    print(f"\nEpoch {epoch + 1}: box AP {box_ap:.3f}, mask AP {mask_ap:.3f}, mask AP50 {mask_ap50:.3f}")


def draw(model: MaskRCNN, dataset: Dataset, path: str | Path) -> None:
    """Draws the detections on the first 8 images."""
    print("picture:", draw_detections(model, dataset, dataset.image_ids[:8], path))


def photos_dataset(paths: Iterable[str | Path]) -> Dataset:
    """Returns a prepared dataset of photos without annotations."""
    dataset = Dataset()
    dataset.add_class("photos", 1, CLASS_NAMES[1])
    for path in paths:
        dataset.add_image("photos", str(path), str(path))
    dataset.prepare()
    return dataset


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate", "detect", "cross-validate"))
    parser.add_argument("--dataset", help="the folder PennFudanPed, or its parent folder")
    parser.add_argument("--weights", required=True, help="coco, imagenet, efficientnet_lite0, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--epochs", type=int, help=f"total number of epochs, for train ({PedestriansConfig.EPOCHS})")
    parser.add_argument("--image", nargs="+", help="photos to detect on instead of the test set")
    parser.add_argument("--output", default="detections.png", help="output image of detect (%(default)s)")
    args = parser.parse_args(arguments)
    if not args.dataset and not (args.command == "detect" and args.image):
        parser.error(f"{args.command} needs --dataset" + (" or --image" if args.command == "detect" else ""))

    if args.command == "train":
        train(pedestrians_model("training", args.weights, args.logs), args.dataset, args.epochs)
        return
    if args.command == "cross-validate":
        cross_validate(args.weights, args.dataset, args.logs, args.epochs)
        return
    model = trained_model(args.weights, args.logs)
    if args.command == "evaluate":
        evaluate(model, pedestrians_dataset(args.dataset, "test"))
    else:
        draw(
            model, photos_dataset(args.image) if args.image else pedestrians_dataset(args.dataset, "test"), args.output
        )


if __name__ == "__main__":
    main()
