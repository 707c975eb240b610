"""Names for type hints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Tensor: TypeAlias = Any  # a tensor of any Keras backend, a NumPy array, or a symbolic `keras.KerasTensor`
Images: TypeAlias = Sequence[np.ndarray | str | Path] | np.ndarray | str | Path  # images, paths, or one path
