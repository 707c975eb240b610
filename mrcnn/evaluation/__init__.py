"""Evaluates models: average precision, kinds of errors, calibration.

    report = evaluate_dataset(model, dataset)               a model on a dataset
    report = evaluate_predictions(dataset, "results.json")  results in COCO format
    print(report.mask_ap)
    fit(..., callbacks=[EvaluateDataset(dataset_val)])      during training
    compile(metrics=[MeanAveragePrecision()])               as a metric of `evaluate` and `fit`

`coco_protocol` is COCO's protocol; `matterport_metrics` has matterport's metrics of one image (`compute_ap`...).
"""

from __future__ import annotations

from importlib import import_module

from mrcnn.evaluation.compare import Comparison, compare
from mrcnn.evaluation.evaluate import evaluate_dataset, evaluate_predictions
from mrcnn.evaluation.matterport_metrics import *  # noqa: F403
from mrcnn.evaluation.report import Report
from mrcnn.evaluation.semantic import semantic_map, semantic_scores

KERAS_NAMES = {"EvaluateDataset": "callback", "MeanAveragePrecision": "metric"}  # their modules import Keras


def __getattr__(name: str) -> type:
    if name in KERAS_NAMES:
        return getattr(import_module(f"mrcnn.evaluation.{KERAS_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
