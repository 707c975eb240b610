"""Reacts to failed training steps: writes a report, logs a line, and does what `Config.NON_FINITE_LOSS` asks for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mrcnn.data.generator import DataGenerator
from mrcnn.ops.types import Tensor
from mrcnn.training import guard
from mrcnn.training.arrays import is_finite, to_array
from mrcnn.training.failure_report import broken_arrays, gradient_norms, write_report
from mrcnn.training.optimizer import initialize_averages, lower_rate

logger = logging.getLogger(__name__)

Callbacks = keras.callbacks.CallbackList | keras.callbacks.Callback | Sequence[keras.callbacks.Callback]

MOST_IN_A_ROW = 20  # failed steps with no applied one between them: the weights, or all images, are unusable
MOST_ROLLBACKS = 5  # in one training; the rate is then 1/32 of the original
RATE_FACTOR = 0.5  # of a rollback
MOST_REPORTS = 20  # of one training
NOT_ROLLED_BACK = ("iteration", "learning_rate", "step_counter", "dynamic_scale")  # of the optimizer
FAILURES = "failures"


class NonFiniteLoss(RuntimeError):
    """The loss or the gradients of a training are NaN or infinite, and training can't continue."""


class FailedSteps(keras.callbacks.Callback):
    """Reads the records of `guard` and acts on failed steps. The first callback of a training; `fit` adds it.

    One step may be in progress while the one before is checked, so that devices don't wait for the host; not with
    "stop", which must end the training at the step that failed.

    Args:
        model: compiled `MaskRCNN`.

    Attributes:
        batches: what `fit` trains on.
        not_applied: steps of this epoch that changed nothing.
    """

    def __init__(self, model: keras.Model):
        super().__init__()
        self.set_model(model)
        self.watched = model  # on JAX, `self.model` copies the state from the devices' step
        self.records: deque = model.step_records
        self.batches = None
        self.epoch = self.done = self.failed = self.not_applied = self.in_a_row = self.rollbacks = self.reports = 0
        self._steps: deque[int] = deque()
        self._good: list[np.ndarray] | None = None
        self._good_epoch = 0

    # ---- Called by Keras ---------------------------------------------------------------------------------------------
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.records.clear()
        self._steps.clear()
        initialize_averages(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch, self.done, self.failed, self.not_applied = epoch, 0, 0, 0
        if self._setting() == "roll_back":
            self._remember()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.look(in_progress=0 if self._setting() == "stop" else 1)
        self._steps.append(batch)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.look()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.look()
        if logs is not None and self.failed and self.failed == self.done:  # the means of no step at all
            logs.update(
                {name: float("nan") for name in logs if not name.startswith("val_") and name != "learning_rate"}
            )

    # ---- Acting on failed steps --------------------------------------------------------------------------------------
    def look(self, in_progress: int = 0) -> None:
        """Checks the finished steps, except the last `in_progress` ones.

        Raises:
            NonFiniteLoss: training can't continue.
        """
        while len(self.records) > in_progress:
            self._look_at(self.records.popleft(), self._steps.popleft() if self._steps else 0)

    def count_not_applied(self) -> int:
        """Steps of this epoch that changed nothing, including those not checked yet."""
        return self.not_applied + sum(not read(record["applied"]) for record in self.records)

    def _look_at(self, record: dict, step: int) -> None:
        self.done += 1
        if read(record["applied"]):
            self.in_a_row = 0
            return
        self.not_applied += self._setting() != "stop"  # then the step is done again when training is resumed
        if not read(record["failed"]):  # loss scaling looks for its scale
            return
        self.failed += 1
        self.in_a_row += 1
        batch = {name: np.asarray(keras.ops.convert_to_numpy(a)) for name, a in record["batch"].items()}
        batch = batch or self._make_batch(step)
        what = describe(self.model, record, step, self.epoch)
        broken = broken_arrays(batch)
        if broken:
            what += f" {', '.join(broken)} of the batch has NaN or infinite values."
        action = self._choose(broken)
        what += self._report(record, batch, step, action)
        if action == "roll_back":
            logger.warning("%s %s", what, self._roll_back())
        elif action == "skip":
            logger.warning("%s Training continues with the next batch.", what)
        else:
            raise NonFiniteLoss(f"{what} {action}")

    def _choose(self, broken: list[str]) -> str:
        """ "roll_back", "skip", or why training ends."""
        setting = self._setting()
        if setting == "stop":
            return 'Training stops (NON_FINITE_LOSS = "stop"); the weights are those before this step.'
        if self.in_a_row >= MOST_IN_A_ROW:
            return (
                f"Training stops: {self.in_a_row} steps in a row failed. Check the images and boxes, or use a lower"
                " learning rate and resume from an earlier checkpoint."
            )
        if setting == "skip" or broken:  # a lower rate doesn't help against broken images
            return "skip"
        if self._good is None:
            return "Training stops: the initial weights were NaN or infinite. Load others."
        if self.rollbacks >= MOST_ROLLBACKS:
            return (
                f"Training stops: it failed again after {self.rollbacks} rollbacks, each with half the learning rate."
                " Use a lower one, or GRADIENT_CLIP_NORM."
            )
        return "roll_back"

    def _roll_back(self) -> str:
        for variable, value in zip(self._changing(), self._good, strict=True):
            variable.assign(value)
        self.rollbacks += 1
        rate = lower_rate(self.model, RATE_FACTOR)
        while self.records:  # a step in progress is undone, too
            self.not_applied += not read(self.records.popleft()["applied"])
            self._steps.popleft()
            self.done += 1
        rate = f"the schedule continues at {RATE_FACTOR**self.rollbacks:g} of its rate" if rate is None else (
            f"the learning rate is now {rate:g}"
        )  # fmt: skip
        return (
            f"Weights and optimizer are back at the start of epoch {self._good_epoch + 1}, and {rate} (rollback"
            f" {self.rollbacks} of {MOST_ROLLBACKS})."
        )

    # ---- The last good state -----------------------------------------------------------------------------------------
    def _remember(self) -> None:
        """Copies what training changes to the host's memory, if it is finite."""
        good = [to_array(variable) for variable in self._changing()]
        if all(map(is_finite, good)):
            self._good, self._good_epoch = good, self.epoch

    def _changing(self) -> list:
        model = self.model
        optimizer = [v for v in model.optimizer.variables if v.path.rsplit("/", 1)[-1] not in NOT_ROLLED_BACK]
        return [*model.trainable_variables, *guard.batch_statistics(model), *optimizer]

    # ---- Reporting ---------------------------------------------------------------------------------------------------
    def _report(self, record: dict, batch: dict, step: int, action: str) -> str:
        """Writes the report; returns a sentence that says where it is."""
        self.reports += 1
        if not self.model.devices.writes or self.reports > MOST_REPORTS:
            return ""
        facts = {
            "epoch": self.epoch + 1, "step": step + 1, "losses": losses_of(record),
            "gradient_norms": norms_of(self.model, record), "layers_not_finite": broken_gradients(self.model, record),
            "learning_rate": float(to_array(self.model.optimizer.learning_rate)), "then": action,
        }  # fmt: skip
        dataset = self.batches.stream.dataset if isinstance(self.batches, DataGenerator) else None
        folder = Path(self.model.log_dir) / FAILURES / f"{self.epoch + 1:04d}_{step + 1:05d}"
        try:
            write_report(folder, facts, batch, self.model.config, dataset)
        except OSError as error:
            return f" {folder} is not written: {error}."
        return f" See {folder}."

    def _make_batch(self, step: int) -> dict:
        """Prepares the batch of a step again, if several devices share it."""
        if not isinstance(self.batches, DataGenerator) or not 0 <= step - self.batches.first < len(self.batches):
            return {}
        return dict(self.batches[step - self.batches.first][0])

    def _setting(self) -> str:
        return self.watched.config.NON_FINITE_LOSS


def describe(model: keras.Model, record: dict, step: int, epoch: int | None = None) -> str:
    """One sentence about a failed step."""
    losses, layers = losses_of(record), broken_gradients(model, record)
    broken = [name for name, value in losses.items() if not np.isfinite(value)]
    place = "A step" if epoch is None else f"Step {step + 1} of epoch {epoch + 1}"
    if broken:
        why = ", ".join(f"{name} is {losses[name]:g}" for name in broken)
    else:
        more = f" and {len(layers) - 3} more layers" if len(layers) > 3 else ""
        why = f"the gradients of {', '.join(layers[:3])}{more} are NaN or infinite" if layers else "gradients overflow"
    return f"{place} was not applied: {why}."


def losses_of(record: dict) -> dict[str, float]:
    return {name: read(value) for name, value in record["losses"].items()}


def norms_of(model: keras.Model, record: dict) -> dict[str, float]:
    return gradient_norms(model.trainable_variables, np.asarray(keras.ops.convert_to_numpy(record["squares"])))


def broken_gradients(model: keras.Model, record: dict) -> list[str]:
    """Names of the layers with a gradient that is NaN or infinite."""
    squares = np.asarray(keras.ops.convert_to_numpy(record["squares"]))
    names = (v.path.split("/")[0] for v, square in zip(model.trainable_variables, squares) if not np.isfinite(square))
    return list(dict.fromkeys(names))


def read(scalar: Tensor) -> float:
    return float(keras.ops.convert_to_numpy(scalar))


# ---- Where it is used ------------------------------------------------------------------------------------------------
def with_failed_steps(model: keras.Model, batches: Any, callbacks: Callbacks | None) -> Callbacks:
    """The callbacks of `fit`, with `FailedSteps` first if there is none."""
    several = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    several = [] if several is None else several if isinstance(several, (list, tuple)) else [several]
    found = next((callback for callback in several if isinstance(callback, FailedSteps)), None)
    watching = found or FailedSteps(model)
    watching.batches = batches
    if found is not None:
        return callbacks
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, watching)
        return callbacks
    return [watching, *several]


def after_one_batch(model: keras.Model, found: Any) -> Any:
    """What `train_on_batch` returns: NaN if the step failed, which also logs a warning or, with "stop", is an error.

    Raises:
        NonFiniteLoss: `NON_FINITE_LOSS` is "stop".
    """
    while model.step_records:
        record = model.step_records.popleft()
        if not read(record["failed"]):
            continue
        if model.config.NON_FINITE_LOSS == "stop":
            raise NonFiniteLoss(describe(model, record, 0))
        logger.warning("%s", describe(model, record, 0))
        found = keras.tree.map_structure(lambda value: float("nan"), found)  # Keras gives means of no step: 0
    return found
