"""Exports for other runtimes: ONNX, LiteRT, SavedModel and OpenVINO, each compared with Keras before it is written.

Beside the model, an export writes `<model>.json` with its settings, `mrcnn_runtime.py`, which runs it on photos without
this package, and `parity.json`, which says how far its results are from those of Keras.
"""

from mrcnn.export.export import EXPORT_FORMATS, ParityError, export_model

__all__ = ["EXPORT_FORMATS", "ParityError", "export_model"]
