"""Backbones: image -> [C1, C2, C3, C4, C5], feature maps of stride 2, 4, 8, 16, 32.

Shapes: B images of H x W pixels; C_i is [B, H / 2**i, W / 2**i, channels].

The ResNets (He et al., "Deep Residual Learning for Image Recognition") are matterport's by default: the stride of a
stage is in its first 1 x 1 convolutions, and convolutions have biases. `ResNetStyle` gives those of other projects.
Layer names are matterport's, as used in weight files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from mrcnn.config import Config
from mrcnn.config_checks import EFFICIENTNET_LITE, KERAS_APPLICATIONS, is_tapped_model
from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.efficientnet_lite import efficientnet_lite_graph
from mrcnn.nn.keras_backbones import application_graph, freeze_batch_norm, pyramid_outputs_graph, tapped_graph
from mrcnn.nn.norm import BatchNorm
from mrcnn.ops.types import Tensor

SMALL_RESNET_WIDTHS = (16, 32, 48, 64, 96)  # channels of C1..C5
STAGE_4_IDENTITY_BLOCKS = {"resnet50": 5, "resnet101": 22}


@dataclass(frozen=True)
class ResNetStyle:
    """How ResNets of different projects differ.

    Args:
        stride_in: "1x1" or "3x3", the convolution of a block that has the stride.
        window_padding: "same": windows of stride 2 are padded below and on the right. "symmetric": on all sides.
        eps: Added to the variance in BatchNorm.
        input_std: Of R, G and B. The image is divided by it first; one that is not RGB, by its mean.
    """

    stride_in: str = "1x1"
    window_padding: str = "same"
    eps: float = 1e-3
    input_std: tuple[float, ...] | None = None

    def pad(self, x: Tensor, strides: tuple[int, int]) -> tuple[Tensor, str]:
        """The input of a 3 x 3 window, padded as far as its `padding` argument, the second result, does not do it."""
        if self.window_padding == "same" or tuple(strides) == (1, 1):
            return x, "same"
        return layers.ZeroPadding2D(1)(x), "valid"


MATTERPORT_STYLE = ResNetStyle()


def identity_block(
    input_tensor: Tensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    use_bias: bool = True,
    train_bn: bool | None = True,
    style: ResNetStyle = MATTERPORT_STYLE,
) -> Tensor:
    """Residual block whose shortcut is the input itself.

    Args:
        input_tensor: [B, h, w, filters[2]].
        kernel_size: Side of the middle convolution.
        filters: Channels of the three convolutions.
        stage: Number of the stage; with `block` it names the layers, e.g. `res4f_branch2a`, `bn4f_branch2a`.
        block: Letter of the block.
        use_bias: Whether the convolutions have biases.
        train_bn: `Config.TRAIN_BN`.
        style: `ResNetStyle`.

    Returns:
        [B, h, w, filters[2]], from the layer `res{stage}{block}_out`.
    """
    x = _branch2(input_tensor, kernel_size, filters, stage, block, (1, 1), use_bias, train_bn, style)
    return _add_shortcut(x, input_tensor, stage, block)


def conv_block(
    input_tensor: Tensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    strides: tuple[int, int] = (2, 2),
    use_bias: bool = True,
    train_bn: bool | None = True,
    style: ResNetStyle = MATTERPORT_STYLE,
) -> Tensor:
    """Residual block that changes the size: its shortcut is a 1 x 1 convolution with the same stride.

    Args:
        input_tensor: [B, h, w, channels].
        kernel_size: As for `identity_block`, like the other arguments.
        filters: Channels of the three convolutions.
        stage: Number of the stage.
        block: Letter of the block.
        strides: Strides of the block and of its shortcut.
        use_bias: Whether the convolutions have biases.
        train_bn: `Config.TRAIN_BN`.
        style: `ResNetStyle`.

    Returns:
        [B, h / strides[0], w / strides[1], filters[2]], from the layer `res{stage}{block}_out`.
    """
    x = _branch2(input_tensor, kernel_size, filters, stage, block, strides, use_bias, train_bn, style)
    name = f"{stage}{block}_branch1"
    shortcut = Conv2D(filters[2], 1, strides=strides, use_bias=use_bias, name="res" + name)(input_tensor)
    shortcut = BatchNorm(epsilon=style.eps, train_bn=train_bn, name="bn" + name)(shortcut)
    return _add_shortcut(x, shortcut, stage, block)


def _branch2(x, kernel_size, filters, stage, block, strides, use_bias, train_bn, style):
    """Three convolutions, 1 x 1, k x k and 1 x 1, each with BatchNorm, and with ReLU between them."""
    first, second = (strides, (1, 1)) if style.stride_in == "1x1" else ((1, 1), strides)
    specs = (("a", filters[0], 1, first), ("b", filters[1], kernel_size, second), ("c", filters[2], 1, (1, 1)))
    for letter, count, size, stride in specs:
        name = f"{stage}{block}_branch2{letter}"
        x, padding = style.pad(x, stride) if letter == "b" else (x, "same")
        x = Conv2D(count, size, strides=stride, padding=padding, use_bias=use_bias, name="res" + name)(x)
        x = BatchNorm(epsilon=style.eps, train_bn=train_bn, name="bn" + name)(x)
        if letter != "c":
            x = layers.Activation("relu")(x)
    return x


def _add_shortcut(x, shortcut, stage, block):
    return layers.Activation("relu", name=f"res{stage}{block}_out")(layers.Add()([x, shortcut]))


def resnet_graph(
    input_image: Tensor,
    architecture: str,
    stage5: bool = False,
    train_bn: bool | None = True,
    style: ResNetStyle = MATTERPORT_STYLE,
) -> list[Tensor | None]:
    """ResNet-50 or ResNet-101.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted.
        architecture: "resnet50" or "resnet101".
        stage5: False ends with C4 and returns None for C5.
        train_bn: `Config.TRAIN_BN`.
        style: `ResNetStyle`.

    Returns:
        [C1, C2, C3, C4, C5] with 64, 256, 512, 1024, 2048 channels.

    Raises:
        ValueError: for another architecture.

    Example:

    >>> *_, c4, c5 = resnet_graph(keras.Input((64, 64, 3)), "resnet50", stage5=True)
    >>> c4.shape, c5.shape
    ((None, 4, 4, 1024), (None, 2, 2, 2048))
    """
    if architecture not in STAGE_4_IDENTITY_BLOCKS:
        raise ValueError(f"architecture is {architecture!r}; expected one of {', '.join(STAGE_4_IDENTITY_BLOCKS)}.")
    x = input_image
    if style.input_std:
        std = style.input_std if x.shape[-1] == 3 else [float(np.mean(style.input_std))]
        x = layers.Rescaling([1 / value for value in std], name="input_scaling")(x)
    x = layers.ZeroPadding2D(3)(x)
    x = Conv2D(64, 7, strides=2, name="conv1")(x)
    x = BatchNorm(epsilon=style.eps, train_bn=train_bn, name="bn_conv1")(x)
    c1 = layers.Activation("relu")(x)  # [B, H/2, W/2, 64]
    x, padding = style.pad(c1, (2, 2))  # zeros, as after a ReLU no value is smaller
    x = layers.MaxPooling2D(3, strides=2, padding=padding)(x)
    stages = [c1]
    identity_blocks = {2: 2, 3: 3, 4: STAGE_4_IDENTITY_BLOCKS[architecture], 5: 2}
    for stage, count in identity_blocks.items():
        if stage == 5 and not stage5:
            return [*stages, None]
        x = resnet_stage(x, stage, count, train_bn, style)
        stages.append(x)
    return stages


def resnet_stage(
    x: Tensor,
    stage: int,
    identity_blocks: int,
    train_bn: bool | None = True,
    style: ResNetStyle = MATTERPORT_STYLE,
) -> Tensor:
    """One stage of a ResNet: [B, h, w, channels] -> [B, h / 2, w / 2, 2**(stage + 6)]; stage 2 keeps the size.

    Args:
        x: The stage before, or the pooled stem.
        stage: 2 to 5.
        identity_blocks: Blocks after the first.
        train_bn: `Config.TRAIN_BN`.
        style: `ResNetStyle`.
    """
    width = 64 * 2 ** (stage - 2)
    filters = [width, width, 4 * width]
    strides = (1, 1) if stage == 2 else (2, 2)
    x = conv_block(x, 3, filters, stage, "a", strides=strides, train_bn=train_bn, style=style)
    for i in range(identity_blocks):
        x = identity_block(x, 3, filters, stage, chr(ord("b") + i), train_bn=train_bn, style=style)
    return x


def mobilenet_v2_graph(
    input_image: Tensor, mean_pixel: Sequence[float] | float, train_bn: bool | None = False
) -> list[Tensor]:
    """MobileNetV2 (Sandler et al. 2018) of `keras.applications`, with its layer names.

    Args:
        input_image: [B, H, W, 3] float, mean pixel subtracted.
        mean_pixel: [3], `Config.MEAN_PIXEL`; used to convert the molded image to the range [-1, 1] that the network
            was trained with.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [C1, ..., C5] with 96, 144, 192, 576, 1280 channels.

    Raises:
        ValueError: if images do not have 3 channels.
    """
    if input_image.shape[-1] != 3:
        raise ValueError(f'BACKBONE "mobilenet_v2" needs IMAGE_CHANNEL_COUNT = 3; it is {input_image.shape[-1]}.')
    mean = np.broadcast_to(np.asarray(mean_pixel, "float64"), 3)
    x = layers.Rescaling(1 / 127.5, offset=[float(m) / 127.5 - 1 for m in mean], name="mobilenet_input")(input_image)
    network = keras.applications.MobileNetV2(input_tensor=x, include_top=False, weights=None)
    if train_bn is False:
        freeze_batch_norm(network)
    ends = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu")
    return [network.get_layer(name).output for name in ends]


def small_resnet_graph(input_image: Tensor, train_bn: bool | None = None) -> list[Tensor]:
    """A narrow ResNet with two residual blocks per stage, small enough to train from scratch on a CPU.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted.
        train_bn: `Config.TRAIN_BN`; None to train from scratch.

    Returns:
        [C1, ..., C5] with 16, 32, 48, 64, 96 channels.
    """
    x = _conv_norm(input_image, SMALL_RESNET_WIDTHS[0], 3, 2, "stem", train_bn)
    stages = [layers.Activation("relu", name="stem_out")(x)]
    for stage, width in enumerate(SMALL_RESNET_WIDTHS[1:], start=2):
        x = _residual(stages[-1], width, 2, f"stage{stage}a", train_bn)
        stages.append(_residual(x, width, 1, f"stage{stage}b", train_bn))
    return stages


def _residual(x: Tensor, width: int, stride: int, name: str, train_bn: bool | None) -> Tensor:
    """relu(two 3 x 3 convolutions + shortcut); He et al., "Deep Residual Learning", figure 2."""
    shortcut = x if stride == 1 else _conv_norm(x, width, 1, stride, f"{name}_shortcut", train_bn)
    x = layers.Activation("relu")(_conv_norm(x, width, 3, stride, f"{name}_1", train_bn))
    x = _conv_norm(x, width, 3, 1, f"{name}_2", train_bn)
    return layers.Activation("relu", name=f"{name}_out")(layers.Add()([x, shortcut]))


def _conv_norm(x: Tensor, width: int, size: int, stride: int, name: str, train_bn: bool | None) -> Tensor:
    x = Conv2D(
        width, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return BatchNorm(momentum=0.9, train_bn=train_bn, name=f"{name}_bn")(x)


def build_backbone(input_image: Tensor, config: Config) -> list[Tensor]:
    """Builds the backbone named by `config.BACKBONE`, or given there.

    `BACKBONE` may be a callable with `resnet_graph`'s signature, a Keras model with `pyramid_outputs`, or
    `(keras_model, [names of the layers of C2..C5])`.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted.
        config: `Config`.

    Returns:
        [C1, C2, C3, C4, C5]; C5 is None with `BOX_HEAD = "c4"`.
    """
    if hasattr(config.BACKBONE, "pyramid_outputs"):
        return pyramid_outputs_graph(input_image, config.BACKBONE, config.TRAIN_BN)
    if callable(config.BACKBONE):
        return config.BACKBONE(input_image, config.BACKBONE, stage5=True, train_bn=config.TRAIN_BN)
    if is_tapped_model(config.BACKBONE):
        return tapped_graph(input_image, *config.BACKBONE, config.MEAN_PIXEL, config.TRAIN_BN)
    if config.BACKBONE in KERAS_APPLICATIONS:
        return application_graph(input_image, config.BACKBONE, config.MEAN_PIXEL, config.TRAIN_BN)
    if config.BACKBONE == "mobilenet_v2":
        return mobilenet_v2_graph(input_image, config.MEAN_PIXEL, train_bn=config.TRAIN_BN)
    if config.BACKBONE in EFFICIENTNET_LITE:
        return efficientnet_lite_graph(input_image, config.BACKBONE, config.MEAN_PIXEL, config.TRAIN_BN)
    if config.BACKBONE == "small_resnet":
        return small_resnet_graph(input_image, train_bn=config.TRAIN_BN)
    stage5 = config.BOX_HEAD != "c4"  # there it is part of the head
    return resnet_graph(input_image, config.BACKBONE, stage5, config.TRAIN_BN, resnet_style(config))


def adds_mean_pixel(backbone: object) -> bool:
    """Whether a `BACKBONE` adds `MEAN_PIXEL` to its input again, to scale the pixels as in its own training."""
    scaled = ("mobilenet_v2", *EFFICIENTNET_LITE, *KERAS_APPLICATIONS)
    return is_tapped_model(backbone) or (isinstance(backbone, str) and backbone in scaled)


def resnet_style(config: Config) -> ResNetStyle:
    """The style that the settings ask for."""
    rules = config.convention
    return ResNetStyle(config.BACKBONE_STRIDE_IN, rules.window_padding, config.BATCH_NORM_EPS, rules.input_std)
