"""Steps whose loss or gradients are NaN or infinite change nothing. This happens inside the compiled step.

`train_step` of the model calls `guarded_step`, which keeps weights, the optimizer's variables, running means of losses
and statistics of BatchNorm as they were before such a step. A loss that is not finite makes all gradients NaN
(`spread_nan`), so only the gradients are looked at: their sums of squares, in float32. A norm above 1.8e19 counts as
infinite.

With `LossScaleOptimizer` (mixed float16), Keras skips steps itself, to find the scale at which gradients don't
overflow. These are failures only if the loss isn't finite, or the scale has fallen to 1.

Beside the logs, each step returns a record for `failed_steps`, which `keep_records` takes out before callbacks see it:

    applied, failed   float32, 0 or 1
    squares           [trainable weights] float32, sum of squares of each gradient
    losses            {name: float32} of this batch
    batch             {name: array}, the inputs; empty if several devices or several steps share one call
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mrcnn.ops import replicas
from mrcnn.ops.types import Tensor
from mrcnn.training.trainable_layers import layers_with_weights

RECORD = "step_record"


class _Gradients(threading.local):  # `tf.distribute` traces each replica in a thread
    """What the guarded optimizer saw in the step that is being traced."""

    squares = finite = scale = None

    def clear(self) -> None:
        self.squares = self.finite = self.scale = None  # a trace must not outlive its step


def spread_nan(loss: Tensor) -> Tensor:
    """Returns the loss; if it isn't finite, its gradient is NaN for every weight."""
    return loss * ops.stop_gradient(ops.where(ops.isfinite(loss), 1.0, float("nan")))


def guarded_step(model: keras.Model, step: Callable, *args: Any) -> Any:
    """Runs `step`, Keras's `train_step`, so that a step that fails changes nothing.

    Args:
        model: compiled `MaskRCNN`.
        step: `keras.Model.train_step` of the model.
        *args: of `train_step`: the data, on JAX the state and the data.

    Returns:
        What `step` returns, with the record of the step in the logs.
    """
    if model.optimizer is None:
        return step(*args)
    seen = _guard_optimizer(model.optimizer)
    run = _stateless_step if keras.backend.backend() == "jax" else _stateful_step
    try:
        return run(model, step, seen, *args)
    finally:
        seen.clear()


def _stateful_step(model, step, seen: _Gradients, data):
    metrics = model.metrics_variables
    changing = [*metrics, *batch_statistics(model)]
    before = [ops.copy(ops.convert_to_tensor(variable)) for variable in changing]
    logs = step(data)
    if seen.squares is None:  # no weights to train
        return logs
    losses = _losses_of_batch(model, before, [ops.convert_to_tensor(variable) for variable in metrics])
    failed = _has_failed(model.optimizer, seen, losses)
    for variable, value in zip(changing, before, strict=True):
        variable.assign(ops.where(failed, value, ops.convert_to_tensor(variable)))
    return {**model.get_metrics_result(), RECORD: _record(model, seen, failed, losses, data)}


def _stateless_step(model, step, seen: _Gradients, state, data):
    _, others, _, metrics = state
    logs, (weights, new_others, slots, new_metrics) = step(state, data)
    if seen.squares is None:
        return logs, (weights, new_others, slots, new_metrics)
    losses = _losses_of_batch(model, metrics, new_metrics)
    failed = _has_failed(model.optimizer, seen, losses)
    new_others, new_metrics = (
        [ops.where(failed, old, new) if "float" in str(new.dtype) else new for old, new in zip(*pair, strict=True)]
        for pair in ((others, new_others), (metrics, new_metrics))
    )
    with keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, new_metrics, strict=True))):
        logs = dict(model.get_metrics_result())
    logs[RECORD] = _record(model, seen, failed, losses, data)
    return logs, (weights, new_others, slots, new_metrics)


def batch_statistics(model: keras.Model) -> list[keras.Variable]:
    """The moving averages that a training step can change: those of BatchNorm that isn't frozen by `TRAIN_BN`."""
    layers = [getattr(layer, "layer", layer) for layer in layers_with_weights(model)]
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms = [layer for layer in norms if getattr(layer, "train_bn", None) is not False]
    return [variable for layer in norms for variable in (layer.moving_mean, layer.moving_variance)]


