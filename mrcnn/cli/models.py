"""Opens the model that `--weights` names."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mrcnn.cli import output

if TYPE_CHECKING:
    from mrcnn.inference.results import Detections
    from mrcnn.model import MaskRCNN

MATTERPORT_COCO_CLASSES = 81


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings from texts like "IMAGE_MAX_DIM=640" or "BACKBONE=resnet50".

    Raises:
        typer.BadParameter: A text has no "=", or there is no such setting.
    """
    from mrcnn.config import Config

    settings = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or name not in Config.settings_table:
            near = difflib.get_close_matches(name.upper(), Config.settings_table, 1)
            hint = f" Did you mean {near[0]}?" if near else " `python -m mrcnn.config` lists all settings."
            raise typer.BadParameter(f"--set {text}: expected NAME=VALUE with the name of a setting.{hint}")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value  # a text without quotes, such as resnet50
    return settings


def open_model(weights: str, mode: str = "inference", **settings: Any) -> MaskRCNN:
    """The model with these weights.

    Args:
        weights: A name such as "shapes" or "torchvision_v2", a weight file of any kind, the folder of a run, whose last
            checkpoint is taken, or a folder of `save_to_preset`.
        mode: "inference" or "training".
        **settings: Of `Config`; they replace those of the weights. One image makes a batch unless they say otherwise.

    Returns:
        The model. Where the names of its classes are unknown, they are "class 1", "class 2", ...

    Raises:
        FileNotFoundError, ValueError: There are no such weights, or they can't be used.
    """
    output.start_backend()
    from mrcnn.model import MaskRCNN
    from mrcnn.weights import read_settings
    from mrcnn.weights.presets import preset_of
    from mrcnn.weights.readers import open_weights

    settings = {"IMAGES_PER_GPU": 1, "GPU_COUNT": 1, **settings}
    with output.prints_to_stderr():
        path = None if is_preset(weights) else weights_path(weights)
        if path is None or not path.exists():
            if path is not None and path.suffix in (".h5", ".keras", ".pth", ".pkl", ".safetensors"):
                raise FileNotFoundError(f"{weights}: no such file.")
            model = MaskRCNN.from_preset(weights, mode, **settings)
        else:
            with open_weights(path) as file:
                network, shapes = file.network, {name: a[-1].shape for name, a in file.layers.items()}
            if network is not None:
                model = MaskRCNN.from_preset(preset_of(network), mode, weights=path, **settings)
            elif stored := read_settings(path):
                model = open_with_settings(path, mode, {**stored, **settings})
            else:
                model = open_old_file(path, mode, shapes, settings)
    if not model.class_names:
        model.class_names = ["BG", *(f"class {i}" for i in range(1, model.config.NUM_CLASSES))]
    return model


def is_preset(weights: str | Path) -> bool:
    """Whether `--weights` is a folder of `save_to_preset`."""
    from mrcnn.weights.preset_folder import CONFIG

    return (Path(weights) / CONFIG).is_file()


def weights_path(weights: str) -> Path | None:
    """The file that `--weights` names: of a run's folder, its last checkpoint. None for a name such as "shapes".

    A folder that has the name of weights, such as a dataset's folder "shapes", is not meant.
    """
    from mrcnn.weights import WORDS, last_of_run

    path = Path(weights)
    if weights in WORDS and not path.is_file():
        return None
    if not path.is_dir():
        return path
    last = last_of_run(path)
    if last is None:
        raise FileNotFoundError(f"{path}: no checkpoint such as mask_rcnn_cells_0010.h5 in this folder.")
    return Path(last)


def open_with_settings(path: Path, mode: str, settings: dict[str, Any]) -> MaskRCNN:
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN

    return MaskRCNN(mode, Config.from_json(settings), weights=path)


def open_old_file(path: Path, mode: str, shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]) -> MaskRCNN:
    """A model for a file without settings, as matterport's code writes them: its default settings are assumed.

    Args:
        shapes: Shape of the last array of each layer in the file.
    """
    from mrcnn.weights import recognize_backbone

    if "mrcnn_class_logits" not in shapes:
        raise ValueError(f"{path} has the weights of a backbone only; expected those of a whole model.")
    classes = shapes["mrcnn_class_logits"][-1]
    backbone = recognize_backbone(shapes) or "resnet50"
    output.note(
        f"note: {path} has no settings; it is opened with matterport's default settings, {backbone} and {classes}"
        " classes. If it was trained with others, give them with --set."
    )
    found = {"NUM_CLASSES": classes, "BACKBONE": backbone, **settings}
    model = open_with_settings(path, mode, found)
    if not model.class_names and classes == MATTERPORT_COCO_CLASSES:
        from mrcnn.weights.coco_classes import COCO_80

        model.class_names = list(COCO_80)
    return model


class ChosenClasses:
    """A model that finds only some of its classes.

    Args:
        model: `MaskRCNN`.
        names: The classes wanted. None: all.
    """

    def __init__(self, model: MaskRCNN, names: Sequence[str] | None):
        unknown = [name for name in names or () if name not in model.class_names]
        if unknown:
            known = ", ".join(model.class_names[1:])
            raise ValueError(f"The model has no class {unknown[0]!r}; its classes are: {known}.")
        self.model, self.names, self.config, self.class_names = model, names, model.config, model.class_names

    def detect(self, images: Sequence) -> list[Detections]:
        found = self.model.detect(images)
        return found if self.names is None else [one.of_class(*self.names) for one in found]

    def detect_tiled(self, image: Any, **options: Any) -> Detections:
        found = self.model.detect_tiled(image, **options)
        return found if self.names is None else found.of_class(*self.names)
