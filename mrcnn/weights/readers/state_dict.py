"""Opens checkpoints of PyTorch projects, without PyTorch: {name: tensor}, whatever file they are in.

`.pth` of torch.save (zip archive, or the stream of older versions), `.safetensors`, and `.pkl` of detectron2. The
weights may be in an entry "model" or "state_dict", and their names may begin with "module.", as training scripts write.
"""

from __future__ import annotations

import mmap
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import safetensors, torch_files
from .files import ZIP_SIGNATURE, describe_head, explaining_errors, first_bytes, shorten
from .pickles import Bytes, PickledArray, TensorView, array_bytes, numpy_dtype, read_pickle
from .tensors import Tensor, check_inside, check_total, checked_sizes, contiguous

ENTRIES = ("model", "state_dict", "model_state_dict")
PREFIX = "module."  # of torch.nn.parallel.DistributedDataParallel
PICKLE = b"\x80"


def recognizes(path: str, head: bytes) -> bool:
    """Whether the file at `path`, which begins with `head`, seems to be a checkpoint of a PyTorch project."""
    if head.startswith(ZIP_SIGNATURE):
        return zipfile.is_zipfile(path) and torch_files.is_zip(zipfile.ZipFile(path))
    return head.startswith(PICKLE) or safetensors.recognizes(head, os.path.getsize(path))


@contextmanager
def open_state_dict(path: str | os.PathLike) -> Iterator[dict[str, Tensor]]:
    """Opens a checkpoint in a `with` block. Its tensors are checked, and read on demand.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds no weights, something else than weights, or is damaged. The message names the file.
    """
    path = os.fspath(path)
    head = first_bytes(path)
    with explaining_errors(path), open(path, "rb") as file:
        if not head:
            raise ValueError("it is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if head.startswith(ZIP_SIGNATURE):
            with zipfile.ZipFile(file) as archive:
                tensors = _tensors(torch_files.read_zip(archive, data))
        elif torch_files.is_stream(head):
            tensors = _tensors(torch_files.read_stream(data))
        elif head.startswith(PICKLE):
            tensors = _tensors(read_pickle(Bytes(memoryview(data))))
        elif safetensors.recognizes(head, len(data)):
            tensors = safetensors.read_tensors(data)
        else:
            raise ValueError(f"{path} is not a checkpoint. {describe_head(head)}.")
        check_total(tensors, len(data))
        yield _without_prefix(tensors)


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint: `.pth`, `.pt`, `.safetensors`, or detectron2's `.pkl`.

    Returns:
        {name: array}, in the file's order; bfloat16 as float32.

    Raises:
        FileNotFoundError, ValueError: As `open_state_dict`.
    """
    with open_state_dict(path) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def _tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of an object that a file holds, by name; what isn't a tensor is left out."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {_kind(found)}; expected a dictionary of weights")
    _refuse_caffe2(found)
    entry = next((found[name] for name in ENTRIES if isinstance(found.get(name), dict)), found)
    tensors = {}
    for name, value in entry.items():
        if isinstance(value, TensorView):
            tensors[str(name)] = torch_files.tensor(str(name), value)
        elif isinstance(value, PickledArray):
            tensors[str(name)] = _from_numpy(str(name), value)
    if not tensors:
        keys = shorten(str(name)[:40] for name in found)
        raise ValueError(f"it holds no weights, but a dictionary with {keys or 'nothing'}")
    return tensors


def _refuse_caffe2(found: dict) -> None:
    names = found.get("blobs", found)
    if "blobs" in found or (isinstance(names, dict) and "conv1_w" in names):
        raise ValueError(
            "it is a Caffe2 model, of Detectron before version 2: it has the names of Caffe2 and no '__author__'."
            " Convert it with detectron2, or use the file of detectron2's model zoo"
        )


def _from_numpy(name: str, array: PickledArray) -> Tensor:
    data, dtype = array.data, numpy_dtype(array.dtype)
    shape, _, _ = checked_sizes(name, array.shape, 0, array.shape)
    tensor = Tensor(name, shape, dtype, lambda: array_bytes(data), 0, contiguous(shape, bool(array.fortran)))
    if not isinstance(data, (bytes, str)):
        raise ValueError(f"the array {name} has no numbers")
    return check_inside(tensor, len(data))


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(PREFIX) for name in tensors):
        return tensors
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def _kind(found: Any) -> str:
    kinds = {TensorView: "single tensor", PickledArray: "single array"}
    return kinds.get(type(found), getattr(found, "name", type(found).__name__))
