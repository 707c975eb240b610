"""Runs a measurement of `benchmarks/rows/processes.py` in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "rows" / "processes.py"


def in_process(what: str, number: int) -> dict:
    """Runs the script with these arguments and parses the last line of its output as JSON.

    Raises:
        RuntimeError: The script failed; the message ends with its error output.
    """
    done = subprocess.run([sys.executable, str(SCRIPT), what, str(number)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"benchmarks/rows/processes.py {what} {number} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
