"""Cell nuclei in microscope images: many small objects; writes a submission to Kaggle's Data Science Bowl 2018.

    python samples/nucleus.py train --dataset DIR --weights imagenet             ResNet-50, matterport's recipe, GPU
    python samples/nucleus.py train --dataset DIR --weights efficientnet_lite0   for a CPU: 8 minutes
    python samples/nucleus.py evaluate --dataset DIR --weights last              mask AP50 = 0.807 (11 images)
    python samples/nucleus.py detect --dataset DIR --subset stage1_test --weights last

DIR contains the competition's folders: `stage1_train/<id>/images/*.png` and `<id>/masks/*.png` (one file per nucleus),
`stage1_test`, ... A sixth of stage1_train is used for validation. The split is a hash of the image id, so adding images
does not change it. `detect` writes `submit.csv` and a figure per image to `results/nucleus/submit_<time>`. `--weights`
is coco, imagenet, efficientnet_lite0, last, or a file. The architecture follows the weights: a file of another backbone
than a ResNet selects the small network.

The AP50 above is from the second command on 48 images: 37 for training (8 epochs of 75 steps of 4 crops, 16 minutes of
processor time) and 11 with 285 nuclei for evaluation (mask AP 0.501, box AP 0.498). docs/nucleus.png shows 8 of the 11.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars
__path__ = [str(Path(__file__).with_suffix(""))]  # `from samples.nucleus import nucleus`, as in matterport's notebooks

import numpy as np
from tqdm import tqdm

from mrcnn import visualize
from mrcnn.config import Config
from mrcnn.data.formats.instance_pngs import NucleiDataset, image_folders
from mrcnn.io import replacing
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork
from samples.common import LOGS, build_model, draw_detections, evaluate

CLASS_NAMES = ["BG", "nucleus"]
RESULTS_DIR = ROOT / "results" / "nucleus"
TRAINING_FOLDER = "stage1_train"
VALIDATION_SHARE = 1 / 6
OUTLINES = {"show_bbox": False, "captions": [""] * 400}  # boxes and captions would hide the nuclei
FAINTEST, BRIGHTEST = 0.5, 99.8  # percentiles that map to black and white in `stretch_contrast`


# ---- Settings and data -----------------------------------------------------------------------------------------------
class NucleusConfig(Config):
    """matterport's settings: ResNet-50, images enlarged twice and cropped to 512 pixels."""

    NAME = "nucleus"
    NUM_CLASSES = len(CLASS_NAMES)
    BACKBONE = "resnet50"
    IMAGES_PER_GPU = 6
    STEPS_PER_EPOCH = 100  # about 550 images
    VALIDATION_STEPS = 5

    IMAGE_RESIZE_MODE = "crop"  # for training; `detect` uses the whole image at the same scale
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 2.0
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])

    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_NMS_THRESHOLD = 0.9  # nuclei touch: keep overlapping proposals for the second stage
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 400
    DETECTION_MIN_CONFIDENCE = 0  # with two classes, scores are at least 0.5

    # Options of `train`; the model does not read them.
    STAGES = ((20, "heads"), (40, "all"))  # (last epoch, layers)
    STRETCH = False  # give all images the same contrast


class NucleusInferenceConfig(NucleusConfig):
    """matterport's settings for detection: one image at a time, fewer overlapping proposals."""

    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class SmallNucleusConfig(SmallNetwork, NucleusConfig):
    """EfficientNet-Lite0 and crops of 256 pixels; trains on a CPU."""

    IMAGES_PER_GPU = 4
    STEPS_PER_EPOCH = 75
    VALIDATION_STEPS = 3
    IMAGE_MIN_DIM = 256
    IMAGE_MAX_DIM = 256
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 128
    PRE_NMS_LIMIT = 4000  # SmallNetwork's limits are too low for hundreds of nuclei
    POST_NMS_ROIS_INFERENCE = 1000
    DETECTION_MAX_INSTANCES = 200

    STAGES = ((8, SmallNetwork.LAYERS),)
    STRETCH = True


