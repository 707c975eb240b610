"""LiteRT, formerly TensorFlow Lite: a `.tflite` file for phones, small computers and accelerators.

The file holds built-in operations only. Its batch size is fixed: accelerators and XNNPACK, LiteRT's fast kernels for
CPUs, need fixed shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mrcnn.export import saved_model
from mrcnn.export.export_graphs import Network

SUFFIX = ".tflite"
FIXED_SHAPES = True


def write(network: Network, path: Path, representative: Sequence[dict[str, np.ndarray]] | None = None) -> None:
    """Writes `network` to the file `path`.

    Args:
        network: What to write.
        path: The file.
        representative: Inputs by name. If given, convolutions and fully connected layers are quantized to int8, weights
            and activations, with the ranges that these inputs give. Boxes, NMS and RoIAlign stay float32.

    Raises:
        ImportError: `representative` is given, and ai-edge-quantizer is missing.
    """
    import tensorflow as tf

    with TemporaryDirectory() as folder:  # a model that isn't converted from a SavedModel has no signature
        saved_model.write(network, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converted = converter.convert()
    path.write_bytes(converted if representative is None else _quantized(converted, representative))


def _quantized(model: bytes, representative: Sequence[dict[str, np.ndarray]]) -> bytes:
    """TensorFlow's own quantization crashes while it measures ranges, and it would quantize boxes too."""
    try:
        from ai_edge_quantizer import calibrator, quantizer, recipe_manager
        from ai_edge_quantizer.qtyping import TFLOperationName
    except ImportError as error:
        raise ImportError('int8 needs ai-edge-quantizer: pip install "mrcnn[export]"') from error
    recipe = recipe_manager.RecipeManager()
    for operation in (TFLOperationName.CONV_2D, TFLOperationName.FULLY_CONNECTED):
        recipe.add_static_config(regex=".*", operation_name=operation, activation_num_bits=8, weight_num_bits=8)
    quantizer = quantizer.Quantizer(model, recipe.get_quantization_recipe())
    # The other mode of calibration reads all tensors, but those in the loops of the NMS have no data after a run.
    profiler = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED
    ranges = quantizer.calibrate({"serving_default": representative}, mode=profiler)
    return bytes(quantizer.quantize(ranges).quantized_model)
