"""Writes checkpoints of torchvision and detectron2: the zip archive of torch.save, without PyTorch.

The archive holds a standard state dict, an OrderedDict of tensors, and nothing else. `torch.load(weights_only=True)`
reads it.
"""

from __future__ import annotations

import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from mrcnn.conventions import CONVENTIONS
from mrcnn.io import replacing

from .layouts import LAYOUTS, Network, to_state

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "int32": "IntStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
ALIGNMENT = 64  # bytes; where PyTorch's own archives begin a storage
FOLDER = "archive"
LOCAL_HEADER_BYTES = 30


def save_checkpoint(model: keras.Model, path: str | os.PathLike, layout: str) -> None:
    """Writes the weights of a `MaskRCNN` with the names of torchvision or detectron2.

    Args:
        model: Its `config.CONVENTION` is `layout`.
        path: Usually `*.pth`. After an error, the previous file is still there.
        layout: "torchvision" or "detectron2". A model there with the same number of classes loads the file with
            `load_state_dict(torch.load(path), strict=True)`.

    Raises:
        ValueError: The layout can't hold this network.

    Warns:
        UserWarning: The model has another `MEAN_PIXEL` than the models there, which must be set there.
    """
    write_state_dict(path, state_dict_of(model, layout))
    mean = np.ravel(model.config.MEAN_PIXEL).astype(float)
    if not np.array_equal(mean, CONVENTIONS[layout].settings["MEAN_PIXEL"]):
        there = f"MODEL.PIXEL_MEAN = {mean[::-1].tolist()}, which is BGR,"
        if layout == "torchvision":
            there = f"image_mean={np.round(mean / 255, 6).tolist()}"
        warnings.warn(f"{path}: MEAN_PIXEL is {mean.tolist()}. Set {there} in {layout}.", UserWarning, stacklevel=3)


def state_dict_of(
    model: keras.Model, layout: str | None = None, network: Network | None = None
) -> dict[str, np.ndarray]:
    """The weights of a `MaskRCNN` with the names of torchvision or detectron2.

    Args:
        model: Its `config.CONVENTION` is `layout`.
        layout: "torchvision" or "detectron2". None: that of the model.
        network: Of a checkpoint whose names are older. None: that of the model.

    Returns:
        {name: array} as in their checkpoints; the counters `num_batches_tracked` are 0.

    Raises:
        ValueError: The layout can't hold this network.
    """
    layout = layout or model.config.CONVENTION
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    module = LAYOUTS[layout]
    network = network or Network.of_config(model.config, layout)
    arrays = _arrays(model)

    def read(layer: str, kind: str) -> np.ndarray:
        if (layer, kind) not in arrays:
            if kind == "bias":
                return np.zeros(1, "float32")  # this model was built without biases before BatchNorm
            raise ValueError(f"The model has no {kind} of the layer {layer}, which layout={layout!r} needs.")
        return arrays[layer, kind]

    state = to_state(module.pieces(network), read)
    state |= {name: np.array(0, "int64") for name in module.counters(network)}
    return state | module.pixel_tensors(network)


def _arrays(model: keras.Model, prefix: str = "") -> dict[tuple[str, str], np.ndarray]:
    """{(layer, kind): array} of all layers, those of nested models as "rpn_model/rpn_conv_shared"."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= _arrays(layer, f"{prefix}{layer.name}/")
        for variable in [] if isinstance(layer, keras.Model) else layer.weights:
            value = keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32"))
            found[prefix + layer.name, variable.name] = value
    return found


def write_state_dict(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as `torch.save(state_dict, path)` does.

    Example:
        >>> import tempfile
        >>> from mrcnn.weights import read_state_dict
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_state_dict(f"{folder}/a.pth", {"fc.bias": np.arange(3, dtype="float32")})
        ...     read_state_dict(f"{folder}/a.pth")
        {'fc.bias': array([0., 1., 2.], dtype=float32)}
    """
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", _pickled(state))
        _write(archive, "byteorder", b"little")
        for key, array in enumerate(state.values()):
            _write(archive, f"data/{key}", np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a member that begins at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(f"{FOLDER}/{name}")
    start = archive.fp.tell() + LOCAL_HEADER_BYTES + len(info.filename) + 4
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


def _pickled(state: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of an OrderedDict of tensors, each of which is all of the storage with its number as key."""
    ordered_dict = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    items = b"".join(b"".join(_item(key, name, array, ordered_dict)) for key, (name, array) in enumerate(state.items()))
    return pickle.PROTO + b"\x02" + ordered_dict + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _item(key: int, name: str, array: np.ndarray, ordered_dict: bytes) -> Iterator[bytes]:
    kind = STORAGES.get(array.dtype.name)
    if kind is None:
        raise ValueError(f"{name} has the dtype {array.dtype}; expected one of {', '.join(STORAGES)}.")
    strides = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
    yield _text(name)
    yield _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK
    yield pickle.MARK + _text("storage") + _global("torch", kind) + _text(str(key)) + _text("cpu") + _int(array.size)
    yield pickle.TUPLE + pickle.BINPERSID + _int(0) + _tuple(array.shape) + _tuple(strides) + pickle.NEWFALSE
    yield ordered_dict + pickle.TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    content = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content


def _int(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", number)


def _tuple(numbers: tuple[int, ...] | list[int]) -> bytes:
    return pickle.MARK + b"".join(map(_int, numbers)) + pickle.TUPLE
