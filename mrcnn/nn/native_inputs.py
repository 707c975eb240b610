"""Layers before and after the network for Keras's methods: photos and their objects in, detections out.

Shapes and units:
    B  images     H x W  pixels     G  rows of objects     D  rows of detections     C  classes, 0 is background
    boxes  (y1, x1, y2, x2) in pixels of the image as given; y2 and x2 exclusive
    Images have the size that the network sees; nothing is resized here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.nn.rpn_targets import RPNTargetLayer
from mrcnn.ops.boxes import denorm_boxes_graph
from mrcnn.ops.mini_mask_graph import minimize_mask_graph
from mrcnn.ops.pixel_values import WHITE16
from mrcnn.ops.types import Tensor


@keras.saving.register_keras_serializable(package="mrcnn")
class MoldedImages(keras.layers.Layer):
    """Subtracts the mean, and composes image metas with the whole image as window and every class active.

    Args:
        mean_pixel: [channels], `Config.MEAN_PIXEL`.
        num_classes: C.
        value_range: `Config.IMAGE_RANGE`. "auto" takes 0..255, and uint16 as 0..65535; values are not checked.
        size: (H, W) that images must have, or None: any multiple of `multiple`.
        multiple: Sides are multiples of this number of pixels.

    Call arguments: [B, H, W, channels], any number type.

    Returns:
        molded images [B, H, W, channels] and metas [B, 12 + C], float32.

    Raises:
        ValueError: images of another size, or of unknown size without `size`.
    """

    def __init__(
        self,
        mean_pixel: Sequence[float],
        num_classes: int,
        value_range: str | Sequence[float] = "auto",
        size: Sequence[int] | None = None,
        multiple: int = 64,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.mean_pixel = [float(v) for v in np.ravel(mean_pixel)]
        self.num_classes = int(num_classes)
        self.value_range = value_range
        self.size = None if size is None else tuple(int(n) for n in size)
        self.multiple = int(multiple)
        self.built = True

    def call(self, images: Tensor) -> tuple[Tensor, Tensor]:
        height, width, channels = self._checked_shape(images.shape)
        images = ops.reshape(images, (-1, height, width, channels))  # where TensorFlow doesn't know the size
        shape = [height, width, channels]
        meta = [0, *shape, *shape, 0, 0, height, width, 1, *[1] * self.num_classes]
        values = self._in_range(images)
        molded = values - ops.convert_to_tensor(self.mean_pixel, "float32")
        return molded, ops.zeros_like(values[:, 0, 0, :1]) + ops.convert_to_tensor(meta, "float32")

    def _in_range(self, images):
        dtype = keras.backend.standardize_dtype(images.dtype)
        values = ops.cast(images, "float32")
        if not isinstance(self.value_range, str):
            low, high = self.value_range
            return (values - low) * (255 / (high - low))
        natural = 1 < max(self.mean_pixel) <= 255 and min(self.mean_pixel) >= 0  # as `ops.pixel_values.to_channels`
        return values * (255 / WHITE16) if dtype == "uint16" and natural and self.value_range == "auto" else values

    def _checked_shape(self, shape):
        height, width = (known or wanted for known, wanted in zip(shape[1:3], self.size or (None, None)))
        if height is None or width is None:
            raise ValueError(
                f"images have the shape {tuple(shape)}; expected a known height and width. Give batches of a tf.data"
                " pipeline a fixed size, e.g. with tf.ensure_shape."
            )
        if (height, width) != (self.size or (height, width)):
            raise ValueError(
                f"images are {height} x {width} pixels, but this network sees {self.size[0]} x {self.size[1]}"
                " (IMAGE_MIN_DIM, IMAGE_MAX_DIM and IMAGE_RESIZE_MODE). Resize them, with their boxes and masks, in"
                " the input pipeline, or change these settings; `predict` and `detect` take photos of any size."
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"images are {height} x {width} pixels; expected multiples of {self.multiple}.")
        return height, width, shape[3]

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = (input_shape[0], *self._checked_shape(input_shape))
        return shape, (input_shape[0], 12 + self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean_pixel": self.mean_pixel,
            "num_classes": self.num_classes,
            "value_range": self.value_range,
            "size": self.size,
            "multiple": self.multiple,
        }


@keras.saving.register_keras_serializable(package="mrcnn")
class TrainingInputs(keras.layers.Layer):
    """Images and their objects -> the inputs of `graph.training_graph`. Chooses the RPN's targets on the device.

    Args:
        molded_images: `MoldedImages`.
        rpn_targets: `RPNTargetLayer`.
        mini_mask_shape: (h, w) of mini masks; None if the network takes whole masks.

    Call arguments: a dict
        images: [B, H, W, channels].
        boxes: [B, G, 4]; rows without area are padding.
        labels: [B, G]: the class, 1 to C - 1; 0 and below are padding.
        masks: [B, H, W, G], not 0 where the object is; or mini masks [B, h, w, G].
        is_crowd: [B, G], optional: not 0 for regions of many objects, which are neither objects nor background.

    Returns:
        dict of `input_image`, `input_image_meta`, `input_rpn_match`...

    Raises:
        ValueError: masks of another shape, or images of another size.
    """

    def __init__(
        self,
        molded_images: MoldedImages,
        rpn_targets: RPNTargetLayer,
        mini_mask_shape: Sequence[int] | None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.molded_images, self.rpn_targets = molded_images, rpn_targets
        self.mini_mask_shape = None if mini_mask_shape is None else tuple(int(n) for n in mini_mask_shape)
        self.built = True

    def call(self, sample: dict) -> dict:
        image, meta = self.molded_images(sample["images"])
        boxes = ops.cast(sample["boxes"], "float32")
        class_ids = ops.cast(sample["labels"], "int32")
        real = ops.logical_and(class_ids > 0, ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1))
        class_ids, boxes = ops.where(real, class_ids, 0), ops.where(real[..., None], boxes, 0.0)
        if "is_crowd" in sample:
            class_ids = ops.where(ops.cast(sample["is_crowd"], "bool"), -class_ids, class_ids)
        match, bbox = self.rpn_targets([class_ids, boxes, image])
        return {
            "input_image": image, "input_image_meta": meta, "input_rpn_match": match, "input_rpn_bbox": bbox,
            "input_gt_class_ids": class_ids, "input_gt_boxes": boxes,
            "input_gt_masks": self._masks(sample["masks"], boxes, image),
        }  # fmt: skip

    def _masks(self, masks, boxes, image):
        size, count = tuple(image.shape[1:3]), boxes.shape[1]
        allowed = [(*size, count)] + ([(*self.mini_mask_shape, count)] if self.mini_mask_shape else [])
        given = tuple(masks.shape[1:])
        shape = allowed[0] if None in given else given
        if shape not in allowed:
            known = " or ".join(f"[batch, {', '.join(map(str, shape))}]" for shape in allowed)
            raise ValueError(
                f"masks have the shape {tuple(masks.shape)}; expected {known}: [batch, height, width, objects], the"
                " size of the image, and as many objects as boxes."
            )
        masks = ops.cast(ops.reshape(masks, (-1, *shape)), "bool")
        if self.mini_mask_shape is None or shape == allowed[-1]:
            return masks
        return minimize_mask_graph(boxes, masks, self.mini_mask_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "molded_images": keras.saving.serialize_keras_object(self.molded_images),
            "rpn_targets": keras.saving.serialize_keras_object(self.rpn_targets),
            "mini_mask_shape": self.mini_mask_shape,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        layers = ("molded_images", "rpn_targets")
        return cls(**{**config, **{name: keras.saving.deserialize_keras_object(config[name]) for name in layers}})


@keras.saving.register_keras_serializable(package="mrcnn")
class NamedDetections(keras.layers.Layer):
    """Detections and masks of `graph.detector_graph` -> a dict in pixels, padded to D rows.

    Args:
        box_offset: How boxes are normalized, see `mrcnn.ops.boxes.norm_boxes`.
        whole_pixels: Whether boxes are rounded to whole pixels.

    Call arguments: `[detections, masks, image]`, [B, D or fewer, 6], [B, D or fewer, h, w] and [B, H, W, channels]; of
        the image, only the size is used.
        rows: D.

    Returns:
        dict of `boxes` [B, D, 4] pixels, `classes` [B, D] int32, `scores` [B, D], `masks` [B, D, h, w] in 0..1 inside
        the box, and `valid` [B, D] bool. Valid rows come first, best score first; the others are 0.
    """

    def __init__(self, rows: int, box_offset: int = 1, whole_pixels: bool = True, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.rows, self.box_offset, self.whole_pixels = int(rows), int(box_offset), bool(whole_pixels)

    def compute_output_spec(self, inputs: Tensor) -> Any:
        batch, mask_shape = inputs[0].shape[0], inputs[1].shape[2:]
        shapes = {"boxes": (4,), "classes": (), "scores": (), "masks": tuple(mask_shape), "valid": ()}
        types = {"classes": "int32", "valid": "bool"}
        return {
            name: keras.KerasTensor((batch, self.rows, *shape), types.get(name, "float32"), name=name)
            for name, shape in shapes.items()
        }

    def call(self, inputs: Tensor) -> Tensor:
        detections, masks, image = inputs
        size = ops.shape(image)[1:3]
        detections, masks = self._padded(detections), self._padded(ops.cast(masks, "float32"))
        boxes = denorm_boxes_graph(detections[..., :4], size, self.box_offset, self.whole_pixels)
        ends = ops.cast(ops.stack([*size, *size]), "float32")
        boxes = ops.clip(ops.cast(boxes, "float32"), 0.0, ends)
        valid = ops.logical_and(detections[..., 4] > 0, ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1))
        place = ops.arange(self.rows, dtype="int32")[None]
        order = ops.argsort(ops.where(valid, place, place + self.rows), axis=1)  # [B, D], valid rows first
        found = {
            "boxes": boxes, "classes": ops.cast(detections[..., 4], "int32"), "scores": detections[..., 5],
            "masks": masks, "valid": valid,
        }  # fmt: skip
        return {name: _valid_rows(array, valid, order) for name, array in found.items()}

    def _padded(self, array):
        """[B, n, ...] -> [B, D, ...], zeros at the end."""
        zeros = ops.zeros_like(ops.repeat(array[:, :1], self.rows, axis=1))
        return ops.concatenate([array, zeros], axis=1)[:, : self.rows]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rows": self.rows,
            "box_offset": self.box_offset,
            "whole_pixels": self.whole_pixels,
        }


def _valid_rows(array, valid, order):
    """The rows of [B, D, ...] in the order [B, D], with zeros for invalid rows."""
    extra = (1,) * (len(array.shape) - 2)
    valid, order = (ops.reshape(x, (-1, x.shape[1], *extra)) for x in (valid, order))
    return ops.take_along_axis(ops.where(valid, array, ops.zeros_like(array)), order, axis=1)
