"""Networks and data for the benchmarks: a Mask R-CNN with COCO's classes, the same in plain Keras, photos, batches.

The weights are random, which does not affect the time. The settings make such a network find the maximum number of
detections.
"""

from __future__ import annotations

import mrcnn.quick_keras  # noqa: F401  before Keras, as `import mrcnn.model` does

# isort: split
import json
import os
import tempfile
from pathlib import Path

import cv2
import keras
import numpy as np
from keras import layers

from mrcnn.config import Config
from mrcnn.data.formats.coco import CocoDataset
from mrcnn.data.rpn_targets import build_rpn_targets
from mrcnn.model import MaskRCNN
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.meta import compose_image_meta

SHARED = Path(os.environ.get("MRCNN_SHARED", Path(__file__).resolve().parents[2] / "shared"))

CLASSES = 81  # COCO's
PHOTO = (480, 640)  # a common size in COCO


class BenchmarkConfig(Config):
    """ResNet-50, COCO's classes, one image per batch, 100 detections regardless of their scores."""

    NAME = "benchmark"
    BACKBONE = "resnet50"
    NUM_CLASSES = CLASSES
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0


def network_config(side: int, **changes) -> BenchmarkConfig:
    """The configuration for images of side x side pixels."""
    config = BenchmarkConfig()
    for name, value in {"IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side, **changes}.items():
        setattr(config, name, value)
    return config


def network(mode: str, side: int, seed: int = 0, **changes) -> MaskRCNN:
    """A model of `network_config`, with random weights that find objects of many classes everywhere."""
    keras.utils.set_random_seed(seed)
    model = MaskRCNN(mode, network_config(side, **changes), tempfile.gettempdir())
    set_random_heads(model, seed)
    return model


def set_random_heads(model, seed: int) -> None:
    """Sets random weights that act like trained ones: boxes near the anchors, classes that differ between RoIs.

    Background never has the highest score, so there are always enough detections.
    """
    rng = np.random.default_rng(seed)
    kernel, bias = model.get_layer("rpn_model").get_layer("rpn_bbox_pred").get_weights()
    model.get_layer("rpn_model").get_layer("rpn_bbox_pred").set_weights([0.01 * kernel, bias])
    for name, scale in (("mrcnn_class_logits", 1), ("mrcnn_bbox_fc", 0.001)):
        kernel, bias = model.get_layer(name).get_weights()
        if name == "mrcnn_class_logits":
            bias[0] = -1e6
        model.get_layer(name).set_weights([scale * rng.standard_normal(kernel.shape), bias])


def photo(height: int = PHOTO[0], width: int = PHOTO[1], seed: int = 0) -> np.ndarray:
    """Noise in patches of 16 x 16 pixels, [height, width, 3] uint8."""
    patches = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return np.kron(patches, np.ones((16, 16, 1), np.uint8))[:height, :width]


def compiled(model, training: bool = False):
    """A function of inputs that runs the forward pass, compiled as in Keras's `predict`, and waits for the result."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda inputs: model(inputs, training=training), jit_compile=False)
        return lambda inputs: tf.nest.map_structure(tf.identity, function(inputs))
    if backend == "jax":
        import jax

        function = jax.jit(lambda state, inputs: model.stateless_call(*state, inputs, training=training)[0])
        return lambda inputs: jax.block_until_ready(function(state_of(model), inputs))
    import torch

    def forward(inputs):
        with torch.no_grad():
            return model(inputs, training=training)

    return forward


def state_of(model) -> list:
    """The current values of trainable and other variables; on JAX, `predict` and `fit` replace them."""
    return [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]


def gradients_of(model):
    """A compiled function of inputs: forward pass, and gradients of the outputs' mean for all weights. It waits."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=False)
        def gradients(inputs):
            with tf.GradientTape() as tape:
                total = sum(tf.reduce_mean(output) for output in model(inputs, training=True))
            return tape.gradient(total, [v.value for v in model.trainable_variables])

        return gradients
    if backend == "jax":
        import jax

        def total(weights, others, inputs):
            outputs, _ = model.stateless_call(weights, others, inputs, training=True)
            return sum(output.mean() for output in outputs)

        function = jax.jit(jax.grad(total))
        return lambda inputs: jax.block_until_ready(function(*state_of(model), inputs))

    def backward(inputs):
        model.zero_grad()
        sum(output.mean() for output in model(inputs, training=True)).backward()

    return backward


def tensors(arrays) -> list:
    """The arrays as tensors on the backend's device, so that timed calls need no copy."""
    return [keras.ops.convert_to_tensor(array) for array in arrays]


# ---- Data --------------------------------------------------------------------------------------------------------
def training_batch(config, objects: int, seed: int = 0) -> dict:
    """A batch like the data generator's: one image of `config`'s size with `objects` rectangular objects."""
    rng = np.random.default_rng(seed)
    side, most = int(config.IMAGE_SHAPE[0]), config.MAX_GT_INSTANCES
    corners = rng.integers(0, side * 3 // 4, (objects, 2))
    boxes = np.concatenate([corners, np.minimum(corners + rng.integers(side // 16, side // 2, (objects, 2)), side)], 1)
    class_ids = rng.integers(1, config.NUM_CLASSES, objects).astype(np.int32)
    anchors = anchors_of_image((side, side), **config.anchor_settings())
    match, deltas = build_rpn_targets((side, side, 3), anchors, class_ids, boxes, config, rng=rng)
    meta = compose_image_meta(0, (side, side, 3), (side, side, 3), (0, 0, side, side), 1.0, np.ones(config.NUM_CLASSES))
    batch = {
        "input_image": rng.normal(0, 60, (1, side, side, 3)).astype(np.float32),
        "input_image_meta": meta[None].astype(np.float32),
        "input_rpn_match": np.asarray(match, np.int32).reshape(1, -1, 1),
        "input_rpn_bbox": np.asarray(deltas, np.float32)[None],
        "input_gt_class_ids": np.zeros((1, most), np.int32),
        "input_gt_boxes": np.zeros((1, most, 4), np.float32),
        "input_gt_masks": np.zeros((1, *config.MINI_MASK_SHAPE, most), bool),
    }
    batch["input_gt_class_ids"][0, :objects] = class_ids
    batch["input_gt_boxes"][0, :objects] = boxes
    batch["input_gt_masks"][0, :, :, :objects] = True
    return batch


def coco_dataset():
    """A prepared `CocoDataset` and its description: images of val2017 if they are there, otherwise generated ones."""
    folder = SHARED / "data/coco_val"
    if folder.is_dir():
        dataset = CocoDataset()
        dataset.load_coco_format(folder / "annotations/instances_val2017.json", folder / "val2017")
        dataset.prepare()
        return dataset, "images of COCO val2017"
    return made_up_dataset(Path(tempfile.mkdtemp()), images=40, objects=9), "generated photos (no COCO images found)"


def made_up_dataset(folder: Path, images: int, objects: int, seed: int = 0) -> CocoDataset:
    """Writes JPEGs of 480 x 640 pixels to `folder`, each with `objects` polygons of 20 corners; a prepared dataset."""
    rng = np.random.default_rng(seed)
    height, width = PHOTO
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)]}
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for image_id in range(1, images + 1):
        name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(folder / name), cv2.GaussianBlur(photo(seed=image_id), (0, 0), 3))
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for _ in range(objects):
            radius = rng.uniform(20, 100) * rng.uniform(0.7, 1, len(angles))
            x = np.clip(rng.uniform(0, width) + radius * np.cos(angles), 0, width)
            y = np.clip(rng.uniform(0, height) + radius * np.sin(angles), 0, height)
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": int(rng.integers(1, 81)),
                "iscrowd": 0, "segmentation": [np.stack([x, y], 1).ravel().tolist()],
                "bbox": [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()], "area": float(np.ptp(x) * np.ptp(y)),
            })  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    dataset = CocoDataset()
    dataset.load_coco_format(folder / "annotations.json", folder)
    dataset.prepare()
    return dataset


