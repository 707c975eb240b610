"""Helpers for the tests of the network: a network that can be built and trained in seconds, and handmade batches.

The images are 64 x 64 pixels unless a test says otherwise; the backbone has one convolution per stage.
"""

from __future__ import annotations

import contextlib

import h5py
import keras
import numpy as np
from keras import layers, ops

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.rpn_targets import build_rpn_targets
from mrcnn.model import BatchNorm, MaskRCNN
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.masks import minimize_mask
from mrcnn.ops.meta import compose_image_meta


@contextlib.contextmanager
def run_eagerly():
    """Runs TensorFlow without tracing, which takes longer than the few steps of a test. For other backends: nothing."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


# ---- A small network -------------------------------------------------------------------------------------------------
def tiny_backbone(image, architecture, stage5=True, train_bn=None):
    """[C1, ..., C5]: in each stage one convolution with matterport's kind of name, BatchNorm and ReLU."""
    stages, x = [], image
    for stage in range(1, 6):
        name = "conv1" if stage == 1 else f"res{stage}a_branch2a"
        x = layers.Conv2D(8, 3, strides=2, padding="same", name=name)(x)
        x = BatchNorm(train_bn=train_bn, name="bn_conv1" if stage == 1 else f"bn{stage}a_branch2a")(x)
        x = layers.Activation("relu")(x)
        stages.append(x)
    return stages


class TinyConfig(Config):
    NAME = "tiny"
    BACKBONE = staticmethod(tiny_backbone)
    NUM_CLASSES = 3  # background, square, disc
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
    TOP_DOWN_PYRAMID_SIZE = 16
    RPN_CHANNELS = MASK_HEAD_CHANNELS = 32
    FPN_CLASSIF_FC_LAYERS_SIZE = 32
    RPN_ANCHOR_SCALES = (8, 16, 32, 48, 64)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 32
    PRE_NMS_LIMIT = 100
    POST_NMS_ROIS_TRAINING = 40
    POST_NMS_ROIS_INFERENCE = 20
    TRAIN_ROIS_PER_IMAGE = 16
    MASK_POOL_SIZE = 4
    MASK_SHAPE = [8, 8]
    MINI_MASK_SHAPE = (12, 12)
    MAX_GT_INSTANCES = 5
    DETECTION_MAX_INSTANCES = 6
    DETECTION_MIN_CONFIDENCE = 0
    SEED = 1


def tiny_config(**changes) -> Config:
    return type("ChangedConfig", (TinyConfig,), changes)()


def tiny_model(mode, folder, seed=0, **changes) -> MaskRCNN:
    keras.utils.set_random_seed(seed)
    return MaskRCNN(mode, tiny_config(**changes), str(folder))


def spread_scores(model) -> None:
    """Gives an untrained model scores that differ clearly: otherwise many are 1 and rounding decides their order."""
    for i, name in enumerate(("rpn_class_raw", "rpn_bbox_pred", "mrcnn_class_logits", "mrcnn_bbox_fc")):
        kernel = model_layer(model, name).weights[0]
        kernel.assign(1e-3 * np.random.default_rng(i).normal(size=kernel.shape))
    model_layer(model, "mrcnn_class_logits").weights[1].assign(np.array([-2.0, 0, 0]))  # background is unlikely


