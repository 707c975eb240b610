"""The settings of `Config` for training that matterport's code doesn't have."""

from __future__ import annotations

from mrcnn.config_checks import CLASS_WEIGHTS
from mrcnn.settings import LOSS, Group, Setting, number, one_of


class TrainingSettings:
    """Declares them; `Config` collects them with its own."""

    _class_loss = Group("Class loss of the RoIs")
    CLASS_WEIGHTS = Setting(
        None,
        "Weight of each class, the background first; the loss is a weighted mean over the RoIs. None: 1 each.",
        CLASS_WEIGHTS,
        effect=LOSS,
    )
    FOCAL_LOSS_GAMMA = Setting(
        0.0,
        "Above 0, RoIs that are classified well count less: focal loss (Lin et al. 2017, equation 4, which has 2).",
        number(0),
        effect=LOSS,
    )

    _failures = Group("Failing steps")
    NON_FINITE_LOSS = Setting(
        "roll_back",
        "What follows a training step whose loss or gradients are NaN or infinite, which is never applied. 'skip': the"
        " next batch. 'roll_back': weights and optimizer go back to the start of the epoch, and the learning rate is"
        " halved. 'stop': an error.",
        one_of("roll_back", "skip", "stop"),
    )
