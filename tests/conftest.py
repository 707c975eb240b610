"""Settings and fixtures for all tests: the backend, matplotlib without a screen, and the location of test data."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

# Before anything imports Keras, matplotlib or TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # tests on JAX compile more than they compute

import numpy as np
import pytest

SLOW = "slow: takes minutes; run with --slow"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (about 30 minutes more)")
    parser.addoption("--long", action="store_true", help="break 100,000 files instead of 2,000 in tests/fuzz")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=SLOW))


def pytest_collection_finish(session):
    """Keeps the garbage collector from looking through all imported modules, a tenth of the time of many tests."""
    gc.collect()
    gc.freeze()


ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = Path(os.environ.get("MRCNN_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real datasets beside the repository. The test is skipped where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data: {SHARED / 'data'} does not exist (set MRCNN_SHARED to its parent folder)")
    return SHARED


@pytest.fixture(scope="session")
def golden():
    """`golden("utils_golden.npz")`: what the reference gave, as a dict of arrays; of a json file, what it holds."""

    def load(name: str) -> dict:
        path = GOLDEN / name
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture
def run():
    """Runs the command `mrcnn` in this process: `run("info", "shapes").stdout`, `.stderr`, `.exit_code`."""
    from typer.testing import CliRunner

    from mrcnn import cli

    def invoke(*arguments, **options):
        return CliRunner().invoke(cli.app, list(map(str, arguments)), prog_name="mrcnn", **options)

    return invoke
