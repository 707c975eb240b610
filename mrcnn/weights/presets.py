"""Networks that others trained: where their weights are, and the settings that build them.

`MaskRCNN.from_preset(name)` builds one; `load_weights(name)` loads one into a model that fits. docs/weights.md says how
each was checked.

Weights are downloaded on demand; this package contains none of torchvision or detectron2. detectron2's weights have the
license CC BY-SA 3.0: name the source, and share changed weights under the same license.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .coco_classes import COCO_80, COCO_91
from .layouts.network import CASCADE_STD_DEVS, Network

CC_BY_SA = "CC BY-SA 3.0 (detectron2's MODEL_ZOO.md): name the source, and share changed weights under the same license"
UNLICENSED = "no license of the weights themselves; torchvision's code is BSD-3, and they were trained on COCO"
TORCHVISION_URL = "https://download.pytorch.org/models/"
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"


@dataclass(frozen=True)
class Preset:
    """A trained network.

    Attributes:
        url: Of the file.
        settings: Of `Config`, beyond the defaults of their convention.
        class_names: "BG" first.
        box_ap, mask_ap: On COCO val2017 in percent, as published with the weights. None: not looked up.
        license: Of the weights.
        checksum: What is published of it: the first digits of the SHA-256, or "md5:" and the first digits of the MD5.
        megabytes: Size of the file, if published.
        file: Name in the cache folder; None: that in the URL.
    """

    url: str
    settings: Mapping[str, Any]
    class_names: Sequence[str] = field(repr=False)
    box_ap: float | None
    mask_ap: float | None
    license: str
    checksum: str
    megabytes: float | None = None
    file: str | None = None

    def describe(self, name: str) -> str:
        """The message shown before the download: address, size, checksum, AP and license, as far as published.

        Example:
            >>> print(PRESETS["torchvision"].describe("torchvision"))
            torchvision: https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth (169.8 MB)
              checksum: SHA-256 begins with bf2d0c1e
              COCO val2017, as published: box AP 37.9, mask AP 34.6
              license: no license of the weights themselves; torchvision's code is BSD-3, and they were trained on COCO
        """
        kind, digits = ("MD5", self.checksum[4:]) if self.checksum.startswith("md5:") else ("SHA-256", self.checksum)
        lines = [f"{name}: {self.url}" + (f" ({self.megabytes} MB)" if self.megabytes else "")]
        lines.append(f"checksum: {kind} begins with {digits}")
        if self.box_ap is not None:
            lines.append(f"COCO val2017, as published: box AP {self.box_ap}, mask AP {self.mask_ap}")
        return "\n  ".join([*lines, f"license: {self.license}"])


V1 = {"CONVENTION": "torchvision", "BACKBONE": "resnet50", "NUM_CLASSES": 91, "BATCH_NORM_EPS": 0.0}
V2 = {
    "CONVENTION": "torchvision", "BACKBONE": "resnet50", "NUM_CLASSES": 91, "BOX_HEAD": "conv4fc1", "RPN_CONVS": 2,
    "FPN_NORM": "batch", "HEAD_NORM": "batch",
}  # fmt: skip
FPN = {"CONVENTION": "detectron2", "NUM_CLASSES": 81}
LSJ = {**FPN, "BOX_HEAD": "conv4fc1", "RPN_CONVS": 2, "FPN_NORM": "batch", "HEAD_NORM": "batch"}
CASCADE = {**FPN, "CLASS_AGNOSTIC_BOX": True, "CASCADE_BBOX_STD_DEVS": CASCADE_STD_DEVS}
C4 = {
    **FPN, "BOX_HEAD": "c4", "RPN_CHANNELS": 1024, "PRE_NMS_LIMIT": 6000, "MASK_SHAPE": [14, 14],
    "IMAGE_RESIZE_MODE": "shorter_side", "PRE_NMS_LIMIT_TRAINING": 12000, "POST_NMS_ROIS_TRAINING": 2000,
}  # fmt: skip


def _detectron2(name: str, folder: str, run: str, settings: dict, *ap: float | None) -> Preset:
    """A network of detectron2's model zoo, whose file names end in the first six digits of their MD5."""
    backbone, digits = "resnet101" if "R_101" in name else "resnet50", run.rsplit("_", 1)[1]
    return Preset(
        f"{DETECTRON2_URL}{folder}/{name}/{run}.pkl", {**settings, "BACKBONE": backbone}, COCO_80, *ap or (None, None),
        CC_BY_SA, f"md5:{digits}", file=f"detectron2_{name}_{digits}.pkl",
    )  # fmt: skip


