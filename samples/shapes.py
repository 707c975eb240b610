"""Squares, circles and triangles: Mask R-CNN from scratch on a CPU, without any download.

    python samples/shapes.py train       trains, evaluates and draws: 4 minutes on 2 free cores
    python samples/shapes.py evaluate    evaluates the last checkpoint on 100 images that training never saw
    python samples/shapes.py detect      draws what the last checkpoint finds on some of these images

`train` ends with a line like

    mask AP50 = 0.966 (100 images)

`weights="shapes"`, part of the package, was trained by this command.

Images are drawn on demand from a seed and a number: 1 to 4 shapes on a plain background, 128 x 128 pixels; later shapes
cover earlier ones. Training, validation and evaluation use different seeds, so they share no image.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # so that TensorFlow's log does not hide the progress
__path__ = [str(Path(__file__).with_suffix(""))]  # `from samples.shapes import shapes`, as in matterport's notebooks

import cv2
import keras
import numpy as np

from mrcnn import utils
from mrcnn.config import Config
from mrcnn.model import MaskRCNN
from samples.common import LOGS, draw_detections, evaluate, find_weights, load_weights, warm_up_and_cosine

SHAPES = ("square", "circle", "triangle")
CLASS_NAMES = ["BG", *SHAPES]
TRAINING, VALIDATION, EVALUATION = 1, 2, 3  # seeds
EVALUATION_IMAGES = 100
EPOCHS = 10
LEARNING_RATE = 0.002


# ---- Data ------------------------------------------------------------------------------------------------------------
class ShapesDataset(utils.Dataset):
    """Images of 1 to 4 shapes, drawn on demand. Call `load_shapes`, then `prepare`."""

    MAX_OVERLAP = 0.3  # of two shapes whose boxes have a larger IoU, the earlier one is removed
    MIN_VISIBLE = 0.25  # shapes with a smaller share of their area visible are removed
    MIN_CONTRAST = 32  # least difference between a shape and the background, in at least one channel

    rng = np.random.default_rng()

    def load_shapes(self, count: int, height: int, width: int, seed: int = 0) -> None:
        """Adds `count` images of height x width pixels. Image i depends on `seed` and i only."""
        for class_id, name in enumerate(SHAPES, start=1):
            self.add_class("shapes", class_id, name)
        for i in range(count):
            self.rng = np.random.default_rng((seed, i))
            bg_color, shapes = self.random_image(height, width)
            self.add_image("shapes", i, path=None, width=width, height=height, bg_color=bg_color, shapes=shapes)

    def load_image(self, image_id: int) -> np.ndarray:
        """[height, width, 3] uint8."""
        info = self.image_info[image_id]
        image = np.empty((info["height"], info["width"], 3), np.uint8)
        image[:] = info["bg_color"]
        for shape, color, dims in info["shapes"]:
            image = self.draw_shape(image, shape, dims, color)
        return image

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the visible parts [height, width, n] bool, class ids [n] int32."""
        info = self.image_info[image_id]
        masks = self.visible_masks(info["shapes"], info["height"], info["width"])
        class_ids = [self.class_names.index(shape) for shape, _, _ in info["shapes"]]
        return masks, np.array(class_ids, np.int32)

    def image_reference(self, image_id: int):
        """The shapes of an image: a list of (name, color, (x, y, size))."""
        info = self.image_info[image_id]
        return info["shapes"] if info["source"] == "shapes" else super().image_reference(image_id)

    def random_shape(self, height: int, width: int):
        """A random shape: name, (r, g, b), (x, y, size) in pixels; size is half its side."""
        shape = SHAPES[self.rng.integers(len(SHAPES))]
        color = tuple(int(c) for c in self.rng.integers(256, size=3))
        margin, largest = min(height, width) * 20 // 128, min(height, width) // 4
        x = int(self.rng.integers(margin, width - margin))
        y = int(self.rng.integers(margin, height - margin))
        return shape, color, (x, y, int(self.rng.integers(margin, largest + 1)))

    def random_image(self, height: int, width: int):
        """A random image: background (r, g, b), and 1 to 4 shapes, the last one in front."""
        background = self.rng.integers(256, size=3)
        count, shapes = self.rng.integers(1, 5), []
        while len(shapes) < count:
            shape = self.random_shape(height, width)
            if np.abs(background - shape[1]).max() >= self.MIN_CONTRAST:
                shapes.append(shape)
        boxes = np.array([[y - s, x - s, y + s, x + s] for _, _, (x, y, s) in shapes])
        in_front_first = utils.non_max_suppression(boxes, np.arange(len(shapes)), self.MAX_OVERLAP)
        shapes = [shapes[i] for i in sorted(in_front_first)]
        while (hidden := self._most_hidden(shapes, height, width)) is not None:
            del shapes[hidden]
        return tuple(int(c) for c in background), shapes

    def draw_shape(self, image: np.ndarray, shape: str, dims, color) -> np.ndarray:
        """Draws a filled shape into the image and returns the image. Raises ValueError if it is not in SHAPES."""
        x, y, s = dims
        if shape == "square":
            return cv2.rectangle(image, (x - s, y - s), (x + s, y + s), color, -1)
        if shape == "circle":
            return cv2.circle(image, (x, y), s, color, -1)
        if shape == "triangle":  # equilateral, its side 2s
            half_height = s * np.sin(np.pi / 3)
            corners = [(x, y - half_height), (x - s, y + half_height), (x + s, y + half_height)]
            return cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], color)
        raise ValueError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}.")

    def visible_masks(self, shapes, height: int, width: int) -> np.ndarray:
        """[height, width, n] bool: each shape without the parts that later shapes cover."""
        masks = self._whole_masks(shapes, height, width)
        covered = np.logical_or.accumulate(masks[..., ::-1], axis=-1)[..., ::-1]  # by this shape or a later one
        masks[..., :-1] &= ~covered[..., 1:]
        return masks

    def _whole_masks(self, shapes, height: int, width: int) -> np.ndarray:
        canvases = [self.draw_shape(np.zeros((height, width), np.uint8), s, dims, 1) for s, _, dims in shapes]
        return np.stack(canvases, axis=-1).astype(bool)

    def _most_hidden(self, shapes, height: int, width: int) -> int | None:
        """Index of the least visible shape; None if all are visible enough."""
        whole = self._whole_masks(shapes, height, width).sum((0, 1))
        visible = self.visible_masks(shapes, height, width).sum((0, 1)) / whole
        return int(visible.argmin()) if visible.min() < self.MIN_VISIBLE else None


