"""Mask R-CNN: the map of the whole detector, and the door for the names that users import from here.

Shapes: B images of H x W pixels, A anchors, N proposals, T sampled RoIs, D detections, C classes (0 is background).
Boxes are (y1, x1, y2, x2): in pixels, y2 and x2 exclusive, for users; normalised to the padded image in the network.

Read `build_stages`, `detection_graph` and `training_graph` first; every line is a stage with a file of its own in
`nn/`.

Reference: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017.
"""

from __future__ import annotations

import datetime
import math
import numbers
import re
import threading
from dataclasses import dataclass, field
from functools import wraps

import keras
import numpy as np

from mrcnn import evaluation, processor, training, weights
from mrcnn.compat.tf1 import eager_mode, teach_tf_identity
from mrcnn.config import Config
from mrcnn.data.generator import DataGenerator, data_generator
from mrcnn.data.rpn_targets import build_detection_targets, build_rpn_targets, generate_random_rois
from mrcnn.data.training_sample import load_image_gt
from mrcnn.distribution import find_devices
from mrcnn.graph import (
    INFERENCE_OUTPUTS,
    Stages,
    build_stages,
    detection_graph,
    detector_graph,
    training_graph,
)
from mrcnn.inference import activations, molding
from mrcnn.inference.molding import mold_image, unmold_image
from mrcnn.nn.anchors import Anchors
from mrcnn.nn.backbones import build_backbone, conv_block, identity_block, resnet_graph
from mrcnn.nn.detections import DetectedBoxes, DetectionLayer, FilledRows, refine_detections_graph
from mrcnn.nn.folding import fold_batchnorm
from mrcnn.nn.fpn import fpn_graph
from mrcnn.nn.heads import ClassHead, MaskHead, build_fpn_mask_graph, fpn_classifier_graph
from mrcnn.nn.losses import (
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
)
from mrcnn.nn.norm import BatchNorm
from mrcnn.nn.precision import computing_in, log_processor, warn_if_slow
from mrcnn.nn.proposals import ProposalLayer
from mrcnn.nn.roi_align import PyramidROIAlign, log2_graph
from mrcnn.nn.rpn import build_rpn_model, rpn_graph, rpn_over_pyramid
from mrcnn.nn.targets import DetectionTargetLayer, NormBoxes, detection_targets_graph
from mrcnn.ops import replicas
from mrcnn.ops.anchors import backbone_shapes, generate_pyramid_anchors
from mrcnn.ops.boxes import (
    apply_box_deltas_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    norm_boxes,
    norm_boxes_graph,
    overlaps_graph,
    trim_zeros_graph,
)
from mrcnn.ops.images import subtract_mean
from mrcnn.ops.meta import compose_image_meta, parse_image_meta, parse_image_meta_graph

MODES = ("training", "inference")
# What detecting depends on beside the weights. A change of one of these takes effect at the next `detect`.
DETECTION_SETTINGS = (
    "PRE_NMS_LIMIT", "RPN_NMS_THRESHOLD", "POST_NMS_ROIS_INFERENCE",
    "DETECTION_MAX_INSTANCES", "DETECTION_MIN_CONFIDENCE", "DETECTION_NMS_THRESHOLD",
)  # fmt: skip


# ---- The model ---------------------------------------------------------------------------------------------------
@dataclass
class _Detector:
    """The graph that `detect` runs, and the settings it was built with. Not tracked by Keras: it owns no weights."""

    stages: Stages
    image_shape: tuple  # of the molded image that was detected last
    settings: tuple = ()
    model: keras.Model | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: threading.local = field(default_factory=threading.local)  # see `_molded`


def _eagerly(method):
    """Lets a method run inside TF1's `with graph.as_default():` (see `mrcnn.compat.tf1`)."""

    @wraps(method)
    def run(*args, **kwargs):
        with eager_mode():
            return method(*args, **kwargs)

    return run


def _or_torchs_train(method):
    """Under the PyTorch backend a Keras model is a `torch.nn.Module`, whose `train(mode=True)` means something else."""

    @wraps(method)
    def train(self, *args, **kwargs):
        from_torch = not kwargs and len(args) <= 1 and all(isinstance(mode, bool) for mode in args)
        if from_torch and keras.backend.backend() == "torch":
            return super(MaskRCNN, self).train(*args)
        return method(self, *args, **kwargs)

    return train


