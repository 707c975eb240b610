"""Compares TensorFlow with and without oneDNN on this CPU (docs/processors.md).

    python -m benchmarks.processor [--rounds 7] [--isa AVX2] [--work resnet-detect resnet-train ...]

Each setting runs in a separate process. The processes run in turns, so that a busy machine affects both equally. The
table has the median wall time and processor time of a call in seconds, and the median of their ratios within a round.
`--isa AVX2` limits oneDNN, which also does TensorFlow's matrix multiplications, to the instructions of an older CPU
(`ONEDNN_MAX_CPU_ISA`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = {
    "shapes-detect": "detect 8 images, the network of samples/shapes.py, 128 x 128",
    "shapes-train": "training step, batch 8, the network of samples/shapes.py, 128 x 128",
    "resnet-detect": "detect, ResNet-50, 256 x 256, 100 detections",
    "resnet-train": "training step, ResNet-50, 256 x 256, batch 1, all layers",
}
CHOICES = ("0", "1")  # values of TF_ENABLE_ONEDNN_OPTS


# ---- The measured process --------------------------------------------------------------------------------------------
def call_of(work: str):
    """The function to time for `work`, a key of WORK; it takes no arguments."""
    import tempfile

    import numpy as np

    from benchmarks.workloads import network, photo, training_batch
    from mrcnn.data.generator import DataGenerator
    from mrcnn.model import MaskRCNN
    from samples.shapes import EVALUATION, ShapesConfig, shapes_dataset

    net, mode = work.split("-")
    if work == "resnet-detect":
        model, image = network("inference", 256), photo(256, 256)
        return lambda: model.detect([image])
    if work == "resnet-train":
        model = network("training", 256)
        batch = training_batch(model.config, objects=8)
    else:
        dataset, config = shapes_dataset(8, EVALUATION), ShapesConfig()
        model = MaskRCNN("training" if mode == "train" else "inference", config, tempfile.gettempdir())
        if mode == "detect":
            images = [np.asarray(dataset.load_image(i)) for i in dataset.image_ids]
            return lambda: model.detect(images)
        batch = DataGenerator(dataset, config, steps=1, seed=0)[0]
        batch = batch[0] if isinstance(batch, tuple) else batch
    model.set_trainable(".*", verbose=0)
    model.compile(0.0)
    return lambda: model.train_on_batch(batch)


def serve(work: str) -> None:
    """For each line of stdin, makes a call and writes its seconds to stdout, as JSON [wall, processor]."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print goes to stderr
    call = call_of(work)
    call()
    call()
    for line in itertools.chain(["ready"], sys.stdin):
        wall, processor = time.perf_counter(), time.process_time()
        if line != "ready":
            call()
        answers.write(json.dumps([time.perf_counter() - wall, time.process_time() - processor]) + "\n")
        answers.flush()


# ---- Alternating -----------------------------------------------------------------------------------------------------
def start(work: str, environment: dict) -> subprocess.Popen:
    """Starts a process that runs `serve(work)` with these environment variables."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.processor", "--serve", work], env=environment, text=True,
        cwd=environment["PYTHONPATH"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def answer(process: subprocess.Popen) -> list[float]:
    """Reads [wall, processor], the seconds of a call.

    Raises:
        RuntimeError: The process ended.
    """
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"A measured process ended with code {process.wait()}; its error output is above.")
    return json.loads(line)


def measure(work: str, choices: dict[str, dict], rounds: int) -> dict[str, list]:
    """Returns [[wall, processor], ...] for each choice, one entry per round.

    Args:
        work: A key of WORK.
        choices: Environment variables, by the name of the choice.
        rounds: Number of calls of each choice.
    """
    processes, seconds = {}, {name: [] for name in choices}
    try:
        for name, environment in choices.items():
            processes[name] = start(work, environment)
            answer(processes[name])
        for turn in range(rounds):
            for name in list(choices)[:: -1 if turn % 2 else 1]:
                processes[name].stdin.write("go\n")
                processes[name].stdin.flush()
                seconds[name].append(answer(processes[name]))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return seconds


def table_row(work: str, seconds: dict[str, list]) -> str:
    """A row of the table, in Markdown."""
    off, on = seconds.values()
    cells = [WORK[work]]
    for kind in (0, 1):
        first, second = ([call[kind] for call in calls] for calls in (off, on))
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        cells += [f"{statistics.median(first):.3f}", f"{statistics.median(second):.3f}", f"{ratio:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="calls per setting (default: %(default)s)")
    parser.add_argument("--isa", help="ONEDNN_MAX_CPU_ISA, e.g. AVX2; default: all that the CPU has")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK), help="default: all")
    parser.add_argument("--serve", choices=WORK, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        serve(args.serve)
        return
    limit = {"ONEDNN_MAX_CPU_ISA": args.isa} if args.isa else {}
    choices = {
        f"oneDNN {'on' if value == '1' else 'off'}": {"TF_ENABLE_ONEDNN_OPTS": value, **limit} for value in CHOICES
    }
    header = ["seconds", *(f"{kind}, {name}" for kind in ("wall", "processor") for name in [*choices, "on / off"])]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for work in args.work:
        print(table_row(work, measure(work, choices, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
