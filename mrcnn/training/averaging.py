"""Averaged weights: the optimizer's moving average (EMA), or the mean over the last epochs (SWA).

Steps change the weights as without averages. Validation and callbacks at the end of an epoch (checkpoints,
`EvaluateDataset`, the user's) see the averages in their place, and so does the model after the training.
`last.train.h5` holds the weights that the next step starts from, and the averages.

References: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017 (EMA); Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018 (SWA).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from mrcnn.keras_private import moving_averages


class MeanOverEpochs(keras.callbacks.Callback):
    """The mean of a model's weights after each epoch from a first one on. Its state is saved with the training.

    Args:
        first: int, the first epoch that counts, from 0.

    Attributes:
        count: int, epochs that are in the mean.
        mean: list of arrays, one for each of `model.weights`.
        last: int, the epoch that was added last.
    """

    def __init__(self, first: int):
        super().__init__()
        self.first, self.count, self.mean, self.last = first, 0, [], -1

    def add(self, epoch: int) -> None:
        """Adds the model's present weights, once for each epoch."""
        if epoch < self.first or epoch == self.last:
            return
        weights = [to_numpy(weight) for weight in self.model.weights]
        self.count, self.last = self.count + 1, epoch
        before = self.mean or weights
        self.mean = [mean + (weight - mean) / self.count for mean, weight in zip(before, weights, strict=True)]


class Averages:
    """Exchanges the weights of a model that trains with their averages, and back.

    Args:
        model: compiled `MaskRCNN`, with a built optimizer.
        epochs: int, the total of `train`.
        swa_epochs: `Config.SWA_EPOCHS`.
        on_exchange: called after averages took the place of weights at the end of an epoch.

    Raises:
        ValueError: there are two kinds of averages.
    """

    def __init__(self, model, epochs: int, swa_epochs: int = 0, on_exchange: Callable[[], None] = lambda: None):
        self.model, self.on_exchange, self.epoch = model, on_exchange, model.epoch
        self.moving = moving_averages(model.optimizer)
        self.over_epochs = MeanOverEpochs(epochs - swa_epochs) if swa_epochs else None
        if self.moving and self.over_epochs is not None:
            raise ValueError(
                f"SWA_EPOCHS is {swa_epochs} and the optimizer keeps moving averages; expected one of them. Set"
                " SWA_EPOCHS = 0, or EMA_MOMENTUM = 0 (use_ema=False in an optimizer of your own)."
            )
        if self.over_epochs is not None:
            self.over_epochs.set_model(model)
        self._weights: list[np.ndarray] | None = None  # while averages are in their place

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
            self._weights = [to_numpy(variable) for variable, _ in pairs]
            for variable, average in pairs:
                variable.assign(average)

    def take_out(self) -> None:
        """Gives the model the weights back that it had before `put_in`."""
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


def start_moving_averages(model) -> None:
    """Gives a new optimizer's moving averages the values of the weights.

    Keras does so in the optimizer's first step, but not if the count of steps begins above 0.
    """
    if model.optimizer.built:
        return
    model.build_optimizer()
    for variable, average in moving_averages(model.optimizer):
        average.assign(to_numpy(variable))


def to_numpy(variable) -> np.ndarray:
    value = getattr(variable, "value", variable)
    value = value.read_value() if hasattr(value, "read_value") else value  # of several replicas of TensorFlow
    return np.array(keras.ops.convert_to_numpy(value))  # not a view: it will change
