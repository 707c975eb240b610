"""Location where matterport's scripts expect this sample; this file runs ../nucleus.py.

`sys.path.append("samples/nucleus"); import nucleus`, `from samples.nucleus import nucleus` and
`python samples/nucleus/nucleus.py` all load this file.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "nucleus.py"

if __name__ == "__main__":
    runpy.run_path(str(SAMPLE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, SAMPLE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
