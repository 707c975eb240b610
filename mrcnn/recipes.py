"""Recipes: settings of `Config` that belong together, by name.

`Config(RECIPE="small-data")` gives settings that are not set explicitly the recipe's value. `train(recipe=...)` does so
for those that can change after a model was built.
"""

from __future__ import annotations

import copy
from typing import Any

# Fine-tuning on few photos, from weights of a backbone or of a whole detector. Sources:
# - scales 0.5..1.5 and mirroring: half of the range of large-scale jitter (Ghiasi et al. 2021), which was made for
#   trainings of many epochs from new weights; the balloon sample has trained with it.
# - copy-paste: Ghiasi et al. 2021, who gain most where there are few images (their figure 4).
# - colors: SSD (Liu et al. 2016) and YOLO change brightness and saturation by up to 0.5, and the hue less.
# - cosine (Loshchilov and Hutter 2017) after a warm-up (Goyal et al. 2017; torchvision's fine-tuning tutorial has one).
# - averages over about 200 steps: Polyak averaging as in EfficientDet (Tan et al. 2020), for a shorter training.
# - true boxes join the proposals and negatives fill up the RoIs, as in Faster R-CNN's published implementations: new
#   heads have positives from the first step on.
# - weight decay as in these papers: plain L2.
SMALL_DATA: dict[str, Any] = {
    "FLIP_PROBABILITY": 0.5, "SCALE_JITTER": (0.5, 1.5), "COPY_PASTE_PROBABILITY": 0.5, "COLOR_JITTER": 0.3,
    "LEARNING_SCHEDULE": "cosine", "LEARNING_WARMUP": 0.05, "EMA_MOMENTUM": 0.995,
    "ADD_GT_TO_PROPOSALS": True, "FILL_ROIS_WITH_NEGATIVES": True, "WEIGHT_DECAY_PER_SIZE": False,
}  # fmt: skip

RECIPES: dict[str, dict[str, Any]] = {"matterport": {}, "small-data": SMALL_DATA}


def recipe_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a recipe.

    Raises:
        ValueError: there is no such recipe; the message lists the known ones.

    Example:

    >>> recipe_settings("small-data")["SCALE_JITTER"]
    (0.5, 1.5)
    """
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; expected one of {', '.join(RECIPES)}.")
    return copy.deepcopy(RECIPES[name])


def average_momentum(steps: int) -> float:
    """`EMA_MOMENTUM` of a training: that of the recipe, or less, so that a seventh of the steps are averaged.

    The recipe's 0.995 averages about 200 steps. After a shorter training, the average would still contain the new heads
    as they were at the beginning.

    >>> average_momentum(1400), average_momentum(70), average_momentum(5)
    (0.995, 0.9, 0.0)
    """
    return round(min(SMALL_DATA["EMA_MOMENTUM"], max(0.0, 1 - 7 / steps)), 4)


class SmallNetwork:
    """Settings of a network that trains on a CPU from few photos: `class CatsConfig(SmallNetwork, Config)`.

    EfficientNet-Lite0 with a narrow pyramid, narrow heads and few proposals, and the recipe for small datasets, see
    docs/training.md. `mrcnn train` uses it on CPUs. Image size and anchors depend on the photos.
    """

    BACKBONE = "efficientnet_lite0"
    FPN_NORM = "group"  # for the large values of its features
    TOP_DOWN_PYRAMID_SIZE = 96
    RPN_CHANNELS = 96
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    MASK_HEAD_CHANNELS = 64
    PRE_NMS_LIMIT = 1000
    POST_NMS_ROIS_TRAINING = 300
    POST_NMS_ROIS_INFERENCE = 200
    ROI_ALIGN = "aligned"

    RECIPE = "small-data"
    OPTIMIZER = "adamw"
    LEARNING_RATE = 0.0007
    WEIGHT_DECAY = 0.01
    IMAGES_PER_GPU = 2
    TRAIN_ROIS_PER_IMAGE = 48
    LAYERS = "3+"  # argument of `train`; the first layers of the backbone fit any photo
