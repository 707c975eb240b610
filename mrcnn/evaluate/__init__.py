"""How good a model is, and where it fails.

    report = evaluate_dataset(model, dataset)              a model on a data set
    report = evaluate_predictions(dataset, "results.json")  or results in COCO's form
    print(report.mask_ap)
    fit(..., callbacks=[EvaluateDataset(dataset_val)])      and while training

`coco` is COCO's protocol, `matching` has matterport's measures of one image (`compute_ap` and its kin).
"""

from __future__ import annotations

from mrcnn.evaluate.compare import Comparison, compare
from mrcnn.evaluate.matching import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_overlaps_masks,
    compute_recall,
    trim_zeros,
)
from mrcnn.evaluate.report import Report
from mrcnn.evaluate.run import evaluate_dataset, evaluate_predictions
from mrcnn.evaluate.semantic import semantic_map, semantic_scores


def __getattr__(name: str):
    if name == "EvaluateDataset":  # brings Keras with it, so only when asked for
        from mrcnn.evaluate.callback import EvaluateDataset

        return EvaluateDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
