"""What `mrcnn train` chooses for a dataset, and why: image size, anchors, counts, batch, recipe.

M  images whose masks are read;  N  their objects, crowds included
side of an object: square root of height times width of its box, pixels
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.recipes import SmallNetwork, average_momentum

if TYPE_CHECKING:
    from mrcnn.data.dataset import Dataset
    from mrcnn.data.summary import DatasetSummary

LOOKED_AT = 500  # images whose masks are read to make the choices
SIZE_STEP = 64  # stride of the coarsest feature map, which must divide the image size
SMALLEST_SIZE, LARGEST_ON_CPU, LARGEST_ON_GPU = 128, 512, 1024  # pixels
LARGEST_ENLARGEMENT = 2  # of the images; enlarging adds no detail
SMALLEST_SIDE = 16  # pixels that small objects should have for the network: 4 cells of its finest feature map
SMALL, LARGE = 5, 95  # percentiles of sides that the anchors span
LEAST_ANCHORS = (
    8,
    16,
    32,
    64,
    128,
)  # pixels, of P2..P6: twice the strides; between smaller ones objects would be missed
USUAL_RATIOS = [0.5, 1, 2]
WIDE_OBJECT = 28  # pixels; masks of larger objects get 28 x 28 cells instead of 14 x 14
IMAGE_VIEWS = 4000  # images that a training from "shapes" sees, counting repetitions
FINE_TUNING_VIEWS = 2000  # the same for weights that were trained on photos
MOST_EPOCHS = 20  # each ends with a checkpoint; on few images, an epoch repeats them
ADAM_RATE = 0.001  # for the small network, which samples/shapes.py trains from scratch with 0.002
SGD_RATE = 0.0025  # per image of a batch: 0.005 for two, as in torchvision's fine-tuning tutorial


@dataclass
class Plan:
    """The choices for a training.

    Attributes:
        settings: Settings of `Config`, beyond those that come with the weights.
        recipe: "epochs" and "layers", the arguments of `train`.
        why: (what, choice, reason) of each choice.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    why: list[tuple[str, str, str]] = field(default_factory=list)

    def choose(self, what: str, choice: str, reason: str, **settings: Any) -> None:
        self.settings |= settings
        self.why.append((what, choice, reason))


@dataclass(frozen=True)
class Start:
    """The weights that a training starts from.

    Attributes:
        weights: Name, file, or None for new weights.
        base: Settings that come with them.
        reason: Why these weights were chosen.
        kind: "small" (the network of "shapes"), "trained" (a whole Mask R-CNN), "backbone" (new heads on a ResNet) or
            "small backbone" (new heads of `recipes.SmallNetwork`).
    """

    weights: str | None
    base: Mapping[str, Any]
    reason: str
    kind: str


def summarize_sample(dataset: Dataset, config: Any = None) -> DatasetSummary:
    """The summary of up to `LOOKED_AT` images, spread evenly over the dataset."""
    from mrcnn.data.summary import summarize

    wanted = np.unique(np.linspace(0, dataset.num_images - 1, min(LOOKED_AT, dataset.num_images)).astype(int))
    return summarize(dataset, config, wanted, progress=False)


def make_plan(summary: DatasetSummary, start: Start, on_gpu: bool, image_size: int | None, batch: int | None) -> Plan:
    """Chooses everything but the classes and the split.

    Args:
        summary: Of the training images, without a Config.
        start: The weights.
        on_gpu: Whether a GPU trains.
        image_size, batch: Given by the user; None: chosen.

    Raises:
        ValueError: The images have no objects.
    """
    if not len(summary.sides):
        raise ValueError(f"{summary.name}: no object with a pixel in {len(summary.image_ids)} images to learn from.")
    plan = Plan()
    choose_image_size(plan, summary, on_gpu, image_size)
    choose_anchors(plan, summary, start)
    choose_counts(plan, summary, start, on_gpu)
    choose_batch(plan, on_gpu, batch)
    return plan


def shares(summary: DatasetSummary) -> np.ndarray:
    """[up to N] sides of the objects, as shares of their images' longer sides."""
    longer = summary.image_sizes.max(axis=1)[summary.image]
    visible = summary.boxes[:, 2] > summary.boxes[:, 0]
    return summary.sides / longer[visible]


