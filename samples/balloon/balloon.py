"""Where matterport's scripts look for this sample; the page itself is ../balloon.py.

`sys.path.append("samples/balloon"); import balloon`, `from samples.balloon import balloon` and
`python samples/balloon/balloon.py` all end here.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "balloon.py"

if __name__ == "__main__":
    runpy.run_path(str(PAGE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, PAGE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
