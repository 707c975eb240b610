"""Row 5, worker processes: batches per second of several against one, and what the training process spends per batch.

    python benchmarks/rows/workers.py        only this row, about 2 minutes

On fewer than 4 cores, the speed of 4 processes on 4 cores is computed from processor times: all processes together
can't use more than 4 cores, and the training process not more than one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.timing import Row, meets, quartiles
from benchmarks.workloads import coco_dataset, network_config

PROCESSES = 4
TICKS = os.sysconf("SC_CLK_TCK")


def workers(quick: bool) -> list[Row]:
    dataset, source = coco_dataset()
    return [worker_row(dataset, source, mini, quick) for mini in (True, False)]


def worker_row(dataset, source: str, mini: bool, quick: bool, side: int = 1024) -> Row:
    """One process against as many as there are cores, at most 4, requested as by `fit`: one thread per process."""
    from mrcnn.data.generator import DataGenerator

    images, rounds = (80, 3) if mini else (20, 3)
    images = images // 3 if quick else images
    cores = min(PROCESSES, os.cpu_count() or 1)
    config = network_config(side, USE_MINI_MASK=mini)
    generators = {
        count: DataGenerator(dataset, config, steps=images, seed=0, workers=count, use_multiprocessing=True)
        for count in (1, cores)
    }
    for generator in generators.values():
        load_all(generator)
    measured = {count: [] for count in generators}
    for turn in range(rounds):
        for count in list(generators)[:: -1 if turn % 2 else 1]:
            measured[count].append(measure(generators[count], images))
    ratios = [one[0] / many[0] for one, many in zip(measured[1], measured[cores], strict=True)]
    (one, one_parent, one_workers), (many, parent, per_batch) = (
        [statistics.median(column) for column in zip(*measured[count], strict=True)] for count in generators
    )
    reachable = (one_parent + one_workers) * min(PROCESSES / (parent + per_batch), 1 / parent)
    value = statistics.median(ratios) if cores == PROCESSES else reachable
    what = (
        "measured" if cores == PROCESSES else f"computed, {cores} processes {statistics.median(ratios):.2f}x measured"
    )
    return Row(
        5, f"workers: {PROCESSES} processes / 1 ({what}); {side} x {side}, {'mini' if mini else 'full'} masks, {images}"
        f" images on {os.cpu_count()} cores",
        round(value, 2), ">= 3x", meets(value, ">= 3x"),
        medians={"ms per batch, 1 process": round(1e3 * one, 2), f"{cores} processes": round(1e3 * many, 2),
                 "processor time of training process": round(1e3 * parent, 2), "of workers": round(1e3 * per_batch, 2)},
        spread=quartiles(ratios), runs=rounds, note=source,
    )  # fmt: skip


def load_all(generator) -> None:
    with ThreadPoolExecutor(generator.workers) as threads:
        for _ in threads.map(lambda index: generator[index] and None, range(len(generator))):
            pass  # as in training, no batch is kept


def measure(generator, images: int) -> tuple[float, float, float]:
    """Seconds per batch: real, processor time of this process, and of the workers."""
    real, processor, others = time.perf_counter(), time.process_time(), seconds_of(generator)
    load_all(generator)
    return (
        (time.perf_counter() - real) / images,
        (time.process_time() - processor) / images,
        (seconds_of(generator) - others) / images,
    )


def seconds_of(generator) -> float:
    """Processor time of a generator's processes so far."""
    lines = [Path(f"/proc/{worker.process.pid}/stat").read_text() for worker in generator.processes.workers]
    return sum(int(ticks) for line in lines for ticks in line.rsplit(")", 1)[1].split()[11:13]) / TICKS


if __name__ == "__main__":
    from benchmarks.run import line

    for row in workers(quick=False):
        print(line(row), flush=True)
