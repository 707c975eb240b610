"""Weights and images by formula, so that nothing has to be stored or downloaded.

Only steps that IEEE 754 defines exactly (random bits, + - * / sqrt in double, one rounding to float32): the same bits
on every machine.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

IMAGES = [(161, 200, 1), (375, 281, 2), (97, 281, 3)]  # height, width, seed

# (gain on the weight (times sqrt(2 / fan_in)), spread of the bias, added to the bias), by the end of the layer's name.
# The last layers have theirs, one number per row, in calibration.json: scores, deltas and masks vary.
_FPN = {
    "inner_blocks.3.0": (0.13, 0.1, 0),
    "inner_blocks.2.0": (0.12, 0.1, 0),
    "inner_blocks.1.0": (0.15, 0.1, 0),
    "inner_blocks.0.0": (0.15, 0.1, 0),
    "fpn_lateral5": (0.15, 0.1, 0),
    "fpn_lateral4": (0.15, 0.1, 0),
    "fpn_lateral3": (0.2, 0.1, 0),
    "fpn_lateral2": (0.2, 0.1, 0),
}
_BN_FPN = dict.fromkeys(_FPN, (0.08, 0.1, 0))
_FC = {
    "fc6": (1.0, 0.1, -0.8),
    "fc7": (1.0, 0.1, -0.5),
    "fc1": (1.0, 0.1, -0.8),
    "fc2": (1.0, 0.1, -0.5),
    "box_head.5": (1.0, 0.1, -0.8),
}
GAINS = {
    "torchvision_v1": {**_FPN, **_FC},
    "torchvision_v2": {**_BN_FPN, **_FC},
    "detectron2_R50-FPN": {**_FPN, **_FC},
    "detectron2_R50-C4": {"rpn_head.conv": (0.3, 0.1, 0)},
    "detectron2_cascade": {**_FPN, **_FC},
    "detectron2_LSJ": {**_BN_FPN, **_FC, "fc1": (3.0, 0.1, -0.5)},
}
CALIBRATION = json.loads((Path(__file__).parent / "calibration.json").read_text())
STEM_RAW = ("backbone.bottom_up.stem.conv1.weight", "backbone.stem.conv1.weight")  # input in 0..255: gain / 64


def formula_state(shapes: Mapping[str, tuple[int, ...]], model: str) -> dict[str, np.ndarray]:
    """The weights of a whole network.

    Args:
        shapes: Shape of each tensor by its name in the state dict.
        model: A key of `GAINS`.

    Returns:
        {name: array}, float32; the counters `num_batches_tracked` int64.
    """
    return {name: formula_weight(name, shape, shapes, model) for name, shape in shapes.items()}


def formula_weight(name: str, shape: tuple[int, ...], names: Collection[str], model: str) -> np.ndarray:
    """One tensor of `formula_state`.

    Args:
        name: Its name.
        shape: Its shape.
        names: All names of the state dict: a convolution without bias is followed by a normalization.
        model: A key of `GAINS`.
    """
    owner, kind = name.rsplit(".", 1)
    if kind == "num_batches_tracked":
        return np.array(7, "int64")
    x = noise(name, shape)
    if owner + ".running_mean" in names:  # BatchNorm: small variances, so that eps matters
        last = re.search(r"(bn3|conv3\.norm)$", owner)
        values = {
            "weight": 0.4 + 0.1 * x if last else 1.0 + 0.2 * x,
            "bias": 0.1 * x,
            "running_mean": 0.02 * x,
            "running_var": 0.01 * (1.0 + 0.4 * x),  # 0.0031 .. 0.0169
        }[kind]
        return values.astype("float32")
    gain, spread, shift = next((v for k, v in GAINS[model].items() if owner.endswith(k)), (1.0, 0.1, 0))
    if owner in CALIBRATION.get(model, {}):
        gain, spread, shift = CALIBRATION[model][owner]
    if kind == "bias":
        return (spread * x + np.array(shift)).astype("float32")
    deconv = "conv5_mask" in name or "mask_head.deconv" in name
    fan_in = shape[0] if deconv else int(np.prod(shape[1:]))
    if owner + ".bias" not in names:  # before a BatchNorm with variance about 0.01
        gain *= 0.1
        if re.search(r"conv3$|downsample\.0$|shortcut$", owner):
            gain *= np.sqrt(0.5)
    if name in STEM_RAW:
        gain /= 64.0
    return (x * (gain * np.sqrt(2.0 / fan_in))).astype("float32")


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers of mean 0 and variance 1, which the name determines."""
    return (np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) - 0.5) * np.sqrt(12.0)


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """[height, width, 3] uint8 RGB: a gradient, eight boxes and discs, noise. Computed with whole numbers only."""
    r = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([40 + 120 * x // width, 60 + 120 * y // height, 160 - 80 * (x + y) // (width + height)], -1)
    for k in range(8):
        cy, cx = r.randint(0, height), r.randint(0, width)
        a, b = r.randint(6, height // 3), r.randint(6, width // 3)
        inside = (
            (abs(y - cy) <= a) & (abs(x - cx) <= b)
            if k % 2
            else ((y - cy) ** 2 * b * b + (x - cx) ** 2 * a * a <= a * a * b * b)
        )
        image[inside] = r.randint(0, 256, 3)
    image = image + r.randint(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype("uint8")
