"""Measures speed relative to what the machine can do: rows 1 to 11 of benchmarks/README.md.

    python benchmarks/run.py                                   all rows, about 15 minutes on 2 cores
    python benchmarks/run.py --quick                           smaller, about 3 minutes
    python benchmarks/run.py --rows 1,2 --json figures.json    some rows; writes plots next to the file
    python benchmarks/run.py --peer FOLDER --peer-python PYTHON
                                                               compares with another package with matterport's API
    python benchmarks/run.py --peer torchvision --peer-python PYTHON
                                                               compares with torchvision's networks: detection, a
                                                               training step, loading full masks
    python benchmarks/run.py --before figures.json             shows the earlier figures of each row

FOLDER contains the other package's folder `mrcnn`; PYTHON is an interpreter that can import it. Run it on an idle
machine. Ratios compare calls that follow each other and tolerate some noise; absolute times do not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

LAST_ROW = 11
SAME_MACHINE = ("cpu", "cores", "instructions", "memory_gb")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log messages would break up the table
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # row 8 traces a graph for each size on purpose

from benchmarks.timing import Row, machine, machine_line
from mrcnn.io import replacing


def measurements() -> dict:
    """Maps row numbers to the functions that measure them. Imported lazily: row 7 alone needs no TensorFlow here."""
    from benchmarks.rows import large, loading, network, processes, sizes, training

    return {
        (1, 2): network.detect_and_forward,
        (3,): network.bfloat16,
        (4,): training.step_and_forward,
        (5,): loading.loading,
        (6,): processes.memory,
        (7,): processes.start,
        (8,): sizes.curves,
        (9,): training.waiting,
        (10,): large.tiles,
        (11,): large.workers,
    }


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer rounds")
    parser.add_argument("--rows", help="only these rows, e.g. 1,2,7")
    parser.add_argument("--json", type=Path, help="write results to this file and plots next to it")
    parser.add_argument("--peer", help="folder that contains another package's folder mrcnn; or torchvision")
    parser.add_argument("--peer-python", default=sys.executable, help="its interpreter (default: this one)")
    parser.add_argument("--before", type=Path, help="results of an earlier run on this machine, to compare with")
    args = parser.parse_args(arguments)
    wanted = {int(row) for row in args.rows.split(",")} if args.rows else set(range(1, LAST_ROW + 1))
    if unknown := wanted - set(range(1, LAST_ROW + 1)):
        parser.error(f"--rows {args.rows}: no row {', '.join(map(str, sorted(unknown)))}; there are 1 to {LAST_ROW}.")

    report = {"machine": machine(), "quick": args.quick, "rows": []}
    print(machine_line(report["machine"]), flush=True)
    before = earlier_values(args.before, report, parser.error) if args.before else {}
    start = time.perf_counter()
    for row in rows_of(wanted, args):
        print(line(row), flush=True)
        if (row.row, row.what) in before:
            print(f"{'':24} before: {before[row.row, row.what]:g} {row.unit}", flush=True)
        report["rows"].append(asdict(row))
        if args.json:
            write_json(report, args.json)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.json:
        from benchmarks.plots import draw

        print("written:", args.json, *draw(report, args.json))


def earlier_values(path: Path, report: dict, refuse: Callable[[str], NoReturn]) -> dict:
    """The values of an earlier report by row and description. `refuse` gets a message if it is of another machine."""
    earlier = json.loads(path.read_text())
    for name in SAME_MACHINE:
        there, here = (each["machine"].get(name) for each in (earlier, report))
        if there != here:
            refuse(f"--before {path}: figures of another machine can't be compared: {name} {there!r}, here {here!r}.")
    return {(row["row"], row["what"]): row["value"] for row in earlier["rows"] if row["value"] is not None}


def rows_of(wanted: set, args):
    """Yields the rows as they are measured."""
    if args.peer == "torchvision":
        from benchmarks.torchvision_peer import against_torchvision

        yield from against_torchvision(args.peer_python, args.quick)
        return
    if args.peer:
        from benchmarks.peer import against_peer

        yield from against_peer(Path(args.peer), args.peer_python, args.quick)
        return
    for rows, measure in measurements().items():
        if wanted & set(rows):
            yield from (row for row in measure(args.quick) if row.row in wanted)


def line(row: Row) -> str:
    """Formats a row: whether the target is met, value, target, description and details."""
    mark = {True: "ok  ", False: "MISS", None: "    "}[row.ok]
    value = "-" if row.value is None else f"{row.value:g} {row.unit}"
    behind = ", ".join(f"{name} {median:g}" for name, median in row.medians.items())
    spread = f"  [{row.spread[0]:g} .. {row.spread[1]:g}]" if row.spread else ""
    processor = f"  processor time {row.processor_ratio:g} {row.unit}" if row.processor_ratio else ""
    note = f"\n{'':24} {row.note}" if row.note else ""
    return (
        f"{row.row}  {mark} {value:>10} {row.target:>14}  {row.what}\n"
        f"{'':24} {behind}{spread}{processor}, rounds: {row.runs}{note}"
    )


def write_json(report: dict, path: Path) -> None:
    """Writes to a temporary file first so that the file is always complete."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
