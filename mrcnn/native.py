"""`NativeModel`: what `MaskRCNN` does as a Keras model: `compile`, `fit`, `evaluate`, `predict`."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import keras

from mrcnn import training
from mrcnn.compat import methods as scripts
from mrcnn.compat.methods import eagerly, follows_settings
from mrcnn.export import export_model
from mrcnn.keras_private import symbolic_build
from mrcnn.training.losses_by_name import total_loss


class NativeModel(keras.Model):
    """Keras's methods of `MaskRCNN`."""

    @eagerly
    def compile(self, optimizer=None, loss=None, loss_weights=None, *args, learning_rate=None, momentum=None, **kwargs):
        """Keras's `compile(optimizer, ...)`, or matterport's `compile(learning_rate, momentum)`.

        Args:
            optimizer: Keras optimizer or its name; None: SGD with momentum and clipping, from the Config.
            loss, loss_weights: not accepted, as the model has its own losses; weigh them with `LOSS_WEIGHTS`. Lists
                of None, as in copies of matterport's `compile`, mean "none".
            learning_rate, momentum: of the default optimizer; None: those of the Config.
            *args, **kwargs: of `keras.Model.compile`.
        """
        if training.is_learning_rate(optimizer):
            learning_rate, momentum, optimizer, loss = optimizer, loss if momentum is None else momentum, None, None
        training.refuse_losses(loss=loss, loss_weights=loss_weights)
        if keras.backend.backend() == "tensorflow":
            kwargs.setdefault("jit_compile", False)
        with self.devices.scope():
            if optimizer is None:
                optimizer = training.default_optimizer(self.config, learning_rate, momentum)
            super().compile(self.devices.adopt(keras.optimizers.get(optimizer)), None, None, *args, **kwargs)
            self.devices.add_before_clipping(self.optimizer)

    @follows_settings
    @wraps(keras.Model.fit)
    def fit(self, x=None, *args, **kwargs):
        x = training.fit_arguments(x, kwargs, self.devices)
        self.build_optimizer()  # TensorFlow traces a step twice if the first trace creates variables
        with self.devices.scope():
            return super().fit(x, *args, **kwargs)

    @follows_settings
    @wraps(keras.Model.evaluate)
    def evaluate(self, x=None, *args, **kwargs):
        x = training.evaluate_arguments(x, kwargs, self.devices)
        with self.devices.scope():
            return super().evaluate(x, *args, **kwargs)

    @follows_settings
    @wraps(keras.Model.predict)
    def predict(self, x, *args, **kwargs):
        return super().predict(scripts.without_anchors(self, x), *args, **kwargs)

    predict_on_batch = follows_settings(keras.Model.predict_on_batch)
    train_on_batch = follows_settings(keras.Model.train_on_batch)
    test_on_batch = follows_settings(keras.Model.test_on_batch)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizer()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the five losses, plus weight decay. Called by `fit` and `evaluate`."""
        return total_loss(self, x, y_pred, self._loss_means, sample_weight)

    def build_optimizer(self) -> None:
        """Creates the optimizer's variables, if the model is compiled and they don't exist yet."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.devices.scope():
                self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        symbolic_build(self)

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