# ---- The same convolutions and matrix products in plain Keras --------------------------------------------------------
def plain_network(side: int, config, mask_classes: int = 1) -> keras.Model:
    """All convolutions and matrix products of `detect` as Keras layers, connected by ReLU, pooling and additions.

    BatchNorm, anchors, proposals, RoIAlign, NMS and detections are left out. The heads get random numbers instead of
    pooled RoIs.

    Args:
        side: Height and width of the image.
        config: The configuration of the network to imitate.
        mask_classes: Masks per RoI. `detect` computes one, a training step one for each class.

    Returns:
        A model with the inputs image [1, side, side, 3], RoIs of the class head [N, 7, 7, 256], and RoIs of the mask
        head [D, 14, 14, 256].
    """
    image = keras.Input((side, side, 3))
    x = layers.Conv2D(64, 7, strides=2, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    stages = []
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            shortcut = layers.Conv2D(4 * width, 1, strides=stride)(x) if block == 0 else x
            x = layers.Conv2D(width, 1, strides=stride, activation="relu")(x)
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
            x = layers.Conv2D(4 * width, 1)(x)
            x = layers.Activation("relu")(layers.Add()([x, shortcut]))
        stages.append(x)

    depth = config.TOP_DOWN_PYRAMID_SIZE
    tops = [layers.Conv2D(depth, 1)(stages[-1])]
    for stage in stages[-2::-1]:
        tops.append(layers.Add()([layers.UpSampling2D(2)(tops[-1]), layers.Conv2D(depth, 1)(stage)]))
    pyramid = [layers.Conv2D(depth, 3, padding="same")(top) for top in tops]
    pyramid.append(layers.MaxPooling2D(1, strides=2)(pyramid[0]))
    ratios = len(config.RPN_ANCHOR_RATIOS)
    shared = layers.Conv2D(512, 3, padding="same", activation="relu")
    logits, deltas = layers.Conv2D(2 * ratios, 1), layers.Conv2D(4 * ratios, 1)
    outputs = [head(x) for x in map(shared, pyramid) for head in (logits, deltas)]

    class_rois = keras.Input((config.POOL_SIZE, config.POOL_SIZE, depth))
    x = layers.Conv2D(config.FPN_CLASSIF_FC_LAYERS_SIZE, config.POOL_SIZE, activation="relu")(class_rois)
    x = layers.Conv2D(config.FPN_CLASSIF_FC_LAYERS_SIZE, 1, activation="relu")(x)
    outputs += [layers.Dense(n * config.NUM_CLASSES)(layers.Flatten()(x)) for n in (1, 4)]
    mask_rois = x = keras.Input((config.MASK_POOL_SIZE, config.MASK_POOL_SIZE, depth))
    for _ in range(4):
        x = layers.Conv2D(256, 3, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(256, 2, strides=2, activation="relu")(x)
    outputs.append(layers.Conv2D(mask_classes, 1, activation="sigmoid")(x))
    return keras.Model([image, class_rois, mask_rois], outputs)


def plain_inputs(side: int, config, seed: int = 0) -> list:
    """Random inputs for `plain_network`, with as many RoIs as `detect` has."""
    rng = np.random.default_rng(seed)
    depth, pool, mask_pool = config.TOP_DOWN_PYRAMID_SIZE, config.POOL_SIZE, config.MASK_POOL_SIZE
    shapes = (
        (1, side, side, 3),
        (config.POST_NMS_ROIS_INFERENCE, pool, pool, depth),
        (config.DETECTION_MAX_INSTANCES, mask_pool, mask_pool, depth),
    )
    return [rng.standard_normal(shape, np.float32) for shape in shapes]
