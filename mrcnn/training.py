"""How a `MaskRCNN` learns: which layers, from which losses, with which optimiser, and what is kept of a run.

Shapes: see `nn.losses`. The model's outputs while training are a dict; its keys are used here by name.
"""

from __future__ import annotations

import numbers
import re
from pathlib import Path

import keras
from keras import ops

from mrcnn.config import LOSS_NAMES
from mrcnn.data.generator import DataGenerator
from mrcnn.nn import losses
from mrcnn.ops.meta import parse_image_meta_graph

HEADS = r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"
# What "3+", "4+", "5+" add to the heads: the stages of the backbone from that one on.
STAGES = {
    "3+": r"(res[345].*)|(bn[345].*)|(block_([3-9]|1\d)_.*)|(Conv_1.*)",
    "4+": r"(res[45].*)|(bn[45].*)|(block_([6-9]|1\d)_.*)|(Conv_1.*)",
    "5+": r"(res5.*)|(bn5.*)|(block_1[3-6]_.*)|(Conv_1.*)",
}
LAYER_REGEX = {"heads": HEADS, **{name: f"{stages}|{HEADS}" for name, stages in STAGES.items()}, "all": ".*"}


# ---- Which layers ------------------------------------------------------------------------------------------------
def set_trainable(model, layer_regex: str, train_bn: bool | None, verbose: int = 1, indent: int = 0) -> None:
    """Makes the layers trainable whose whole name matches, and freezes the others.

    Args:
        model: keras.Model. Nested models (`rpn_model`) are walked; a match of their own name selects all of their
            layers.
        layer_regex: regular expression, matched against the full name.
        train_bn: `Config.TRAIN_BN`; False keeps every BatchNorm frozen.
        verbose: 1 prints what is selected.
        indent: int, of the print-out.
    """
    if verbose and not indent:
        print("Selecting layers to train")
    pattern = re.compile(layer_regex)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layer.trainable = True  # the flag of a model gates all that is in it
            if verbose and layer.weights:
                print(f"{' ' * indent}In model: {layer.name}")
            inner = ".*" if pattern.fullmatch(layer.name) else layer_regex
            set_trainable(layer, inner, train_bn, verbose, indent + 4)
            continue
        if not layer.weights:
            continue
        inner = getattr(layer, "layer", layer)  # a TimeDistributed wrapper carries the name, its layer the weights
        frozen = train_bn is False and isinstance(inner, keras.layers.BatchNormalization)
        layer.trainable = bool(pattern.fullmatch(layer.name)) and not frozen
        if verbose and layer.trainable:
            print(f"{' ' * indent}{layer.name:24} ({type(inner).__name__})")


def frozen_layers(model) -> list[str]:
    """Names of the layers whose weights don't train, those inside `rpn_model` included; for `MaskRCNN.save`."""
    return [layer.name for layer in _layers_with_weights(model) if not layer.trainable_weights]


def freeze(model, names) -> None:
    """Freezes the layers of these names and makes all others trainable: the inverse of `frozen_layers`."""
    names = set(names)
    for layer in _layers_with_weights(model):
        layer.trainable = layer.name not in names


