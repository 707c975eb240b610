"""COCO results can be evaluated without a backend."""

from __future__ import annotations

import subprocess
import sys


def test_evaluating_coco_results_imports_no_backend():
    code = (
        "import sys, mrcnn.evaluation, mrcnn.evaluation.html_report\n"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
