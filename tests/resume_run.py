"""Trains a small model in a folder, continuing where an earlier process stopped, for `test_resume`.

    KERAS_BACKEND=jax python tests/resume_run.py FOLDER EPOCHS [--compiled]

    python tests/resume_run.py --forks EPOCHS

runs a training in a forked process for each folder that it reads from stdin, so that TensorFlow is imported only once.
It prints the process's id, and its exit status when it has ended.

With KERAS_DISTRIBUTION_NUM_PROCESSES and related variables in the environment, this is one of several processes that
train together, for `test_resume_processes`.

At the end FOLDER/end.npz has the weights and the optimizer's variables (that of process 1: end1.npz). Takes about 10 s,
most of them for imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from kit import Squares, numpy, tiny_model  # noqa: E402

SETTINGS = {"STEPS_PER_EPOCH": 2, "ADD_GT_TO_PROPOSALS": True, "POST_NMS_ROIS_TRAINING": 60, "SEED": None}


def flip(image, masks, rng):
    """An augmentation that draws from the sample's own random numbers."""
    step = -1 if rng.random() < 0.5 else 1
    return image[:, ::step], masks[:, ::step]


def callbacks() -> list:
    """Callbacks with a state: the rate halves unless the loss falls by 100; the best loss is remembered."""
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=100.0, factor=0.5)
    return [plateau, keras.callbacks.EarlyStopping("val_loss", patience=50)]


class StopAfter(keras.callbacks.Callback):
    """Raises KeyboardInterrupt before the step after so many."""

    def __init__(self, steps):
        super().__init__()
        self.left = iter(range(steps))  # not a number, which would be restored

    def on_train_batch_begin(self, batch, logs=None):
        if next(self.left, None) is None:
            raise KeyboardInterrupt


def train(folder, epochs: int, others=(), seed=3, settings=None, **options):
    """The model and the history of a training that continues the one in `folder`, if there is one."""
    model = tiny_model("training", folder, seed=seed, **SETTINGS, **(settings or {}))
    np.random.seed(seed)  # `SEED` is None: the seed of the data is drawn
    try:
        model.load_weights(model.find_last())
    except FileNotFoundError:
        print("A new training")
    history = model.train(
        Squares(5), Squares(4), 0.01, epochs, "heads", augmentation=flip, custom_callbacks=[*callbacks(), *others],
        save_every_steps=1, **options,
    )  # fmt: skip
    return model, history


def everything(model) -> dict:
    """Weights and variables of the optimizer, by their place."""
    return {f"{i:04d}": numpy(v) for i, v in enumerate([*model.weights, *model.optimizer.variables])}


def train_in_process(folder: str, epochs: int) -> None:
    settings = {}
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        settings = {"GPU_COUNT": 2, "IMAGES_PER_GPU": 1, "EMA_MOMENTUM": 0.8}
    begun = any(Path(folder).glob("*/*.h5"))  # then new weights and seeds must not matter
    trained, _ = train(folder, epochs, seed=8 if begun else 3, settings=settings)
    np.savez(f"{folder}/end{trained.devices.process or ''}.npz", **everything(trained))


def train_in_forks(epochs: int) -> None:
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            run_eagerly()
            train_in_process(line.strip(), epochs)
            os._exit(0)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run_eagerly() -> None:
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)


if __name__ == "__main__":
    if sys.argv[1] == "--forks":
        train_in_forks(int(sys.argv[2]))
        sys.exit()
    if keras.backend.backend() == "tensorflow" and "--compiled" not in sys.argv:
        run_eagerly()
    train_in_process(sys.argv[1], int(sys.argv[2]))
