"""Weight files: read, load by layer name, write, download, and find the last checkpoint.

reading      any of the three file layouts -> layer name -> arrays
loading      a file -> a model, by layer name; says what matched, and changes nothing when something does not
writing      a model -> matterport's `.h5` layout
downloading  "coco", "balloon", "imagenet", "shapes" -> a verified file
checkpoints  run folders and checkpoint names, and which is the newest
"""

from __future__ import annotations

from .checkpoints import CheckpointPath, checkpoint_name, find_last, parse_checkpoint, run_folder
from .downloading import PRETRAINED, WORDS, download, find_pretrained, pretrained
from .loading import LoadReport, load_weights_by_name
from .reading import read_weights
from .writing import save_matterport_h5

__all__ = [
    "PRETRAINED",
    "WORDS",
    "CheckpointPath",
    "LoadReport",
    "checkpoint_name",
    "download",
    "find_last",
    "find_pretrained",
    "load_weights_by_name",
    "parse_checkpoint",
    "pretrained",
    "read_weights",
    "run_folder",
    "save_matterport_h5",
]
