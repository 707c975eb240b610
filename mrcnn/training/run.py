"""What `MaskRCNN.train` does: batches, trainable layers, optimizer, callbacks, `fit`."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mrcnn.data.class_names import check_same_classes
from mrcnn.data.dataset import Dataset
from mrcnn.data.generator import DataGenerator
from mrcnn.keras_private import weights_stay_after_fit
from mrcnn.training.averaging import Averages, warn_of_short_training
from mrcnn.training.callbacks import KeptCheckpoints, run_callbacks
from mrcnn.training.failed_steps import FailedSteps
from mrcnn.training.interrupts import Interrupts
from mrcnn.training.optimizer import initialize_averages, set_step
from mrcnn.training.recipe import describe_recipe
from mrcnn.training.rest_of_epoch import fit_from_step
from mrcnn.training.resume import SaveTraining, check_start, digest, find_state, restore
from mrcnn.training.schedule import Rate, scheduled_rate
from mrcnn.training.trainable_layers import LAYER_REGEX, layer_regex
from mrcnn.training.unused_settings import refuse_two_schedules, warn_of_unused_schedule

logger = logging.getLogger(__name__)


def train(model: keras.Model, train_dataset: Dataset, val_dataset: Dataset | None, learning_rate: Rate | None,
          epochs: int, layers: str, augmentation: Any = None,
          custom_callbacks: Sequence[keras.callbacks.Callback] | None = None,
          no_augmentation_sources: Sequence[str] | None = None, *,
          optimizer: keras.optimizers.Optimizer | None = None, workers: int = 1, use_multiprocessing: bool = False,
          restart_schedule: bool = False, save_every_steps: int | None = None, keep_checkpoints: int | str = "all",
          best_metric: str = "val_loss") -> keras.callbacks.History:  # fmt: skip
    """`MaskRCNN.train`."""
    if model.mode != "training":
        raise ValueError('train() needs a model built with mode="training"; this one is for "inference".')
    if save_every_steps is not None and save_every_steps < 1:
        raise ValueError(f"save_every_steps is {save_every_steps}; expected a number of steps >= 1, or None.")
    validates = val_dataset is not None and bool(model.config.VALIDATION_STEPS)
    kept = KeptCheckpoints(model.checkpoint_path, keep_checkpoints, best_metric, validates, model.devices.writes)
    if val_dataset is not None:
        check_same_classes(train_dataset.class_names, val_dataset, "the validation set")
    learn_class_names(model, train_dataset)
    check_start(model)
    start = None if restart_schedule else find_state(model)
    loading = {"workers": workers, "use_multiprocessing": use_multiprocessing, "seed": _seed(model, start)}
    batches, validation = _batches(
        model, train_dataset, val_dataset, augmentation, no_augmentation_sources, loading
    )  # fmt: skip
    if start is not None and start.step > len(batches):
        logger.warning("STEPS_PER_EPOCH is %d; step %d of the interrupted epoch doesn't exist. The epoch starts again.",
                       len(batches), start.step)  # fmt: skip
        start.step = 0
    if model.devices.writes:
        rate = type(learning_rate).__name__ if callable(learning_rate) else learning_rate
        place = f"{model.epoch}, step {start.step}" if start is not None and start.step else model.epoch
        print(f"\nStarting at epoch {place}. LR={rate}\n\nCheckpoint path: {model.checkpoint_path}")
        if model.config.RECIPE != "matterport":
            print(describe_recipe(model.config))
    # Where the learning rate schedule began.
    first_epoch = model.epoch if restart_schedule else start.info.get("first_epoch", 0) if start is not None else 0
    custom = list(custom_callbacks or ())
    steps = (epochs - first_epoch) * len(batches)
    learning_rate = _select_and_compile(model, layers, learning_rate, optimizer, steps, custom)
    if model.epoch >= epochs:
        logger.warning(
            "Nothing is left to train: epochs=%d is the total, and this model has done %d. Pass epochs=%d or more.",
            epochs, model.epoch, model.epoch + 1,
        )  # fmt: skip
        return keras.callbacks.History()
    initialize_averages(model)
    same_stage = start is not None and restore(model, start, learning_rate)
    if not same_stage:
        warn_of_short_training(model.optimizer, (epochs - model.epoch) * len(batches))
        done = (model.epoch - first_epoch) * len(batches) + (start.step if start is not None else 0)
        set_step(model.optimizer, done)
    with Interrupts() as interrupts:
        callbacks = run_callbacks(model.log_dir, model.checkpoint_path, custom, model.devices.writes)
        averages = Averages(model, epochs, model.config.SWA_EPOCHS)
        custom += averages.stateful()
        failed_steps = FailedSteps(model)
        saving = SaveTraining(model, batches, custom, callbacks, failed_steps, learning_rate, kept, interrupts,
                              save_every_steps, start, same_stage)  # fmt: skip
        saving.more_info["first_epoch"] = first_epoch
        averages.on_exchange = lambda: saving.more_info.update(averaged=digest(model))
        callbacks = averages.around([failed_steps, saving.before_others()], callbacks, [saving])
        return _fit(model, batches, validation, epochs, callbacks, saving, averages)


def _seed(model, start) -> int:
    """The seed of the data: from the settings, from the resumed training, or a new one."""
    if model.config.SEED is not None:
        return model.config.SEED
    return start.info["seed"] if start is not None else model.devices.agree(int(np.random.randint(2**31)))


def _batches(model, train_dataset, val_dataset, augmentation, no_augmentation_sources, loading: dict):
    """`DataGenerator`s of training and validation; the latter may be None."""
    config, loading = model.config, {**loading, "shard": model.devices.shard}
    batches = DataGenerator(
        train_dataset, config, shuffle=True, augmentation=augmentation,
        steps=math.ceil(config.STEPS_PER_EPOCH), no_augmentation_sources=no_augmentation_sources, **loading,
    )  # fmt: skip
    batches.epoch = model.epoch
    if val_dataset is None or not config.VALIDATION_STEPS:
        return batches, None
    return batches, DataGenerator(
        val_dataset, config, shuffle=True, steps=math.ceil(config.VALIDATION_STEPS), **loading
    )


def _select_and_compile(model, layers: str, learning_rate, optimizer, steps: int, callbacks: list):
    """Compiles the model for a training of so many steps. Returns the learning rate, which settings may schedule."""
    rate = scheduled_rate(model.config, learning_rate, steps)
    model.set_trainable(layer_regex(model, layers), verbose=int(model.devices.writes))
    if not model.trainable_variables:
        raise ValueError(
            f"layers={layers!r} matches no layer with weights, so nothing would be trained; expected one of"
            f" {', '.join(LAYER_REGEX)}, or a regular expression that matches whole layer names."
        )
    if "optimizer" in inspect.signature(model.compile).parameters:
        model.compile(optimizer, learning_rate=rate)
    elif optimizer is None:  # a subclass has matterport's compile(learning_rate, momentum)
        model.compile(rate, model.config.LEARNING_MOMENTUM)
    else:
        raise ValueError(
            f"train() got optimizer={optimizer!r}, but {type(model).__name__}.compile has no argument `optimizer`: it"
            " makes its own. Add the argument, or leave out optimizer=."
        )
    warn_of_unused_schedule(model.config, learning_rate, optimizer)
    refuse_two_schedules(model.config, optimizer is None and rate is not learning_rate, model.optimizer, callbacks)
    return rate


def _fit(
    model, batches, validation, epochs: int, callbacks: list, saving: SaveTraining, averages: Averages
) -> keras.callbacks.History:
    """Runs `fit` from the step that `saving` starts from; after an exception, the state of the last step is saved."""
    verbose = "auto" if model.devices.writes else 0
    with weights_stay_after_fit(model.optimizer):
        try:
            if saving.step:
                return fit_from_step(model, batches, saving.step, validation, epochs, callbacks, verbose)
            return model.fit(
                batches, initial_epoch=model.epoch, epochs=epochs, validation_data=validation, callbacks=callbacks,
                verbose=verbose,
            )  # fmt: skip
        except BaseException:
            averages.take_out()
            saving.save_interrupted()
            raise


def learn_class_names(model: keras.Model, dataset: Dataset) -> None:
    """Sets the model's class names to those of `dataset`; warns if it had others."""
    try:
        check_same_classes(model.class_names, dataset, "the training set")
    except ValueError as error:
        warnings.warn(f"The classes of this model change. {error}", UserWarning, stacklevel=5)
    model.class_names = dataset.class_names
