"""Cell nuclei under the microscope: many small objects; detections as a submission to Kaggle's Data Science Bowl 2018.

    python samples/nucleus.py train --dataset DIR --weights imagenet       ResNet-50, matterport's recipe, for a GPU
    python samples/nucleus.py train --dataset DIR --weights mobilenet.h5   MobileNetV2, for a CPU: 11 minutes
    python samples/nucleus.py evaluate --dataset DIR --weights last        mask AP50 = 0.735 (11 images)
    python samples/nucleus.py detect --dataset DIR --subset stage1_test --weights last

DIR holds the bowl's folders: `stage1_train/<id>/images/*.png` and `<id>/masks/*.png`, one a nucleus; `stage1_test`...
A sixth of stage1_train is kept for validation, drawn by the images' ids, so that none changes sides when others come.
`detect` writes `submit.csv` and a picture of each image into `results/nucleus/submit_<time>`. `--weights`: coco,
imagenet, last, or a file. The network follows the weights: a file of MobileNetV2 layers (keras.applications, ImageNet,
without top) gives the small one.

The AP50 is that of the second line on 48 images of the bowl: 37 to train, for 8 epochs of 75 steps of 4 crops, and 11
with 285 nuclei to evaluate (mask AP 0.440). It was 0.719 before we let more proposals through, seeing the same 11. A
third of what is missed is in one image that is out of focus. docs/nucleus.png has 8 of the 11.
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
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes would hide the progress
__path__ = [str(Path(__file__).with_suffix(""))]  # `from samples.nucleus import nucleus`, as in matterport's notebooks

import numpy as np
from tqdm import tqdm

from mrcnn import visualize
from mrcnn.config import Config
from mrcnn.data.formats.instance_pngs import NucleiDataset, image_folders
from mrcnn.io import replacing
from mrcnn.model import MaskRCNN
from samples.common import (
    LOGS,
    SmallNetwork,
    config_for,
    draw_detections,
    evaluate,
    find_weights,
    load_weights,
    warm_up_and_cosine,
)

CLASS_NAMES = ["BG", "nucleus"]
RESULTS_DIR = ROOT / "results" / "nucleus"
TRAINING_FOLDER = "stage1_train"
VALIDATION_SHARE = 1 / 6
OUTLINES = {"show_bbox": False, "captions": [""] * 400}  # boxes and captions would hide the nuclei
FAINTEST, BRIGHTEST = 0.5, 99.8  # percent of the values that become black and white; see `stretch_contrast`


# ---- Settings and data -----------------------------------------------------------------------------------------------
class NucleusConfig(Config):
    """matterport's settings: ResNet-50, images scaled up twice and cut to 512 pixels."""

    NAME = "nucleus"
    NUM_CLASSES = len(CLASS_NAMES)
    BACKBONE = "resnet50"
    IMAGES_PER_GPU = 6
    STEPS_PER_EPOCH = 100  # some 550 images
    VALIDATION_STEPS = 5

    IMAGE_RESIZE_MODE = "crop"  # to train; `detect` looks at the whole image, scaled alike
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 2.0
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])

    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_NMS_THRESHOLD = 0.9  # nuclei touch: keep what overlaps, the second stage decides
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 400
    DETECTION_MIN_CONFIDENCE = 0  # of two classes the likelier one is taken, so no score is below 0.5 anyhow

    # How `train` goes; not read by the model.
    STAGES = ((20, "heads"), (40, "all"))  # (until epoch, layers)
    COSINE = False  # warm up, then lower the learning rate to nothing along a cosine
    STRETCH = False  # give all images the same contrast


class NucleusInferenceConfig(NucleusConfig):
    """matterport's settings to detect with: one image at a time, and less that overlaps."""

    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class SmallNucleusConfig(SmallNetwork, NucleusConfig):
    """MobileNetV2 and crops of 256 pixels: trains on a CPU."""

    IMAGES_PER_GPU = 4
    STEPS_PER_EPOCH = 75
    VALIDATION_STEPS = 3
    IMAGE_MIN_DIM = 256
    IMAGE_MAX_DIM = 256
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 128
    PRE_NMS_LIMIT = 4000  # as SmallNetwork's, they wouldn't reach for hundreds of nuclei
    POST_NMS_ROIS_INFERENCE = 1000
    TRAIN_ROIS_PER_IMAGE = 32
    DETECTION_MAX_INSTANCES = 200

    STAGES = ((8, "heads"),)
    COSINE = True
    STRETCH = True


