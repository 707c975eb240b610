"""The weights that `mrcnn train` starts from, and the model built around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.cli.plan import Start
from mrcnn.config_checks import EFFICIENTNET_LITE
from mrcnn.recipes import SmallNetwork

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

SMALL = "shapes"  # the weights that are shipped
LARGE = "torchvision_v2"
NO_WEIGHTS = "none"
IMAGENET = "imagenet"  # the weights of the backbone
LITE = "efficientnet_lite0"  # its ImageNet weights may be installed
PLANNED = ("RECIPE", "OPTIMIZER", "LEARNING_RATE", "WEIGHT_DECAY", "LAYERS")  # of `SmallNetwork`; `plan` chooses them


def choose_start(weights: str | None, on_gpu: bool) -> Start:
    """What the training starts from.

    Args:
        weights: A name, a file, the folder of a run, "none", or None: chosen.
        on_gpu: Whether a GPU trains.

    Raises:
        FileNotFoundError, ValueError: The weights do not exist.
    """
    from mrcnn.cli.models import weights_path
    from mrcnn.weights import PRETRAINED, WORDS, pretrained, read_settings, recognize_backbone
    from mrcnn.weights.downloads import SHIPPED
    from mrcnn.weights.imagenet import is_installed, packaged_weights
    from mrcnn.weights.readers import open_weights

    reason = "as given"
    if weights is None and not on_gpu and is_installed(LITE):
        weights = LITE
        reason = f"its ImageNet weights are installed ({LITE}), and it is small enough to train on a processor"
    elif weights is None:
        weights = LARGE if on_gpu else SMALL
        reason = "trained on COCO's photos" if on_gpu else "shipped, and small enough to train on a processor"
    if weights in EFFICIENTNET_LITE and not Path(weights).exists():
        packaged_weights(weights)  # raises an error if they are not installed
        return start_from_backbone(IMAGENET, {"BACKBONE": weights}, reason)
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
        words = ", ".join([*WORDS, *EFFICIENTNET_LITE])
        raise FileNotFoundError(f"--weights {weights}: no such file; expected a path, none, or one of {words}.")
    with open_weights(path) as file:
        layers, network = list(file.layers), file.network
    stored = network.settings() if network else read_settings(path)
    stored = stored or {"BACKBONE": recognize_backbone(layers) or "resnet50"}
    if not (network.classes if network else "mrcnn_class_logits" in layers):
        return start_from_backbone(str(path), stored, reason)
    return Start(str(path), stored, reason, "small" if stored.get("BACKBONE") == "small_resnet" else "trained")


def start_from_backbone(weights: str, settings: dict[str, Any], reason: str) -> Start:
    """New heads on a backbone: those of `SmallNetwork`, unless it is a ResNet.

    Args:
        weights: A file, or "imagenet".
        settings: That come with the weights, or follow from them.
    """
    if settings["BACKBONE"] in ("resnet50", "resnet101"):
        return Start(weights, settings, reason, "backbone")
    network = {name: value for name, value in vars(SmallNetwork).items() if name.isupper() and name not in PLANNED}
    return Start(weights, {**network, **settings}, reason, "small backbone")


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
        same = path != IMAGENET and list(class_names) == read_class_names(path)
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
