"""`MaskRCNN`, the model, and the import path of matterport's names.

`mrcnn.graph` builds the network, stage by stage; `mrcnn.inference` and `mrcnn.training` do the work of `detect` and
`train`. The base classes of `MaskRCNN` have Keras's methods (`mrcnn.native`), those for large images
(`mrcnn.inference.tiled_detection`), and those that only old scripts call (`mrcnn.compat.methods`).
Boxes are (y1, x1, y2, x2): for users in pixels, y2 and x2 exclusive; in the network normalized to the padded image.
"""

from __future__ import annotations

from mrcnn import quick_keras as _quick_keras  # before Keras

# isort: split
import datetime
import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import keras

from mrcnn import native, processor, training, weights
from mrcnn.compat import methods as scripts
from mrcnn.compat.functions import log
from mrcnn.compat.methods import eagerly, or_torch_train
from mrcnn.compat.model_names import *  # noqa: F403  what scripts import from here
from mrcnn.compat.script_names import lazy_attribute, lazy_names
from mrcnn.compat.tf1 import teach_tf_identity
from mrcnn.config import Config
from mrcnn.config_checks import warn_of_contradictions
from mrcnn.distribution import find_devices
from mrcnn.graph import build_stages, detection_graph, detector_graph, set_thresholds, training_graph, training_inputs
from mrcnn.inference.detector import Detector
from mrcnn.inference.results import Detections
from mrcnn.inference.tiled_detection import TiledModel
from mrcnn.keras_private import forget_compiled_steps, let_checkpoints_end_in_h5, unwrap_build
from mrcnn.nn.backbones import adds_mean_pixel
from mrcnn.nn.heads import CLASS_DEPENDENT_LAYERS
from mrcnn.nn.precision import computing_in, log_processor, warn_if_slow
from mrcnn.settings import DETECT, DETECT_AND_TRAIN, FOLLOWED_BY_DETECT, GRAPH, LOSS, TRAINING_GRAPH, FixedSettings
from mrcnn.training.run import train as run_training
from mrcnn.weights.metadata import config_of

if TYPE_CHECKING:  # not at run time: star imports would replace names of scripts, such as Keras's `Sequence`
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from keras.optimizers.schedules import LearningRateSchedule

    from mrcnn.data.dataset import Dataset
    from mrcnn.ops.types import Images


