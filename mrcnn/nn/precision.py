"""In which numbers the network computes: `Config.COMPUTE_DTYPE`.

Weights are float32 whatever is chosen, in memory and in files. Convolutions and matrix products compute in the type
chosen. What must not be rounded so coarsely says so itself (`dtype="float32"`): probabilities, box deltas, proposals,
NMS, targets, losses.
"""

from __future__ import annotations

import contextlib

import keras


@contextlib.contextmanager
def computing_in(name: str):
    """Layers made inside compute in `name`.

    Args:
        name: of a Keras dtype policy: "mixed_bfloat16", "mixed_float16", or "float32", which leaves Keras's own policy
            as it is: float32, unless `keras.config.set_dtype_policy` was called.
    """
    before = keras.config.dtype_policy()
    if name != "float32":
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
