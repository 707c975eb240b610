"""Reads weight files: layer name -> its arrays, in the order of `layer.weights`.

Three layouts are known, told apart by what is inside and never by the file's ending:

    matterport .h5     /<layer>/<weight name>, the order in the attributes `layer_names` (of the file) and
                       `weight_names` (of each layer); a whole saved model has the same below /model_weights
    Keras .weights.h5  /layers/<class>_<n>/vars/0, 1, ...; the layer's own name is the attribute `name` of `vars`;
                       what a layer holds inside (a wrapper's layer, a nested model's layers) lies in groups below
    Keras .keras       a zip archive with such a file, `model.weights.h5`

A weight file may come from anywhere, so nothing in it is trusted: links are not followed, and no array is read whose
size the file does not back with bytes.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import ml_dtypes
import numpy as np

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"
WEIGHTS_IN_ZIP = "model.weights.h5"
# Compressed arrays may be larger than their file, up to here. A Mask R-CNN with ResNet-101 has 0.26e9 bytes.
MAX_BYTES = 4 * 2**30

# How a file begins that is often mistaken for weights, and what to tell its owner.
MISTAKEN_FOR_WEIGHTS = (
    (b"<", "a web page saved under this name. Download the file itself, not the page that links to it"),
    (b"version https://git-lfs", "a Git LFS pointer, which only says where the file lies. Run `git lfs pull`"),
    (b"\x80", "a Python pickle, as PyTorch and Detectron write. Only Keras's weight files can be read"),
    (b"\x1f\x8b", "a gzip archive. Unpack it first"),
    (b"{", "a JSON text. The weights lie in another file"),
)


@dataclass(frozen=True)
class StoredArray:
    """One array of an open weight file. Its numbers stay on the disk until `read`.

    Attributes:
        name: its name in the file, such as "rpn_conv_shared/kernel:0", in Keras's layout "conv1/0" for the first array.
        dataset: where the numbers are.
        in_order: whether the file says in which order the layer holds its arrays. Keras's layout doesn't, between the
            layers inside one layer.
    """

    name: str
    dataset: h5py.Dataset
    in_order: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dataset.dtype.itemsize

    def read(self) -> np.ndarray:
        """The numbers; bfloat16, which NumPy doesn't have, as float32."""
        values = np.asarray(self.dataset[()])
        return values.view(ml_dtypes.bfloat16).astype("float32") if _is_bfloat16(self.dataset) else values


