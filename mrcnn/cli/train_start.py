"""The weights that `mrcnn train` starts from, and the model built around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.cli.plan import Start

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

SMALL = "shapes"  # the weights that are shipped
LARGE = "torchvision_v2"
NO_WEIGHTS = "none"
LITE = "efficientnet_lite0"  # its ImageNet weights may be installed
SMALL_NETWORK = {  # around a small backbone, as in samples/common.py
    "TOP_DOWN_PYRAMID_SIZE": 128, "FPN_CLASSIF_FC_LAYERS_SIZE": 512, "PRE_NMS_LIMIT": 4000,
    "POST_NMS_ROIS_TRAINING": 300, "POST_NMS_ROIS_INFERENCE": 500, "TRAIN_ROIS_PER_IMAGE": 64, "ROI_ALIGN": "aligned",
    "ADD_GT_TO_PROPOSALS": True, "FILL_ROIS_WITH_NEGATIVES": True, "WEIGHT_DECAY_PER_SIZE": False,
}  # fmt: skip
MOBILENET = {"BACKBONE": "mobilenet_v2", **SMALL_NETWORK}
# For CPUs: heads are most of the work. GroupNorm, as EfficientNet's features are large.
NARROW = {**SMALL_NETWORK, "RPN_CHANNELS": 128, "MASK_HEAD_CHANNELS": 128, "FPN_NORM": "group"}


def choose_start(weights: str | None, on_gpu: bool) -> Start:
    """What the training starts from.

    Args:
        weights: A name, a file, the folder of a run, "none", or None: chosen.

    Raises:
        FileNotFoundError, ValueError: The weights do not exist.
    """
    from mrcnn.cli.models import weights_path
    from mrcnn.weights import PRETRAINED, WORDS, pretrained, read_settings
    from mrcnn.weights.downloads import SHIPPED
    from mrcnn.weights.imagenet import is_installed, packaged_weights
    from mrcnn.weights.readers import open_weights

    if weights is None and not on_gpu and is_installed(LITE):
        reason = f"its ImageNet weights are installed ({LITE}), and it is small enough to train on a processor"
        return Start(packaged_weights(LITE), {"BACKBONE": LITE, **NARROW}, reason, "backbone")
    if weights is None:
        weights = LARGE if on_gpu else SMALL
        reason = "trained on COCO's photos" if on_gpu else "shipped, and small enough to train on a processor"
    else:
        reason = "as given"
    if weights == NO_WEIGHTS:
        return Start(None, read_settings(pretrained(SMALL)), "as given; the network is that of shapes", "small")
    path = weights_path(weights)
    if path is None:
        if weights in SHIPPED:
            stored = read_settings(pretrained(weights))
            return Start(weights, stored, reason, "small" if stored["BACKBONE"] == "small_resnet" else "trained")
        if weights not in PRETRAINED:
            return Start(weights, {}, reason, "trained")
        path = Path(pretrained(weights))
    if not path.exists():
        raise FileNotFoundError(
            f"--weights {weights}: no such file; expected a path, none, or one of {', '.join(WORDS)}."
        )
    with open_weights(path) as file:
        layers, network = set(file.layers), file.network
    if network is not None:
        return Start(str(path), network.settings(), reason, "trained" if network.classes else "backbone")
    stored = read_settings(path) or {"BACKBONE": "resnet101" if "res4w_branch2a" in layers else "resnet50"}
    if "mrcnn_class_logits" in layers:
        return Start(str(path), stored, reason, "small" if stored.get("BACKBONE") == "small_resnet" else "trained")
    return Start(str(path), MOBILENET if "block_1_expand" in layers else stored, reason, "backbone")


def build(start: Start, settings: dict[str, Any], class_names: Sequence[str], model_dir: Path) -> MaskRCNN:
    """The model for training, with the weights of `start`; heads are new if the classes differ.

    Args:
        settings: Of `Config`; they replace those of the weights.
        class_names: "BG" first.
    """
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS
    from mrcnn.weights import pretrained, read_class_names
    from mrcnn.weights.downloads import SHIPPED
    from mrcnn.weights.presets import PRESETS

    settings = {**settings, "NUM_CLASSES": len(class_names)}
    if start.weights in PRESETS:
        return MaskRCNN.from_preset(
            start.weights, "training", classes=class_names[1:], model_dir=str(model_dir), **settings
        )
    model = MaskRCNN("training", Config.from_json({**start.base, **settings}), str(model_dir))
    if start.weights is not None:
        path = pretrained(start.weights) if start.weights in SHIPPED else start.weights
        same = list(class_names) == read_class_names(path)
        model.load_weights(path, by_name=True, exclude=None if same else list(CLASS_DEPENDENT_LAYERS))
    model.class_names = list(class_names)
    return model


def has_gpu() -> bool:
    """Whether the backend sees a GPU."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() in ("gpu", "tpu")
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
