"""Trains a small model in a folder, continuing where an earlier process stopped, for `test_resume`.

    KERAS_BACKEND=jax python tests/resume_run.py FOLDER EPOCHS [--compiled]

At the end FOLDER/end.npz has the weights and the optimizer's variables. Takes about 10 s, most of them for imports.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    folder, epochs = sys.argv[1], int(sys.argv[2])
    if keras.backend.backend() == "tensorflow" and "--compiled" not in sys.argv:
        import tensorflow as tf

        tf.config.run_functions_eagerly(True)
    trained, _ = train(folder, epochs, seed=3 if len(list(Path(folder).glob("*"))) == 0 else 8)
    np.savez(f"{folder}/end.npz", **everything(trained))
