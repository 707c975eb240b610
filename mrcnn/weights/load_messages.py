"""Messages about weight files that don't fit a model: which settings differ, and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS

from .layer_match import LayerMatch
from .layouts import Network
from .load_report import LoadReport
from .readers import WeightFile, shorten

# The setting that determines a shape: layer, axis of its kernel, length of that axis per unit of the setting.
SETTING_BEHIND = (
    ("mrcnn_class_logits", -1, 1, "NUM_CLASSES"),
    ("mrcnn_bbox_fc", -1, 4, "NUM_CLASSES"),
    ("mrcnn_mask", -1, 1, "NUM_CLASSES"),
    ("conv1", 2, 1, "IMAGE_CHANNEL_COUNT"),
    ("rpn_model/rpn_class_raw", -1, 2, "the number of RPN_ANCHOR_RATIOS"),
    ("rpn_model/rpn_conv_shared", 2, 1, "TOP_DOWN_PYRAMID_SIZE"),
    ("mrcnn_class_conv2", -1, 1, "FPN_CLASSIF_FC_LAYERS_SIZE"),
)
SAME_MEAN = 0.01  # of 255; rounding of a mean pixel
MOST_TO_EXCLUDE = 20  # more mismatches than this mean another network, not another number of classes


def nothing_matches(report: LoadReport, file: WeightFile, matches: list[LayerMatch], config: Any) -> str:
    """No layer of the file has the name of one in the model."""
    if not matches:
        return f"{report.path}: the model has no weights yet. Build it first, by calling it on an image."
    if not file.layers:
        return f"{report.path} holds no weights at all: all its layers are empty."
    if report.excluded and not report.missing:
        return f"{report.path}: `exclude` names every layer of the model, so nothing is left to load."
    return (
        f"{report.path}: none of its layers has the name of a layer in the model, so nothing was loaded.\n"
        f"  in the file:  {shorten(file.layers)}\n"
        f"  in the model: {shorten(match.name for match in matches)}\n"
        "The file comes from another network, or the layers were renamed. Check the file and config.BACKBONE."
        + settings_to_change(file, config)
    )


def incomplete(report: LoadReport, file: WeightFile, config: Any) -> str:
    """The file lacks layers that the model has."""
    return (
        f"{report.path} lacks {len(report.missing)} layers of the model: {shorten(report.missing)}. Nothing was loaded."
        " Load what the file has with by_name=True, or set BACKBONE as it was in the training that wrote the file."
        + settings_to_change(file, config)
    )


def mismatch(path: str, matches: list[LayerMatch], file: WeightFile, config: Any) -> str:
    """Shapes differ."""
    width = max(len(match.name) for match in matches)
    rows = [
        f"  {match.name:{width}}  in the file {_shape_text(match.stored_shapes)}, in the model"
        f" {_shape_text(match.shapes)}"
        for match in matches[:20]
    ]
    if len(matches) > len(rows):
        rows.append(f"  ... and {len(matches) - len(rows)} more")
    return (
        f"{path} does not fit the model; nothing was loaded. The shapes of {len(matches)} layers differ:\n"
        + "\n".join(rows)
        + f"\n{settings_to_change(file, config).strip() or _advice(matches)}"
    )


def check_convention(path: str, file: WeightFile, config: Any) -> None:
    """Refuses weights of another convention, which would load and detect nothing.

    Raises:
        ValueError: The model has another convention; the message says how to build one for this file.
    """
    network = file.network
    if network is None or config is None or network.convention in (None, config.CONVENTION):
        return
    differs = "stride in 3x3" if network.convention == "torchvision" else "one logit an anchor, boxes without + 1"
    raise ValueError(
        f"{path} has weights of {network.convention} ({differs}), which give other numbers in a model with CONVENTION"
        f" = {config.CONVENTION!r}. Build it with MaskRCNN.from_preset({network.convention!r}, weights=...), or set"
        f" CONVENTION = {network.convention!r}.{settings_to_change(file, config)}"
    )


def other_mean_pixel(path: str, network: Network | None, config: Any) -> str:
    """A sentence if the file has a mean pixel, and the model another one; "" otherwise."""
    mean = None if network is None or config is None else network.pixel_mean
    here = None if mean is None else np.broadcast_to(np.ravel(config.MEAN_PIXEL), config.IMAGE_CHANNEL_COUNT)
    if mean is None or (len(mean) == len(here) and np.allclose(here, mean, rtol=0, atol=SAME_MEAN)):
        return ""
    return (
        f"{path} was trained with the mean pixel {list(mean)} (RGB), and the model has"
        f" MEAN_PIXEL = {here.tolist()}, which gives other numbers. Set"
        f" MEAN_PIXEL = {list(mean)}, or use MaskRCNN.from_preset(..., weights=...), which does."
    )


def settings_to_change(file: WeightFile, config: Any) -> str:
    """The settings that a torchvision or detectron2 checkpoint needs and the model lacks, as a sentence or ""."""
    if file.network is None or config is None:
        return ""
    found = []
    for name, value in file.network.settings().items():
        here = getattr(config, name)
        here = np.ravel(here).tolist() if name in ("MASK_SHAPE", "MEAN_PIXEL") else here
        if name == "CASCADE_BBOX_STD_DEVS" and bool(here) == bool(value):
            continue
        if here != value:
            classes = f"{value} classes: set " if name == "NUM_CLASSES" else ""
            found.append(f"{classes}{name} = {value!r} (here {here!r})")
    if not found:
        return ""
    exclude = ""
    if [name.split(" = ")[0] for name in found] == [f"{file.network.classes} classes: set NUM_CLASSES"]:
        exclude = f" For other classes, exclude={list(CLASS_DEPENDENT_LAYERS)}."
    return f" The file needs {'; '.join(found)}.{exclude}"


def _shape_text(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "nothing"


def _advice(matches: list[LayerMatch]) -> str:
    """Says which settings differ, as far as shapes tell, and what to exclude."""
    kernels = {match.name: (match.stored_shapes[0], match.shapes[0]) for match in matches if match.stored}
    settings = {}
    for layer, axis, unit, setting in SETTING_BEHIND:
        in_file, in_model = kernels.get(layer, ((), ()))
        if len(in_file) == len(in_model) > 0 and in_file[axis] != in_model[axis]:
            settings[setting] = f"{setting} was {in_file[axis] // unit} and is {in_model[axis] // unit} here"
    difference = f"In the training that wrote the file {', '.join(settings.values())}." if settings else (
        "The training that wrote the file had other settings, such as BACKBONE or TOP_DOWN_PYRAMID_SIZE."
    )  # fmt: skip
    exclude = list(CLASS_DEPENDENT_LAYERS) if "NUM_CLASSES" in settings else []
    exclude += [name for name in dict.fromkeys(match.name.split("/")[0] for match in matches) if name not in exclude]
    if len(exclude) > MOST_TO_EXCLUDE:
        return f"{difference} Use the same settings here, or a file of this network."
    return (
        f"{difference} Use the same settings here, or start these layers from new weights: exclude={exclude},"
        " or skip_mismatch=True."
    )
