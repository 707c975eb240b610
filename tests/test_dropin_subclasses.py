"""Scripts that subclass `MaskRCNN`, copy the body of `train`, or use names and inputs of matterport's page."""

from __future__ import annotations

import os
import signal

import keras
import numpy as np
import pytest
from kit import Squares, photo, spread_scores, tiny_config, tiny_model

from mrcnn import model as modellib
from mrcnn.config import Config


@pytest.fixture(scope="module")
def inference(tmp_path_factory):
    model = tiny_model("inference", tmp_path_factory.mktemp("logs"))
    spread_scores(model)
    return model


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_model("training", tmp_path_factory.mktemp("logs"))


# ---- Names -----------------------------------------------------------------------------------------------------------
def test_a_star_import_brings_the_modules_that_scripts_use():
    names: dict = {}
    exec("from mrcnn.model import *", names)
    for name in ("MaskRCNN", "utils", "os", "re", "random", "logging", "multiprocessing", "OrderedDict", "np", "log"):
        assert name in names
    assert names["KL"] is keras.layers and names["KE"].Layer is keras.Layer and names["KM"].Model is keras.Model
    if keras.backend.backend() == "tensorflow":
        assert names["K"].int_shape(names["tf"].zeros((2, 3))) == (2, 3)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        modellib.nothing  # noqa: B018


# ---- Overridden methods ----------------------------------------------------------------------------------------------
def test_overridden_methods_are_called(tmp_path):
    calls = []

    class Own(modellib.MaskRCNN):
        def build(self, mode, config):
            calls.append("build")
            return super().build(mode, config)

        def mold_inputs(self, images):
            calls.append("mold_inputs")
            return super().mold_inputs(images)

        def get_anchors(self, image_shape):
            calls.append("get_anchors")
            return super().get_anchors(image_shape)

        def unmold_detections(self, *args):
            calls.append("unmold_detections")
            return super().unmold_detections(*args)

    model = Own("inference", tiny_config(), str(tmp_path))
    spread_scores(model)
    (found,) = model.detect([photo()])
    assert {"build", "mold_inputs", "get_anchors", "unmold_detections"} <= set(calls)
    assert found["masks"].shape == (64, 64, len(found["rois"])) and len(found["rois"]) > 0


def test_an_overridden_method_changes_what_is_detected(inference, tmp_path):
    class Dark(modellib.MaskRCNN):
        def mold_inputs(self, images):
            return super().mold_inputs([np.zeros_like(image) for image in images])

    model = Dark("inference", inference.config, str(tmp_path))
    model.set_weights(inference.get_weights())
    (dark,), (expected,) = model.detect([photo()]), inference.detect([np.zeros_like(photo())])
    np.testing.assert_allclose(dark["scores"], expected["scores"], atol=1e-5)


def test_a_build_that_returns_another_network_is_refused(tmp_path):
    class Own(modellib.MaskRCNN):
        def build(self, mode, config):
            image = keras.Input((64, 64, 3))
            return keras.Model(image, keras.layers.Flatten()(image))

    with pytest.raises(TypeError, match=r"Own\.build returned .* Call super\(\)\.build\(mode, config\)"):
        Own("inference", tiny_config(), str(tmp_path))


def test_train_calls_an_overridden_compile_with_rate_and_momentum(tmp_path):
    seen = []

    class Own(modellib.MaskRCNN):
        def compile(self, learning_rate, momentum):
            seen.append((learning_rate, momentum))
            super().compile(learning_rate, momentum)

    model = Own("training", tiny_config(STEPS_PER_EPOCH=1, VALIDATION_STEPS=0), str(tmp_path))
    model.train(Squares(2), None, 0.002, 1, "heads")
    assert seen == [(0.002, Config.LEARNING_MOMENTUM)]


# ---- A copied body of `train` ----------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:`shuffle=True`")
def test_a_copied_train_body_runs(trainer, tmp_path):
    generator = modellib.data_generator(Squares(3), trainer.config, shuffle=True, batch_size=trainer.config.BATCH_SIZE)
    path = os.path.join(tmp_path, "mask_rcnn_{epoch:04d}.h5")
    callbacks = [keras.callbacks.ModelCheckpoint(path, verbose=0, save_weights_only=True)]
    trainer.compile(0.001, 0.9)
    with pytest.warns(UserWarning, match="fit ignores max_queue_size, use_multiprocessing"):
        trainer.keras_model.fit(
            generator, initial_epoch=0, epochs=1, steps_per_epoch=1, callbacks=callbacks, validation_data=generator,
            validation_steps=1, max_queue_size=100, workers=0, use_multiprocessing=True, verbose=0,
        )  # fmt: skip
    trainer.load_weights(os.path.join(tmp_path, "mask_rcnn_0001.h5"), by_name=True)
    history = trainer.keras_model.fit_generator(generator, steps_per_epoch=1, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_filters_by_class_find_the_convolutions_of_the_heads(inference):
    inner = {layer.name: layer.layer for layer in inference.layers if layer.__class__.__name__ == "TimeDistributed"}
    assert all(isinstance(inner[f"mrcnn_class_conv{i}"], keras.layers.Conv2D) for i in (1, 2))
    by_name = {name for name, layer in inner.items() if layer.__class__.__name__ == "Conv2D"}
    assert {"mrcnn_class_conv1", "mrcnn_class_conv2", "mrcnn_mask_conv1", "mrcnn_mask"} <= by_name


# ---- Inputs and files ------------------------------------------------------------------------------------------------
def test_predict_takes_the_anchors_that_scripts_pass(inference):
    molded, metas, _ = inference.mold_inputs([photo()])
    anchors = inference.get_anchors(molded.shape[1:])[None]
    with_anchors = inference.keras_model.predict([molded, metas, anchors], verbose=0)
    without = inference.predict([molded, metas], verbose=0)
    np.testing.assert_array_equal(with_anchors[0], without[0])
    with pytest.raises(ValueError, match="anchors of shape .* differ from those of the settings"):
        inference.predict([molded, metas, anchors * 0.5], verbose=0)


def test_saving_a_whole_model_to_hdf5_is_refused_with_advice(inference, tmp_path):
    with pytest.raises(ValueError, match=r"\.keras file, or its weights"):
        inference.save(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_clone_model_says_how_to_copy(inference):
    with pytest.raises(ValueError, match="clone_model can't copy this model"):
        keras.models.clone_model(inference)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:os.fork:RuntimeWarning")
def test_a_forked_process_raises_instead_of_hanging(inference):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hanging child is killed and fails the test
        try:
            inference.detect([photo()])
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# ---- Layers of a backbone of the user's ------------------------------------------------------------------------------
@pytest.mark.parametrize(("layers", "trains"), [("heads", ""), ("5+", "5"), ("4+", "45"), ("3+", "345")])
def test_stages_of_a_callable_backbone_are_numbered_in_order(layers, trains, tmp_path):
    def backbone(image, architecture, stage5=True, train_bn=None):
        stages = [image]
        for i in range(1, 6):
            stages.append(keras.layers.Conv2D(4, 3, 2, padding="same", activation="relu", name=f"own_{i}")(stages[-1]))
        return stages[1:]

    config = tiny_config(BACKBONE=backbone, STEPS_PER_EPOCH=1, VALIDATION_STEPS=0)
    model = modellib.MaskRCNN("training", config, str(tmp_path))
    model.train(Squares(2), None, 0.001, epochs=0, layers=layers)
    assert "".join(str(i) for i in range(1, 6) if model.get_layer(f"own_{i}").trainable) == trains
