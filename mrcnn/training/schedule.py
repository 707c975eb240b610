"""The learning rate schedule set by `LEARNING_SCHEDULE` and `LEARNING_WARMUP`."""

from __future__ import annotations

import math
import numbers

import keras

Rate = float | keras.optimizers.schedules.LearningRateSchedule


def scheduled_rate(config, learning_rate: Rate, steps: int) -> Rate:
    """The learning rate that `train` uses.

    A schedule counts steps, and the count is stored with the optimizer, so a resumed training continues it.

    Args:
        config: `Config`.
        learning_rate: float; a schedule is returned as it is.
        steps: int, steps of the whole training.

    Returns:
        `learning_rate`, or a `keras.optimizers.schedules.CosineDecay`.

    Example:

    >>> from mrcnn.config import Config
    >>> rate = scheduled_rate(Config(LEARNING_SCHEDULE="cosine", LEARNING_WARMUP=0.2), 0.1, steps=10)
    >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    cosine, warmup = config.LEARNING_SCHEDULE == "cosine", config.LEARNING_WARMUP
    if not isinstance(learning_rate, numbers.Real) or not (cosine or warmup):
        return learning_rate
    warmup_steps = math.ceil(warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else float(learning_rate),
        max(steps - warmup_steps, 1),
        alpha=0.0 if cosine else 1.0,  # 1: stays
        warmup_target=float(learning_rate) if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
