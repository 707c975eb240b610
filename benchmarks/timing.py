"""How the benchmarks measure: things to compare take turns in one run, and each ratio is of neighbours in time.

A busy or throttling machine is slow for all that take turns on it, so ratios hold where seconds don't. The value of a
comparison is the median over rounds of a ratio within a round; its spread is from the lower to the upper quartile.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = ("tensorflow", "keras", "jax", "torch", "numpy", "opencv-python-headless", "opencv-python")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        row: number of the row in the list of `benchmarks/README.md`.
        what: what was measured.
        value: the figure; None where it can't be measured here.
        target: as text, "" where a figure is only reported.
        ok: whether the target is met, None without one.
        unit: of `value`; "x" is a ratio.
        medians: of each thing that was compared, seconds unless its name says otherwise.
        spread: of `value`, lower and upper quartile over the rounds; None where it was measured once.
        processor_ratio: for ratios of times, the same in seconds of processor time, which a busy machine disturbs less.
        runs: rounds.
        note: what one must know to read the figure.
        curve: for figures drawn over a size: dict of lists.
    """

    row: int
    what: str
    value: float | None
    target: str = ""
    ok: bool | None = None
    unit: str = "x"
    medians: dict = field(default_factory=dict)
    spread: tuple | None = None
    processor_ratio: float | None = None
    runs: int = 1
    note: str = ""
    curve: dict = field(default_factory=dict)


@dataclass
class Seconds:
    """What `take_turns` measured: lists by name, one entry a round, of real and of processor time."""

    real: dict
    processor: dict

    def median(self, name: str) -> float:
        return statistics.median(self.real[name])

    def ratios(self, over: str, under: str) -> list[float]:
        """Round by round."""
        return [a / b for a, b in zip(self.real[over], self.real[under], strict=True)]

    def processor_ratio(self, over: str, under: str) -> float:
        of_rounds = zip(self.processor[over], self.processor[under], strict=True)
        return statistics.median(a / max(b, 1e-9) for a, b in of_rounds)


def take_turns(calls: dict, rounds: int, warm_up: int = 1) -> Seconds:
    """Calls each of `calls` once a round, every second round in reverse order, and times it.

    Args:
        calls: functions without arguments, by name. What they start must have ended when they return.
        rounds: int, >= 1.
        warm_up: int, untimed calls of each before that (tracing, caches).
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    seconds = Seconds({name: [] for name in calls}, {name: [] for name in calls})
    for turn in range(rounds):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            real, processor = time.perf_counter(), time.process_time()
            calls[name]()
            seconds.real[name].append(time.perf_counter() - real)
            seconds.processor[name].append(time.process_time() - processor)
    return seconds


def compare(row: int, what: str, seconds: Seconds, over: str, under: str, target: str = "", note="") -> Row:
    """The `Row` of the ratio `over` / `under`; `target` is such as "<= 1.1x" or ">= 3x", or "" to report only."""
    ratios = seconds.ratios(over, under)
    value = statistics.median(ratios)
    return Row(
        row, what, round(value, 3), target, meets(value, target),
        medians={name: round(seconds.median(name), 4) for name in (over, under)}, spread=quartiles(ratios),
        processor_ratio=round(seconds.processor_ratio(over, under), 3), runs=len(ratios), note=note,
    )  # fmt: skip


def meets(value: float, target: str) -> bool | None:
    """Whether a value meets a target, e.g. "<= 1.1x"; None where there is no target."""
    if not target:
        return None
    relation, limit = target.split()[:2]
    limit = float(re.match(r"[\d.]+", limit)[0])
    return bool(value <= limit if relation == "<=" else value >= limit)


def quartiles(values) -> tuple:
    """Lower and upper quartile, rounded."""
    if len(values) < 2:
        return (round(values[0], 3),) * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return round(low, 3), round(high, 3)


# ---- The machine -------------------------------------------------------------------------------------------------
def machine() -> dict:
    """What the figures depend on: processor, cores, memory, system, versions, how busy the machine was at the start."""
    cpu = cpu_info()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "bfloat16": has_bfloat16(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := version_of(name))},
        "environment": {
            k: v for k, v in os.environ.items() if k.startswith(("OMP_", "TF_NUM_", "TF_ENABLE_", "KERAS_", "XLA_"))
        },
    }


def cpu_info() -> dict:
    """The first processor of /proc/cpuinfo as a dict; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    flags = cpu_info().get("flags", "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def resident_mb() -> float:
    """Memory of this process that is in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most that `resident_mb` has been. (`ru_maxrss` won't do: a process inherits its parent's.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
