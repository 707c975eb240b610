"""Detection under PyTorch: kernels that are kept from call to call, and layers that write into their input."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from kit import numpy

from mrcnn.keras_private import free_outputs_early
from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.folding import FoldedConv2D, fold_batchnorm
from mrcnn.nn.heads import WholeConv2D
from mrcnn.nn.in_place import write_into_input
from mrcnn.nn.norm import BatchNorm, TimeDistributed

torch_only = pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch runs layers one by one")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def without_gradients(function, *arrays):
    import torch

    with torch.no_grad():
        return numpy(function(*arrays))


# ---- Kernels ---------------------------------------------------------------------------------------------------------
def whole_convolution():
    layer = WholeConv2D(6, 3)
    layer.build((None, 3, 3, 4))
    return layer, [layer.kernel, layer.bias], layer


def folded_convolution():
    conv, norm = Conv2D(6, 3), BatchNorm()
    conv.build((None, 3, 3, 4))
    norm.build((None, 1, 1, 6))
    weights = [conv.kernel, conv.bias, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
    return FoldedConv2D(conv, norm), weights, lambda x: norm(conv(x), training=False)


def assign(weight):
    weight.assign(weight.value + 1.0)


def add_in_place(weight):
    weight.value.add_(1.0)


def write_through_data(weight):
    weight.value.data.add_(1.0)


def replace_data(weight):
    weight.value.data = weight.value.data + 1.0


@torch_only
@pytest.mark.parametrize("change", [assign, add_in_place, write_through_data, replace_data])
@pytest.mark.parametrize("layer_and_weights", [whole_convolution, folded_convolution])
def test_kept_kernels_follow_every_weight(layer_and_weights, change):
    import torch

    layer, weights, expected = layer_and_weights()
    x = torch.from_numpy(pixels(2, 3, 3, 4))
    without_gradients(layer, x)
    for weight in weights:
        with torch.no_grad():
            change(weight)
        result = without_gradients(layer, x)
        np.testing.assert_allclose(result, expected(x).detach().numpy(), rtol=1e-4, atol=1e-4)


@torch_only
@pytest.mark.parametrize(("capability", "kept"), [("AVX512", True), ("AVX2", False)])
def test_the_class_head_is_a_convolution_only_with_avx512(capability, kept, monkeypatch):
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer, *_ = whole_convolution()
    x = torch.from_numpy(pixels(2, 3, 3, 4))
    np.testing.assert_allclose(without_gradients(layer, x), layer(x).detach().numpy(), rtol=1e-5, atol=1e-5)
    assert (layer._kept._kernels is not None) == kept


@torch_only
def test_kernels_are_computed_once():
    import torch

    layer, *_ = folded_convolution()
    x = torch.from_numpy(pixels(2, 3, 3, 4))
    without_gradients(layer, x)
    kept = layer._kept._kernels[0]
    without_gradients(layer, x)
    assert layer._kept._kernels[0] is kept


@torch_only
def test_gradients_flow_to_the_weights_although_kernels_were_kept():
    import torch

    x = torch.from_numpy(pixels(2, 3, 3, 4))
    for layer, weights, _ in (whole_convolution(), folded_convolution()):
        without_gradients(layer, x)
        layer(x).sum().backward()
        assert all(weight.value.grad is not None for weight in weights if weight.trainable)


# ---- Writing into an input -------------------------------------------------------------------------------------------
def residual(x):
    """Its addition and both ReLUs can write into their inputs; x itself is read twice."""
    y = layers.Activation("relu")(BatchNorm()(Conv2D(4, 3, padding="same")(x)))
    return layers.Activation("relu")(layers.Add()([BatchNorm()(Conv2D(4, 1)(y)), x]))


def read_twice(x):
    """The convolution's output is read by the ReLU, the sum, and as an output."""
    y = Conv2D(4, 1)(x)
    return [layers.Add()([layers.Activation("relu")(y), y]), y, layers.Activation("relu")(y)]


def read_before_and_after(x):
    """Dropout returns its input, so its output isn't a map of its own: the ReLU would change what the sum reads."""
    y = Conv2D(4, 1)(x)
    z = layers.Activation("relu")(layers.Dropout(0.5)(y))
    return layers.Add()([z, y])


def other_shapes(x):
    """The sum is larger than its first input."""
    return layers.Add()([Conv2D(4, 1)(layers.AveragePooling2D(8)(x)), Conv2D(4, 1)(x)])


def of_rois(x):
    roi = layers.Reshape((2, 4, 8, 4))(x)
    return layers.Activation("relu")(TimeDistributed(BatchNorm())(TimeDistributed(Conv2D(4, 3))(roi)))


@torch_only
@pytest.mark.parametrize("graph", [residual, read_twice, read_before_and_after, other_shapes, of_rois])
def test_layers_that_write_into_their_input_give_the_same(graph):
    inputs = keras.Input((8, 8, 4))
    outputs = graph(inputs)
    plain = keras.Model(inputs, outputs)
    ours = fold_batchnorm(inputs, outputs)
    free_outputs_early(ours, write_into_input)
    x = pixels(2, 8, 8, 4)
    expected, found = (model.predict_on_batch(x) for model in (plain, ours))
    for one, other in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@torch_only
def test_a_residual_block_makes_no_map_for_relus_and_the_sum():
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    names = []
    inputs = keras.Input((8, 8, 4))
    model = fold_batchnorm(inputs, residual(inputs))
    free_outputs_early(model, write_into_input)
    with torch.no_grad(), Record():
        model(pixels(2, 8, 8, 4))
    assert names.count("aten.relu_.default") == 2 and names.count("aten.add_.Tensor") == 1
    assert "aten.relu.default" not in names


@torch_only
def test_the_network_can_still_be_called_with_symbolic_inputs():
    inputs = keras.Input((8, 8, 4))
    model = fold_batchnorm(inputs, residual(inputs))
    free_outputs_early(model, write_into_input)
    assert model(keras.Input((8, 8, 4))).shape == (None, 8, 8, 4)
