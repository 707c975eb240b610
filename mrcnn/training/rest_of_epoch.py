"""Training the rest of an epoch that was interrupted, as Keras's `fit` only begins at the first step of an epoch."""

from __future__ import annotations

from typing import Any

import keras

from mrcnn.data.generator import DataGenerator


class ContinuedCallbacks(keras.callbacks.CallbackList):
    """Callbacks that see two calls of `fit` as one training whose first epoch begins at step `first`."""

    def __init__(self, callbacks: list, model: keras.Model, steps: int, epochs: int, verbose: int | str, first: int):
        super().__init__(callbacks, add_history=True, add_progbar=verbose != 0, model=model, steps=steps,
                         epochs=epochs, verbose=verbose)  # fmt: skip
        self.first = first
        self.begun = self.ends = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not self.begun:
            super().on_train_begin(logs)
        self.begun = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.ends:
            super().on_train_end(logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_begin(self.first + batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(self.first + batch, logs)


def fit_from_step(
    model: keras.Model,
    batches: DataGenerator,
    step: int,
    validation: DataGenerator | None,
    epochs: int,
    callbacks: list,
    verbose: int | str,
) -> keras.callbacks.History:
    """`model.fit` from a step of epoch `model.epoch` on. Returns Keras's History.

    Args:
        model: compiled `MaskRCNN`.
        batches: `DataGenerator`; its epoch is that of the model.
        step: steps that are done, up to `len(batches)`.
        validation: `DataGenerator`, or None.
        epochs, callbacks, verbose: of `fit`.
    """
    epoch = model.epoch
    callbacks = ContinuedCallbacks(callbacks, model, len(batches), epochs, verbose, step)
    if step < len(batches):
        rest = batches.rest_of_epoch(step)
        model.fit(rest, initial_epoch=epoch, epochs=epoch + 1, validation_data=validation, callbacks=callbacks)
    else:
        _end_epoch(model, epoch, validation, callbacks)
    callbacks.first, callbacks.ends = 0, True
    if epoch + 1 == epochs or model.stop_training:
        callbacks.on_train_end()
        return model.history
    return model.fit(batches, initial_epoch=epoch + 1, epochs=epochs, validation_data=validation, callbacks=callbacks)


def _end_epoch(model, epoch: int, validation, callbacks: ContinuedCallbacks) -> None:
    """Ends an epoch whose steps are all done, as `fit` does."""
    model.stop_training = False
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(epoch)  # gives the model the metrics of the steps
    logs = dict(model.get_metrics_result())
    if validation is not None:
        found = model.evaluate(validation, callbacks=callbacks, return_dict=True, verbose=0)
        logs |= {f"val_{name}": value for name, value in found.items()}
    callbacks.on_epoch_end(epoch, logs)
