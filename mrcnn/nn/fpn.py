"""Feature pyramid network: C2..C5 -> P2..P6, all with the same number of channels.

Shapes: B images of H x W pixels; C_i and P_i are [B, H / 2**i, W / 2**i, channels].

Reference: Lin et al., "Feature Pyramid Networks for Object Detection", section 3.
"""

from __future__ import annotations

from keras import layers

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import norm_layer
from mrcnn.ops.types import Tensor


def fpn_graph(
    c2: Tensor,
    c3: Tensor,
    c4: Tensor,
    c5: Tensor,
    depth: int,
    norm: str | None = None,
    eps: float = 1e-3,
    train_bn: bool | None = False,
) -> list[Tensor]:
    """Combines the semantics of the top level with the resolution of each lower one.

    Args:
        c2: [B, H/4, W/4, channels].
        c3: [B, H/8, W/8, channels].
        c4: [B, H/16, W/16, channels].
        c5: [B, H/32, W/32, channels].
        depth: Channels of each level, `Config.TOP_DOWN_PYRAMID_SIZE`.
        norm: None, or "batch" or "group": a normalization instead of a bias after each convolution, in layers named
            `fpn_p2_bn` etc., see `norm_layer`.
        eps: Added to the variance.
        train_bn: `Config.TRAIN_BN`.

    Returns:
        [P2, P3, P4, P5, P6], each [B, H / stride, W / stride, depth] with strides 4, 8, 16, 32, 64. P6 is every second
        pixel of P5; only the RPN uses it.

    Example:

    >>> import keras
    >>> levels = fpn_graph(*(keras.Input((64 // stride, 64 // stride, 8)) for stride in (4, 8, 16, 32)), depth=16)
    >>> [level.shape for level in levels][::4]
    [(None, 16, 16, 16), (None, 1, 1, 16)]
    """

    def conv(x: Tensor, size: int, name: str) -> Tensor:
        x = Conv2D(depth, size, padding="same", use_bias=norm is None, name=name)(x)
        return x if norm is None else norm_layer(norm, eps, train_bn, f"{name}_bn")(x)

    top_down = [conv(c5, 1, "fpn_c5p5")]
    for level, lateral in ((4, c4), (3, c3), (2, c2)):
        up = layers.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(top_down[0])
        side = conv(lateral, 1, f"fpn_c{level}p{level}")
        top_down.insert(0, layers.Add(name=f"fpn_p{level}add")([up, side]))
    pyramid = [conv(p, 3, f"fpn_p{i}") for i, p in enumerate(top_down, start=2)]
    p6 = layers.MaxPooling2D(pool_size=1, strides=2, name="fpn_p6")(pyramid[-1])
    return [*pyramid, p6]
