"""Which devices share the batches of a model, and what has to be done differently because they do.

One machine: `Config.GPU_COUNT` or `MaskRCNN(strategy=...)`, by TensorFlow's MirroredStrategy or, on JAX, Keras's
DataParallel. Many machines: JAX, a process on each (docs/scaling.md), which loads its share of every batch. Process 0
writes the files.

However many devices there are, a batch has the loss and the gradient that it has on one. On JAX the program is written
for the whole batch and the compiler sees to it. TensorFlow's replicas see their share only: see `ops.replicas` for the
losses and the sampling, and `Devices.add_before_clipping`.
"""

from __future__ import annotations

import contextlib

import keras
import numpy as np


class Devices:
    """The devices that share a batch.

    Args:
        strategy: `tf.distribute.Strategy` or `keras.distribution.Distribution`; None: one device.
        count: int, the shares that a batch is cut into.
        process, processes: int, which process this is, of how many.
    """

    def __init__(self, strategy=None, count=1, process=0, processes=1):
        self.strategy, self.count, self.process, self.processes = strategy, count, process, processes
        self._predictor = (None, None)  # the model that predicted last, and how

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.process == 0

    @property
    def shard(self) -> tuple[int, int]:
        """`DataGenerator(shard=...)` of this process."""
        return self.process, self.processes

    def scope(self):
        """A context: variables made in it lie on the devices, batches trained on in it are spread over them."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def agree(self, number: int) -> int:
        """Process 0's number, below 2**31, in each process."""
        if self.processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def check_batches(self, batches) -> None:
        """Refuses a `DataGenerator` whose batches these devices can't share.

        Raises:
            ValueError: it is not this process's shard; or a batch can't be cut into a share for each device. TensorFlow
                takes shares of several sizes, JAX equal ones only.
        """
        if batches.shard != self.shard:
            raise ValueError(
                f"The DataGenerator has shard={batches.shard}; this is process {self.process} of {self.processes}, so"
                f" expected shard={self.shard}, and the same seed in all of them. train() sees to that."
            )
        equal = keras.backend.backend() == "jax"
        for size in (batches.batch_size, batches.last_batch_size):
            if size < self.count or (equal and size % self.count):
                raise ValueError(
                    f"A batch of {size} images can't be shared by {self.count} devices; expected"
                    f" {'a multiple' if equal else 'as many images or more'}. Set the batch size so, and give the"
                    " DataGenerator `steps`, with which all batches are full."
                )

    # ---- Predicting ----------------------------------------------------------------------------------------------
    def predict(self, model, inputs: list) -> list:
        """`model.predict_on_batch(inputs)`, with the batch spread over the devices.

        Of several processes each predicts its own batch, without the others.
        """
        known, predict = self._predictor
        if known is not model:
            predict = self._make_predictor(model)
            self._predictor = (model, predict)
        return predict(inputs)

    def _make_predictor(self, model):
        if self.count == 1 and self.processes == 1:
            return model.predict_on_batch
        if keras.backend.backend() == "tensorflow":
            return _replicas_predictor(model, self.strategy)
        if self.processes > 1:
            return _own_predictor(model)
        return _sharded_predictor(model, self.strategy)

    # ---- The optimizer -------------------------------------------------------------------------------------------
    def adopt(self, optimizer):
        """The optimizer, made anew from its config if it was made for one device."""
        if self.count == 1 or self._lies_here(optimizer.variables[0]):
            return optimizer
        return type(optimizer).from_config(optimizer.get_config())

    def add_before_clipping(self, optimizer) -> None:
        """Sees to it that under TensorFlow gradients are added up before they are clipped.

        Keras clips the part of each replica and adds what is left, which is another step.
        """
        several = self.count > 1 and keras.backend.backend() == "tensorflow"
        if several and not hasattr(optimizer, "_adds_before_clipping"):
            _add_before_clipping(optimizer)

    def _lies_here(self, variable) -> bool:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return isinstance(variable.value, tf.distribute.DistributedValues)
        return len(variable.value.sharding.device_set) == self.strategy.device_mesh.devices.size


def _add_before_clipping(optimizer) -> None:
    """Lets `optimizer.apply_gradients` in a replica first add up the gradients of all of them.

    Replica 0 then has the sum and the others zeros; each clips what it has, and Keras adds them up again: the clipped
    sum. (Where a gradient is nan or inf, so are the others' zeros: all replicas skip a step, or none.)
    """
    import tensorflow as tf

    apply = optimizer.apply_gradients

    def apply_added(grads_and_vars):
        grads_and_vars = list(grads_and_vars)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return apply(grads_and_vars)
        there = [i for i, (gradient, _) in enumerate(grads_and_vars) if gradient is not None]
        added = replica.all_reduce("SUM", [tf.convert_to_tensor(grads_and_vars[i][0]) for i in there])
        mine = tf.equal(replica.replica_id_in_sync_group, 0)
        for i, gradient in zip(there, added):
            grads_and_vars[i] = (gradient * tf.cast(mine, gradient.dtype), grads_and_vars[i][1])
        return apply(grads_and_vars)

    optimizer.apply_gradients = apply_added
    optimizer._adds_before_clipping = True


