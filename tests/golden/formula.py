"""Golden weights by formula: every array follows from its own name, so that no weight file has to be shipped.

The golden arrays beside this file are what matterport's original computed with these weights (TensorFlow 1.15.5,
Keras 2.2.5).
"""

from __future__ import annotations

import zlib

import numpy as np

GAINS = {
    "conv1": 0.02,
    "rpn_class_raw": 0.1,
    "rpn_bbox_pred": 0.04,
    "mrcnn_class_logits": 0.08,
    "mrcnn_bbox_fc": 0.05,
    "mrcnn_mask": 0.2,
}


def formula_weight(layer: str, kind: str, shape) -> np.ndarray:
    """float32 of `shape` for e.g. layer "res2a_branch2a", kind "kernel"."""
    x = np.random.RandomState(zlib.crc32(f"{layer}/{kind}".encode())).standard_normal(shape)
    if kind == "kernel":
        fan_in = shape[-1] if layer == "mrcnn_mask_deconv" else int(np.prod(shape[:-1]))
        x = x * GAINS.get(layer, 1.0) * np.sqrt(2.0 / fan_in)
    elif kind in ("bias", "beta", "moving_mean"):
        x = 0.02 * x
    elif kind == "gamma":
        x = 0.25 + 0.02 * x if layer.endswith("branch2c") else 1.0 + 0.1 * x
    elif kind == "moving_variance":
        x = np.exp(0.1 * x)
    else:
        raise ValueError(f"No formula for the kind {kind!r} of layer {layer!r}.")
    return x.astype("float32")


def fill(model) -> None:
    """Gives every weight of a model its formula's value. TimeDistributed wrappers count under their own name."""
    for layer in model.layers:
        if hasattr(layer, "layers"):  # the nested rpn_model
            fill(layer)
            continue
        for variable in layer.weights:
            variable.assign(formula_weight(layer.name, variable.path.rsplit("/", 1)[-1], variable.shape))