def read_weights(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """All arrays of a weight file.

    Args:
        path: matterport's `.h5` (weights only or a whole model), Keras's `.weights.h5`, or `.keras`.

    Returns:
        {layer name: [array, ...]} with top-level names, in the file's order; layers without arrays are left out. The
        arrays of `rpn_model`, a model in the model, stand in one list.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weight file, broken off, or not to be trusted. The message says which, and what to do.
    """
    with open_weights(path) as layers:
        return {layer: [array.read() for array in arrays] for layer, arrays in layers.items()}


@contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[dict[str, list[StoredArray]]]:
    """A weight file, open in a `with` block: {layer name: [StoredArray, ...]}. Raises what `read_weights` raises."""
    path = os.fspath(path)
    head = _first_bytes(path)
    try:
        with _as_hdf5(path, head) as file:
            layers = {name: arrays for name, arrays in _layers(file, path).items() if arrays}
            _check_total_size(layers, path)
            yield layers
    except (OSError, RuntimeError, KeyError, TypeError, zipfile.BadZipFile) as error:  # what h5py raises when lost
        raise ValueError(f"{path} can't be read as weights: {what_broke(error)}") from error


# ---- Opening -----------------------------------------------------------------------------------------------------
def _first_bytes(path: str) -> bytes:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; expected a weight file: .h5, .weights.h5 or .keras.")
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        there = sorted(n for n in os.listdir(folder) if n.endswith((".h5", ".keras"))) if os.path.isdir(folder) else []
        beside = f"The weight files in {folder}: {shorten(there)}." if there else f"No weight file lies in {folder}."
        raise FileNotFoundError(f"There is no file {path}. {beside}")
    with open(path, "rb") as file:
        return file.read(64)


def describe_head(head: bytes) -> str:
    """What a file seems to be that is no weight file, by its first bytes. A sentence or two without the last stop."""
    if not head:
        return "It is empty (0 bytes). Download or copy it again"
    for signature, what in MISTAKEN_FOR_WEIGHTS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(signature):
            return f"It begins with {head[:32]!r}: {what}"
    return f"It begins with {head[:32]!r}, an HDF5 file with {HDF5_SIGNATURE!r}. Download or copy it again"


@contextmanager
def _as_hdf5(path: str, head: bytes) -> Iterator[h5py.File]:
    """The HDF5 file at `path`, or the one inside the zip archive at `path`."""
    if head.startswith(ZIP_SIGNATURE):
        source = io.BytesIO(_unzip(path))
    elif head.startswith(HDF5_SIGNATURE) or h5py.is_hdf5(path):
        source = path
    else:
        raise ValueError(f"{path} is not a weight file. {describe_head(head)}.")
    with h5py.File(source, "r", locking=False) as file:
        yield file


def _unzip(path: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if WEIGHTS_IN_ZIP not in names:
            hint = " It looks like PyTorch's; only Keras's can be read." if any("data.pkl" in n for n in names) else ""
            raise ValueError(
                f"{path} is a zip archive without {WEIGHTS_IN_ZIP}, so it was not saved by Keras's model.save(...)."
                f"{hint} It holds: {shorten(names)}."
            )
        size = archive.getinfo(WEIGHTS_IN_ZIP).file_size
        if size > max(MAX_BYTES, os.path.getsize(path)):
            raise ValueError(f"{path}: {WEIGHTS_IN_ZIP} would unpack to {size:,} bytes; refused.")
        return archive.read(WEIGHTS_IN_ZIP)


def what_broke(error: Exception) -> str:
    """A sentence for what h5py or zipfile said, with what to do."""
    cut = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", str(error))
    if cut:
        have, full = (int(number) for number in cut.groups())
        return f"it stops after {have:,} of {full:,} bytes: a download or copy broke off. Delete it, fetch it again."
    return f"it is damaged or cut off ({error}). Delete it and fetch it again."


# ---- The layouts -------------------------------------------------------------------------------------------------
def _layers(file: h5py.File, path: str) -> dict[str, list[StoredArray]]:
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return _matterport_layers(file, path)
    top = sorted(file)
    if "model_weights" in top:
        return _matterport_layers(_member(file, "model_weights", path), path)
    if "layers" in top:
        return _keras_layers(_member(file, "layers", path), path)
    raise ValueError(
        f"{path} is an HDF5 file but holds no Keras weights: neither the attribute `layer_names` nor a group"
        f" `model_weights` or `layers`. At its top: {shorten(top) or 'nothing'}."
    )


def _matterport_layers(root: h5py.Group, path: str) -> dict[str, list[StoredArray]]:
    layers = {}
    for layer in _names(root, "layer_names"):
        group = _member(root, layer, path)
        layers[layer] = [
            StoredArray(name, _array(_member(group, name, path), path), in_order=True)
            for name in _names(group, "weight_names")
        ]
    return layers


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names. Keras cuts one that is too long for an attribute into `<attribute>0`, `<attribute>1`, ..."""
    parts = [attribute]
    if attribute not in group.attrs:
        pieces = (f"{attribute}{number}" for number in itertools.count())
        parts = itertools.takewhile(lambda piece: piece in group.attrs, pieces)
    names = [name for part in parts for name in np.asarray(group.attrs[part]).tolist()]
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]


def _keras_layers(root: h5py.Group, path: str) -> dict[str, list[StoredArray]]:
    layers, seen = {}, set()
    for key in sorted(root, key=natural_order):
        group = _member(root, key, path)
        name = _keras_name(group, path)
        if name is not None:
            layers[name] = list(_keras_arrays(group, (), seen, path))
    if len(root) and not layers:
        raise ValueError(
            f"{path} doesn't say the names of its layers (Keras before 3 wrote such .weights.h5 files), so it can't be"
            " loaded by name. Load it where it was written, and save it there as a plain .h5 file."
        )
    return layers


def _keras_arrays(group: h5py.Group, inside: tuple[str, ...], seen: set[int], path: str) -> Iterator[StoredArray]:
    """A layer's own arrays, then those of the layers in it. `inside`: the names around it; `seen`: groups passed."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise ValueError(f"{path}: several ways lead to the group {group.name[:200]}; the file is broken or hostile.")
    seen.add(address)
    inside = (*inside, _keras_name(group, path) or group.name.rsplit("/", 1)[-1])
    keys = sorted(group, key=natural_order)
    if "vars" in keys:
        variables = _member(group, "vars", path)
        for number in sorted(variables, key=natural_order):
            dataset = _array(_member(variables, number, path), path)
            yield StoredArray("/".join((*inside, number)), dataset, in_order=False)
    for key in keys:
        if key != "vars":
            yield from _keras_arrays(_member(group, key, path), inside, seen, path)


def _keras_name(group: h5py.Group, path: str) -> str | None:
    # `list` names the members; `in` would follow a link.
    name = _member(group, "vars", path).attrs.get("name") if "vars" in list(group) else None
    return name.decode("utf-8") if isinstance(name, bytes) else name


def natural_order(text: str) -> list:
    """Sort key that counts: conv2d_2 before conv2d_10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]


# ---- Nothing is trusted ------------------------------------------------------------------------------------------
def _member(group: h5py.Group, name: str, path: str) -> h5py.Group | h5py.Dataset:
    """`group[name]`, if it lies in this very file, and no link leads there."""
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise ValueError(f"{path} lists {name}, but holds no such weights; the file is broken.")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{path}: {group.name}/{part} is a link to {getattr(link, 'filename', 'another place')}:{link.path}."
                " A weight file has no links; refused, as this file may be hostile."
            )
        group = group[part]
    return group


def _array(dataset: h5py.Dataset, path: str) -> h5py.Dataset:
    """`dataset`, if it is an array of numbers that lies in this very file as large as it says."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path}: {dataset.name} should be an array but is a group; the file is broken.")
    if dataset.shape is None or not (dataset.dtype.kind in "fiub" or _is_bfloat16(dataset)):
        raise ValueError(f"{path}: {dataset.name} holds {dataset.dtype}; expected an array of numbers.")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{path}: the numbers of {dataset.name} lie in another file; refused, as this may be hostile.")
    claimed, held = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if claimed > held and (dataset.chunks is None or held == 0):
        raise ValueError(
            f"{path}: {dataset.name} claims the shape {dataset.shape}, {claimed:,} bytes, but the file holds {held:,}"
            " bytes of it; the file is broken or hostile."
        )
    return dataset


def _check_total_size(layers: dict[str, list[StoredArray]], path: str) -> None:
    total = sum(array.nbytes for arrays in layers.values() for array in arrays)
    size = os.path.getsize(path)
    if total > max(MAX_BYTES, size):
        raise ValueError(f"{path}: {size:,} bytes that would unpack to {total:,}; refused, as this may be hostile.")


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    return dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"


def shorten(names, most: int = 12) -> str:
    """Names with commas; of a long list the first ones and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