def _replicas_predictor(model, strategy):
    """TensorFlow: each replica predicts a part of the batch. Of fewer images than replicas the first predicts all."""
    import tensorflow as tf

    def run(*inputs):
        return model(list(inputs), training=False)

    alone = tf.function(run, reduce_retracing=True)
    together = tf.function(lambda *parts: strategy.run(run, args=parts), reduce_retracing=True)
    count = strategy.num_replicas_in_sync

    def predict(inputs):
        if len(inputs[0]) < count:
            return [output.numpy() for output in alone(*map(tf.convert_to_tensor, inputs))]
        parts = [np.array_split(array, count) for array in inputs]
        placed = [
            strategy.experimental_distribute_values_from_function(
                lambda replica, part=part: tf.convert_to_tensor(part[replica.replica_id_in_sync_group])
            )
            for part in parts
        ]
        results = (strategy.experimental_local_results(output) for output in together(*placed))
        return [np.concatenate([part.numpy() for part in result]) for result in results]

    return predict


def _sharded_predictor(model, strategy):
    """JAX, one process: the batch lies on the devices in parts, where it divides; else each has all of it."""
    import jax

    def predict(inputs):
        if len(inputs[0]) % strategy.num_model_replicas == 0:
            layouts = [strategy.get_data_layout(array.shape).backend_layout for array in inputs]
            inputs = [jax.device_put(array, layout) for array, layout in zip(inputs, layouts)]
        return model.predict_on_batch(inputs)

    return predict


def _own_predictor(model):
    """JAX, several processes: on this process's first device, with its copy of the weights."""
    import jax

    step = jax.jit(lambda trained, others, inputs: model.stateless_call(trained, others, inputs, training=False)[0])

    def predict(inputs):
        variables = model.trainable_variables, model.non_trainable_variables
        local = [[variable.value.addressable_data(0) for variable in some] for some in variables]
        return [np.asarray(output) for output in step(*local, inputs)]

    return predict


# ---- Which devices ---------------------------------------------------------------------------------------------------
def find_devices(config, strategy=None) -> Devices:
    """The devices that shall share the batches of a new model.

    Args:
        config: `Config`. With GPU_COUNT above 1 and no strategy: as many of the machine's devices as there are, at
            most GPU_COUNT and so many that BATCH_SIZE divides. GPUs; or CPUs, if it was split into several.
        strategy: `tf.distribute.Strategy`, `keras.distribution.DataParallel` or `ModelParallel`; or None. One whose
            scope is open counts as given.

    Raises:
        ValueError: the strategy is another backend's, or can't work, or can't share BATCH_SIZE.
    """
    find = {"tensorflow": _of_tensorflow, "jax": _of_jax}.get(keras.backend.backend())
    if find is not None:
        return find(config, strategy)
    if strategy is not None:
        raise ValueError(
            f"strategy is {strategy!r}, but with the backend {keras.backend.backend()!r} a model has one device. Use"
            " KERAS_BACKEND=tensorflow or jax."
        )
    return Devices()


def _of_tensorflow(config, strategy) -> Devices:
    import tensorflow as tf

    if strategy is None and tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
    if strategy is None and config.GPU_COUNT > 1:
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        count = _dividing(config, len(found))
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


def _of_jax(config, strategy) -> Devices:
    import jax

    process, processes = jax.process_index(), jax.process_count()
    strategy = strategy or keras.distribution.distribution()
    if strategy is None:
        names = keras.distribution.list_devices()  # of all processes
        count = len(names) if processes > 1 else _dividing(config, len(names))
        if count == 1:
            return Devices()
        strategy = keras.distribution.DataParallel(devices=names[:count], auto_shard_dataset=False)
    if not isinstance(strategy, (keras.distribution.DataParallel, keras.distribution.ModelParallel)):
        raise ValueError(
            f"strategy is {strategy!r}; expected keras.distribution.DataParallel or ModelParallel: the backend is JAX."
        )
    strategy.auto_shard_dataset = False  # each process's DataGenerator gives its own shard
    count = strategy.num_model_replicas
    if config.BATCH_SIZE % count:
        raise ValueError(
            f"{type(config).__name__}.BATCH_SIZE is {config.BATCH_SIZE} (GPU_COUNT x IMAGES_PER_GPU); expected a"
            f" multiple of {count}, the devices that share it. Set GPU_COUNT = {count}."
        )
    devices = Devices(strategy, count, process, processes)
    if processes > 1:  # new weights are drawn in each process, and must be the same
        keras.utils.set_random_seed(devices.agree(int(np.random.randint(2**31))))
    return devices


def _dividing(config, available: int) -> int:
    """The most devices, of those available and at most GPU_COUNT, that share BATCH_SIZE evenly."""
    return max(n for n in range(1, min(available, config.GPU_COUNT) + 1) if config.BATCH_SIZE % n == 0)
