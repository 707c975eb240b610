"""From the RPN's opinion of every anchor to a short list of regions worth a second look.

Shapes: B images, A anchors, K anchors kept before NMS (`PRE_NMS_LIMIT`), N proposals.
Boxes are (y1, x1, y2, x2), normalised to the padded image.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from mrcnn.ops.boxes import apply_box_deltas_graph, clip_boxes_graph
from mrcnn.ops.nms import nms_graph


@keras.saving.register_keras_serializable(package="mrcnn")
class ProposalLayer(keras.layers.Layer):
    """Keeps the best anchors, moves them by their deltas, drops overlaps.

    Fed by `nn.rpn`. Feeds `nn.targets` (training) or `nn.roi_align` (detecting).

    Args:
        proposal_count: int. N. Missing proposals are zero rows; later stages treat an all-zero box as "nothing here".
        nms_threshold: float, IoU in [0, 1]. Of two boxes that overlap more, the lower-scored one is dropped.
        config: `Config`, optional, matterport's call form: the settings below are read from it.
        pre_nms_limit: int, K.
        bbox_std_dev: [4], what the RPN's deltas were divided by.
        stop_gradient: bool, False lets the box loss of stage 2 train stage 1 as well, through the deltas that a
            proposal leaves to learn (matterport did).

    Call arguments: `[rpn_probs, rpn_deltas, anchors]`
        rpn_probs: [B, A, (bg, fg)] float, softmax over the last axis.
        rpn_deltas: [B, A, (dy, dx, log dh, log dw)] float, divided by std dev.
        anchors: [B or 1, A, (y1, x1, y2, x2)] float, normalised to the padded image.

    Returns:
        [B, N, (y1, x1, y2, x2)] float32 in [0, 1], best score first.

    Reference: Ren et al., "Faster R-CNN", section 3.3.
    """

    def __init__(self, proposal_count, nms_threshold, config=None, *, pre_nms_limit=6000,
                 bbox_std_dev=(0.1, 0.1, 0.2, 0.2), stop_gradient=True, **kwargs):  # fmt: skip
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            pre_nms_limit, bbox_std_dev = config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV
            stop_gradient = config.STOP_PROPOSAL_GRADIENT
        self.proposal_count = int(proposal_count)
        self.nms_threshold = float(nms_threshold)
        self.pre_nms_limit = int(pre_nms_limit)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.stop_gradient = bool(stop_gradient)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.proposal_count, 4)

    def call(self, inputs):
        return self.steps(inputs)["proposals"]

    def steps(self, inputs):
        """The layer's steps by name, for looking inside (`mrcnn.inference.activations`).

        Returns:
            dict: `pre_nms_anchors`, `refined_anchors`, `refined_anchors_clipped`, each [B, K, 4], best score first;
            `rpn_non_max_suppression` [B, N] int32, rows of these that NMS keeps, -1 where none is left; `proposals`
            [B, N, 4].
        """
        rpn_probs, rpn_deltas, anchors = inputs
        scores = rpn_probs[:, :, 1]  # [B, A]
        batch, count = ops.shape(scores)
        limit = self.pre_nms_limit
        limit = min(limit, count) if isinstance(count, int) else ops.minimum(limit, count)
        scores, best = ops.top_k(scores, limit)  # [B, K] both

        deltas = _rows(rpn_deltas, best) * ops.convert_to_tensor(self.bbox_std_dev, "float32")
        boxes = _rows(ops.broadcast_to(anchors, (batch, count, 4)), best)  # [B, K, 4]
        refined = apply_box_deltas_graph(boxes, deltas)
        clipped = clip_boxes_graph(refined, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], "float32"))
        if self.stop_gradient:
            clipped = ops.stop_gradient(clipped)

        keep = nms_graph(clipped, scores, self.proposal_count, self.nms_threshold)  # [B, N]
        # `where`, not a product: the row that stands for "none" may be nan
        proposals = ops.where(keep[..., None] >= 0, _rows(clipped, ops.maximum(keep, 0)), 0.0)
        return {
            "pre_nms_anchors": boxes,
            "refined_anchors": refined,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": keep,
            "proposals": proposals,
        }

    def get_config(self):
        return {
            **super().get_config(),
            "proposal_count": self.proposal_count,
            "nms_threshold": self.nms_threshold,
            "pre_nms_limit": self.pre_nms_limit,
            "bbox_std_dev": self.bbox_std_dev,
            "stop_gradient": self.stop_gradient,
        }


def _rows(x, indices):
    """x [B, A, D], indices [B, K] -> [B, K, D]."""
    return ops.take_along_axis(x, indices[..., None], axis=1)
