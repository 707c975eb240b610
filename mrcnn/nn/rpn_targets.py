"""Training targets of the region proposal network as a layer, on the device.

Shapes and units: see `ops.anchor_targets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.config import Config
from mrcnn.ops import replicas
from mrcnn.ops.anchor_targets import anchor_deltas, match_anchors, sample_anchors
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class RPNTargetLayer(keras.layers.Layer):
    """Labels each anchor as object, background or unused, and computes the deltas of the object anchors.

    The layer form of `data.rpn_targets.build_rpn_targets`, which explains the rules.

    Args:
        config: `Config`, optional. If given, the arguments below are read from it.
        anchors: The arguments of `ops.anchors.anchors_of_image` after the first, a dict.
        anchors_per_image: T. At most T / 2 are positive.
        positive_iou: An anchor with at least this IoU with an object is positive.
        negative_iou: An anchor whose IoUs are all below this is negative.
        bbox_std_dev: [4], the deltas are divided by it.
        best_anchors_choose: See `ops.anchor_targets.match_anchors`.
        seed: int or None, for the sampling.

    Call arguments: `[gt_class_ids, gt_boxes, image]`
        gt_class_ids: [B, G] int; 0 is padding, negative a crowd.
        gt_boxes: [B, G, 4] pixels.
        image: [B, H, W, channels]; only its height and width are used, which must be known.

    Returns:
        rpn_match: [B, A, 1] int32: 1 object, -1 background, 0 unused.
        rpn_bbox: [B, T, (dy, dx, log dh, log dw)] float32: a row per positive anchor, in their order, then zeros.

    Reference: Ren et al., "Faster R-CNN", section 3.1.2.

    Example:

    >>> layer = RPNTargetLayer(anchors={"scales": [16], "ratios": [1], "strides": [32]}, anchors_per_image=4)
    >>> boxes, image = np.array([[[0, 0, 8, 9]]], "float32"), np.zeros((1, 64, 64, 3), "float32")
    >>> rpn_match, rpn_bbox = layer([np.array([[1]]), boxes, image])
    >>> ops.convert_to_numpy(rpn_match)[0, :, 0].tolist(), tuple(rpn_bbox.shape)
    ([1, -1, -1, -1], (1, 4, 4))
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        anchors: Mapping[str, Any] | None = None,
        anchors_per_image: int = 256,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        best_anchors_choose: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            anchors = config.anchor_settings()
            anchors_per_image, bbox_std_dev = config.RPN_TRAIN_ANCHORS_PER_IMAGE, config.RPN_BBOX_STD_DEV
            positive_iou, negative_iou = config.RPN_POSITIVE_IOU, config.RPN_NEGATIVE_IOU
            best_anchors_choose, seed = config.convention.best_anchors_choose, config.SEED
        self.anchors = dict(anchors)
        self.anchors_per_image = int(anchors_per_image)
        self.positive_iou, self.negative_iou = float(positive_iou), float(negative_iou)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.best_anchors_choose = bool(best_anchors_choose)
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        gt_class_ids, gt_boxes, image = inputs
        anchors = anchors_of_image(image.shape[1:3], **self.anchors)
        gt_class_ids = ops.cast(gt_class_ids, "int32")
        positive, negative, owner = match_anchors(
            anchors, gt_class_ids, gt_boxes, self.positive_iou, self.negative_iou, self.best_anchors_choose
        )
        order = self.draw_order(ops.shape(positive))
        match, rows, real = sample_anchors(positive, negative, order, self.anchors_per_image)
        owner = ops.take_along_axis(owner, rows, axis=1)  # [B, P]
        deltas = anchor_deltas(
            anchors, rows, ops.take_along_axis(gt_boxes, owner[..., None], axis=1), self.bbox_std_dev
        )
        deltas = ops.where(real[..., None], deltas, 0.0)
        return match[..., None], ops.pad(deltas, ((0, 0), (0, self.anchors_per_image - rows.shape[1]), (0, 0)))

    def draw_order(self, shape: Sequence[int]) -> Tensor:
        """[B, A] random numbers in [0, 1). The candidates with the largest ones are used."""
        return replicas.uniform(shape, seed=self.random)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "anchors": self.anchors,
            "anchors_per_image": self.anchors_per_image,
            "positive_iou": self.positive_iou,
            "negative_iou": self.negative_iou,
            "bbox_std_dev": self.bbox_std_dev,
            "best_anchors_choose": self.best_anchors_choose,
            "seed": self.seed,
        }