def choose_image_size(plan: Plan, summary: DatasetSummary, on_gpu: bool, given: int | None) -> None:
    longer = float(np.median(summary.image_sizes.max(axis=1)))
    small = float(np.percentile(shares(summary), 10))  # of the image's longer side
    limit = LARGEST_ON_GPU if on_gpu else LARGEST_ON_CPU
    size = given or round_up(SMALLEST_SIDE / small, SIZE_STEP)
    reason = f"small objects (a tenth of all) get {small * size:.0f} pixels; images have {longer:.0f}"
    if given:
        reason = f"as given; {reason}"
    else:
        largest = min(limit, round_up(longer * LARGEST_ENLARGEMENT, SIZE_STEP))
        if size > largest:
            device = "a GPU" if on_gpu else "a processor"
            why = f"the most for {device}" if largest == limit else "larger adds no detail"
            size = largest
            reason = f"{why}; small objects (a tenth of all) get {small * size:.0f} pixels of {SMALLEST_SIDE} wanted"
        size = max(size, SMALLEST_SIZE)
    plan.choose("image size", f"{size} x {size}", reason, IMAGE_MIN_DIM=size, IMAGE_MAX_DIM=size,
                USE_MINI_MASK=size > 256)  # fmt: skip


def choose_anchors(plan: Plan, summary: DatasetSummary, start: Start) -> None:
    sides = shares(summary) * plan.settings["IMAGE_MAX_DIM"]
    low, high = np.percentile(sides, (SMALL, LARGE))
    if start.kind == "trained":
        plan.why.append(
            ("anchors", "those of the weights", f"trained with them; most objects have {low:.0f} to {high:.0f} pixels")
        )
        return
    middle = math.sqrt(low * high)
    scales = np.geomspace(min(low, middle / 2), max(high, middle * 2), len(LEAST_ANCHORS))
    scales = [int(scale) for scale in np.rint(np.maximum(scales, LEAST_ANCHORS))]
    ratios = USUAL_RATIOS
    thin, wide = np.percentile(summary.aspect_ratios, (10, 90))
    if thin < 0.3 or wide > 3:
        ratios = [round(float(ratio), 2) for ratio in np.percentile(summary.aspect_ratios, (10, 50, 90))]
    reason = f"nine tenths of the objects have {low:.0f} to {high:.0f} pixels, width / height {thin:.1f} to {wide:.1f}"
    choice = f"{', '.join(map(str, scales))}; {', '.join(map(str, ratios))}"
    plan.choose("anchors", choice, reason, RPN_ANCHOR_SCALES=tuple(scales), RPN_ANCHOR_RATIOS=ratios)
    middle_side = float(np.median(sides))
    cells = 28 if middle_side > WIDE_OBJECT else 14
    if start.kind == "small":
        plan.choose("mask", f"{cells} x {cells} cells", f"half of the objects have more than {middle_side:.0f} pixels",
                    MASK_SHAPE=[cells, cells], MASK_POOL_SIZE=cells // 2)  # fmt: skip


def choose_counts(plan: Plan, summary: DatasetSummary, start: Start, on_gpu: bool) -> None:
    most = int(summary.objects_per_image.max())
    many = float(np.percentile(summary.objects_per_image, 95))
    settings = {
        "MAX_GT_INSTANCES": min(max(most, 1), 400),
        "DETECTION_MAX_INSTANCES": clipped(1.5 * most, 10, 400),
    }
    if start.kind == "small":  # others have room for many objects
        proposals = clipped(8 * most, 64, 1000)
        settings |= {
            "POST_NMS_ROIS_TRAINING": proposals, "POST_NMS_ROIS_INFERENCE": proposals, "PRE_NMS_LIMIT": 4 * proposals,
            "TRAIN_ROIS_PER_IMAGE": clipped(4 * many, 24, 200),
            "RPN_TRAIN_ANCHORS_PER_IMAGE": clipped(8 * many, 64, 256),
        }  # fmt: skip
    if start.kind == "small backbone":
        settings |= {
            "POST_NMS_ROIS_INFERENCE": clipped(8 * most, SmallNetwork.POST_NMS_ROIS_INFERENCE, 1000),
            "PRE_NMS_LIMIT": clipped(32 * most, SmallNetwork.PRE_NMS_LIMIT, 4000),
        }
    choice, reason = f"up to {settings['DETECTION_MAX_INSTANCES']} objects", f"an image has up to {most}"
    if start.kind == "trained" and not on_gpu:  # most of a step is the mask head, on a quarter of these
        rois = settings["TRAIN_ROIS_PER_IMAGE"] = clipped(8 * many, 64, 512)
        reason += f"; {rois} RoIs of each train the heads: more would be slow on a processor"
    plan.choose("objects", choice, reason, **settings)


def choose_batch(plan: Plan, on_gpu: bool, given: int | None) -> None:
    size = plan.settings["IMAGE_MAX_DIM"]
    batch = given or (8 if size <= 128 else 4 if size <= 256 or (on_gpu and size <= 512) else 2)
    plan.choose(
        "batch", f"{batch} images", "as given" if given else f"for {size} x {size} pixels", IMAGES_PER_GPU=batch
    )


def choose_recipe(
    plan: Plan, start: Start, images: int, val_images: int, epochs: int | None, steps: int | None,
    given: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Chooses epochs, steps, optimizer and learning rate.

    Args:
        images, val_images: Number of training and of validation images.
        epochs, steps: Total epochs and steps per epoch, if the user gives them. None: chosen.
        given: Settings of the user; those of the optimizer are followed.
    """
    batch = plan.settings["IMAGES_PER_GPU"]
    views = IMAGE_VIEWS if start.kind == "small" else FINE_TUNING_VIEWS
    per_epoch = steps or clipped(max(images, views / MOST_EPOCHS) / batch, 10, 500)
    chosen = epochs or max(1, math.ceil(max(views, images) / (per_epoch * batch)))
    layers = {"backbone": "heads", "small backbone": SmallNetwork.LAYERS}.get(start.kind, "all")
    plan.recipe = {"epochs": chosen, "layers": layers}
    seen = chosen * per_epoch * batch
    reason = (
        "as given"
        if epochs and steps
        else f"the network sees {seen:,} images, each of {images} about {seen / images:.0f} times"
    )
    length = f"{chosen} epoch{'s' * (chosen > 1)} of {per_epoch} step{'s' * (per_epoch > 1)}"
    plan.choose("length", length, reason, STEPS_PER_EPOCH=per_epoch,
                VALIDATION_STEPS=min(10, math.ceil(val_images / batch)))  # fmt: skip
    choose_optimizer(plan, start, chosen, given or {})
    if start.kind == "small backbone" and "RECIPE" not in (given or {}):
        plan.choose("recipe", SmallNetwork.RECIPE, "augmentation and averaged weights, for few photos",
                    RECIPE=SmallNetwork.RECIPE, EMA_MOMENTUM=average_momentum(chosen * per_epoch))  # fmt: skip
    if layers != "all":
        kept = "the backbone is" if layers == "heads" else "the first stages of the backbone are"
        plan.choose("layers", layers, f"{kept} trained already and fit any photo")


def warm_up_steps(epochs: int, steps: int) -> int:
    """Steps of the warm-up: the first epoch, but at most a tenth of the training; none in less than 10 steps.

    Args:
        epochs, steps: Epochs of the training, and steps of one.
    """
    return min(steps, epochs * steps // 10)


def choose_optimizer(plan: Plan, start: Start, epochs: int, given: Mapping[str, Any]) -> None:
    """Chooses optimizer, learning rate and schedule, except what is `given`."""
    per_epoch = plan.settings["STEPS_PER_EPOCH"]
    usual = {"small": "adam", "small backbone": SmallNetwork.OPTIMIZER}.get(start.kind, "sgd")
    optimizer = given.get("OPTIMIZER", usual)
    rate = SGD_RATE * plan.settings["IMAGES_PER_GPU"] if optimizer == "sgd" else ADAM_RATE
    chosen = {
        "OPTIMIZER": optimizer,
        "LEARNING_RATE": rate,
        "LEARNING_SCHEDULE": "cosine",
        "LEARNING_WARMUP": warm_up_steps(epochs, per_epoch) / (epochs * per_epoch),
    }
    if start.kind == "small backbone" and optimizer == usual:
        chosen |= {"LEARNING_RATE": SmallNetwork.LEARNING_RATE, "WEIGHT_DECAY": SmallNetwork.WEIGHT_DECAY}
    chosen |= {name: given[name] for name in chosen if name in given}
    reasons = {
        "sgd": f"trained weights need small steps: SGD, {SGD_RATE} for each image",
        "adam": "a small network learns fast with Adam",
        "adamw": "new heads learn fast with AdamW",
    }
    reason = "as given" if "OPTIMIZER" in given or "LEARNING_RATE" in given else reasons[optimizer]
    warm_up = round(chosen["LEARNING_WARMUP"] * epochs * per_epoch)
    curve = "a cosine to 0" if chosen["LEARNING_SCHEDULE"] == "cosine" else "constant"
    schedule = f"warm-up of {warm_up} steps, then {curve}" if warm_up else f"{curve}, without warm-up"
    plan.choose("learning rate", f"{chosen['LEARNING_RATE']} with {optimizer}", f"{reason}; {schedule}", **chosen)


def round_up(value: float, step: int) -> int:
    return math.ceil(value / step) * step


def clipped(value: float, low: int, high: int) -> int:
    return int(min(max(math.ceil(value), low), high))
