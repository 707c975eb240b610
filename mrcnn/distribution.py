"""Data-parallel training and prediction on several devices.

One machine: `Config.GPU_COUNT` or `MaskRCNN(strategy=...)`, with TensorFlow's MirroredStrategy or, on JAX, Keras's
DataParallel. Several machines: JAX, one process per machine (docs/scaling.md). Each process loads its shard of every
batch; process 0 writes the files.

The number of devices does not change the loss or the gradient of a batch. On JAX the program is written for the
whole batch, and the compiler splits it. TensorFlow's replicas see only their share of the batch: `ops.replicas` handles
the losses and the sampling, `Devices.add_before_clipping` the gradients.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Predictor = Callable[[list[np.ndarray]], list[np.ndarray]]


class Devices:
    """The devices that share each batch.

    Args:
        strategy: `tf.distribute.Strategy` or `keras.distribution.Distribution`; None: one device.
        count: Number of shares that a batch is split into.
        process: Index of this process.
        processes: Number of processes.

    Example:
        >>> Devices().count, Devices().writes, Devices().shard
        (1, True, (0, 1))
    """

    def __init__(self, strategy: Any = None, count: int = 1, process: int = 0, processes: int = 1):
        self.strategy, self.count, self.process, self.processes = strategy, count, process, processes
        self._predictor = (None, None)  # the last model that predicted, and its function

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints: process 0."""
        return self.process == 0

    @property
    def shard(self) -> tuple[int, int]:
        """The `DataGenerator(shard=...)` of this process: (index, count)."""
        return self.process, self.processes

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context in which variables are created on the devices and `fit` splits batches among them."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def agree(self, number: int) -> int:
        """Returns process 0's `number` (below 2**31) in all processes."""
        if self.processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def largest(self, number: int) -> int:
        """Returns the largest of the processes' numbers (below 2**31) in all processes."""
        if self.processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(number)).max())

    def gather(self, data: bytes) -> list[bytes]:
        """Returns each process's `data` in all processes."""
        if self.processes == 1:
            return [data]
        from jax.experimental import multihost_utils

        sizes = multihost_utils.process_allgather(np.int32(len(data)))
        padded = np.zeros(max(sizes.max(), 1), np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows = multihost_utils.process_allgather(padded)  # [processes, bytes]
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]

    def broadcast(self, data: bytes) -> bytes:
        """Returns process 0's `data` in all processes."""
        if self.processes == 1:
            return data
        from jax.experimental import multihost_utils

        size = int(self.gather(str(len(data)).encode())[0])  # not by `agree`: files may have more than 2**31 bytes
        own = np.frombuffer(data, np.uint8) if self.process == 0 else np.zeros(size, np.uint8)
        return multihost_utils.broadcast_one_to_all(own).tobytes() if size else b""

    def check_same(self, value: str, description: str) -> None:
        """Checks that all processes call this with the same `value`.

        Args:
            value: What is compared.
            description: For the message: what this process does, such as "loads coco.h5".

        Raises:
            ValueError: In all processes, with the descriptions.
        """
        found = [json.loads(data) for data in self.gather(json.dumps([value, description]).encode())]
        if len({value for value, _ in found}) == 1:
            return
        processes: dict[str, list[str]] = {}
        for number, (_, text) in enumerate(found):
            processes.setdefault(text, []).append(str(number))
        raise ValueError(
            f"The {len(found)} processes of this training differ: "
            + "; ".join(f"process {', '.join(numbers)} {text}" for text, numbers in processes.items())
            + ". Expected the same script and the same files in all of them. Keep `model_dir` and weights on a file"
            " system that all machines see."
        )

    def check_same_file(self, path: str | os.PathLike) -> None:
        """Checks that all processes are about to read a file with the same content.

        Raises:
            ValueError: In all processes, with the path and checksum that each has.
        """
        if self.processes == 1:
            return
        found = "not a file"
        if os.path.isfile(path):
            with open(path, "rb") as file:
                found = f"SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
        self.check_same(found, f"loads {os.fspath(path)} ({found})")

    def holds(self, variable: keras.Variable) -> bool:
        """Whether this process has the whole value of a variable, and not only the part of its devices."""
        return self.processes == 1 or variable.value.is_fully_replicated

    def check_batches(self, batches: Any) -> None:
        """Checks that these devices can share the batches of a `DataGenerator`.

        Raises:
            ValueError: The generator has another process's shard, or a batch can't be split among the devices.
                TensorFlow accepts shares of different sizes, JAX only equal ones.
        """
        if batches.shard != self.shard:
            raise ValueError(
                f"The DataGenerator has shard={batches.shard}; this is process {self.process} of {self.processes}, so"
                f" expected shard={self.shard}, and the same seed in all processes. train() sets both."
            )
        equal = keras.backend.backend() == "jax"
        for size in (batches.batch_size, batches.last_batch_size):
            if size < self.count or (equal and size % self.count):
                raise ValueError(
                    f"A batch of {size} images can't be shared by {self.count} devices; expected"
                    f" {'a multiple' if equal else 'at least as many images'}. Change the batch size, and pass `steps`"
                    " to the DataGenerator, which makes all batches full."
                )

    # ---- Predicting ----------------------------------------------------------------------------------------------
    def predict(self, model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs `model.predict_on_batch(inputs)` with the batch split among the devices.

        With several processes, each predicts its own batch independently.
        """
        known, predict = self._predictor
        if known is not model:
            predict = self._make_predictor(model)
            self._predictor = (model, predict)
        return predict(inputs)

    def _make_predictor(self, model: keras.Model) -> Predictor:
        if self.count == 1 and self.processes == 1:
            return model.predict_on_batch
        if keras.backend.backend() == "tensorflow":
            return _replicas_predictor(model, self.strategy)
        if self.processes > 1:
            return _process_predictor(model)
        return _sharded_predictor(model, self.strategy)

    # ---- The optimizer -------------------------------------------------------------------------------------------
    def adopt(self, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        """Returns the optimizer, or a copy on these devices if its variables are on one device."""
        if self.count == 1 or self._is_placed(optimizer.variables[0]):
            return optimizer
        return type(optimizer).from_config(optimizer.get_config())

    def add_before_clipping(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Makes the optimizer sum the gradients of TensorFlow's replicas before it clips them.

        Keras clips the gradient of each replica and sums the results, which gives another update than one device.
        """
        several = self.count > 1 and keras.backend.backend() == "tensorflow"
        if several and not hasattr(optimizer, "_adds_before_clipping"):
            _add_before_clipping(optimizer)

    def _is_placed(self, variable: keras.Variable) -> bool:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return isinstance(variable.value, tf.distribute.DistributedValues)
        return len(variable.value.sharding.device_set) == self.strategy.device_mesh.devices.size


def _add_before_clipping(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes `optimizer.apply_gradients` sum the gradients of all replicas first.

    Replica 0 then has the sum and the others have zeros; each clips its own, and Keras sums them again, which gives
    the clipped sum. (NaN or inf times 0 is NaN, so a step is skipped by all replicas or by none.)
    """
    import tensorflow as tf

    apply = optimizer.apply_gradients

    def apply_summed(grads_and_vars):
        grads_and_vars = list(grads_and_vars)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return apply(grads_and_vars)
        present = [i for i, (gradient, _) in enumerate(grads_and_vars) if gradient is not None]
        summed = replica.all_reduce("SUM", [tf.convert_to_tensor(grads_and_vars[i][0]) for i in present])
        is_first = tf.equal(replica.replica_id_in_sync_group, 0)
        for i, gradient in zip(present, summed):
            grads_and_vars[i] = (gradient * tf.cast(is_first, gradient.dtype), grads_and_vars[i][1])
        return apply(grads_and_vars)

    optimizer.apply_gradients = apply_summed
    optimizer._adds_before_clipping = True


def _replicas_predictor(model: keras.Model, strategy: Any) -> Predictor:
    """TensorFlow: each replica predicts its share of the batch. A batch smaller than that runs on the first replica."""
    import tensorflow as tf

    def run(*inputs):
        return model(list(inputs), training=False)

    on_one = tf.function(run, reduce_retracing=True)
    on_all = tf.function(lambda *parts: strategy.run(run, args=parts), reduce_retracing=True)
    count = strategy.num_replicas_in_sync

    def predict(inputs):
        if len(inputs[0]) < count:
            return [output.numpy() for output in on_one(*map(tf.convert_to_tensor, inputs))]
        parts = [np.array_split(array, count) for array in inputs]
        placed = [
            strategy.experimental_distribute_values_from_function(
                lambda replica, part=part: tf.convert_to_tensor(part[replica.replica_id_in_sync_group])
            )
            for part in parts
        ]
        results = (strategy.experimental_local_results(output) for output in on_all(*placed))
        return [np.concatenate([part.numpy() for part in result]) for result in results]

    return predict


def _sharded_predictor(model: keras.Model, strategy: Any) -> Predictor:
    """JAX, one process: the batch is split among the devices if it divides evenly, else replicated."""
    import jax

    def predict(inputs):
        if len(inputs[0]) % strategy.num_model_replicas == 0:
            layouts = [strategy.get_data_layout(array.shape).backend_layout for array in inputs]
            inputs = [jax.device_put(array, layout) for array, layout in zip(inputs, layouts)]
        return model.predict_on_batch(inputs)

    return predict


def _process_predictor(model: keras.Model) -> Predictor:
    """JAX, several processes: runs on this process's first device, with its copy of the weights."""
    import jax

    step = jax.jit(lambda trained, others, inputs: model.stateless_call(trained, others, inputs, training=False)[0])

    def predict(inputs):
        variables = model.trainable_variables, model.non_trainable_variables
        local = [[variable.value.addressable_data(0) for variable in some] for some in variables]
        return [np.asarray(output) for output in step(*local, inputs)]

    return predict


# ---- Finding devices -------------------------------------------------------------------------------------------------
def find_devices(config: Any, strategy: Any = None) -> Devices:
    """Chooses the devices of a new model.

    Args:
        config: `Config`. If GPU_COUNT is above 1 and no strategy is given: the machine's GPUs, or its logical CPUs if
            it has no GPU; at most GPU_COUNT of them, and a number that divides BATCH_SIZE.
        strategy: `tf.distribute.Strategy`, `keras.distribution.DataParallel` or `ModelParallel`. None: the strategy
            whose scope is open, if any.

    Raises:
        ValueError: The strategy is for another backend, isn't supported, or can't split BATCH_SIZE.

    Example:
        >>> from mrcnn.config import Config
        >>> find_devices(Config()).count
        1
    """
    find = {"tensorflow": _find_tensorflow_devices, "jax": _find_jax_devices}.get(keras.backend.backend())
    if find is not None:
        return find(config, strategy)
    if strategy is not None:
        raise ValueError(
            f"strategy is {strategy!r}, but with the backend {keras.backend.backend()!r} a model has one device. Use"
            " KERAS_BACKEND=tensorflow or jax."
        )
    return Devices()


def _find_tensorflow_devices(config: Any, strategy: Any) -> Devices:
    import tensorflow as tf

    if strategy is None and tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
    if strategy is None and config.GPU_COUNT > 1:
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        count = _largest_divisor(config, len(found))
        strategy = tf.distribute.MirroredStrategy([device.name for device in found[:count]]) if count > 1 else None
    if strategy is None:
        return Devices()
    if not isinstance(strategy, tf.distribute.Strategy):
        raise ValueError(f"strategy is {strategy!r}; expected a tf.distribute.Strategy, as the backend is TensorFlow.")
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "MultiWorkerMirroredStrategy doesn't work with Keras 3. For many machines use KERAS_BACKEND=jax, see"
            " docs/scaling.md; for the devices of one machine tf.distribute.MirroredStrategy."
        )
    return Devices(strategy, strategy.num_replicas_in_sync)


def _find_jax_devices(config: Any, strategy: Any) -> Devices:
    import jax

    process, processes = jax.process_index(), jax.process_count()
    strategy = strategy or keras.distribution.distribution()
    if strategy is None:
        names = keras.distribution.list_devices()  # of all processes
        count = len(names) if processes > 1 else _largest_divisor(config, len(names))
        if count == 1:
            return Devices()
        strategy = keras.distribution.DataParallel(devices=names[:count], auto_shard_dataset=False)
    if not isinstance(strategy, (keras.distribution.DataParallel, keras.distribution.ModelParallel)):
        raise ValueError(
            f"strategy is {strategy!r}; expected keras.distribution.DataParallel or ModelParallel: the backend is JAX."
        )
    strategy.auto_shard_dataset = False  # each process's DataGenerator loads its own shard
    count = strategy.num_model_replicas
    if config.BATCH_SIZE % count:
        raise ValueError(
            f"{type(config).__name__}.BATCH_SIZE is {config.BATCH_SIZE} (GPU_COUNT x IMAGES_PER_GPU); expected a"
            f" multiple of {count}, the number of devices. Set GPU_COUNT = {count}."
        )
    devices = Devices(strategy, count, process, processes)
    if processes > 1:  # each process draws the initial weights, which must be equal
        keras.utils.set_random_seed(devices.agree(int(np.random.randint(2**31))))
    return devices


def _largest_divisor(config: Any, available: int) -> int:
    """Returns the largest number of devices, up to `available` and GPU_COUNT, that divides BATCH_SIZE."""
    return max(n for n in range(1, min(available, config.GPU_COUNT) + 1) if config.BATCH_SIZE % n == 0)
