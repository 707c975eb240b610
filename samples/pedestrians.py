"""Pedestrians: fine-tune on Penn-Fudan as in torchvision's tutorial, with COCO's AP after each epoch.

    python samples/pedestrians.py train --dataset DIR --weights coco           the tutorial's recipe, for a GPU
    python samples/pedestrians.py train --dataset DIR --weights mobilenet.h5   MobileNetV2, for a CPU: 8 minutes
    python samples/pedestrians.py evaluate --dataset DIR --weights last        mask AP50 = 0.505 (1 images)
    python samples/pedestrians.py detect --image street.jpg --weights last     writes detections.png

DIR is PennFudanPed: `PNGImages/*.png` and `PedMasks/*_mask.png`, 170 photos; 50 of them, chosen with a fixed seed, are
the test set. `--weights` is coco, imagenet, last, or a file. If the file was trained for other classes, the heads are
replaced for background and person. The architecture follows the weights: a file with MobileNetV2 layers
(keras.applications, ImageNet, without top) selects the small network.

The AP50 above is not a benchmark: only the first 5 photos of the dataset were available. The second command trained
on 4 of them (6 people) for 10 epochs of 40 steps; the fifth (2 people, both found) is the test (box AP50 1.000, mask
AP 0.151). On the 4 training photos the mask AP50 is 1.000. docs/pedestrians.png shows the same model on unrelated
photos from COCO (CC BY 2.0): flickr.com/photo.gne?id=3232237447, 30474880, 4320314557 and 3364389746.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars

import keras
import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.id_png import PennFudanDataset
from mrcnn.evaluation import EvaluateDataset
from mrcnn.model import MaskRCNN
from samples.common import (
    LOGS,
    SmallNetwork,
    augmentation,
    config_for,
    draw_detections,
    evaluate,
    find_weights,
    load_weights,
    warm_up_and_cosine,
)

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
    FEW_PHOTOS = False  # also zoom, shift and tint the photos, and decay the learning rate along a cosine


class SmallPedestriansConfig(SmallNetwork, PedestriansConfig):
    """MobileNetV2 and 512 pixels; trains on a CPU and on few photos."""

    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)
    DETECTION_MAX_INSTANCES = 50
    STEPS_PER_EPOCH = 40
    WEIGHT_DECAY = 0.0001

    LAYERS = "heads"
    FEW_PHOTOS = True


def pedestrians_dataset(folder: str | Path, part: str) -> PennFudanDataset:
    """Returns the prepared dataset of one part.

    Args:
        folder: PennFudanPed, or its parent folder.
        part: "train" or "test".
    """
    dataset = PennFudanDataset()
    dataset.load_penn_fudan(folder)
    photos = np.random.default_rng(SPLIT_SEED).permutation(len(dataset.image_info))
    first = len(photos) - max(1, round(TEST_SHARE * len(photos)))
    chosen = photos[first:] if part == "test" else photos[:first]
    dataset.image_info = [dataset.image_info[i] for i in sorted(chosen)]
    dataset.prepare()
    return dataset


def pedestrians_model(mode: str, weights: str, logs: str | Path) -> MaskRCNN:
    """Builds a model and loads the weights given by `--weights`; the architecture follows the weights."""
    path = find_weights(weights, PedestriansConfig.NAME, logs)
    config = config_for(path, PedestriansConfig, SmallPedestriansConfig)
    model = MaskRCNN(mode=mode, config=config, model_dir=str(logs))
    load_weights(model, weights, path)
    return model


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection."""
    return pedestrians_model("inference", weights, logs)


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model: MaskRCNN, folder: str | Path, epochs: int | None = None) -> None:
    """Trains and prints the test AP after each epoch, then draws detections and evaluates."""
    config, test = model.config, pedestrians_dataset(folder, "test")
    epochs = epochs or config.EPOCHS
    model.train(
        pedestrians_dataset(folder, "train"),
        None,
        learning_rate=warm_up_and_cosine(config.LEARNING_RATE, epochs, config)
        if config.FEW_PHOTOS
        else steps_down(config),
        epochs=epochs,
        layers=config.LAYERS,
        augmentation=augmentation() if config.FEW_PHOTOS else flip(),
        custom_callbacks=[EvaluateDataset(test), keras.callbacks.LambdaCallback(on_epoch_end=print_ap)],
    )
    draw(model, test, Path(model.log_dir) / "detections.png")
    evaluate(model, test)


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
    parser.add_argument("command", choices=("train", "evaluate", "detect"))
    parser.add_argument("--dataset", help="the folder PennFudanPed, or its parent folder")
    parser.add_argument("--weights", required=True, help="coco, imagenet, last, or a file")
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
    model = trained_model(args.weights, args.logs)
    if args.command == "evaluate":
        evaluate(model, pedestrians_dataset(args.dataset, "test"))
    else:
        draw(
            model, photos_dataset(args.image) if args.image else pedestrians_dataset(args.dataset, "test"), args.output
        )


if __name__ == "__main__":
    main()
