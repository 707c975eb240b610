"""Where matterport's scripts look for this sample; the page itself is ../nucleus.py.

`sys.path.append("samples/nucleus"); import nucleus`, `from samples.nucleus import nucleus` and
`python samples/nucleus/nucleus.py` all end here.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "nucleus.py"

if __name__ == "__main__":
    runpy.run_path(str(PAGE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, PAGE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
