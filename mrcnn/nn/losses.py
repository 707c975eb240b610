"""The five losses of Mask R-CNN, each a scalar: two for the RPN, three for the heads.

Shapes: B images, A anchors, R rows of RPN box targets, T sampled RoIs, C classes, (h, w) the mask shape.
All are computed in float32. A batch in which nothing counts has loss 0. Where several replicas share a batch
(`ops.replicas`), each gives its share of the loss: they add up to that of the whole batch on one device.

Reference: He et al., "Mask R-CNN", section 3; Ren et al., "Faster R-CNN", section 3.1.2.
"""

from __future__ import annotations

from keras import ops

from mrcnn.ops import replicas

EPSILON = 1e-7  # keeps the logarithm of a mask probability finite, as Keras does


def smooth_l1_loss(y_true, y_pred):
    """Huber loss with delta 1, element by element (Girshick, "Fast R-CNN", equation 3)."""
    distance = ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32"))
    return ops.where(distance < 1, 0.5 * distance**2, distance - 0.5)


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """Is there an object at the anchor? Mean over the anchors that count.

    Args:
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 doesn't count.
        rpn_class_logits: [B, A, (bg, fg)].
    """
    match = ops.cast(ops.squeeze(rpn_match, -1), "int32")
    loss = _cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits)  # [B, A]
    return _mean(loss, match != 0)


def rpn_bbox_loss_graph(config, target_bbox, rpn_match, rpn_bbox):
    """Where is the object, as seen from the anchor? Mean over the positive anchors.

    Args:
        config: not read; matterport's signature.
        target_bbox: [B, R, 4]; the r-th row is the target of the r-th positive anchor of its image.
        rpn_match: [B, A, 1] int, 1 is positive.
        rpn_bbox: [B, A, 4].
    """
    positive = ops.squeeze(rpn_match, -1) == 1  # [B, A]
    row = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    row = ops.clip(row, 0, target_bbox.shape[1] - 1)
    target = ops.take_along_axis(ops.cast(target_bbox, "float32"), row[..., None], axis=1)  # [B, A, 4]
    return _mean(ops.mean(smooth_l1_loss(target, rpn_bbox), axis=-1), positive)


def mrcnn_class_loss_graph(target_class_ids, pred_class_logits, active_class_ids, weights=None):
    """What is in the RoI? Mean over the RoIs whose predicted class belongs to the image's data set.

    Args:
        target_class_ids: [B, T] int.
        pred_class_logits: [B, T, C].
        active_class_ids: [B, C], 1 for the classes of the image's data set, 0 for the others.
        weights: [B, T] of 0 and 1, optional: which RoIs count at all.
    """
    loss = _cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits)
    predicted = ops.argmax(pred_class_logits, axis=-1)  # [B, T]
    counts = ops.take_along_axis(ops.cast(active_class_ids, "float32"), predicted, axis=1)
    if weights is not None:
        counts = counts * ops.cast(weights, "float32")
    return _mean(loss, counts)


def mrcnn_bbox_loss_graph(target_bbox, target_class_ids, pred_bbox):
    """Where exactly is it? Mean over the positive RoIs, for the true class's deltas only.

    Args:
        target_bbox: [B, T, 4].
        target_class_ids: [B, T] int, positive for RoIs that count.
        pred_bbox: [B, T, C, 4].
    """
    of_class = _of_class(target_class_ids, pred_bbox.shape[2])[..., None]  # [B, T, C, 1]
    own = ops.sum(ops.cast(pred_bbox, "float32") * of_class, axis=2)  # [B, T, 4]
    return _mean(ops.mean(smooth_l1_loss(target_bbox, own), axis=-1), target_class_ids > 0)


def mrcnn_mask_loss_graph(target_masks, target_class_ids, pred_masks):
    """Which pixels belong to it? Mean over positive RoIs and pixels, for the true class's mask only.

    Args:
        target_masks: [B, T, h, w] of 0 and 1.
        target_class_ids: [B, T] int, positive for RoIs that count.
        pred_masks: [B, T, h, w, C] probabilities.
    """
    of_class = _of_class(target_class_ids, pred_masks.shape[-1])[:, :, None, None]  # [B, T, 1, 1, C]
    own = ops.sum(ops.cast(pred_masks, "float32") * of_class, axis=-1)  # [B, T, h, w]
    own = ops.clip(own, EPSILON, 1 - EPSILON)
    target = ops.cast(target_masks, "float32")
    loss = -(target * ops.log(own) + (1 - target) * ops.log(1 - own))
    return _mean(ops.mean(loss, axis=(2, 3)), target_class_ids > 0)


def _of_class(class_ids, num_classes):
    return ops.one_hot(ops.cast(class_ids, "int32"), num_classes, dtype="float32")


def _cross_entropy(labels, logits):
    logits = ops.cast(logits, "float32")
    own = ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype="float32"), axis=-1)
    return ops.logsumexp(logits, axis=-1) - own


def _mean(values, counts):
    """Mean of `values` where `counts` is true (or 1), over the whole batch; 0 where it never is."""
    counts = ops.cast(counts, "float32")
    return ops.sum(values * counts) / ops.maximum(replicas.total(ops.sum(counts)), 1.0)
