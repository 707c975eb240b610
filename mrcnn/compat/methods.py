"""Methods of `MaskRCNN` that only scripts written for matterport's class need; `mrcnn.model` adds them to the class."""

from __future__ import annotations

import re
from functools import wraps

import keras

from mrcnn.compat.tf1 import eager_mode
from mrcnn.graph import MODES, build_model
from mrcnn.inference import activations


def eagerly(method):
    """Decorator: lets a method run inside TensorFlow 1's `with graph.as_default():` (see `mrcnn.compat.tf1`)."""

    @wraps(method)
    def run(*args, **kwargs):
        with eager_mode():
            return method(*args, **kwargs)

    return run


def follows_settings(method):
    """Decorator of Keras's methods: changed settings take effect in this call, or an error names them."""

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


def build(self, *args, **kwargs):
    """Keras's `build(input_shape)`, or matterport's `build(mode, config)`, which returns a new keras.Model."""
    mode, config = kwargs.get("mode", args[0] if args else None), kwargs.get("config", args[-1] if args else None)
    if isinstance(mode, str) and mode in MODES:
        return build_model(mode, config)
    return keras.Model.build(self, *args, **kwargs)


def ancestor(self, tensor, name: str, checked=None):
    """Returns the symbolic tensor `name` of this model, or None. `mrcnn.inference.activations` lists the names.

    `tensor` and `checked` exist for compatibility; the graph is searched by name only.
    """
    with eager_mode():
        return activations.find_tensor(self, re.sub(r"^/|/$", "", name))


def find_trainable_layer(self, layer):
    """Returns the layer inside a wrapper, or the layer itself."""
    return self.find_trainable_layer(layer.layer) if hasattr(layer, "layer") else layer


def get_trainable_layers(self) -> list:
    """Returns all layers with weights, without their wrappers."""
    return [layer for layer in map(self.find_trainable_layer, self.layers) if layer.get_weights()]


def _make_predict_function(self) -> None:
    """Does nothing; Keras 3 creates the function when needed. TF1 web servers call this before they start threads."""
