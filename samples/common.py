"""What the samples share: start weights by a word, a learning rate, the closing line of an evaluation, a picture.

Words for `--weights`: `coco` and `imagenet` are downloaded once; `shapes` is shipped; `last` is the newest
checkpoint under `--logs`; anything else is a file: a checkpoint of ours or of matterport's, or a backbone alone, e.g.
MobileNetV2 of keras.applications.
"""

from __future__ import annotations

from pathlib import Path

import keras
import matplotlib.pyplot as plt

from mrcnn import visualize, weights
from mrcnn.io import replacing

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "logs"
CLASSES_FILE = "classes.txt"  # beside the checkpoints of a run
HEADS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]  # the layers whose size follows the classes


class SmallNetwork:
    """Settings of a network that trains on a CPU, for `class SmallXConfig(SmallNetwork, XConfig)`.

    MobileNetV2, a narrower pyramid and narrower heads, fewer proposals; and new heads that learn from few photos: every
    step has objects and background to learn from. Image size and anchor scales are the sample's own.
    """

    BACKBONE = "mobilenet_v2"
    TOP_DOWN_PYRAMID_SIZE = 128
    FPN_CLASSIF_FC_LAYERS_SIZE = 512
    PRE_NMS_LIMIT = 1000
    POST_NMS_ROIS_TRAINING = 300
    POST_NMS_ROIS_INFERENCE = 200

    ROI_ALIGN = "aligned"
    TRAIN_ROIS_PER_IMAGE = 64
    ADD_GT_TO_PROPOSALS = True
    FILL_ROIS_WITH_NEGATIVES = True
    LEARNING_RATE = 0.02
    WEIGHT_DECAY_PER_SIZE = False


def find_weights(word: str, name: str | None, logs) -> str:
    """Path of the weights that `word` stands for.

    Args:
        word: one of `weights.WORDS`, "last", or a path.
        name: `Config.NAME`, for "last".
        logs: folder of the run folders, for "last".

    Raises:
        FileNotFoundError: no such file, or no checkpoint of that name yet.
    """
    if word.lower() in weights.WORDS:
        return str(weights.pretrained(word.lower()))
    if word.lower() == "last":
        return str(weights.find_last(logs, name))
    if not Path(word).is_file():
        words = ", ".join([*weights.WORDS, "last"])
        raise FileNotFoundError(f"--weights {word}: no such file; expected a path, or one of the words {words}.")
    return word


def backbone_of(path) -> str | None:
    """The `Config.BACKBONE` that a weight file belongs to, told by its layer names; None: neither of the known ones."""
    names = weights.read_weights(path).keys()
    if "block_1_expand" in names:
        return "mobilenet_v2"
    if "res5a_branch2a" not in names:
        return None
    return "resnet101" if "res4w_branch2a" in names else "resnet50"


def classes_in(path) -> int | None:
    """How many classes the heads of a weight file know, the background included; None: it has no heads."""
    logits = weights.read_weights(path).get("mrcnn_class_logits")
    return logits[0].shape[-1] if logits else None


def config_for(path, large, small):
    """The settings for the network that a weight file belongs to.

    Args:
        path: of the weights.
        large: Config class, for ResNets and for files that don't tell.
        small: Config class, for MobileNetV2.
    """
    backbone = backbone_of(path) or large.BACKBONE
    config = small() if backbone == "mobilenet_v2" else large()
    config.BACKBONE = backbone
    return config


def load_weights(model, word: str, path: str) -> None:
    """Loads `path`, found for `word`, by layer name. To train, the heads of another number of classes stay out."""
    known, classes = classes_in(path), model.config.NUM_CLASSES
    new_heads = model.mode == "training" and known not in (None, classes)
    if new_heads:
        print(f"--weights {word} knows {known} classes, this model {classes}: new heads.")
    print(model.load_weights(path, by_name=True, exclude=HEADS if new_heads else None))


def warm_up_and_cosine(rate: float, epochs: int, config) -> keras.optimizers.schedules.CosineDecay:
    """A learning rate that grows to `rate` in the first epoch, and sinks along a cosine to hardly anything."""
    steps = epochs * config.STEPS_PER_EPOCH
    return keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=config.STEPS_PER_EPOCH)


def augmentation():
    """Flips, zooms, shifts and tints photos, so that few of them show more: an imgaug augmenter."""
    from imgaug import augmenters as iaa  # after mrcnn, which mends it for NumPy 2

    return iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.Affine(scale=(0.5, 1.5), translate_percent={"x": (-0.2, 0.2), "y": (-0.2, 0.2)}),
            iaa.Multiply((0.7, 1.3)),
            iaa.AddToHueAndSaturation((-30, 30)),
        ]
    )


def write_class_names(model, class_names) -> None:
    """Notes the classes beside a run's checkpoints, for `class_names_of`."""
    with replacing(Path(model.log_dir) / CLASSES_FILE) as unfinished:
        unfinished.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")


def class_names_of(checkpoint) -> list[str] | None:
    """The classes that `write_class_names` noted beside a checkpoint, "BG" first; None: there is no note."""
    path = Path(checkpoint).parent / CLASSES_FILE
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else None


def evaluate(model, dataset, image_ids=None):
    """Prints the scores on some images of a prepared data set (None: all), the mask AP50 in the last line.

    Returns:
        The `mrcnn.evaluation.Report`.
    """
    image_ids = dataset.image_ids if image_ids is None else image_ids
    report = model.evaluate_dataset(dataset, image_ids=image_ids)
    print(report)
    print(f"mask AP50 = {report.mask_ap50:.3f} ({len(image_ids)} images)")
    return report


def draw_detections(model, dataset, image_ids, path, columns: int = 4, **options) -> Path:
    """Writes one picture with what the model finds on some images of a data set.

    Args:
        model: `MaskRCNN`.
        dataset: prepared `Dataset`.
        image_ids: ids of the images to draw.
        path: of the picture; its folder is made.
        columns: images in a row.
        **options: of `visualize.display_instances`.

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
