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

import keras
import numpy as np

from . import load_messages
from .layer_match import LayerMatch, by_owner, match_layers, unused
from .load_report import LoadedArray, LoadReport
from .readers import WeightFile, open_weights, shorten

logger = logging.getLogger(__name__)


def load_weights_by_name(
    model: keras.Model, path: str | os.PathLike, exclude: Iterable[str] | str | None = (), require_all: bool = False,
    skip_mismatch: bool = False,
) -> LoadReport:  # fmt: skip
    """Loads the weights of each layer of `model` for which the file has a layer of the same name.

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
        ValueError: The file can't be read; it has another convention than the model; no layer matches; a shape differs
            and not `skip_mismatch`; a layer is missing and `require_all`. The message has names, shapes and what to do;
            the model is unchanged.

    Warns:
        UserWarning: Loaded weights are NaN or infinite; the layers are named. Or the file has another mean pixel than
            the model.

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
    with open_weights(path) as file:
        found = _matching_layers(model, file, exclude, require_all, skip_mismatch, report)
        arrays = [[array.read() for array in by_owner(match, report.path)] for match in found]
    for match, values in zip(found, arrays, strict=True):
        for variable, value in zip(match.variables, values, strict=True):
            variable.assign(value)
        report.loaded.append(match.name)
        if not all(np.isfinite(np.asarray(value, "float32")).all() for value in values):
            report.not_finite.append(match.name)
    other_mean = load_messages.other_mean_pixel(report.path, file.network, getattr(model, "config", None))
    if other_mean and "conv1" in report.loaded:
        warnings.warn(other_mean, UserWarning, stacklevel=2)
    if report.not_finite:
        warnings.warn(
            f"{report.path}: NaN or infinite weights in {len(report.not_finite)} of {len(report.loaded)} layers:"
            f" {shorten(report.not_finite)}. The training that wrote the file had diverged; use an earlier checkpoint.",
            UserWarning,
            stacklevel=2,
        )
    logger.info("%r", report)
    return report


def _matching_layers(
    model: keras.Model, file: WeightFile, exclude: set[str], require_all: bool, skip_mismatch: bool, report: LoadReport
) -> list[LayerMatch]:
    """Returns the layers to load, whose shapes all agree, and adds the others to the report."""
    config = getattr(model, "config", None)
    load_messages.check_convention(report.path, file, config)
    matches, leftover = match_layers(model, file.layers)
    wanted = [match for match in matches if not exclude & set(match.name.split("/"))]
    found = [match for match in wanted if match.stored is not None]
    report.excluded = [match.name for match in matches if match not in wanted]
    report.missing = [match.name for match in wanted if match.stored is None]
    report.unused = unused(file.layers, matches, exclude) + leftover + file.unused
    if not found:
        raise ValueError(load_messages.nothing_matches(report, file, matches, config))
    if require_all and report.missing and not skip_mismatch:
        raise ValueError(load_messages.incomplete(report, file, config))
    mismatched = [match for match in found if match.shapes != match.stored_shapes]
    found = [match for match in found if match not in mismatched]
    if mismatched and not (skip_mismatch and found):
        raise ValueError(load_messages.mismatch(report.path, mismatched, file, config))
    report.mismatched = [match.name for match in mismatched]
    report.arrays = [row for match in found for row in _report_rows(match, report.path)]
    return found


def _report_rows(match: LayerMatch, path: str) -> list[LoadedArray]:
    rows = []
    for variable, array in zip(match.variables, by_owner(match, path), strict=True):
        piece = getattr(array, "piece", None)
        stored, shape = array.name, array.shape
        if piece is not None:
            stored, shape = piece.source or "", () if array.tensor is None else tuple(array.tensor.shape)
        rows.append(
            LoadedArray(stored, shape, match.name, variable.name, tuple(variable.shape), getattr(piece, "change", ""))
        )
    return rows
