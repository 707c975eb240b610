"""OpenVINO: a `.xml` file and its weights in a `.bin` file beside it, for Intel's processors.

It is made from the SavedModel. OpenVINO can also read LiteRT's files, but not the loops of the ONNX file.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mrcnn.export import saved_model
from mrcnn.export.export_graphs import Network

SUFFIX = ".xml"
FIXED_SHAPES = True


def write(network: Network, path: Path) -> None:
    """Writes `network` to `path` and to a file beside it that ends in ".bin".

    Raises:
        ImportError: OpenVINO is missing.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError('This format needs OpenVINO: pip install "mrcnn[export]"') from error
    with TemporaryDirectory() as folder:
        saved_model.write(network, Path(folder) / "model")
        converted = openvino.convert_model(f"{folder}/model")
        openvino.save_model(converted, path, compress_to_fp16=False)
