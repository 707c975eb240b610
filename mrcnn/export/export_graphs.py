"""The graph that is exported: the detector with its weights as constants, and what surrounds it.

Shapes and units:
    B  images, photos scaled and padded to H x W     D  detections (`DETECTION_MAX_INSTANCES`)     m x m  mask, 28 x 28
    images      [B, H, W, channels] float32, 0..255, the mean pixel not subtracted
    windows     [B, (y1, x1, y2, x2)] float32, pixels: the photo's place in the image
    thresholds  [(DETECTION_MIN_CONFIDENCE, DETECTION_NMS_THRESHOLD)] float32
    boxes       [B, D, (y1, x1, y2, x2)] float32, normalized to the image; zero rows after the last detection
    class_ids   [B, D] int32;  scores [B, D] float32, best first
    masks       [B, n, m, m] float32 in 0..1, of the first n detections; all real ones are among them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from mrcnn.config import Config
from mrcnn.graph import detections_of, set_thresholds
from mrcnn.nn.detections import DetectedBoxes, DetectionLayer
from mrcnn.nn.folding import fold_batchnorm
from mrcnn.ops.kernels import exporting
from mrcnn.ops.types import Tensor

INPUTS = ("images", "windows", "thresholds")
OUTPUTS = ("boxes", "class_ids", "scores", "masks")
STAGES = ("rpn_classes", "rpn_boxes", "proposals", "classes", "box_deltas", "detections", "masks")  # after the pyramid
WEIGHT = "weight_"  # with an index: name of an input that is a weight
THRESHOLDS = ("min_confidence", "nms_threshold")  # names of `DetectionLayer`'s runtime values


class Network:
    """A Keras graph with named outputs, and its traced form for other runtimes.

    Args:
        model: Keras model, [images without their mean, image metas] -> outputs.
        config: `Config` of the model.
        image_size: (H, W).
        batch_size: B; None: any.
        fixed_shapes: Whether the traced form needs all shapes beforehand; n is then D.
        outputs: Function that names the outputs of `model`.

    Attributes:
        constants: values of `model.variables` in the traced form, in their order.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        image_size: tuple[int, int],
        batch_size: int | None,
        fixed_shapes: bool,
        outputs: Callable[[list], dict],
    ):
        self.model, self.config = model, config
        self.image_size, self.batch_size, self.fixed_shapes = image_size, batch_size, fixed_shapes
        self.outputs = outputs
        self.constants = [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]

    def call(
        self, images: Tensor, windows: Tensor, thresholds: Tensor, state: Sequence[tuple[keras.Variable, Tensor]] = ()
    ) -> dict:
        """The computation in `keras.ops`. `state`: pairs of a variable and a value to use instead."""
        batch = ops.shape(images)[0]
        size = ops.convert_to_tensor([*self.image_size, self.config.IMAGE_CHANNEL_COUNT], "float32")
        sizes = ops.tile(size[None], (batch, 1))
        classes = ops.ones((batch, 1 + self.config.NUM_CLASSES))  # the scale, which is not read, and active classes
        metas = ops.concatenate([ops.zeros((batch, 1)), sizes, sizes, windows, classes], axis=1)
        molded = images - ops.convert_to_tensor(np.asarray(self.config.MEAN_PIXEL, np.float32))
        if self.config.convention.pad_with_mean:
            molded = ops.where(self._inside(windows), molded, 0.0)
        with keras.StatelessScope([*state, *self._thresholds(thresholds)]):
            return self.outputs(self.model([molded, metas], training=False))

    def _inside(self, windows):
        """[B, H, W, 1] bool: the pixels in the windows."""
        y1, x1, y2, x2 = (ops.reshape(windows[:, i], (-1, 1, 1, 1)) for i in range(4))
        y = ops.reshape(ops.arange(self.image_size[0], dtype="float32"), (1, -1, 1, 1))
        x = ops.reshape(ops.arange(self.image_size[1], dtype="float32"), (1, 1, -1, 1))
        rows, columns = ops.logical_and(y >= y1, y < y2), ops.logical_and(x >= x1, x < x2)
        return ops.logical_and(rows, columns)

    def _thresholds(self, thresholds) -> list[tuple]:
        """The runtime values of the detection layer and what replaces them."""
        return [
            (variable, thresholds[THRESHOLDS.index(variable.name)])
            for layer in self.model.layers
            if isinstance(layer, DetectionLayer)
            for variable in layer.variables
            if variable.name in THRESHOLDS
        ]

    def run(self, images: np.ndarray, windows: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs with Keras, as `detect` does: with TensorFlow's kernels and the model's own weights."""
        outputs = self._compiled(*(ops.convert_to_tensor(x, "float32") for x in (images, windows, thresholds)))
        return {name: np.asarray(ops.convert_to_numpy(x)) for name, x in outputs.items()}

    @cached_property
    def _compiled(self) -> Any:
        import tensorflow as tf

        return tf.function(self.call, input_signature=self._signature(None), autograph=False)

    def traced(self, weights: Sequence[int] = (), has_nms: bool = False) -> Any:
        """A `tf.function` of the inputs by name, without variables and without TensorFlow's own kernels.

        Args:
            weights: Indices of `constants` that are further inputs, "weight_<index>", instead of constants.
            has_nms: Whether the format has an operation for NMS, in place of a loop over the boxes.
        """
        import tensorflow as tf

        shapes = [tf.TensorSpec(self.constants[i].shape, tf.float32, f"{WEIGHT}{i}") for i in weights]

        @tf.function(input_signature=[*self._signature(self.batch_size), *shapes], autograph=False)
        def serve(images, windows, thresholds, *given):
            given = dict(zip(weights, given))
            values = (given[i] if i in given else tf.constant(x) for i, x in enumerate(self.constants))
            with exporting(self.fixed_shapes, has_nms):
                return self.call(images, windows, thresholds, list(zip(self.model.variables, values)))

        return serve

    def _signature(self, batch_size: int | None) -> list:
        import tensorflow as tf

        shapes = (batch_size, *self.image_size, self.config.IMAGE_CHANNEL_COUNT), (batch_size, 4), (2,)
        return [tf.TensorSpec(shape, tf.float32, name) for shape, name in zip(shapes, INPUTS)]


def detection_network(
    model: keras.Model, image_size: tuple[int, int], batch_size: int | None, fixed_shapes: bool
) -> Network:
    """The graph that is exported, of a `MaskRCNN`."""

    def outputs(found):
        detections, masks = found
        return dict(
            zip(OUTPUTS, (detections[..., :4], ops.cast(detections[..., 4], "int32"), detections[..., 5], masks))
        )

    return Network(model.detector(), model.config, image_size, batch_size, fixed_shapes, outputs)


def staged_network(network: Network, model: keras.Model) -> Network:
    """The same graph with the results of every stage as outputs, to find the stage that an export got wrong.

    Outputs are "pyramid_2" ... and `STAGES`, in the order in which they are computed.
    """
    stages, config = model.stages, model.config
    rois, classes, deltas, detections = detections_of(stages, config)
    masks = stages.mask_head.of_class(DetectedBoxes()(detections), detections[..., 4], stages.meta, stages.pyramid)
    _, probs, rpn_deltas = stages.rpn
    tensors = [*stages.pyramid, probs, rpn_deltas, rois, classes, deltas, detections, masks]
    names = [*(f"pyramid_{i}" for i in range(2, 2 + len(stages.pyramid))), *STAGES]
    graph = fold_batchnorm([stages.image, stages.meta], tensors)
    set_thresholds(graph, config)
    size, batch, fixed = network.image_size, network.batch_size, network.fixed_shapes
    return Network(graph, config, size, batch, fixed, lambda found: dict(zip(names, found)))