def _layers_with_weights(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_with_weights(layer)
        elif layer.weights:
            yield layer


# ---- From which losses -------------------------------------------------------------------------------------------
def compute_losses(inputs: dict, outputs: dict, config) -> dict:
    """The five losses of one batch, unweighted, by their names in `LOSS_WEIGHTS`.

    Args:
        inputs: what the generator gave: `input_image_meta`, `input_rpn_match`, `input_rpn_bbox` are read.
        outputs: of the training graph.
        config: `Config`.

    Returns:
        dict of float32 scalars.
    """
    active = parse_image_meta_graph(inputs["input_image_meta"])["active_class_ids"]
    class_ids = outputs["target_class_ids"]  # [B, T]
    counted = None if config.PADDED_ROIS_IN_CLASS_LOSS else ops.any(outputs["output_rois"] != 0, axis=-1)
    masks = outputs["mrcnn_mask"]  # [B, P, 28, 28, C], of the rows that can be positive
    first = masks.shape[1]
    match = inputs["input_rpn_match"]
    return {
        "rpn_class_loss": losses.rpn_class_loss_graph(match, outputs["rpn_class_logits"]),
        "rpn_bbox_loss": losses.rpn_bbox_loss_graph(config, inputs["input_rpn_bbox"], match, outputs["rpn_bbox"]),
        "mrcnn_class_loss": losses.mrcnn_class_loss_graph(
            class_ids, outputs["mrcnn_class_logits"], active, weights=counted
        ),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss_graph(outputs["target_bbox"], class_ids, outputs["mrcnn_bbox"]),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss_graph(outputs["target_mask"][:, :first], class_ids[:, :first], masks),
    }


def weighted_sum(losses_by_name: dict, config):
    """Scalar: the losses times `LOSS_WEIGHTS` (1 where that names none)."""
    return sum(float(config.LOSS_WEIGHTS.get(name, 1.0)) * losses_by_name[name] for name in LOSS_NAMES)


def weight_decay(variables, config):
    """Scalar: the L2 penalty on trainable weights; gamma and beta of BatchNorm are left alone.

    `WEIGHT_DECAY * sum(w ** 2)` for each weight, divided by its number of elements where
    `Config.WEIGHT_DECAY_PER_SIZE` (matterport does; it leaves hardly any decay).
    """
    terms = [0.0]
    for variable in variables:
        if variable.path.rsplit("/", 1)[-1] in ("gamma", "beta"):
            continue
        size = ops.size(variable) if config.WEIGHT_DECAY_PER_SIZE else 1
        terms.append(ops.sum(ops.square(ops.cast(variable, "float32"))) / ops.cast(size, "float32"))
    return config.WEIGHT_DECAY * sum(terms)


# ---- From which batches ------------------------------------------------------------------------------------------
def stream_of(batches, devices):
    """What `fit` can take in place of a `DataGenerator`, and how many steps an epoch has.

    In the resize modes "none" and "pad64" batches differ in size. Under TensorFlow Keras would settle their shape by
    the first two of an epoch and fail at a third one, so they go through a `tf.data.Dataset` that leaves it open.

    Args:
        batches: of `fit` or `evaluate`.
        devices: `devices.Devices` that will share them.

    Returns:
        (batches, None) as given, where nothing needs to be done; or (tf.data.Dataset without end, steps).
    """
    if not isinstance(batches, DataGenerator):
        return batches, None
    devices.check_batches(batches)
    fixed = batches.stream.config.IMAGE_RESIZE_MODE in ("square", "crop")
    if fixed or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    def open_shape(name, array):
        sizes = list(array.shape)
        whole_masks = name == "input_gt_masks" and not batches.stream.config.USE_MINI_MASK
        for axis in {"input_image": (0, 1, 2), "input_rpn_match": (0, 1)}.get(name, (0, 1, 2) if whole_masks else (0,)):
            sizes[axis] = None
        return tf.TensorSpec(sizes, array.dtype)

    def endless():
        while True:
            for i in range(len(batches)):
                yield batches[i]
            batches.on_epoch_end()

    signature = ({name: open_shape(name, array) for name, array in batches[0][0].items()},)
    return tf.data.Dataset.from_generator(endless, output_signature=signature).prefetch(2), len(batches)


# ---- With which optimiser ----------------------------------------------------------------------------------------
def default_optimizer(config, learning_rate=None, momentum=None):
    """SGD with momentum, clipped by the norm of all gradients together.

    (matterport's `clipnorm` meant that norm; in Keras 3 `clipnorm` is per weight and `global_clipnorm` is the same.)

    Args:
        config: `Config`; `GRADIENT_CLIP_NORM` None or 0 is no clipping.
        learning_rate: float or a `keras.optimizers.schedules.LearningRateSchedule`; None: `LEARNING_RATE`.
        momentum: float; None: `LEARNING_MOMENTUM`.
    """
    rate = config.LEARNING_RATE if learning_rate is None else learning_rate
    return keras.optimizers.SGD(
        learning_rate=float(rate) if isinstance(rate, numbers.Real) else rate,  # Keras refuses numpy.float32 and int
        momentum=config.LEARNING_MOMENTUM if momentum is None else momentum,
        global_clipnorm=config.GRADIENT_CLIP_NORM or None,
    )


# ---- What is kept ------------------------------------------------------------------------------------------------
class Checkpoint(keras.callbacks.Callback):
    """Saves the weights in matterport's layout after each epoch.

    Args:
        path: with `{epoch:04d}` in it.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.save_weights(self.path.format(epoch=epoch + 1))


def run_callbacks(log_dir: str, checkpoint_path: str, custom=(), writes=True) -> list:
    """What every `train()` keeps in its run folder: a checkpoint an epoch, losses as CSV and for TensorBoard.

    The user's own callbacks come in between: the checkpoint is there when they are called, and what they add to the
    logs, e.g. `evaluate.EvaluateDataset` its `val_mask_ap`, is written down. Of several processes that train together
    one `writes`; the others have the user's callbacks only.
    """
    if not writes:
        return list(custom)
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    losses_csv = keras.callbacks.CSVLogger(str(Path(log_dir) / "losses.csv"), append=True)
    callbacks = [Checkpoint(checkpoint_path), *custom, losses_csv]
    if keras.backend.backend() == "tensorflow":  # Keras writes TensorBoard files through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    return callbacks
