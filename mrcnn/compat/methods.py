"""Methods of `MaskRCNN` that only scripts written for matterport's class need. `MaskRCNN` inherits them."""

from __future__ import annotations

import os
import re
from functools import wraps

import keras
import numpy as np

from mrcnn.compat.tf1 import eager_mode
from mrcnn.graph import INFERENCE_OUTPUTS, MODES, build_model, detector_graph_of
from mrcnn.inference import activations
from mrcnn.inference.results import Detections


def eagerly(method):
    """Decorator: lets a method run inside TensorFlow 1's `with graph.as_default():` (see `mrcnn.compat.tf1`)."""

    @wraps(method)
    def run(*args, **kwargs):
        with eager_mode():
            return method(*args, **kwargs)

    return run


def follows_settings(method):
    """Decorator of Keras's methods: changed settings take effect in this call, or are refused by name."""

    @eagerly
    @wraps(method)
    def run(self, *args, **kwargs):
        self._follow_settings(method.__name__)
        return method(self, *args, **kwargs)

    return run


def or_torch_train(method):
    """Decorator of `train`. With the PyTorch backend a model is a `torch.nn.Module`, which has `train(mode=True)`."""

    @wraps(method)
    def train(self, *args, **kwargs):
        from_torch = not kwargs and len(args) <= 1 and all(isinstance(mode, bool) for mode in args)
        if from_torch and keras.backend.backend() == "torch":
            return super(type(self), self).train(*args)
        return method(self, *args, **kwargs)

    return train


def refuse_in_fork(model) -> None:
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


def without_anchors(model, x):
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


def detect_by_methods(model, images) -> list[Detections]:
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


def overridden(model, cls, *names: str) -> list[str]:
    """The given methods that a subclass of `cls` overrides."""
    return [name for name in names if getattr(type(model), name) is not getattr(cls, name)]


def keep_keras_build(cls) -> None:
    """Called for each subclass: one that overrides matterport's `build(mode, config)` keeps Keras's `build` as well."""
    own = cls.__dict__.get("build")
    if own is None:
        return

    def dispatch(self, *args, **kwargs):
        mode = kwargs.get("mode", args[0] if args else None)
        return own(self, *args, **kwargs) if isinstance(mode, str) else keras.Model.build(self, *args, **kwargs)

    dispatch.__name__, dispatch.__doc__ = "build", own.__doc__  # not its signature, by which Keras calls `build`
    cls.build = dispatch


def graph_of_own_build(model, mode: str, config) -> tuple:
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


def detector_of_own_build(model, config) -> tuple[list, list]:
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


def check_mode(mode) -> None:
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
    def keras_model(self):
        return self

    def __dir__(self):
        # Keras finds what to save through `dir`: it would follow `keras_model` endlessly, and other versions of this
        # package don't have `training_inputs`, which has no weights.
        return [name for name in super().__dir__() if name not in ("keras_model", "training_inputs")]

    def save(self, filepath, *args, **kwargs):
        """Keras's `save`, to a `.keras` file."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"{filepath}: a MaskRCNN is not saved as a whole to HDF5, which Keras 3 could not load again. Save it"
                " to a .keras file, or its weights with save_weights('x.h5')."
            )
        super().save(filepath, *args, **kwargs)

    def fit_generator(self, generator, steps_per_epoch=None, epochs=1, **kwargs):
        """Keras 2's name of `fit`."""
        return self.fit(generator, steps_per_epoch=steps_per_epoch, epochs=epochs, **kwargs)

    def build(self, *args, **kwargs):
        """Keras's `build(input_shape)`; or matterport's `build(mode, config)`: a new graph as a plain keras.Model."""
        mode, config = kwargs.get("mode", args[0] if args else None), kwargs.get("config", args[-1] if args else None)
        if isinstance(mode, str) and mode in MODES:
            return build_model(mode, config)
        return keras.Model.build(self, *args, **kwargs)

    def ancestor(self, tensor, name: str, checked=None):
        """The symbolic tensor `name` of this model, or None. `mrcnn.inference.activations` lists the names.

        `tensor` and `checked` are matterport's; a Keras 3 graph is searched by name alone.
        """
        with eager_mode():
            return activations.find_tensor(self, re.sub(r"^/|/$", "", name))

    def find_trainable_layer(self, layer):
        """The layer inside a wrapper, or the layer itself."""
        return self.find_trainable_layer(layer.layer) if hasattr(layer, "layer") else layer

    def get_trainable_layers(self) -> list:
        """All layers with weights, unwrapped."""
        return [layer for layer in map(self.find_trainable_layer, self.layers) if layer.get_weights()]

    def _make_predict_function(self) -> None:
        """Does nothing: Keras 3 makes it when needed. TF1 web servers called this before they started threads."""
