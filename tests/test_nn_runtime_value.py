"""Thresholds that change between calls: they take effect without a new trace, and are state but not weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from kit import numpy

from mrcnn.nn.convolution import Conv2D
from mrcnn.nn.detections import DetectionLayer
from mrcnn.nn.folding import fold_batchnorm
from mrcnn.nn.norm import BatchNorm
from mrcnn.nn.proposals import ProposalLayer
from mrcnn.nn.runtime_value import RuntimeValue, RuntimeValueLayer
from mrcnn.ops.meta import compose_image_meta

# A and B overlap with IoU 0.45 / 0.55 = 0.818.
A, B = [0, 0, 0.5, 1], [0.05, 0, 0.55, 1]
META = compose_image_meta(0, (101, 101, 3), (101, 101, 3), (0, 0, 101, 101), 1.0, [1, 1])
INPUTS = [
    np.array([[A, B]], "float32"),
    np.array([[[0.2, 0.8], [0.4, 0.6]]], "float32"),
    np.zeros((1, 2, 2, 4), "float32"),
    np.array([META], "float32"),
]
TRACES_ONCE = keras.backend.backend() in ("tensorflow", "jax")  # PyTorch runs `call` each time


@keras.saving.register_keras_serializable(package="tests")
class CountTraces(layers.Layer):
    """Passes its input on and counts how often `call` runs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def call(self, x):
        self.count += 1
        return x


def detection_model():
    inputs = [keras.Input(x.shape[1:]) for x in INPUTS]
    counter, layer = CountTraces(), DetectionLayer(max_instances=2, min_confidence=0.5, nms_threshold=0.9)
    return keras.Model(inputs, layer([counter(inputs[0]), *inputs[1:]])), layer, counter


def scores(detections):
    return [round(float(score), 3) for score in numpy(detections)[0, :, 5]]


def test_predict_and_call_follow_the_thresholds_without_a_new_trace():
    model, layer, counter = detection_model()
    assert scores(model.predict(INPUTS, verbose=0)) == [0.8, 0.6]
    assert scores(model.predict_on_batch(INPUTS)) == [0.8, 0.6]
    traces = counter.count
    for thresholds, expected in [((0.7, 0.9), [0.8, 0]), ((0.5, 0.7), [0.8, 0]), ((0.9, 0.9), [0, 0]),
                                 ((None, 0.9), [0.8, 0.6]), ((0, 0), [0.8, 0])]:  # fmt: skip
        layer.set_thresholds(*thresholds)
        assert (layer.min_confidence, layer.nms_threshold) == (thresholds[0] or 0, thresholds[1])
        assert scores(model.predict(INPUTS, verbose=0)) == expected, thresholds
        assert scores(model.predict_on_batch(INPUTS)) == expected, thresholds
    assert counter.count == traces or not TRACES_ONCE
    assert scores(model(INPUTS)) == [0.8, 0]


def test_the_proposal_layer_follows_its_threshold():
    anchors, probs = keras.Input((2, 4)), keras.Input((2, 2))
    layer = ProposalLayer(2, 0.9)
    model = keras.Model([probs, anchors], layer([probs, layers.Lambda(lambda x: 0 * x)(anchors), anchors]))
    found = [numpy(model.predict_on_batch([INPUTS[1], INPUTS[0]]))]
    layer.set_thresholds(0.7)
    found.append(numpy(model.predict_on_batch([INPUTS[1], INPUTS[0]])))
    np.testing.assert_allclose(found, [[[A, B]], [[A, [0] * 4]]], atol=1e-6)


def test_thresholds_are_state_but_not_weights():
    model, layer, _ = detection_model()
    assert model.count_params() == 0 and model.weights == layer.weights == []
    assert sorted(v.name for v in model.non_trainable_variables) == ["min_confidence", "nms_groups", "nms_threshold"]
    assert len({v.path for v in model.variables}) == 3 and not model.trainable_variables
    layer.trainable = False
    assert len(layer.non_trainable_variables) == 3


def test_a_saved_model_has_the_thresholds_last_set(tmp_path):
    model, layer, _ = detection_model()
    layer.set_thresholds(0.7, 0.9, [0, 0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert scores(loaded.predict_on_batch(INPUTS)) == [0.8, 0] and loaded.layers[-1].nms_groups == [0, 0]
    assert keras.models.clone_model(model).layers[-1].get_config()["min_confidence"] == 0.7


def test_weights_files_do_not_contain_thresholds(tmp_path):
    model, layer, _ = detection_model()
    model.save_weights(tmp_path / "a.weights.h5")
    layer.set_thresholds(0.7, 0.9)
    model.load_weights(tmp_path / "a.weights.h5")
    assert layer.min_confidence == 0.7 and scores(model.predict_on_batch(INPUTS)) == [0.8, 0]


def test_models_sharing_layers_follow_the_same_thresholds():
    image = keras.Input((4, 4, 1))
    x = BatchNorm(train_bn=False)(Conv2D(8, 4)(image))
    boxes = layers.Activation("sigmoid")(layers.Reshape((2, 4))(x))
    probs, meta = keras.Input((2, 2)), keras.Input((14,))
    zeros = layers.Reshape((2, 2, 4))(layers.Concatenate()([layers.Lambda(lambda b: 0 * b)(boxes)] * 2))
    layer = DetectionLayer(max_instances=2, min_confidence=0.5)
    inputs, outputs = [image, probs, meta], layer([boxes, probs, zeros, meta])
    models = [keras.Model(inputs, outputs), fold_batchnorm(inputs, outputs)]
    assert any("folded" in inner.name for inner in models[1].layers)
    batch = [np.zeros((1, 4, 4, 1), "float32"), INPUTS[1], INPUTS[3]]
    assert [model.predict_on_batch(batch)[0, 0, 5] for model in models] == pytest.approx([0.8] * 2)
    layer.set_thresholds(0.9, 0.3)
    assert [model.predict_on_batch(batch)[0, 0, 5] for model in models] == [0, 0]


def test_a_runtime_value_keeps_float32_under_mixed_precision():
    class Add(RuntimeValueLayer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.value = RuntimeValue(0.3, "value")

        def call(self, x):
            return keras.ops.cast(x, "float32") * 0 + self.value.tensor()

    assert numpy(Add(dtype="mixed_bfloat16")(np.ones((1, 1), "float32")))[0, 0] == np.float32(0.3)
