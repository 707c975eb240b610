"""Rows 6 and 7: memory and start-up time, each measured in a separate process. Row 5 uses this script, too.

python benchmarks/rows/processes.py peak 1024        one measurement; prints a line of JSON
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.child import in_process
from benchmarks.timing import Row, meets, peak_mb, resident_mb


# ---- Rows ------------------------------------------------------------------------------------------------------------
def memory(quick: bool) -> list[Row]:
    """Row 6."""
    side, detects = (1024, 100) if quick else (1024, 500)
    seen = in_process("peak", side)
    value = seen["peak_mb"] / 1e3
    peak = Row(
        6, f"peak memory of a process that detects 3 times; ResNet-50, {side} x {side}", round(value, 3), "<= 1.1 GB",
        meets(value, "<= 1.1 GB"), unit="GB", medians={k: round(v, 1) for k, v in seen.items()},
    )  # fmt: skip
    seen = in_process("growth", detects)
    growth = 100 * (seen["last_mb"] / seen["first_mb"] - 1)
    return [
        peak,
        Row(
            6, f"growth of memory from 20 to {detects} detects; small network, photos of many sizes", round(growth, 2),
            "<= 3 %", meets(growth, "<= 3 %"), unit="%", medians={k: round(v, 1) for k, v in seen.items()},
            note="" if detects == 500 else "the target is for 500",
        ),
    ]  # fmt: skip


def start(quick: bool) -> list[Row]:
    """Row 7."""
    side = 512 if quick else 1024
    seen = in_process("start", side)
    steps = ("import", "build", "first detect")
    first, processor = (sum(seen[name + kind] for name in steps) for kind in ("", ", processor time"))
    traces = seen.pop("traces of the second photo")
    return [
        Row(7, f"import, build and first detect; ResNet-50, {side} x {side}", round(first, 2), unit="s",
            medians={name: round(value, 3) for name, value in seen.items()},
            note=f"{processor:.2f} s of processor time, which other programs affect least"),
        Row(7, "graphs traced for a second photo of another size, mode square", traces, "<= 0 traces",
            meets(traces, "<= 0 traces"), unit="traces"),
    ]  # fmt: skip


# ---- Run in the separate processes -----------------------------------------------------------------------------------
def peak(side: int) -> dict:
    from benchmarks.workloads import network, photo

    after_import = resident_mb()
    model = network("inference", side)
    after_build = resident_mb()
    for seed in range(3):
        model.detect([photo(seed=seed)])
    return {
        "after import_mb": after_import,
        "after build_mb": after_build,
        "peak_mb": peak_mb(),
        "end_mb": resident_mb(),
    }


def growth(detects: int) -> dict:
    """Uses the trained network of samples/shapes.py: it is small and detects objects."""
    import numpy as np

    from mrcnn.model import MaskRCNN
    from samples.shapes import EVALUATION, ShapesConfig, shapes_dataset

    config = ShapesConfig()
    config.IMAGES_PER_GPU = 1
    model = MaskRCNN("inference", config, "logs", weights="shapes")
    dataset = shapes_dataset(20, EVALUATION)
    photos = [np.kron(dataset.load_image(i), np.ones((1 + i % 3, 1 + i % 2, 1), np.uint8)) for i in dataset.image_ids]
    seen = {}
    for count in range(1, detects + 1):
        model.detect([photos[count % len(photos)]])
        if count == 20:
            seen["first_mb"] = resident_mb()
    return {**seen, "last_mb": resident_mb()}


def start_up(side: int) -> dict:
    seen, start = {}, (time.perf_counter(), time.process_time())

    def note(name):
        nonlocal start
        now = time.perf_counter(), time.process_time()
        seen[name], seen[f"{name}, processor time"] = now[0] - start[0], now[1] - start[1]
        start = now

    from benchmarks.workloads import network, photo

    note("import")
    import keras

    model = network("inference", side)
    note("build")
    for name, size in (("first detect", (480, 640)), ("second detect", (333, 500)), ("third detect", (600, 400))):
        model.detect([photo(*size)])
        note(name)
        if name == "first detect":
            before = traces_of(model, keras)
    return {**seen, "traces of the second photo": traces_of(model, keras) - before}


def traces_of(model, keras) -> int:
    """Number of times the detector's graph was traced; always 0 on backends other than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return 0
    return model.detector().predict_function.experimental_get_tracing_count()


def rows_of_loading(quick: int) -> dict:
    from benchmarks.rows.loading import loading_here

    return {"rows": [asdict(row) for row in loading_here(bool(quick))]}


if __name__ == "__main__":
    tasks = {"peak": peak, "growth": growth, "start": start_up, "loading": rows_of_loading}
    measured = tasks[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps(measured))
