"""What `MaskRCNN.train` does: batches, trainable layers, optimizer, callbacks, `fit`."""

from __future__ import annotations

import inspect
import math
import re
import warnings

import keras
import numpy as np

from mrcnn.data.class_names import check_same_classes
from mrcnn.data.generator import DataGenerator
from mrcnn.training.callbacks import run_callbacks
from mrcnn.training.trainable_layers import LAYER_REGEX, STAGES, layers_from_stage


def train(model, train_dataset, val_dataset, learning_rate, epochs, layers, augmentation=None,
          custom_callbacks=None, no_augmentation_sources=None, *, optimizer=None, workers=1,
          use_multiprocessing=False) -> keras.callbacks.History:  # fmt: skip
    """`MaskRCNN.train`."""
    if model.mode != "training":
        raise ValueError('train() needs a model built with mode="training"; this one is for "inference".')
    if val_dataset is not None:
        check_same_classes(train_dataset.class_names, val_dataset, "the validation set")
    learn_class_names(model, train_dataset)
    config, writes = model.config, model.devices.writes
    loading = {
        "workers": workers,
        "use_multiprocessing": use_multiprocessing,
        "seed": model.devices.agree(int(np.random.randint(2**31))) if config.SEED is None else config.SEED,
        "shard": model.devices.shard,
    }
    batches = DataGenerator(
        train_dataset, config, shuffle=True, augmentation=augmentation,
        steps=math.ceil(config.STEPS_PER_EPOCH), no_augmentation_sources=no_augmentation_sources, **loading,
    )  # fmt: skip
    batches.epoch = model.epoch
    val_batches = None
    if val_dataset is not None and config.VALIDATION_STEPS:
        steps = math.ceil(config.VALIDATION_STEPS)
        val_batches = DataGenerator(val_dataset, config, shuffle=True, steps=steps, **loading)
    if writes:
        rate = type(learning_rate).__name__ if callable(learning_rate) else learning_rate
        print(f"\nStarting at epoch {model.epoch}. LR={rate}\n\nCheckpoint path: {model.checkpoint_path}")
    model.set_trainable(_layer_regex(model, layers), verbose=int(writes))
    if not model.trainable_variables:
        raise ValueError(
            f"layers={layers!r} matches no layer with weights, so nothing would be trained; expected one of"
            f" {', '.join(LAYER_REGEX)}, or a regular expression that matches whole layer names."
        )
    if "optimizer" in inspect.signature(model.compile).parameters:
        model.compile(optimizer, learning_rate=learning_rate)
    else:  # a subclass has matterport's compile(learning_rate, momentum)
        model.compile(learning_rate, config.LEARNING_MOMENTUM)
    history = model.fit(
        batches, initial_epoch=model.epoch, epochs=epochs, validation_data=val_batches,
        callbacks=run_callbacks(model.log_dir, model.checkpoint_path, custom_callbacks or (), writes),
        verbose="auto" if writes else 0,
    )  # fmt: skip
    model.epoch += len(history.epoch)  # fewer than requested if a callback stopped training
    return history


def _layer_regex(model, layers: str) -> str:
    """The regular expression of "heads", "3+", ...; layers of a backbone of the user's count by their place in it."""
    regex = LAYER_REGEX.get(layers, layers)
    stages = model.stages
    if layers in STAGES and callable(model.config.BACKBONE) and stages is not None:
        regex = "|".join([regex, *map(re.escape, layers_from_stage(stages.image, stages.backbone, int(layers[0])))])
    return regex


def learn_class_names(model, dataset) -> None:
    """Sets the model's class names to those of `dataset`; warns if it had others."""
    try:
        check_same_classes(model.class_names, dataset, "the training set")
    except ValueError as error:
        warnings.warn(f"The classes of this model change. {error}", UserWarning, stacklevel=5)
    model.class_names = dataset.class_names
