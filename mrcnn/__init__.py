"""Mask R-CNN on Keras 3: finds objects in images, and draws a box, a class and a pixel mask for each.

    from mrcnn import model as modellib, utils, visualize
    from mrcnn.config import Config

Importing the package loads nothing heavy: TensorFlow comes with `mrcnn.model`.
"""

from __future__ import annotations

import numpy as _np

__version__ = "1.0.0"


def _restore_sctypes() -> None:
    """Gives NumPy 2 the table `np.sctypes` back, without which imgaug 0.4.0 (its last release) can't be imported."""
    if hasattr(_np, "sctypes"):
        return
    _np.sctypes = {
        "int": [_np.int8, _np.int16, _np.int32, _np.int64],
        "uint": [_np.uint8, _np.uint16, _np.uint32, _np.uint64],
        "float": [_np.float16, _np.float32, _np.float64, _np.longdouble],
        "complex": [_np.complex64, _np.complex128, _np.clongdouble],
        "others": [bool, object, bytes, str, _np.void],
    }


_restore_sctypes()
