"""The default optimizer: SGD with momentum, clipped by the global norm of the gradients."""

from __future__ import annotations

import numbers

import keras


def default_optimizer(config, learning_rate=None, momentum=None):
    """SGD with momentum, clipped by the global norm of the gradients.

    This is the norm that matterport's `clipnorm` meant. In Keras 3, `clipnorm` is the norm of each weight's gradient.

    Args:
        config: `Config`. If `GRADIENT_CLIP_NORM` is None or 0, gradients are not clipped. With `EMA_MOMENTUM`, it keeps
            moving averages of the weights.
        learning_rate: float or a `keras.optimizers.schedules.LearningRateSchedule`; None: `LEARNING_RATE`.
        momentum: float; None: `LEARNING_MOMENTUM`.
    """
    rate = config.LEARNING_RATE if learning_rate is None else learning_rate
    return keras.optimizers.SGD(
        learning_rate=float(rate) if isinstance(rate, numbers.Real) else rate,  # Keras refuses numpy.float32 and int
        momentum=config.LEARNING_MOMENTUM if momentum is None else momentum,
        global_clipnorm=config.GRADIENT_CLIP_NORM or None,
        use_ema=bool(config.EMA_MOMENTUM),
        ema_momentum=config.EMA_MOMENTUM or 0.99,  # Keras's default
    )


def set_step(optimizer, step: int) -> None:
    """Makes a new optimizer go on at `step` of its learning rate schedule. Without a schedule nothing changes.

    An optimizer that has trained before keeps its own count.
    """
    count = step_variable(optimizer)
    if has_schedule(optimizer) and int(keras.ops.convert_to_numpy(count)) == 0:
        count.assign(step)


def step_variable(optimizer) -> keras.Variable:
    """The number of steps done; `iterations` counts updates, which with gradient accumulation are fewer."""
    return _without_loss_scaling(optimizer).variables[0]


def has_schedule(optimizer) -> bool:
    """Whether the learning rate is a schedule."""
    return isinstance(_without_loss_scaling(optimizer).get_config().get("learning_rate"), dict)


def _without_loss_scaling(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)  # mixed precision wraps the optimizer


def is_learning_rate(value) -> bool:
    """Whether the first argument of `compile` is a rate or a schedule, as in matterport's `compile(rate, momentum)`."""
    return isinstance(value, (numbers.Real, keras.optimizers.schedules.LearningRateSchedule))


def refuse_losses(**given) -> None:
    """Raises an error if `compile` got losses. Lists of None, as in copies of matterport's `compile`, are accepted."""
    for name, value in given.items():
        if value is not None and not (isinstance(value, (list, tuple)) and all(v is None for v in value)):
            raise ValueError(
                f"compile got {name}={value!r}; the five losses of Mask R-CNN are part of the model. Set their weights"
                " with Config.LOSS_WEIGHTS."
            )
