"""A batch on several devices under TensorFlow: what each device must know of the other ones' shares.

`tf.distribute` runs the same code once on each device, as a "replica", each with its share of the batch. A mean over
the whole batch then needs the sums of all shares, and numbers drawn for the images must not depend on how the batch was
cut. On one device, and on JAX, where the program is written for the whole batch and the compiler cuts it, these
functions change nothing.

Shapes: B images of the whole batch, b of them here.
"""

from __future__ import annotations

import keras
from keras import ops


def count() -> int:
    """How many replicas run this code together, each with a share of the batch."""
    replica = _replica()
    return 1 if replica is None else replica.num_replicas_in_sync


def total(share):
    """The sum of a tensor over all shares of the batch, for every replica. Constant to the optimiser."""
    replica = _replica()
    return share if replica is None else ops.stop_gradient(replica.all_reduce("SUM", share))


def scaled_total(share):
    """A loss as Keras wants it of a replica: `total(share) / count()`. It reports that times the count.

    The gradient is that of the share. Keras adds the gradients of all replicas, which makes that of the total.
    """
    return share if _replica() is None else share + ops.stop_gradient(total(share) / count() - share)


def uniform(shape, seed):
    """`keras.random.uniform([b, ...])`: for each image the numbers that it would get were the batch on one device."""
    replica = _replica()
    if replica is None:
        return keras.random.uniform(shape, seed=seed)
    here = ops.cast(shape[0], "int32")
    sizes = total(ops.one_hot(replica.replica_id_in_sync_group, count(), dtype="int32") * here)  # [replicas]
    first = ops.sum(ops.where(ops.arange(count()) < replica.replica_id_in_sync_group, sizes, 0))
    drawn = keras.random.uniform((ops.sum(sizes), *shape[1:]), seed=seed)  # [B, ...]
    return drawn[first : first + here]


def _replica():
    """`tf.distribute`'s context of this replica, if there are several; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None
