"""`Config.COMPUTE_DTYPE`: the number format that the network computes in.

Weights are float32 for every choice, in memory and in files. Convolutions and matrix products compute in the chosen
format. Layers that need more precision set `dtype="float32"` themselves: probabilities, box deltas, proposals, NMS,
targets and losses.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator

import keras

from mrcnn import processor
from mrcnn.ops.kernels import has_accelerator
from mrcnn.tensorflow_private import onednn_is_on

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def computing_in(name: str) -> Iterator[None]:
    """Context in which new layers compute in `name`.

    Args:
        name: Keras dtype policy: "mixed_bfloat16", "mixed_float16" or "float32". "float32" leaves Keras's global
            policy as it is, which is float32 unless `keras.config.set_dtype_policy` was called.

    Example:
        >>> with computing_in("mixed_bfloat16"):
        ...     keras.layers.Dense(1).compute_dtype
        'bfloat16'
    """
    before = keras.config.dtype_policy()
    if name != "float32":
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def warn_if_slow(dtype: str, flags: frozenset[str] | None = None, accelerator: bool | None = None) -> None:
    """Warns if the network will run on a CPU that has no instructions for `dtype`.

    Args:
        dtype: `Config.COMPUTE_DTYPE`.
        flags: the CPU's instruction sets, as `processor.cpu_flags` returns them; None: unknown, no warning.
        accelerator: whether there is a GPU or TPU; None: as the backend says.
    """
    reason = processor.slow_dtype(dtype, flags)
    if reason is not None and not (has_accelerator() if accelerator is None else accelerator):
        warnings.warn(reason, UserWarning, stacklevel=3)


@functools.cache
def log_processor() -> None:
    """Logs once, at INFO, what the CPU has and which convolution gradients follow from it (docs/processors.md)."""
    if keras.backend.backend() != "tensorflow":
        return
    on = onednn_is_on()
    logger.info(
        "CPU with %s; TensorFlow computes %s oneDNN; convolution gradients are chosen for that. "
        "Set TF_ENABLE_ONEDNN_OPTS=%d before the first import to change it.",
        processor.describe(processor.cpu_flags()), "with" if on else "without", not on,
    )  # fmt: skip
