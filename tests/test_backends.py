"""The same network on JAX and PyTorch. A process has one Keras backend, so each backend runs in a separate process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_run import run
from kit import spread_scores, tiny_model
from test_weights import fill, small_model

from mrcnn import weights

TESTS = Path(__file__).parent
OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != keras.backend.backend()]
FILES = [
    "backend_checks.py", "test_golden.py", "test_golden_torch.py", "test_nms.py", "test_roi_align.py",
    "test_ops_boxes.py",
]  # fmt: skip
# With --slow only. Their numbers are part of the golden data, and on JAX they compile for four minutes.
SLOW_FILES = (
    "test_nn_anchors.py", "test_nn_backbones.py", "test_nn_detections.py", "test_nn_heads.py", "test_nn_losses.py",
    "test_nn_targets.py",
)  # fmt: skip
# Of matterport's ResNet-50 the outputs and `detect`; stage by stage, other backends run torchvision's and detectron2's.
QUICK = (
    "not (test_golden and (resnet101 or full)) and not finite_differences"
    " and not (every_stage_agrees and resnet50) and not number_of_parameters"
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with weight files and the results of this process's backend."""
    folder = tmp_path_factory.mktemp("reference")
    path = folder / "tiny.weights.h5"
    model = tiny_model("inference", folder, seed=7)
    spread_scores(model)
    model.save_weights(str(path))
    run(str(path), str(folder / "here.npz"))
    model = small_model()
    fill(model, 3)
    weights.save_matterport_h5(model, folder / "matterport.h5")
    np.save(folder / "conv1_sum.npy", model.get_layer("conv1").get_weights()[0].sum())
    return folder


@pytest.mark.parametrize("backend", OTHERS)
def test_layers_golden_data_and_results_agree_on_every_backend(backend, reference, request):
    """The layers' own tests, the golden data, and detections, losses, gradients and files against this backend.

    Of the golden networks the smaller ones, and without `SLOW_FILES`; all with --slow.
    """
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed (pip install -e '.[test]' brings it)")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "MRCNN_REFERENCE": reference}
    if backend == "jax":  # some tests share a batch between two devices
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=2"
    slow = request.config.getoption("--slow")
    layers = [path for path in sorted(TESTS.glob("test_nn_*.py")) if slow or path.name not in SLOW_FILES]
    files = [*(TESTS / name for name in FILES), *layers]
    chosen = [] if slow else ["-k", QUICK]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen, *map(str, files)]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, text=True, timeout=1800,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == 0, f"{backend}\n{done.stdout[-6000:]}"
    assert " passed" in done.stdout
