"""Prepares batches and arguments for `fit` and `evaluate`."""

from __future__ import annotations

import keras

from mrcnn.data.generator import DataGenerator


def stream_of(batches, devices):
    """Converts a `DataGenerator` to what `fit` can use, and returns the steps per epoch.

    With the resize modes "none" and "pad64", batches differ in size. With TensorFlow, Keras infers their shape from the
    first two batches of an epoch and fails if a later one differs, so they go through a `tf.data.Dataset` without a
    fixed size.

    Args:
        batches: Argument of `fit` or `evaluate`.
        devices: `distribution.Devices` that share the batches.

    Returns:
        (batches, None) if no conversion is needed, otherwise (endless tf.data.Dataset, steps).
    """
    if not isinstance(batches, DataGenerator):
        return batches, None
    devices.check_batches(batches)
    fixed = batches.stream.config.IMAGE_RESIZE_MODE in ("square", "crop")
    if fixed or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    def open_shape(name, array):
        sizes = list(array.shape)
        whole_masks = name == "input_gt_masks" and not batches.stream.config.USE_MINI_MASK
        for axis in {"input_image": (0, 1, 2), "input_rpn_match": (0, 1)}.get(name, (0, 1, 2) if whole_masks else (0,)):
            sizes[axis] = None
        return tf.TensorSpec(sizes, array.dtype)

    def endless():
        while True:
            for i in range(len(batches)):
                yield batches[i]
            batches.on_epoch_end()

    signature = ({name: open_shape(name, array) for name, array in batches[0][0].items()},)
    return tf.data.Dataset.from_generator(endless, output_signature=signature).prefetch(2), len(batches)


def fit_arguments(x, kwargs: dict, devices):
    """Completes the keyword arguments of `fit` for a `DataGenerator`; returns the data to train on."""
    if isinstance(x, DataGenerator):
        kwargs.setdefault("shuffle", False)  # the generator shuffles images; Keras would shuffle batches
    x, steps = stream_of(x, devices)
    if steps is not None:
        kwargs.setdefault("steps_per_epoch", steps)
    kwargs["validation_data"], steps = stream_of(kwargs.get("validation_data"), devices)
    if steps is not None:
        kwargs.setdefault("validation_steps", steps)
    return x


def evaluate_arguments(x, kwargs: dict, devices):
    """Completes the keyword arguments of `evaluate` for a `DataGenerator`; returns the data to evaluate on."""
    x, steps = stream_of(x, devices)
    if steps is not None:
        kwargs.setdefault("steps", steps)
    return x
