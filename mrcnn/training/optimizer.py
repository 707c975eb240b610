"""The default optimizer: SGD with momentum, Adam or AdamW, clipped by the global norm of the gradients."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn.config import Config
from mrcnn.keras_private import learning_rate_of, moving_averages
from mrcnn.ops.types import Tensor
from mrcnn.training.arrays import to_array
from mrcnn.training.schedule import Rate

NOT_DECAYED = ("gamma", "beta")  # of normalization layers


def default_optimizer(
    config: Config, learning_rate: Rate | None = None, momentum: float | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer that `Config.OPTIMIZER` names, clipped by the global norm of the gradients.

    This is the norm that matterport's `clipnorm` meant. In Keras 3, `clipnorm` is the norm of each weight's gradient.

    Args:
        config: `Config`. If `GRADIENT_CLIP_NORM` is None or 0, gradients are not clipped. With `EMA_MOMENTUM`, it keeps
            moving averages of the weights.
        learning_rate: float or a `keras.optimizers.schedules.LearningRateSchedule`; None: `LEARNING_RATE`.
        momentum: float, of SGD, and the decay of Adam's and AdamW's first moment; None: `LEARNING_MOMENTUM`.

    Example:

    >>> from mrcnn.config import Config
    >>> optimizer = default_optimizer(Config(OPTIMIZER="adamw", WEIGHT_DECAY=0.5), learning_rate=0.1)
    >>> kernel, gamma = keras.Variable([2.0], name="kernel"), keras.Variable([2.0], name="gamma")
    >>> optimizer.apply([keras.ops.zeros(1)] * 2, [kernel, gamma])
    >>> [round(float(keras.ops.convert_to_numpy(v)[0]), 4) for v in (kernel, gamma)]  # 2 * (1 - 0.1 * 0.5)
    [1.9, 2.0]
    """
    momentum = config.LEARNING_MOMENTUM if momentum is None else momentum
    shared = optimizer_options(config, config.LEARNING_RATE if learning_rate is None else learning_rate)
    if config.OPTIMIZER == "sgd":
        return keras.optimizers.SGD(momentum=momentum, **shared)
    if config.OPTIMIZER == "adam":
        return keras.optimizers.Adam(beta_1=momentum, **shared)
    adamw = keras.optimizers.AdamW(beta_1=momentum, weight_decay=float(config.WEIGHT_DECAY), **shared)
    adamw.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return adamw


def optimizer_options(config: Config, rate: Rate) -> dict:
    """The arguments that any Keras optimizer gets: learning rate, clipping and moving averages."""
    return {
        "learning_rate": float(rate) if isinstance(rate, numbers.Real) else rate,  # Keras refuses numpy.float32 and int
        "global_clipnorm": config.GRADIENT_CLIP_NORM or None,
        "use_ema": bool(config.EMA_MOMENTUM),
        "ema_momentum": config.EMA_MOMENTUM or 0.99,  # Keras's default
    }


def decays_weights(optimizer: keras.optimizers.Optimizer, config: Config) -> bool:
    """Whether the optimizer applies `WEIGHT_DECAY` itself, so that it isn't part of the loss."""
    return config.OPTIMIZER == "adamw" and isinstance(without_loss_scaling(optimizer), keras.optimizers.AdamW)


def set_step(optimizer: keras.optimizers.Optimizer, step: int) -> None:
    """Makes a new optimizer start at `step` of its learning rate schedule. Without a schedule nothing changes.

    An optimizer that has trained before keeps its own count.
    """
    count = step_variable(optimizer)
    if has_schedule(optimizer) and int(keras.ops.convert_to_numpy(count)) == 0:
        count.assign(step)


def step_variable(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The number of steps done; `iterations` counts updates, which with gradient accumulation are fewer."""
    return without_loss_scaling(optimizer).variables[0]


def has_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the learning rate is a schedule."""
    return isinstance(without_loss_scaling(optimizer).get_config().get("learning_rate"), dict)


def lower_rate(model: keras.Model, factor: float) -> float | None:
    """Multiplies the learning rate by `factor`, now and in the future.

    Returns:
        The new rate; None for a schedule, which continues at the lower level. The step is then compiled again.
    """
    optimizer = without_loss_scaling(model.optimizer)
    rate = learning_rate_of(optimizer)
    if callable(rate) and not isinstance(rate, keras.Variable):
        if isinstance(rate, LoweredSchedule):
            rate, factor = rate.schedule, rate.factor * factor
        optimizer.learning_rate = LoweredSchedule(rate, factor)
        model.make_train_function(force=True)
        return None
    optimizer.learning_rate = float(keras.ops.convert_to_numpy(rate)) * factor
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def schedule_factor(optimizer: keras.optimizers.Optimizer) -> float:
    """What `lower_rate` has multiplied the schedule by."""
    rate = learning_rate_of(without_loss_scaling(optimizer))
    return rate.factor if isinstance(rate, LoweredSchedule) else 1.0


def initialize_averages(model: keras.Model) -> None:
    """Sets the averages (EMA) of an optimizer that hasn't trained yet to the values of the weights.

    Keras does this in the first step, but not if the step count starts above 0 (`set_step`). And if no step is applied,
    `fit` would end with zeros as weights. On JAX, weight and average are one buffer after a `fit` with averages, and a
    second `fit` can't donate it twice; copies are apart.
    """
    model.build_optimizer()
    is_new = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 0
    for variable, average in moving_averages(model.optimizer):
        average.assign(to_array(variable if is_new else average))


@keras.saving.register_keras_serializable(package="mrcnn")
class LoweredSchedule(LearningRateSchedule):
    """`factor` times another schedule.

    Example:
        >>> half = LoweredSchedule(keras.optimizers.schedules.CosineDecay(0.1, decay_steps=10), 0.5)
        >>> round(float(half(0)), 4)
        0.05
    """

    def __init__(self, schedule: LearningRateSchedule | Callable[[], Tensor], factor: float):
        super().__init__()
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Tensor) -> Tensor:
        return self.factor * (self.schedule(step) if takes_step(self.schedule) else self.schedule())

    def get_config(self) -> dict:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> LoweredSchedule:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["factor"])


def takes_step(rate: Callable) -> bool:
    """Whether a rate that can be called is a schedule; Keras calls other functions without an argument."""
    return isinstance(rate, LearningRateSchedule)


def without_loss_scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)  # mixed precision wraps the optimizer


def is_learning_rate(value: Any) -> bool:
    """Whether the first argument of `compile` is a rate or a schedule, as in matterport's `compile(rate, momentum)`."""
    return isinstance(value, (numbers.Real, LearningRateSchedule))


def refuse_losses(**given: Any) -> None:
    """Raises an error if `compile` got losses. Lists of None, as in copies of matterport's `compile`, are accepted."""
    for name, value in given.items():
        if value is not None and not (isinstance(value, (list, tuple)) and all(v is None for v in value)):
            raise ValueError(
                f"compile got {name}={value!r}; the five losses of Mask R-CNN are part of the model. Set their weights"
                " with Config.LOSS_WEIGHTS."
            )
