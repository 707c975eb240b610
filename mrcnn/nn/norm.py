"""Batch normalization that can be pinned to one mode, and a wrapper that applies a layer to every RoI.

Shapes: B images, N RoIs.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import ops

from mrcnn.config_checks import NORM_GROUPS
from mrcnn.ops import replicas
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` whose mode can be pinned when the graph is built.

    Batches of a detector are small, so matterport freezes BatchNorm by default (`Config.TRAIN_BN = False`). Batch
    statistics are computed over the whole batch, even if several devices share it.

    Args:
        *args: As for `keras.layers.BatchNormalization`.
        train_bn: None uses batch statistics in training and running ones otherwise, as usual in Keras. False always
            uses running statistics and also freezes gamma and beta (matterport left these trainable, #2780). True
            always uses batch statistics.
        **kwargs: As for `keras.layers.BatchNormalization`.

    `BatchNorm(name="bn")(x, training=False)` pins the mode as well; in a Keras 3 graph `fit` would otherwise override
    `training=False`.

    Example:

    >>> layer = BatchNorm(train_bn=False)
    >>> float(layer(keras.ops.full((2, 1), 5.0), training=True)[0, 0]) > 4.9  # running mean 0, running variance 1
    True
    """

    def __init__(self, *args: Any, train_bn: bool | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.train_bn = train_bn
        if train_bn is False:
            self.trainable = False

    def __call__(self, inputs: Tensor, *args: Any, training: bool | None = None, **kwargs: Any) -> Tensor:
        if training is not None and isinstance(inputs, keras.KerasTensor):
            self.train_bn = training
            self.trainable = self.trainable and training is not False
        return super().__call__(inputs, *args, training=training, **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        training = training if self.train_bn is None else self.train_bn
        self.synchronized = replicas.count() > 1
        return super().call(inputs, training=training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_bn": self.train_bn, "synchronized": False}  # set at each call


def norm_layer(norm: str, epsilon: float, train_bn: bool | None, name: str | None = None) -> keras.layers.Layer:
    """The normalization after a convolution.

    Args:
        norm: "batch", or "group" (Wu and He, "Group Normalization", with 32 groups), which doesn't depend on the batch.
        epsilon: Added to the variance.
        train_bn: `Config.TRAIN_BN`, for "batch".
        name: Name of the layer.
    """
    if norm == "group":
        return keras.layers.GroupNormalization(NORM_GROUPS, epsilon=epsilon, name=name)
    return BatchNorm(train_bn=train_bn, epsilon=epsilon, name=name)


@keras.saving.register_keras_serializable(package="mrcnn")
class TimeDistributed(keras.layers.Wrapper):
    """Applies one layer to every RoI: [B, N, ...] -> [B, N, ...].

    The RoIs are folded into the batch, so the layer runs once on B * N inputs (`keras.layers.TimeDistributed` loops
    over N). The wrapper has the name used in weight files, e.g. `mrcnn_class_conv1`, and the dtype of the layer.

    Args:
        layer: The layer to apply; takes [B * N, ...].

    Example:

    >>> tuple(TimeDistributed(keras.layers.Dense(5))(keras.ops.ones((2, 3, 4))).shape)
    (2, 3, 5)
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        self._takes_training = "training" in inspect.signature(layer.call).parameters

    def build(self, input_shape: Any) -> None:
        super().build((None, *input_shape[2:]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        inner = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *inner[1:])

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        shape = ops.shape(inputs)
        x = ops.reshape(inputs, (-1, *shape[2:]))  # [B * N, ...]
        x = self.layer(x, training=training) if self._takes_training else self.layer(x)
        return ops.reshape(x, (-1, shape[1], *ops.shape(x)[1:]))  # [B, N, ...]