_INSTANCES, _MISC, _NEW = "COCO-InstanceSegmentation", "Misc", "new_baselines"
_ZOO = (  # name, folder and file in the model zoo, network, box and mask AP
    ("mask_rcnn_R_50_C4_1x", _INSTANCES, "137259246/model_final_9243eb", C4, 36.8, 32.2),
    ("mask_rcnn_R_50_C4_3x", _INSTANCES, "137849525/model_final_4ce675", C4, 39.8, 34.4),
    ("mask_rcnn_R_101_C4_3x", _INSTANCES, "138363239/model_final_a2914c", C4, 42.6, 36.7),
    ("mask_rcnn_R_50_FPN_1x", _INSTANCES, "137260431/model_final_a54504", FPN, 38.6, 35.2),
    ("mask_rcnn_R_50_FPN_3x", _INSTANCES, "137849600/model_final_f10217", FPN, 41.0, 37.2),
    ("mask_rcnn_R_101_FPN_3x", _INSTANCES, "138205316/model_final_a3ec72", FPN, 42.9, 38.6),
    ("cascade_mask_rcnn_R_50_FPN_1x", _MISC, "138602847/model_final_e9d89b", CASCADE, 42.1, 36.4),
    ("cascade_mask_rcnn_R_50_FPN_3x", _MISC, "144998488/model_final_480dd8", CASCADE, 44.3, 38.5),
    ("mask_rcnn_R_50_FPN_100ep_LSJ", _NEW, "42047764/model_final_bb69de", LSJ, 44.6, 40.3),
    ("mask_rcnn_R_50_FPN_200ep_LSJ", _NEW, "42047638/model_final_89a8d3", LSJ),
    ("mask_rcnn_R_50_FPN_400ep_LSJ", _NEW, "42019571/model_final_14d201", LSJ, 47.4, 42.5),
    ("mask_rcnn_R_101_FPN_100ep_LSJ", _NEW, "42025812/model_final_4f7b58", LSJ, 46.4, 41.6),
    ("mask_rcnn_R_101_FPN_200ep_LSJ", _NEW, "42131867/model_final_0bb7ae", LSJ),
    ("mask_rcnn_R_101_FPN_400ep_LSJ", _NEW, "42073830/model_final_f96b26", LSJ, 48.9, 43.7),
)
PRESETS: dict[str, Preset] = {
    "torchvision": Preset(
        f"{TORCHVISION_URL}maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", V1, COCO_91, 37.9, 34.6, UNLICENSED, "bf2d0c1e",
        169.8,
    ),
    "torchvision_v2": Preset(
        f"{TORCHVISION_URL}maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", V2, COCO_91, 47.4, 41.8, UNLICENSED, "73cbd019",
        177.2,
    ),
    **{f"detectron2/{row[0]}": _detectron2(*row) for row in _ZOO},
}  # fmt: skip


def preset_of(network: Network) -> str:
    """The name in `PRESETS` whose family a checkpoint belongs to; `from_preset` reads the rest from the file."""
    if network.convention == "torchvision":
        return "torchvision_v2" if network.head_norm else "torchvision"
    return f"detectron2/mask_rcnn_R_50_{'C4' if network.box_head == 'c4' else 'FPN'}_3x"
