"""`NativeModel`: `MaskRCNN` as a Keras model: `compile`, `fit`, `evaluate`, `predict`, `export`, `model(photos)`.

Keras's methods take two kinds of data:

    photos     an array [B, H, W, channels] or a list of photos; for training (photos, {"boxes", "labels", "masks"})
    molded     matterport's inputs by position or name, as from `DataGenerator`: molded images, metas, RPN targets...

Photos given as arrays are resized and padded in NumPy, exactly as by `detect`, so `predict(photos)`,
`model(photos)` and `detect(photos)` give the same numbers. Training, and a symbolic `model(photos)` (in `tf.function`,
`jax.jit` or a functional model), are graphs from the first layer on: `nn.native_inputs` subtracts the mean and chooses
the RPN's targets on the device. They don't resize, and refuse images that don't have the network's input size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from mrcnn import evaluation, training
from mrcnn.compat import methods as scripts
from mrcnn.compat.methods import eagerly, follows_settings
from mrcnn.config import Config
from mrcnn.data.class_names import check_same_classes
from mrcnn.data.dataset import Dataset
from mrcnn.evaluation.evaluate import min_confidence
from mrcnn.evaluation.metric import MeanAveragePrecision
from mrcnn.export import export_model
from mrcnn.graph import photo_graph
from mrcnn.inference import photos
from mrcnn.keras_private import symbolic_build
from mrcnn.ops.kernels import is_symbolic, outside_of_traces
from mrcnn.ops.types import Tensor
from mrcnn.training.losses_by_name import total_loss

FROM_SAMPLE = ("input_image_meta", "input_rpn_match", "input_rpn_bbox")  # inputs that the losses need


def is_sample(x: Any) -> bool:
    """Whether x is a dict of images, boxes, labels and masks."""
    return isinstance(x, dict) and "images" in x


def as_sample(data: Any) -> Any:
    """Moves the ground truth of `(images, {"boxes", "labels", "masks"})` to the inputs: the heads train on it."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    return ({"images": x, **y}, None, weight) if isinstance(y, dict) and "boxes" in y else data