class NucleusDataset(NucleiDataset):
    """The competition's images. Call `load_nucleus`, then `prepare`."""

    stretch = False

    def load_nucleus(self, dataset_dir: str | Path, subset: str, stretch: bool = False) -> None:
        """Adds the images of one subset.

        Args:
            dataset_dir: folder that contains `stage1_train` etc.
            subset: "val" (the validation part of stage1_train), "train" (the rest of it), or the name of a
                folder, such as "stage1_train" or "stage1_test".
            stretch: whether to apply `stretch_contrast` to all images.
        """
        self.stretch = stretch
        folder, names = Path(dataset_dir) / subset, None
        if subset in ("train", "val"):
            folder = Path(dataset_dir) / TRAINING_FOLDER
            names = [name for name in image_folders(folder) if for_validation(name) == (subset == "val")]
        self.load_nuclei(folder, source="nucleus", image_names=names)

    def load_image(self, image_id: int) -> np.ndarray:
        """Returns the image, [H, W, 3] uint8 RGB."""
        image = super().load_image(image_id)
        return stretch_contrast(image) if self.stretch else image

    def image_reference(self, image_id: int) -> str:
        """Returns the competition's id of the image."""
        return self.image_info[image_id]["id"]


def for_validation(name: str) -> bool:
    """Returns whether an image of stage1_train is used for validation, by a hash of its id."""
    return zlib.crc32(name.encode()) < VALIDATION_SHARE * 2**32


def stretch_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches the values of an image [H, W, 3] uint8 to the full range; some images are nearly black."""
    low, high = np.percentile(image, (FAINTEST, BRIGHTEST))
    return np.clip((image - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)


def nucleus_dataset(dataset_dir: str | Path, subset: str, config: NucleusConfig) -> NucleusDataset:
    """Returns the prepared dataset of one subset, with the contrast setting of `config`."""
    dataset = NucleusDataset()
    dataset.load_nucleus(dataset_dir, subset, stretch=config.STRETCH)
    dataset.prepare()
    return dataset


def nucleus_model(mode: str, weights: str, logs: str | Path) -> MaskRCNN:
    """Builds a model and loads the weights given by `--weights`; the architecture follows the weights."""
    large = NucleusConfig if mode == "training" else NucleusInferenceConfig
    return build_model(mode, weights, logs, large, SmallNucleusConfig)


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection."""
    return nucleus_model("inference", weights, logs)


# ---- Run lengths -----------------------------------------------------------------------------------------------------
def rle_encode(mask: np.ndarray) -> str:
    """Encodes a mask [H, W] as "start length start length ...", column by column; the first pixel is 1."""
    pixels = np.asarray(mask).astype(bool).ravel(order="F")
    turns = np.flatnonzero(np.diff(pixels, prepend=False, append=False)) + 1  # alternating starts and ends of runs
    starts, ends = turns[::2], turns[1::2]
    return " ".join(map(str, np.column_stack([starts, ends - starts]).ravel()))


