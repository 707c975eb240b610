"""The batches that `fit` and `evaluate` take."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from mrcnn.data.generator import DataGenerator
from mrcnn.distribution import Devices

OLD_FIT_ARGUMENTS = ("max_queue_size", "workers", "use_multiprocessing")  # of Keras 2


def stream_of(batches: Any, devices: Devices) -> tuple[Any, int | None]:
    """What `fit` can take in place of a `DataGenerator`, and how many steps an epoch has.

    In the resize modes "none" and "pad64" batches differ in size. Under TensorFlow, Keras would fix their shape by the
    first two of an epoch and fail at a third one, so they go through a `tf.data.Dataset` of unknown shape.

    Args:
        batches: of `fit` or `evaluate`.
        devices: `distribution.Devices` that will share them.

    Returns:
        (batches, None) as given, where nothing needs to be done; or (tf.data.Dataset without end, steps).
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

    signature = ({name: open_shape(name, array) for name, array in batches[0][0].items()},)
    return tf.data.Dataset.from_generator(batches.endless, output_signature=signature).prefetch(2), len(batches)


def fit_arguments(x: Any, kwargs: dict, devices: Devices) -> Any:
    """Completes the arguments of `fit` for a `DataGenerator` or a generator; returns what `fit` trains on."""
    refuse_weights(**kwargs)
    old = [name for name in OLD_FIT_ARGUMENTS if kwargs.pop(name, None)]
    if old:
        warnings.warn(
            f"fit ignores {', '.join(old)}, which Keras 3 doesn't have. `train` and `DataGenerator` take workers and"
            " use_multiprocessing.",
            stacklevel=5,
        )
    x, kwargs["validation_data"] = (without_empty_targets(data) for data in (x, kwargs.get("validation_data")))
    kwargs["validation_data"] = same_each_time(kwargs["validation_data"])
    if isinstance(x, DataGenerator):
        kwargs["shuffle"] = False  # it has its own order; Keras would shuffle each epoch's batches
    watch_workers(kwargs, x, kwargs["validation_data"])
    x, steps = stream_of(x, devices)
    if kwargs.get("steps_per_epoch") is None:
        kwargs["steps_per_epoch"] = steps
    kwargs["validation_data"], steps = stream_of(kwargs["validation_data"], devices)
    if kwargs.get("validation_steps") is None:
        kwargs["validation_steps"] = steps
    return x


class WatchWorkers(keras.callbacks.Callback):
    """Ends `fit` and `evaluate` when a worker process has ended, before the batches prepared ahead are used up."""

    def __init__(self, generators: list[DataGenerator]):
        super().__init__()
        self.generators = generators

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for generator in self.generators:
            generator.check_workers()

    on_test_batch_end = on_train_batch_end


def watch_workers(kwargs: dict, *data: Any) -> None:
    """Adds `WatchWorkers` to the callbacks of `fit` or `evaluate` if worker processes prepare batches."""
    generators = [d for d in data if isinstance(d, DataGenerator) and d.processes is not None]
    if not generators:
        return
    callbacks = kwargs.get("callbacks")
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        kwargs["callbacks"] = [*(keras.tree.flatten(callbacks) if callbacks else []), WatchWorkers(generators)]
    elif not any(isinstance(callback, WatchWorkers) for callback in callbacks.callbacks):  # `fit` has added it
        callbacks.append(WatchWorkers(generators))


@contextlib.contextmanager
def named_worker_errors(*data: Any) -> Iterator[None]:
    """Raises the error of a worker process that has ended instead of TensorFlow's about a generator that failed."""
    try:
        yield
    except Exception:
        for generator in data:
            if isinstance(generator, DataGenerator):
                generator.check_workers()
        raise


def same_each_time(batches: Any) -> Any:
    """The validation batches; those of a `DataGenerator` are the same each time they are read."""
    return batches.repeated() if isinstance(batches, DataGenerator) else batches


def refuse_weights(class_weight: Any = None, sample_weight: Any = None, **others: Any) -> None:
    """Refuses the weights that `fit` takes in Keras: an image has objects of several classes, and five losses.

    Raises:
        ValueError: with the settings that do what was probably meant.
    """
    if class_weight is not None:
        raise ValueError(
            "class_weight has no effect on the losses of Mask R-CNN. Set Config.CLASS_WEIGHTS, a weight for each class"
            " with the background first, or Config.FOCAL_LOSS_GAMMA."
        )
    if sample_weight is not None:
        raise ValueError(
            "sample_weight has no effect on the losses of Mask R-CNN, which are means over anchors and RoIs. To show"
            " images more often, add them to the dataset several times; Config.CLASS_WEIGHTS weighs classes, and"
            " Config.LOSS_WEIGHTS the five losses."
        )


def without_empty_targets(batches: Any) -> Any:
    """Generators of matterport's kind yield `[inputs], []`; Keras 3 wants `((inputs),)`. Other data stay as given."""
    if not isinstance(batches, Iterator):
        return batches
    return ((tuple(batch[0]),) if len(batch) > 1 and len(batch[1]) == 0 else batch for batch in batches)


def evaluate_arguments(x: Any, kwargs: dict, devices: Devices) -> Any:
    """Completes the arguments of `evaluate` for a `DataGenerator`; returns what `evaluate` runs on."""
    refuse_weights(**kwargs)
    watch_workers(kwargs, x)
    x, steps = stream_of(same_each_time(x), devices)
    if kwargs.get("steps") is None:
        kwargs["steps"] = steps
    return x