@keras.saving.register_keras_serializable(package="mrcnn")
class MaskRCNN(scripts.ScriptModel, native.NativeModel, TiledModel):
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
        class_names: Names by class id, "BG" first. None: those in the weight file, or of the training set.

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
    def __init__(
        self,
        mode: str,
        config: Config | None = None,
        model_dir: str | Path = ".",
        strategy: Any = None,
        weights: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
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
    def class_names(self, names: Sequence[str] | None) -> None:
        self._class_names = names and tuple(names)

    def _follow_settings(self, method: str, follows: Sequence[str] = ()) -> None:
        """Makes changes of `config` take effect, or refuses them."""
        scripts.refuse_in_fork(self)
        self.config.validate()
        self._built_with.refuse_changes(self.config, method, follows)
        set_thresholds(self, self.config, self.class_names)
        if self._loss_settings.changed(self.config):
            self._loss_settings = FixedSettings(self.config, LOSS)
            forget_compiled_steps(self)

    # ---- Training ----------------------------------------------------------------------------------------------------
    def set_trainable(
        self, layer_regex: str, keras_model: keras.Model | None = None, indent: int = 0, verbose: int = 1
    ) -> None:
        """Makes the layers trainable whose whole name matches the regular expression, and freezes the others."""
        training.set_trainable(keras_model or self, layer_regex, self.config.TRAIN_BN, verbose, indent)

    @or_torch_train
    @eagerly
    def train(self, train_dataset: Dataset, val_dataset: Dataset | None, learning_rate: float | LearningRateSchedule,
              epochs: int, layers: str, augmentation: Any = None,
              custom_callbacks: Sequence[keras.callbacks.Callback] | None = None,
              no_augmentation_sources: Sequence[str] | None = None, *,
              optimizer: keras.optimizers.Optimizer | None = None, workers: int = 1, use_multiprocessing: bool = False,
              restart_schedule: bool = False, save_every_steps: int | None = None,
              keep_checkpoints: int | str = "all", best_metric: str = "val_loss",
              recipe: str | None = None) -> keras.callbacks.History:  # fmt: skip
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
    def detect(self, images: Images, verbose: int = 0) -> list[Detections]:
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

    @property
    def followed_by_detect(self) -> tuple[str, ...]:
        """Settings whose change rebuilds the network of `detect`; none if a subclass overrides `build`."""
        return FOLLOWED_BY_DETECT if self.stages else ()

    def detector(self) -> keras.Model:
        """The network that `detect` runs (`graph.detector_graph`): this model's layers, with BatchNorm folded."""
        return self._detector.network(self.config, self.class_names)

    # ---- Weights -----------------------------------------------------------------------------------------------------
    from_preset = classmethod(weights.from_preset)
    save_to_preset = eagerly(weights.save_to_preset)

    @eagerly
    def load_weights(self, filepath: str | Path, by_name: bool = False, exclude: Sequence[str] | None = None, *,
                     skip_mismatch: bool = False) -> weights.LoadReport:  # fmt: skip
        """Loads weights by layer name: matterport's `.h5`, Keras's, or those of torchvision or detectron2.

        Args:
            filepath: the file. If it is a checkpoint of a run, training continues in that run's folder and epoch. Or
                a name of docs/weights.md: "coco", "torchvision_v2" (downloaded once), "shapes" (shipped), "imagenet"
                (of this backbone; loaded as with `by_name`).
            by_name: False: every layer with weights must be in the file. True: layers that are not in it keep their
                weights. At least one must match, and shapes must agree.
            exclude: list of layer names to leave alone, e.g. the heads for another number of classes; implies
                `by_name`. Names that no layer has are ignored.
            skip_mismatch: True leaves layers alone whose shapes differ, as in Keras.

        Returns:
            A report of what was loaded and what was not; `print` it, or write all arrays with `to_csv(path)`.

        Raises:
            FileNotFoundError, ValueError: the model is then unchanged. Several processes must read equal files.
        """
        if filepath == "imagenet" and not os.path.exists(filepath):
            filepath, by_name = weights.imagenet_weights(self.config), True
        filepath = weights.find_pretrained(filepath)
        self.devices.check_same_file(filepath)
        report = weights.load_weights_by_name(
            self, filepath, exclude=exclude or (), require_all=not by_name and not exclude, skip_mismatch=skip_mismatch
        )
        if not set(CLASS_DEPENDENT_LAYERS).isdisjoint(report.loaded):
            self.class_names = weights.read_class_names(filepath) or self.class_names
        self.set_log_dir(filepath)
        return report

    @eagerly
    def save_weights(
        self, filepath: str | Path, overwrite: bool = True, max_shard_size: float | None = None, *,
        layout: str | None = None,
    ) -> None:  # fmt: skip
        """Writes Keras's layout to `*.weights.h5`, and matterport's to any other `*.h5`.

        `layout="torchvision"` or "detectron2" writes a `.pth` file that these load, if `CONVENTION` is the same.
        """
        if layout is not None:
            weights.save_checkpoint(self, filepath, layout)
        elif str(filepath).endswith(".h5") and not str(filepath).endswith(".weights.h5"):
            weights.save_matterport_h5(self, filepath)
        else:
            super().save_weights(filepath, overwrite, max_shard_size)

    def find_last(self) -> str:
        """Path of the newest checkpoint of this `NAME` in `model_dir`; its `[1]` is the path too (matterport 2.0).

        Raises:
            FileNotFoundError: there is none.
        """
        return weights.CheckpointPath(weights.find_last(self.model_dir, self.config.NAME))

    def set_log_dir(self, model_path: str | Path | None = None) -> None:
        """Sets `log_dir`, `epoch` and `checkpoint_path`: of the run that `model_path` belongs to, or of a new one."""
        name = str(self.config.NAME).lower()
        found = weights.parse_checkpoint(model_path, name) if model_path else None
        if found:
            self.log_dir, self.epoch = found
            print(f"Re-starting from epoch {self.epoch}")
        else:
            self.log_dir, self.epoch = weights.run_folder(self.model_dir, name, datetime.datetime.now()), 0
        self.checkpoint_path = f"{self.log_dir}/{weights.checkpoint_name(name)}"


def __getattr__(name: str):
    return lazy_attribute(name)


__all__ = [*(name for name in globals() if not name.startswith("_")), *lazy_names()]  # for star imports
