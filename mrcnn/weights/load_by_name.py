"""Loads a weight file into a model, by layer name.

Layers of the file and of the model are matched by their top-level names. The layers of a nested model (`rpn_model`)
are matched one by one and reported as "rpn_model/rpn_conv_shared". Within a layer, arrays are matched by position.
Everything is checked before the first array is assigned, so an error leaves the model unchanged.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import keras
import numpy as np

from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS

from .readers import StoredArray, open_weights, shorten

logger = logging.getLogger(__name__)

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
MOST_TO_EXCLUDE = 20  # more mismatches than this mean another network, not another number of classes


@dataclass
class LoadReport:
    """What `load_weights_by_name` did. Its `repr` is one line; `print(report)` lists the layers.

    Attributes:
        path: The file.
        loaded: Names of the layers that were loaded from the file.
        missing: Layers of the model that the file does not have; they keep their values.
        excluded: Layers of the model that `exclude` left out; they keep their values.
        mismatched: Layers whose shapes differ, left out by `skip_mismatch`; they keep their values.
        unused: Layers of the file that the model does not have.
        not_finite: Loaded layers with NaN or infinite weights, the sign of a training that diverged.

    Example:
        >>> LoadReport("coco.h5", loaded=["conv1", "bn_conv1"], missing=["mrcnn_mask"])
        <LoadReport coco.h5: 2 layers loaded, 1 missing>
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        rest = ("missing", "excluded", "mismatched", "unused", "not_finite")
        counts = [f"{len(getattr(self, name))} {name}" for name in rest if getattr(self, name)]
        return f"<LoadReport {self.path}: {', '.join([f'{len(self.loaded)} layers loaded', *counts])}>"

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.loaded)} layers loaded."]
        for names, what in (
            (self.excluded, "left out by `exclude`, and keep their values"),
            (self.mismatched, "have other shapes in the file, and keep their values"),
            (self.missing, "of the model are not in the file, and keep their values"),
            (self.unused, "of the file are not in the model, and were not used"),
            (self.not_finite, "have NaN or infinite weights: the training that wrote the file had diverged"),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {shorten(names)}")
        return "\n".join(lines)


@dataclass(eq=False)
class _LayerMatch:
    """A layer of the model that has weights, and its arrays in the file."""

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
    exclude: Iterable[str] | str | None = (),
    require_all: bool = False,
    skip_mismatch: bool = False,
) -> LoadReport:
    """Loads the weights of each layer of `model` that the file has a layer of the same name for.

    Args:
        model: Built Keras model.
        path: Weight file in any layout that `read_weights` knows.
        exclude: Names of layers to leave unchanged, top-level or inside `rpn_model`. Names of no layer are ignored.
        require_all: Raise if the file lacks a layer of the model that isn't excluded.
        skip_mismatch: As in Keras, leave layers unchanged that are missing or whose shapes differ, instead of raising.
            They are listed in the report.

    Returns:
        LoadReport.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file can't be read; no layer matches; a shape differs and not `skip_mismatch`; a layer is
            missing and `require_all`. The message has names, shapes and what to do; the model is unchanged.

    Warns:
        UserWarning: Loaded weights are NaN or infinite; the layers are named.

    Example:
        >>> import tempfile
        >>> from mrcnn.weights import save_matterport_h5
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="fc")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_matterport_h5(model, f"{folder}/model.h5")
        ...     report = load_weights_by_name(model, f"{folder}/model.h5")
        >>> report.loaded
        ['fc']
    """
    exclude = {exclude} if isinstance(exclude, str) else set(exclude or ())
    report = LoadReport(os.fspath(path))
    with open_weights(path) as layers:
        matches, leftover = _match_layers(model, layers)
        wanted = [match for match in matches if not exclude & set(match.name.split("/"))]
        found = [match for match in wanted if match.stored is not None]
        report.excluded = [match.name for match in matches if match not in wanted]
        report.missing = [match.name for match in wanted if match.stored is None]
        report.unused = _unused(layers, matches, exclude) + leftover
        if not found:
            raise ValueError(_nothing_matches(report, layers, matches))
        if require_all and report.missing and not skip_mismatch:
            raise ValueError(_incomplete(report))
        mismatched = [match for match in found if match.shapes != match.stored_shapes]
        found = [match for match in found if match not in mismatched]
        if mismatched and not (skip_mismatch and found):
            raise ValueError(_mismatch(report.path, mismatched))
        report.mismatched = [match.name for match in mismatched]
        arrays = [[array.read() for array in _by_owner(match, report.path)] for match in found]

    for match, values in zip(found, arrays, strict=True):
        for variable, value in zip(match.variables, values, strict=True):
            variable.assign(value)
        report.loaded.append(match.name)
        if not all(np.isfinite(np.asarray(value, "float32")).all() for value in values):
            report.not_finite.append(match.name)
    if report.not_finite:
        warnings.warn(
            f"{report.path}: {len(report.not_finite)} layers have NaN or infinite weights, because the training that"
            f" wrote the file had diverged: {shorten(report.not_finite)}. Use an earlier checkpoint.",
            UserWarning,
            stacklevel=2,
        )
    logger.info("%r", report)
    return report


# ---- Matching layers and arrays ------------------------------------------------------------------------------------
def _match_layers(model: keras.Model, layers: dict[str, list[StoredArray]]) -> tuple[list[_LayerMatch], list[str]]:
    """Returns the model's layers that have weights, with their arrays in the file, and names of unmatched arrays."""
    matches, leftover = [], []
    for layer in model.layers:
        stored = layers.get(layer.name)
        if isinstance(layer, keras.Model):
            inner = _nested_matches(layer, layer.name)
            matches += inner
            leftover += _assign_to_nested(stored, inner) if stored else []
        elif layer.weights:
            matches.append(_LayerMatch(layer.name, layer.weights, stored))
    return matches, leftover