def scales_losses(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


# ---- The optimizer ---------------------------------------------------------------------------------------------------
def _guard_optimizer(optimizer) -> _Gradients:
    """Makes an optimizer leave out updates whose gradients aren't finite, unless it does so itself."""
    if not hasattr(optimizer, "_seen_by_guard"):
        optimizer._seen_by_guard = _Gradients()
        guard = _guard_stateless_apply if keras.backend.backend() == "jax" else _guard_apply
        guard(optimizer, optimizer._seen_by_guard)
    return optimizer._seen_by_guard


def _guard_apply(optimizer, seen: _Gradients) -> None:
    apply = optimizer.apply

    def apply_if_finite(grads, trainable_variables=None):
        grads = list(grads)
        variables = None if trainable_variables is None else list(trainable_variables)
        if not optimizer.built:  # not inside a branch
            optimizer.build(variables)
        _look_at(grads, optimizer, seen)
        if scales_losses(optimizer):
            apply(grads, variables)
        elif replicas.count() > 1:
            _apply_on_replicas(apply, seen.finite, grads, variables)
        else:
            ops.cond(seen.finite, lambda: apply(grads, variables), lambda: None)

    optimizer.apply = apply_if_finite


def _guard_stateless_apply(optimizer, seen: _Gradients) -> None:
    stateless_apply = optimizer.stateless_apply

    def apply_if_finite(optimizer_variables, grads, trainable_variables):
        scale = optimizer_variables[_scale_index(optimizer)] if scales_losses(optimizer) else None
        _look_at(grads, optimizer, seen, scale)
        weights, slots = stateless_apply(optimizer_variables, grads, trainable_variables)
        if scales_losses(optimizer):
            return weights, slots
        old = [*trainable_variables, *optimizer_variables]
        kept = [ops.where(seen.finite, a, b) for a, b in zip([*weights, *slots], old, strict=True)]
        return kept[: len(weights)], kept[len(weights) :]

    optimizer.stateless_apply = apply_if_finite


def _apply_on_replicas(apply, finite, grads, variables) -> None:
    """TensorFlow: a branch must be chosen for all replicas together if updates are merged inside it."""
    import tensorflow as tf

    def on_all(distribution, finite, grads, variables):
        first = distribution.experimental_local_results(finite)[0]  # the same on all
        ops.cond(
            first, lambda: distribution.extended.call_for_each_replica(apply, args=(grads, variables)), lambda: None
        )

    tf.distribute.get_replica_context().merge_call(on_all, args=(finite, grads, variables))


def _look_at(grads, optimizer, seen: _Gradients, scale=None) -> None:
    """Stores the sum of squares of each gradient, and whether all are finite."""
    squares = [ops.zeros(()) if g is None else ops.sum(ops.square(ops.cast(g, "float32"))) for g in grads]
    squares = replicas.total(ops.stack(squares))
    seen.finite, seen.squares = ops.isfinite(ops.sum(squares)), squares
    if scales_losses(optimizer):
        seen.scale = ops.convert_to_tensor(optimizer.dynamic_scale if scale is None else scale)
        seen.squares = squares / ops.square(seen.scale)


def _scale_index(optimizer) -> int:
    return next(i for i, variable in enumerate(optimizer.variables) if variable is optimizer.dynamic_scale)


def _has_failed(optimizer, seen: _Gradients, losses: dict):
    """Scalar bool: whether the step had values that training can't use."""
    failed = ops.logical_not(seen.finite)
    if not scales_losses(optimizer):
        return failed
    finite_loss = ops.isfinite(sum(losses.values()))
    return ops.logical_and(failed, ops.logical_or(ops.logical_not(finite_loss), seen.scale <= 1))


# ---- The record ------------------------------------------------------------------------------------------------------
def _losses_of_batch(model, before: list, after: list) -> dict:
    """The means that the logs show, of this batch alone, from the metrics' variables before and after the step."""
    places = {id(variable): i for i, variable in enumerate(model.metrics_variables)}
    losses = {}
    for metric in model.metrics:
        if isinstance(metric, keras.metrics.Mean):
            total, count = (places[id(variable)] for variable in (metric.total, metric.count))
            losses[metric.name] = (after[total] - before[total]) / (after[count] - before[count])
    return losses


def _record(model, seen: _Gradients, failed, losses: dict, data) -> dict:
    record = {
        "applied": ops.cast(seen.finite, "float32"), "failed": ops.cast(failed, "float32"), "squares": seen.squares,
        "losses": losses, "batch": {},
    }  # fmt: skip
    if model.devices.count == model.devices.processes == model.steps_per_execution == 1:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        record["batch"] = dict(x) if isinstance(x, dict) else dict(zip((i.name for i in model.inputs), x, strict=True))
    return record


def keep_records(train_function: Callable, records: deque) -> Callable:
    """Keras's `train_function`, whose logs have no record; the records are added to `records`."""

    def run(*args):
        found = train_function(*args)
        logs = found[0] if isinstance(found, tuple) else found
        record = logs.pop(RECORD, None)
        if record is not None:
            records.append(record)
        return found

    return run
