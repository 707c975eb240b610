"""Location where matterport's scripts expect this sample; this file runs ../balloon.py.

`sys.path.append("samples/balloon"); import balloon`, `from samples.balloon import balloon` and
`python samples/balloon/balloon.py` all load this file.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "balloon.py"

if __name__ == "__main__":
    runpy.run_path(str(SAMPLE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, SAMPLE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
