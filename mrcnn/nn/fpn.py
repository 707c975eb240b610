"""Feature pyramid network: C2..C5 -> P2..P6, all with the same number of channels.

Shapes: B images of H x W pixels; C_i and P_i are [B, H / 2**i, W / 2**i, channels].

Reference: Lin et al., "Feature Pyramid Networks for Object Detection", section 3.
"""

from __future__ import annotations

from keras import layers

from mrcnn.nn.convolution import Conv2D
from mrcnn.ops.types import Tensor


def fpn_graph(c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor, depth: int) -> list[Tensor]:
    """Combines the semantics of the top level with the resolution of each lower one.

    Args:
        c2: [B, H/4, W/4, channels].
        c3: [B, H/8, W/8, channels].
        c4: [B, H/16, W/16, channels].
        c5: [B, H/32, W/32, channels].
        depth: Channels of each level, `Config.TOP_DOWN_PYRAMID_SIZE`.

    Returns:
        [P2, P3, P4, P5, P6], each [B, H / stride, W / stride, depth] with strides 4, 8, 16, 32, 64. P6 is every second
        pixel of P5; only the RPN uses it.

    Example:

    >>> import keras
    >>> levels = fpn_graph(*(keras.Input((64 // stride, 64 // stride, 8)) for stride in (4, 8, 16, 32)), depth=16)
    >>> [level.shape for level in levels][::4]
    [(None, 16, 16, 16), (None, 1, 1, 16)]
    """
    top_down = [Conv2D(depth, 1, name="fpn_c5p5")(c5)]
    for level, lateral in ((4, c4), (3, c3), (2, c2)):
        up = layers.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(top_down[0])
        side = Conv2D(depth, 1, name=f"fpn_c{level}p{level}")(lateral)
        top_down.insert(0, layers.Add(name=f"fpn_p{level}add")([up, side]))
    pyramid = [Conv2D(depth, 3, padding="same", name=f"fpn_p{i}")(p) for i, p in enumerate(top_down, start=2)]
    p6 = layers.MaxPooling2D(pool_size=1, strides=2, name="fpn_p6")(pyramid[-1])
    return [*pyramid, p6]
