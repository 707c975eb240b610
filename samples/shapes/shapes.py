"""The shapes sample under matterport's path; the code is in ../shapes.py.

For `sys.path.append("samples/shapes"); import shapes`, `from samples.shapes import shapes` and
`python samples/shapes/shapes.py`.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "shapes.py"

if __name__ == "__main__":
    runpy.run_path(str(SAMPLE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, SAMPLE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
