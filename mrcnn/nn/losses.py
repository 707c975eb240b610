"""The five losses of Mask R-CNN, each a scalar: two for the RPN, three for the heads.

Shapes: B images, A anchors, R rows of RPN box targets, T sampled RoIs, C classes, (h, w) the mask shape.

The two box losses have two forms. "positives" (matterport): smooth L1, averaged over the positive rows and their four
deltas. "samples" (Girshick, "Fast R-CNN", equation 1; torchvision, detectron2): the sum over the positive rows and
their deltas, divided by the number of all sampled rows, so that an image with few objects has a small box loss.

All are computed in float32. A loss is 0 for a batch in which nothing contributes to it. If several replicas share a
batch (`ops.replicas`), each computes its share: they add up to the loss of the whole batch on one device.

Reference: He et al., "Mask R-CNN", section 3; Ren et al., "Faster R-CNN", section 3.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from mrcnn.config import Config
from mrcnn.ops import replicas
from mrcnn.ops.types import Tensor

EPSILON = 1e-7  # keeps the logarithm of a mask probability finite, as in Keras


def smooth_l1_loss(y_true: Tensor, y_pred: Tensor, beta: float = 1.0) -> Tensor:
    """Smooth L1 loss, element by element (Girshick, "Fast R-CNN", equation 3, with `beta` 1).

    Args:
        y_true: Any shape.
        y_pred: The same shape.
        beta: Below this distance the loss is quadratic, `0.5 * distance ** 2 / beta`; 0 gives the absolute difference.

    Example:

    >>> ops.convert_to_numpy(smooth_l1_loss(ops.zeros(3), ops.convert_to_tensor([0.5, -1, 3]))).tolist()
    [0.125, 0.5, 2.5]
    """
    distance = ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32"))
    if beta == 0:
        return distance
    return ops.where(distance < beta, (0.5 / beta) * distance**2, distance - 0.5 * beta)


def rpn_class_loss_graph(rpn_match: Tensor, rpn_class_logits: Tensor) -> Tensor:
    """RPN classification: cross entropy, averaged over the positive and negative anchors.

    Args:
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 ignored.
        rpn_class_logits: [B, A, (bg, fg)].
    """
    match = ops.cast(ops.squeeze(rpn_match, -1), "int32")  # [B, A]; `match == 1` of a symbolic tensor is False
    loss = _cross_entropy(ops.cast(ops.equal(match, 1), "int32"), rpn_class_logits)  # [B, A]
    return _masked_mean(loss, match != 0)


def rpn_bbox_loss_graph(
    config: Config | None,
    target_bbox: Tensor,
    rpn_match: Tensor,
    rpn_bbox: Tensor,
    beta: float = 1.0,
    average: str = "positives",
) -> Tensor:
    """RPN box regression: smooth L1 of the positive anchors.

    Args:
        config: Unused; part of matterport's signature.
        target_bbox: [B, R, 4]. Row r is the target of the r-th positive anchor of its image.
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 ignored.
        rpn_bbox: [B, A, 4].
        beta: As for `smooth_l1_loss`.
        average: "positives" or "samples", see the top of this file.
    """
    match = ops.squeeze(rpn_match, -1)  # [B, A]
    positive = ops.equal(match, 1)
    row = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    # R isn't known in a `Lambda` of inputs of any length, as scripts build them.
    rows = target_bbox.shape[1] or ops.sum(ops.ones_like(target_bbox[0, :, 0], dtype="int32"))
    row = ops.minimum(ops.maximum(row, 0), rows - 1)
    target = ops.take_along_axis(ops.cast(target_bbox, "float32"), row[..., None], axis=1)  # [B, A, 4]
    return _box_loss(smooth_l1_loss(target, rpn_bbox, beta), positive, match != 0, average)


def mrcnn_class_loss_graph(
    target_class_ids: Tensor,
    pred_class_logits: Tensor,
    active_class_ids: Tensor,
    weights: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Classification: cross entropy, averaged over the RoIs whose predicted class belongs to the image's dataset.

    With p the predicted probability of a RoI's true class and w the weight of that class, the loss is
    `sum(w * (1 - p) ** gamma * -log(p)) / sum(w)` over these RoIs.

    Args:
        target_class_ids: [B, T] int.
        pred_class_logits: [B, T, C].
        active_class_ids: [B, C], 1 for the classes of the image's dataset, 0 for the others.
        weights: [B, T], 1 for RoIs to include and 0 for others. None includes all.
        class_weights: C numbers >= 0, the background first; None: 1 each.
        gamma: number >= 0. Above 0, well-classified RoIs have less weight (Lin et al., "Focal Loss for Dense Object
            Detection", equation 4).
    """
    class_ids = ops.cast(target_class_ids, "int32")
    loss = _cross_entropy(class_ids, pred_class_logits)  # [B, T]
    if gamma:
        missing = ops.maximum(-ops.expm1(-loss), EPSILON)  # 1 - p; its power has no finite gradient at 0
        loss = missing**gamma * loss
    predicted = ops.argmax(pred_class_logits, axis=-1)  # [B, T]
    counts = ops.take_along_axis(ops.cast(active_class_ids, "float32"), predicted, axis=1)  # [B, T]
    if weights is not None:
        counts = counts * ops.cast(weights, "float32")
    if class_weights is None:
        return _masked_mean(loss, counts)
    counts = counts * ops.take(ops.convert_to_tensor(class_weights, "float32"), class_ids)
    return ops.sum(loss * counts) / ops.maximum(replicas.total(ops.sum(counts)), EPSILON)


