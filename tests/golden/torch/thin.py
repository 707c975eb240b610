"""Makes the records in this folder: python tests/golden/torch/thin.py FOLDER

FOLDER holds what torchvision 0.28 and detectron2 02b5c4e2 gave for the networks of `formula.py`, stage by stage (see
`tests/test_golden_torch.py`). The tests need less: some values of each map, 30 RoIs of the heads, and the masks of the
first image.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

IMAGES, ROIS = 3, 30
HERE = Path(__file__).parent


def thin(record) -> dict[str, np.ndarray]:
    kept = {}
    for i in range(IMAGES):
        kept |= {f"{name}_{i}": record[f"{name}_{i}"][::2, ::2, ::2] for name in maps(record)}
        for name in (n.removesuffix("_0") for n in record.files if n.endswith("_0")):
            if name.startswith(("class_logits", "box_deltas")) and not name.endswith(("_shape", "_stats")):
                kept[f"{name}_{i}"] = record[f"{name}_{i}"][:ROIS]
            elif name.startswith("anchors_") and name.endswith(("first", "last")):
                kept[f"{name}_{i}"] = record[f"{name}_{i}"][:: 29 if name.endswith("first") else -29]
            elif name in ("resized_size", "proposals", "boxes", "labels", "scores"):
                kept[f"{name}_{i}"] = record[f"{name}_{i}"]
    return kept | {name: record[name] for name in ("masks_0", "masks_shape_0")}


def maps(record) -> list[str]:
    """Names of all [channels, rows, columns]."""
    levels = ("C2", "C3", "C4", "C5", "P2", "P3", "P4", "P5", "P6", *rpn_levels())
    return [name for name in levels if f"{name}_0" in record.files]


def rpn_levels() -> list[str]:
    return [f"rpn_{kind}_{level}" for kind in ("logits", "deltas") for level in ("P2", "P3", "P4", "P5", "P6", "C4")]


if __name__ == "__main__":
    for path in sorted(HERE.glob("*_state.txt")):
        model = path.name.removesuffix("_state.txt")
        with np.load(Path(sys.argv[1]) / f"{model}.npz") as record:
            np.savez_compressed(HERE / f"{model}.npz", **thin(record))
