"""One small training on so many virtual CPU devices, written to a file. `test_devices`, `test_two_processes` compare.

    KERAS_BACKEND=jax python tests/devices_run.py DEVICES WEIGHTS RESULT [SETTING=VALUE ...]

WEIGHTS: a .weights.h5 of `kit.tiny_model`; RESULT: the .npz that is written; settings are of `Config`, in JSON. With
KERAS_DISTRIBUTION_NUM_PROCESSES and its sisters in the environment it is one of several processes.
"""

from __future__ import annotations

import json
import os
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


def run(weights: str, result: str, settings: dict) -> None:
    import keras
    import numpy as np
    from kit import Squares, photo, tiny_model, weights_of

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    settings = {"GPU_COUNT": 2, "ADD_GT_TO_PROPOSALS": True, **settings}
    model = tiny_model("training", Path(result).parent, **settings)
    model.load_weights(weights)
    history = model.train(Squares(9), Squares(5), 0.02, 2, "all").history
    found = {f"history_{name}": np.array(values) for name, values in history.items()}
    found |= {f"weight_{name}": value for name, value in weights_of(model).items()}
    found |= {"devices": model.devices.count, "first_image": model.devices.process}
    # Each process its own photos: five on one device of several, or four and one.
    photos = [photo(seed=seed) for seed in range(5)][model.devices.process :]
    for i, detected in enumerate(model.detect(photos)):
        found |= {f"detect{i + model.devices.process}_{name}": array for name, array in detected.items()}
    np.savez(result, **found)


if __name__ == "__main__":
    count, weights, result, *settings = sys.argv[1:]
    split_the_cpu(int(count))
    run(weights, result, {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in settings)})
