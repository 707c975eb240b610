"""Training targets for the second stage: RoIs sampled from the proposals, each with its class, box deltas and mask.

Shapes and units:
    B  images     N  proposals     G  ground truth objects (`MAX_GT_INSTANCES`)
    T  sampled RoIs (`TRAIN_ROIS_PER_IMAGE`)     P  maximum number of positive ones     (h, w)  mask shape
    boxes  (y1, x1, y2, x2), normalized to the padded image
    Rows of a sample: positive RoIs, then negative ones, then zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.config import Config
from mrcnn.ops import replicas
from mrcnn.ops.boxes import box_refinement_graph, norm_boxes_graph, overlaps_graph
from mrcnn.ops.kernels import needs_fixed_shapes
from mrcnn.ops.roi_align import crop_masks
from mrcnn.ops.types import Tensor

CROWD_IOU = 0.001  # a RoI that overlaps a crowd more than this is not negative: it may contain an object


@keras.saving.register_keras_serializable(package="mrcnn")
class NormBoxes(keras.layers.Layer):
    """Normalizes pixel boxes to their image. Zero rows are padding and stay zero.

    Args:
        box_offset: See `mrcnn.ops.boxes.norm_boxes`.

    Call arguments: `[boxes, image]`, [B, G, 4] and [B, H, W, channels]; only the size of the image is used.

    Returns:
        [B, G, 4] float32.
    """

    def __init__(self, box_offset: int = 1, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.box_offset = int(box_offset)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def call(self, inputs: Tensor) -> Tensor:
        boxes, image = inputs
        real = ops.any(boxes != 0, axis=-1, keepdims=True)
        return ops.where(real, norm_boxes_graph(boxes, ops.shape(image)[1:3], self.box_offset), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "box_offset": self.box_offset}


@keras.saving.register_keras_serializable(package="mrcnn")
class DetectionTargetLayer(keras.layers.Layer):
    """Samples RoIs from the proposals and computes the targets of the heads for each.

    Args:
        config: `Config`, optional, as in matterport's signature. If given, the arguments below are read from it.
        rois_per_image: T.
        positive_ratio: Largest share of positive RoIs; P = int(T * positive_ratio), at least 1.
        positive_iou: A RoI is positive if its IoU with a true box is at least this, otherwise negative.
        bbox_std_dev: [4], the deltas are divided by it.
        mask_shape: (h, w).
        mini_mask: Whether the ground truth masks are cropped to their box.
        aligned: True samples the ground truth mask at the centers of the mask head's cells, consistent with RoIAlign
            and with pasting; False from the first to the last pixel of the RoI, as in matterport's code.
        add_gt: Whether to add the ground truth boxes to the proposals.
        fill_negatives: True fills the sample up to T with negatives; False keeps `positive_ratio`. Either way, an image
            without positive RoIs gets T negatives.
        box_offset: How boxes are normalized, see `mrcnn.ops.boxes.norm_boxes`.
        seed: int or None, for the sampling. With `training=False`, as in `evaluate`, every call samples with the same
            random numbers, so that the losses of an unchanged model are the same each time.

    Call arguments: `[proposals, gt_class_ids, gt_boxes, gt_masks]`, and `image` if `aligned`
        proposals: [B, N, 4], zero rows are padding.
        gt_class_ids: [B, G] int; 0 is padding, negative a crowd.
        gt_boxes: [B, G, 4].
        gt_masks: [B, height, width, G], of the whole image, or of the box (mini masks).
        image: [B, H, W, channels], the padded image; only its size is used.

    Returns:
        rois: [B, T, 4].
        target_class_ids: [B, T] int32, 0 for negatives and padding.
        target_bbox: [B, T, (dy, dx, log dh, log dw)], divided by the standard deviation; zeros except for positives.
        target_mask: [B, T, h, w] of 0 and 1; zeros except for positives.

        Gradients flow through rois and deltas if they flow through the proposals, never through class ids and masks.

    Reference: He et al., "Mask R-CNN", section 3.1; Girshick, "Fast R-CNN", section 2.3.

    Example (one object, and one proposal close to it):

    >>> layer = DetectionTargetLayer(rois_per_image=2, mask_shape=(14, 14))
    >>> proposals, boxes = np.array([[[0, 0, 0.5, 0.5]]], "float32"), np.array([[[0, 0, 0.5, 0.6]]], "float32")
    >>> masks = np.ones((1, 28, 28, 1), bool)
    >>> rois, class_ids, deltas, masks = layer([proposals, np.array([[3]]), boxes, masks])
    >>> ops.convert_to_numpy(class_ids).tolist(), tuple(masks.shape)
    ([[3, 0]], (1, 2, 14, 14))
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        rois_per_image: int = 200,
        positive_ratio: float = 0.33,
        positive_iou: float = 0.5,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        mask_shape: Sequence[int] = (28, 28),
        mini_mask: bool = True,
        aligned: bool = False,
        add_gt: bool = False,
        fill_negatives: bool = False,
        box_offset: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            rois_per_image, positive_ratio = config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO
            positive_iou, box_offset = config.ROI_POSITIVE_IOU, config.convention.box_offset
            bbox_std_dev, mask_shape = config.BBOX_STD_DEV, config.MASK_SHAPE
            mini_mask, add_gt = config.USE_MINI_MASK, config.ADD_GT_TO_PROPOSALS
            aligned = config.ROI_ALIGN != "crop"
            fill_negatives, seed = config.FILL_ROIS_WITH_NEGATIVES, config.SEED
        self.rois_per_image = int(rois_per_image)
        self.positive_ratio = float(positive_ratio)
        self.positive_iou = float(positive_iou)
        self.bbox_std_dev = [float(v) for v in np.ravel(bbox_std_dev)]
        self.mask_shape = tuple(int(n) for n in mask_shape)
        self.mini_mask = bool(mini_mask)
        self.aligned = bool(aligned)
        self.add_gt = bool(add_gt)
        self.fill_negatives = bool(fill_negatives)
        self.box_offset = int(box_offset)
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)

    @property
    def max_positives(self) -> int:
        """P, at least one."""
        return max(1, int(self.rois_per_image * self.positive_ratio))

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Any:
        rows = (inputs[0].shape[0], self.rois_per_image)
        return (
            keras.KerasTensor((*rows, 4), "float32"),
            keras.KerasTensor(rows, "int32"),
            keras.KerasTensor((*rows, 4), "float32"),
            keras.KerasTensor((*rows, *self.mask_shape), "float32"),
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        proposals, gt_class_ids, gt_boxes, gt_masks, *image = inputs
        gt_class_ids = ops.cast(gt_class_ids, "int32")
        # T zero rows at the end, so that there are always enough rows to sample.
        filler = ops.zeros_like(ops.repeat(proposals[:, :1], self.rois_per_image, axis=1))
        true_boxes = []
        if self.add_gt:  # except boxes without area (one pixel): with an IoU of 0 they would be negatives
            wanted = ops.logical_and(gt_class_ids > 0, ops.all(gt_boxes[..., 2:] > gt_boxes[..., :2], axis=-1))
            true_boxes.append(ops.where(wanted[..., None], gt_boxes, 0.0))
        proposals = ops.concatenate([*true_boxes, proposals, filler], axis=1)

        match, positive, negative = match_rois(proposals, gt_class_ids, gt_boxes, self.positive_iou)  # [B, N] each
        rows, is_positive, is_sampled = self._sample(positive, negative, training)  # [B, T] each
        rois = ops.where(is_sampled[..., None], _gather_rows(proposals, rows), 0.0)
        match = _gather_rows(match, rows)  # [B, T] into G
        class_ids, deltas = targets_of_rois(rois, match, is_positive, gt_class_ids, gt_boxes, self.bbox_std_dev)
        image_size = ops.shape(image[0])[1:3] if self.aligned else None
        boxes = _gather_rows(gt_boxes, match)  # [B, T, 4]
        masks = self._masks(ops.stop_gradient(rois), boxes, match, is_positive, gt_masks, image_size)
        return rois, class_ids, deltas, ops.stop_gradient(masks)

    def _sample(self, positive, negative, training):
        """Samples at random: [B, N] flags -> rows [B, T] into N, is_positive [B, T], is_sampled [B, T]."""
        seed = int(self.seed or 0) if training is False else self.random
        order = replicas.uniform(ops.shape(positive), seed)
        positive_rows = ops.top_k(ops.where(positive, order, -1.0), self.max_positives)[1]  # [B, P]
        negative_rows = ops.top_k(ops.where(negative, order, -1.0), self.rois_per_image)[1]  # [B, T]
        positives = ops.minimum(_count_true(positive), self.max_positives)  # [B, 1]
        negatives = self.rois_per_image - positives
        if not self.fill_negatives:
            by_ratio = ops.cast(ops.cast(positives, "float32") / self.positive_ratio, "int32") - positives
            negatives = ops.where(positives > 0, ops.minimum(negatives, by_ratio), negatives)
        negatives = ops.minimum(negatives, _count_true(negative))

        row = ops.arange(self.rois_per_image)[None]  # [1, T]
        is_positive = row < positives
        is_sampled = row < positives + negatives
        candidates = ops.concatenate([positive_rows, negative_rows], axis=1)  # [B, P + T]
        position = ops.where(is_positive, row, self.max_positives + row - positives)
        position = ops.minimum(position, self.max_positives + self.rois_per_image - 1)
        return _gather_rows(candidates, position), is_positive, is_sampled

    def _masks(self, rois, boxes, match, is_positive, gt_masks, image_size):
        """[B, T, h, w]: the matched mask inside each RoI, at the mask head's size."""
        first = min(self.max_positives, self.rois_per_image)  # only these can be positive
        rois, boxes, match, is_positive = (x[:, :first] for x in (rois, boxes, match, is_positive))
        if self.aligned:
            rois = self._cell_centers(rois, boxes, ops.shape(gt_masks)[1:3], image_size)
        elif self.mini_mask:  # the RoI relative to the box that its mini mask fills
            origin, size = boxes[..., :2], ops.maximum(boxes[..., 2:] - boxes[..., :2], 1e-9)
            rois = (rois - _repeat_yx(origin)) / _repeat_yx(size)
        rois = ops.where(is_positive[..., None], rois, 0.0)
        masks = crop_masks(ops.transpose(gt_masks, (0, 3, 1, 2)), rois, match, self.mask_shape)  # [B, P, h, w]
        masks = ops.where(is_positive[..., None, None], ops.round(masks), 0.0)
        return ops.pad(masks, ((0, 0), (0, self.rois_per_image - first), (0, 0), (0, 0)))

    def _cell_centers(self, rois, boxes, mask_size, image_size):
        """Boxes from the center of each RoI's first cell to that of its last, normalized to the frame of the mask."""
        image_size, mask_size, cells = (
            ops.stack([ops.cast(n, "float32") for n in size]) for size in (image_size, mask_size, self.mask_shape)
        )
        extent, offset = image_size - self.box_offset, self.box_offset
        start = rois[..., :2] * extent  # [B, P, 2] pixels, from the edge of the image
        side = (rois[..., 2:] - rois[..., :2]) * extent + offset
        ends = [start + side * 0.5 / cells, start + side * (1 - 0.5 / cells)]
        if self.mini_mask:
            origin = boxes[..., :2] * extent
            box_side = ops.maximum((boxes[..., 2:] - boxes[..., :2]) * extent + offset, 1e-9)
            ends = [(end - origin) / box_side * mask_size for end in ends]
        return ops.concatenate([(end - 0.5) / ops.maximum(mask_size - 1, 1) for end in ends], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rois_per_image": self.rois_per_image,
            "positive_ratio": self.positive_ratio,
            "positive_iou": self.positive_iou,
            "bbox_std_dev": self.bbox_std_dev,
            "mask_shape": self.mask_shape,
            "mini_mask": self.mini_mask,
            "aligned": self.aligned,
            "add_gt": self.add_gt,
            "fill_negatives": self.fill_negatives,
            "box_offset": self.box_offset,
            "seed": self.seed,
        }


def match_rois(rois: Tensor, gt_class_ids: Tensor, gt_boxes: Tensor, positive_iou: float) -> tuple:
    """Finds the object of each RoI.

    Args:
        rois: [B, N, 4]; zero rows are padding.
        gt_class_ids: [B, G] int; 0 is padding, negative a crowd.
        gt_boxes: [B, G, 4].
        positive_iou: A RoI with at least this IoU is positive.

    Returns:
        match [B, N] int32, the object that overlaps most; positive [B, N] bool; negative [B, N] bool. A RoI is neither
        if it is padding, not finite, or overlaps a crowd but no object.
    """
    overlaps = overlaps_graph(rois, gt_boxes)  # [B, N, G]
    object_overlaps = ops.where(gt_class_ids[:, None] > 0, overlaps, 0.0)
    best_iou = ops.max(object_overlaps, axis=2)  # [B, N]
    crowd_iou = ops.max(ops.where(gt_class_ids[:, None] < 0, overlaps, 0.0), axis=2)
    real = ops.logical_and(ops.any(rois != 0, axis=2), ops.all(ops.isfinite(rois), axis=2))
    positive = ops.logical_and(real, best_iou >= positive_iou)
    negative = ops.logical_and(ops.logical_and(real, best_iou < positive_iou), crowd_iou < CROWD_IOU)
    return ops.cast(ops.argmax(object_overlaps, axis=2), "int32"), positive, negative


def targets_of_rois(
    rois: Tensor, match: Tensor, positive: Tensor, gt_class_ids: Tensor, gt_boxes: Tensor, bbox_std_dev: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Class ids [B, T] and deltas [B, T, 4] of RoIs [B, T, 4]; zero where `positive` [B, T] is False."""
    class_ids = ops.where(positive, _gather_rows(gt_class_ids, match), 0)
    deltas = box_refinement_graph(rois, _gather_rows(gt_boxes, match))
    deltas = deltas / ops.convert_to_tensor(bbox_std_dev, "float32")
    return class_ids, ops.where(positive[..., None], deltas, 0.0)


def _repeat_yx(yx):
    return ops.concatenate([yx, yx], axis=-1)  # [..., (y, x)] -> [..., (y, x, y, x)]


def _count_true(flags):
    return ops.sum(ops.cast(flags, "int32"), axis=1, keepdims=True)  # [B, 1]


def _gather_rows(x, rows):
    """x [B, N] or [B, N, D], rows [B, K] -> [B, K] or [B, K, D]."""
    return ops.take_along_axis(x, rows if len(x.shape) == 2 else rows[..., None], axis=1)


def detection_targets_graph(
    proposals: Tensor, gt_class_ids: Tensor, gt_boxes: Tensor, gt_masks: Tensor, config: Config
) -> list[Tensor]:
    """`DetectionTargetLayer` for one image, with matterport's signature: arguments and results have no batch axis."""
    inputs = [ops.convert_to_tensor(x)[None] for x in (proposals, gt_class_ids, gt_boxes, gt_masks)]
    inputs.append(ops.zeros((1, *(int(n) for n in config.IMAGE_SHAPE))))
    return [x[0] for x in DetectionTargetLayer(config)(inputs)]


@keras.saving.register_keras_serializable(package="mrcnn")
class PositiveRows(keras.layers.Layer):
    """The sampled RoIs that the mask head works on: [B, T, 4] -> [B, n, 4], the first n rows.

    Positive RoIs come first, and only they have a mask to learn. n is `count`, their maximum. In a training step, rows
    after the last positive one of any image are left out, too; n is then a multiple of `STEP`, or `count`, because the
    backend prepares each new size. JAX needs a static n, and devices that share a batch need equal ones.

    Args:
        count: P.
        keeps_all: n is always P: the rows are also used otherwise, by a BatchNorm that computes statistics.

    Call arguments: `[rois, class_ids]`, [B, T, 4] and [B, T], above 0 for positive RoIs.
    """

    STEP = 10

    def __init__(self, count: int, keeps_all: bool = False, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.count, self.keeps_all = int(count), bool(keeps_all)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, sampled, _ = input_shape[0]
        return (batch, min(self.count, sampled), 4) if needs_fixed_shapes() else (batch, None, 4)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        rois, class_ids = inputs
        rois = rois[:, : self.count]
        if not training or self.keeps_all or needs_fixed_shapes() or replicas.count() > 1:
            return rois
        most = ops.max(ops.sum(ops.cast(class_ids > 0, "int32"), axis=1))
        return rois[:, : ops.maximum((most + self.STEP - 1) // self.STEP, 1) * self.STEP]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count, "keeps_all": self.keeps_all}