def shapes_dataset(count: int, seed: int) -> ShapesDataset:
    """A prepared dataset of `count` images of `ShapesConfig`'s size."""
    dataset = ShapesDataset()
    side = ShapesConfig.IMAGE_MAX_DIM
    dataset.load_shapes(count, side, side, seed)
    dataset.prepare()
    return dataset


# ---- Model -----------------------------------------------------------------------------------------------------------
class ShapesConfig(Config):
    """A small Mask R-CNN for 128 x 128 images."""

    NAME = "shapes"
    NUM_CLASSES = 1 + len(SHAPES)
    IMAGES_PER_GPU = 8
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 5

    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    USE_MINI_MASK = False  # whole masks are small at this image size

    BACKBONE = "small_resnet"
    TRAIN_BN = None  # training from scratch needs batch statistics
    TOP_DOWN_PYRAMID_SIZE = 48
    RPN_CHANNELS = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 128
    MASK_HEAD_CHANNELS = 64
    MASK_POOL_SIZE = 7
    MASK_SHAPE = [14, 14]
    RPN_ANCHOR_SCALES = (24, 40, 56, 80, 128)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    PRE_NMS_LIMIT = 256
    POST_NMS_ROIS_TRAINING = 64
    POST_NMS_ROIS_INFERENCE = 64
    RPN_NMS_THRESHOLD = 0.8

    ROI_ALIGN = "aligned"
    TRAIN_ROIS_PER_IMAGE = 24
    ADD_GT_TO_PROPOSALS = True  # the heads learn from these until the RPN's proposals are useful
    FILL_ROIS_WITH_NEGATIVES = True
    MAX_GT_INSTANCES = 4
    DETECTION_MAX_INSTANCES = 10
    DETECTION_NMS_THRESHOLD = 0.5  # shapes of one class may overlap, see MAX_OVERLAP
    WEIGHT_DECAY_PER_SIZE = False


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(logs, epochs: int = EPOCHS, seed: int | None = None) -> None:
    """Trains from scratch, draws detections beside the checkpoints, and evaluates."""
    if seed is not None:
        keras.utils.set_random_seed(seed)  # the initial weights
    config = ShapesConfig(SEED=seed, WEIGHT_DECAY=0)  # every image is new, so the model cannot overfit
    images = epochs * config.STEPS_PER_EPOCH * config.BATCH_SIZE
    rate = warm_up_and_cosine(LEARNING_RATE, epochs, config)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=config.GRADIENT_CLIP_NORM)
    model = MaskRCNN(mode="training", config=config, model_dir=str(logs))
    model.train(
        shapes_dataset(images, TRAINING),
        shapes_dataset(config.VALIDATION_STEPS * config.BATCH_SIZE, VALIDATION),
        learning_rate=rate,
        epochs=epochs,
        layers="all",
        optimizer=optimizer,
    )
    draw(model, Path(model.log_dir) / "detections.png")
    evaluate(model, shapes_dataset(EVALUATION_IMAGES, EVALUATION))


def draw(model, path) -> None:
    """Draws the detections on eight images that training never saw."""
    dataset = shapes_dataset(8, EVALUATION)
    print("picture:", draw_detections(model, dataset, dataset.image_ids, path))


def trained_model(weights: str, logs) -> MaskRCNN:
    """An inference model with the weights named by `--weights`."""
    path = find_weights(weights, ShapesConfig.NAME, logs)
    model = MaskRCNN(mode="inference", config=ShapesConfig(), model_dir=str(logs))
    load_weights(model, weights, path)
    return model


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    options = {name: commands.add_parser(name) for name in ("train", "evaluate", "detect")}
    for option in options.values():
        option.add_argument("--logs", default=str(LOGS), help="folder of the runs and checkpoints (%(default)s)")
    for name in ("evaluate", "detect"):
        options[name].add_argument("--weights", default="last", help="last, shapes, or a file (%(default)s)")
    options["train"].add_argument("--epochs", type=int, default=EPOCHS, help="of 100 steps of 8 images (%(default)s)")
    options["train"].add_argument("--seed", type=int, help="makes a run repeatable")
    options["detect"].add_argument("--output", default="detections.png", help="picture to write (%(default)s)")
    args = parser.parse_args(arguments)

    if args.command == "train":
        train(args.logs, args.epochs, args.seed)
        return
    model = trained_model(args.weights, args.logs)
    if args.command == "evaluate":
        evaluate(model, shapes_dataset(EVALUATION_IMAGES, EVALUATION))
    else:
        draw(model, args.output)


if __name__ == "__main__":
    main()
