"""The training objective: the five losses by name, their weighted sum, and weight decay.

Shapes: see `nn.losses`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from mrcnn.config import LOSS_NAMES, Config
from mrcnn.nn import losses
from mrcnn.ops import replicas
from mrcnn.ops.meta import parse_image_meta_graph
from mrcnn.ops.types import Tensor
from mrcnn.training.batches import refuse_weights
from mrcnn.training.guard import spread_nan
from mrcnn.training.optimizer import NOT_DECAYED, decays_weights


def compute_losses(inputs: dict, outputs: dict, config: Config) -> dict:
    """The five losses of one batch, unweighted, by their names in `LOSS_WEIGHTS`.

    Args:
        inputs: A batch of the generator; `input_image_meta`, `input_rpn_match` and `input_rpn_bbox` are used.
        outputs: Of the training graph. In a cascade, the names for the second and third class head end in "_s2" and
            "_s3"; the losses of all heads are summed.
        config: `Config`.

    Returns:
        dict of float32 scalars.
    """
    active = parse_image_meta_graph(inputs["input_image_meta"])["active_class_ids"]
    match, box = inputs["input_rpn_match"], {"beta": config.SMOOTH_L1_BETA, "average": config.BOX_LOSS_AVERAGE}
    focus = {"class_weights": config.CLASS_WEIGHTS, "gamma": config.FOCAL_LOSS_GAMMA}
    masks = outputs["mrcnn_mask"]  # [B, n, 28, 28, C], of the first rows, which hold all positives
    first = ops.shape(masks)[1]
    class_losses, bbox_losses = [], []
    logits_name = "mrcnn_class_logits"
    for stage in sorted(name.removeprefix(logits_name) for name in outputs if name.startswith(logits_name)):
        class_ids, logits = outputs["target_class_ids" + stage], outputs[logits_name + stage]  # [B, T(, C)]
        real = ops.any(outputs["output_rois" + stage] != 0, axis=-1)
        counted = None if config.PADDED_ROIS_IN_CLASS_LOSS else real
        class_losses.append(losses.mrcnn_class_loss_graph(class_ids, logits, active, weights=counted, **focus))
        deltas = outputs["target_bbox" + stage], class_ids, outputs["mrcnn_bbox" + stage]
        bbox_losses.append(losses.mrcnn_bbox_loss_graph(*deltas, **box, weights=real))
    return {
        "rpn_class_loss": losses.rpn_class_loss_graph(match, outputs["rpn_class_logits"]),
        "rpn_bbox_loss": losses.rpn_bbox_loss_graph(
            config, inputs["input_rpn_bbox"], match, outputs["rpn_bbox"], **box
        ),
        "mrcnn_class_loss": sum(class_losses[1:], class_losses[0]),
        "mrcnn_bbox_loss": sum(bbox_losses[1:], bbox_losses[0]),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss_graph(
            outputs["target_mask"][:, :first], outputs["target_class_ids"][:, :first], masks
        ),
    }


def weighted_sum(losses_by_name: dict, config: Config) -> Tensor:
    """Scalar: the sum of the losses times `LOSS_WEIGHTS`. A loss that is not in `LOSS_WEIGHTS` has weight 1."""
    return sum(float(config.LOSS_WEIGHTS.get(name, 1.0)) * losses_by_name[name] for name in LOSS_NAMES)


def weight_decay(variables: Iterable[keras.Variable], config: Config) -> Tensor:
    """Scalar: the L2 penalty on trainable weights, except gamma and beta of BatchNorm.

    The sum of `WEIGHT_DECAY * sum(w ** 2)` over the weights. With `Config.WEIGHT_DECAY_PER_SIZE`, as in matterport's
    code, each term is divided by the weight's number of elements, which leaves almost no decay.
    """
    terms = [0.0]
    for variable in variables:
        if variable.path.rsplit("/", 1)[-1] in NOT_DECAYED:
            continue
        size = ops.size(variable) if config.WEIGHT_DECAY_PER_SIZE else 1
        terms.append(ops.sum(ops.square(ops.cast(variable, "float32"))) / ops.cast(size, "float32"))
    return config.WEIGHT_DECAY * sum(terms)


def loss_means() -> list[keras.metrics.Mean]:
    """The means that `fit` and `evaluate` show beside `loss`: of each loss, and of the weight decay."""
    return [keras.metrics.Mean(name=name) for name in (*LOSS_NAMES, "weight_decay")]


def total_loss(
    model: keras.Model,
    x: dict[str, Tensor] | Sequence[Tensor],
    outputs: dict,
    means: Iterable[keras.metrics.Mean],
    sample_weight: Any = None,
) -> Tensor:
    """Scalar: the loss that `fit` minimizes, the weighted sum of the five losses plus the weight decay.

    Args:
        model: `MaskRCNN` for training.
        x: The batch: a dict, or a list in the order of the model's inputs.
        outputs: Outputs of the training graph.
        means: Of `loss_means`; they are updated.
        sample_weight: None; anything else is refused.
    """
    refuse_weights(sample_weight=sample_weight)
    if model.mode != "training":
        raise ValueError('This model is for "inference"; training needs MaskRCNN(mode="training", ...).')
    if not isinstance(x, dict):
        x = dict(zip((tensor.name for tensor in model.inputs), x, strict=True))
    values = compute_losses(x, outputs, model.config)
    decayed = [] if decays_weights(model.optimizer, model.config) else model.trainable_variables
    decay = weight_decay(decayed, model.config) / replicas.count()
    shown = {**values, "weight_decay": decay}
    for mean in means:
        mean.update_state(replicas.total(ops.convert_to_tensor(shown[mean.name], "float32")))
    return replicas.scaled_total(spread_nan(weighted_sum(values, model.config) + decay))
