"""The private parts of Keras that this package relies on, each in one function. Checked with Keras 3.15.1."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras


def unwrap_build(layer: keras.layers.Layer) -> None:
    """Removes the wrapper that Keras puts around `build` of an instance: it drops the return value.

    matterport's `build(mode, config)` returns a model.
    """
    del layer.build


def source_of(tensor: Any) -> Any:
    """The operation that computes a symbolic tensor."""
    return tensor._keras_history.operation


def forget_compiled_steps(model: keras.Model) -> None:
    """Makes the next `fit` and `evaluate` trace the loss again, with the settings they find then."""
    model.train_function = model.test_function = None


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list[tuple[keras.Variable, keras.Variable]]:
    """(variable, its moving average) of each variable that a built optimizer with `use_ema` trains, otherwise []."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        return []
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return [(variable, average) for variable, average in pairs if average is not None]


@contextlib.contextmanager
def weights_stay_after_fit(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within it, `fit` ends with the weights of the last step, not with the optimizer's averages (`use_ema`).

    On JAX, `fit` would replace them after an exception as well.
    """
    optimizer.finalize_variable_values = lambda var_list: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate as it was given: a variable, a schedule or a function."""
    return optimizer._learning_rate


def flush_tensorboard(callback: keras.callbacks.TensorBoard) -> None:
    """Writes the events of the callback `TensorBoard` to its files now."""
    for writer in callback._writers.values():
        writer.flush()


@functools.cache
def let_checkpoints_end_in_h5() -> None:
    """Allows `ModelCheckpoint("x.h5", save_weights_only=True)`: Keras 3 requires ".weights.h5" for its own models.

    `MaskRCNN.save_weights` writes both. For any other model, `save_weights` refuses the name when it is called.
    """
    checkpoint = keras.callbacks.ModelCheckpoint
    original = checkpoint.__init__

    @functools.wraps(original)
    def init(self, filepath, *args, **kwargs):
        path = os.fspath(filepath)
        old = path.endswith(".h5") and not path.endswith(".weights.h5")
        weights_only = kwargs.get("save_weights_only", args[3] if len(args) > 3 else False)
        if not (old and weights_only):
            return original(self, filepath, *args, **kwargs)
        original(self, path.removesuffix(".h5") + ".weights.h5", *args, **kwargs)
        self.filepath = path

    checkpoint.__init__ = init


def symbolic_build(model: keras.Model) -> None:
    """Replaces the hook that Keras calls under TensorFlow before `fit` and `evaluate` to build missing variables.

    Only the optimizer can be missing. On several devices Keras would run the graph on the sum of the devices' first
    batches, but masks are bool and cannot be added.
    """
    if model.devices.strategy is not None:
        model.build_optimizer()


def free_outputs_early(
    model: keras.Model, replace: Callable[[Any, list], Callable] = lambda layer, unused: layer
) -> None:
    """Makes a functional model that runs eagerly, under PyTorch, free each output after its last use.

    Keras keeps all of them until the model has run.

    Args:
        model: The model.
        replace: Returns what to call instead of a layer, given the layer and a list with one entry for each of its
            inputs: the layer that computed it if this is its last use, otherwise None.
    """
    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth] if node.operation and not node.is_input]
    last_uses = {id(x): number for number, node in enumerate(nodes) for x in node.input_tensors}
    freed = [[] for _ in nodes]
    for x in set(last_uses) - {id(x) for x in (*model.inputs, *model.outputs)}:
        freed[last_uses[x]].append(x)
    producers = {id(x): node.operation for node in nodes for x in node.outputs}
    calls = [
        replace(node.operation, [producers.get(id(x)) if id(x) in last else None for x in node.input_tensors])
        for node, last in zip(nodes, freed, strict=True)
    ]

    def run(inputs, operation_fn=lambda operation: operation, call_fn=lambda operation, *a, **k: operation(*a, **k)):
        inputs = keras.tree.flatten(inputs)
        symbolic = any(isinstance(x, keras.KerasTensor) for x in inputs)
        tensors = dict(zip(map(id, model.inputs), inputs, strict=True))
        for node, call, last in zip(nodes, calls, freed, strict=True):
            args, kwargs = node.arguments.fill_in(tensors)
            outputs = call_fn(operation_fn(node.operation if symbolic else call), *args, **kwargs)
            tensors.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
            del args, kwargs, outputs
            for x in last:
                del tensors[x]
        return keras.tree.pack_sequence_as(model._outputs_struct, [tensors[id(x)] for x in model.outputs])

    model._run_through_graph = run
