"""Pedestrians: the Penn-Fudan set, fine-tuned as in torchvision's well-known tutorial, with COCO's AP after each epoch.

    python samples/pedestrians.py train --dataset DIR --weights coco           the tutorial's recipe, for a GPU
    python samples/pedestrians.py train --dataset DIR --weights mobilenet.h5   MobileNetV2, for a CPU: 8 minutes
    python samples/pedestrians.py evaluate --dataset DIR --weights last        mask AP50 = 0.505 (1 images)
    python samples/pedestrians.py detect --image street.jpg --weights last     writes detections.png

DIR is PennFudanPed: `PNGImages/*.png` and `PedMasks/*_mask.png`, 170 photos; 50 of them, drawn with a fixed seed, are
for the test. `--weights`: coco, imagenet, last, or a file. A file trained for other classes gets new heads for two,
background and person. The network follows the weights: a file of MobileNetV2 layers (keras.applications, ImageNet,
without top) gives the small one.

What was measured here is no benchmark: we had the set's first 5 photos only. The second line trained on 4 of them, with
6 people, for 10 epochs of 40 steps; the test is the fifth, with 2, of whom both were found (box AP50 1.000, mask AP
0.151). On the 4 themselves the mask AP50 is 1.000. docs/pedestrians.png has the same model on photos that are nothing
like the four, from COCO (CC BY 2.0): flickr.com/photo.gne?id=3232237447, 30474880, 4320314557 and 3364389746.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes would hide the progress

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
    """The tutorial's settings, as far as they are the training's: 10 epochs, two photos a step, all layers."""

    NAME = "pedestrians"
    NUM_CLASSES = len(CLASS_NAMES)
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 60  # 120 photos
    VALIDATION_STEPS = 0  # the AP tells more than the loss

    LEARNING_RATE = 0.005
    WEIGHT_DECAY = 0.00025  # PyTorch's 0.0005 is for half of the squares
    WEIGHT_DECAY_PER_SIZE = False
    DETECTION_MIN_CONFIDENCE = 0.7

    # How `train` goes; not read by the model.
    EPOCHS = 10
    LAYERS = "all"
    FEW_PHOTOS = False  # zoom, shift and tint them as well, and lower the learning rate along a cosine


class SmallPedestriansConfig(SmallNetwork, PedestriansConfig):
    """MobileNetV2 and 512 pixels: trains on a CPU, and from few photos."""

    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)
    DETECTION_MAX_INSTANCES = 50
    STEPS_PER_EPOCH = 40
    WEIGHT_DECAY = 0.0001

    LAYERS = "heads"
    FEW_PHOTOS = True


def pedestrians_dataset(folder, part: str) -> PennFudanDataset:
    """The prepared photos of one part.

    Args:
        folder: PennFudanPed, or the folder above it.
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


def pedestrians_model(mode: str, weights: str, logs) -> MaskRCNN:
    """A model with the weights that `--weights` stands for; its network is the one they belong to."""
    path = find_weights(weights, PedestriansConfig.NAME, logs)
    config = config_for(path, PedestriansConfig, SmallPedestriansConfig)
    model = MaskRCNN(mode=mode, config=config, model_dir=str(logs))
    load_weights(model, weights, path)
    return model


def trained_model(weights: str, logs) -> MaskRCNN:
    """A model that detects."""
    return pedestrians_model("inference", weights, logs)


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model, folder, epochs: int | None = None) -> None:
    """Trains, and prints the AP on the test photos after each epoch; then draws and evaluates."""
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


def steps_down(config) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """The tutorial's learning rate: a tenth of it every third epoch."""
    bounds = [epoch * config.STEPS_PER_EPOCH for epoch in (3, 6, 9)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        bounds, [config.LEARNING_RATE / 10**i for i in range(len(bounds) + 1)]
    )


def flip():
    """Half of the photos are flipped left to right, the tutorial's only augmentation."""
    from imgaug import augmenters as iaa  # after mrcnn, which mends it for NumPy 2

    return iaa.Fliplr(0.5)


def print_ap(epoch: int, logs: dict) -> None:
    """One line an epoch, of what `EvaluateDataset` found."""
    box_ap, mask_ap, mask_ap50 = (logs[f"val_{name}"] for name in ("box_ap", "mask_ap", "mask_ap50"))
    print(f"\nEpoch {epoch + 1}: box AP {box_ap:.3f}, mask AP {mask_ap:.3f}, mask AP50 {mask_ap50:.3f}")


def draw(model, dataset, path) -> None:
    """Draws what the model finds on the first photos."""
    print("picture:", draw_detections(model, dataset, dataset.image_ids[:8], path))


def photos_dataset(paths) -> Dataset:
    """Photos whose truth isn't known, as a prepared data set."""
    dataset = Dataset()
    dataset.add_class("photos", 1, CLASS_NAMES[1])
    for path in paths:
        dataset.add_image("photos", str(path), str(path))
    dataset.prepare()
    return dataset


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate", "detect"))
    parser.add_argument("--dataset", help="the folder PennFudanPed, or the one above it")
    parser.add_argument("--weights", required=True, help="coco, imagenet, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--epochs", type=int, help=f"in all, for train ({PedestriansConfig.EPOCHS})")
    parser.add_argument("--image", nargs="+", help="photos to detect on, instead of those for the test")
    parser.add_argument("--output", default="detections.png", help="the picture that detect writes (%(default)s)")
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
