"""Feature pyramid: C2..C5 -> P2..P6, all of one width (Lin et al., "Feature Pyramid Networks", section 3)."""

from __future__ import annotations

from keras import layers

from mrcnn.nn.convolution import Conv2D


def fpn_graph(c2, c3, c4, c5, depth):
    """Gives every level the strong semantics of the top one.

    Args:
        c2, c3, c4, c5: [B, H/4, W/4, *] .. [B, H/32, W/32, *].
        depth: int, channels of each level, `Config.TOP_DOWN_PYRAMID_SIZE`.

    Returns:
        [P2, P3, P4, P5, P6], each [B, H / stride, W / stride, depth]; strides 4, 8, 16, 32, 64. P6 is P5 thinned out;
        only the RPN uses it.
    """
    top_down = [Conv2D(depth, 1, name="fpn_c5p5")(c5)]
    for level, lateral in ((4, c4), (3, c3), (2, c2)):
        up = layers.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(top_down[0])
        side = Conv2D(depth, 1, name=f"fpn_c{level}p{level}")(lateral)
        top_down.insert(0, layers.Add(name=f"fpn_p{level}add")([up, side]))
    pyramid = [Conv2D(depth, 3, padding="same", name=f"fpn_p{i}")(p) for i, p in enumerate(top_down, start=2)]
    p6 = layers.MaxPooling2D(pool_size=1, strides=2, name="fpn_p6")(pyramid[-1])
    return [*pyramid, p6]
