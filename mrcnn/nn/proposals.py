"""From the RPN's scores and deltas of every anchor to a short list of proposals for the second stage.

Shapes and units:
    B  images     A  anchors     K  anchors kept before NMS (`PRE_NMS_LIMIT`)     N  proposals
    boxes  (y1, x1, y2, x2), normalized to the padded image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.config import Config
from mrcnn.nn.runtime_value import RuntimeValue, RuntimeValueLayer
from mrcnn.ops.boxes import apply_box_deltas_graph, clip_boxes_graph
from mrcnn.ops.nms import nms_graph
from mrcnn.ops.types import Tensor


class ProposalsByNMS(RuntimeValueLayer):
    """Base class of the two proposal layers: the number of proposals and the NMS threshold.

    Subclasses compute everything in `steps(inputs)`.

    Args:
        proposal_count: N.
        nms_threshold: IoU in [0, 1], can be changed with `set_thresholds`.
        pre_nms_limit: K.
        bbox_std_dev: [4], the standard deviations that the RPN's deltas are divided by.
        stop_gradient: False lets the box loss of the second stage also train the RPN.
    """

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        pre_nms_limit: int,
        bbox_std_dev: Sequence[float],
        stop_gradient: bool,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.proposal_count = int(proposal_count)
        self.pre_nms_limit = int(pre_nms_limit)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.stop_gradient = bool(stop_gradient)
        with keras.name_scope(self.name):
            self._nms_threshold = RuntimeValue(nms_threshold, "nms_threshold")

    @property
    def nms_threshold(self) -> float:
        return float(self._nms_threshold)

    def set_thresholds(self, nms_threshold: float) -> None:
        """Changes the threshold for all models with this layer, from their next call on. Nothing is recompiled."""
        self._nms_threshold.assign(nms_threshold)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0][0], self.proposal_count, 4)

    def call(self, inputs: Tensor) -> Tensor:
        return self.steps(inputs)["proposals"]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "proposal_count": self.proposal_count,
            "nms_threshold": self.nms_threshold,
            "pre_nms_limit": self.pre_nms_limit,
            "bbox_std_dev": self.bbox_std_dev,
            "stop_gradient": self.stop_gradient,
        }


@keras.saving.register_keras_serializable(package="mrcnn")
class ProposalLayer(ProposalsByNMS):
    """Selects the highest-scoring anchors, applies their deltas and removes overlapping boxes.

    Args:
        proposal_count: N. Missing proposals are zero rows, which later stages ignore.
        nms_threshold: IoU in [0, 1]. Of two boxes that overlap more, the lower-scored one is dropped. Can be changed
            with `set_thresholds`.
        config: `Config`, optional, as in matterport's signature. If given, the arguments below are read from it.
        pre_nms_limit: K.
        bbox_std_dev: [4], the standard deviations that the RPN's deltas are divided by.
        stop_gradient: False lets the box loss of the second stage also train the RPN, as in matterport's code.

    Call arguments: `[rpn_probs, rpn_deltas, anchors]`
        rpn_probs: [B, A, (bg, fg)] float, softmax over the last axis.
        rpn_deltas: [B, A, (dy, dx, log dh, log dw)] float, divided by the standard deviation.
        anchors: [B or 1, A, (y1, x1, y2, x2)] float, normalized.

    Returns:
        [B, N, (y1, x1, y2, x2)] float32 in [0, 1], best score first.

    Reference: Ren et al., "Faster R-CNN", section 3.3.

    Example:

    >>> anchors = np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.6], [0.5, 0.5, 1, 1]]], "float32")
    >>> probs = np.array([[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]], "float32")
    >>> proposals = ProposalLayer(2, nms_threshold=0.7)([probs, np.zeros_like(anchors), anchors])
    >>> ops.convert_to_numpy(proposals).tolist()
    [[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]]
    """

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        config: Config | None = None,
        *,
        pre_nms_limit: int = 6000,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        stop_gradient: bool = True,
        **kwargs: Any,
    ):
        if config is not None:
            pre_nms_limit, bbox_std_dev = config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV
            stop_gradient = config.STOP_PROPOSAL_GRADIENT
        super().__init__(proposal_count, nms_threshold, pre_nms_limit, bbox_std_dev, stop_gradient, **kwargs)

    def steps(self, inputs: Tensor) -> dict[str, Tensor]:
        """Computes the layer's intermediate results as well (see `mrcnn.inference.activations`).

        Args:
            inputs: As for a call of the layer.

        Returns:
            dict of `pre_nms_anchors`, `refined_anchors` and `refined_anchors_clipped`, each [B, K, 4], best score
            first; `rpn_non_max_suppression` [B, N] int32, the rows that NMS keeps, padded with -1; `proposals`
            [B, N, 4].
        """
        rpn_probs, rpn_deltas, anchors = inputs
        scores = rpn_probs[:, :, 1]  # [B, A]
        batch, count = ops.shape(scores)
        limit = self.pre_nms_limit
        limit = min(limit, count) if isinstance(count, int) else ops.minimum(limit, count)
        scores, best = ops.top_k(scores, limit)  # [B, K] both

        deltas = _gather_rows(rpn_deltas, best) * ops.convert_to_tensor(self.bbox_std_dev, "float32")  # [B, K, 4]
        boxes = _gather_rows(ops.broadcast_to(anchors, (batch, count, 4)), best)  # [B, K, 4]
        refined = apply_box_deltas_graph(boxes, deltas)
        clipped = clip_boxes_graph(refined, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], "float32"))
        if self.stop_gradient:
            clipped = ops.stop_gradient(clipped)

        keep = nms_graph(clipped, scores, self.proposal_count, self._nms_threshold.tensor())  # [B, N]
        # `where` instead of a product: the row gathered for -1 may be NaN
        proposals = ops.where(keep[..., None] >= 0, _gather_rows(clipped, ops.maximum(keep, 0)), 0.0)  # [B, N, 4]
        return {
            "pre_nms_anchors": boxes,
            "refined_anchors": refined,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": keep,
            "proposals": proposals,
        }


def _gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, A, D], rows [B, K] -> [B, K, D]."""
    return ops.take_along_axis(x, rows[..., None], axis=1)
