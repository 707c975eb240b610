"""The names that users import from `mrcnn.utils`, gathered from the modules that define them.

There is no `__all__`, and the modules imported below are part of matterport's interface: scripts with
`from mrcnn.utils import *` use `np`, `random`, `sys` and others without importing them.
"""

from __future__ import annotations

from mrcnn import quick_keras as _quick_keras  # before Keras

# isort: split
import logging
import math
import os
import random
import shutil
import sys
import urllib.request
import warnings
import xml.etree.ElementTree  # scripts that read annotations only `import xml.etree` and rely on this
from typing import TYPE_CHECKING

import numpy as np
import scipy
import skimage  # loads skimage.io, .color, .transform and others when they are first used

from mrcnn.compat.functions import batch_slice, mold_mask
from mrcnn.data.dataset import Dataset
from mrcnn.evaluation.matterport_metrics import *  # noqa: F403
from mrcnn.ops import boxes as _boxes
from mrcnn.ops import images as _images
from mrcnn.ops.anchors import generate_anchors, generate_pyramid_anchors
from mrcnn.ops.boxes import (
    apply_box_deltas,
    box_refinement,
    box_refinement_graph,
    compute_iou,
    compute_overlaps,
)
from mrcnn.ops.images import resize, resize_mask
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.masks import expand_mask, minimize_mask, unmold_mask
from mrcnn.ops.nms import non_max_suppression
from mrcnn.weights import PRETRAINED as _PRETRAINED
from mrcnn.weights import download as _download

if TYPE_CHECKING:  # not at run time: star imports would replace names of scripts, such as Keras's `Sequence`
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

COCO_MODEL_URL = _PRETRAINED["coco"]


def norm_boxes(boxes: ArrayLike, shape: Sequence[int]) -> np.ndarray:
    """Converts pixels to normalized coordinates: see `mrcnn.ops.boxes.norm_boxes`."""
    return _boxes.norm_boxes(boxes, shape)


def denorm_boxes(boxes: ArrayLike, shape: Sequence[int]) -> np.ndarray:
    """Converts normalized coordinates to pixels: see `mrcnn.ops.boxes.denorm_boxes`."""
    return _boxes.denorm_boxes(boxes, shape)


def resize_image(
    image: np.ndarray,
    min_dim: int | None = None,
    max_dim: int | None = None,
    min_scale: float | None = None,
    mode: str = "square",
) -> tuple:
    """Scales an image, keeping its aspect ratio, and pads or crops it: see `mrcnn.ops.images.resize_image`.

    A random crop (mode "crop") uses Python's `random`, so that `random.seed` makes it repeatable.

    Returns:
        image, window, scale, padding, crop.
    """
    return _images.resize_image(image, min_dim, max_dim, min_scale, mode)


def download_trained_weights(coco_model_path: str, verbose: int = 1) -> None:
    """Downloads the weights trained on COCO (246 MB). An interrupted download is resumed.

    Args:
        coco_model_path: path of the file to write. Scripts check `os.path.exists` before they call this.
        verbose: int; 0 prints nothing, else the file's name and the progress.
    """
    if verbose > 0:
        print(f"Downloading pretrained model to {coco_model_path} ...")
    _download(COCO_MODEL_URL, coco_model_path, progress=verbose > 0)
    if verbose > 0:
        print("... done downloading pretrained model!")
