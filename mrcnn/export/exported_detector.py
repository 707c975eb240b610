"""An exported model with the methods that `mrcnn.evaluation` calls."""

from __future__ import annotations

import copy

from mrcnn import evaluation
from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.export.mrcnn_runtime import Model
from mrcnn.inference.molding import read_photos
from mrcnn.ops.pixel_values import to_channels
from mrcnn.ops.types import Images


class ExportedDetector:
    """Detects with an exported model, with the thresholds and the kinds of images that a Config names.

    Args:
        exported: The model.
        config: `Config` of the model that was exported.
    """

    def __init__(self, exported: Model, config: Config):
        self.exported = exported
        self.config = copy.copy(config)  # evaluation changes its threshold for a while

    def detect(self, images: Images, verbose: int = 0) -> list[dict]:
        """`MaskRCNN.detect`."""
        config = self.config
        photos = [
            to_channels(photo, config.IMAGE_CHANNEL_COUNT, f"images[{i}]", config.IMAGE_RANGE, config.MEAN_PIXEL)
            for i, photo in enumerate(read_photos(images))
        ]
        return self.exported.detect(photos, config.DETECTION_MIN_CONFIDENCE or 0.0, config.DETECTION_NMS_THRESHOLD)

    def evaluate(self, dataset: Dataset) -> evaluation.Report:
        """Measures AP on a prepared `Dataset`."""
        return evaluation.evaluate_dataset(self, dataset, progress=False)
