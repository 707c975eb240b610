"""Compares another package with matterport's API with this one, on the same weights, photo and tasks.

Each package runs in a separate process. The two alternate call by call (see `timing`), so only one of them works at a
time. Both run benchmarks/peer_worker.py, which uses only matterport's API.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import Row, Seconds, compare

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("peer_worker.py")


class Worker:
    """A process that runs `peer_worker.py`, or another script, with the package in `folder`.

    Raises:
        RuntimeError: The process ended; the message contains the end of its error output.
    """

    def __init__(self, name: str, folder: Path, python: str, task: str, side: int, data: Path, script: Path = WORKER):
        self.name, self.errors = name, (data / f"{name}_{task}.log").open("w+")
        environment = {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [python, str(script), task, str(side), str(data)], env=environment, cwd=data, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.answer()  # waits until the worker is ready

    def ask(self, what: str) -> dict:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended with code {self.process.returncode}:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def against_peer(folder: Path, python: str, quick: bool):
    """Yields the rows of detection, unmolding, loading a sample, and a training step, as ratios theirs / ours.

    Args:
        folder: Contains the peer's folder `mrcnn`.
        python: Interpreter that runs the peer.
        quick: Use smaller images and fewer rounds.

    Raises:
        FileNotFoundError: The folder contains no package.
        RuntimeError: One of the two packages failed.
    """
    folder = folder.resolve()
    if not (folder / "mrcnn" / "model.py").is_file():
        raise FileNotFoundError(f"--peer {folder}: no mrcnn/model.py in it; expected the folder that contains `mrcnn`.")
    side, train_side, rounds = (256, 128, 3) if quick else (1024, 512, 7)
    packages = {"theirs": (folder, python), "ours": (ROOT, sys.executable)}
    with tempfile.TemporaryDirectory() as data:
        prepare(Path(data), side)
        found = yield from in_turns(
            workers_of(packages, "detecting", side, Path(data)), rounds,
            {
                "detect": f"detect(); ResNet-50, {side} x {side}",
                "unmold": "unmold_detections: boxes and masks of 100 detections on the photo",
                "load": f"one training sample with mini masks, {side} x {side}",
            },
        )  # fmt: skip
        if found["theirs"] != found["ours"]:
            print(f"detections differ: theirs {found['theirs']}, ours {found['ours']}")
        what = f"a training step; ResNet-50, {train_side} x {train_side}, batch 1, all layers"
        yield from in_turns(workers_of(packages, "training", train_side, Path(data)), rounds, {"step": what})


def workers_of(packages: dict, task: str, side: int, data: Path) -> dict:
    """A function for each package that starts its worker."""
    return {name: partial(Worker, name, *package, task, side, data) for name, package in packages.items()}


def in_turns(start: dict, rounds: int, calls: dict, target: str = ""):
    """Yields a row for each of `calls`. Returns the number of objects that each package detected.

    Args:
        start: Functions that start the workers "theirs" and "ours", by name.
        rounds: How often each worker is timed.
        calls: What is asked of the workers, and its description in the table.
        target: As for `timing.compare`.
    """
    workers = {}
    try:
        for name in start:
            workers[name] = start[name]()
        found = {}
        for call, what in calls.items():
            seconds = Seconds({name: [] for name in workers}, {name: [] for name in workers})
            for turn in range(-2, rounds):  # the first two rounds are a warm-up
                for name, worker in list(workers.items())[:: -1 if turn % 2 else 1]:
                    answer = worker.ask(call)
                    found[name] = answer.get("found", found.get(name))
                    if turn >= 0:
                        seconds.real[name].append(answer["seconds"])
                        seconds.processor[name].append(answer["processor"])
            yield peer_row(what, seconds, target)
        return found
    finally:
        for worker in workers.values():
            worker.close()


def peer_row(what: str, seconds: Seconds, target: str = "") -> Row:
    """The ratio theirs / ours; above 1, this package is faster."""
    row = compare(0, f"{what}: theirs / ours", seconds, "theirs", "ours", target)
    processor = {name: statistics.median(times) for name, times in seconds.processor.items()}
    best = {name: min(times) for name, times in seconds.real.items()}
    row.note = "; ".join(
        f"{name}: best {best[name]:.4f} s, processor time {processor[name]:.4f} s" for name in ("theirs", "ours")
    )
    return row


def prepare(data: Path, side: int) -> None:
    """Writes the inputs of both packages: weights in matterport's layout, a photo, and detections for it."""
    from benchmarks.workloads import network, photo

    model, image = network("inference", side), photo()
    model.save_weights(str(data / "weights.h5"))
    molded, metas, windows = model.mold_inputs([image])
    detections, _, _, masks, *_ = model.predict_on_batch([molded, metas.astype(np.float32)])
    np.savez(
        data / "detections.npz", photo=image, detections=detections[0], masks=masks[0], window=windows[0],
        molded_shape=molded[0].shape,
    )  # fmt: skip
