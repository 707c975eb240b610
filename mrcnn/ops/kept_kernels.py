"""Kernels in the form that a convolution needs, kept from call to call: for PyTorch on a CPU.

Keras keeps kernels as [h, w, C, F]. PyTorch's convolution wants [F, C, h, w] in the memory order [F, h, w, C], and
otherwise converts them at each call, which takes up to half of its time where the map is small (docs/processors.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from mrcnn.ops.types import Tensor


class KeptKernels:
    """What a function computes from weights, kept until one of them changes.

    A change is recognized by PyTorch's version counter, by the address, and by the sum of the values, which also sees
    what is written through `weight.data`.
    """

    def __init__(self):
        self._state: list | None = None
        self._kernels: Any = None

    def get(self, weights: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Returns `compute()`, or what it returned at the last call if the weights are the same.

        With other backends, on other devices and when gradients are recorded, nothing is kept.

        Args:
            weights: Variables or tensors that `compute` reads; None is ignored.
            compute: Returns a tensor or a tuple of them.
        """
        weights = [weight for weight in weights if weight is not None]
        if not can_keep(weights):
            return compute()
        weights = [ops.convert_to_tensor(weight) for weight in weights]
        state = [(weight.data_ptr(), weight._version, float(weight.sum())) for weight in weights]
        if state != self._state:
            self._kernels, self._state = compute(), state
        return self._kernels


def can_keep(weights: Sequence[Any]) -> bool:
    """Whether the backend is PyTorch, on a CPU, no gradients are recorded, and changes of the weights are counted."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    if torch.is_grad_enabled():
        return False
    weights = [ops.convert_to_tensor(weight) for weight in weights]
    return all(weight.device.type == "cpu" and not weight.is_inference() for weight in weights)


def has_avx512() -> bool:
    """Whether PyTorch uses AVX-512. Without it, oneDNN's convolution with a kernel as large as its map is slow."""
    import torch

    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def in_convolution_order(kernel: Tensor) -> Tensor:
    """A kernel [h, w, C, F] in the memory order [F, h, w, C] under PyTorch; otherwise unchanged."""
    if keras.backend.backend() != "torch":
        return kernel
    import torch

    kernel = ops.convert_to_tensor(kernel).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return kernel.permute(2, 3, 1, 0)
