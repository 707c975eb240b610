"""Checks that `test_backends` runs in a process with another backend, in addition to the tests of the layers.

It compares with `MRCNN_REFERENCE`, a folder with weight files and TensorFlow's results from `test_backends`.
"""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_run import LAYERS, STEADY, run
from test_weights import assert_equal_weights, fill, small_model

from mrcnn import weights

REFERENCE = Path(os.environ["MRCNN_REFERENCE"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of TensorFlow and of this backend."""
    path = tmp_path_factory.mktemp("results") / "here.npz"
    run(str(REFERENCE / "tiny.weights.h5"), str(path))
    return dict(np.load(REFERENCE / "here.npz")), dict(np.load(path))


def test_detections_are_the_same(results):
    expected, found = results
    assert expected.keys() == found.keys()
    for i in range(3):
        assert len(expected[f"detect{i}_rois"]) > 0
        np.testing.assert_array_equal(found[f"detect{i}_class_ids"], expected[f"detect{i}_class_ids"])
        np.testing.assert_allclose(found[f"detect{i}_rois"], expected[f"detect{i}_rois"], atol=1)
        np.testing.assert_allclose(found[f"detect{i}_scores"], expected[f"detect{i}_scores"], atol=1e-3)
        assert np.mean(found[f"detect{i}_masks"] != expected[f"detect{i}_masks"]) < 0.01


def test_losses_and_gradients_are_the_same(results):
    expected, found = results
    for name in STEADY:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    for layer in LAYERS:
        gradient = expected[f"gradient_{layer}"]
        atol = 1e-3 * np.abs(gradient).max()
        np.testing.assert_allclose(found[f"gradient_{layer}"], gradient, atol=atol, err_msg=layer)


def test_it_trains(results):
    _, found = results
    histories = [name for name in found if name.startswith("history")]
    assert histories
    for name in histories:
        assert found[name].shape == (2,) and np.isfinite(found[name]).all(), name


def test_weight_files_are_exchanged(tmp_path):
    path = REFERENCE / "matterport.h5"
    model, other = small_model(), small_model()
    fill(other, 4)
    weights.load_weights_by_name(model, path, require_all=True)
    weights.save_matterport_h5(model, tmp_path / "again.h5")
    weights.load_weights_by_name(other, tmp_path / "again.h5")
    assert_equal_weights(model, other)
    total = float(np.load(REFERENCE / "conv1_sum.npy"))
    assert float(model.get_layer("conv1").get_weights()[0].sum()) == total
    assert keras.backend.backend() != "tensorflow"
