"""TensorFlow's SavedModel: a folder, for TensorFlow Serving and programs in TensorFlow."""

from __future__ import annotations

from pathlib import Path

from mrcnn.export.export_graphs import Network

SUFFIX = ""
FIXED_SHAPES = False


def write(network: Network, path: Path) -> None:
    """Writes `network` to the folder `path`; its only signature is "serving_default"."""
    import tensorflow as tf

    module = tf.Module()
    module.serve = network.traced()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
