"""Methods of `MaskRCNN` that only scripts written for matterport's class need. `MaskRCNN` inherits them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np

from mrcnn.compat.functions import log
from mrcnn.compat.tf1 import eager_mode
from mrcnn.graph import INFERENCE_OUTPUTS, MODES, build_model, detector_graph_of
from mrcnn.inference import activations, molding
from mrcnn.inference.results import Detections
from mrcnn.ops.boxes import norm_boxes
from mrcnn.ops.types import Tensor
from mrcnn.weights import imagenet_weights

if TYPE_CHECKING:
    from mrcnn.config import Config

Method = TypeVar("Method", bound=Callable)


def eagerly(method: Method) -> Method:
    """Decorator: lets a method run inside TensorFlow 1's `with graph.as_default():` (see `mrcnn.compat.tf1`)."""

    @wraps(method)
    def run(*args, **kwargs):
        with eager_mode():
            return method(*args, **kwargs)

    return run


def follows_settings(method: Method) -> Method:
    """Decorator of Keras's methods: changed settings take effect in this call, or are refused by name."""

    @eagerly
    @wraps(method)
    def run(self, *args, **kwargs):
        self._follow_settings(method.__name__)
        return method(self, *args, **kwargs)

    return run


def or_torch_train(method: Method) -> Method:
    """Decorator of `train`. With the PyTorch backend a model is a `torch.nn.Module`, which has `train(mode=True)`."""

    @wraps(method)
    def train(self, *args, **kwargs):
        from_torch = not kwargs and len(args) <= 1 and all(isinstance(mode, bool) for mode in args)
        if from_torch and keras.backend.backend() == "torch":
            return super(type(self), self).train(*args)
        return method(self, *args, **kwargs)

    return train


def refuse_in_fork(model: keras.Model) -> None:
    """Refuses to run a model of the parent process in a forked child, where its threads don't exist and it would hang.

    Raises:
        RuntimeError: The process was forked. The message says what to do instead.
    """
    if model.process_id != os.getpid():
        raise RuntimeError(
            f"This model was built in process {model.process_id} and is used in a process forked from it. The threads"
            " of the backend don't exist here, so it would wait forever. Start processes with"
            ' multiprocessing.get_context("spawn") and build the model in each of them, or use threads.'
        )


def without_anchors(model: keras.Model, x: Tensor) -> Any:
    """The inputs of `predict`: scripts also pass anchors, `[molded_images, image_metas, anchors]`.

    Raises:
        ValueError: The anchors differ from those of the settings, which the graph computes itself.
    """
    if model.mode != "inference" or not isinstance(x, (list, tuple)) or len(x) != 3:
        return x
    images, metas, anchors = x
    expected = model.get_anchors(np.shape(images)[1:])
    anchors = np.asarray(anchors)
    if anchors.shape[-2:] != expected.shape or not np.allclose(anchors, expected, atol=1e-5):
        raise ValueError(
            f"predict got anchors of shape {anchors.shape} that differ from those of the settings, {expected.shape}."
            " The network computes its anchors itself: set RPN_ANCHOR_SCALES, RPN_ANCHOR_RATIOS and BACKBONE_STRIDES"
            " instead."
        )
    return [images, metas]


def detect_by_methods(model: keras.Model, images: Any) -> list[Detections]:
    """`detect` of a subclass that overrides `mold_inputs`, `unmold_detections` or `get_anchors`: calls them in turn."""
    molded, metas, windows = model.mold_inputs(images)
    anchors = model.get_anchors(molded[0].shape)
    anchors = np.broadcast_to(anchors, (len(molded), *anchors.shape))
    detections, _, _, masks, *_ = model.predict([molded, metas, anchors], verbose=0)
    results = []
    for i, image in enumerate(images):
        found = model.unmold_detections(detections[i], masks[i], np.shape(image), molded[i].shape, windows[i])
        results.append(Detections(*found, class_names=model.class_names))
    return results


def overridden(model: keras.Model, cls: type, *names: str) -> list[str]:
    """The given methods that a subclass of `cls` overrides."""
    return [name for name in names if getattr(type(model), name) is not getattr(cls, name)]


def keep_keras_build(cls: type) -> None:
    """Called for each subclass: one that overrides matterport's `build(mode, config)` keeps Keras's `build` as well."""
    own = cls.__dict__.get("build")
    if own is None:
        return

    def dispatch(self, *args, **kwargs):
        mode = kwargs.get("mode", args[0] if args else None)
        return own(self, *args, **kwargs) if isinstance(mode, str) else keras.Model.build(self, *args, **kwargs)

    dispatch.__name__, dispatch.__doc__ = "build", own.__doc__  # not its signature, by which Keras calls `build`
    cls.build = dispatch


def graph_of_own_build(model: keras.Model, mode: str, config: Config) -> tuple:
    """Inputs and outputs of the network that a subclass's `build(mode, config)` returns.

    Raises:
        TypeError: `fit` and `detect` can't work with them.
    """
    network = type(model).build(model, mode=mode, config=config)  # without the wrapper that Keras puts around build
    outputs = network.output if isinstance(network, keras.Model) else network
    if mode == "training":
        fits = isinstance(outputs, dict) and {"rpn_class_logits", "target_mask", "mrcnn_mask"} <= set(outputs)
        expected = "a keras.Model with the dict of outputs of graph.training_graph"
    else:
        fits = isinstance(outputs, (list, tuple)) and len(outputs) == len(INFERENCE_OUTPUTS)
        expected = f"a keras.Model with the outputs {', '.join(INFERENCE_OUTPUTS)}"
    if not fits:
        raise TypeError(
            f"{type(model).__name__}.build returned {outputs!r}; expected {expected}. Call super().build(mode, config)"
            " and change the layers between its inputs and outputs."
        )
    return network.inputs, outputs


