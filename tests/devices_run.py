"""Trains a small model on several virtual CPU devices, for `test_devices` and `test_two_processes`.

    KERAS_BACKEND=jax python tests/devices_run.py DEVICES RESULT

RESULT: the .npz file to write. With KERAS_DISTRIBUTION_NUM_PROCESSES and related variables in the environment, this is
one of several processes that train together.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def split_the_cpu(count: int) -> None:
    """Makes so many devices of it, before the backend starts."""
    os.environ["XLA_FLAGS"] = f"{QUICK_COMPILE} --xla_force_host_platform_device_count={count}"
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)


def run(result: str) -> None:
    import keras
    import numpy as np
    from kit import Squares, model_layer, photo, tiny_model, weights_of

    several = "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ
    if several:
        keras.distribution.initialize()
    # Clipping and batch statistics are where the devices' shares of a batch have to come together.
    optimizer = None if several else keras.optimizers.SGD(0.005, 0.9, global_clipnorm=0.3)
    settings = {"GPU_COUNT": 2, "STEPS_PER_EPOCH": 3, "ADD_GT_TO_PROPOSALS": True, "TRAIN_BN": None,
                "GRADIENT_CLIP_NORM": 0.3}  # fmt: skip
    model = tiny_model("training", Path(result).parent, **settings)
    rng = np.random.default_rng(0)
    for weight in model.weights:  # so that every process begins with the same ones, whatever it draws
        if "kernel" in weight.path:
            weight.assign(0.1 * rng.normal(size=weight.shape))
    model_layer(model, "mrcnn_class_logits").weights[1].assign(np.array([-2.0, 0, 0]))  # background is unlikely

    val_dataset = Squares(5) if keras.backend.backend() == "tensorflow" else None  # XLA would compile one more step
    history = model.train(Squares(9), val_dataset, 0.005, 1, "all", optimizer=optimizer).history
    found = {f"history_{name}": np.array(values) for name, values in history.items()}
    found |= {f"weight_{name}": value for name, value in weights_of(model).items()}
    first = model.devices.process  # each process detects on different photos
    last = first + (5 if val_dataset else 4)  # the fifth is a batch alone, and XLA would compile for it
    for i, detected in enumerate(model.detect([photo(seed=seed) for seed in range(first, last)]), start=first):
        found |= {f"detect{i}_{name}": array for name, array in detected.items()}
    np.savez(result, devices=model.devices.count, **found)


# ---- What the tests use ----------------------------------------------------------------------------------------------
def start(folder: Path, devices: int, **environment) -> subprocess.Popen:
    """Starts the run in a separate process, which writes `folder`/result.npz."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, __file__, str(devices), str(folder / "result.npz")]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def results(processes: list, folders: list) -> list[dict]:
    """Waits for all runs and returns their results by name."""
    import numpy as np

    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-6000:]
    return [dict(np.load(folder / "result.npz")) for folder in folders]


@functools.cache
def on_one_and_two_devices(backend: str, folder: Path) -> list[dict]:
    folders = [folder / "one", folder / "two"]
    return results([start(f, n, KERAS_BACKEND=backend) for n, f in enumerate(folders, start=1)], folders)


def in_two_processes(folder: Path) -> list[dict]:
    """Two JAX processes with one device each, connected through a free local port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = {
        "KERAS_BACKEND": "jax", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{port}", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }  # fmt: skip
    folders = [folder / "process0", folder / "process1"]
    started = [start(f, 1, **together, KERAS_DISTRIBUTION_PROCESS_ID=str(i)) for i, f in enumerate(folders)]
    return results(started, folders)


def assert_same(one: dict, other: dict) -> None:
    """Compares losses, weights and detections of two runs, up to rounding from the order of sums."""
    import numpy as np

    for name in (name for name in one if name.startswith("history_")):
        # Keras's variance over replicas is a difference of large numbers; what was learned with it differs a bit more.
        np.testing.assert_allclose(other[name], one[name], rtol=1e-4 if "val" in name else 1e-5, err_msg=name)
    for name in (name for name in one if name.startswith("weight_")):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)
    photos = [i for i in range(5) if f"detect{i}_rois" in one and f"detect{i}_rois" in other]
    assert len(photos) >= 3 and any(len(one[f"detect{i}_rois"]) for i in photos)
    for i in photos:
        for name in ("rois", "class_ids", "masks"):
            np.testing.assert_array_equal(other[f"detect{i}_{name}"], one[f"detect{i}_{name}"])
        np.testing.assert_allclose(other[f"detect{i}_scores"], one[f"detect{i}_scores"], atol=1e-5)


if __name__ == "__main__":
    split_the_cpu(int(sys.argv[1]))
    run(sys.argv[2])
