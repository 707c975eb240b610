"""`last.train.h5`: a checkpoint with everything that training needs to continue exactly where it was interrupted.

layers as in matterport's `.h5`, see `matterport_h5`
attributes mrcnn_epoch, mrcnn_step       epochs that are done, and steps of the next one
/training_state/info                     JSON
/training_state/<name>                   arrays: optimizer, metrics, random numbers, callbacks
after the end of the HDF5 data           MARK and the SHA-256 of everything before it
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import h5py
import keras
import numpy as np

from mrcnn.io import replacing

from .matterport_h5 import new_h5, write_matterport_h5

STATE_FILE = "last.train.h5"
MARK = b"mrcnn-sha256:"
TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size
GROUP, EPOCH, STEP = "training_state", "mrcnn_epoch", "mrcnn_step"


@dataclass
class TrainState:
    """The state of a training run at one step, without the weights.

    Attributes:
        epoch: int, epochs that are done.
        step: int, steps done of the next epoch.
        info: what JSON can hold.
        arrays: by name; names may contain "/".
    """

    epoch: int
    step: int
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def write_state(path: str | os.PathLike, model: keras.Model, state: TrainState) -> None:
    """Writes weights and state. The previous file stays until the new one is complete and on the disk.

    Raises:
        OSError: the file can't be written.
    """
    with replacing(path, durable=True) as unfinished:
        with new_h5(unfinished) as file:
            write_matterport_h5(file, model)
            file.attrs[EPOCH], file.attrs[STEP] = state.epoch, state.step
            group = file.create_group(GROUP)
            group.create_dataset("info", data=np.frombuffer(json.dumps(state.info).encode(), np.uint8))
            for name, array in state.arrays.items():
                group.create_dataset(f"arrays/{name}", data=array)
        with open(unfinished, "r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(MARK + digest)


def is_intact(path: str | os.PathLike) -> bool:
    """Whether a file of `write_state` is complete and unchanged."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size - TRAILER_BYTES
            if size < 0:
                return False
            digest, left = hashlib.sha256(), size
            while left and (block := file.read(min(left, 2**20))):
                digest.update(block)
                left -= len(block)
            return file.read() == MARK + digest.digest()
    except OSError:
        return False


def read_position(path: str | os.PathLike) -> tuple[int, int]:
    """Epochs done, and steps of the next one, of a file of `write_state`.

    Raises:
        OSError, KeyError: it is no such file.
    """
    with h5py.File(path, "r", locking=False) as file:
        return int(file.attrs[EPOCH]), int(file.attrs[STEP])


def read_state(path: str | os.PathLike) -> TrainState | None:
    """The state in a file of `write_state`; None if there is no file, or a broken one."""
    if not is_intact(path):
        return None
    with h5py.File(path, "r", locking=False) as file:
        group, arrays = file[GROUP], {}

        def read(name, item):
            if isinstance(item, h5py.Dataset):
                arrays[name] = item[()]

        if "arrays" in group:
            group["arrays"].visititems(read)
        info = json.loads(group["info"][()].tobytes())
        return TrainState(int(file.attrs[EPOCH]), int(file.attrs[STEP]), info, arrays)
