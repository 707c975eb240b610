"""Records of what the original networks computed, and the parts of each stage that they hold.

Maps have their channels first, and boxes are x1, y1, x2, y2 in pixels, as in the original projects.

    C2..C5, P2..P6             [channels, rows, columns], thinned by `thin_map`
    rpn_logits_P2..            [anchors, rows, columns], thinned; rpn_deltas_P2.. [anchors * 4, rows, columns]
    anchors_P2_first, _last    two of the first and of the last 30 anchors of the level
    proposals                  [n, 4] what enters the class head, best first; proposal_count: how many there were
    class_logits, box_deltas   of the first proposals; in a cascade class_logits0, box_deltas0, ... of each head
    boxes, labels, scores      the final detections, in pixels of the photo; labels as in the original project
    masks, masks_shape         their masks on the photo, as packed bits
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.weights.layouts.network import Network

from .formula import IMAGES, draw

FOLDER = Path(__file__).parent
CHANNELS, CELLS = 16, 12  # of a map before every second value is taken
LOGIT_CELLS = 14
ANCHOR_STEP = 29  # the first and the last of 30
SIZES = {"IMAGE_MIN_DIM": 256, "IMAGE_MAX_DIM": 426}


@dataclass(frozen=True)
class Golden:
    """A network whose outputs were recorded.

    Attributes:
        preset: The name for `MaskRCNN.from_preset` that builds it.
        settings: Of the run, beyond those of the preset.
    """

    preset: str
    settings: dict[str, Any] = field(default_factory=lambda: dict(SIZES))


GOLDEN = {
    "torchvision_v1": Golden("torchvision"),
    "torchvision_v2": Golden("torchvision_v2"),
    "detectron2_R50-FPN": Golden("detectron2/mask_rcnn_R_50_FPN_3x"),
    "detectron2_R50-C4": Golden("detectron2/mask_rcnn_R_50_C4_3x", {**SIZES, "POST_NMS_ROIS_INFERENCE": 100}),
    "detectron2_cascade": Golden("detectron2/cascade_mask_rcnn_R_50_FPN_3x"),
    "detectron2_LSJ": Golden("detectron2/mask_rcnn_R_50_FPN_400ep_LSJ"),
}


def golden_of(network: Network) -> str | None:
    """The name of the recorded network with the same parts; the number of classes and of blocks may differ."""
    plain = (network.fpn_norm, network.head_norm, network.box_head, network.rpn_convs) == (None, None, "fc2", 1)
    large = (network.fpn_norm, network.head_norm, network.box_head, network.rpn_convs) == (
        "batch",
        "batch",
        "conv4fc1",
        2,
    )
    if network.class_agnostic_mask or network.class_agnostic_box != (network.stages == 3):
        return None
    if network.convention == "torchvision":
        return "torchvision_v1" if plain else "torchvision_v2" if large else None
    if network.box_head == "c4":
        return "detectron2_R50-C4"
    if network.stages == 3:
        return "detectron2_cascade" if plain else None
    return "detectron2_R50-FPN" if plain else "detectron2_LSJ" if large else None


def golden_picture() -> np.ndarray:
    """[161, 200, 3] uint8: the picture of the records in this package."""
    return draw(*IMAGES[0])


def golden_record(name: str) -> dict[str, np.ndarray]:
    """The record of `golden_picture` for a network of `GOLDEN` with the weights of `formula_state`."""
    with np.load(FOLDER / f"{name}.npz") as data:
        return dict(data)


def read_record(path: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """Reads a record from a file; of one with several images, keys ending in "_0", the first.

    Raises:
        ValueError: It was made from another image.
    """
    with np.load(path) as data:
        record = {name.removesuffix("_0"): data[name] for name in data.files if name[-2:] not in ("_1", "_2")}
    if "image_crc32" in record and int(np.ravel(record["image_crc32"])[0]) != zlib.crc32(image.tobytes()):
        raise ValueError(f"{path} was made from another image: the CRC-32 differs.")
    return record


def masks_of(record: Mapping[str, np.ndarray]) -> np.ndarray:
    """[n, height, width] bool."""
    shape = record["masks_shape"]
    return np.unpackbits(record["masks"])[: shape.prod()].reshape(shape).astype(bool)


# ---- Parts of a stage ----------------------------------------------------------------------------------------------
def grid(n: int, most: int) -> np.ndarray:
    """At most `most` indices of range(n), evenly spread, both ends included."""
    m = min(n, most)
    return np.arange(m) * (n - 1) // max(m - 1, 1)


def thin_map(feature: np.ndarray) -> np.ndarray:
    """[C, h, w] -> 8 channels, and at most 6 rows and columns."""
    return thin_cells(feature[:: max(1, len(feature) // CHANNELS)], CELLS)


def thin_cells(feature: np.ndarray, cells: int) -> np.ndarray:
    """[C, h, w] -> every second channel, and at most `cells` / 2 rows and columns."""
    _, height, width = feature.shape
    return feature[::2, grid(height, cells)[::2]][:, :, grid(width, cells)[::2]]
