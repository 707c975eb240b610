"""Names of run folders and checkpoints, and which checkpoint is the newest.

    <model_dir>/<name><yyyymmddThhmm>/mask_rcnn_<name>_<epoch, four digits or more>.h5
    <model_dir>/<name><yyyymmddThhmm>/last.train.h5        the latest moment of the training, see `train_state`

`name` is `config.NAME`; in file names it is lower case.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
from typing import SupportsIndex

import h5py

from .train_state import STATE_FILE, is_intact, read_position

logger = logging.getLogger(__name__)

EPOCH = "{epoch:04d}"  # filled by Keras's callback; epochs after 9999 get five digits


class CheckpointPath(str):
    """The path of a checkpoint, a str whose item 1 is the path again.

    matterport 2.0 gave a pair (folder, path), and scripts still say `model.load_weights(model.find_last()[1])`.
    """

    def __getitem__(self, index: SupportsIndex | slice) -> str:
        return str(self) if index == 1 else super().__getitem__(index)


def run_folder(model_dir: str | os.PathLike, name: str, now: datetime.datetime | None = None) -> str:
    """Path of the folder of a run that starts `now`. The folder is not made."""
    now = now or datetime.datetime.now()
    return os.path.join(os.fspath(model_dir), f"{name.lower()}{now:%Y%m%dT%H%M}")


def checkpoint_name(name: str, epoch: int | None = None) -> str:
    """File name of the checkpoint after `epoch` epochs; without one, the pattern with `{epoch:04d}` left to fill."""
    number = EPOCH if epoch is None else EPOCH.format(epoch=epoch)
    return f"mask_rcnn_{name.lower()}_{number}.h5"


def find_last(model_dir: str | os.PathLike, name: str) -> str:
    """The last checkpoint of the newest run that has one.

    Runs of other names are ignored, and epochs are compared as numbers: 10000 comes after 9999. Broken files are
    skipped with a message. The result is `last.train.h5` if that training was interrupted, either within an epoch or
    between writing a checkpoint and the end of the epoch.

    Raises:
        FileNotFoundError: no run of this name, or none with a checkpoint; the message says what was looked for, where.

    Example:

        model.load_weights(find_last("logs", "cat"))  # logs/cat20261128T0900/mask_rcnn_cat_0012.h5
    """
    model_dir = os.fspath(model_dir)
    wanted = os.path.join(model_dir or ".", f"{name.lower()}<yyyymmddThhmm>", checkpoint_name(name, 1))
    if not os.path.isdir(model_dir or "."):
        raise FileNotFoundError(f"No checkpoint: the folder {model_dir} does not exist. Looked for {wanted} in it.")
    with os.scandir(model_dir or ".") as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and _run_pattern(name).fullmatch(e.name))
    for folder in reversed(folders):
        last = last_of_run(os.path.join(model_dir, folder), name)
        if last is not None:
            return last
    if folders:
        raise FileNotFoundError(
            f"No checkpoint: {len(folders)} run(s) of {name!r} in {model_dir or '.'}, the newest is {folders[-1]}, but"
            f" none holds a file like {checkpoint_name(name, 1)}. Did a training finish its first epoch?"
        )
    raise FileNotFoundError(
        f"No checkpoint: no run of {name!r} in {model_dir or '.'}. Looked for files like {wanted}. Check `model_dir`"
        " and `config.NAME`, or train first."
    )


def last_of_run(folder: str | os.PathLike, name: str | None = None) -> str | None:
    """The last checkpoint in the folder of a run that can be read; None if there is none.

    Broken files are left out with a message. The result is `last.train.h5` if the training was interrupted after the
    last checkpoint.

    Args:
        folder: of the run.
        name: `config.NAME`; None: any.
    """
    folder = os.fspath(folder)
    epochs = _epochs(folder, name)
    newest_first = sorted(epochs, reverse=True)
    newest = next((epoch for epoch in newest_first if _opens(os.path.join(folder, epochs[epoch]))), None)
    state = os.path.join(folder, STATE_FILE)
    if os.path.isfile(state):
        if is_intact(state):
            epoch, step = read_position(state)
            if newest is None or epoch == newest - 1 or (epoch == newest and step):
                return state
        else:
            logger.warning("%s is broken and left out.", state)
    return None if newest is None else os.path.join(folder, epochs[newest])


def parse_checkpoint(path: str | os.PathLike, name: str) -> tuple[str, int] | None:
    """Reads run and epoch off the path of a checkpoint of `name`.

    Returns:
        (run folder, finished epochs), or None where the path is not a checkpoint of a run of this name, such as
        mask_rcnn_coco.h5: then a new run starts at epoch 0.
    """
    folder, file = os.path.split(os.fspath(path))
    match = _checkpoint_pattern(name).fullmatch(file)
    known = match is not None or (file == STATE_FILE and os.path.isfile(path))
    if not known or not _run_pattern(name).fullmatch(os.path.basename(os.path.abspath(folder))):
        return None
    return folder or os.getcwd(), int(match[1]) if match else read_position(path)[0]


def _opens(path: str) -> bool:
    try:
        with h5py.File(path, "r", locking=False):
            return True
    except OSError as error:
        logger.warning("%s is broken and left out: %s", path, error)
        return False


def _epochs(folder: str, name: str | None) -> dict[int, str]:
    matches = (_checkpoint_pattern(name).fullmatch(file) for file in os.listdir(folder))
    return {int(match[1]): match[0] for match in matches if match}


def _run_pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name.lower()) + r"\d{8}T\d{4}")


def _checkpoint_pattern(name: str | None) -> re.Pattern:
    named = ".+" if name is None else re.escape(name.lower())
    return re.compile(rf"mask_rcnn_{named}_(\d{{4,}})\.h5")
