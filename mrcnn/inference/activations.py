"""Intermediate results: the output of any layer, and steps inside the layers that select boxes.

Used by `MaskRCNN.run_graph` and `MaskRCNN.ancestor`. matterport's notebooks request TensorFlow 1 nodes by name, such as
"ROI/refined_anchors:0". Here these are named steps ("taps") of `ProposalLayer` and `DetectionLayer`:

    ROI/pre_nms_anchors:0              [B, K, 4]  the K best anchors, best score first
    ROI/refined_anchors:0              [B, K, 4]  moved by their deltas
    ROI/refined_anchors_clipped:0      [B, K, 4]  clipped to the image
    ROI/rpn_non_max_suppression:0      [n]        rows of these that NMS keeps, of the first image
    mrcnn_detection/refined_rois:0     [B, N, 4]  proposals moved by their class's deltas, clipped to the window
    mrcnn_detection/class_ids:0        [B, N]     and class_scores:0, the best class of each proposal
    mrcnn_detection/keep:0             [n]        rows that per-class NMS keeps, of the first image
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mrcnn.keras_private import source_of
from mrcnn.nn.detections import DetectionLayer
from mrcnn.nn.proposals import ProposalLayer
from mrcnn.ops.types import Tensor

BOXES = (None, None, 4)
ROWS = (None, None)
TAPS = {
    ProposalLayer: {
        "pre_nms_anchors": BOXES,
        "refined_anchors": BOXES,
        "refined_anchors_clipped": BOXES,
        "rpn_non_max_suppression": ROWS,
    },
    DetectionLayer: {"refined_rois": BOXES, "class_ids": ROWS, "class_scores": ROWS, "keep": ROWS},
}
ROW_INDICES = ("rpn_non_max_suppression", "keep")


class Tap(keras.layers.Layer):
    """A named step of another layer, computed from that layer's inputs."""

    def __init__(self, layer: keras.layers.Layer, step: str):
        super().__init__(name=f"{layer.name}_{step}", dtype="float32")
        self.source = layer
        self.step = step

    def compute_output_spec(self, inputs: Tensor) -> Any:
        dtype = "int32" if self.step in (*ROW_INDICES, "class_ids") else "float32"
        return keras.KerasTensor(TAPS[type(self.source)][self.step], dtype)

    def call(self, inputs: Tensor) -> Tensor:
        return self.source.steps(inputs)[self.step]

    def finish(self, array: np.ndarray) -> np.ndarray:
        """Prepares a result of `run_graph`: for rows kept by NMS, only those of the first image, without padding."""
        return array[0][array[0] >= 0] if self.step in ROW_INDICES else array


def find_tensor(model: keras.Model, name: str) -> Any:
    """Returns the symbolic tensor called `name` in `model`, or None.

    Args:
        model: A keras.Model.
        name: "layer/step:0", see the docstring of this module, or "layer" or "layer/anything:0" for a layer's output.
            Text after the step is ignored, as in "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0".
    """
    layer_name, *rest = name.split(":")[0].split("/")
    layer = next((x for x in model.layers if x.name == layer_name), None)
    if layer is None:
        return None
    steps = TAPS.get(type(layer))
    if steps is None or not rest:
        return layer.output
    return Tap(layer, rest[0])(layer.input) if rest[0] in steps else None


def run(model: keras.Model, inputs: dict, outputs: dict) -> dict:
    """Computes some symbolic tensors of a model.

    Args:
        model: A keras.Model.
        inputs: Arrays by the names of the model's inputs; only those that `outputs` depend on are needed.
        outputs: Symbolic tensors by name.

    Returns:
        Arrays by name.

    Raises:
        ValueError: An output is None.
    """
    missing = [name for name, tensor in outputs.items() if tensor is None]
    if missing:
        raise ValueError(
            f"run_graph got no tensor (None) for {', '.join(missing)}; `mrcnn.inference.activations` lists the names."
        )
    given = [x for x in model.inputs if x.name in inputs]
    part = keras.Model(given, list(outputs.values()))
    if keras.backend.backend() == "tensorflow":
        part.jit_compile = False  # the same as the model
    part.run_eagerly = model.run_eagerly
    arrays = part.predict_on_batch([inputs[x.name] for x in given])
    arrays = arrays if isinstance(arrays, list) else [arrays]
    found = {}
    for (name, tensor), array in zip(outputs.items(), arrays, strict=True):
        source = source_of(tensor)
        found[name] = source.finish(array) if isinstance(source, Tap) else array
    return found
