"""Which network weights belong to, and the settings that build it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STAGE_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
CASCADE_STD_DEVS = [[0.05, 0.05, 0.1, 0.1], [1 / 30, 1 / 30, 1 / 15, 1 / 15]]  # Cai and Vasconcelos, stages 2 and 3


@dataclass(frozen=True)
class Network:
    """The parts of a Mask R-CNN, as its weights show them.

    Attributes:
        convention: "torchvision" or "detectron2"; None: a backbone that is the same in all of them.
        backbone: "resnet50", "resnet101" or an EfficientNet-Lite.
        classes: With the background; 0 for a backbone alone.
        box_head: "fc2", "conv4fc1" or "c4".
        fpn_norm, head_norm: "batch", "group" or None.
        rpn_convs, rpn_channels, pyramid_channels, features, mask_channels: See `Config`.
        class_agnostic_box, class_agnostic_mask: One output for all classes.
        stages: Class heads, 3 in a cascade.
        old_names: The names of torchvision before 0.14.
        masks: Has a mask head.
        pixel_mean, pixel_std: Of R, G and B, if the file has them; a standard deviation of 1 is None.
        bgr: The first convolution is for BGR images.
    """

    convention: str | None
    backbone: str = "resnet50"
    classes: int = 0
    box_head: str = "fc2"
    fpn_norm: str | None = None
    head_norm: str | None = None
    rpn_convs: int = 1
    rpn_channels: int = 256
    pyramid_channels: int = 256
    features: int = 1024
    mask_channels: int = 256
    class_agnostic_box: bool = False
    class_agnostic_mask: bool = False
    stages: int = 1
    old_names: bool = False
    masks: bool = True
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    bgr: bool = True

    @property
    def blocks(self) -> tuple[int, ...]:
        return STAGE_BLOCKS[self.backbone]

    def settings(self) -> dict[str, Any]:
        """The settings that build this network."""
        settings: dict[str, Any] = {"CONVENTION": self.convention} if self.convention else {}
        settings["BACKBONE"] = self.backbone
        if self.pixel_mean is not None:
            settings["MEAN_PIXEL"] = list(self.pixel_mean)
        if not self.classes:
            return settings
        settings |= {
            "NUM_CLASSES": self.classes, "BOX_HEAD": self.box_head, "FPN_NORM": self.fpn_norm,
            "HEAD_NORM": self.head_norm, "RPN_CONVS": self.rpn_convs, "RPN_CHANNELS": self.rpn_channels,
            "MASK_HEAD_CHANNELS": self.mask_channels, "CLASS_AGNOSTIC_BOX": self.class_agnostic_box,
            "CLASS_AGNOSTIC_MASK": self.class_agnostic_mask,
            "CASCADE_BBOX_STD_DEVS": CASCADE_STD_DEVS if self.stages == 3 else None,
        }  # fmt: skip
        if self.box_head == "c4":
            settings["MASK_SHAPE"] = [14, 14]
        else:
            settings["TOP_DOWN_PYRAMID_SIZE"] = self.pyramid_channels
            settings["FPN_CLASSIF_FC_LAYERS_SIZE"] = self.features
        return settings

    @classmethod
    def of_config(cls, config: Any, convention: str) -> Network:
        """The network that a `Config` builds.

        Raises:
            ValueError: The convention has no such network.
        """
        if config.CONVENTION != convention:
            raise ValueError(
                f"layout={convention!r} needs a model with CONVENTION = {convention!r}; this one has"
                f" {config.CONVENTION!r}, with which the same weights give other results."
            )
        if not isinstance(config.BACKBONE, str) or config.BACKBONE not in STAGE_BLOCKS:
            raise ValueError(f"layout={convention!r} knows {', '.join(STAGE_BLOCKS)}; BACKBONE is {config.BACKBONE!r}.")
        network = cls(
            convention, config.BACKBONE, config.NUM_CLASSES, config.BOX_HEAD, config.FPN_NORM, config.HEAD_NORM,
            config.RPN_CONVS, config.RPN_CHANNELS, config.TOP_DOWN_PYRAMID_SIZE, config.FPN_CLASSIF_FC_LAYERS_SIZE,
            config.MASK_HEAD_CHANNELS, config.CLASS_AGNOSTIC_BOX, config.CLASS_AGNOSTIC_MASK,
            1 + len(config.CASCADE_BBOX_STD_DEVS or ()),
            pixel_mean=tuple(np.broadcast_to(config.MEAN_PIXEL, config.IMAGE_CHANNEL_COUNT).tolist()),
        )  # fmt: skip
        special = network.stages > 1 or network.class_agnostic_box or network.class_agnostic_mask
        if convention == "torchvision" and (special or network.box_head == "c4" or network.head_norm == "group"):
            raise ValueError(
                "torchvision has no cascade, C4 head, GroupNorm or class-agnostic heads, which this model has. Save it"
                " as .h5."
            )
        return network
