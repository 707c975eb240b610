"""Location where matterport's scripts expect this sample; this file runs ../coco.py.

`sys.path.append("samples/coco"); import coco`, `from samples.coco import coco` and
`python samples/coco/coco.py` all load this file.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "coco.py"

if __name__ == "__main__":
    runpy.run_path(str(SAMPLE), run_name="__main__")
else:
    spec = importlib.util.spec_from_file_location(__name__, SAMPLE)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
