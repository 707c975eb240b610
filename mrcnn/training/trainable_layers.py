"""Selects the layers to train by matterport's names ("heads", "3+", "all") or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import keras

from mrcnn.config_checks import NAMED_IN_STAGES

HEADS = r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"
# Stages of the backbone that "3+", "4+" and "5+" train in addition to the heads.
STAGES = {
    "3+": r"(res[345].*)|(bn[345].*)|(block_([3-9]|1\d)_.*)|(Conv_1.*)|(stage[345].*)",
    "4+": r"(res[45].*)|(bn[45].*)|(block_([6-9]|1\d)_.*)|(Conv_1.*)|(stage[45].*)",
    "5+": r"(res5.*)|(bn5.*)|(block_1[3-6]_.*)|(Conv_1.*)|(stage5.*)",
}
LAYER_REGEX = {"heads": HEADS, **{name: f"{stages}|{HEADS}" for name, stages in STAGES.items()}, "all": ".*"}


def layer_regex(model: keras.Model, layers: str) -> str:
    """The regular expression for "heads", "3+", ..., "all"; other texts are regular expressions themselves.

    In backbones with other layer names, stages are found by their position between C2 and C5.

    Args:
        model: A `MaskRCNN`.
        layers: The argument of `train`.
    """
    regex, stages = LAYER_REGEX.get(layers, layers), model.stages
    backbone = model.config.BACKBONE
    named = isinstance(backbone, str) and backbone in NAMED_IN_STAGES
    if layers not in STAGES or named or stages is None:
        return regex
    return "|".join([HEADS, *map(re.escape, layers_from_stage(stages.image, stages.backbone, int(layers[0])))])


def layers_from_stage(image: keras.KerasTensor, stages: list, first: int) -> list[str]:
    """Names of the layers with weights in the stages of a backbone from `first` on, by their place between C2..C5.

    Args:
        image: the symbolic input of the backbone.
        stages: [C2, C3, C4, C5], symbolic.
        first: 3, 4 or 5.
    """
    before = {layer.name for layer in keras.Model(image, stages[first - 3]).layers}
    return [layer.name for layer in keras.Model(image, stages[-1]).layers if layer.weights and layer.name not in before]


def set_trainable(
    model: keras.Model, layer_regex: str, train_bn: bool | None, verbose: int = 1, indent: int = 0
) -> None:
    """Makes the layers trainable whose full name matches, and freezes the others.

    Args:
        model: A keras.Model. Layers of nested models (`rpn_model`) are matched, too; if the name of a nested model
            matches, all of its layers are selected.
        layer_regex: Regular expression, matched against the full name.
        train_bn: `Config.TRAIN_BN`; False keeps every BatchNorm frozen.
        verbose: 1 prints the selected layers.
        indent: Indentation of the printed lines.
    """
    if verbose and not indent:
        print("Selecting layers to train")
    pattern = re.compile(layer_regex)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layer.trainable = True  # a frozen model freezes all of its layers
            if verbose and layer.weights:
                print(f"{' ' * indent}In model: {layer.name}")
            inner = ".*" if pattern.fullmatch(layer.name) else layer_regex
            set_trainable(layer, inner, train_bn, verbose, indent + 4)
            continue
        if not layer.weights:
            continue
        inner = getattr(layer, "layer", layer)  # TimeDistributed has the name, and the wrapped layer the weights
        frozen = train_bn is False and isinstance(inner, keras.layers.BatchNormalization)
        layer.trainable = bool(pattern.fullmatch(layer.name)) and not frozen
        if verbose and layer.trainable:
            print(f"{' ' * indent}{layer.name:24} ({type(inner).__name__})")


def frozen_layers(model: keras.Model) -> list[str]:
    """Names of the layers with frozen weights, including those inside `rpn_model`; for `MaskRCNN.save`."""
    return [layer.name for layer in layers_with_weights(model) if not layer.trainable_weights]


def freeze(model: keras.Model, names: Iterable[str]) -> None:
    """Freezes the layers with these names and makes all others trainable. Inverse of `frozen_layers`."""
    names = set(names)
    for layer in layers_with_weights(model):
        layer.trainable = layer.name not in names


def layers_with_weights(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_with_weights(layer)
        elif layer.weights:
            yield layer
