"""LiteRT, formerly TensorFlow Lite: a `.tflite` file for phones, small computers and accelerators.

The file holds built-in operations only. Its batch size is fixed: accelerators and XNNPACK, LiteRT's fast kernels for
CPUs, need fixed shapes.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mrcnn.export import saved_model
from mrcnn.export.network import Network

SUFFIX = ".tflite"
FIXED_SHAPES = True


def write(network: Network, path: Path) -> None:
    """Writes `network` to the file `path`."""
    import tensorflow as tf

    with TemporaryDirectory() as folder:  # a model that isn't converted from a SavedModel has no signature
        saved_model.write(network, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path.write_bytes(converter.convert())
