"""The names that users import from `mrcnn.utils`, gathered from the rooms where they live.

Only what is too small for a room of its own is written here. There is no `__all__`, and the modules imported below are
part of the contract: scripts that say `from mrcnn.utils import *` go on to use `np`, `random`, `sys` and others.
"""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import sys
import urllib.request
import warnings
import xml.etree.ElementTree  # scripts that read annotations say only `import xml.etree`, and count on this

import numpy as np
import scipy
import skimage  # loads skimage.io, .color, .transform and others when they are first used
from keras import ops as _ops

from mrcnn.data.dataset import Dataset
from mrcnn.evaluation import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_overlaps_masks,
    compute_recall,
    trim_zeros,
)
from mrcnn.ops import images as _images
from mrcnn.ops.anchors import generate_anchors, generate_pyramid_anchors
from mrcnn.ops.boxes import (
    apply_box_deltas,
    box_refinement,
    box_refinement_graph,
    compute_iou,
    compute_overlaps,
    denorm_boxes,
    extract_bboxes,
    norm_boxes,
)
from mrcnn.ops.images import resize, resize_mask
from mrcnn.ops.masks import expand_mask, minimize_mask, unmold_mask
from mrcnn.ops.nms import non_max_suppression
from mrcnn.weights import PRETRAINED as _PRETRAINED
from mrcnn.weights import download as _download

COCO_MODEL_URL = _PRETRAINED["coco"]


def resize_image(image, min_dim=None, max_dim=None, min_scale=None, mode="square"):
    """Scales an image, its aspect kept, and pads or crops it: `ops.images.resize_image` in matterport's form.

    The place of a random crop (mode "crop") comes from Python's `random`, so `random.seed` fixes it.

    Returns:
        image, window, scale, padding, crop. What they are is said there.
    """
    return _images.resize_image(image, min_dim, max_dim, min_scale, mode)


def mold_mask(mask, config):
    """Does nothing and returns None: matterport has the name and never filled it. `minimize_mask` shrinks masks."""


def batch_slice(inputs, graph_fn, batch_size, names=None):
    """Runs a function that knows one image on each image of a batch. Our own layers work on whole batches instead.

    Args:
        inputs: tensor [B, ...] or list of such.
        graph_fn: function of one slice of each input; returns a tensor or a list of tensors.
        batch_size: int. B, known while the graph is built.
        names: names of the outputs. Tensors are not named any more; accepted and unused.

    Returns:
        The outputs, stacked to [B, ...]: a list, or the tensor itself if there is only one.
    """
    del names
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    outputs = [graph_fn(*[x[i] for x in inputs]) for i in range(batch_size)]
    outputs = [o if isinstance(o, (list, tuple)) else [o] for o in outputs]
    stacked = [_ops.stack(parts, axis=0) for parts in zip(*outputs)]
    return stacked[0] if len(stacked) == 1 else stacked


def download_trained_weights(coco_model_path, verbose=1):
    """Fetches the weights trained on COCO (246 MB). A broken-off download is taken up where it stopped.

    Args:
        coco_model_path: path of the file to write. Scripts ask `os.path.exists` before they call this.
        verbose: 0: silent; else says what is fetched and how far it is.
    """
    if verbose > 0:
        print(f"Downloading pretrained model to {coco_model_path} ...")
    _download(COCO_MODEL_URL, coco_model_path, progress=verbose > 0)
    if verbose > 0:
        print("... done downloading pretrained model!")
