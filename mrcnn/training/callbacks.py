"""Callbacks of a training run: a checkpoint per epoch, losses for CSV and TensorBoard."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mrcnn.training.arrays import layers_not_finite
from mrcnn.training.run_files import LOSSES, Events, LossesCsv, check_writable

logger = logging.getLogger(__name__)


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights in matterport's layout after each epoch.

    Weights that are not finite are not written. If the disk is full or the folder can't be written to, a warning is
    logged and training continues.

    Args:
        path: Path that contains `{epoch:04d}`.

    Attributes:
        broken: names of the layers whose weights were not finite at the end of the last epoch.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.broken: list[str] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        path = self.path.format(epoch=epoch + 1)
        self.broken = layers_not_finite(self.model.weights)
        if self.broken:
            layers = ", ".join(self.broken[:5])
            logger.warning("%s is not written: the weights of %s are NaN or infinite.", path, layers)
            return
        try:
            self.model.save_weights(path)
        except OSError as error:
            logger.warning("%s is not written: %s. Training continues.", path, error)


class KeptCheckpoints:
    """Decides which checkpoints of a run are kept.

    Args:
        path: Path that contains `{epoch:04d}`.
        keep: "all"; int n >= 1, the last n; or "best", that of the best `metric`, and the last one.
        metric: a name in the logs, e.g. "val_loss" or "val_mask_ap"; of a name with "_ap", "acc" or "f1" higher is
            better, of others lower.
        validates: whether the training has a validation set.
        writes: whether this process writes and deletes checkpoints.

    Attributes:
        values: the metric of each epoch whose checkpoint exists (None if unknown), by the epoch's number.
    """

    def __init__(
        self, path: str, keep: str | int = "all", metric: str = "val_loss", validates: bool = True, writes: bool = True
    ):
        count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
        if not count and keep not in ("all", "best"):
            raise ValueError(f'keep_checkpoints is {keep!r}; expected "all", "best", or a number of checkpoints >= 1.')
        if keep == "best" and metric == "val_loss" and not validates:
            raise ValueError(
                'keep_checkpoints="best" compares "val_loss", but there is no validation set. Pass val_dataset, or'
                ' best_metric="loss".'
            )
        self.path, self.keep, self.metric, self.writes = path, keep, metric, writes
        self.sign = 1 if re.search("_ap|acc|f1", metric) else -1
        self.values: dict[int, float | None] = {}

    def add(self, epoch: int, logs: dict) -> None:
        """Records the checkpoint after `epoch` epochs, and deletes those that are not kept.

        Raises:
            ValueError: "best", and the logs don't have the metric.
        """
        if self.keep == "all":
            return
        value = logs.get(self.metric)
        if self.keep == "best" and value is None:
            raise ValueError(
                f'keep_checkpoints="best" compares {self.metric!r}, which the logs don\'t have; expected one of'
                f" {', '.join(sorted(logs))}. val_mask_ap needs the callback mrcnn.evaluation.EvaluateDataset."
            )
        written = self.writes and Path(self.path.format(epoch=epoch)).is_file()
        if not written:  # then the others are needed
            return
        self.values[epoch] = value
        for old in set(self.values) - self._stay():
            path = Path(self.path.format(epoch=old))
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s is not deleted: %s. Training continues.", path, error)
            del self.values[old]

    def _stay(self) -> set[int]:
        epochs = sorted(self.values)
        if self.keep != "best":
            return set(epochs[-self.keep :])
        finite = [epoch for epoch in epochs if np.isfinite(self.values[epoch])]
        # Of equal values the first: `EvaluateDataset(every=5)` repeats its last one.
        best = max(finite, key=lambda epoch: (self.sign * self.values[epoch], -epoch), default=epochs[-1])
        return {best, epochs[-1]}


def run_callbacks(
    log_dir: str, checkpoint_path: str, custom: Iterable[keras.callbacks.Callback] = (), writes: bool = True
) -> list:
    """Callbacks that write to the run folder: a checkpoint per epoch, and losses for CSV and TensorBoard.

    The user's callbacks run after the checkpoint is written and before the losses are, so values that they add to the
    logs, such as `val_mask_ap` of `evaluation.EvaluateDataset`, are recorded. With several training processes, only one
    `writes`; the others have just the user's callbacks.

    Raises:
        OSError: the folder can't be written to.
    """
    if not writes:
        return list(custom)
    check_writable(log_dir)
    callbacks = [Checkpoint(checkpoint_path), *custom, LossesCsv(Path(log_dir) / LOSSES)]
    if keras.backend.backend() == "tensorflow":  # Keras writes TensorBoard files through TensorFlow
        callbacks.append(Events(log_dir, write_graph=False))
    return callbacks