def mrcnn_bbox_loss_graph(
    target_bbox: Tensor,
    target_class_ids: Tensor,
    pred_bbox: Tensor,
    beta: float = 1.0,
    average: str = "positives",
    weights: Tensor | None = None,
) -> Tensor:
    """Box regression: smooth L1 of the true class's deltas, for positive RoIs.

    Args:
        target_bbox: [B, T, 4].
        target_class_ids: [B, T] int, above 0 for positive RoIs.
        pred_bbox: [B, T, C, 4].
        beta: As for `smooth_l1_loss`.
        average: "positives" or "samples", see the top of this file.
        weights: [B, T], 1 for sampled RoIs and 0 for others. None: all are samples.
    """
    class_mask = _class_mask(target_class_ids, pred_bbox.shape[2])[..., None]  # [B, T, C, 1]
    class_deltas = ops.sum(ops.cast(pred_bbox, "float32") * class_mask, axis=2)  # [B, T, 4]
    sampled = ops.ones_like(target_class_ids) if weights is None else weights
    return _box_loss(smooth_l1_loss(target_bbox, class_deltas, beta), target_class_ids > 0, sampled, average)


def mrcnn_mask_loss_graph(target_masks: Tensor, target_class_ids: Tensor, pred_masks: Tensor) -> Tensor:
    """Masks: binary cross entropy of the true class's mask, averaged over positive RoIs and pixels.

    Args:
        target_masks: [B, T, h, w] of 0 and 1.
        target_class_ids: [B, T] int, above 0 for positive RoIs.
        pred_masks: [B, T, h, w, C] probabilities.
    """
    class_mask = _class_mask(target_class_ids, pred_masks.shape[-1])[:, :, None, None]  # [B, T, 1, 1, C]
    probs = ops.sum(ops.cast(pred_masks, "float32") * class_mask, axis=-1)  # [B, T, h, w]
    probs = ops.clip(probs, EPSILON, 1 - EPSILON)
    target = ops.cast(target_masks, "float32")
    loss = -(target * ops.log(probs) + (1 - target) * ops.log(1 - probs))
    return _masked_mean(ops.mean(loss, axis=(2, 3)), target_class_ids > 0)


def _class_mask(class_ids, num_classes):
    """[B, T] int -> [B, T, C] float32, 1 for the class of each row."""
    return ops.one_hot(ops.cast(class_ids, "int32"), num_classes, dtype="float32")


def _cross_entropy(labels, logits):
    """labels [...] int, logits [..., C] -> [...]."""
    logits = ops.cast(logits, "float32")
    label_logits = ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype="float32"), axis=-1)
    return ops.logsumexp(logits, axis=-1) - label_logits


def _box_loss(loss, positive, sampled, average):
    """loss [..., 4], positive and sampled [...] -> scalar; `average` as at the top of this file."""
    if average == "positives":
        return _masked_mean(ops.mean(loss, axis=-1), positive)
    return _masked_mean(ops.sum(loss, axis=-1), positive, sampled)


def _masked_mean(values, counts, among=None):
    """Sum of `values` where `counts` is True (or 1), divided by the number of True entries in `among` (default:
    `counts`), over the whole batch; 0 if there are none."""
    counts = ops.cast(counts, "float32")
    among = counts if among is None else ops.cast(among, "float32")
    return ops.sum(values * counts) / ops.maximum(replicas.total(ops.sum(among)), 1.0)
