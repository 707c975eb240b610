"""`mrcnn.scale` with two Ray workers on this machine, one of which is killed: detection and training. Minutes.

pip install -e '.[test,ray]'; pytest --slow tests/test_scale_ray.py
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="pip install -e '.[ray]' brings it")

from test_scale import SMALL, draw_photos

from mrcnn.scale import detect_dataset, read_detections, read_errors, train_with_ray
from mrcnn.weights.train_state import STATE_FILE, read_position

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent
QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS)))  # of this mrcnn and of `kit`
    environment = {"PYTHONPATH": paths, "XLA_FLAGS": QUICK_COMPILE}
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000,
        runtime_env={"env_vars": environment},
    )  # fmt: skip
    yield
    ray.shutdown()


def worker_processes() -> list[int]:
    """The processes of `ShardWorker`s, which Ray names after them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "cmdline").exists():
            name = (entry / "cmdline").read_bytes()
            if name.startswith(b"ray::") and b"ShardWorker" in name:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_loses_and_doubles_nothing(tmp_path):
    from mrcnn.model import MaskRCNN

    photos = draw_photos(tmp_path / "photos", 8)
    paths = {f"{n}-{i}": path for n in range(20) for i, path in enumerate([*photos, tmp_path / "missing.png"])}
    out, killed = tmp_path / "found.parquet", []

    def kill_one():
        while len(list(out.glob("part-*.parquet"))) < 2:
            time.sleep(0.02)
        killed.append(worker_processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    done = detect_dataset(paths, "shapes", out, workers=2, shard_size=9, settings=SMALL)
    killer.join(10)
    assert len(killed) == 1
    assert (done.images, done.errors, done.shards) == (180, 20, 20)
    found = list(read_detections(out))
    assert [i for i, _ in found] == [i for i in paths if not i.endswith("-8")]  # each once, in order
    assert set(read_errors(out)) == {i for i in paths if i.endswith("-8")}
    model = MaskRCNN.from_preset("shapes", IMAGES_PER_GPU=1, **SMALL)
    expected = model.detect(photos)
    assert sum(map(len, expected)) > 0
    for image_id, result in found:
        assert result == expected[int(image_id[-1])]


def train(folder: str, epochs: int, kill: bool) -> None:
    """In each process: a tiny network; with `kill`, process 1 is killed inside the second epoch, once."""
    import numpy as np
    from keras.callbacks import Callback
    from kit import Squares, tiny_model
    from resume_run import everything

    from mrcnn.scale import continue_run

    model = tiny_model("training", folder, GPU_COUNT=2, IMAGES_PER_GPU=1, SEED=None, ADD_GT_TO_PROPOSALS=True)
    continued = continue_run(model)
    begun = model.epoch

    class Kill(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            flag = Path(folder) / "killed"
            at = (self.model.epoch, batch, self.model.devices.process)
            if kill and at == (1, 1, 1) and not flag.exists():
                while read_position(next(Path(folder).glob(f"*/{STATE_FILE}"))) < (1, 1):
                    time.sleep(0.01)  # process 0 is writing it
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    model.train(Squares(9), None, 0.005, epochs, "all", custom_callbacks=[Kill()], save_every_steps=1)
    path = Path(folder) / f"process{model.devices.process}.npz"
    np.savez(path, continued=continued, begun=begun, count=model.devices.count, **everything(model))


def test_a_training_continues_exactly_after_one_of_its_processes_is_killed(tmp_path):
    """Weights and optimizer of both processes, and losses.csv, are those of a training that nobody disturbs."""
    import numpy as np

    pytest.importorskip("jax")

    def results(kill):
        logs = tmp_path / f"logs_{kill}"
        logs.mkdir()
        arguments = {"folder": str(logs), "epochs": 2, "kill": kill}
        train_with_ray(train, workers=2, folder=tmp_path / "ray", arguments=arguments)
        assert (logs / "killed").exists() is kill
        (table,) = logs.rglob("losses.csv")
        return table.read_text(), *(dict(np.load(logs / f"process{n}.npz")) for n in range(2))

    table, first, second = results(kill=True)
    expected_table, expected, _ = results(kill=False)
    assert first["continued"] and not expected["continued"]
    assert first["begun"] == second["begun"] == 1 and first["count"] == 2
    assert [line.split(",")[0] for line in table.splitlines()] == ["epoch", "0", "1"] and table == expected_table
    names = expected.keys() - {"continued", "begun"}
    assert len(names) > 100
    for name in names:
        np.testing.assert_array_equal(first[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(second[name], expected[name], err_msg=name)
