"""Names of run folders and checkpoints, and which checkpoint is the newest.

    <model_dir>/<name><yyyymmddThhmm>/mask_rcnn_<name>_<epoch, four digits or more>.h5

`name` is `config.NAME`; in file names it is lower case.
"""

from __future__ import annotations

import datetime
import os
import re

EPOCH = "{epoch:04d}"  # filled by Keras's callback; epochs after 9999 get five digits


class CheckpointPath(str):
    """The path of a checkpoint, a str whose item 1 is the path again.

    matterport 2.0 gave a pair (folder, path), and scripts still say `model.load_weights(model.find_last()[1])`.
    """

    def __getitem__(self, index):
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

    Runs of other names are not looked at, and epochs are counted, not spelled: 10000 comes after 9999.

    Raises:
        FileNotFoundError: no run of this name, or none with a checkpoint; the message says what was looked for, where.
    """
    model_dir = os.fspath(model_dir)
    wanted = os.path.join(model_dir or ".", f"{name.lower()}<yyyymmddThhmm>", checkpoint_name(name, 1))
    if not os.path.isdir(model_dir or "."):
        raise FileNotFoundError(f"No checkpoint: the folder {model_dir} does not exist. Looked for {wanted} in it.")
    with os.scandir(model_dir or ".") as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and _run_pattern(name).fullmatch(e.name))
    for folder in reversed(folders):
        epochs = _epochs(os.path.join(model_dir, folder), name)
        if epochs:
            return os.path.join(model_dir, folder, epochs[max(epochs)])
    if folders:
        raise FileNotFoundError(
            f"No checkpoint: {len(folders)} run(s) of {name!r} in {model_dir or '.'}, the newest is {folders[-1]}, but"
            f" none holds a file like {checkpoint_name(name, 1)}. Did a training finish its first epoch?"
        )
    raise FileNotFoundError(
        f"No checkpoint: no run of {name!r} in {model_dir or '.'}. Looked for files like {wanted}. Check `model_dir`"
        " and `config.NAME`, or train first."
    )


def parse_checkpoint(path: str | os.PathLike, name: str) -> tuple[str, int] | None:
    """Reads run and epoch off the path of a checkpoint of `name`.

    Returns:
        (run folder, finished epochs), or None where the path is not a checkpoint of a run of this name, such as
        mask_rcnn_coco.h5: then a new run starts at epoch 0.
    """
    folder, file = os.path.split(os.fspath(path))
    match = _checkpoint_pattern(name).fullmatch(file)
    if match is None or not _run_pattern(name).fullmatch(os.path.basename(os.path.abspath(folder))):
        return None
    return folder or os.getcwd(), int(match[1])


def _epochs(folder: str, name: str) -> dict[int, str]:
    matches = (_checkpoint_pattern(name).fullmatch(file) for file in os.listdir(folder))
    return {int(match[1]): match[0] for match in matches if match}


def _run_pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name.lower()) + r"\d{8}T\d{4}")


def _checkpoint_pattern(name: str) -> re.Pattern:
    return re.compile(rf"mask_rcnn_{re.escape(name.lower())}_(\d{{4,}})\.h5")
