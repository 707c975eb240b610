"""The two heads of the second stage: class and box of each RoI, and its mask.

Shapes: B images, N RoIs, C classes (0 is background), F features of the class head. Comments show the default sizes:
pools of 7 x 7 and 14 x 14, masks of 28 x 28, 256 channels.

A head is an object that holds its layers, so it can be applied to sampled RoIs in training and to proposals or
detections in inference, with the same weights.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from mrcnn.nn.c4 import RoiStage5
from mrcnn.nn.convolution import Conv2D, Conv2DTranspose
from mrcnn.nn.norm import TimeDistributed, norm_layer
from mrcnn.nn.roi_align import PyramidROIAlign
from mrcnn.ops.convolution import keras_conv_bias, project
from mrcnn.ops.kept_kernels import KeptKernels, can_keep, has_avx512, in_convolution_order
from mrcnn.ops.types import Tensor

# The layers whose shapes depend on NUM_CLASSES. Pass them as `exclude` to load a file with another number of classes.
CLASS_DEPENDENT_LAYERS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")
HEAD_CHANNELS = 256  # of the convolutions in the class head


@keras.saving.register_keras_serializable(package="mrcnn", name="WholeConv2D")
class WholeConv2D(layers.Conv2D):
    """A convolution whose kernel is as large as its input: [B, size, size, channels] -> [B, 1, 1, filters].

    Equivalent to `keras.layers.Conv2D`, but computed as a matrix product, which is faster on CPUs
    (docs/performance.md). Only for detection under PyTorch with AVX-512, a convolution is faster.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._kept = KeptKernels()

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if kernel.shape[0] > 1 and can_keep([kernel]) and has_avx512():
            return keras_conv_bias(inputs, self._kept.get([kernel], lambda: in_convolution_order(kernel)))
        rows = ops.reshape(inputs, (-1, int(np.prod(kernel.shape[:3]))))
        return ops.reshape(project(rows, ops.reshape(kernel, (rows.shape[1], -1))), (-1, 1, 1, self.filters))


WholeConv2D.__name__ = "Conv2D"  # scripts choose layers by the name of their class


def head_norm(norm: str | None, epsilon: float, train_bn: bool | None, name: str) -> list[layers.Layer]:
    """The normalization after a convolution of a head: `norm_layer` in a list, or an empty list if `norm` is None."""
    return [] if norm is None else [TimeDistributed(norm_layer(norm, epsilon, train_bn), name=name)]


