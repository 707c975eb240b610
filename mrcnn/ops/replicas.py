"""Communication between devices that share a batch under `tf.distribute`.

`tf.distribute` runs the same code once per device, as a "replica", each with its share of the batch. A mean over the
whole batch then needs the sums of all shares, and random numbers must not depend on how the batch was split. On one
device, and on JAX, where the program is written for the whole batch and the compiler splits it, these functions change
nothing.

Shapes: B images of the whole batch, b of them on this device.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from mrcnn.ops.types import Tensor


def count() -> int:
    """The number of replicas that run this code together, each with a share of the batch."""
    replica = _replica_context()
    return 1 if replica is None else replica.num_replicas_in_sync


def total(share: Tensor) -> Tensor:
    """The sum of a tensor over all shares of the batch, for every replica. No gradient flows through it."""
    replica = _replica_context()
    return share if replica is None else ops.stop_gradient(replica.all_reduce("SUM", share))


def scaled_total(share: Tensor) -> Tensor:
    """A loss as Keras expects it from a replica: `total(share) / count()`. Keras reports it times `count()`.

    Its gradient is that of the share. Keras adds the gradients of all replicas, which gives that of the total.
    """
    return share if _replica_context() is None else share + ops.stop_gradient(total(share) / count() - share)


def uniform(shape: Sequence[int], seed: keras.random.SeedGenerator | int) -> Tensor:
    """`keras.random.uniform([b, ...])`: each image gets the numbers it would get if one device had the whole batch."""
    replica = _replica_context()
    if replica is None:
        return keras.random.uniform(shape, seed=seed)
    here = ops.cast(shape[0], "int32")
    sizes = total(ops.one_hot(replica.replica_id_in_sync_group, count(), dtype="int32") * here)  # [replicas]
    first = ops.sum(ops.where(ops.arange(count()) < replica.replica_id_in_sync_group, sizes, 0))
    drawn = keras.random.uniform((ops.sum(sizes), *shape[1:]), seed=seed)  # [B, ...]
    return drawn[first : first + here]


def _replica_context():
    """The context of this replica in `tf.distribute` if there are several, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None
