"""The learning rate schedule set by `LEARNING_SCHEDULE` and `LEARNING_WARMUP`."""

from __future__ import annotations

import math
import numbers

from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from mrcnn.config import Config

Rate = float | LearningRateSchedule


def scheduled_rate(config: Config, learning_rate: Rate, steps: int) -> Rate:
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
    return warmup_then_cosine(learning_rate, steps, math.ceil(round(warmup * steps, 6)), end=0.0 if cosine else 1.0)


def warmup_then_cosine(rate: float, steps: int, warmup_steps: int, end: float = 0.0) -> CosineDecay:
    """A rate that rises linearly from 0, then falls along a cosine.

    Args:
        rate: float, the highest rate.
        steps: int, steps of the whole training.
        warmup_steps: int, of these, steps before `rate` is reached; 0: the first step has it.
        end: float, share of `rate` that the last step has.

    Example:

    >>> schedule = warmup_then_cosine(0.1, steps=10, warmup_steps=2)
    >>> [round(float(schedule(step)), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    return CosineDecay(
        0.0 if warmup_steps else float(rate),
        max(steps - warmup_steps, 1),
        alpha=end,
        warmup_target=float(rate) if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
