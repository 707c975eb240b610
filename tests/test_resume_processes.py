"""Two processes that train one model: killed and started again, they end exactly as if nothing had happened.

The slow tests start real processes on JAX: 6 minutes of processor time, most of it for imports and XLA.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from devices_run import QUICK_COMPILE
from kit import Squares, numpy, run_eagerly, tiny_model

from mrcnn.distribution import Devices
from mrcnn.training.callbacks import KeptCheckpoints
from mrcnn.training.interrupts import Interrupts
from mrcnn.training.resume import find_state
from mrcnn.weights.train_state import STATE_FILE, is_intact, read_position

EPOCHS = 4  # of two steps
HERE = Path(__file__).parent
slow_on_jax = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="pip install -e '.[test]' brings JAX"),
]


# ---- Starting two processes ------------------------------------------------------------------------------------------
@contextlib.contextmanager
def two_processes(first: Path, second: Path | None = None) -> Iterator[list[subprocess.Popen]]:
    """Runs the training of `resume_run` in two processes with their folders; none is left at the end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = {
        **os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": QUICK_COMPILE, "OMP_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(first.parents[1] / "compiled"),
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }  # fmt: skip
    started = []
    for number, folder in enumerate((first, second or first)):
        folder.mkdir(exist_ok=True)
        with (first.parent / f"output{number}.txt").open("a") as output:
            started.append(subprocess.Popen(
                [sys.executable, str(HERE / "resume_run.py"), str(folder), str(EPOCHS)], stdout=output,
                stderr=subprocess.STDOUT, env={**together, "KERAS_DISTRIBUTION_PROCESS_ID": str(number)},
            ))  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(moment: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    while not moment():
        assert all(process.poll() is None for process in processes), "ended before the moment came"
        time.sleep(0.001)


def exit_codes(processes: list[subprocess.Popen]) -> list[int]:
    """Waits until the processes have ended by themselves."""
    return [process.wait(timeout=600) for process in processes]


def outputs(folder: Path) -> list[str]:
    return [(folder.parent / f"output{number}.txt").read_text()[-6000:] for number in range(2)]


def run_of(folder: Path) -> Path:
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    return run


def reached(folder: Path, epoch: int, step: int) -> Callable[[], bool]:
    """Whether `last.train.h5` is at this step or a later one."""

    def moment() -> bool:
        files = list(folder.glob(f"*/{STATE_FILE}"))
        return bool(files) and read_position(files[0]) >= (epoch, step)

    return moment


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a training that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "logs"
    with two_processes(folder) as processes:
        assert exit_codes(processes) == [0, 0], outputs(folder)
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    expected = dict(np.load(whole / "end.npz"))
    for name in ("end.npz", "end1.npz"):
        found = dict(np.load(folder / name))
        assert found.keys() == expected.keys() and len(found) > 50
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name} {key}")
    table = (run_of(folder) / "losses.csv").read_text()
    assert table == (run_of(whole) / "losses.csv").read_text()
    assert [line.split(",")[0] for line in table.splitlines()] == ["epoch", *map(str, range(EPOCHS))]
    assert not list(run_of(folder).glob(".*.part"))


# ---- What does not need a second process -----------------------------------------------------------------------------
class OneOfTwo(Devices):
    """Process 1 of two; the other one is made up.

    Args:
        told: what process 0 gives to `gather`; None: the same as this process.
        content: what process 0 broadcasts.
        whole: whether this process has all values of the weights.
    """

    def __init__(self, told: bytes | None = None, content: bytes = b"", whole: bool = True):
        super().__init__(process=1, processes=2)
        self.told, self.content, self.whole = told, content, whole

    def gather(self, data):
        return [data if self.told is None else self.told, data]

    def broadcast(self, data):
        return self.content

    def largest(self, number):
        return number

    def holds(self, variable):
        return self.whole


