"""Backbones from Keras: networks of `keras.applications`, and Keras models whose named layers give the feature maps.

Shapes: B images of H x W pixels; C2..C5 are feature maps of stride 4, 8, 16, 32.

An application is built by Keras, cut at the layers of C2..C5, and built again from layers of this package, so that
`TRAIN_BN`, folding and fast gradients work as for other backbones. Its layers keep their names, which are those in
weight files of Keras; unnamed layers get names that don't depend on what was built before.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import BatchNorm
from mrcnn.ops.types import Tensor

SIDE = 512  # pixels of the image with which strides are determined; any large multiple of 64
LEVELS = (2, 3, 4, 5)
# Pixels 0..255 -> input of the network: (p - mean) / std for R, G, B. Ours are compared with Keras's in a test.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PIXEL_RANGES = {
    "-1..1": ((127.5,) * 3, (127.5,) * 3),
    "-1..1, 128": ((128.0,) * 3, (128.0,) * 3),
    "standardized": (IMAGENET_MEAN, IMAGENET_STD),
    "BGR": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),  # and the channels reversed, as in Caffe
}
RANGE_OF = (  # the first pattern that matches a name
    (r"ResNet\d+V2", "-1..1"),
    (r"ResNet|VGG", "BGR"),
    (r"EfficientNetV2[SML]", "-1..1, 128"),
    (r"EfficientNet|ConvNeXt|DenseNet", "standardized"),
    (r"MobileNet|Inception|Xception|NASNet", "-1..1"),
)
LEADING = (layers.Rescaling, layers.Normalization)  # Keras's own preprocessing, which is replaced
JOINING = (layers.Add, layers.Concatenate)


# ---- keras.applications ----------------------------------------------------------------------------------------------
def application_graph(
    input_image: Tensor, name: str, mean_pixel: Sequence[float] | float, train_bn: bool | None = False
) -> list[Tensor | None]:
    """A network of `keras.applications` without its classifier.

    Args:
        input_image: [B, H, W, 3] float, mean pixel subtracted.
        name: "EfficientNetV2B0", "MobileNetV3Small", ...
        mean_pixel: [3] or a number, `Config.MEAN_PIXEL`; it is added again, and pixels are scaled as this network
            expects them.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [None, C2, C3, C4, C5]. Each is the last map of its stride that all later layers depend on.

    Raises:
        ValueError: images do not have 3 channels.
    """
    if input_image.shape[-1] != 3:
        raise ValueError(f"BACKBONE {name!r} needs IMAGE_CHANNEL_COUNT = 3; it is {input_image.shape[-1]}.")
    return [None, *application(name, train_bn).call(_pixels_of(input_image, name, mean_pixel))]


def application(name: str, train_bn: bool | None = False, weights: str | None = None) -> keras.Model:
    """Scaled pixels -> [C2, C3, C4, C5] of a network of `keras.applications`, with the layers of this package.

    Args:
        name: Of the network.
        train_bn: `Config.TRAIN_BN`.
        weights: None: new ones. "imagenet": Keras downloads them.
    """
    source = getattr(keras.applications, name)(include_top=False, weights=weights, input_shape=(SIDE, SIDE, 3))
    network = keras.Model(source.inputs[0], [_padded(x, level) for x, level in zip(last_maps(source), LEVELS)])
    preprocessing = leading_layers(source)
    made, counts = [], {}

    def clone(layer: Any) -> Any:
        if not isinstance(layer, layers.Layer) or layer.name in preprocessing:
            return layer
        copy = _layer_like(layer, _stable_name(layer, counts), train_bn)
        made.append((layer, copy))
        return copy

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in preprocessing else layer(*args, **kwargs)

    image = keras.Input((None, None, 3))
    result = keras.models.clone_model(network, input_tensors=image, clone_function=clone, call_function=call)
    if weights is not None:
        for layer, copy in made:
            copy.set_weights(layer.get_weights())
    return result


def last_maps(network: keras.Model) -> list[Tensor]:
    """The maps of stride 4, 8, 16 and 32 of a network that was built for images of `SIDE` x `SIDE` pixels.

    The map of a stride is the last one that all paths to the output pass through. If there is none, as in NASNet, whose
    cells also read the second last cell, it is the last one that joins branches.
    """
    uses: dict[int, int] = {}
    for operation in network.operations:
        for x in _inputs(operation):
            uses[id(x)] = uses.get(id(x), 0) + 1
    live, cuts, joined = set(), {}, {}
    for operation in network.operations:
        for x in _inputs(operation):
            uses[id(x)] -= 1
            if not uses[id(x)]:
                live.discard(id(x))
        x = operation.output
        live.add(id(x))
        if len(x.shape) == 4 and not isinstance(operation, layers.ZeroPadding2D):
            level = round(math.log2(SIDE / x.shape[1]))
            if live == {id(x)}:
                cuts[level] = x
            if isinstance(operation, JOINING):
                joined[level] = x
    return [cuts[level] if level in cuts else joined[level] for level in LEVELS]


def _inputs(operation: Any) -> list[Tensor]:
    return [] if isinstance(operation, layers.InputLayer) else keras.tree.flatten(operation.input)


def _padded(x: Tensor, level: int, size: int | None = None) -> Tensor:
    """Pads a map with zeros to the number of cells that its stride requires.

    Inception and Xception have unpadded convolutions; the number of cells they lose does not depend on the image size.

    Args:
        x: [B, h, w, channels].
        level: 2 to 5; the stride is 2**level.
        size: Height of the map for an image of `SIDE` pixels; None: that of `x`.
    """
    missing = SIDE // 2**level - (size or x.shape[1])
    if not missing:
        return x
    before, after = missing // 2, missing - missing // 2
    return layers.ZeroPadding2D(((before, after), (before, after)), name=f"backbone_c{level}_padding")(x)


def _pixels_of(image: Tensor, name: str, mean_pixel: Sequence[float] | float) -> Tensor:
    """[B, H, W, 3] in the range that the network `name` was trained with."""
    kind = next(kind for pattern, kind in RANGE_OF if re.match(pattern, name))
    (mean, std), ours = PIXEL_RANGES[kind], np.broadcast_to(np.asarray(mean_pixel, "float64"), 3)
    offset = [float(a - b) / c for a, b, c in zip(ours, mean, std, strict=True)]
    x = layers.Rescaling([1 / value for value in std], offset=offset, name="backbone_pixels")(image)
    return ops.flip(x, axis=-1) if kind == "BGR" else x


def leading_layers(network: keras.Model) -> list[str]:
    """Names of the preprocessing layers between the input of a network and its first other layer."""
    found, x = [], network.inputs[0]
    for operation in network.operations:
        if isinstance(operation, LEADING) and operation.input is x:
            found.append(operation.name)
            x = operation.output
    return found


def _layer_like(layer: layers.Layer, name: str, train_bn: bool | None) -> layers.Layer:
    """A new layer of the same type, from this package if it has one."""
    config = {**layer.get_config(), "name": name}
    if type(layer) is layers.BatchNormalization:
        return BatchNorm.from_config({**config, "train_bn": train_bn})
    if type(layer) is layers.Conv2D:
        return Conv2D.from_config(config)
    return type(layer).from_config(config)


def _stable_name(layer: layers.Layer, counts: dict[str, int]) -> str:
    """The name of a layer; if Keras numbered it ("conv2d_17"), one with its number in this network."""
    kind = re.sub(r"_\d+$", "", layer.name)
    if kind.replace("_", "") != type(layer).__name__.lower():
        return layer.name
    counts[kind] = counts.get(kind, -1) + 1
    return f"backbone_{kind}_{counts[kind]}"


# ---- Models of the user ----------------------------------------------------------------------------------------------
def tapped_graph(
    input_image: Tensor,
    backbone: keras.Model,
    taps: Sequence[str],
    mean_pixel: Sequence[float] | float,
    train_bn: bool | None = False,
) -> list[Tensor | None]:
    """A Keras model whose feature maps are outputs of named layers. Its layers and weights are used, not copied.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted.
        backbone: Functional model with one image as input, whose pixels are 0..255: it scales them itself.
        taps: Names of the layers of C2..C5, of the strides 4, 8, 16 and 32.
        mean_pixel: [channels] or a number, `Config.MEAN_PIXEL`; it is added again.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [None, C2, C3, C4, C5].

    Raises:
        ValueError: there is no such layer, or its map has another stride; or `train_bn` is True, which a Keras model
            can't follow.
    """
    outputs = []
    names = [layer.name for layer in backbone.layers]
    for name in taps:
        if name not in names:
            near = difflib.get_close_matches(name, names, 4, 0.4) or names[-4:]
            raise ValueError(f"BACKBONE {backbone.name!r} has no layer {name!r}; similar ones are {', '.join(near)}.")
        outputs.append(backbone.get_layer(name).output)
    network = keras.Model(backbone.inputs[0], outputs)
    channels = input_image.shape[-1]
    shapes = network.compute_output_shape((1, SIDE, SIDE, channels))
    for name, shape, level in zip(taps, shapes, LEVELS, strict=True):
        if len(shape) != 4 or round(math.log2(SIDE / shape[1])) != level:
            raise ValueError(
                f"BACKBONE: the layer {name!r} of {backbone.name!r} gives {shape} for {SIDE} x {SIDE} pixels; expected"
                f" a map of the stride {2**level}, [1, {SIDE >> level}, {SIDE >> level}, channels]."
            )
    if train_bn is True and any(isinstance(layer, layers.BatchNormalization) for layer in network.layers):
        raise ValueError("TRAIN_BN = True isn't possible with a Keras model as BACKBONE; set it to None or False.")
    if train_bn is False:
        freeze_batch_norm(network)
    mean = np.broadcast_to(np.asarray(mean_pixel, "float64"), channels)
    pixels = layers.Rescaling([1.0] * channels, offset=[float(value) for value in mean], name="backbone_pixels")
    maps = network.call(pixels(input_image))
    return [None, *(_padded(x, level, shape[1]) for x, shape, level in zip(maps, shapes, LEVELS, strict=True))]


def pyramid_outputs_graph(
    input_image: Tensor, backbone: keras.Model, train_bn: bool | None = False
) -> list[Tensor | None]:
    """A Keras model with `pyramid_outputs`, such as a KerasHub backbone. Its layers and weights are used, not copied.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted. A backbone with other inputs needs a function as
            `BACKBONE`, which converts them.
        backbone: Functional model whose `pyramid_outputs` is a dict with P2..P5, of the strides 4 to 32.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [None, C2, C3, C4, C5].

    Raises:
        ValueError: a level is missing.
    """
    names = [f"P{level}" for level in LEVELS]
    missing = [name for name in names if name not in backbone.pyramid_outputs]
    if missing:
        raise ValueError(
            f"BACKBONE {backbone.name!r} has the pyramid outputs {', '.join(backbone.pyramid_outputs)}; expected"
            f" {', '.join(names)}, of the strides 4, 8, 16 and 32."
        )
    network = keras.Model(backbone.input, [backbone.pyramid_outputs[name] for name in names])
    if train_bn is False:
        freeze_batch_norm(network)
    return [None, *network.call(input_image)]  # `call` adds its layers to this graph, not a model inside the model


def freeze_batch_norm(network: keras.Model) -> None:
    """Freezes each `BatchNormalization` of a model."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
