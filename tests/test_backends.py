"""The same network on JAX and PyTorch: each in a process of its own, as Keras has one backend a process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_run import LAYERS, STEADY, run
from kit import model_layer, tiny_model

TESTS = Path(__file__).parent
OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != keras.backend.backend()]


def in_process_of(backend, *command) -> str:
    """Runs Python with that backend; its output. Skips where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed (pip install -e '.[test]' brings it)")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=TESTS.parent, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800)  # fmt: skip
    assert done.returncode == 0, f"{backend}: {' '.join(map(str, command))}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A weight file, and what this process's backend makes of it."""
    folder = tmp_path_factory.mktemp("backends")
    weights, result = folder / "tiny.weights.h5", folder / "here.npz"
    model = tiny_model("inference", folder, seed=7)
    # Small, or else many probabilities are exactly 1 and which box comes first is a matter of rounding.
    for i, name in enumerate(("rpn_class_raw", "rpn_bbox_pred", "mrcnn_class_logits", "mrcnn_bbox_fc")):
        layer = model_layer(model, name)
        kernel = layer.weights[0]
        kernel.assign(1e-3 * np.random.default_rng(i).normal(size=kernel.shape))
    model_layer(model, "mrcnn_class_logits").weights[1].assign(np.array([-2.0, 0, 0]))  # background is unlikely
    model.save_weights(str(weights))
    run(str(weights), str(result))
    return weights, dict(np.load(result))


@pytest.mark.parametrize("backend", OTHERS)
def test_detections_losses_and_gradients_are_the_same_and_it_trains(here, backend, tmp_path):
    weights, ours = here
    in_process_of(backend, TESTS / "backend_run.py", weights, tmp_path / "there.npz")
    theirs = dict(np.load(tmp_path / "there.npz"))
    assert ours.keys() == theirs.keys()
    for i in range(3):
        assert len(ours[f"detect{i}_rois"]) > 0
        np.testing.assert_array_equal(theirs[f"detect{i}_class_ids"], ours[f"detect{i}_class_ids"])
        np.testing.assert_allclose(theirs[f"detect{i}_rois"], ours[f"detect{i}_rois"], atol=1)
        np.testing.assert_allclose(theirs[f"detect{i}_scores"], ours[f"detect{i}_scores"], atol=1e-3)
        assert np.mean(theirs[f"detect{i}_masks"] != ours[f"detect{i}_masks"]) < 0.01
    for name in STEADY:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, err_msg=name)
    for layer in LAYERS:
        expected = ours[f"gradient_{layer}"]
        np.testing.assert_allclose(
            theirs[f"gradient_{layer}"], expected, atol=1e-3 * np.abs(expected).max(), err_msg=layer
        )
    for name in (name for name in theirs if name.startswith("history")):
        assert theirs[name].shape == (2,) and np.isfinite(theirs[name]).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_golden_data_and_layers(backend):
    """1 to 2 minutes each: the layers' own tests, and the reference's numbers stage by stage."""
    layers = sorted(TESTS.glob("test_nn_*.py"))
    out = in_process_of(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / "test_golden.py", *layers)
    assert " passed" in out and " skipped" not in out