def rle_decode(rle: str, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of `rle_encode`: returns a mask [H, W] bool.

    Raises:
        ValueError: a start without a length, or a run outside the image.
    """
    numbers = np.array(rle.split(), int)
    pixels = np.zeros(shape[0] * shape[1], bool)
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if len(starts) != len(lengths) or (starts < 0).any() or (starts + lengths > len(pixels)).any():
        raise ValueError(f"rle is {rle[:60]!r}; expected pairs of start and length within 1..{len(pixels)}.")
    for start, length in zip(starts, lengths):
        pixels[start : start + length] = True
    return pixels.reshape(shape, order="F")


def without_overlaps(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns masks [H, W, n] bool in which each pixel belongs only to its mask with the highest score [n]."""
    if masks.shape[-1] == 0:
        return masks
    order = np.argsort(-np.asarray(scores), kind="stable")
    best_first = masks[..., order]
    owner = np.where(best_first.any(axis=-1), order[best_first.argmax(axis=-1)], -1)  # [H, W]
    return owner[..., None] == np.arange(masks.shape[-1])


def mask_to_rle(image_id: str, mask: np.ndarray, scores: np.ndarray) -> str:
    """Returns the lines "image_id,run lengths" of a submission, best nucleus first; an empty one without nuclei.

    Args:
        image_id: the competition's id.
        mask: [H, W, n] bool.
        scores: [n]; overlapping pixels go to the mask with the higher score.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    layers = np.moveaxis(without_overlaps(mask, scores), -1, 0)[order]
    codes = [rle_encode(layer) for layer in layers if layer.any()]
    return "\n".join(f"{image_id},{code}" for code in codes or [""])


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model, dataset_dir, subset: str = "train") -> None:
    """Trains on one subset, computes the loss on the validation subset, then draws detections and evaluates."""
    config = model.config
    validation = nucleus_dataset(dataset_dir, "val", config)
    for epochs, layers in config.STAGES:
        if epochs <= model.epoch:
            continue  # epochs already trained in the run that `--weights` continues
        model.train(
            nucleus_dataset(dataset_dir, subset, config),
            validation,
            learning_rate=config.LEARNING_RATE,
            epochs=epochs,
            layers=layers,
            augmentation=augmentation(),
        )
    draw(model, validation, Path(model.log_dir) / "detections.png")
    evaluate(model, validation)


def augmentation():
    """Returns the augmentation: flips, quarter turns (microscope images have no up), brightness, contrast and blur."""
    from imgaug import augmenters as iaa  # after mrcnn, which makes imgaug work on NumPy 2

    return iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.Rot90((0, 3)),
            iaa.SomeOf((0, 1), [iaa.Multiply((0.7, 1.4)), iaa.LinearContrast((0.7, 1.4)), iaa.GaussianBlur((0, 2.0))]),
        ]
    )


def draw(model, dataset, path) -> None:
    """Draws the detections on the first 8 images."""
    print("picture:", draw_detections(model, dataset, dataset.image_ids[:8], path, **OUTLINES))


def detect(model: MaskRCNN, dataset_dir: str | Path, subset: str, results: str | Path = RESULTS_DIR) -> Path:
    """Runs detection on one subset and writes the submission and a figure for each image.

    Args:
        model: `MaskRCNN`.
        dataset_dir, subset: see `NucleusDataset.load_nucleus`.
        results: output folder; a subfolder `submit_<time>` is created in it.

    Returns:
        Path of `submit.csv`: "ImageId,EncodedPixels", one line per nucleus.
    """
    folder = Path(results) / f"submit_{datetime.datetime.now():%Y%m%dT%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    dataset = nucleus_dataset(dataset_dir, subset, model.config)
    lines = ["ImageId,EncodedPixels"]
    for image_id in tqdm(dataset.image_ids, unit="image"):
        image, name = dataset.load_image(image_id), dataset.image_reference(image_id)
        (found,) = model.detect([image])
        lines.append(mask_to_rle(name, found["masks"], found["scores"]))
        visualize.display_instances(
            image, found["rois"], found["masks"], found["class_ids"], dataset.class_names,
            figsize=(8, 8), save=folder / f"{name}.png", **OUTLINES,
        )  # fmt: skip
    submission = folder / "submit.csv"
    with replacing(submission) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    print("Saved to", submission)
    return submission


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate", "detect"))
    parser.add_argument("--dataset", required=True, help="folder that contains stage1_train/ etc.")
    parser.add_argument("--weights", required=True, help="coco, imagenet, efficientnet_lite0, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--subset", help="train, val, or a folder (default: train for train, otherwise val)")
    parser.add_argument("--results", default=str(RESULTS_DIR), help="output folder of detect (%(default)s)")
    args = parser.parse_args(arguments)

    model = nucleus_model("training" if args.command == "train" else "inference", args.weights, args.logs)
    if args.command == "train":
        train(model, args.dataset, args.subset or "train")
    elif args.command == "evaluate":
        evaluate(model, nucleus_dataset(args.dataset, args.subset or "val", model.config))
    else:
        detect(model, args.dataset, args.subset or "val", args.results)


if __name__ == "__main__":
    main()