def test_processes_that_do_not_begin_alike_are_an_error_that_says_how(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"a")
    OneOfTwo().check_same_file(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"process 0 loads b.h5; process 1 loads .*a.h5 \(SHA-256 ca978112ca1bbdca\)"):
        OneOfTwo(b'["SHA-256 0", "loads b.h5"]').check_same_file(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"process 1 loads .*gone.h5 \(not a file\)"):
        OneOfTwo(b'["SHA-256 0", "loads b.h5"]').check_same_file(tmp_path / "gone.h5")
    model = tiny_model("training", tmp_path)
    model.devices = OneOfTwo(b'["train 3", "trains from epoch 3"]')
    with pytest.raises(ValueError, match="process 0 trains from epoch 3; process 1 trains from epoch 0 with weights"):
        model.train(Squares(), None, 0.01, 1, "fpn_p2")
    model.devices = OneOfTwo(whole=False)
    with pytest.raises(ValueError, match=r"weights, such as .*kernel, are divided among 2 processes.*DataParallel"):
        model.train(Squares(), None, 0.01, 1, "fpn_p2")


def test_another_process_continues_the_state_of_process_0_and_writes_nothing(tmp_path):
    with run_eagerly():
        first = tiny_model("training", tmp_path / "first", IMAGES_PER_GPU=1, STEPS_PER_EPOCH=1)
        first.train(Squares(3), None, 0.01, 1, "fpn_p2")
        content = (Path(first.log_dir) / STATE_FILE).read_bytes()
        other = tiny_model("training", tmp_path / "other", STEPS_PER_EPOCH=1)
        other.set_weights(first.get_weights())
        other.epoch, other.devices = 1, OneOfTwo(content=content)
        other.train(Squares(3), None, 0.01, 2, "fpn_p2", save_every_steps=1)
    assert int(numpy(other.optimizer.iterations)) == 2  # one of them in the state
    assert not (tmp_path / "other").exists()


def test_a_torn_file_of_process_0_is_torn_for_all(tmp_path, caplog):
    model = tiny_model("training", tmp_path)
    model.devices = OneOfTwo(content=b"half of it")
    assert find_state(model) is None
    assert f"{STATE_FILE} is broken" in caplog.text
    model.devices = OneOfTwo()
    assert find_state(model) is None


def test_only_one_process_deletes_checkpoints(tmp_path):
    kept = KeptCheckpoints(str(tmp_path / "{epoch:04d}.h5"), 1, writes=False)
    for epoch in (1, 2):
        (tmp_path / f"{epoch:04d}.h5").touch()
        kept.add(epoch, {})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_signal_to_one_process_stops_all():
    with Interrupts() as interrupts, pytest.raises(SystemExit, match="143"):
        interrupts.check(lambda number: number)
        interrupts.check(lambda number: signal.SIGTERM)


# ---- Two processes ---------------------------------------------------------------------------------------------------
class TestTwoProcesses:
    pytestmark = slow_on_jax

    def test_killed_and_started_again_they_end_as_if_nothing_had_happened(self, whole, tmp_path):
        """Weights, averages, optimizer, losses.csv. After a kill, the other process ends by itself, within 100 s."""
        folder = tmp_path / "logs"

        def writing_the_third_epoch() -> bool:
            return reached(folder, 2, 0)() and bool(list(folder.glob(f"*/.{STATE_FILE}.*.part")))

        for moment, killed, how in (
            (reached(folder, 0, 1), [1], signal.SIGKILL),
            (reached(folder, 1, 1), [1], signal.SIGTERM),  # of which the other process learns
            (writing_the_third_epoch, [0], signal.SIGKILL),
            (reached(folder, 3, 1), [0, 1], signal.SIGKILL),
        ):
            with two_processes(folder) as processes:
                wait_for(moment, processes)
                for number in killed:
                    processes[number].send_signal(how)
                codes = exit_codes(processes)
                assert all(codes) and (how == signal.SIGKILL or codes == [143, 143]), outputs(folder)
            assert is_intact(run_of(folder) / STATE_FILE)
        with two_processes(folder) as processes:
            assert exit_codes(processes) == [0, 0], outputs(folder)
        assert_same(folder, whole)

    def test_processes_that_see_different_files_say_so(self, whole, tmp_path):
        with two_processes(whole, tmp_path / "elsewhere") as processes:
            assert 0 not in exit_codes(processes)
        for output in outputs(whole):
            assert "The 2 processes of this training differ: process 0 loads" in output
            assert "process 1 trains from epoch 0" in output
