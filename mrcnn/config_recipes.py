"""Settings of `Config` for training on few images: recipe, augmentation, learning rate, averaged weights."""

from __future__ import annotations

import numpy as np

from mrcnn.recipes import RECIPES
from mrcnn.settings import COMPILE, Group, Setting, Values, count_numbers, number, one_of, whole

SCALE_RANGE = Values(
    "None, or (low, high) with 0 < low <= high",
    lambda value: (
        value is None or (count_numbers(value, above=0) == 2 and np.ndim(value) == 1 and value[0] <= value[1])
    ),
)


class RecipeSettings:
    """Declares these settings; `Config` inherits them."""

    _recipe = Group("Recipe")
    RECIPE = Setting(
        "matterport",
        'Sets settings together that are not set explicitly (docs/training.md): "small-data" is for 10 to 1000 images.',
        one_of(*RECIPES),
    )

    _augmentation = Group("Augmentation of training images")
    FLIP_PROBABILITY = Setting(0.0, "Probability that an image is mirrored left to right.", number(0, 1))
    SCALE_JITTER = Setting(
        None,
        "Images are scaled by a random factor in this range and placed at random on the canvas that IMAGE_RESIZE_MODE"
        " gives, cropped where they are larger, so that its size stays. (0.1, 2.0) is large-scale jitter (Ghiasi et al."
        " 2021); (0.5, 1.0) varies the size without cropping.",
        SCALE_RANGE,
    )
    COPY_PASTE_PROBABILITY = Setting(
        0.0,
        "Share of the images with objects on which objects of another image are pasted (Ghiasi et al. 2021).",
        number(0, 1),
    )
    COLOR_JITTER = Setting(
        0.0,
        "Strength s: brightness, contrast and saturation change by factors in [1 - s, 1 + s], the hue by up to s / 4 of"
        " a turn.",
        number(0, 1),
    )

    REPEAT_THRESHOLD = Setting(
        0.0,
        "Images with a class that is in a smaller share f of the images than this are shown sqrt(REPEAT_THRESHOLD / f)"
        " times as often as others: repeat-factor sampling (Gupta et al. 2019, who use 0.001). 0: all equally often.",
        number(0, 1),
    )

    _learning_rate = Group("Optimizer and averaged weights")
    OPTIMIZER = Setting(
        "sgd",
        'The default optimizer: "sgd" with momentum, "adam", or "adamw", whose WEIGHT_DECAY is applied to the weights'
        " instead of being part of the loss (Loshchilov and Hutter 2019).",
        one_of("sgd", "adam", "adamw"),
        effect=COMPILE,
    )
    LEARNING_SCHEDULE = Setting(
        "constant",
        '"cosine": a learning rate given to `train` as a number decays to 0 over all epochs (Loshchilov and Hutter'
        " 2017).",
        one_of("constant", "cosine"),
    )
    LEARNING_WARMUP = Setting(
        0.0,
        "Share of a training's steps in which a learning rate given to `train` as a number is reached, linearly from"
        " 0.",
        number(0, 0.9),
    )
    EMA_MOMENTUM = Setting(
        0.0,
        "Above 0, the default optimizer keeps an exponential moving average of the weights, which validation,"
        " checkpoints and the trained model have: average = momentum * average + (1 - momentum) * weight at each step.",
        number(0, 0.99999),
        effect=COMPILE,
    )
    SWA_EPOCHS = Setting(
        0,
        "Number of last epochs of `train` over which weights are averaged: stochastic weight averaging (Izmailov et al."
        " 2018). Validation, checkpoints and the trained model have the mean of the weights after each. 0: off.",
        whole(0),
        "epochs",
    )