def detector_of_own_build(model: keras.Model, config: Config) -> tuple[list, list]:
    """`graph.detector_graph` of a model whose class overrides `build(mode, config)`.

    Raises:
        ValueError: the model is for training.
    """
    if model.mode == "training":
        raise ValueError(
            f"{type(model).__name__} replaces `build`, and this model was built for training, so it has no outputs for"
            ' detection. Build it with mode="inference" and load the weights.'
        )
    return detector_graph_of(model.inputs, model.outputs)


def check_mode(mode: Any) -> None:
    """Raises ValueError for an unknown mode. `clone_model` passes tensors there; the message explains copying."""
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(
            f"mode is {mode!r}; expected one of {', '.join(MODES)}. (clone_model can't copy this model:"
            " MaskRCNN.from_config(model.get_config()) can, then set_weights.)"
        )


class ScriptModel(keras.Model):
    """What only scripts written for matterport's class and for Keras 2 call."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keep_keras_build(cls)

    @property
    def keras_model(self) -> keras.Model:
        return self

    def __dir__(self):
        # Keras finds what to save through `dir`: it would follow `keras_model` endlessly, and other versions of this
        # package don't have `training_inputs`, which has no weights.
        return [name for name in super().__dir__() if name not in ("keras_model", "training_inputs")]

    def save(self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any) -> None:
        """Keras's `save`, to a `.keras` file."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"{filepath}: a MaskRCNN is not saved as a whole to HDF5, which Keras 3 could not load again. Save it"
                " to a .keras file, or its weights with save_weights('x.h5')."
            )
        super().save(filepath, overwrite, zipped, **kwargs)

    def fit_generator(
        self, generator: Any, steps_per_epoch: int | None = None, epochs: int = 1, **kwargs: Any
    ) -> keras.callbacks.History:
        """Keras 2's name of `fit`."""
        return self.fit(generator, steps_per_epoch=steps_per_epoch, epochs=epochs, **kwargs)

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `build(input_shape)`; or matterport's `build(mode, config)`: a new graph as a plain keras.Model."""
        mode, config = kwargs.get("mode", args[0] if args else None), kwargs.get("config", args[-1] if args else None)
        if isinstance(mode, str) and mode in MODES:
            return build_model(mode, config)
        return keras.Model.build(self, *args, **kwargs)

    # ---- Steps of `detect`, for scripts that call or override them -----------------------------------------------
    def mold_inputs(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images -> molded images [B, H, W, channels], image_metas [B, 12 + C], windows [B, 4]."""
        molded, metas, windows = molding.mold_inputs(images, self.config)
        return np.stack(molded), metas, windows

    def unmold_detections(
        self,
        detections: np.ndarray,
        mrcnn_mask: np.ndarray,
        original_image_shape: Sequence[int],
        image_shape: Sequence[int],
        window: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The network's output for one image -> boxes [n, 4], class_ids [n], scores [n], masks [H0, W0, n]."""
        places = original_image_shape, image_shape, window
        return molding.unmold_detections(detections, mrcnn_mask, *places, self.config.convention)

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """[A, 4] anchors normalized to an image of `image_shape`; sets `anchors`, the same in pixels."""
        self._detector.image_shape = tuple(int(n) for n in image_shape)
        return norm_boxes(self.anchors, self._detector.image_shape[:2], self.config.convention.box_offset)

    @property
    def anchors(self) -> np.ndarray:
        return self._detector.anchors(self.config)

    @eagerly
    def detect_molded(self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0) -> list[Detections]:
        """`detect` for molded images [B, H, W, channels] and their metas [B, 12 + C], as `mold_inputs` returns them."""
        self._follow_settings("detect_molded", self.followed_by_detect)
        arrays = molded_images, image_metas, self.config
        return self._detector.detect_molded(*arrays, log if verbose else None, self.class_names)

    # ---- Looking inside ------------------------------------------------------------------------------------------
    @eagerly
    def run_graph(
        self, images: Sequence[np.ndarray], outputs: Sequence[tuple[str, Tensor]], image_metas: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
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

    def ancestor(self, tensor: Any, name: str, checked: Any = None) -> Any:
        """The symbolic tensor `name` of this model, or None. `mrcnn.inference.activations` lists the names.

        `tensor` and `checked` are matterport's; a Keras 3 graph is searched by name alone.
        """
        with eager_mode():
            return activations.find_tensor(self, re.sub(r"^/|/$", "", name))

    def find_trainable_layer(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """The layer inside a wrapper, or the layer itself."""
        return self.find_trainable_layer(layer.layer) if hasattr(layer, "layer") else layer

    def get_trainable_layers(self) -> list:
        """All layers with weights, unwrapped."""
        return [layer for layer in map(self.find_trainable_layer, self.layers) if layer.get_weights()]

    def get_imagenet_weights(self) -> str:
        """Path of this backbone's ImageNet weights: of ResNet-50 (downloaded once), or of an installed package."""
        return imagenet_weights(self.config)

    def _make_predict_function(self) -> None:
        """Does nothing: Keras 3 makes it when needed. TF1 web servers called this before they started threads."""