class NativeModel(keras.Model):
    """Keras's methods of `MaskRCNN`."""

    _measured = SimpleNamespace(metrics=[])  # of `compile`

    # ---- Calling -----------------------------------------------------------------------------------------------------
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Detects on photos (see `predict`); or runs the graph of the model's mode on molded inputs.

        Args:
            inputs: [B, H, W, channels] array or tensor, or a list of photos of any sizes. A symbolic tensor must have
                the size that the network sees. Other inputs: as for any Keras model.

        Returns:
            For photos, the dict of `predict`, of tensors.
        """
        if not photos.are_photos(inputs):
            return super().__call__(inputs, *args, **kwargs)
        if is_symbolic(inputs):
            return self._photo_network()(inputs)
        return {name: keras.ops.convert_to_tensor(x) for name, x in self.predict_on_batch(inputs).items()}

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        if is_sample(inputs):
            if self.mode != "training":
                raise ValueError('This model is for "inference"; training needs MaskRCNN(mode="training", ...).')
            inputs = self.training_inputs(inputs)
            outputs = super().call(inputs, training=training, **kwargs)
            return outputs | {name: inputs[name] for name in FROM_SAMPLE}
        if photos.are_photos(inputs):
            return self._photo_network()(inputs)
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def _photo_network(self) -> keras.Model:
        """The graph from photos to named detections; it shares the layers of `detector()`."""
        with outside_of_traces():  # what is built in a trace can't be used after it
            network = self.detector()
            holder = self.__dict__.setdefault("_photo_networks", SimpleNamespace(of=None, network=None))
            if holder.of is not network:  # hidden from Keras, which would track the layers twice
                holder.of, holder.network = network, keras.Model(*photo_graph(network, self.config), name="photos")
        return holder.network

    # ---- Training ----------------------------------------------------------------------------------------------------
    @eagerly
    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict | float | None = None,
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        *,
        learning_rate: float | None = None,
        momentum: float | None = None,
    ) -> None:
        """Keras's `compile(optimizer, ...)`, or matterport's `compile(learning_rate, momentum)`.

        Args:
            optimizer: Keras optimizer or its name; None: SGD with momentum and clipping, from the Config.
            loss, loss_weights: Not accepted, since the model has its own losses; weight them with `LOSS_WEIGHTS`.
                Lists of None, as in copies of matterport's `compile`, are ignored.
            metrics: `[MeanAveragePrecision()]` adds AP to `evaluate`.
            jit_compile: "auto": not on TensorFlow, where XLA has no NMS kernel.
            learning_rate, momentum: of the default optimizer; None: those of the Config.
            weighted_metrics, run_eagerly, steps_per_execution, auto_scale_loss: of `keras.Model.compile`.
        """
        if training.is_learning_rate(optimizer):
            learning_rate, momentum, optimizer, loss = optimizer, loss if momentum is None else momentum, None, None
        training.refuse_losses(loss=loss, loss_weights=loss_weights)
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = False
        given = list(metrics) if isinstance(metrics, (list, tuple)) else [] if metrics is None else [metrics]
        others = [m for m in given if not isinstance(m, MeanAveragePrecision)] or None
        # In a namespace: Keras would run a metric that is an attribute of the model inside the compiled step.
        self._measured = SimpleNamespace(metrics=[m for m in given if isinstance(m, MeanAveragePrecision)])
        with self.devices.scope():
            if optimizer is None:
                optimizer = training.default_optimizer(self.config, learning_rate, momentum)
            else:
                optimizer = keras.optimizers.get(optimizer)
                training.warn_of_unused_optimizer_settings(self.config, optimizer)
            super().compile(
                self.devices.adopt(optimizer), metrics=others, weighted_metrics=weighted_metrics,
                run_eagerly=run_eagerly, steps_per_execution=steps_per_execution, jit_compile=jit_compile,
                auto_scale_loss=auto_scale_loss,
            )  # fmt: skip
            self.devices.add_before_clipping(self.optimizer)

    def get_compile_config(self) -> dict | None:
        config = super().get_compile_config()
        if config and self._measured.metrics:
            metrics = [keras.saving.serialize_keras_object(metric) for metric in self._measured.metrics]
            config["metrics"] = [*(config.get("metrics") or []), *metrics]
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizer()

    @follows_settings
    def fit(
        self,
        x: Any = None,
        y: dict[str, Any] | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        **of_keras_2: Any,
    ) -> keras.callbacks.History:
        """Trains the layers that are trainable, as any Keras model; `train` is matterport's form.

        Args:
            x: Images [N, H, W, channels] in the size that the network sees, values 0..255; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches `(images, truth)`; or a `DataGenerator`.
            y: For an array x, the truth, a dict:
                `boxes` [N, G, (y1, x1, y2, x2)] pixels, y2 and x2 exclusive;
                `labels` [N, G], 1 to C - 1; 0 or -1 is padding;
                `masks` [N, H, W, G], not 0 where the object is, or mini masks (`ops.masks.minimize_mask`);
                `is_crowd` [N, G], optional, not 0 for regions of many objects.
            batch_size: For arrays; None: `Config.BATCH_SIZE`.
            shuffle: For arrays; a `DataGenerator` has its own order.
            class_weight, sample_weight: Not accepted; the error names the settings to use instead.
            **of_keras_2: `workers`, `use_multiprocessing` and `max_queue_size` are ignored with a warning.
            Others: Of `keras.Model.fit`.

        Raises:
            ValueError: The model was built for inference, or images or masks have the wrong size.
            training.NonFiniteLoss: The loss is NaN or infinite, and `Config.NON_FINITE_LOSS` says that training ends.
        """
        data = x, validation_data
        options: dict[str, Any] = {
            "batch_size": self._batch_size(x, batch_size), "epochs": epochs, "verbose": verbose,
            "callbacks": training.with_failed_steps(self, x, callbacks), "validation_split": validation_split,
            "validation_data": validation_data, "shuffle": shuffle, "class_weight": class_weight,
            "sample_weight": sample_weight, "initial_epoch": initial_epoch, "steps_per_epoch": steps_per_epoch,
            "validation_steps": validation_steps, "validation_batch_size": validation_batch_size,
            "validation_freq": validation_freq, **of_keras_2,
        }  # fmt: skip
        x = training.fit_arguments(x, options, self.devices)
        self.build_optimizer()  # TensorFlow traces a step twice if the first trace creates variables
        with self.devices.scope(), training.named_worker_errors(*data):
            return super().fit(x, y, **options)

    def _batch_size(self, x, batch_size: int | None) -> int | None:
        return self.config.BATCH_SIZE if batch_size is None and photos.are_photos(x) else batch_size

    def train_step(self, *args: Any) -> Any:
        *state, data = args  # on JAX, the state comes first
        return training.guarded_step(self, super().train_step, *state, as_sample(data))

    def make_train_function(self, force: bool = False) -> Callable:
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = training.keep_records(self.train_function, self.step_records)
        return self.train_function

    def test_step(self, *args: Any) -> Any:
        *state, data = args
        return super().test_step(*state, as_sample(data))

    @follows_settings
    @wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self.step_records.clear()
        return training.after_one_batch(self, super().train_on_batch(*args, **kwargs))

    test_on_batch = follows_settings(keras.Model.test_on_batch)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The weighted sum of the five losses, plus weight decay. Called by `fit` and `evaluate`."""
        return total_loss(self, y_pred if is_sample(x) else x, y_pred, self._loss_means, sample_weight)

    def build_optimizer(self) -> None:
        """Creates the optimizer's variables, if the model is compiled and they don't exist yet."""
        optimizer = getattr(self, "optimizer", None)  # there is none before `compile`
        if optimizer is not None and not optimizer.built:
            with self.devices.scope():
                optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        symbolic_build(self)

    # ---- Evaluating and predicting -----------------------------------------------------------------------------------
    @follows_settings
    def evaluate(
        self,
        x: Any = None,
        y: dict[str, Any] | None = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> list[float] | dict[str, float]:
        """Computes the losses, and AP if the model was compiled with `metrics=[MeanAveragePrecision()]`.

        Args: As for `fit` and `keras.Model.evaluate`. For AP, the data are read twice, and masks must cover the whole
            image (no mini masks).

        Returns:
            As of `keras.Model.evaluate`; AP comes last.
        """
        data, size = (x, y), self._batch_size(x, batch_size)
        options = {"verbose": verbose, "sample_weight": sample_weight, "steps": steps, "callbacks": callbacks, **kwargs}
        x = training.evaluate_arguments(x, options, self.devices)
        with self.devices.scope(), training.named_worker_errors(data[0]):
            logs = super().evaluate(x, y, size, return_dict=return_dict or bool(self._measured.metrics), **options)
        for metric in self._measured.metrics:
            metric.reset_state()
            with min_confidence(self, metric.min_score):
                for images, truth in photos.batches_with_truth(*data, size, steps):
                    found = self.predict_on_batch(images)
                    metric.update_state(truth, found, mask_paste=self.config.convention.mask_paste)
            logs |= metric.result()
        return list(logs.values()) if self._measured.metrics and not return_dict else logs

    @eagerly
    def evaluate_dataset(
        self, dataset: Dataset, image_ids: Sequence[int] | None = None, **options: Any
    ) -> evaluation.Report:
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

    @eagerly
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> dict[str, np.ndarray] | list[np.ndarray]:
        """Detects on photos; or runs the graph of the model's mode on molded inputs, as matterport's `predict`.

        Args:
            x: Photos of any sizes: [N, H, W, channels], or a list (also of paths); or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or other iterable of batches of photos, or of `(photos, truth)`. Or
                `[molded_images, image_metas]`.
            batch_size: For arrays and lists; None: `Config.BATCH_SIZE`.
            verbose, steps, callbacks: Of `keras.Model.predict`; photos take no callbacks.

        Returns:
            For photos a dict, the same numbers as of `detect`; D is `DETECTION_MAX_INSTANCES`:
                `boxes` [N, D, (y1, x1, y2, x2)] float32, pixels of the photo as given;
                `classes` [N, D] int32; `scores` [N, D] float32, best first;
                `masks` [N, D, 28, 28] float32, the probability of the object inside its box, for
                `ops.masks.paste_masks(masks[i][valid[i]], boxes[i][valid[i]].astype(int), shape)`;
                `valid` [N, D] bool: the rows that are detections; the others are 0.
        """
        batches, x = photos.batches_of_photos(x, batch_size or self.config.BATCH_SIZE, steps)
        if batches is None:
            self._follow_settings("predict")
            x = scripts.without_anchors(self, x)
            return super().predict(x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        if callbacks:
            raise ValueError("predict takes no callbacks for photos; call it for each batch instead.")
        bar = keras.utils.Progbar(steps, unit_name="batch", verbose=int(verbose in ("auto", 1, True)))
        found = []
        for batch in batches:
            found.append(self.predict_on_batch(batch))
            bar.update(len(found), finalize=False)
        bar.update(len(found), finalize=True)
        return photos.concatenate(found)

    @eagerly
    @wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x: Any) -> Any:
        if photos.are_photos(x):
            self._follow_settings("predict", self.followed_by_detect)
            return photos.detect_by_name(self._detector, x, self.config, self.class_names)
        self._follow_settings("predict_on_batch")
        return super().predict_on_batch(x)

    # ---- Saving ----------------------------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        return {
            "mode": self.mode, "config": self.config.to_json(), "model_dir": self.model_dir, "name": self.name,
            "class_names": self.class_names, "frozen_layers": training.frozen_layers(self),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> NativeModel:
        config = {**config, "config": Config.from_json(config["config"])}
        frozen_layers = config.pop("frozen_layers")
        model = cls(**config)
        training.freeze(model, frozen_layers)
        return model

    # ---- Exporting ---------------------------------------------------------------------------------------------------
    @follows_settings
    def export(
        self, filepath: str | Path, format: str = "tf_saved_model", verbose: bool | None = None, **options: Any
    ) -> dict[str, Any]:
        """Writes the detector for another runtime, if its results are those of this model (docs/deploy.md).

        Args:
            filepath: the file to write, or the folder for a SavedModel.
            format: "onnx", "litert", "tf_saved_model" or "openvino".
            verbose: whether to print what was written; None: yes.
            **options: of `mrcnn.export.export_model`: `images`, `dataset`, `image_size`, `batch_size`, `int8`.

        Returns:
            The largest errors, as in `parity.json` beside the file.

        Raises:
            ParityError: the results differ; nothing is written.
        """
        record = export_model(self, filepath, format, **options)
        if verbose is not False:
            errors = ", ".join(f"{name} {error:.1e}" for name, error in record["errors"].items())
            print(
                f"Saved {filepath}. Largest differences from Keras on {record['images']} images: {errors or 'see AP'}"
            )
        return record
