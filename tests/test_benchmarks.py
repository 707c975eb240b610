"""benchmarks/run.py: the measurements run, and the figures mean what the table says. No test depends on time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"row", "what", "value", "target", "ok", "medians", "spread", "unit", "runs", "note", "processor_ratio", "curve"}


def run(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_single_row_is_written_to_its_file(tmp_path):
    done = run("--quick", "--rows", 7, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "figures.json").read_text())
    assert {"cpu", "cores", "keras", "numpy", "python"} <= set(report["machine"]) and report["quick"] is True
    assert all(KEYS <= set(row) for row in report["rows"]) and {row["row"] for row in report["rows"]} == {7}
    (traces,) = [row for row in report["rows"] if row["unit"] == "traces"]
    assert traces["value"] == 0 and traces["ok"] is True  # a photo of another size costs no compilation
    assert all(row["what"] in done.stdout for row in report["rows"])
    first, machine = done.stdout.splitlines()[0], report["machine"]
    assert machine["cpu"] in first and f"{machine['cores']} cores" in first and machine["instructions"] in first


def test_an_unknown_row_is_an_error():
    done = run("--rows", "1,12")
    assert done.returncode == 2 and "no row 12" in done.stderr


def test_figures_of_another_machine_are_refused(tmp_path):
    from benchmarks.run import earlier_values
    from benchmarks.timing import machine

    def refuse(message):
        raise ValueError(message)

    here, rows = machine(), [{"row": 1, "what": "a / b", "value": 2.0}, {"row": 2, "what": "c", "value": None}]
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"machine": here, "rows": rows}))
    assert earlier_values(path, {"machine": {**here, "load": 9}}, refuse) == {(1, "a / b"): 2.0}
    for change in ({"cpu": "another"}, {"cores": 99}, {"instructions": "MMX"}):
        with pytest.raises(ValueError, match=f"another machine.*{next(iter(change))}"):
            earlier_values(path, {"machine": {**here, **change}}, refuse)


def test_a_missing_peer_package_is_named(tmp_path):
    done = run("--quick", "--peer", tmp_path)
    assert done.returncode and "no mrcnn/model.py" in done.stderr


# ---- What the figures mean -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "target", "ok"),
    [(1.1, "<= 1.1x", True), (1.2, "<= 1.1x", False), (2, ">= 1.6x", True), (1.5, ">= 1.6x", False), (9, "", None)],
)
def test_results_are_compared_with_their_targets(value, target, ok):
    from benchmarks.timing import meets

    assert meets(value, target) is ok


def test_ratios_are_taken_within_a_round():
    from benchmarks.timing import Seconds, compare

    # The machine was five times slower in the second round; the ratio of the medians would be 3.
    seconds = Seconds({"a": [2.0, 10.0, 6.0], "b": [1.0, 5.0, 2.0]}, {"a": [1.0] * 3, "b": [2.0] * 3})
    row = compare(1, "a / b", seconds, "a", "b", "<= 2x")
    assert row.value == 2 and row.ok and row.spread == (2, 2.5) and row.processor_ratio == 0.5


def test_calls_take_turns():
    from benchmarks.timing import take_turns

    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = take_turns(calls, rounds=2, warm_up=1)
    assert "".join(order) == "ab" + "ab" + "ba"
    assert [len(seconds.real[name]) for name in "ab"] == [2, 2]


def test_growth_is_the_steepest_segment_of_the_curve():
    from benchmarks.rows.sizes import growth
    from benchmarks.timing import Seconds

    measured = [Seconds({"x": [t]}, {"x": [cpu]}) for t, cpu in ((1.0, 1.0), (2.0, 4.0), (8.0, 4.0))]
    row = growth("x", "pixels", (1, 2, 4), measured)
    assert (
        row.value == row.processor_ratio == 2
        and row.ok is False
        and row.curve == {"pixels": [1, 2, 4], "x": [1.0, 2.0, 8.0]}
    )


def test_plots_are_small(tmp_path):
    from benchmarks.plots import draw

    row = {"row": 1, "what": "a / b", "value": 1.0, "target": "<= 1.1x", "ok": True, "unit": "x", "spread": [0.9, 1.1]}
    curve = {**row, "unit": "exponent", "curve": {"pixels": [1, 4, 16], "detect": [0.1, 0.3, 1.2]}}
    report = {"machine": {"cpu": "one", "cores": 4}, "rows": [{**row, "curve": {}}, curve]}
    written = draw(report, tmp_path / "cpu.json")
    assert [path.name for path in written] == ["cpu_sizes.png", "cpu_ratios.png"]
    assert all(0 < path.stat().st_size < 200_000 for path in written)


def test_the_plain_network_has_the_same_convolutions():
    """Row 2 compares networks with the same number of kernels of each shape."""
    from collections import Counter

    from benchmarks.workloads import network, plain_network

    model = network("inference", 128)
    ours = Counter(tuple(w.shape) for w in model.weights if w.path.endswith("kernel"))
    plain = Counter(
        tuple(w.shape)
        for w in plain_network(128, model.config, model.config.NUM_CLASSES).weights
        if w.path.endswith("kernel")
    )
    assert ours == plain
