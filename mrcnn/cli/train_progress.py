"""The progress that `mrcnn train` shows: a bar with the remaining time, and a line for each epoch."""

from __future__ import annotations

from typing import Any

import keras

from mrcnn.cli import output


class Progress(keras.callbacks.Callback):
    """Shows the progress of a training on stderr; the bar in a terminal only.

    Args:
        epochs: Total number, including those of earlier runs.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self._bar, self._task = None, None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._bar = output.progress_bar()
        self._bar.start()
        self._task = self._bar.add_task("training", total=None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        steps = self.params.get("steps")
        self._bar.update(self._task, total=steps and steps * self.epochs, completed=(steps or 0) * epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self._task, advance=1, description=f"loss {(logs or {}).get('loss', float('nan')):.3f}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        text = f"epoch {epoch + 1} of {self.epochs}: loss {logs.get('loss', float('nan')):.3f}"
        if "val_loss" in logs:
            text += f", validation loss {logs['val_loss']:.3f}"
        self._bar.console.print(text, highlight=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._bar.stop()
