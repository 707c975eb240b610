"""BatchNorm folded into convolutions gives the same numbers, also after the weights change."""

from __future__ import annotations

import weakref

import keras
import numpy as np
import pytest
from keras import layers
from kit import numpy, photo, tiny_model

from mrcnn.keras_private import free_outputs_early
from mrcnn.model import INFERENCE_OUTPUTS
from mrcnn.nn.folding import FoldedConv2D, fold_batchnorm
from mrcnn.nn.heads import WholeConv2D
from mrcnn.nn.norm import BatchNorm, TimeDistributed

SHAPE = (2, 8, 8, 3)


def randomize(model, seed=0):
    """Weights as after training: no BatchNorm is the identity, and variances are positive."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) * (1 if "moving_var" in w.path else rng.choice([-1, 1], w.shape))
                       for w in model.weights])  # fmt: skip


def folded_and_not(build):
    """The outputs of a graph, and of its folded twin, on random numbers; and the twin."""
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, build(inputs))
    randomize(model)
    twin = fold_batchnorm(model.inputs, model.outputs)
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    return numpy(model(x, training=False)), numpy(twin([x], training=False)), twin


def kinds(model) -> list:
    return [type(layer) for layer in model.layers]


def test_a_hand_computed_convolution():
    # One pixel, one channel: conv gives 3 * 2 + 1 = 7; BatchNorm (7 - 5) / sqrt(4) * 10 + 0.5 = 10.5.
    conv, norm = layers.Conv2D(1, 1), BatchNorm(epsilon=0)
    conv.build((None, 1, 1, 1))
    norm.build((None, 1, 1, 1))
    conv.set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    norm.set_weights([np.array([10.0]), np.array([0.5]), np.array([5.0]), np.array([4.0])])
    result = numpy(FoldedConv2D(conv, norm)(np.full((1, 1, 1, 1), 3.0, "float32")))
    assert result.item() == pytest.approx(10.5)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda x: BatchNorm()(layers.Conv2D(5, 3, strides=2)(x)), "plain"),
        (lambda x: BatchNorm()(layers.Conv2D(5, 3, padding="same", use_bias=False)(x)), "no bias"),
        (lambda x: BatchNorm(train_bn=False)(layers.Conv2D(5, 1, dilation_rate=1)(x)), "pinned to running statistics"),
        (lambda x: layers.BatchNormalization(scale=False)(layers.Conv2D(5, 3)(x)), "Keras's own, no gamma"),
        (lambda x: layers.BatchNormalization(center=False)(layers.Conv2D(5, 3)(x)), "no beta"),
        (lambda x: BatchNorm()(layers.DepthwiseConv2D(3, padding="same")(x)), "MobileNetV2's"),
    ],
)
def test_the_same_numbers_without_batchnorm(build, why):
    plain, folded, twin = folded_and_not(build)
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-4)
    assert FoldedConv2D in kinds(twin) and not {BatchNorm, layers.BatchNormalization} & set(kinds(twin)), why


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda x: BatchNorm(train_bn=True)(layers.Conv2D(5, 3)(x)), "batch statistics even when detecting"),
        (lambda x: BatchNorm()(layers.Conv2D(5, 3, activation="relu")(x)), "ReLU stands in between"),
        (lambda x: BatchNorm()(layers.MaxPooling2D()(x)), "no convolution"),
        (lambda x: BatchNorm()(WholeConv2D(4, 8)(x)), "the class head's: more numbers in the kernel than in the map"),
        (lambda x: BatchNorm(axis=1)(layers.Conv2D(5, 3)(x)), "normalizes rows, not channels"),
        (lambda x: BatchNorm()(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)), "another layout of the kernel"),
    ],
)
def test_batchnorms_that_cannot_be_folded_are_kept(build, why):
    plain, folded, twin = folded_and_not(build)
    np.testing.assert_allclose(folded, plain, rtol=1e-5, atol=1e-5)
    assert FoldedConv2D not in kinds(twin), why


def test_a_shared_convolution_keeps_its_output():
    def build(x):
        x = layers.Conv2D(5, 3)(x)
        return layers.Concatenate()([x, BatchNorm()(x)])

    plain, folded, _ = folded_and_not(build)
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-4)


def test_layers_applied_per_roi_are_folded():
    rois = keras.Input((4, 7, 7, 3))
    x = TimeDistributed(layers.Conv2D(5, 7), name="conv")(rois)
    model = keras.Model(rois, TimeDistributed(BatchNorm(), name="norm")(x))
    randomize(model)
    twin = fold_batchnorm(model.inputs, model.outputs)
    x = np.random.default_rng(1).normal(size=(2, 4, 7, 7, 3)).astype("float32")
    np.testing.assert_allclose(numpy(twin([x])), numpy(model(x)), rtol=1e-4, atol=1e-4)
    assert "norm_folded" in [layer.name for layer in twin.layers]


def test_the_detector_shares_the_models_weights(tmp_path):
    model = tiny_model("inference", tmp_path)
    images, metas, _ = model.mold_inputs([photo()])
    arrays = [images, metas.astype("float32")]
    before = model.detector()(arrays, training=False)
    assert {id(w) for w in model.detector().weights} <= {id(w) for w in model.weights}
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "moving" in weight.path or weight.path.endswith(("gamma", "beta")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    detections, masks = (numpy(x) for x in model.detector()(arrays, training=False))
    assert np.abs(masks - numpy(before[1])[:, : masks.shape[1]]).max() > 0.01
    outputs = dict(zip(INFERENCE_OUTPUTS, map(numpy, model(arrays, training=False)), strict=True))
    np.testing.assert_allclose(detections, outputs["mrcnn_detection"], rtol=1e-3, atol=1e-4)
    class_ids = detections[0, :, 4].astype(int)
    found = np.count_nonzero(class_ids)
    assert found
    of_class = outputs["mrcnn_mask"][0, np.arange(found), :, :, class_ids[:found]]
    np.testing.assert_allclose(masks[0, :found], of_class, rtol=1e-3, atol=1e-4)


def test_a_convolution_as_large_as_its_input_is_a_matrix_product():
    x = np.random.default_rng(0).normal(size=(3, 7, 7, 4)).astype("float32")
    ours, keras_own = WholeConv2D(6, 7), layers.Conv2D(6, 7)
    for layer in (ours, keras_own):
        layer.build(x.shape)
    ours.set_weights(keras_own.get_weights())
    np.testing.assert_allclose(numpy(ours(x)), numpy(keras_own(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="used under PyTorch; JAX's arrays can't hold the token")
def test_outputs_are_freed_after_their_last_use():
    """Under PyTorch, all activations of a detection were kept until its end: 1 GB at 512 x 512."""
    alive, counts = weakref.WeakSet(), []

    class Token:
        """Lives as long as the tensor that holds it."""

    class Watch(layers.Layer):
        def call(self, x):
            y = x + 1
            y.token = Token()
            counts.append(len(alive))
            alive.add(y.token)
            return y

    inputs = x = keras.Input((4,))
    for _ in range(6):
        x = Watch()(x)
    model = keras.Model(inputs, x)
    for free in (False, True):
        counts.clear()
        if free:
            free_outputs_early(model)
        assert numpy(model(np.zeros((1, 4), "float32"))).tolist() == [[6] * 4]
        assert counts[-1] - counts[0] == (1 if free else 5)
