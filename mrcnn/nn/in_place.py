"""Layers that write their result into an input that nobody reads afterwards: for detection under PyTorch.

PyTorch runs layers one by one, and each new map is memory that must be fetched and cleared (docs/processors.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.folding import FoldedConv2D
from mrcnn.nn.norm import BatchNorm, TimeDistributed
from mrcnn.ops.types import Tensor

# Layers whose output is a tensor of its own. Others may return their input, or a view of it.
WITH_NEW_OUTPUT = (Conv2D, FoldedConv2D, BatchNorm, layers.Conv2D, layers.BatchNormalization, layers.Add)


def write_into_input(layer: keras.layers.Layer, unused: Sequence[keras.layers.Layer | None]) -> Callable[..., Any]:
    """What to call instead of a layer, for `keras_private.free_outputs_early`.

    Args:
        layer: A ReLU or an addition of two maps; others are returned as they are.
        unused: The layer that computed each input, if nothing else reads that input.
    """
    free = [source is not None and _has_new_output(source, layer) for source in unused]
    inner = layer.layer if isinstance(layer, TimeDistributed) else layer
    if type(inner) is layers.Activation and inner.activation is keras.activations.relu and free[0]:
        return lambda x: x.relu_()
    if type(inner) is layers.Add and len(free) == 2 and any(free):
        place = free.index(True)
        return lambda inputs: _add(inputs[place], inputs[1 - place])
    return layer


def _has_new_output(source, layer) -> bool:
    """Whether the output of `source` is a tensor of its own with the dtype that `layer` computes in."""
    inner = source.layer if isinstance(source, TimeDistributed) else source
    return isinstance(inner, WITH_NEW_OUTPUT) and source.compute_dtype == layer.compute_dtype


def _add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, in the memory of x if it has the shape of the result."""
    return x.add_(y) if x.shape == y.shape else ops.add(x, y)
