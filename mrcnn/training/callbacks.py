"""Callbacks of a training run: a checkpoint per epoch, and losses for CSV and TensorBoard."""

from __future__ import annotations

from pathlib import Path

import keras


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights in matterport's layout after each epoch.

    Args:
        path: Path that contains `{epoch:04d}`.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.save_weights(self.path.format(epoch=epoch + 1))


def run_callbacks(log_dir: str, checkpoint_path: str, custom=(), writes=True) -> list:
    """Callbacks that write to the run folder: a checkpoint per epoch, and losses for CSV and TensorBoard.

    The user's callbacks run after the checkpoint is written and before the losses are, so values that they add to the
    logs, such as `val_mask_ap` of `evaluation.EvaluateDataset`, are recorded. With several training processes, only one
    `writes`; the others have just the user's callbacks.
    """
    if not writes:
        return list(custom)
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    losses_csv = keras.callbacks.CSVLogger(str(Path(log_dir) / "losses.csv"), append=True)
    callbacks = [Checkpoint(checkpoint_path), *custom, losses_csv]
    if keras.backend.backend() == "tensorflow":  # Keras writes TensorBoard files through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    return callbacks
