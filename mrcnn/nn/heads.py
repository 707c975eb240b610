"""The two heads of the second stage: class and box of each RoI, and its mask.

Shapes: B images, N RoIs, C classes (0 is background), F features of the class head. Comments show the default sizes:
pools of 7 x 7 and 14 x 14, masks of 28 x 28, 256 channels.

A head is an object that holds its layers, so it can be applied to sampled RoIs in training and to proposals or
detections in inference, with the same weights.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.norm import BatchNorm, TimeDistributed
from mrcnn.nn.roi_align import PyramidROIAlign
from mrcnn.ops.convolution import project
from mrcnn.ops.types import Tensor

# The layers whose shapes follow NUM_CLASSES: what `exclude` leaves out for a file of another number of classes.
CLASS_DEPENDENT_LAYERS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")


@keras.saving.register_keras_serializable(package="mrcnn")
class WholeConv2D(layers.Conv2D):
    """A convolution whose kernel is as large as its input: [B, size, size, channels] -> [B, 1, 1, filters].

    Equivalent to `keras.layers.Conv2D`, but computed as a matrix product, which is faster on CPUs
    (docs/performance.md).
    """

    def convolution_op(self, inputs, kernel):
        rows = ops.reshape(inputs, (-1, int(np.prod(kernel.shape[:3]))))
        return ops.reshape(project(rows, ops.reshape(kernel, (rows.shape[1], -1))), (-1, 1, 1, self.filters))


class ClassHead:
    """Two fully connected layers, as convolutions, then the classes and the box deltas of each class.

    Args:
        pool_size: Side of the RoI's feature map.
        num_classes: C.
        train_bn: `Config.TRAIN_BN`.
        fc_layers_size: F.
        roi_align: Further arguments of `PyramidROIAlign`.
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        fc_layers_size: int = 1024,
        roi_align: dict | None = None,
    ):
        self.num_classes = num_classes
        self.roi_align = PyramidROIAlign([pool_size, pool_size], **(roi_align or {}), name="roi_align_classifier")
        self.hidden = []
        for i, size in ((1, pool_size), (2, 1)):
            conv = TimeDistributed(WholeConv2D(fc_layers_size, size), name=f"mrcnn_class_conv{i}")
            norm = TimeDistributed(BatchNorm(train_bn=train_bn), name=f"mrcnn_class_bn{i}")
            self.hidden += [conv, norm, layers.Activation("relu")]
        self.squeeze = layers.Reshape((-1, fc_layers_size), name="pool_squeeze")
        self.logits = TimeDistributed(layers.Dense(num_classes, dtype="float32"), name="mrcnn_class_logits")
        self.probs = TimeDistributed(layers.Activation("softmax", dtype="float32"), name="mrcnn_class")
        self.bbox_fc = TimeDistributed(layers.Dense(4 * num_classes, dtype="float32"), name="mrcnn_bbox_fc")
        self.bbox = layers.Reshape((-1, num_classes, 4), dtype="float32", name="mrcnn_bbox")

    def __call__(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """rois [B, N, 4] -> logits [B, N, C], probs [B, N, C], deltas [B, N, C, (dy, dx, log dh, log dw)]."""
        x = self.roi_align([rois, image_meta, *pyramid])  # [B, N, 7, 7, 256]
        for layer in self.hidden:
            x = layer(x)  # [B, N, 1, 1, F]
        shared = self.squeeze(x)  # [B, N, F]
        logits = self.logits(shared)
        return logits, self.probs(logits), self.bbox(self.bbox_fc(shared))


class MaskHead:
    """Four 3 x 3 convolutions, one upsampling by 2, and a mask for each class.

    Args:
        pool_size: Side of the RoI's feature map; masks have twice that.
        num_classes: C.
        train_bn: `Config.TRAIN_BN`.
        roi_align: Further arguments of `PyramidROIAlign`.
        channels: Width of the convolutions, `Config.MASK_HEAD_CHANNELS`.
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        roi_align: dict | None = None,
        channels: int = 256,
    ):
        self.roi_align = PyramidROIAlign([pool_size, pool_size], **(roi_align or {}), name="roi_align_mask")
        self.hidden = []
        for i in range(1, 5):
            conv = TimeDistributed(Conv2D(channels, 3, padding="same"), name=f"mrcnn_mask_conv{i}")
            norm = TimeDistributed(BatchNorm(train_bn=train_bn), name=f"mrcnn_mask_bn{i}")
            self.hidden += [conv, norm, layers.Activation("relu")]
        up = layers.Conv2DTranspose(channels, 2, strides=2, activation="relu")
        self.deconv = TimeDistributed(up, name="mrcnn_mask_deconv")
        self.masks = TimeDistributed(Conv2D(num_classes, 1, activation="sigmoid", dtype="float32"), name="mrcnn_mask")

    def __call__(self, rois: Tensor, image_meta: Tensor, pyramid: list[Tensor]) -> Tensor:
        """rois [B, N, 4] -> mask probabilities [B, N, 28, 28, C]."""
        return self.masks(self.features(rois, image_meta, pyramid))

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
        conv: Built `Conv2D`, 1 x 1, with C filters and an activation.

    Call arguments: `[features, class_ids]`, [B, N, h, w, channels] and [B, N], of any number type.

    Returns:
        [B, N, h, w]: `conv(features)[..., class_ids]`, up to rounding.
    """

    def __init__(self, conv: layers.Conv2D, **kwargs):
        super().__init__(**{"dtype": conv.dtype_policy, "name": f"{conv.name}_of_class", **kwargs})
        self.conv = conv

    def build(self, input_shape):
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0][:-1])

    def call(self, inputs):
        features, class_ids = inputs
        class_ids = ops.cast(class_ids, "int32")
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
