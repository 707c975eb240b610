"""The ways `ops.images.resize_image` fits an image into the network's input, as constants only."""

from __future__ import annotations

RESIZE_MODES = ("none", "square", "pad64", "pad32", "shorter_side", "crop")
SIZE_MULTIPLE = 64  # sides of the network's input: P6 has stride 64, and upsampled maps must match the lateral ones
TOP_LEFT_MODES = ("pad32", "shorter_side")  # padding, if any, is on the right and below only
