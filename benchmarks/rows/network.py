"""Rows 1 to 3: detect() versus the network, the network versus its convolutions, bfloat16 versus float32."""

from __future__ import annotations

import numpy as np

from benchmarks.timing import Row, compare, has_bfloat16, meets, take_turns
from benchmarks.workloads import compiled, network, photo, plain_inputs, plain_network, tensors
from mrcnn.model import MaskRCNN
from samples.shapes import EVALUATION, ShapesConfig, shapes_dataset


def detect_and_forward(quick: bool) -> list[Row]:
    """Rows 1 and 2."""
    side, rounds = (512, 5) if quick else (1024, 7)
    model = network("inference", side)
    image = photo()
    molded, metas, _ = model.mold_inputs([image])
    inputs = tensors([molded, metas.astype(np.float32)])
    forward = compiled(model.detector())
    plain = compiled(plain_network(side, model.config))
    plain_arrays = tensors(plain_inputs(side, model.config))
    seconds = take_turns(
        {
            "detect": lambda: model.detect([image]),
            "network": lambda: forward(inputs),
            "plain Keras": lambda: plain(plain_arrays),
        },
        rounds,
        warm_up=2,
    )
    found = len(model.detect([image])[0]["scores"])
    size = f"ResNet-50, {side} x {side}, float32"
    return [
        compare(
            1, f"detect(), {found} detections / the network alone; {size}", seconds, "detect", "network", "<= 1.1x"
        ),
        compare(
            2, f"the network / its convolutions as plain Keras; {size}", seconds, "network", "plain Keras", "<= 1.12x"
        ),
    ]


def bfloat16(quick: bool) -> list[Row]:
    """Row 3: speed of bfloat16, and its effect on the AP of the shapes model in this repository."""
    side, rounds, images = (512, 5, 100) if quick else (1024, 5, 100)
    models = {dtype: network("inference", side, COMPUTE_DTYPE=dtype) for dtype in ("float32", "mixed_bfloat16")}
    image = photo()
    calls = {dtype: (lambda model=model: model.detect([image])) for dtype, model in models.items()}
    speed = compare(
        3, f"detect() in float32 / in bfloat16; ResNet-50, {side} x {side}", take_turns(calls, rounds, warm_up=2),
        "float32", "mixed_bfloat16", ">= 1.6x",
    )  # fmt: skip
    if not has_bfloat16():
        speed.ok, speed.target, speed.note = None, "", "this processor has no bfloat16: target not applied"
    return [speed, precision(images)]


def precision(images: int) -> Row:
    """Difference of the mask AP between both types, in percentage points."""
    dataset = shapes_dataset(images, EVALUATION)
    points = {}
    for dtype in ("float32", "mixed_bfloat16"):
        config = type("Config", (ShapesConfig,), {"COMPUTE_DTYPE": dtype, "DETECTION_MIN_CONFIDENCE": 0.05})()
        model = MaskRCNN("inference", config, "logs", weights="shapes")
        points[dtype] = 100 * model.evaluate_dataset(dataset, progress=False).mask_ap
    value = abs(points["float32"] - points["mixed_bfloat16"])
    return Row(
        3, f"mask AP of the shapes model, float32 against bfloat16; {images} images", round(value, 3),
        "<= 0.3 points", meets(value, "<= 0.3 points"), unit="points",
        medians={f"mask AP {dtype}": round(ap, 3) for dtype, ap in points.items()},
    )  # fmt: skip
