"""ONNX, for onnxruntime on servers, desktops, phones and in browsers.

The converter is tf2onnx. All operations are ONNX's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from mrcnn.export.export_graphs import Network

SUFFIX = ".onnx"
FIXED_SHAPES = False
OPSET = 17  # of 2022; every current runtime reads it


def write(network: Network, path: Path) -> None:
    """Writes `network` to `path`.

    Raises:
        ImportError: tf2onnx is missing.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ImportError('ONNX needs tf2onnx and onnx: pip install "mrcnn[export]"') from error
    traced = network.traced()
    # Otherwise tf2onnx copies the whole graph, weights included, before each of its 36 optimizations.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    tf2onnx.convert.from_function(traced, traced.input_signature, opset=OPSET, output_path=str(path))
