"""Builds the network that trained weights belong to: `MaskRCNN.from_preset`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from mrcnn.config import Config
from mrcnn.data.class_names import class_list
from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS

from .coco_classes import COCO_80
from .downloads import PRETRAINED, SHIPPED, pretrained
from .metadata import read_class_names, read_settings
from .preset_folder import read_preset
from .presets import PRESETS
from .readers import open_weights

MATTERPORT = {  # settings and class names
    "coco": ({"NUM_CLASSES": 81}, COCO_80),
    "balloon": ({"NUM_CLASSES": 2}, ["BG", "balloon"]),
}
STAGES = ("", "_s2", "_s3")  # ends of layer names in a cascade


def from_preset(
    model_class: type, name: str, mode: str = "inference", num_classes: int | None = None,
    classes: Sequence[str] | None = None, weights: str | os.PathLike | None = None, model_dir: str = ".",
    **settings: Any,
) -> Any:  # fmt: skip
    """Builds a network that others trained, and loads its weights. docs/weights.md lists all.

    Args:
        model_class: `MaskRCNN`; `MaskRCNN.from_preset` passes it.
        name: "torchvision_v2", "detectron2/mask_rcnn_R_50_FPN_3x", "coco", "shapes", ...; or a folder that
            `save_to_preset` wrote.
        mode: "inference" or "training".
        num_classes: With the background, for other classes. Layers that depend on the classes get new weights then.
        classes: Names of other classes, without the background.
        weights: A local file instead of the download. A checkpoint of torchvision or detectron2 may have another number
            of classes and other heads: the network is built as the file shows it.
        model_dir: Folder of the run folders.
        **settings: Of `Config`, e.g. `IMAGE_MIN_DIM=640`.

    Returns:
        The model, with `class_names` if they are known.

    Raises:
        ValueError: There is no such preset, or the file belongs to another network.

    Example:
        >>> from mrcnn import MaskRCNN
        >>> MaskRCNN.from_preset("shapes").class_names
        ['BG', 'square', 'circle', 'triangle']
    """
    known = (*MATTERPORT, *SHIPPED, *PRESETS)
    folder = None if name in known else os.fspath(name)  # a folder with the name of a preset needs its path: "./coco"
    if folder is not None and not os.path.isdir(folder):
        near = difflib.get_close_matches(str(name), known, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There is no preset or folder {name!r}.{hint} Expected one of {', '.join(known)}.")
    if folder is not None:
        known_settings, names, path = read_preset(folder)
    if weights is not None or folder is None:
        path = os.fspath(weights) if weights is not None else pretrained(name)
    if folder is None:
        known_settings, names = _read_network(name, path)
    trained_on = known_settings["NUM_CLASSES"]
    config_settings = {**known_settings, **settings}
    if classes is not None:
        names = ["BG", *class_list(classes)]
        if num_classes not in (None, len(names)):
            raise ValueError(f"num_classes is {num_classes}, and classes has {len(names)} with the background.")
        num_classes = len(names)
    if num_classes is not None:
        config_settings["NUM_CLASSES"] = num_classes
    count = config_settings["NUM_CLASSES"]
    config_settings.setdefault("NAME", os.path.basename(name).lower())
    names = names if names is not None and len(names) == count else None
    model = model_class(mode, Config(**config_settings), model_dir, class_names=names)
    exclude = [] if count == trained_on and classes is None else _of_classes(known_settings)
    model.load_weights(path, exclude=exclude)
    model.class_names = names
    return model


def _read_network(name: str, path: str) -> tuple[dict[str, Any], Sequence[str] | None]:
    """The settings of the network in a file, and its class names if they are known."""
    if name in SHIPPED:
        stored = read_settings(path) or {}
        return {name: stored[name] for name in Config.settings_table if name in stored}, read_class_names(path)
    if name in PRETRAINED:
        settings, names = MATTERPORT[name]
        return dict(settings), names
    preset = PRESETS[name]
    with open_weights(path) as file:
        network = file.network
    if network is None or not network.classes:
        what = "of Keras" if network is None else "with a backbone only"
        raise ValueError(f"{path} is a file {what}, which load_weights(path, by_name=True) loads into a model.")
    if network.convention != preset.settings["CONVENTION"]:
        raise ValueError(f"{path} has weights of {network.convention}, which {name!r} is not.")
    found = network.settings()
    names = preset.class_names if found["NUM_CLASSES"] == preset.settings["NUM_CLASSES"] else None
    return {**preset.settings, **found}, names


def _of_classes(settings: dict[str, Any]) -> list[str]:
    """Layers whose meaning depends on the classes."""
    one_for_all = {
        "mrcnn_bbox_fc": settings.get("CLASS_AGNOSTIC_BOX"), "mrcnn_bbox": settings.get("CLASS_AGNOSTIC_BOX"),
        "mrcnn_mask": settings.get("CLASS_AGNOSTIC_MASK"),
    }  # fmt: skip
    return [layer + end for layer in CLASS_DEPENDENT_LAYERS if not one_for_all.get(layer) for end in STAGES]