def _nested_matches(model: keras.Model, prefix: str) -> list[_LayerMatch]:
    matches = []
    for layer in model.layers:
        name = f"{prefix}/{layer.name}"
        if isinstance(layer, keras.Model):
            matches += _nested_matches(layer, name)
        elif layer.weights:
            matches.append(_LayerMatch(name, layer.weights))
    return matches


def _assign_to_nested(stored: list[StoredArray], matches: list[_LayerMatch]) -> list[str]:
    """Distributes the file's arrays of a nested model over its layers; returns the names of arrays left over.

    An array belongs to the layer whose name is part of its own. If no array's name contains one, position decides.
    """
    by_name = {match.name.rsplit("/", 1)[-1]: match for match in matches}
    owners = [next((part for part in array.name.split("/") if part in by_name), None) for array in stored]
    if not any(owners):
        owners = [name for name, match in by_name.items() for _ in match.variables][: len(stored)]
        owners += [None] * (len(stored) - len(owners))
    for array, owner in zip(stored, owners, strict=True):
        if owner:
            by_name[owner].stored = [*(by_name[owner].stored or []), array]
    return [array.name for array, owner in zip(stored, owners, strict=True) if not owner]


def _by_owner(match: _LayerMatch, path: str) -> list[StoredArray]:
    """Returns the arrays of `match` in the order of its variables.

    This is the file's order, except for layers made of several layers (attention: query, key, value) in Keras's
    layout, where the file sorts them by name.
    """
    if all(array.in_order for array in match.stored):
        return match.stored
    owners = [variable.path.split("/")[-2] for variable in match.variables]
    offered = {}
    for array in match.stored:
        offered.setdefault(array.name.split("/")[-2], []).append(array)
    if len(offered) == 1:
        return match.stored
    if [len(offered.get(owner, ())) for owner in owners] != [owners.count(owner) for owner in owners]:
        raise ValueError(
            f"{path}: the layer {match.name} is made of several layers, {shorten(offered)} in the file and"
            f" {shorten(dict.fromkeys(owners))} in the model, which can't be matched. Give them fixed names."
        )
    return [offered[owner].pop(0) for owner in owners]


def _unused(layers: dict[str, list[StoredArray]], matches: list[_LayerMatch], exclude: set[str]) -> list[str]:
    used = {match.name.split("/")[0] for match in matches}
    return [name for name in layers if name not in used and name not in exclude]


# ---- Error messages --------------------------------------------------------------------------------------------------
def _nothing_matches(report: LoadReport, layers: dict, matches: list[_LayerMatch]) -> str:
    if not matches:
        return f"{report.path}: the model has no weights yet. Build it first, by calling it on an image."
    if not layers:
        return f"{report.path} holds no weights at all: all its layers are empty."
    if report.excluded and not report.missing:
        return f"{report.path}: `exclude` names every layer of the model, so nothing is left to load."
    return (
        f"{report.path}: none of its layers has the name of a layer in the model, so nothing was loaded.\n"
        f"  in the file:  {shorten(layers)}\n"
        f"  in the model: {shorten(match.name for match in matches)}\n"
        "The file comes from another network, or the layers were renamed. Check the file and config.BACKBONE."
    )


def _incomplete(report: LoadReport) -> str:
    return (
        f"{report.path} lacks {len(report.missing)} layers of the model: {shorten(report.missing)}. Nothing was loaded."
        " Load what the file has with by_name=True, or set BACKBONE as it was in the training that wrote the file."
    )


def _mismatch(path: str, matches: list[_LayerMatch]) -> str:
    width = max(len(match.name) for match in matches)
    rows = [f"  {match.name:{width}}  in the file {_text(match.stored_shapes)}, in the model {_text(match.shapes)}"
            for match in matches[:20]]  # fmt: skip
    if len(matches) > len(rows):
        rows.append(f"  ... and {len(matches) - len(rows)} more")
    return (
        f"{path} does not fit the model; nothing was loaded. The shapes of {len(matches)} layers differ:\n"
        + "\n".join(rows)
        + f"\n{_advice(matches)}"
    )


def _text(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "nothing"


def _advice(matches: list[_LayerMatch]) -> str:
    """Says which settings differ, as far as shapes tell, and what to exclude."""
    kernels = {match.name: (match.stored_shapes[0], match.shapes[0]) for match in matches if match.stored}
    settings = {}
    for layer, axis, unit, setting in SETTING_BEHIND:
        in_file, in_model = kernels.get(layer, ((), ()))
        if len(in_file) == len(in_model) > 0 and in_file[axis] != in_model[axis]:
            settings[setting] = f"{setting} was {in_file[axis] // unit} and is {in_model[axis] // unit} here"
    said = f"In the training that wrote the file {', '.join(settings.values())}." if settings else (
        "The training that wrote the file had other settings, such as BACKBONE or TOP_DOWN_PYRAMID_SIZE."
    )  # fmt: skip
    exclude = list(CLASS_DEPENDENT_LAYERS) if "NUM_CLASSES" in settings else []
    exclude += [name for name in dict.fromkeys(match.name.split("/")[0] for match in matches) if name not in exclude]
    if len(exclude) > MOST_TO_EXCLUDE:
        return f"{said} Use the same settings here, or a file of this network."
    return (
        f"{said} Use the same settings here, or start these layers from new weights: exclude={exclude},"
        " or skip_mismatch=True."
    )
