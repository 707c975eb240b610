"""The private parts of Keras that this package relies on, each in one function. Checked with Keras 3.15.1."""

from __future__ import annotations


def unwrap_build(layer) -> None:
    """Removes the wrapper that Keras puts around `build` of an instance: it drops the return value.

    matterport's `build(mode, config)` returns a model.
    """
    del layer.build


def source_of(tensor):
    """The operation that computes a symbolic tensor."""
    return tensor._keras_history.operation


def forget_compiled_steps(model) -> None:
    """Makes the next `fit` and `evaluate` trace the loss again, with the settings as they are then."""
    model.train_function = model.test_function = None


def symbolic_build(model) -> None:
    """Replaces the hook that Keras calls under TensorFlow before `fit` and `evaluate`, to build what isn't built yet.

    Only the optimizer can be missing. On several devices Keras would run the graph on the sum of the devices' first
    batches, but masks are bool and cannot be added.
    """
    if model.devices.strategy is not None:
        model.build_optimizer()