# ---- Images and batches ----------------------------------------------------------------------------------------------
def photo(height=64, width=64, seed=0, channels=3, dtype=np.uint8):
    """A bright rectangle on noise."""
    image = np.random.default_rng(seed).integers(0, 90, (height, width, channels))
    image[height // 4 : height // 2, width // 4 : width // 2] = 230
    return image.astype(dtype)


def full_masks(boxes, shape) -> np.ndarray:
    """Filled boxes [H, W, n] bool."""
    masks = np.zeros((*shape, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    return masks


def make_batch(config, images, active=None, seed=0) -> dict:
    """A batch as the generator gives it, from a list of (class_ids, boxes in pixels), one pair an image."""
    shape = tuple(int(n) for n in config.IMAGE_SHAPE)
    anchors = anchors_of_image(shape, **config.anchor_settings())
    count, most = len(images), config.MAX_GT_INSTANCES
    mask_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else shape[:2]
    rng = np.random.default_rng(seed)
    batch = {
        "input_image": np.zeros((count, *shape), np.float32),
        "input_image_meta": np.zeros((count, config.IMAGE_META_SIZE), np.float32),
        "input_rpn_match": np.zeros((count, len(anchors), 1), np.int32),
        "input_rpn_bbox": np.zeros((count, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32),
        "input_gt_class_ids": np.zeros((count, most), np.int32),
        "input_gt_boxes": np.zeros((count, most, 4), np.float32),
        "input_gt_masks": np.zeros((count, *mask_shape, most), bool),
    }
    for i, (class_ids, boxes) in enumerate(images):
        class_ids, boxes = np.asarray(class_ids, np.int32), np.reshape(np.asarray(boxes, np.int32), (-1, 4))
        masks = full_masks(boxes, shape[:2])
        image = rng.normal(0, 10, shape) + 60 * (masks * np.abs(class_ids)).sum(axis=2, keepdims=True)
        n = len(class_ids)
        flags = np.ones(config.NUM_CLASSES) if active is None else active[i]
        match, deltas = build_rpn_targets(shape, anchors, class_ids, boxes, config, rng=rng)
        batch["input_image"][i] = image - 60
        batch["input_image_meta"][i] = compose_image_meta(i, shape, shape, (0, 0, *shape[:2]), 1.0, flags)
        batch["input_rpn_match"][i, :, 0] = match
        batch["input_rpn_bbox"][i] = deltas
        batch["input_gt_class_ids"][i, :n] = class_ids
        batch["input_gt_boxes"][i, :n] = boxes
        batch["input_gt_masks"][i, :, :, :n] = (
            minimize_mask(boxes, masks, mask_shape) if config.USE_MINI_MASK else masks
        )
    return batch


TWO_IMAGES = (([1, 2], [[8, 8, 40, 40], [20, 30, 60, 62]]), ([2], [[4, 10, 30, 50]]))
NO_OBJECTS = (([], []), ([], []))


class Batches(keras.utils.PyDataset):
    """A list of batches, given again each epoch."""

    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return (self.batches[index],)


class Squares(Dataset):
    """Photos of 64 x 64 pixels, each with `objects` squares or discs' boxes; a fixed function of the image's number."""

    def __init__(self, count=4, objects=2):
        super().__init__()
        self.objects = objects
        for class_id, name in ((1, "square"), (2, "disc")):
            self.add_class("toys", class_id, name)
        for i in range(count):
            self.add_image("toys", i, path=None)
        self.prepare()

    def boxes(self, image_id):
        rng = np.random.default_rng(image_id)
        corners, sides = rng.integers(0, 32, (self.objects, 2)), rng.integers(16, 32, (self.objects, 2))
        return np.concatenate([corners, corners + sides], axis=1)

    def load_image(self, image_id):
        image = np.random.default_rng(image_id + 100).integers(0, 60, (64, 64, 3)).astype(np.uint8)
        image[self.load_mask(image_id)[0].any(axis=2)] = 200
        return image

    def load_mask(self, image_id):
        boxes = self.boxes(image_id)
        return full_masks(boxes, (64, 64)), 1 + np.arange(len(boxes), dtype=np.int32) % 2


# ---- Gradients and numbers, on any backend ---------------------------------------------------------------------------
def gradients(function, *arrays):
    """d function / d array, for each array; `function` takes tensors and gives a scalar. Works on every backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = tape.gradient(value, tensors, unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        found = jax.grad(function, argnums=tuple(range(len(arrays))))(*[ops.convert_to_tensor(a) for a in arrays])
    else:
        import torch

        tensors = [ops.convert_to_tensor(array).detach().requires_grad_(True) for array in arrays]
        value = function(*tensors)
        if not value.requires_grad:
            return [np.zeros_like(array) for array in arrays]
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        found = [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors)]
    return [ops.convert_to_numpy(g) for g in found]


def finite_differences(function, arrays, which, step=1e-2):
    """The same gradient for `arrays[which]`, from central differences, entry by entry."""
    base = [np.array(array) for array in arrays]
    found = np.zeros_like(base[which])
    for index in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = [np.array(array) for array in base]
            moved[which][index] += sign * step
            ends.append(float(ops.convert_to_numpy(function(*[ops.convert_to_tensor(a) for a in moved]))))
        found[index] = (ends[0] - ends[1]) / (2 * step)
    return found


def loss_gradients(model, batch, names, layers):
    """Gradient of the sum of the losses `names` with respect to the first weight of each of `layers`, as arrays."""
    from mrcnn import training

    variables = [model_layer(model, name).weights[0] for name in layers]
    inputs = {key: ops.convert_to_tensor(value) for key, value in batch.items()}

    def total():
        losses = training.compute_losses(inputs, model(inputs, training=True), model.config)
        return sum(losses[name] for name in names)

    return variable_gradients(total, model, variables)


def variable_gradients(function, model, variables):
    """d function() / d variable for each of `variables` of `model`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        found = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        def of(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function()

        found = jax.jit(jax.grad(of))([v.value for v in variables])
    else:
        model.zero_grad()
        function().backward()
        found = [v.value.grad if v.value.grad is not None else ops.zeros_like(v.value) for v in variables]
    return [ops.convert_to_numpy(g) for g in found]


def model_layer(model, name):
    """A layer of the model, or of `rpn_model` inside it."""
    with contextlib.suppress(ValueError):
        return model.get_layer(name)
    return model.get_layer("rpn_model").get_layer(name)


def numpy(x):
    return ops.convert_to_numpy(x)


def weights_of(model) -> dict:
    """Every weight by its path."""
    return {weight.path: np.array(numpy(weight)) for weight in model.weights}


def write_layers(path, names) -> None:
    """Writes an `.h5` file in matterport's layout: layers with these names, of one weight each."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            file.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            file[name][f"{name}/kernel:0"] = np.zeros((1, 1, 1, 1), np.float32)
