"""Proposals chosen level by level, as in Faster R-CNN with a feature pyramid; `nn.proposals` chooses from all at once.

Shapes and units:
    B  images     A  anchors of all levels     L  levels     K  anchors kept of each level     N  proposals
    boxes  (y1, x1, y2, x2), normalized to the padded image
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mrcnn.nn.proposals import ProposalsByNMS
from mrcnn.ops.boxes import apply_box_deltas_graph, clip_boxes_graph
from mrcnn.ops.meta import normalized_window_graph
from mrcnn.ops.nms import nms_graph
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class LevelProposalLayer(ProposalsByNMS):
    """Takes the best anchors of each level, removes overlapping boxes within a level, and keeps the best of all levels.

    Args:
        proposal_count: N. Missing proposals are zero rows, which later stages ignore.
        nms_threshold: IoU in [0, 1]. Of two boxes of one level that overlap more, the lower-scored one is dropped. Can
            be changed with `set_thresholds`.
        pre_nms_limit: K.
        bbox_std_dev: [4], what the RPN's deltas were divided by.
        anchors_per_location: Anchors in each cell of a map.
        anchor_stride: 1: anchors on every cell, 2: on every second one.
        min_side: Pixels; smaller boxes, and those without area, are dropped.
        max_log_scale: Largest log dh and log dw.
        rank_by_logit: Order by logit; False: by probability, which is 1.0 for all logits above 17.
        box_offset: How boxes are normalized, see `mrcnn.ops.boxes.norm_boxes`.
        stop_gradient: False lets the losses of the second stage also train the RPN.

    Call arguments: `[rpn_logits, rpn_deltas, anchors, image_meta, P2, ..., P6]`
        rpn_logits: [B, A, (bg, fg)] float.
        rpn_deltas: [B, A, (dy, dx, log dh, log dw)] float, divided by the standard deviation.
        anchors: [1, A, (y1, x1, y2, x2)] float, normalized.
        image_meta: [B, 12 + classes]. Boxes are clipped to its window, the part of the image that is not padding.
        P2, ..., P6: the levels; only their sizes are used.

    Returns:
        [B, N, (y1, x1, y2, x2)] float32, best score first.

    References: Ren et al., "Faster R-CNN", section 3.3; Lin et al., "Feature Pyramid Networks", section 4.1.
    """

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        *,
        pre_nms_limit: int = 1000,
        bbox_std_dev: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        anchors_per_location: int = 3,
        anchor_stride: int = 1,
        min_side: float = 0.0,
        max_log_scale: float = math.log(1000 / 16),
        rank_by_logit: bool = True,
        box_offset: int = 0,
        stop_gradient: bool = True,
        **kwargs: Any,
    ):
        super().__init__(proposal_count, nms_threshold, pre_nms_limit, bbox_std_dev, stop_gradient, **kwargs)
        self.anchors_per_location = int(anchors_per_location)
        self.anchor_stride = int(anchor_stride)
        self.min_side = float(min_side)
        self.max_log_scale = float(max_log_scale)
        self.rank_by_logit = bool(rank_by_logit)
        self.box_offset = int(box_offset)

    def steps(self, inputs: Tensor) -> dict[str, Tensor]:
        """Computes the layer's intermediate results as well (see `mrcnn.inference.activations`).

        Args:
            inputs: As for a call of the layer.

        Returns:
            dict of `pre_nms_anchors`, `refined_anchors` and `refined_anchors_clipped`, each [B, L * K, 4], level by
            level; `rpn_non_max_suppression` [B, N] int32, the rows of these that are kept, then -1; `proposals`
            [B, N, 4].
        """
        rpn_logits, rpn_deltas, anchors, image_meta, *pyramid = inputs
        scores, rows, levels = self._best_of_levels(rpn_logits[:, :, 1] - rpn_logits[:, :, 0], pyramid)  # [B, L * K]
        if not self.rank_by_logit:
            scores = ops.sigmoid(scores)

        std_dev = ops.convert_to_tensor(self.bbox_std_dev, "float32")
        deltas = ops.take_along_axis(rpn_deltas, rows[..., None], axis=1) * std_dev  # [B, L * K, 4]
        boxes = ops.take(anchors[0], rows, axis=0)  # [B, L * K, 4]
        refined = apply_box_deltas_graph(boxes, deltas, self.max_log_scale)
        window, size = normalized_window_graph(image_meta, self.box_offset)  # [B, 4], [2]
        clipped = clip_boxes_graph(refined, window)
        if self.stop_gradient:
            clipped = ops.stop_gradient(clipped)

        sides = (clipped[..., 2:] - clipped[..., :2]) * (size - self.box_offset)  # [B, L * K, (h, w)] pixels
        large = ops.logical_and(ops.all(sides > 0, axis=-1), ops.all(sides >= self.min_side, axis=-1))
        levels = ops.broadcast_to(levels[None], ops.shape(scores))
        threshold = self._nms_threshold.tensor()
        keep = nms_graph(clipped, scores, self.proposal_count, threshold, class_ids=levels, valid=large)  # [B, N]
        proposals = ops.take_along_axis(clipped, ops.maximum(keep, 0)[..., None], axis=1)
        return {
            "pre_nms_anchors": boxes,
            "refined_anchors": refined,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": keep,
            # `where` instead of a product: the row taken for -1 may be NaN
            "proposals": ops.where(keep[..., None] >= 0, proposals, 0.0),
        }

    def _best_of_levels(self, logits: Tensor, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """logits [B, A] -> the best K of each level: logits [B, L * K], rows [B, L * K], levels [L * K] int32."""
        scores, rows, levels, start = [], [], [], 0
        for level, features in enumerate(pyramid):
            height, width = (-(-n // self.anchor_stride) for n in ops.shape(features)[1:3])
            count = height * width * self.anchors_per_location
            static = isinstance(count, int)
            limit = min(self.pre_nms_limit, count) if static else ops.minimum(self.pre_nms_limit, count)
            best, places = ops.top_k(logits[:, start : start + count], limit)
            scores.append(best)
            rows.append(ops.cast(places, "int32") + start)
            levels.append(ops.full((limit,), level, dtype="int32"))
            start = start + count
        return ops.concatenate(scores, axis=1), ops.concatenate(rows, axis=1), ops.concatenate(levels, axis=0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "anchors_per_location": self.anchors_per_location,
            "anchor_stride": self.anchor_stride,
            "min_side": self.min_side,
            "max_log_scale": self.max_log_scale,
            "rank_by_logit": self.rank_by_logit,
            "box_offset": self.box_offset,
        }