@keras.saving.register_keras_serializable(package="mrcnn")
class MaskRCNN(keras.Model):
    """Mask R-CNN with matterport's methods, as a Keras model: `compile`, `fit`, `save`, callbacks work as anywhere.

    Args:
        mode: "training" or "inference". Both have the same weights, and a model built for training detects as well;
            the mode says which graph `model(...)`, `fit` and `predict` run.
        config: `Config`. Read when the graph is built; thresholds and sizes of detecting (`DETECTION_*`,
            `POST_NMS_ROIS_INFERENCE`...), batch size and steps also later; loss weights at the next `compile`.
        model_dir: where run folders are made, one for each training: `<name>YYYYmmddTHHMM/mask_rcnn_<name>_0001.h5`.
        strategy: `tf.distribute.Strategy`, or `keras.distribution.DataParallel` on JAX: the devices that share each
            batch. None: GPU_COUNT of the machine's, as far as there are so many (see `mrcnn.distribution`).
        weights: a file or word to begin with, as `load_weights(weights, by_name=True)` takes it. None: new weights.

    Attributes:
        keras_model: the model itself, under matterport's name.
        epoch: int, epochs trained so far; from the checkpoint's name after `load_weights`.
        log_dir, checkpoint_path: of the current run.
        anchors: [A, 4] in pixels of the molded image that was detected, or asked for with `get_anchors`, last.

    Raises:
        ValueError: for another mode, or a setting that can't work.
    """

    @_eagerly
    def __init__(self, mode, config, model_dir=".", strategy=None, weights=None, **kwargs):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}.")
        config.validate()
        teach_tf_identity()
        warn_if_slow(config.COMPUTE_DTYPE, processor.cpu_flags())
        log_processor()
        devices = find_devices(config, strategy)
        with devices.scope(), computing_in(config.COMPUTE_DTYPE):
            stages = build_stages(config)
            graph = training_graph if mode == "training" else detection_graph
            inputs, outputs = graph(stages, config)
            super().__init__(inputs=inputs, outputs=outputs, **{"name": "mask_rcnn", **kwargs})
            means = [keras.metrics.Mean(name=name) for name in training.LOSS_NAMES] if mode == "training" else []
        del self.build  # Keras hides it behind a wrapper that gives nothing back
        self.mode = mode
        self.config = config
        self.model_dir = str(model_dir)
        self.devices = devices
        self._detector = _Detector(stages, tuple(int(n) for n in config.IMAGE_SHAPE))
        self._loss_means = means
        self._anchor_cache = {}
        if keras.backend.backend() == "tensorflow":
            self.jit_compile = False  # NMS is a kernel that XLA hasn't got, and its convolutions on the CPU are slower
        self.set_log_dir()
        if weights is not None:
            self.load_weights(weights, by_name=True)

    @property
    def keras_model(self):
        return self

    def __dir__(self):
        # Keras finds what to save through `dir`, and would follow `keras_model` round and round.
        return [name for name in super().__dir__() if name != "keras_model"]

    def build(self, *args, **kwargs):
        """Keras's `build(input_shape)`; or matterport's `build(mode, config)`: a new graph as a plain keras.Model."""
        mode, config = kwargs.get("mode", args[0] if args else None), kwargs.get("config", args[-1] if args else None)
        if mode not in MODES:
            return super().build(*args, **kwargs)
        graph = training_graph if mode == "training" else detection_graph
        with computing_in(config.COMPUTE_DTYPE):
            return keras.Model(*graph(build_stages(config), config), name="mask_rcnn")

    # ---- Training --------------------------------------------------------------------------------------------------
    @_eagerly
    def compile(self, optimizer=None, *args, learning_rate=None, momentum=None, **kwargs):
        """Keras's `compile(optimizer, ...)`, or matterport's `compile(learning_rate, momentum)`.

        The losses are the model's own. Without an optimizer it is SGD with momentum and clipping, from the Config.
        """
        if isinstance(optimizer, (numbers.Real, keras.optimizers.schedules.LearningRateSchedule)):
            learning_rate, optimizer = optimizer, None
            momentum, *args = args or (momentum,)
        if keras.backend.backend() == "tensorflow":
            kwargs.setdefault("jit_compile", False)
        with self.devices.scope():
            if optimizer is None:
                optimizer = training.default_optimizer(self.config, learning_rate, momentum)
            super().compile(self.devices.adopt(keras.optimizers.get(optimizer)), *args, **kwargs)
            self.devices.add_before_clipping(self.optimizer)

    @_eagerly
    def fit(self, x=None, *args, **kwargs):
        """Keras's `fit`. A `DataGenerator` may give batches of several sizes (resize modes "none" and "pad64")."""
        if isinstance(x, DataGenerator):
            kwargs.setdefault("shuffle", False)  # it has an order of its own; Keras would mix up each epoch's batches
        x, steps = training.stream_of(x, self.devices)
        if steps is not None:
            kwargs.setdefault("steps_per_epoch", steps)
        kwargs["validation_data"], steps = training.stream_of(kwargs.get("validation_data"), self.devices)
        if steps is not None:
            kwargs.setdefault("validation_steps", steps)
        with self.devices.scope():
            return super().fit(x, *args, **kwargs)

    @_eagerly
    def evaluate(self, x=None, *args, **kwargs):
        """Keras's `evaluate`: the losses on batches. For AP see `evaluate_dataset`."""
        x, steps = training.stream_of(x, self.devices)
        if steps is not None:
            kwargs.setdefault("steps", steps)
        with self.devices.scope():
            return super().evaluate(x, *args, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the five losses, plus weight decay. Called by `fit` and `evaluate`."""
        if self.mode != "training":
            raise ValueError('This model is for "inference"; training needs MaskRCNN(mode="training", ...).')
        if not isinstance(x, dict):
            x = dict(zip((tensor.name for tensor in self.inputs), x, strict=True))
        values = _losses(x, y_pred, self.config)
        for mean in self._loss_means:
            mean.update_state(replicas.total(values[mean.name]))
        decay = _weight_decay(self.trainable_variables, self.config) / replicas.count()
        return replicas.scaled_total(_weighted_sum(values, self.config) + decay)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Called under TensorFlow before `fit` and `evaluate` on several devices.

        Keras would run the graph symbolically on the sum of all devices' first batches, but masks, which are bool,
        can't be added. The graph is there already; the optimizer's variables are all that may be missing.
        """
        if self.devices.strategy is not None and not self.optimizer.built:
            with self.devices.scope():
                self.optimizer.build(self.trainable_variables)

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Makes the layers trainable whose whole name matches the regular expression, and freezes the others."""
        training.set_trainable(keras_model or self, layer_regex, self.config.TRAIN_BN, verbose, indent)

    @_or_torchs_train
    @_eagerly
    def train(self, train_dataset, val_dataset, learning_rate, epochs, layers, augmentation=None,
              custom_callbacks=None, no_augmentation_sources=None, *, optimizer=None, workers=1,
              use_multiprocessing=False):  # fmt: skip
        """Trains until `epochs` epochs have been done in all, and saves a checkpoint after each.

        Args:
            train_dataset, val_dataset: prepared `Dataset`s; `val_dataset` may be None.
            learning_rate: float, or a Keras schedule.
            epochs: int, the total: a model that has done 20 does 10 more with `epochs=30`, and none with `epochs=20`.
            layers: "heads", "3+", "4+", "5+", "all", or a regular expression of layer names.
            augmentation: an imgaug augmenter, a callable `(image, masks) -> (image, masks)`, or a Keras layer.
            custom_callbacks: list of Keras callbacks; what they add to the logs stands in losses.csv as well.
            no_augmentation_sources: list of source names whose images are not augmented.
            optimizer: Keras optimizer to use instead of SGD; `learning_rate` is then not read.
            workers: int, threads or processes that prepare batches.
            use_multiprocessing: bool, processes instead of threads.

        Returns:
            keras.callbacks.History: `history` has `loss`, the five losses, and the same as `val_...`.
        """
        if self.mode != "training":
            raise ValueError('train() needs a model built with mode="training"; this one is for "inference".')
        self.config.validate()
        writes = self.devices.writes
        seed = self.devices.agree(int(np.random.randint(2**31))) if self.config.SEED is None else self.config.SEED
        loading = {"workers": workers, "use_multiprocessing": use_multiprocessing, "seed": seed,
                   "shard": self.devices.shard}  # fmt: skip
        batches = DataGenerator(
            train_dataset, self.config, shuffle=True, augmentation=augmentation,
            steps=math.ceil(self.config.STEPS_PER_EPOCH), no_augmentation_sources=no_augmentation_sources, **loading,
        )  # fmt: skip
        batches.epoch = self.epoch
        val_batches = None
        if val_dataset is not None and self.config.VALIDATION_STEPS:
            val_batches = DataGenerator(
                val_dataset, self.config, shuffle=True, steps=math.ceil(self.config.VALIDATION_STEPS), **loading
            )
        if writes:
            print(f"\nStarting at epoch {self.epoch}. LR={learning_rate}\n\nCheckpoint path: {self.checkpoint_path}")
        self.set_trainable(training.LAYER_REGEX.get(layers, layers), verbose=int(writes))
        if not self.trainable_variables:
            raise ValueError(
                f"layers={layers!r} matches no layer with weights, so nothing would be trained; expected one of"
                f" {', '.join(training.LAYER_REGEX)}, or a regular expression that matches whole layer names."
            )
        self.compile(optimizer, learning_rate=learning_rate)
        history = self.fit(
            batches, initial_epoch=self.epoch, epochs=epochs, validation_data=val_batches,
            callbacks=training.run_callbacks(self.log_dir, self.checkpoint_path, custom_callbacks or (), writes),
            verbose="auto" if writes else 0,
        )  # fmt: skip
        self.epoch += len(history.epoch)  # fewer than asked for where a callback stopped it
        return history

    # ---- Detecting -------------------------------------------------------------------------------------------------
    @_eagerly
    def detect(self, images, verbose=0):
        """Finds objects on photos.

        Args:
            images: list (or array) of [H0, W0, 3] RGB photos, any number and sizes. Grey, RGBA, 16-bit and 0..255
                float images are converted.
            verbose: 1 prints what goes in.

        Returns:
            A dict for each photo: `rois` [n, (y1, x1, y2, x2)] int32 pixels, `class_ids` [n] int32,
            `scores` [n] float32, best first, `masks` [H0, W0, n] bool.
        """
        self.config.validate()
        if len(images) == 0:
            return []
        resized, metas, windows = molding.resize_inputs(images, self.config)
        if verbose:
            log(f"Processing {len(images)} images")
            for name, array in [("image", image) for image in images] + [("image_metas", metas)]:
                log(name, np.asarray(array))
        results = []
        for part in molding.batches_of_one_shape(resized, self.config.BATCH_SIZE):
            detections, masks = self._predict(self._molded(resized[part]), metas[part])
            for i, image in enumerate(images[part]):
                shapes = np.shape(image), resized[part.start].shape
                results.append(self._result(detections[i], masks[i], *shapes, windows[part][i]))
        return results

    @_eagerly
    def detect_molded(self, molded_images, image_metas, verbose=0):
        """`detect` on images that are resized and centred already; boxes and masks are those of the molded images.

        Args:
            molded_images: [B, H, W, channels], of `mold_inputs` or `load_image_gt` and `mold_image`.
            image_metas: [B, 12 + C].
            verbose: 1 prints what goes in.

        Returns:
            As `detect`.
        """
        molded_images, image_metas = np.asarray(molded_images), np.asarray(image_metas)
        if verbose:
            log(f"Processing {len(molded_images)} images")
            log("molded_images", molded_images)
        detections, masks = self._predict(molded_images, image_metas)
        shape = molded_images[0].shape
        whole = (0, 0, *shape[:2])
        return [self._result(d, m, shape, shape, whole) for d, m in zip(detections, masks, strict=True)]

    @_eagerly
    def evaluate_dataset(self, dataset, image_ids=None, **options):
        """Detects on a prepared `Dataset` and measures by COCO's protocol and beyond.

        Args:
            dataset: prepared `Dataset` with `load_mask`.
            image_ids: which of its images; None: all.
            **options: of `evaluation.evaluate_dataset`.

        Returns:
            evaluate.Report: `mask_ap`, `mask_ap50`, `box_ap`...; `print` it, `plot()` it, `report("out.html")`.
        """
        return evaluation.evaluate_dataset(self, dataset, image_ids, **options)

    def _result(self, *args) -> dict:
        rois, class_ids, scores, masks = molding.place_on_photo(*args)
        return {"rois": rois, "class_ids": class_ids, "scores": scores, "masks": masks}

    def _molded(self, images) -> np.ndarray:
        """Images of one shape as a batch without their mean, in memory that this thread keeps for the next one."""
        shape, kept = (len(images), *images[0].shape), self._detector.kept
        if getattr(kept, "batch", np.empty(0)).shape != shape:
            kept.batch = np.empty(shape, np.float32)
        for image, place in zip(images, kept.batch):
            subtract_mean(image, self.config.MEAN_PIXEL, out=place)
        return kept.batch

    def _predict(self, images, metas):
        """[B, H, W, channels] and [B, 12 + C] -> detections [B, D, 6], their masks [B, n, 28, 28]. Thread-safe."""
        inputs = [images.astype(np.float32, copy=False), metas.astype(np.float32)]
        with self._detector.lock:
            outputs = self.devices.predict(self.detector(), inputs)
            self._detector.image_shape = images.shape[1:]
        return outputs

    def _detection_settings(self) -> tuple:
        return tuple(getattr(self.config, name) for name in DETECTION_SETTINGS)

    def detector(self) -> keras.Model:
        """The network that `detect` runs (`detector_graph`): this model's layers, BatchNorm folded.

        Made anew when a setting changes.
        """
        detector, settings = self._detector, self._detection_settings()
        if detector.model is None or detector.settings != settings:
            detector.model = fold_batchnorm(*detector_graph(detector.stages, self.config))
            detector.settings = settings
            if keras.backend.backend() == "tensorflow":
                detector.model.jit_compile = False
        return detector.model

    def mold_inputs(self, images):
        """Photos -> molded images [B, H, W, channels], image_metas [B, 12 + C], windows [B, 4]."""
        molded, metas, windows = molding.mold_inputs(images, self.config)
        return np.stack(molded), metas, windows

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """One image's network output -> boxes [n, 4], class_ids [n], scores [n], masks [H0, W0, n]."""
        return molding.unmold_detections(detections, mrcnn_mask, original_image_shape, image_shape, window)

    def get_anchors(self, image_shape):
        """[A, 4] anchors normalised to an image of `image_shape`; sets `anchors`, the same in pixels."""
        self._detector.image_shape = shape = tuple(int(n) for n in image_shape)
        return norm_boxes(self._anchors_of(shape), shape[:2])

    @property
    def anchors(self):
        return self._anchors_of(self._detector.image_shape)

    def _anchors_of(self, shape):
        """[A, (y1, x1, y2, x2)] in pixels of an image of that shape."""
        found = self._anchor_cache.get(shape)
        if found is None:
            config = self.config
            found = generate_pyramid_anchors(
                config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, compute_backbone_shapes(config, shape),
                config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE,
            )  # fmt: skip
            self._anchor_cache = {shape: found}  # only the last size is kept: "pad64" knows no end of sizes
        return found

    # ---- Weights ---------------------------------------------------------------------------------------------------
    @_eagerly
    def load_weights(self, filepath, by_name=False, exclude=None, **kwargs):
        """Loads weights from matterport's `.h5`, or Keras's `.weights.h5` or `.keras`, by layer name.

        Args:
            filepath: the file. If it is a checkpoint of a run, training goes on in that run's folder and epoch. Or
                a word: "coco", "balloon", "imagenet" (downloaded once), "shapes" (lies in `weights/` of a clone).
            by_name: False: every layer with weights must be in the file. True: layers that aren't are left as they
                are. At least one must match in any case, with the same shapes.
            exclude: list of layer names to leave alone, e.g. the heads for another number of classes; implies
                `by_name`. Names that no layer has are ignored.

        Returns:
            weights.LoadReport: what was loaded and what was not; `print` it.

        Raises:
            FileNotFoundError, ValueError: the model is then unchanged.
        """
        filepath = weights.find_pretrained(filepath)
        report = weights.load_weights_by_name(
            self, filepath, exclude=exclude or (), require_all=not by_name and not exclude, **kwargs
        )
        self.set_log_dir(filepath)
        return report

    @_eagerly
    def save_weights(self, filepath, *args, **kwargs):
        """Writes Keras's layout to `*.weights.h5`, matterport's to any other `*.h5`."""
        if str(filepath).endswith(".h5") and not str(filepath).endswith(".weights.h5"):
            weights.save_matterport_h5(self, filepath)
        else:
            super().save_weights(filepath, *args, **kwargs)

    def find_last(self):
        """Path of the newest checkpoint of this `NAME` below `model_dir`; its `[1]` is the path too (matterport 2.0).

        Raises:
            FileNotFoundError: there is none; says what was looked for.
        """
        return weights.CheckpointPath(weights.find_last(self.model_dir, self.config.NAME))

    def get_imagenet_weights(self):
        """Path of ResNet-50's ImageNet weights (no top), downloaded on first use."""
        return weights.pretrained("imagenet")

    def set_log_dir(self, model_path=None):
        """Sets `log_dir`, `epoch` and `checkpoint_path`: of the run that `model_path` belongs to, or of a new one."""
        name = str(self.config.NAME).lower()
        found = weights.parse_checkpoint(model_path, name) if model_path else None
        if found:
            self.log_dir, self.epoch = found
            print(f"Re-starting from epoch {self.epoch}")
        else:
            self.log_dir, self.epoch = weights.run_folder(self.model_dir, name, datetime.datetime.now()), 0
        self.checkpoint_path = f"{self.log_dir}/{weights.checkpoint_name(name)}"

    def get_config(self):
        return {
            "mode": self.mode, "config": self.config.to_json(), "model_dir": self.model_dir, "name": self.name,
            "frozen_layers": training.frozen_layers(self),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config, "config": Config.from_json(config["config"])}
        frozen_layers = config.pop("frozen_layers")
        model = cls(**config)
        training.freeze(model, frozen_layers)
        return model

    # ---- Looking inside --------------------------------------------------------------------------------------------
    @_eagerly
    def run_graph(self, images, outputs, image_metas=None):
        """Runs parts of the network on photos: `{name: array}` for each `(name, tensor)` of `outputs`.

        Args:
            images: list of photos; with `image_metas`, molded images.
            outputs: list of (name, symbolic tensor), e.g. `get_layer("ROI").output` or what `ancestor` gives.
            image_metas: [B, 12 + C], optional.
        """
        outputs = dict(outputs)
        missing = [name for name, tensor in outputs.items() if tensor is None]
        if missing:
            raise ValueError(
                f"run_graph got no tensor (None) for {', '.join(missing)}; see `mrcnn.inference.activations` for names."
            )
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        self._detector.image_shape = np.shape(images)[1:]
        inputs = {
            "input_image": np.asarray(images, np.float32),
            "input_image_meta": np.asarray(image_metas, np.float32),
        }
        found = activations.run(self, inputs, outputs)
        for name, array in found.items():
            log(name, array)
        return found

    @_eagerly
    def ancestor(self, tensor, name, checked=None):
        """The symbolic tensor `name` of this model, or None. `mrcnn.inference.activations` lists the names.

        `tensor` and `checked` are matterport's; a Keras 3 graph is searched by name alone.
        """
        return activations.find_tensor(self, re.sub(r"^/|/$", "", name))

    def find_trainable_layer(self, layer):
        """The layer inside a wrapper, or the layer itself."""
        return self.find_trainable_layer(layer.layer) if hasattr(layer, "layer") else layer

    def get_trainable_layers(self):
        """All layers with weights, unwrapped."""
        return [layer for layer in map(self.find_trainable_layer, self.layers) if layer.get_weights()]

    def _make_predict_function(self):
        """Nothing to do: Keras 3 makes it when needed. TF1 web servers called this before they started threads."""


# `compute_loss` has an argument `training` (Keras's name), which hides the module.
_losses, _weighted_sum, _weight_decay = training.compute_losses, training.weighted_sum, training.weight_decay


# ---- Small functions that users import from here -----------------------------------------------------------------
def log(text, array=None):
    """Prints a text and, if an array is given, its shape, range and type."""
    if array is not None:
        low, high = (array.min(), array.max()) if array.size else ("", "")
        span = f"min: {low:10.5f}  max: {high:10.5f}" if array.size else "min: -  max: -"
        text = f"{text:25}  shape: {array.shape!s:20}  {span}  {array.dtype}"
    print(text)


def compute_backbone_shapes(config, image_shape):
    """[5, (height, width)] of P2..P6 for an image of `image_shape`."""
    if callable(config.BACKBONE) and config.COMPUTE_BACKBONE_SHAPE is not None:
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return backbone_shapes(image_shape, config.BACKBONE_STRIDES)


def batch_pack_graph(x, counts, num_rows):
    """Joins the first `counts[i]` rows of each `x[i]`, i < num_rows: [B, N, ...] -> [sum(counts), ...]."""
    return keras.ops.concatenate([x[i, : counts[i]] for i in range(num_rows)], axis=0)