@keras.saving.register_keras_serializable(package="mrcnn")
class SameForAllClasses(layers.Layer):
    """Repeats a class-agnostic output for every class, so that later layers need no special case.

    Args:
        num_classes: C.
        axis: The axis of the classes in the output; in the input it is missing, or has the size 1 if `axis` is -1.

    Returns:
        [B, N, 4] -> [B, N, C, 4] with `axis` 2; [B, N, h, w, 1] -> [B, N, h, w, C] with -1.
    """

    def __init__(self, num_classes: int, axis: int, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes, self.axis = int(num_classes), int(axis)

    def compute_output_shape(self, input_shape: Any) -> Any:
        if self.axis == -1:
            return (*input_shape[:-1], self.num_classes)
        return (*input_shape[: self.axis], self.num_classes, *input_shape[self.axis :])

    def call(self, inputs: Tensor) -> Tensor:
        x = inputs if self.axis == -1 else ops.expand_dims(inputs, self.axis)
        return ops.repeat(x, self.num_classes, axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "axis": self.axis}


class ClassHead:
    """The features of each RoI, then its classes and box deltas.

    Args:
        pool_size: Side of the RoI's feature map.
        num_classes: C.
        train_bn: `Config.TRAIN_BN`.
        fc_layers_size: F.
        roi_align: Further arguments of `PyramidROIAlign`.
        kind: "fc2": two fully connected layers, as convolutions. "conv4fc1": four 3 x 3 convolutions and one fully
            connected layer.
        norm: Normalization after the convolutions, see `head_norm`; in "fc2" also of the fully connected layers.
        epsilon: Of the normalization.
        class_agnostic: One box for all classes instead of one for each.
        suffix: Appended to the layers' names: a cascade has several class heads.
        stage5: `nn.c4.RoiStage5`; it and a mean over its map replace the hidden layers ("c4").
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        fc_layers_size: int = 1024,
        roi_align: dict | None = None,
        *,
        kind: str = "fc2",
        norm: str | None = "batch",
        epsilon: float = 1e-3,
        class_agnostic: bool = False,
        suffix: str = "",
        stage5: RoiStage5 | None = None,
    ):
        self.num_classes = num_classes
        self.roi_align = PyramidROIAlign(
            [pool_size, pool_size], **(roi_align or {}), name="roi_align_classifier" + suffix
        )
        if stage5 is not None:
            self.hidden = [stage5, TimeDistributed(layers.GlobalAveragePooling2D(), name="pool_mean")]
        else:
            self.hidden = _hidden_layers(kind, pool_size, fc_layers_size, norm, epsilon, train_bn, suffix)
        self.logits = TimeDistributed(layers.Dense(num_classes, dtype="float32"), name="mrcnn_class_logits" + suffix)
        self.probs = TimeDistributed(layers.Activation("softmax", dtype="float32"), name="mrcnn_class" + suffix)
        boxes = 1 if class_agnostic else num_classes
        self.bbox_fc = TimeDistributed(layers.Dense(4 * boxes, dtype="float32"), name="mrcnn_bbox_fc" + suffix)
        if class_agnostic:
            self.bbox = SameForAllClasses(num_classes, axis=2, name="mrcnn_bbox" + suffix)
        else:
            self.bbox = layers.Reshape((-1, num_classes, 4), dtype="float32", name="mrcnn_bbox" + suffix)

    def __call__(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """rois [B, N, 4] -> logits [B, N, C], probs [B, N, C], deltas [B, N, C, (dy, dx, log dh, log dw)]."""
        x = self.roi_align([rois, image_meta, *pyramid])  # [B, N, 7, 7, 256]
        for layer in self.hidden:
            x = layer(x)  # [B, N, F] after the last
        logits = self.logits(x)
        return logits, self.probs(logits), self.bbox(self.bbox_fc(x))

    def classify(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The RoIs, their class probabilities, and their box deltas (the interface shared with `CascadeHead`)."""
        _, probs, deltas = self(rois, image_meta, pyramid)
        return rois, probs, deltas


def _hidden_layers(kind, pool_size, features, norm, epsilon, train_bn, suffix) -> list[layers.Layer]:
    """[B, N, 7, 7, 256] -> [B, N, F], see `ClassHead`."""
    hidden = []
    if kind == "conv4fc1":
        for i in range(1, 5):
            conv = Conv2D(HEAD_CHANNELS, 3, padding="same", use_bias=norm is None)
            hidden.append(TimeDistributed(conv, name=f"mrcnn_class_conv{i}{suffix}"))
            hidden += head_norm(norm, epsilon, train_bn, f"mrcnn_class_bn{i}{suffix}")
            hidden.append(layers.Activation("relu"))
        hidden.append(TimeDistributed(WholeConv2D(features, pool_size), name=f"mrcnn_class_fc1{suffix}"))
        hidden.append(layers.Activation("relu"))
    else:
        for i, size in ((1, pool_size), (2, 1)):
            hidden.append(TimeDistributed(WholeConv2D(features, size), name=f"mrcnn_class_conv{i}{suffix}"))
            hidden += head_norm(norm, epsilon, train_bn, f"mrcnn_class_bn{i}{suffix}")
            hidden.append(layers.Activation("relu"))
    return [*hidden, layers.Reshape((-1, features), name="pool_squeeze" + suffix)]


class MaskHead:
    """Four 3 x 3 convolutions, one upsampling by 2, and a mask for each class.

    Args:
        pool_size: Side of the RoI's feature map; masks have twice that.
        num_classes: C.
        train_bn: `Config.TRAIN_BN`.
        roi_align: Further arguments of `PyramidROIAlign`.
        channels: Width of the convolutions, `Config.MASK_HEAD_CHANNELS`.
        norm: Normalization after the convolutions, see `head_norm`.
        epsilon: Of the normalization.
        class_agnostic: One mask for all classes instead of one for each.
        stage5: `nn.c4.RoiStage5`, which replaces the four convolutions ("c4").
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        roi_align: dict | None = None,
        channels: int = 256,
        *,
        norm: str | None = "batch",
        epsilon: float = 1e-3,
        class_agnostic: bool = False,
        stage5: RoiStage5 | None = None,
    ):
        self.roi_align = PyramidROIAlign([pool_size, pool_size], **(roi_align or {}), name="roi_align_mask")
        self.hidden = [] if stage5 is None else [stage5]
        for i in range(1, 5) if stage5 is None else ():
            conv = TimeDistributed(Conv2D(channels, 3, padding="same"), name=f"mrcnn_mask_conv{i}")
            self.hidden += [conv, *head_norm(norm, epsilon, train_bn, f"mrcnn_mask_bn{i}"), layers.Activation("relu")]
        up = Conv2DTranspose(channels, 2, strides=2, activation="relu")
        self.deconv = TimeDistributed(up, name="mrcnn_mask_deconv")
        masks = 1 if class_agnostic else num_classes
        self.masks = TimeDistributed(Conv2D(masks, 1, activation="sigmoid", dtype="float32"), name="mrcnn_mask")
        self.repeat = SameForAllClasses(num_classes, axis=-1, name="mrcnn_mask_classes") if class_agnostic else None

    def __call__(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> Tensor:
        """rois [B, N, 4] -> mask probabilities [B, N, 28, 28, C]."""
        masks = self.masks(self.features(rois, image_meta, pyramid))
        return masks if self.repeat is None else self.repeat(masks)

    def of_class(self, rois: Tensor, class_ids: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> Tensor:
        """rois [B, N, 4], class_ids [B, N] -> only the mask of each RoI's class, [B, N, 28, 28]."""
        return MaskOfClass(self.masks.layer)([self.features(rois, image_meta, pyramid), class_ids])

    def features(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> Tensor:
        """rois [B, N, 4] -> [B, N, 28, 28, channels], the input of the last convolution."""
        x = self.roi_align([rois, image_meta, *pyramid])  # [B, N, 14, 14, 256]
        for layer in self.hidden:
            x = layer(x)
        return self.deconv(x)


class MaskOfClass(layers.Layer):
    """The last convolution of the mask head, computed for one class per RoI instead of all C (docs/performance.md).

    Args:
        conv: Built `Conv2D`, 1 x 1, with C filters, or one for all classes, and an activation.

    Call arguments: `[features, class_ids]`, [B, N, h, w, channels] and [B, N], of any number type.

    Returns:
        [B, N, h, w]: `conv(features)[..., class_ids]`, up to rounding.
    """

    def __init__(self, conv: layers.Conv2D, **kwargs: Any):
        super().__init__(**{"dtype": conv.dtype_policy, "name": f"{conv.name}_of_class", **kwargs})
        self.conv = conv

    def build(self, input_shape: Any) -> None:
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0][:-1])

    def call(self, inputs: Tensor) -> Tensor:
        features, class_ids = inputs
        class_ids = ops.minimum(ops.cast(class_ids, "int32"), self.conv.filters - 1)
        batch, count, height, width, channels = ops.shape(features)
        kernel = ops.take(ops.transpose(self.conv.kernel[0, 0]), class_ids, axis=0)  # [B, N, channels]
        pixels = ops.reshape(features, (batch, count, height * width, channels))
        values = ops.reshape(ops.matmul(pixels, kernel[..., None]), (batch, count, height, width))
        return self.conv.activation(values + ops.take(self.conv.bias, class_ids)[..., None, None])


def fpn_classifier_graph(
    rois: Tensor,
    feature_maps: list[Tensor],
    image_meta: Tensor,
    pool_size: int,
    num_classes: int,
    train_bn: bool | None = True,
    fc_layers_size: int = 1024,
) -> tuple[Tensor, Tensor, Tensor]:
    """Applies a new `ClassHead` to `rois`, with matterport's signature: logits, probs, deltas."""
    return ClassHead(pool_size, num_classes, train_bn, fc_layers_size)(rois, image_meta, feature_maps)


def build_fpn_mask_graph(
    rois: Tensor, feature_maps: list[Tensor], image_meta: Tensor, pool_size: int, num_classes: int,
    train_bn: bool | None = True,
) -> Tensor:  # fmt: skip
    """Applies a new `MaskHead` to `rois`, with matterport's signature: [B, N, 2 * pool_size, 2 * pool_size, C]."""
    return MaskHead(pool_size, num_classes, train_bn)(rois, image_meta, feature_maps)
