"""Saving and continuing a training exactly: weights, optimizer, schedule, random numbers, metrics, callbacks, files.

The order of images, augmentation and the anchors of a sample follow from the seed and the sample's place
(`data.sample_stream`), so of the data only the seed, the epoch and the step are stored. RoIs are sampled in the
network, with a seed generator whose state is stored. Validation draws no random numbers.

Of several processes, all of which have the same weights, optimizer and callbacks, process 0 writes and reads the file,
and sends its content to the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mrcnn.data.generator import DataGenerator
from mrcnn.distribution import Devices
from mrcnn.io import remove_orphans
from mrcnn.keras_private import moving_averages
from mrcnn.training import run_files
from mrcnn.training.arrays import layers_not_finite, to_array
from mrcnn.training.callback_state import CallbackState
from mrcnn.training.callbacks import Checkpoint, KeptCheckpoints
from mrcnn.training.failed_steps import FailedSteps
from mrcnn.training.interrupts import Interrupts
from mrcnn.training.optimizer import has_schedule, lower_rate, schedule_factor, step_variable
from mrcnn.training.run_files import Events
from mrcnn.training.schedule import Rate
from mrcnn.weights.load_by_name import load_weights_by_name
from mrcnn.weights.train_state import STATE_FILE, TrainState, read_state, write_state

logger = logging.getLogger(__name__)
STEPS_PER_AGREEMENT = 10  # of several processes, on whether one of them was told to stop; the devices wait for it


def check_start(model: keras.Model) -> None:
    """Checks that several processes begin a training together.

    Raises:
        ValueError: in all processes: epoch or weights differ, or a process has only a part of the weights.
    """
    devices = model.devices
    if devices.processes == 1:
        return
    split = [variable.path for variable in model.weights if not devices.holds(variable)]
    if split:
        raise ValueError(
            f"{len(split)} weights, such as {split[0]}, are divided among {devices.processes} processes; training needs"
            " them whole in each, to save them. Expected keras.distribution.DataParallel."
        )
    weights = digest(model)
    devices.check_same(
        f"train {model.epoch} {weights}",
        f"trains from epoch {model.epoch} with weights of the SHA-256 {weights[:16]} (run folder {model.log_dir})",
    )


def find_state(model: keras.Model) -> TrainState | None:
    """The state of a training that `model` can continue: of its run, at its epoch, and with exactly its weights."""
    path = Path(model.log_dir) / STATE_FILE
    with _file_of_process_0(model.devices, path) as local:
        if not local.is_file():
            return None
        state = read_state(local)
    if state is None:
        logger.warning("%s is broken: the optimizer and the schedule start from the epoch's number alone.", path)
    elif state.epoch == model.epoch and digest(model) in _weights_of(state):
        return state
    return None


@contextlib.contextmanager
def _file_of_process_0(devices: Devices, path: Path) -> Iterator[Path]:
    """A path at which each process finds the file that process 0 has at `path`; no file if it has none."""
    content = b""
    if devices.processes > 1:
        content = devices.broadcast(path.read_bytes() if devices.writes and path.is_file() else b"")
    if devices.writes:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        if content:
            local.write_bytes(content)
        yield local


def _weights_of(state: TrainState) -> list[str]:
    """The digests of the weights in the state and, after an epoch, of their averages, which the checkpoint has."""
    averaged = state.info.get("averaged")
    return [state.info["weights"], *([averaged] if averaged and not state.step else [])]


def digest(model: keras.Model) -> str:
    """SHA-256 of the weights."""
    found = hashlib.sha256()
    for weight in model.weights:
        found.update(np.ascontiguousarray(to_array(weight)).view(np.uint8))
    return found.hexdigest()


def restore(model: keras.Model, state: TrainState, learning_rate: Rate | None) -> bool:
    """Gives the compiled model the random numbers of the state, and the optimizer if it fits; whether it fitted.

    An optimizer fits if it is of the same class and trains the same weights. A new `learning_rate` stays. If the model
    has the averages of the weights, it gets the weights as well, and keeps the averages if the optimizer does not fit.
    """
    for variable, key in zip(_random_variables(model), _keys(state, "random"), strict=False):
        variable.assign(state.arrays[key])
    model.build_optimizer()
    optimizer, keys = model.optimizer, _keys(state, "optimizer")
    if state.info["optimizer"] != _describe_optimizer(model) or len(keys) != len(optimizer.variables):
        return False
    if digest(model) != state.info["weights"]:
        with _file_of_process_0(model.devices, Path(model.log_dir) / STATE_FILE) as path:
            load_weights_by_name(model, path)
    same_rate = state.info["rate"] == _rate(learning_rate)
    rate = None if same_rate or has_schedule(optimizer) else to_array(optimizer.learning_rate)
    for variable, key in zip(optimizer.variables, keys, strict=True):
        variable.assign(state.arrays[key])
    if rate is not None:
        optimizer.learning_rate = rate
    if has_schedule(optimizer) and state.info.get("schedule_factor", 1.0) != 1.0:
        lower_rate(model, state.info["schedule_factor"])
    return True


class SaveTraining(keras.callbacks.Callback):
    """Writes `last.train.h5` after each epoch, and continues what it holds. The last callback of a training.

    Args:
        model: compiled `MaskRCNN`.
        batches: `DataGenerator` of the training; its epoch is set.
        callbacks: the other callbacks; `custom` of them are the user's, whose state is saved.
        failed_steps: the `FailedSteps` of the training.
        learning_rate: the argument of `train`.
        kept: `KeptCheckpoints`.
        interrupts: `Interrupts`.
        every: int, also save each time this many steps are done; None: only after epochs.
        start: `TrainState` that training starts from, or None.
        same_stage: whether the state of callbacks is restored as well.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: DataGenerator,
        custom: Sequence[keras.callbacks.Callback],
        callbacks: Sequence[keras.callbacks.Callback],
        failed_steps: FailedSteps,
        learning_rate: Rate | None,
        kept: KeptCheckpoints,
        interrupts: Interrupts,
        every: int | None = None,
        start: TrainState | None = None,
        same_stage: bool = True,
    ):
        super().__init__()
        self.set_model(model)
        self.batches, self.custom, self.every, self.start = batches, list(custom), every, start
        self.failed_steps, self.averages = failed_steps, moving_averages(model.optimizer)
        self.events = [callback for callback in callbacks if isinstance(callback, Events)]
        self.checkpoint = next((c for c in callbacks if isinstance(c, Checkpoint)), None)
        self.rate, self.kept, self.interrupts, self.same_stage = _rate(learning_rate), kept, interrupts, same_stage
        self.folder = Path(model.log_dir)
        self.devices, self.writes = model.devices, model.devices.writes
        self.steps = len(batches)
        self.epoch, self.step = model.epoch, start.step if start else 0
        self._saved_step = self.step
        self.more_info: dict = {}  # for `TrainState.info`
        self._end_of_steps = None  # what `_changing` was when the last step of the epoch was done
        if self.writes:
            remove_orphans(self.folder)
            if start is not None:
                run_files.truncate(self.folder, start.info["files"], start.info["time"])
        if start is not None and (kept.keep != "best" or start.info.get("kept_metric") == kept.metric):
            kept.values |= {int(epoch): value for epoch, value in start.info["kept"].items()}

    # ---- Called by Keras ---------------------------------------------------------------------------------------------
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.callback_state = CallbackState(self.custom)
        start = self.start
        if start is not None and self.same_stage and start.info["callbacks"] is not None:
            self.callback_state.restore(start.info["callbacks"], start.arrays)
        self._remember_files()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch, self.batches.epoch, self._end_of_steps = epoch, epoch, None
        if self.start is not None and self.start.step:
            for variable, key in zip(self.model.metrics_variables, _keys(self.start, "metrics"), strict=True):
                variable.assign(self.start.arrays[key])
        self.step = self.start.step if self.start is not None else 0
        self.start, self._saved_step = None, self.step
        self._first_iteration = self._iterations() - self.step
        self.interrupts.waits = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = batch  # on all backends, the steps before are done here
        if self.every is not None and batch - self._saved_step >= self.every:
            self.failed_steps.look()
            self.save()
        if self.devices.processes == 1 or batch % STEPS_PER_AGREEMENT == 0:
            self.interrupts.check(self.devices.largest)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.steps_are_done()
        if self.every is not None:
            self.save()

    def before_others(self) -> keras.callbacks.Callback:
        """A callback for the first place, which sees the end of an epoch before the others do."""
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self.steps_are_done())

    def steps_are_done(self) -> None:
        """Called before validation and the callbacks that end an epoch, which may change optimizer and metrics."""
        if self._end_of_steps is None:
            self.step, self._end_of_steps = self.steps, self._changing()
            self.interrupts.waits = self.devices.processes > 1  # others can't be told within validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with self.interrupts.waiting():
            self.epoch, self.step, self._end_of_steps = epoch + 1, 0, None
            self.model.epoch = self.epoch
            self.kept.add(self.epoch, logs or {})
            self._remember_files()
            self.save()
        self.interrupts.check(self.devices.largest)

    # ---- Saving ------------------------------------------------------------------------------------------------------
    def save_interrupted(self) -> None:
        """Saves after an exception, unless it came in the middle of a step. Never raises, not to hide it."""
        try:
            if self.step < self.steps:
                done = -1
                if hasattr(self, "_first_iteration"):
                    done = self._iterations() - self._first_iteration + self.failed_steps.count_not_applied()
                if not self.step <= done <= self.step + 1:
                    return
                self.step = done
            if self.epoch or self.step:
                self.save()
        except Exception as error:  # on JAX, all values may be gone with the step that failed
            logger.warning("The state of the training could not be saved: %s", error)

    def save(self) -> None:
        """Writes the current state. If that fails, a warning is logged and training continues."""
        path, self._saved_step = self.folder / STATE_FILE, self.step
        if not self.writes:
            return
        broken = self._layers_not_finite()
        if broken:
            logger.warning("%s is not written: the weights of %s are NaN or infinite.", path, ", ".join(broken[:5]))
            return
        try:
            write_state(path, self.model, self._state())
        except OSError as error:
            logger.warning("%s is not written: %s. Training continues.", path, error)

    def _layers_not_finite(self) -> list[str]:
        if self.step == 0 and self.checkpoint is not None and not self.custom and not self.averages:
            return self.checkpoint.broken  # nothing has changed since it looked
        return layers_not_finite(self.model.weights)

    def _state(self) -> TrainState:
        optimizer = {f"optimizer/{i:05d}": to_array(v) for i, v in enumerate(self.model.optimizer.variables)}
        states, arrays = self._end_of_steps or self._changing()
        random = {f"random/{i:05d}": to_array(v) for i, v in enumerate(_random_variables(self.model))}
        info = {
            "weights": digest(self.model), "optimizer": _describe_optimizer(self.model), "rate": self.rate,
            "seed": self.batches.seed, "steps": self.steps, "time": time.time(), "files": self._files,
            "callbacks": None if self.model.stop_training else states, "kept": self.kept.values,
            "kept_metric": self.kept.metric, "schedule_factor": schedule_factor(self.model.optimizer), **self.more_info,
        }  # fmt: skip
        return TrainState(self.epoch, self.step, info, {**optimizer, **random, **arrays})

    def _changing(self) -> tuple[list, dict[str, np.ndarray]]:
        """The state of callbacks, and metrics and the optimizer's numbers (iterations, rate), which they may change."""
        states, arrays = self.callback_state.read()
        arrays |= {f"metrics/{i:05d}": to_array(v) for i, v in enumerate(self.model.metrics_variables)}
        numbers = {f"optimizer/{i:05d}": v for i, v in enumerate(self.model.optimizer.variables) if len(v.shape) == 0}
        return states, arrays | {name: to_array(variable) for name, variable in numbers.items()}

    def _remember_files(self) -> None:
        for events in self.events:
            events.flush()
        self._files = run_files.sizes(self.folder)

    def _iterations(self) -> int:
        return int(to_array(step_variable(self.model.optimizer)))


def _rate(learning_rate) -> float | None:
    """A number; None for a schedule, which is part of the program, and for None, with an optimizer that has its own."""
    return None if learning_rate is None or callable(learning_rate) else float(learning_rate)


def _describe_optimizer(model) -> list:
    """Class, and layer, name and shape of each weight that it trains. (Keras numbers the layers inside of wrappers.)"""
    trained = [[v.path.split("/")[0], v.name, list(v.shape)] for v in model.trainable_variables]
    return [type(model.optimizer).__name__, trained]


def _random_variables(model) -> list:
    """The states of seed generators."""
    known = {id(variable) for variable in [*model.weights, *model.metrics_variables]}
    others = [variable for variable in model.non_trainable_variables if id(variable) not in known]
    return [variable for variable in others if tuple(variable.shape) == (2,) and "int" in variable.dtype]


def _keys(state: TrainState, kind: str) -> list[str]:
    return sorted(name for name in state.arrays if name.startswith(kind + "/"))
