"""Makes the records in this folder and those in mrcnn/weights/golden: python tests/golden/torch/thin.py FOLDER

FOLDER holds what torchvision 0.28 and detectron2 02b5c4e2 gave for the networks of `mrcnn.weights.golden.formula`, stage
by stage. The tests need less: some values of each map, 30 RoIs of the heads, and the masks. The package has the first
image, with fewer proposals, RoIs and masks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mrcnn.weights.golden import records

IMAGES, ROIS = 3, 30
SHIPPED_PROPOSALS, SHIPPED_ROIS, SHIPPED_MASKS = 100, 8, 10
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
            elif name in ("resized_size", "proposals", "boxes", "labels", "scores", "masks", "masks_shape"):
                kept[f"{name}_{i}"] = record[f"{name}_{i}"]
        kept[f"proposal_count_{i}"] = np.array(len(record[f"proposals_{i}"]))
    return kept


def shipped(kept: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the package has of the first image."""
    record = {name.removesuffix("_0"): array for name, array in kept.items() if name.endswith("_0")}
    for name in record:
        if name.startswith(("class_logits", "box_deltas")):
            record[name] = record[name][:SHIPPED_ROIS]
    record["proposals"] = record["proposals"][:SHIPPED_PROPOSALS]
    masks = records.masks_of(record)[:SHIPPED_MASKS]
    return record | {"masks": np.packbits(masks), "masks_shape": np.array(masks.shape)}


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
            kept = thin(record)
        np.savez_compressed(HERE / f"{model}.npz", **kept)
        np.savez_compressed(records.FOLDER / f"{model}.npz", **shipped(kept))
