"""What a training run writes: a checkpoint each epoch, the losses as CSV and for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import keras


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights in matterport's layout after each epoch.

    Args:
        path: with `{epoch:04d}` in it.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.save_weights(self.path.format(epoch=epoch + 1))


def run_callbacks(log_dir: str, checkpoint_path: str, custom=(), writes=True) -> list:
    """What every `train()` keeps in its run folder: a checkpoint an epoch, losses as CSV and for TensorBoard.

    The user's own callbacks come in between: the checkpoint is there when they are called, and what they add to the
    logs, e.g. `evaluate.EvaluateDataset` its `val_mask_ap`, is written down. Of several processes that train together
    one `writes`; the others have the user's callbacks only.
    """
    if not writes:
        return list(custom)
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    losses_csv = keras.callbacks.CSVLogger(str(Path(log_dir) / "losses.csv"), append=True)
    callbacks = [Checkpoint(checkpoint_path), *custom, losses_csv]
    if keras.backend.backend() == "tensorflow":  # Keras writes TensorBoard files through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    return callbacks
