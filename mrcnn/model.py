"""`MaskRCNN`, the model, and the import path of matterport's names.

`mrcnn.graph` is the map of the network; `mrcnn.inference` and `mrcnn.training` hold what `detect` and `train` do.
Boxes are (y1, x1, y2, x2): for users in pixels, y2 and x2 exclusive; in the network normalized to the padded image.
"""

from __future__ import annotations

import datetime
import os
from collections import deque
from functools import partial

import keras
import numpy as np

from mrcnn import evaluation, native, processor, training, weights
from mrcnn.compat import methods as scripts
from mrcnn.compat.functions import log
from mrcnn.compat.methods import eagerly, or_torch_train
from mrcnn.compat.model_names import *  # noqa: F403  what scripts import from here
from mrcnn.compat.script_names import lazy_attribute, lazy_names
from mrcnn.compat.tf1 import teach_tf_identity
from mrcnn.config import Config
from mrcnn.config_checks import warn_of_contradictions
from mrcnn.data.class_names import check_same_classes
from mrcnn.distribution import find_devices
from mrcnn.graph import build_stages, detection_graph, detector_graph, set_thresholds, training_graph, training_inputs
from mrcnn.inference import activations, molding, tiled_detection
from mrcnn.inference.detector import Detector
from mrcnn.inference.results import Detections
from mrcnn.keras_private import forget_compiled_steps, let_checkpoints_end_in_h5, unwrap_build
from mrcnn.nn.backbones import adds_mean_pixel
from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS
from mrcnn.nn.precision import computing_in, log_processor, warn_if_slow
from mrcnn.ops.boxes import norm_boxes
from mrcnn.settings import DETECT, DETECT_AND_TRAIN, FOLLOWED_BY_DETECT, GRAPH, LOSS, TRAINING_GRAPH, FixedSettings
from mrcnn.training.run import train as run_training
from mrcnn.weights.metadata import config_of


