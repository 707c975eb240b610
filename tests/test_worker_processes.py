"""Worker processes: batches in shared memory, of which nothing is overwritten, lost or left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_kit import SlowBlocks, TinyConfig

from mrcnn.data.collate import make_batch
from mrcnn.data.generator import DataGenerator
from mrcnn.data.sample_stream import SampleStream
from mrcnn.data.worker_processes import SPARE_SLOTS, WorkerProcessError, WorkerProcesses
from mrcnn.training.batches import WatchWorkers, named_worker_errors, watch_workers

ROOT = Path(__file__).resolve().parents[1]
linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory is Linux's")


def stream(**settings):
    return SampleStream(SlowBlocks(), TinyConfig(**settings), shuffle=False, seed=3)


def expected(places):
    return make_batch([stream().sample(place) for place in places], stream())


def assert_same(batch, places):
    for name, array in expected(places).items():
        assert batch[name].dtype == array.dtype
        np.testing.assert_array_equal(batch[name], array, err_msg=name)


@pytest.fixture(scope="module")
def processes():
    pool = WorkerProcesses(stream(), workers=2, ahead=2)
    yield pool
    pool.close()


def test_batches_that_are_kept_are_never_overwritten(processes):
    places = [[i, i + 1] for i in range(3)] * 4
    kept = [processes.batch(p) for p in places]  # more than there are slots
    for batch, p in zip(kept, places, strict=True):
        assert_same(batch, p)
    images = [batch["input_image"] for batch in kept]
    del kept, batch
    for _ in range(2 * SPARE_SLOTS + 4):  # slots of which only a view is left aren't free
        processes.batch([3])
    for image, p in zip(images, places, strict=True):
        np.testing.assert_array_equal(image, expected(p)["input_image"])


def test_a_smaller_batch_has_nothing_of_the_one_before_in_its_memory(processes):
    for _ in range(2 * SPARE_SLOTS + 4):
        processes.batch([2, 1, 2])["input_gt_masks"][:] = True
        assert_same(processes.batch([0]), [0])


def test_an_error_in_a_worker_keeps_its_type_and_says_where_it_was_raised():
    pool = WorkerProcesses(stream(MAX_BROKEN_IMAGES=0), workers=1, ahead=0)
    with pytest.raises(ValueError, match=r"Can't load image 5 .*cut off") as raised:
        pool.batch([5])
    assert "In a worker process" in raised.value.__notes__[0] and "load_mask" in raised.value.__notes__[0]
    assert_same(pool.batch([0]), [0])  # continues
    pool.close()


@linux
def test_a_request_that_ctrl_c_ends_leaves_no_answer_for_the_next_one(processes):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(2):  # both workers
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                processes.batch([4])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for place in (0, 1, 2):
        assert_same(processes.batch([place]), [place])


@linux
def test_ctrl_c_and_sigterm_for_the_group_do_not_end_workers(processes):
    for worker in processes.workers:
        os.kill(worker.process.pid, signal.SIGINT)
        os.kill(worker.process.pid, signal.SIGTERM)
    for place in (0, 1, 2):
        assert_same(processes.batch([place]), [place])


@linux
def test_without_memory_batches_go_through_pipes_with_one_warning_and_a_killed_worker_is_named():
    generator = DataGenerator(SlowBlocks(), TinyConfig(), shuffle=False, seed=3, workers=2, use_multiprocessing=True,
                              max_queue_size=0, steps=100)  # fmt: skip
    assert_same(generator[0][0], [0, 1])
    workers = generator.processes.workers
    for worker in workers:  # no file may grow: what a full memory is like
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    kept = []
    with pytest.warns(UserWarning, match="no shared memory.*pipes") as said:
        for _ in range(4):
            kept += [generator[0][0], generator[1][0]]
    assert len(said) == 1
    for batch, places in zip(kept, [[0, 1], [2, 3]] * 4, strict=True):
        assert_same(batch, places)

    # Killed in the middle of a sample:
    failed = []

    def wait_for_batch():
        with pytest.raises(WorkerProcessError) as raised:
            generator[2]
        failed.append(raised.value)

    waiting = threading.Thread(target=wait_for_batch)
    arguments = {}
    watch_workers(arguments, generator)
    (watch,) = arguments["callbacks"]
    assert isinstance(watch, WatchWorkers)
    watch.on_train_batch_end(0)
    waiting.start()
    time.sleep(0.3)
    start = time.monotonic()
    for worker in workers:
        os.kill(worker.process.pid, signal.SIGKILL)
    waiting.join()
    assert time.monotonic() - start < 5
    assert "was killed by SIGKILL" in str(failed[0]) and "use fewer workers" in str(failed[0])
    for call in (lambda: generator[0], lambda: watch.on_train_batch_end(1), lambda: watch.on_test_batch_end(1)):
        with pytest.raises(WorkerProcessError, match="was killed by SIGKILL"):
            call()
    with pytest.raises(WorkerProcessError), named_worker_errors(generator):
        raise RuntimeError("TensorFlow's text")


@linux
def test_a_program_that_is_killed_leaves_no_process_and_no_memory(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import os, signal, sys; sys.path[:0] = [r'{root}', r'{tests}']\n"
        "from test_worker_processes import stream, WorkerProcesses\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerProcesses(stream(), 1, 1)\n"
        "    batch = pool.batch([0])\n"
        "    print(pool.workers[0].process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n".format(root=ROOT, tests=ROOT / "tests")
    )
    before = set(os.listdir("/dev/shm"))
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "mrcnn" in name or "psm" in name}
