"""Two processes train like one process with the whole batch: JAX, `keras.distribution`, gloo.

Each loads its half of every batch. docs/scaling.md says how such a training is started on real machines.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from devices_run import assert_same, in_two_processes, on_one_and_two_devices

if importlib.util.find_spec("jax") is None:
    pytest.skip("jax is not installed (pip install -e '.[test]' brings it)", allow_module_level=True)


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_whole_batch(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "two_processes"
    first, second = in_two_processes(folder)
    assert first["devices"] == second["devices"] == 2
    for name in (name for name in first if name.startswith(("history_", "weight_"))):
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
    alone, _ = on_one_and_two_devices("jax", tmp_path_factory.getbasetemp() / "devices_jax")
    for process in (first, second):
        assert_same(alone, process)

    (run,) = (path for path in (folder / "process0").iterdir() if path.is_dir())
    assert sorted(path.name for path in run.iterdir()) == ["last.train.h5", "losses.csv", "mask_rcnn_tiny_0001.h5"]