@keras.saving.register_keras_serializable(package="mrcnn")
class MaskRCNN(scripts.ScriptModel, native.NativeModel):
    """Mask R-CNN with matterport's methods, as a Keras model: `compile`, `fit`, `save` and callbacks work as usual.

    Args:
        mode: "training" or "inference". Both have the same weights, and a model built for training also detects;
            the mode says which graph `model(...)`, `fit` and `predict` run.
        config: `Config`. docs/settings.md says when a changed setting takes effect after the model is built.
            None: the settings stored in the file that `weights` names, e.g. "shapes" or a checkpoint.
        model_dir: Parent of the run folders. Each training creates one:
            `<name>YYYYmmddTHHMM/mask_rcnn_<name>_0001.h5`.
        strategy: `tf.distribute.Strategy`, or `keras.distribution.DataParallel` on JAX: the devices that share each
            batch. None: up to `GPU_COUNT` of the machine's devices (see `mrcnn.distribution`).
        weights: File or name to start from, loaded as by `load_weights(weights, by_name=True)`. None: new weights.

    Attributes:
        keras_model: the model itself, under matterport's name.
        class_names: list of str, "BG" first, or None while unknown; set by `train`, saved with the weights.
        epoch: int, epochs trained so far; from the checkpoint's name after `load_weights`.
        log_dir, checkpoint_path: of the current run.
        anchors: [A, (y1, x1, y2, x2)] in pixels, for the last molded image.

    Raises:
        ValueError: The mode is unknown, or a setting is invalid.

    Example:

        model = MaskRCNN(mode="inference", weights="shapes")
        found = model.detect([image])[0]
        found.rois, found.names, found.scores, found.masks  # or found["rois"], as with matterport's code

    Reference: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017.
    """

    @eagerly
    def __init__(self, mode, config=None, model_dir=".", strategy=None, weights=None, class_names=None, **kwargs):
        scripts.check_mode(mode)
        config = config_of(weights) if config is None else config
        config.validate()
        warn_of_contradictions(config, stacklevel=4)
        teach_tf_identity()
        let_checkpoints_end_in_h5()
        warn_if_slow(config.COMPUTE_DTYPE, processor.cpu_flags())
        log_processor()
        devices = find_devices(config, strategy)
        with devices.scope(), computing_in(config.COMPUTE_DTYPE):
            if scripts.overridden(self, MaskRCNN, "build"):
                stages, (inputs, outputs) = None, scripts.graph_of_own_build(self, mode, config)
            else:
                stages = build_stages(config)
                graph = training_graph if mode == "training" else detection_graph
                inputs, outputs = graph(stages, config)
            super().__init__(inputs=inputs, outputs=outputs, **{"name": "mask_rcnn", **kwargs})
            means = training.loss_means() if mode == "training" else []
            self.training_inputs = training_inputs(config) if mode == "training" else None
        unwrap_build(self)
        self.mode, self.config, self.model_dir = mode, config, str(model_dir)
        self.devices = devices
        self.process_id = os.getpid()
        self.stages = stages
        self.input_spec = None  # `model(photos)` takes images, which aren't inputs of the graph
        detecting = partial(detector_graph, stages) if stages else partial(scripts.detector_of_own_build, self)
        self._detector = Detector(detecting, devices, config.IMAGE_SHAPE)
        of_mode = TRAINING_GRAPH if mode == "training" else DETECT
        in_graph = ["MEAN_PIXEL"] if adds_mean_pixel(config.BACKBONE) else []  # part of its preprocessing layers
        self._built_with = FixedSettings(config, GRAPH, DETECT_AND_TRAIN, of_mode, also=in_graph)
        self._loss_settings, self._loss_means = FixedSettings(config, LOSS), means
        self.step_records = deque()
        self._class_names = class_names and tuple(class_names)
        if keras.backend.backend() == "tensorflow":
            self.jit_compile = False  # XLA has no NMS kernel, and its convolutions are slower on CPUs
        self.set_log_dir()
        if weights is not None:
            self.load_weights(weights, by_name=True)

    @property
    def class_names(self) -> list[str] | None:
        return self._class_names and list(self._class_names)

    @class_names.setter
    def class_names(self, names):
        self._class_names = names and tuple(names)

    def _follow_settings(self, method: str, follows=()) -> None:
        """Makes changes of `config` take effect, or refuses them."""
        scripts.refuse_in_fork(self)
        self.config.validate()
        self._built_with.refuse_changes(self.config, method, follows)
        set_thresholds(self, self.config, self.class_names)
        if self._loss_settings.changed(self.config):
            self._loss_settings = FixedSettings(self.config, LOSS)
            forget_compiled_steps(self)

    # ---- Training ----------------------------------------------------------------------------------------------------
    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Makes the layers trainable whose whole name matches the regular expression, and freezes the others."""
        training.set_trainable(keras_model or self, layer_regex, self.config.TRAIN_BN, verbose, indent)

    @or_torch_train
    @eagerly
    def train(self, train_dataset, val_dataset, learning_rate, epochs, layers, augmentation=None,
              custom_callbacks=None, no_augmentation_sources=None, *, optimizer=None, workers=1,
              use_multiprocessing=False, restart_schedule=False, save_every_steps=None, keep_checkpoints="all",
              best_metric="val_loss", recipe=None) -> keras.callbacks.History:  # fmt: skip
        """Trains until the model has done `epochs` epochs in total, and saves a checkpoint after each.

        Args:
            train_dataset, val_dataset: prepared `Dataset`s with the same classes; `val_dataset` may be None.
            learning_rate: float, or a Keras schedule.
            epochs: int, the total: a model that has done 20 does 10 more with `epochs=30`, and none with `epochs=20`.
            layers: "heads", "3+", "4+", "5+", "all", or a regular expression of layer names.
            augmentation: an imgaug augmenter, a callable `(image, masks) -> (image, masks)`, or a Keras layer.
            custom_callbacks: list of Keras callbacks. Values that they add to the logs are also written to losses.csv.
            no_augmentation_sources: list of source names whose images are not augmented.
            optimizer: Keras optimizer to use instead of SGD; `learning_rate` is then not read.
            workers: int, threads or processes that prepare batches.
            use_multiprocessing: bool, processes instead of threads.
            restart_schedule: bool. False: schedule, optimizer and callbacks continue where this run stopped.
            save_every_steps: int, also writes `last.train.h5` within an epoch. None: only after each epoch.
            keep_checkpoints: "all", an int (the last n), or "best": the one with the best `best_metric`, and the last.
            best_metric: a name in losses.csv, e.g. "val_loss", or "val_mask_ap" of `evaluation.EvaluateDataset`.
            recipe: "small-data" sets `Config.RECIPE`, and with it settings that still have their default values.

        Returns:
            `history` has `loss`, the sum that is minimized, its parts (five losses and `weight_decay`), and `val_...`.

        Raises:
            ValueError: The model was built for inference, a dataset has other classes, or `layers` matches nothing.
        """
        if recipe is not None:
            training.use_recipe(self.config, recipe, self._built_with)
        self._follow_settings("train")
        return run_training(
            self, train_dataset, val_dataset, learning_rate, epochs, layers, augmentation, custom_callbacks,
            no_augmentation_sources, optimizer=optimizer, workers=workers, use_multiprocessing=use_multiprocessing,
            restart_schedule=restart_schedule, save_every_steps=save_every_steps, keep_checkpoints=keep_checkpoints,
            best_metric=best_metric,
        )  # fmt: skip

    # ---- Detection ---------------------------------------------------------------------------------------------------
    @eagerly
    def detect(self, images, verbose=0) -> list[Detections]:
        """Finds objects in images.

        Args:
            images: list (or array) of [H0, W0, 3] RGB images of any sizes or paths, or one path. Image files are
                rotated by their EXIF orientation. `Config.IMAGE_RANGE` maps 16-bit and float images to 0..255.
            verbose: 1 prints the inputs.

        Returns:
            `Detections` of each image, a dict with attributes: `rois` [n, (y1, x1, y2, x2)] int32 pixels,
            `class_ids` [n] int32, `scores` [n] float32, best first, `masks` [H0, W0, n] bool.
        """
        if scripts.overridden(self, MaskRCNN, "build", "mold_inputs", "unmold_detections", "get_anchors"):
            return scripts.detect_by_methods(self, images)
        self._follow_settings("detect", self.followed_by_detect)
        return self._detector.detect(images, self.config, log if verbose else None, self.class_names)

    def detect_tiled(self, image, tile=None, overlap=None, merge="mask", *, flips=None, scales=(1.0,), level=0,
                     progress=True) -> Detections:  # fmt: skip
        """Finds objects in an image of any size, tile by tile; objects that a seam cuts come out whole.

        Args:
            image: path of a TIFF, GeoTIFF, Zarr folder or other image file, an array [H0, W0, 3], or what is sliced
                like one (a memory map, `zarr.Array`). TIFF and Zarr are never decoded as a whole.
            tile: side of a tile, pixels; `detect` resizes it for the network like a photo. None: IMAGE_MAX_DIM.
            overlap: pixels that neighbors share, at least; best as long as most objects. None: a fifth of a tile.
            merge: "mask" joins pieces whose masks agree where tiles overlap; "none" returns the pieces.
            flips: "horizontal", "vertical" or "both": detects on mirrored tiles as well, and joins what they show.
            scales: magnifications to detect in, e.g. (1, 2): also on tiles half as long, enlarged.
            level: of a pyramid, 0 is the largest. Results are in pixels of this level.
            progress: whether to show tiles done and time left, if stderr is a terminal.

        Returns:
            `Detections` with masks as run lengths; `transform` and `crs` are those of a GeoTIFF.
        """
        options = {"tile": tile, "overlap": overlap, "merge": merge, "level": level, "progress": progress}
        views = {"flips": flips, "scales": scales}
        return tiled_detection.detect_tiled(
            self.detect, image, config=self.config, class_names=self.class_names, **options, **views
        )

    def detect_augmented(self, images, flips="horizontal", scales=(1.0,)) -> list[Detections]:
        """`detect` with test-time augmentation: joins what is found in mirrored and in scaled images.

        Args:
            images: as for `detect`.
            flips, scales: as for `detect_tiled`. In a magnification above 1, the image is cut into tiles.
        """
        photos, names = molding.list_photos(images), self.class_names
        return tiled_detection.detect_augmented(
            self.detect, photos, config=self.config, class_names=names, flips=flips, scales=scales
        )

    @eagerly
    def detect_molded(self, molded_images, image_metas, verbose=0) -> list[Detections]:
        """`detect` for molded images [B, H, W, channels] and their metas [B, 12 + C], as `mold_inputs` returns them."""
        self._follow_settings("detect_molded", self.followed_by_detect)
        arrays = molded_images, image_metas, self.config
        return self._detector.detect_molded(*arrays, log if verbose else None, self.class_names)

    @eagerly
    def evaluate_dataset(self, dataset, image_ids=None, **options) -> evaluation.Report:
        """Runs detection on a prepared `Dataset` and computes COCO's metrics and more.

        Args:
            dataset: prepared `Dataset` with `load_mask` and the classes of this model.
            image_ids: numbers of the images to use; None: all.
            **options: of `evaluation.evaluate_dataset`.

        Returns:
            A report with `mask_ap`, `mask_ap50`, `box_ap`...; `print` it, `plot()` it, `report("out.html")`.
        """
        check_same_classes(self.class_names, dataset, "the dataset")
        return evaluation.evaluate_dataset(self, dataset, image_ids, **options)

    @property
    def followed_by_detect(self) -> tuple[str, ...]:
        """Settings whose change rebuilds the network of `detect`; none if a subclass overrides `build`."""
        return FOLLOWED_BY_DETECT if self.stages else ()

    def detector(self) -> keras.Model:
        """The network that `detect` runs (`graph.detector_graph`): this model's layers, with BatchNorm folded."""
        return self._detector.network(self.config, self.class_names)

    def mold_inputs(self, images):
        """Images -> molded images [B, H, W, channels], image_metas [B, 12 + C], windows [B, 4]."""
        molded, metas, windows = molding.mold_inputs(images, self.config)
        return np.stack(molded), metas, windows

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """The network's output for one image -> boxes [n, 4], class_ids [n], scores [n], masks [H0, W0, n]."""
        places = original_image_shape, image_shape, window
        return molding.unmold_detections(detections, mrcnn_mask, *places, self.config.convention)

    def get_anchors(self, image_shape) -> np.ndarray:
        """[A, 4] anchors normalized to an image of `image_shape`; sets `anchors`, the same in pixels."""
        self._detector.image_shape = tuple(int(n) for n in image_shape)
        return norm_boxes(self.anchors, self._detector.image_shape[:2], self.config.convention.box_offset)

    @property
    def anchors(self) -> np.ndarray:
        return self._detector.anchors(self.config)

    @eagerly
    def run_graph(self, images, outputs, image_metas=None) -> dict:
        """Runs parts of the network on images: `{name: array}` for each `(name, tensor)` of `outputs`.

        Args:
            images: list of images; with `image_metas`, molded images.
            outputs: list of (name, symbolic tensor), e.g. `get_layer("ROI").output` or what `ancestor` returns.
            image_metas: [B, 12 + C], optional.
        """
        self._follow_settings("run_graph")
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        self._detector.image_shape = np.shape(images)[1:]
        arrays = {"input_image": images, "input_image_meta": image_metas}
        inputs = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        found = activations.run(self, inputs, dict(outputs))
        for name, array in found.items():
            log(name, array)
        return found

    # ---- Weights -----------------------------------------------------------------------------------------------------
    from_preset = classmethod(weights.from_preset)
    save_to_preset = eagerly(weights.save_to_preset)

    @eagerly
    def load_weights(self, filepath, by_name=False, exclude=None, **kwargs) -> weights.LoadReport:
        """Loads weights by layer name: matterport's `.h5`, Keras's, or those of torchvision or detectron2.

        Args:
            filepath: the file. If it is a checkpoint of a run, training continues in that run's folder and epoch. Or
                a word of docs/weights.md: "coco", "torchvision_v2" (downloaded once), "shapes" (shipped), "imagenet"
                (of this backbone; loaded as with `by_name`).
            by_name: False: every layer with weights must be in the file. True: layers that are not in it keep their
                weights. At least one must match, and shapes must agree.
            exclude: list of layer names to leave alone, e.g. the heads for another number of classes; implies
                `by_name`. Names that no layer has are ignored.
            **kwargs: `skip_mismatch=True` leaves layers alone whose shapes differ, as in Keras.

        Returns:
            A report of what was loaded and what was not; `print` it, or write all arrays with `to_csv(path)`.

        Raises:
            FileNotFoundError, ValueError: the model is then unchanged.
        """
        if filepath == "imagenet" and not os.path.exists(filepath):
            filepath, by_name = weights.imagenet_weights(self.config), True
        filepath = weights.find_pretrained(filepath)
        report = weights.load_weights_by_name(
            self, filepath, exclude=exclude or (), require_all=not by_name and not exclude, **kwargs
        )
        if not set(CLASS_DEPENDENT_LAYERS).isdisjoint(report.loaded):
            self.class_names = weights.read_class_names(filepath) or self.class_names
        self.set_log_dir(filepath)
        return report

    @eagerly
    def save_weights(self, filepath, *args, layout=None, **kwargs):
        """Writes Keras's layout to `*.weights.h5`, and matterport's to any other `*.h5`.

        `layout="torchvision"` or "detectron2" writes a `.pth` file that these load, if `CONVENTION` is the same.
        """
        if layout is not None:
            weights.save_checkpoint(self, filepath, layout)
        elif str(filepath).endswith(".h5") and not str(filepath).endswith(".weights.h5"):
            weights.save_matterport_h5(self, filepath)
        else:
            super().save_weights(filepath, *args, **kwargs)

    def find_last(self) -> str:
        """Path of the newest checkpoint of this `NAME` in `model_dir`; its `[1]` is the path too (matterport 2.0).

        Raises:
            FileNotFoundError: there is none.
        """
        return weights.CheckpointPath(weights.find_last(self.model_dir, self.config.NAME))

    def get_imagenet_weights(self) -> str:
        """Path of this backbone's ImageNet weights: of ResNet-50 (downloaded once), or of an installed package."""
        return weights.imagenet_weights(self.config)

    def set_log_dir(self, model_path=None) -> None:
        """Sets `log_dir`, `epoch` and `checkpoint_path`: of the run that `model_path` belongs to, or of a new one."""
        name = str(self.config.NAME).lower()
        found = weights.parse_checkpoint(model_path, name) if model_path else None
        if found:
            self.log_dir, self.epoch = found
            print(f"Re-starting from epoch {self.epoch}")
        else:
            self.log_dir, self.epoch = weights.run_folder(self.model_dir, name, datetime.datetime.now()), 0
        self.checkpoint_path = f"{self.log_dir}/{weights.checkpoint_name(name)}"

    def get_config(self) -> dict:
        return {
            "mode": self.mode, "config": self.config.to_json(), "model_dir": self.model_dir, "name": self.name,
            "class_names": self.class_names, "frozen_layers": training.frozen_layers(self),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config, custom_objects=None) -> MaskRCNN:
        config = {**config, "config": Config.from_json(config["config"])}
        frozen_layers = config.pop("frozen_layers")
        model = cls(**config)
        training.freeze(model, frozen_layers)
        return model


def __getattr__(name: str):
    return lazy_attribute(name)


__all__ = [*(name for name in globals() if not name.startswith("_")), *lazy_names()]  # for star imports
