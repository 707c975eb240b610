"""The files of a run that grow: losses.csv and TensorBoard's events."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable
from pathlib import Path

import keras

from mrcnn.io import replacing, write_errors
from mrcnn.keras_private import flush_tensorboard

LOSSES, EVENTS = "losses.csv", "*/events.out.tfevents.*"
logger = logging.getLogger(__name__)


class LossesCsv(keras.callbacks.Callback):
    """Appends a line with the values of the logs to a CSV file after each epoch.

    The file has the columns of its first line; a value that appears later gets a new column, "NA" in earlier lines.
    If the file can't be written, a warning is logged and training continues.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = Path(path)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = {"epoch": epoch, **dict(sorted((logs or {}).items()))}
        try:
            self._append(row)
        except OSError as error:
            logger.warning("%s is not written: %s. Training continues.", self.path, error)

    def _append(self, row: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        if self.path.is_file() and self.path.stat().st_size:
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or ())
                missing = [name for name in row if name not in columns]
                rows = list(reader) if missing else []
        else:
            columns, missing = [], list(row)
        options = {"fieldnames": columns + missing, "restval": "NA"}
        if not missing:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, **options).writerow(row)
            return
        with replacing(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, **options)
            writer.writeheader()
            writer.writerows([*rows, row])


class Events(keras.callbacks.TensorBoard):
    """Writes TensorBoard's files. If they can't be written, one warning is logged and training continues."""

    failed = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._unless_failed(super().on_epoch_begin, epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._unless_failed(super().on_epoch_end, epoch, logs)

    def on_test_end(self, logs: dict | None = None) -> None:
        self._unless_failed(super().on_test_end, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._unless_failed(super().on_train_end, logs)

    def flush(self) -> None:
        """Writes the events so far."""
        self._unless_failed(flush_tensorboard, self)

    def _unless_failed(self, method: Callable, *args) -> None:
        if self.failed:
            return
        try:
            method(*args)
        except write_errors() as error:
            self.failed = True
            line = str(error).splitlines()[0]
            logger.warning("TensorBoard's files in %s are not written: %s. Training continues.", self.log_dir, line)


def check_writable(folder: str | os.PathLike) -> None:
    """Makes the folder of a run, and checks that files can be written to it, before hours of training.

    Raises:
        OSError: they can't; the class is that of the system's error.
    """
    try:
        with replacing(Path(folder) / ".writable") as unfinished:
            unfinished.touch()
        (Path(folder) / ".writable").unlink()
    except OSError as error:
        raise type(error)(
            f"The folder of this run, {folder}, can't be written to: {error}. Pass another model_dir."
        ) from error


def sizes(folder: str | os.PathLike) -> dict[str, int]:
    """Bytes of the files of a run that grow, by their path in the run's folder."""
    folder = Path(folder)
    files = [folder / LOSSES, *folder.glob(EVENTS)]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files if path.is_file()}


def truncate(folder: str | os.PathLike, known: dict[str, int], since: float) -> None:
    """Removes what was written to these files after `sizes` returned `known`, at the time `since`."""
    folder = Path(folder)
    for name, size in sizes(folder).items():
        path = folder / name
        if name in known or name == LOSSES:
            if size > known.get(name, 0):
                os.truncate(path, known.get(name, 0))
        elif path.stat().st_mtime >= since:
            path.unlink()
