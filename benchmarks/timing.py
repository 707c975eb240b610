"""How the benchmarks measure: compared calls alternate in one run, and each ratio is taken within rounds.

A busy or throttled machine affects all calls equally, so ratios are more reliable. The value of a comparison is the
median over rounds of a ratio within a round; the spread is the interquartile range.
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

from mrcnn.processor import cpu_flags, describe

PACKAGES = ("tensorflow", "keras", "jax", "torch", "numpy", "opencv-python-headless", "opencv-python")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        row: number of the row in the list of `benchmarks/README.md`.
        what: description of the measurement.
        value: the result; None if it cannot be measured here.
        target: as text; "" if the value is only reported.
        ok: whether the target is met; None without a target.
        unit: of `value`; "x" is a ratio.
        medians: median of each compared call, in seconds unless its name says otherwise.
        spread: lower and upper quartile of `value` over the rounds; None if measured once.
        processor_ratio: for ratios of times, the ratio of processor times, which are less affected by other load.
        runs: number of rounds.
        note: what is needed to interpret the value.
        curve: for values plotted over a size, a dict of lists.
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
    """Results of `take_turns`: real and processor times by name, one entry per round."""

    real: dict
    processor: dict

    def median(self, name: str) -> float:
        return statistics.median(self.real[name])

    def ratios(self, over: str, under: str) -> list[float]:
        """Ratio of each round."""
        return [a / b for a, b in zip(self.real[over], self.real[under], strict=True)]

    def processor_ratio(self, over: str, under: str) -> float:
        of_rounds = zip(self.processor[over], self.processor[under], strict=True)
        return statistics.median(a / max(b, 1e-9) for a, b in of_rounds)


def take_turns(calls: dict, rounds: int, warm_up: int = 1) -> Seconds:
    """Times each of `calls` once per round, in reverse order every second round.

    Args:
        calls: functions without arguments, by name. They must not return before their work is finished.
        rounds: int, >= 1.
        warm_up: int, number of untimed calls of each at the start (tracing, caches).
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
    """Returns the `Row` of the ratio `over` / `under`. `target`: e.g. "<= 1.1x" or ">= 3x"; "" only reports."""
    ratios = seconds.ratios(over, under)
    value = statistics.median(ratios)
    return Row(
        row, what, round(value, 3), target, meets(value, target),
        medians={name: round(seconds.median(name), 4) for name in (over, under)}, spread=quartiles(ratios),
        processor_ratio=round(seconds.processor_ratio(over, under), 3), runs=len(ratios), note=note,
    )  # fmt: skip


def meets(value: float, target: str) -> bool | None:
    """Returns whether a value meets a target, e.g. "<= 1.1x"; None without a target."""
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
    """What the results depend on: processor, cores, memory, system, versions, and the load at the start."""
    cpu = cpu_info()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "instructions": describe(cpu_flags()),
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


def machine_line(machine: dict) -> str:
    """One line above the results: those of different machines can't be compared."""
    versions = ", ".join(f"{name} {machine[name]}" for name in PACKAGES if name in machine)
    bfloat16 = "" if machine["bfloat16"] else "no "
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['instructions']}, {bfloat16}bfloat16,"
        f" {machine['memory_gb']} GB, load {machine['load']:.1f}; {machine['system']}, Python {machine['python']},"
        f" {versions}"
    )


def cpu_info() -> dict:
    """Entries of the first processor in /proc/cpuinfo; empty if the file does not exist."""
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
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Peak of `resident_mb`. (`ru_maxrss` is unsuitable: a process inherits its parent's value.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
