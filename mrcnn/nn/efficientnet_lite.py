"""EfficientNet-Lite 0, 1 and 2: small backbones for CPUs.

Tan and Le, "EfficientNet", ICML 2019, table 1, gives the blocks and section 3.3 their scaling; Sandler et al.,
"MobileNetV2", figure 4d, the inverted residual. The Lite networks have no squeeze-and-excitation, ReLU6 instead of
swish, and a stem that is not scaled.

Shapes: B images of H x W pixels; h x w is a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import layers

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import BatchNorm
from mrcnn.ops.types import Tensor

INPUT_MEAN, INPUT_SCALE = 127.0, 1 / 128  # the networks were trained on (RGB - 127) / 128
EPSILON = 1e-3  # of BatchNorm
STEM_CHANNELS = 32
WIDTH_AND_DEPTH = {  # factors of the channels and of the blocks in a stage
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


class Stage(NamedTuple):
    """Blocks of one size, before scaling."""

    expansion: int
    kernel_size: int
    stride: int  # of the first block
    channels: int
    blocks: int


STAGES = (  # EfficientNet-B0, stages 2 to 8 of the paper; here 1 to 7
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),  # C2
    Stage(6, 5, 2, 40, 2),  # C3
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),  # C4
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),  # C5
)
LEVEL_ENDS = (1, 2, 3, 5, 7)  # the stages that C1..C5 come from


def scaled_stages(architecture: str) -> list[Stage]:
    """Stages with scaled channels and numbers of blocks; the first and last stage keep their number of blocks.

    Raises:
        ValueError: for an unknown name.
    """
    if architecture not in WIDTH_AND_DEPTH:
        raise ValueError(f"architecture is {architecture!r}; expected one of {', '.join(WIDTH_AND_DEPTH)}.")
    width, depth = WIDTH_AND_DEPTH[architecture]
    last = len(STAGES) - 1
    return [
        stage._replace(
            channels=multiple_of_8(stage.channels * width),
            blocks=stage.blocks if i in (0, last) else math.ceil(stage.blocks * depth),
        )
        for i, stage in enumerate(STAGES)
    ]


def multiple_of_8(channels: float) -> int:
    """Rounds to the nearest multiple of 8 that is at most a tenth smaller.

    >>> multiple_of_8(17.6), multiple_of_8(26.4), multiple_of_8(11)
    (16, 24, 16)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def efficientnet_lite_graph(
    input_image: Tensor,
    architecture: str,
    mean_pixel: Sequence[float] | float = 0.0,
    train_bn: bool | None = False,
) -> list[Tensor]:
    """EfficientNet-Lite without its classifier.

    Args:
        input_image: [B, H, W, channels] float, mean pixel subtracted.
        architecture: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".
        mean_pixel: [channels] or a number, `Config.MEAN_PIXEL`. The network adds it back and scales the image as in
            its ImageNet training.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [C1, ..., C5], for lite0 and lite1 with 16, 24, 40, 112, 320 channels: outputs of linear convolutions, not of
        ReLUs.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> c1, c2, c3, c4, c5 = efficientnet_lite_graph(layers.Input((64, 64, 3)), "efficientnet_lite0")
    >>> c2.shape, c5.shape
    ((None, 16, 16, 24), (None, 2, 2, 320))
    """
    stages = scaled_stages(architecture)
    mean = np.broadcast_to(np.asarray(mean_pixel, "float64"), input_image.shape[-1])
    offset = [float(value - INPUT_MEAN) * INPUT_SCALE for value in mean]
    x = layers.Rescaling(INPUT_SCALE, offset=offset, name="efficientnet_input")(input_image)
    x = Conv2D(STEM_CHANNELS, 3, strides=2, padding="same", use_bias=False, name="conv_stem")(x)
    x = _norm(x, "bn_stem", train_bn)
    x = layers.Activation("relu6", name="stem_out")(x)  # [B, H/2, W/2, 32]
    outputs = []
    for number, stage in enumerate(stages, start=1):
        for i in range(stage.blocks):
            name = f"block{number}{chr(ord('a') + i)}"
            x = inverted_residual(x, stage if i == 0 else stage._replace(stride=1), name, train_bn)
        outputs.append(x)
    return [outputs[end - 1] for end in LEVEL_ENDS]


def inverted_residual(x: Tensor, stage: Stage, name: str, train_bn: bool | None) -> Tensor:
    """Expansion, depthwise convolution and linear projection: [B, h, w, any] -> [B, h/stride, w/stride, channels].

    The input is added if it has the same shape.

    Args:
        x: Feature map.
        stage: Sizes of this block; `blocks` is ignored.
        name: Name of the block; the layers are `{name}_expand_conv`, `{name}_depthwise_bn`, ...
        train_bn: `Config.TRAIN_BN`.
    """
    shortcut = x
    if stage.expansion != 1:
        width = shortcut.shape[-1] * stage.expansion
        x = Conv2D(width, 1, padding="same", use_bias=False, name=f"{name}_expand_conv")(x)
        x = _norm(x, f"{name}_expand_bn", train_bn)
        x = layers.Activation("relu6", name=f"{name}_expand_relu")(x)
    x = layers.DepthwiseConv2D(
        stage.kernel_size, stage.stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _norm(x, f"{name}_depthwise_bn", train_bn)
    x = layers.Activation("relu6", name=f"{name}_depthwise_relu")(x)
    x = Conv2D(stage.channels, 1, padding="same", use_bias=False, name=f"{name}_project_conv")(x)
    x = _norm(x, f"{name}_project_bn", train_bn)
    if stage.stride == 1 and shortcut.shape[-1] == stage.channels:
        x = layers.Add(name=f"{name}_out")([x, shortcut])
    return x


def _norm(x: Tensor, name: str, train_bn: bool | None) -> Tensor:
    return BatchNorm(epsilon=EPSILON, train_bn=train_bn, name=name)(x)
