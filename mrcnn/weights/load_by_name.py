"""Loads a weight file into a model, by layer name.

Layers of the file and of the model meet by their top-level names. The layers of a model inside the model (`rpn_model`)
meet one by one, and are reported as "rpn_model/rpn_conv_shared". Inside a layer the arrays meet by position. All is
checked before the first array is assigned: on an error the model is as it was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import keras
import numpy as np

from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS

from .readers import StoredArray, open_weights, shorten

# Which setting a shape follows from: layer, axis of its kernel, length of that axis per unit of the setting.
SETTING_BEHIND = (
    ("mrcnn_class_logits", -1, 1, "NUM_CLASSES"),
    ("mrcnn_bbox_fc", -1, 4, "NUM_CLASSES"),
    ("mrcnn_mask", -1, 1, "NUM_CLASSES"),
    ("conv1", 2, 1, "IMAGE_CHANNEL_COUNT"),
    ("rpn_model/rpn_class_raw", -1, 2, "the number of RPN_ANCHOR_RATIOS"),
    ("rpn_model/rpn_conv_shared", 2, 1, "TOP_DOWN_PYRAMID_SIZE"),
    ("mrcnn_class_conv2", -1, 1, "FPN_CLASSIF_FC_LAYERS_SIZE"),
)
MOST_TO_EXCLUDE = 20  # more misfits than that are another network, not other heads


@dataclass(repr=False)
class LoadReport:
    """What `load_weights_by_name` did. `print(report)` says it in words.

    Attributes:
        path: the file.
        loaded: names of the layers that got their arrays from the file.
        missing: layers of the model that the file does not have; they keep their values.
        excluded: layers of the model that `exclude` left out; they keep their values.
        mismatched: layers whose shapes differ, left alone because of `skip_mismatch`.
        unused: layers of the file that the model does not have.
        not_finite: loaded layers with NaN or infinite numbers, the mark of a training that diverged.
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        left = len(self.missing) + len(self.excluded) + len(self.mismatched)
        return f"<LoadReport of {self.path}: {len(self.loaded)} layers loaded, {left} left as they were>"

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.loaded)} layers loaded."]
        for names, what in (
            (self.excluded, "left out by `exclude`, and keep their values"),
            (self.mismatched, "have other shapes in the file, and keep their values"),
            (self.missing, "of the model are not in the file, and keep their values"),
            (self.unused, "of the file are not in the model, and were not used"),
            (self.not_finite, "hold NaN or infinite numbers: the training that wrote the file had diverged"),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {shorten(names)}")
        return "\n".join(lines)


@dataclass(eq=False)
class _Slot:
    """One layer of the model that has weights, and what the file offers for it."""

    name: str  # "conv1", or "rpn_model/rpn_conv_shared"
    variables: list
    stored: list[StoredArray] | None = None  # None: not in the file

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(variable.shape) for variable in self.variables]

    @property
    def stored_shapes(self) -> list[tuple[int, ...]]:
        return [array.shape for array in self.stored]


def load_weights_by_name(
    model: keras.Model,
    path: str | os.PathLike,
    exclude: Iterable[str] | None = (),
    require_all: bool = False,
    skip_mismatch: bool = False,
) -> LoadReport:
    """Gives each layer of `model` the arrays that the file has under its name.

    Args:
        model: a built Keras model.
        path: a weight file in any layout that `read_weights` knows.
        exclude: names of layers to leave as they are, top-level ones or ones inside `rpn_model`. Names that no layer
            has are ignored.
        skip_mismatch: leave layers alone whose shapes in the file differ, as in `keras.Model.load_weights`.
        require_all: refuse a file that lacks a layer of the model (but for the excluded ones).

    Returns:
        LoadReport.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file can't be read; no layer matches; a shape differs; a layer is missing and `require_all`.
            The message has names, shapes and what to do, and the model is unchanged.
    """
    exclude = {exclude} if isinstance(exclude, str) else set(exclude or ())
    report = LoadReport(os.fspath(path))
    with open_weights(path) as layers:
        slots, leftover = _slots(model, layers)
        wanted = [slot for slot in slots if not exclude & set(slot.name.split("/"))]
        found = [slot for slot in wanted if slot.stored is not None]
        report.excluded = [slot.name for slot in slots if slot not in wanted]
        report.missing = [slot.name for slot in wanted if slot.stored is None]
        report.unused = _unused(layers, slots, exclude) + leftover
        if not found:
            raise ValueError(_nothing_matches(report, layers, slots))
        if require_all and report.missing:
            raise ValueError(_incomplete(report))
        misfits = [slot for slot in found if slot.shapes != slot.stored_shapes]
        if misfits and not skip_mismatch:
            raise ValueError(_misfit(report.path, misfits))
        report.mismatched = [slot.name for slot in misfits]
        found = [slot for slot in found if slot not in misfits]
        arrays = [[array.read() for array in _by_owner(slot, report.path)] for slot in found]

    for slot, values in zip(found, arrays, strict=True):
        for variable, value in zip(slot.variables, values, strict=True):
            variable.assign(value)
        report.loaded.append(slot.name)
        if not all(np.isfinite(np.asarray(value, "float32")).all() for value in values):
            report.not_finite.append(slot.name)
    if report.not_finite:
        warnings.warn(
            f"{report.path} has NaN or infinite weights in {shorten(report.not_finite)}: the training that wrote it"
            " had diverged. Load an earlier checkpoint.",
            UserWarning,
            stacklevel=2,
        )
    return report


