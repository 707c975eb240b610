"""Which layers of a model and of a weight file belong together."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from .readers import StoredArray, shorten


@dataclass(eq=False)
class LayerMatch:
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


def match_layers(model: keras.Model, layers: dict[str, list[StoredArray]]) -> tuple[list[LayerMatch], list[str]]:
    """Returns the model's layers with weights, their arrays in the file, and the names of unmatched arrays."""
    matches, leftover = [], []
    for layer in model.layers:
        stored = layers.get(layer.name)
        if isinstance(layer, keras.Model):
            inner = _nested_matches(layer, layer.name)
            matches += inner
            leftover += _assign_to_nested(stored, inner) if stored else []
        elif layer.weights:
            matches.append(LayerMatch(layer.name, layer.weights, stored))
    return matches, leftover


def _nested_matches(model: keras.Model, prefix: str) -> list[LayerMatch]:
    matches = []
    for layer in model.layers:
        name = f"{prefix}/{layer.name}"
        if isinstance(layer, keras.Model):
            matches += _nested_matches(layer, name)
        elif layer.weights:
            matches.append(LayerMatch(name, layer.weights))
    return matches


def _assign_to_nested(stored: list[StoredArray], matches: list[LayerMatch]) -> list[str]:
    """Distributes the file's arrays of a nested model over its layers; returns the names of arrays left over.

    An array belongs to the layer whose name is part of the array's name. If there is none, position decides.
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


def by_owner(match: LayerMatch, path: str) -> list[StoredArray]:
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


def unused(layers: dict[str, list[StoredArray]], matches: list[LayerMatch], exclude: set[str]) -> list[str]:
    used = {match.name.split("/")[0] for match in matches}
    return [name for name in layers if name not in used and name not in exclude]
