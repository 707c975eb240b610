"""Balloons: train one custom class on 61 photos with drawn outlines, then turn everything except balloons gray.

    python samples/balloon.py splash --weights balloon-small --image photo.jpg         writes splash_<time>.png
    python samples/balloon.py splash --weights balloon-small --video clip.mp4          writes splash_<time>.mp4
    python samples/balloon.py train --dataset DIR --weights efficientnet_lite0         for a CPU: 20 minutes
    python samples/balloon.py train --dataset DIR --weights imagenet                   ResNet, matterport's recipe, GPU
    python samples/balloon.py evaluate --dataset DIR --weights last                    mask AP50 = 0.786 (13 images)

DIR contains `train/` and `val/`, each with photos and a `via_region_data.json` from the VGG Image Annotator
(balloon_dataset.zip from matterport's release v2.1). `--weights` is coco, imagenet, efficientnet_lite0, last, a file,
or `balloon-small`: part of the package, the result of the third command. The architecture follows the weights: a file
of another backbone than a ResNet selects the small network. It trains on images of 512 pixels and detects in images of
832, a size that was chosen on the 13 photos: mask AP 0.650, box AP 0.603; at 512 pixels, mask AP50 0.703.
docs/balloon.png shows part of https://www.flickr.com/photo.gne?id=3825919971.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars
__path__ = [str(Path(__file__).with_suffix(""))]  # `from samples.balloon import balloon`, as in matterport's notebooks

import numpy as np
import skimage.io
from tqdm import tqdm

from mrcnn import visualize
from mrcnn.config import Config
from mrcnn.data.formats.via import ViaDataset
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork
from mrcnn.video import VideoFile, read_video
from samples.common import LOGS, build_model, evaluate

CLASS_NAMES = ["BG", "balloon"]


# ---- Settings and data -----------------------------------------------------------------------------------------------
class BalloonConfig(Config):
    """matterport's settings: a ResNet, 1024 pixels, 30 epochs of the heads."""

    NAME = "balloon"
    NUM_CLASSES = len(CLASS_NAMES)
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 5
    DETECTION_MIN_CONFIDENCE = 0.9

    # Options of `train`; the model does not read them.
    EPOCHS = 30
    LAYERS = "heads"
    DETECTION_DIM = None


class SmallBalloonConfig(SmallNetwork, BalloonConfig):
    """EfficientNet-Lite0 and smaller images; trains on a CPU."""

    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    RPN_ANCHOR_SCALES = (16, 32, 64, 128, 256)
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_MAX_INSTANCES = 50
    MAX_GT_INSTANCES = 50
    VALIDATION_STEPS = 3
    EPOCHS = 14
    DETECTION_DIM = 832  # pixels of the images of `evaluate` and `splash`: small balloons become large enough


class BalloonDataset(ViaDataset):
    """The balloon photos. Call `load_balloon`, then `prepare`."""

    def load_balloon(self, dataset_dir: str | Path, subset: str) -> None:
        """Adds the photos of `dataset_dir/subset`.

        Args:
            dataset_dir: folder that contains `train` and `val`.
            subset: "train" or "val".

        Raises:
            ValueError: `subset` is neither.
        """
        if subset not in ("train", "val"):
            raise ValueError(f'subset is {subset!r}; expected "train" or "val".')
        self.load_via(Path(dataset_dir) / subset / "via_region_data.json", source="balloon", class_name="balloon")


def balloon_dataset(dataset_dir: str | Path, subset: str) -> BalloonDataset:
    """Returns the prepared dataset of one subset."""
    dataset = BalloonDataset()
    dataset.load_balloon(dataset_dir, subset)
    dataset.prepare()
    return dataset


def balloon_model(mode: str, weights: str, logs: str | Path) -> MaskRCNN:
    """Builds a model and loads the weights given by `--weights`; the architecture follows the weights."""
    model = build_model(mode, weights, logs, BalloonConfig, SmallBalloonConfig)
    if mode == "inference":
        set_detection_size(model.config)
    return model


def set_detection_size(config: Config) -> None:
    """Sets the image size for detection, if it is another one than for training."""
    size = getattr(config, "DETECTION_DIM", None)
    if size:
        config.IMAGE_MIN_DIM = config.IMAGE_MAX_DIM = size


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection."""
    return balloon_model("inference", weights, logs)


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model: MaskRCNN, dataset_dir: str | Path, epochs: int | None = None) -> None:
    """Trains on the `train` photos, reports the validation loss on the `val` photos, then evaluates."""
    config, validation = model.config, balloon_dataset(dataset_dir, "val")
    model.train(
        balloon_dataset(dataset_dir, "train"),
        validation,
        learning_rate=config.LEARNING_RATE,
        epochs=epochs or config.EPOCHS,
        layers=config.LAYERS,
    )
    set_detection_size(config)
    evaluate(model, validation)


def color_splash(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the image in gray outside the masks. image [H, W, 3] uint8, mask [H, W, n] -> [H, W, 3] uint8."""
    return visualize.color_splash(image, mask)


def detect_and_color_splash(
    model: MaskRCNN,
    image_path: str | Path | None = None,
    video_path: str | Path | None = None,
    output: str | Path | None = None,
) -> Path:
    """Writes a photo or a video in which only the balloons keep their color.

    Args:
        model: `MaskRCNN`.
        image_path, video_path: the input; give exactly one.
        output: the output file. Default: `splash_<time>.png` or `.mp4` in the current folder.

    Returns:
        Path of the output file.

    Raises:
        ValueError: neither or both inputs are given.
        OSError: the video cannot be read or written.
    """
    if bool(image_path) == bool(video_path):
        raise ValueError("splash needs either image_path (--image) or video_path (--video).")
    suffix = ".png" if image_path else ".mp4"
    output = Path(output or f"splash_{datetime.datetime.now():%Y%m%dT%H%M%S}{suffix}")
    if image_path:
        skimage.io.imsave(output, _splash(model, skimage.io.imread(image_path)), check_contrast=False)
    else:
        _splash_video(model, video_path, output)
    print("Saved to", output)
    return output


def _splash(model, image: np.ndarray) -> np.ndarray:
    (found,) = model.detect([image])
    return color_splash(image, found["masks"])


def _splash_video(model, video_path, output) -> None:
    video = read_video(video_path)
    with VideoFile(output, video.rate) as file:
        for frame in tqdm(video.frames, total=video.count, unit="frame"):
            file.write(_splash(model, frame))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate", "splash"))
    parser.add_argument("--dataset", help="folder that contains train/ and val/")
    parser.add_argument(
        "--weights", required=True, help="balloon-small, coco, imagenet, efficientnet_lite0, last, or a file"
    )
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--epochs", type=int, help="total number of epochs, for train")
    parser.add_argument("--image", help="photo to splash")
    parser.add_argument("--video", help="video to splash")
    parser.add_argument("--output", help="output file of splash (splash_<time>)")
    args = parser.parse_args(arguments)
    if args.command == "splash" and bool(args.image) == bool(args.video):
        parser.error("splash needs either --image or --video")
    if args.command != "splash" and not args.dataset:
        parser.error(f"{args.command} needs --dataset")

    model = balloon_model("training" if args.command == "train" else "inference", args.weights, args.logs)
    if args.command == "train":
        train(model, args.dataset, args.epochs)
    elif args.command == "evaluate":
        evaluate(model, balloon_dataset(args.dataset, "val"))
    else:
        detect_and_color_splash(model, args.image, args.video, args.output)


if __name__ == "__main__":
    main()