# ---- Who meets whom ----------------------------------------------------------------------------------------------
def _slots(model: keras.Model, layers: dict[str, list[StoredArray]]) -> tuple[list[_Slot], list[str]]:
    """The model's layers with weights, each with its arrays of the file; and names of arrays that found no layer."""
    slots, leftover = [], []
    for layer in model.layers:
        stored = layers.get(layer.name)
        if isinstance(layer, keras.Model):
            inner = _inner_slots(layer, layer.name)
            slots += inner
            leftover += _deal(stored, inner) if stored else []
        elif layer.weights:
            slots.append(_Slot(layer.name, layer.weights, stored))
    return slots, leftover


def _inner_slots(model: keras.Model, prefix: str) -> list[_Slot]:
    slots = []
    for layer in model.layers:
        name = f"{prefix}/{layer.name}"
        if isinstance(layer, keras.Model):
            slots += _inner_slots(layer, name)
        elif layer.weights:
            slots.append(_Slot(name, layer.weights))
    return slots


def _deal(stored: list[StoredArray], slots: list[_Slot]) -> list[str]:
    """Deals out the arrays that the file has for a nested model to the layers in it; names those that none takes.

    By the names of those layers, which stand in the arrays' names. Where none does, by position.
    """
    by_name = {slot.name.rsplit("/", 1)[-1]: slot for slot in slots}
    owners = [next((part for part in array.name.split("/") if part in by_name), None) for array in stored]
    if not any(owners):
        owners = [name for name, slot in by_name.items() for _ in slot.variables][: len(stored)]
        owners += [None] * (len(stored) - len(owners))
    for array, owner in zip(stored, owners, strict=True):
        if owner:
            by_name[owner].stored = [*(by_name[owner].stored or []), array]
    return [array.name for array, owner in zip(stored, owners, strict=True) if not owner]


def _by_owner(slot: _Slot, path: str) -> list[StoredArray]:
    """The arrays of `slot` in the order of its variables.

    That is the file's order, but for a layer of several layers in Keras's layout (attention with its query, key and
    value): there the file has them by name.
    """
    if all(array.in_order for array in slot.stored):
        return slot.stored
    owners = [variable.path.split("/")[-2] for variable in slot.variables]
    offered = {}
    for array in slot.stored:
        offered.setdefault(array.name.split("/")[-2], []).append(array)
    if len(offered) == 1:
        return slot.stored
    if [len(offered.get(owner, ())) for owner in owners] != [owners.count(owner) for owner in owners]:
        raise ValueError(
            f"{path}: the layer {slot.name} is made of several layers, {shorten(offered)} in the file and"
            f" {shorten(dict.fromkeys(owners))} in the model, so which is which can't be told. Give them fixed names."
        )
    return [offered[owner].pop(0) for owner in owners]


def _unused(layers: dict[str, list[StoredArray]], slots: list[_Slot], exclude: set[str]) -> list[str]:
    used = {slot.name.split("/")[0] for slot in slots}
    return [name for name in layers if name not in used and name not in exclude]


# ---- What to say when it does not fit ----------------------------------------------------------------------------
def _nothing_matches(report: LoadReport, layers: dict, slots: list[_Slot]) -> str:
    if not slots:
        return f"{report.path}: the model has no weights yet. Build it first, by calling it on an image."
    if not layers:
        return f"{report.path} holds no weights at all: all its layers are empty."
    if report.excluded and not report.missing:
        return f"{report.path}: `exclude` names every layer of the model, so nothing is left to load."
    return (
        f"{report.path}: none of its layers has the name of a layer in the model, so nothing was loaded.\n"
        f"  in the file:  {shorten(layers)}\n"
        f"  in the model: {shorten(slot.name for slot in slots)}\n"
        "The file comes from another network, or the layers were renamed. Check the file and config.BACKBONE."
    )


def _incomplete(report: LoadReport) -> str:
    return (
        f"{report.path} lacks {len(report.missing)} layers of the model: {shorten(report.missing)}. Nothing was loaded."
        " Load what the file has with by_name=True, or set BACKBONE as it was in the training that wrote the file."
    )


def _misfit(path: str, slots: list[_Slot]) -> str:
    width = max(len(slot.name) for slot in slots)
    rows = [f"  {slot.name:{width}}  in the file {_text(slot.stored_shapes)}, in the model {_text(slot.shapes)}"
            for slot in slots[:20]]  # fmt: skip
    if len(slots) > len(rows):
        rows.append(f"  ... and {len(slots) - len(rows)} more")
    return (
        f"{path} does not fit the model; nothing was loaded. The shapes of {len(slots)} layers differ:\n"
        + "\n".join(rows)
        + f"\n{_advice(slots)}"
    )


def _text(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "nothing"


def _advice(slots: list[_Slot]) -> str:
    """Which settings differ, as far as shapes tell, and what to write in `exclude`."""
    kernels = {slot.name: (slot.stored_shapes[0], slot.shapes[0]) for slot in slots if slot.stored}
    settings = {}
    for layer, axis, unit, setting in SETTING_BEHIND:
        in_file, in_model = kernels.get(layer, ((), ()))
        if len(in_file) == len(in_model) > 0 and in_file[axis] != in_model[axis]:
            settings[setting] = f"{setting} was {in_file[axis] // unit} and is {in_model[axis] // unit} here"
    said = f"In the training that wrote the file {', '.join(settings.values())}." if settings else (
        "The training that wrote the file had other settings, such as BACKBONE or TOP_DOWN_PYRAMID_SIZE."
    )  # fmt: skip
    exclude = list(CLASS_DEPENDENT_LAYERS) if "NUM_CLASSES" in settings else []
    exclude += [name for name in dict.fromkeys(slot.name.split("/")[0] for slot in slots) if name not in exclude]
    if len(exclude) > MOST_TO_EXCLUDE:
        return f"{said} Use the same settings here, or a file of this network."
    return f"{said} Use the same settings here, or load all but these layers and train them anew: exclude={exclude}"
