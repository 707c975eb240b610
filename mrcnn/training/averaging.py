"""Averaged weights: the optimizer's moving average (EMA), or the mean over the last epochs (SWA).

Training steps use and change the weights as usual. Validation and callbacks at the end of an epoch (checkpoints,
`EvaluateDataset`, the user's) see the averages instead, and after training the model has the averages.
`last.train.h5` holds both: the weights that the next step starts from, and the averages.

References: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017 (EMA); Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018 (SWA).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import keras
import numpy as np

from mrcnn.keras_private import moving_averages
from mrcnn.recipes import average_momentum
from mrcnn.training.arrays import to_array
from mrcnn.training.optimizer import without_loss_scaling

logger = logging.getLogger(__name__)
LARGEST_SHARE = 0.05  # of the weights before the first step in their average after the last one


def warn_of_short_training(optimizer: keras.optimizers.Optimizer, steps: int) -> None:
    """Logs a warning if moving averages would still contain much of the initial weights after so many steps."""
    if not moving_averages(optimizer):
        return
    momentum = without_loss_scaling(optimizer).ema_momentum
    if momentum**steps > LARGEST_SHARE:
        logger.warning(
            "With EMA_MOMENTUM = %g and %d steps, %.0f %% of the trained model would be the weights from before the"
            " first step. Set EMA_MOMENTUM = %g (ema_momentum in your own optimizer), or train for more steps.",
            momentum, steps, 100 * momentum**steps, average_momentum(steps),
        )  # fmt: skip


class MeanOverEpochs(keras.callbacks.Callback):
    """Mean of a model's weights at the ends of the last epochs. Its state is saved with the training.

    Args:
        first: int, the first epoch included, counted from 0.

    Attributes:
        count: int, epochs included in the mean.
        mean: list of arrays, one for each of `model.weights`.
        last: int, the epoch that was added last.
    """

    def __init__(self, first: int):
        super().__init__()
        self.first, self.count, self.mean, self.last = first, 0, [], -1

    def add(self, epoch: int) -> None:
        """Adds the model's current weights, once for each epoch."""
        if epoch < self.first or epoch == self.last:
            return
        weights = [to_array(weight) for weight in self.model.weights]
        self.count, self.last = self.count + 1, epoch
        before = self.mean or weights
        self.mean = [mean + (weight - mean) / self.count for mean, weight in zip(before, weights, strict=True)]


class Averages:
    """Swaps the weights of a model in training for their averages, and back.

    Args:
        model: compiled `MaskRCNN`, with a built optimizer.
        epochs: int, the total, as in `train`.
        swa_epochs: `Config.SWA_EPOCHS`.
        on_exchange: called when averages have replaced the weights at the end of an epoch.

    Raises:
        ValueError: both kinds of averages are on.
    """

    def __init__(
        self, model: keras.Model, epochs: int, swa_epochs: int = 0, on_exchange: Callable[[], None] = lambda: None
    ):
        self.model, self.on_exchange, self.epoch = model, on_exchange, model.epoch
        self.moving = moving_averages(model.optimizer)
        self.over_epochs = MeanOverEpochs(epochs - swa_epochs) if swa_epochs else None
        if self.moving and self.over_epochs is not None:
            raise ValueError(
                f"SWA_EPOCHS is {swa_epochs} and the optimizer keeps moving averages; only one of them can be used. Set"
                " SWA_EPOCHS = 0, or EMA_MOMENTUM = 0 (use_ema=False in your own optimizer)."
            )
        if self.over_epochs is not None:
            self.over_epochs.set_model(model)
        self._weights: list[np.ndarray] | None = None  # while the model has the averages

    def around(self, first: list, others: list, last: list) -> list[keras.callbacks.Callback]:
        """The callbacks of a training: `others` see the averages, `first` and `last` see the weights."""
        before = keras.callbacks.LambdaCallback(
            on_epoch_begin=self._begin, on_epoch_end=self._end, on_train_end=lambda logs: self.put_in()
        )
        after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self.take_out())
        validation = keras.callbacks.LambdaCallback()
        validation.on_test_begin = lambda logs=None: self._exchange_at_end_of(self.epoch)
        validation.on_test_end = lambda logs=None: self.take_out()
        return [*first, before, *others, after, *last, validation]

    def stateful(self) -> list[keras.callbacks.Callback]:
        """The callbacks whose state is saved with the training. (The moving averages are the optimizer's.)"""
        return [] if self.over_epochs is None else [self.over_epochs]

    def put_in(self) -> None:
        """Gives the model the averages, if there are any."""
        pairs = self._pairs()
        if self._weights is None and pairs:
            self._weights = [to_array(variable) for variable, _ in pairs]
            for variable, average in pairs:
                variable.assign(to_array(average))  # a copy: on JAX, validation deletes the buffer that it gets

    def take_out(self) -> None:
        """Restores the weights that the model had before `put_in`."""
        if self._weights is not None:
            for (variable, _), weight in zip(self._pairs(), self._weights, strict=True):
                variable.assign(weight)
            self._weights = None

    def _pairs(self) -> list[tuple]:
        """(variable of the model, its average)"""
        if self.over_epochs is not None and self.over_epochs.count:
            return list(zip(self.model.weights, self.over_epochs.mean, strict=True))
        return self.moving

    def _begin(self, epoch, logs) -> None:
        self.epoch = epoch

    def _end(self, epoch, logs) -> None:
        self._exchange_at_end_of(epoch)
        if self._weights is not None:
            self.on_exchange()

    def _exchange_at_end_of(self, epoch: int) -> None:
        if self.over_epochs is not None:
            self.over_epochs.add(epoch)
        self.put_in()
