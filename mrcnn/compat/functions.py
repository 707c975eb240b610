"""Small functions of matterport's `model` and `utils` that only old scripts call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from mrcnn.ops.types import Tensor

if TYPE_CHECKING:
    from mrcnn.config import Config


def log(text: str, array: np.ndarray | None = None) -> None:
    """Prints a text and, if an array is given, its shape, range and type."""
    if array is not None:
        low, high = (array.min(), array.max()) if array.size else ("", "")
        span = f"min: {low:10.5f}  max: {high:10.5f}" if array.size else "min: -  max: -"
        text = f"{text:25}  shape: {array.shape!s:20}  {span}  {array.dtype}"
    print(text)


def batch_pack_graph(x: Tensor, counts: Tensor, num_rows: int) -> Tensor:
    """Joins the first `counts[i]` rows of each `x[i]`, i < num_rows: [B, N, ...] -> [sum(counts), ...]."""
    return ops.concatenate([x[i, : counts[i]] for i in range(num_rows)], axis=0)


def mold_mask(mask: np.ndarray, config: Config) -> None:
    """Does nothing and returns None, as in matterport's code. Use `minimize_mask` to shrink masks."""


def batch_slice(inputs: Tensor, graph_fn: Callable, batch_size: int, names: Sequence[str] | None = None) -> Any:
    """Applies a function to each image of a batch. The layers of this package work on whole batches and do not use it.

    Args:
        inputs: Tensor [B, ...] or list of them.
        graph_fn: Function that takes one slice of each input and returns a tensor or a list of tensors.
        batch_size: B, an int.
        names: Names of the outputs; unused, because tensors have no names in Keras 3.

    Returns:
        The outputs, stacked to [B, ...]: a list, or the tensor itself if there is only one.
    """
    del names
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    outputs = [graph_fn(*[x[i] for x in inputs]) for i in range(batch_size)]
    outputs = [o if isinstance(o, (list, tuple)) else [o] for o in outputs]
    stacked = [ops.stack(parts, axis=0) for parts in zip(*outputs)]
    return stacked[0] if len(stacked) == 1 else stacked
