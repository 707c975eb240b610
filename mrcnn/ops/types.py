"""Names for type hints."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # a tensor of any Keras backend, a NumPy array, or a symbolic `keras.KerasTensor`
