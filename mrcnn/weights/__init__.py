"""Weight files: read, load by layer name, write, download, and find the last checkpoint.

readers         reads matterport's `.h5`, Keras's `.weights.h5` and `.keras`, PyTorch's `.pth` and others
layouts         names of torchvision and detectron2, as layers of this package and back
load_by_name    loads a file into a model by layer name, and reports what matched
matterport_h5   writes matterport's `.h5`
torch_zip       writes `.pth` files that torchvision and detectron2 load
imagenet        finds the ImageNet weights of a backbone
metadata        class names and settings stored with the weights; recognizes the backbone of files without
presets         networks of torchvision and detectron2: addresses, settings, licenses
downloads       "coco", "torchvision_v2", ...: downloads and verifies files
from_preset     builds the network of a preset or folder, and loads its weights
preset_folder   writes and reads such a folder
golden          outputs of the original networks, stage by stage, to compare with
train_state     `last.train.h5`: weights and everything needed to resume training exactly
checkpoints     names of run folders and checkpoints; finds the newest
"""

from __future__ import annotations

from .checkpoints import CheckpointPath, checkpoint_name, find_last, last_of_run, parse_checkpoint, run_folder
from .downloads import PRETRAINED, WORDS, download, find_pretrained, pretrained
from .from_preset import from_preset
from .imagenet import imagenet_weights
from .load_by_name import load_weights_by_name
from .load_report import LoadReport
from .matterport_h5 import save_matterport_h5
from .metadata import backbone_of, read_class_names, read_settings, recognize_backbone
from .preset_folder import save_to_preset
from .readers import read_state_dict, read_weights
from .torch_zip import save_checkpoint, state_dict_of, write_state_dict
from .train_state import STATE_FILE, TrainState, is_intact, read_state, write_state

__all__ = [
    "PRETRAINED",
    "STATE_FILE",
    "WORDS",
    "CheckpointPath",
    "LoadReport",
    "TrainState",
    "backbone_of",
    "checkpoint_name",
    "download",
    "find_last",
    "find_pretrained",
    "from_preset",
    "imagenet_weights",
    "is_intact",
    "load_weights_by_name",
    "parse_checkpoint",
    "pretrained",
    "read_class_names",
    "read_settings",
    "read_state",
    "read_state_dict",
    "read_weights",
    "recognize_backbone",
    "run_folder",
    "save_checkpoint",
    "save_matterport_h5",
    "save_to_preset",
    "state_dict_of",
    "write_state",
    "write_state_dict",
]
