"""Settings of the optimizer and the learning rate that would have no effect on a training: warnings and errors."""

from __future__ import annotations

import logging
from typing import Any

import keras

from mrcnn.config import Config
from mrcnn.training.optimizer import has_schedule, without_loss_scaling
from mrcnn.training.schedule import Rate

logger = logging.getLogger(__name__)

SCHEDULE = ("LEARNING_SCHEDULE", "LEARNING_WARMUP")
SETS_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


def warn_of_unused_optimizer_settings(config: Config, optimizer: keras.optimizers.Optimizer) -> None:
    """Logs a warning if settings that aren't the defaults differ from what the user's own optimizer does.

    Example:

    >>> from mrcnn.config import Config
    >>> unused_optimizer_settings(Config(EMA_MOMENTUM=0.9, OPTIMIZER="adamw"), keras.optimizers.AdamW())
    ['EMA_MOMENTUM']
    """
    names = unused_optimizer_settings(config, optimizer)
    if names:
        kind = type(without_loss_scaling(optimizer)).__name__
        logger.warning("%s: not used, as the model has your own optimizer, keras.optimizers.%s, which is used. Set"
                       " them in this optimizer, or leave it out.", _values(config, names), kind)  # fmt: skip


def unused_optimizer_settings(config: Config, optimizer: keras.optimizers.Optimizer) -> list[str]:
    """Names of the settings that were changed and differ from what `optimizer` does."""
    optimizer = without_loss_scaling(optimizer)
    kind = type(optimizer).__name__.lower()
    does: dict[str, Any] = {
        "OPTIMIZER": kind,
        "LEARNING_MOMENTUM": getattr(optimizer, "momentum", getattr(optimizer, "beta_1", None)),
        "GRADIENT_CLIP_NORM": optimizer.global_clipnorm,
        "EMA_MOMENTUM": optimizer.ema_momentum if optimizer.use_ema else 0,
    }
    if config.OPTIMIZER == kind == "adamw":
        does["WEIGHT_DECAY"] = optimizer.weight_decay
    return [name for name in _changed(config, does) if (getattr(config, name) or 0) != (does[name] or 0)]


def warn_of_unused_schedule(
    config: Config, learning_rate: Rate | None, optimizer: keras.optimizers.Optimizer | None
) -> None:
    """Logs a warning if the settings of the schedule have no effect on `train(learning_rate=, optimizer=)`."""
    names = _changed(config, SCHEDULE)
    if names and (optimizer is not None or callable(learning_rate)):
        used = (
            "the learning rate of optimizer="
            if optimizer is not None
            else f"the schedule learning_rate={_name(learning_rate)}"
        )
        logger.warning("%s: not used, as train() got %s, which is used. To use the settings, pass the learning rate as"
                       " a number, and no optimizer.", _values(config, names), used)  # fmt: skip


def refuse_two_schedules(
    config: Config, from_settings: bool, optimizer: keras.optimizers.Optimizer, callbacks: list
) -> None:
    """Raises an error if callbacks would set a learning rate that is a schedule, which fails later in Keras.

    Args:
        config: `Config`.
        from_settings: whether the schedule is that of the settings.
        optimizer: the compiled one.
        callbacks: the user's.

    Raises:
        ValueError: the message names the schedule and the callback.
    """
    names = [type(callback).__name__ for callback in callbacks if isinstance(callback, SETS_THE_RATE)]
    if not names or not has_schedule(optimizer):
        return
    if from_settings:
        schedule, fix = (
            _values(config, _changed(config, SCHEDULE)),
            'LEARNING_SCHEDULE = "constant" and LEARNING_WARMUP = 0',
        )
    else:
        schedule, fix = "the learning rate is a schedule", "a number as learning rate"
    raise ValueError(
        f"{names[0]} changes the learning rate, but so does a schedule: {schedule}. Only one of them can be used: leave"
        f" out the callback, or use {fix}."
    )


def _changed(config, names) -> list[str]:
    """Those of the settings that don't have their default, whatever the recipe."""
    return [name for name in names if getattr(config, name) != type(config).settings_table[name].default]


def _values(config, names) -> str:
    return ", ".join(f"{name} = {getattr(config, name)!r}" for name in names)


def _name(schedule) -> str:
    return getattr(schedule, "__name__", type(schedule).__name__)