class NucleusDataset(NucleiDataset):
    """The images of the bowl. `load_nucleus`, then `prepare`."""

    stretch = False

    def load_nucleus(self, dataset_dir, subset: str, stretch: bool = False) -> None:
        """Adds the images of one subset.

        Args:
            dataset_dir: folder that holds `stage1_train` and the like.
            subset: "val": those of stage1_train that are kept for validation; "train": the others; or the name of a
                folder, such as "stage1_train" or "stage1_test".
            stretch: see `stretch_contrast`; for all images of the set.
        """
        self.stretch = stretch
        folder, names = Path(dataset_dir) / subset, None
        if subset in ("train", "val"):
            folder = Path(dataset_dir) / TRAINING_FOLDER
            names = [name for name in image_folders(folder) if for_validation(name) == (subset == "val")]
        self.load_nuclei(folder, source="nucleus", image_names=names)

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, RGB."""
        image = super().load_image(image_id)
        return stretch_contrast(image) if self.stretch else image

    def image_reference(self, image_id: int) -> str:
        """The id that the bowl gave the image."""
        return self.image_info[image_id]["id"]


def for_validation(name: str) -> bool:
    """Whether an image of stage1_train is kept for validation: drawn from its id alone."""
    return zlib.crc32(name.encode()) < VALIDATION_SHARE * 2**32


def stretch_contrast(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8, its faintest values black and its brightest white: some of the images are all but black."""
    low, high = np.percentile(image, (FAINTEST, BRIGHTEST))
    return np.clip((image - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)


def nucleus_dataset(dataset_dir, subset: str, config) -> NucleusDataset:
    """The prepared images of one subset, as the network of `config` wants to see them."""
    dataset = NucleusDataset()
    dataset.load_nucleus(dataset_dir, subset, stretch=config.STRETCH)
    dataset.prepare()
    return dataset


def nucleus_model(mode: str, weights: str, logs) -> MaskRCNN:
    """A model with the weights that `--weights` stands for; its network is the one they belong to."""
    path = find_weights(weights, NucleusConfig.NAME, logs)
    large = NucleusConfig if mode == "training" else NucleusInferenceConfig
    config = config_for(path, large, SmallNucleusConfig)
    model = MaskRCNN(mode=mode, config=config, model_dir=str(logs))
    load_weights(model, weights, path)
    return model


def trained_model(weights: str, logs) -> MaskRCNN:
    """A model that detects."""
    return nucleus_model("inference", weights, logs)


# ---- Run lengths -----------------------------------------------------------------------------------------------------
def rle_encode(mask: np.ndarray) -> str:
    """A mask [H, W] as the bowl wants it: "start length start length ...", down the columns, the first pixel is 1."""
    pixels = np.asarray(mask).astype(bool).ravel(order="F")
    turns = np.flatnonzero(np.diff(pixels, prepend=False, append=False)) + 1  # where runs begin and end, in turns
    starts, ends = turns[::2], turns[1::2]
    return " ".join(map(str, np.column_stack([starts, ends - starts]).ravel()))


def rle_decode(rle: str, shape) -> np.ndarray:
    """The inverse of `rle_encode`: a mask [H, W] bool of the shape (H, W).

    Raises:
        ValueError: a start without its length, or runs that aren't in the image.
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
    """masks [H, W, n] bool, each pixel left to the mask with the highest score [n] of those that hold it."""
    if masks.shape[-1] == 0:
        return masks
    order = np.argsort(-np.asarray(scores), kind="stable")
    best_first = masks[..., order]
    owner = np.where(best_first.any(axis=-1), order[best_first.argmax(axis=-1)], -1)  # [H, W]
    return owner[..., None] == np.arange(masks.shape[-1])


def mask_to_rle(image_id: str, mask: np.ndarray, scores: np.ndarray) -> str:
    """Lines "image_id,run lengths" of a submission, one a nucleus, the best first; without nuclei the id alone.

    Args:
        image_id: the bowl's id.
        mask: [H, W, n] bool.
        scores: [n]; where masks overlap the higher one gets the pixel.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    layers = np.moveaxis(without_overlaps(mask, scores), -1, 0)[order]
    codes = [rle_encode(layer) for layer in layers if layer.any()]
    return "\n".join(f"{image_id},{code}" for code in codes or [""])


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(model, dataset_dir, subset: str = "train") -> None:
    """Trains on one subset, and watches the loss on that for validation; then draws and evaluates."""
    config = model.config
    validation = nucleus_dataset(dataset_dir, "val", config)
    for epochs, layers in config.STAGES:
        if epochs <= model.epoch:
            continue  # done in the run that `--weights` goes on with
        rate = config.LEARNING_RATE
        model.train(
            nucleus_dataset(dataset_dir, subset, config),
            validation,
            learning_rate=warm_up_and_cosine(rate, epochs - model.epoch, config) if config.COSINE else rate,
            epochs=epochs,
            layers=layers,
            augmentation=augmentation(),
        )
    draw(model, validation, Path(model.log_dir) / "detections.png")
    evaluate(model, validation)


def augmentation():
    """No side of a microscope image is its top, so every flip and quarter turn will do; and light and focus vary."""
    from imgaug import augmenters as iaa  # after mrcnn, which mends it for NumPy 2

    return iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.Rot90((0, 3)),
            iaa.SomeOf((0, 1), [iaa.Multiply((0.7, 1.4)), iaa.LinearContrast((0.7, 1.4)), iaa.GaussianBlur((0, 2.0))]),
        ]
    )


def draw(model, dataset, path) -> None:
    """Draws what the model finds on the first images."""
    print("picture:", draw_detections(model, dataset, dataset.image_ids[:8], path, **OUTLINES))


def detect(model, dataset_dir, subset: str, results=RESULTS_DIR) -> Path:
    """Detects on one subset, and writes the submission and a picture of each image.

    Args:
        model: `MaskRCNN`.
        dataset_dir, subset: see `NucleusDataset.load_nucleus`.
        results: folder; a folder `submit_<time>` is made in it.

    Returns:
        Path of `submit.csv`: "ImageId,EncodedPixels", one line a nucleus.
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


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "evaluate", "detect"))
    parser.add_argument("--dataset", required=True, help="folder that holds stage1_train/ and the like")
    parser.add_argument("--weights", required=True, help="coco, imagenet, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--subset", help="train, val, or a folder (train: train, else: val)")
    parser.add_argument("--results", default=str(RESULTS_DIR), help="folder that detect writes to (%(default)s)")
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
