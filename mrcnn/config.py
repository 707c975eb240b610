"""Every setting of a run, declared once.

Subclass `Config` and override what differs, or pass it by keyword, and hand an instance to `MaskRCNN`:

    class BalloonConfig(Config):
        NAME = "balloon"
        NUM_CLASSES = 1 + 1  # background + balloon

    config = BalloonConfig(IMAGES_PER_GPU=1)

Names and defaults are matterport's. The settings of the group "Additions" are new; their defaults give matterport's
results or, where those were a bug, the fix (docs/migrating.md lists each).
"""

from __future__ import annotations

import warnings
from types import FunctionType
from typing import Any

import numpy as np

from mrcnn.config_checks import (
    BACKBONE,
    COMPUTE_DTYPES,
    IMAGE_RANGE,
    LOSS_NAMES,
    LOSS_WEIGHTS,
    NMS,
    ROI_ALIGN_MODES,
    check,
    contradictions,
)  # fmt: skip
from mrcnn.config_derived import DERIVED, DerivedSettings
from mrcnn.config_networks import NetworkSettings, backbone_from_json, backbone_to_json
from mrcnn.config_recipes import RecipeSettings
from mrcnn.config_training import TrainingSettings
from mrcnn.conventions import CONVENTIONS
from mrcnn.ops.resize_modes import RESIZE_MODES
from mrcnn.settings import (
    COMPILE,
    CONFIDENCE,
    DETECT,
    DETECT_AND_TRAIN,
    GRAPH,
    IOU,
    LOSS,
    RATIOS,
    STD_DEV,
    STEPS,
    STRIDES,
    TRAINING_GRAPH,
    YES_OR_NO,
    Group,
    Setting,
    collect_settings,
    near_miss,
    number,
    numbers_above,
    one_of,
    same_value,
    settings_page,
    to_json,
    whole,
)  # fmt: skip


@collect_settings
class Config(RecipeSettings, TrainingSettings, NetworkSettings, DerivedSettings):
    """The settings of a model and its training.

    Override them in a subclass, pass them by keyword, or set them on the instance:

    >>> config = Config(NAME="cells", NUM_CLASSES=3, IMAGE_MIN_DIM=512, IMAGE_MAX_DIM=512)
    >>> config
    Config(NAME='cells', NUM_CLASSES=3, IMAGE_MIN_DIM=512, IMAGE_MAX_DIM=512)
    >>> config.IMAGE_META_SIZE
    15

    `BATCH_SIZE`, `IMAGE_SHAPE` and `IMAGE_META_SIZE` follow from other settings and are never stale. Setting one of
    them changes the settings it follows from.

    Raises:
        ValueError: A setting is invalid. The message names it, its value, and the valid values.
        TypeError: A keyword is not a setting.
    """

    _run = Group("The run")
    NAME = Setting(None, "Names the run folder and the checkpoints, in lower case. Must be set to train.", effect=GRAPH)
    GPU_COUNT = Setting(
        1,
        "Devices that share a batch, as far as the machine has them when the model is built. `BATCH_SIZE` is"
        " `GPU_COUNT * IMAGES_PER_GPU` on any number of devices.",
        whole(1),
    )
    IMAGES_PER_GPU = Setting(2, "Images in a batch for each of `GPU_COUNT`.", whole(1), "images")
    STEPS_PER_EPOCH = Setting(1000, "Training steps in an epoch.", STEPS, "steps")
    VALIDATION_STEPS = Setting(
        50, "Validation steps after each epoch; 0 or None: no validation.", number(0, none=True), "steps"
    )

    _backbone = Group("Backbone and pyramid")
    CONVENTION = Setting(
        "matterport",
        "The rules that weights were trained with (docs/weights.md). Settings that are not set explicitly take the"
        " defaults of the convention.",
        one_of(*CONVENTIONS),
        effect=GRAPH,
    )
    BACKBONE = Setting(
        "resnet101", "A name, a function like `resnet_graph`, a Keras model with `pyramid_outputs`, as KerasHub's, or"
        " `(keras_model, [names of the layers of C2..C5])`. See docs/training.md, Backbones.", BACKBONE, effect=GRAPH,
    )  # fmt: skip
    COMPUTE_BACKBONE_SHAPE = Setting(
        None,
        "With a callable backbone: a function of the image shape that returns [height, width] of P2..P6; None: by"
        " `BACKBONE_STRIDES`.",
        effect=GRAPH,
    )
    BACKBONE_STRIDES = Setting([4, 8, 16, 32, 64], "Strides of P2..P6.", STRIDES, "pixels", GRAPH)
    FPN_CLASSIF_FC_LAYERS_SIZE = Setting(
        1024, "Width of the two fully connected layers of the class head.", whole(1), "features", GRAPH
    )
    TOP_DOWN_PYRAMID_SIZE = Setting(256, "Width of P2..P6.", whole(1), "channels", GRAPH)
    NUM_CLASSES = Setting(1, "Number of classes, background included.", whole(1), "classes", GRAPH)

    _proposals = Group("Region proposals")
    RPN_ANCHOR_SCALES = Setting(
        (32, 64, 128, 256, 512),
        "Side of the square anchor, one per level.",
        numbers_above(0, 5, "5 scales, one for each of P2..P6"),
        "pixels",
        GRAPH,
    )
    RPN_ANCHOR_RATIOS = Setting([0.5, 1, 2], "Width / height of the anchors in each cell.", RATIOS, effect=GRAPH)
    RPN_ANCHOR_STRIDE = Setting(
        1, "1: anchors in each cell of a feature map; 2: in every second one.", whole(1), "cells", GRAPH
    )
    RPN_NMS_THRESHOLD = Setting(0.7, "Of two proposals that overlap more, the lower-scored one is dropped.", IOU, "IoU")
    RPN_TRAIN_ANCHORS_PER_IMAGE = Setting(
        256, "Anchors sampled for the RPN's losses, at most half of them positive.", whole(1), "anchors"
    )
    PRE_NMS_LIMIT = Setting(6000, "Highest-scoring anchors kept before NMS.", whole(1), "anchors", DETECT_AND_TRAIN)
    POST_NMS_ROIS_TRAINING = Setting(
        2000, "Proposals kept after NMS while training.", whole(1), "proposals", TRAINING_GRAPH
    )
    POST_NMS_ROIS_INFERENCE = Setting(1000, "Proposals kept after NMS for detection.", whole(1), "proposals", DETECT)

    _input = Group("Images and masks")
    USE_MINI_MASK = Setting(
        True,
        "Crop ground-truth masks to their box and shrink them: less memory, coarser edges.",
        YES_OR_NO,
        effect=TRAINING_GRAPH,
    )
    MINI_MASK_SHAPE = Setting((56, 56), "(height, width) of the shrunk masks.", unit="pixels", effect=TRAINING_GRAPH)
    IMAGE_RESIZE_MODE = Setting(
        "square", "How images reach the size of the network; see `mrcnn.utils.resize_image`.", one_of(*RESIZE_MODES)
    )
    IMAGE_MIN_DIM = Setting(
        800, 'Images are scaled up until the shorter side has this length; "crop": its size.', unit="pixels"
    )
    IMAGE_MAX_DIM = Setting(1024, "Longest side of an image; a multiple of 64.", unit="pixels")
    IMAGE_MIN_SCALE = Setting(
        0, "Lower bound of the scaling factor, as far as IMAGE_MAX_DIM allows.", number(0, none=True)
    )
    IMAGE_CHANNEL_COUNT = Setting(3, "Channels of the images.", whole(1), "channels", GRAPH)
    IMAGE_RANGE = Setting(
        "auto",
        '(low, high): the values of images that become 0 and 255, such as (0, 4095) for 12 bits. "raw": images go into'
        ' the network as they are, minus MEAN_PIXEL. "auto": uint8 and floats 0..255 as they are, uint16 scaled from'
        ' 0..65535; "raw" if MEAN_PIXEL is not one of images 0..255 (at most 1, negative, or above 255).',
        IMAGE_RANGE,
    )
    MEAN_PIXEL = Setting(
        np.array([123.7, 116.8, 103.9]), "Mean of each channel (RGB), subtracted from the images.", unit="0..255"
    )

    _heads = Group("Heads and detections")
    TRAIN_ROIS_PER_IMAGE = Setting(200, "RoIs sampled for the losses of the heads.", whole(1), "RoIs", TRAINING_GRAPH)
    ROI_POSITIVE_RATIO = Setting(
        0.33, "Share of positive RoIs among them.", number(0, 1, above=True), effect=TRAINING_GRAPH
    )
    POOL_SIZE = Setting(7, "Side of a RoI's feature map in the class head.", whole(1), "cells", GRAPH)
    MASK_POOL_SIZE = Setting(14, "Side of a RoI's feature map in the mask head.", whole(1), "cells", GRAPH)
    MASK_SHAPE = Setting(
        [28, 28], "(height, width) of predicted masks: twice MASK_POOL_SIZE.", unit="pixels", effect=GRAPH
    )
    MAX_GT_INSTANCES = Setting(100, "Most ground-truth objects of an image that are used.", whole(1), "objects")
    RPN_BBOX_STD_DEV = Setting(
        np.array([0.1, 0.1, 0.2, 0.2]), "The RPN's box deltas are divided by these.", STD_DEV, effect=DETECT_AND_TRAIN
    )
    BBOX_STD_DEV = Setting(
        np.array([0.1, 0.1, 0.2, 0.2]), "The class head's box deltas are divided by these.", STD_DEV,
        effect=DETECT_AND_TRAIN,
    )  # fmt: skip
    DETECTION_MAX_INSTANCES = Setting(100, "Most detections of an image.", whole(1), "detections", DETECT)
    DETECTION_MIN_CONFIDENCE = Setting(
        0.7, "Detections with a lower score are dropped; None or 0: none is.", CONFIDENCE, "score"
    )
    DETECTION_NMS_THRESHOLD = Setting(
        0.3, "Of two detections of one class that overlap more, the lower-scored one is dropped.", IOU, "IoU"
    )

    _training = Group("Training")
    LEARNING_RATE = Setting(0.001, "Learning rate of the default optimizer.", effect=COMPILE)
    LEARNING_MOMENTUM = Setting(0.9, "Momentum of the default optimizer.", effect=COMPILE)
    WEIGHT_DECAY = Setting(0.0001, "Factor of the L2 penalty.", number(0), effect=LOSS)
    LOSS_WEIGHTS = Setting(
        dict.fromkeys(LOSS_NAMES, 1.0), "Factor of each loss; 1 for those not named.", LOSS_WEIGHTS, effect=LOSS
    )
    USE_RPN_ROIS = Setting(
        True, "False: proposals are given from outside, as `input_roi`.", YES_OR_NO, effect=TRAINING_GRAPH
    )
    TRAIN_BN = Setting(
        False,
        "False: BatchNorm is frozen. None: it trains as usual. True: it uses batch statistics, also for detection.",
        one_of(None, False, True),
        effect=GRAPH,
    )
    GRADIENT_CLIP_NORM = Setting(
        5.0, "Largest global norm of the gradients; None or 0: no clipping.", number(0, none=True), effect=COMPILE
    )

    _additions = Group("Additions")
    COMPUTE_DTYPE = Setting(
        "float32",
        '"mixed_bfloat16" or "mixed_float16": the network computes in 16 bits, weights and losses stay in 32. Faster'
        ' where the device has such arithmetic. "float32" is `keras.config.dtype_policy()`.',
        one_of(*COMPUTE_DTYPES),
        effect=GRAPH,
    )
    SEED = Setting(
        None, "Fixes the order of images, augmentation, and the sampling of anchors and RoIs.", effect=TRAINING_GRAPH
    )
    ROI_ALIGN = Setting(
        "crop",
        '"crop": matterport\'s `crop_and_resize`. "aligned": RoIAlign of the paper with half-pixel alignment.'
        ' "unaligned": without it, as first published.',
        one_of(*ROI_ALIGN_MODES),
        effect=GRAPH,
    )
    ROI_ALIGN_SAMPLES = Setting(
        2,
        '"aligned" and "unaligned" average this many samples squared in a cell. 0: as many as the RoI has feature map'
        " cells in it.",
        whole(0),
        effect=GRAPH,
    )
    DETECTION_NMS = Setting(
        "class", 'Detections that drop each other: of one "class", "all", or of lists, e.g. [["car", "truck"]].', NMS
    )
    RPN_CHANNELS = Setting(512, "Width of the RPN's shared convolution.", whole(1), "channels", GRAPH)
    MASK_HEAD_CHANNELS = Setting(256, "Width of the mask head's convolutions.", whole(1), "channels", GRAPH)
    MAX_BROKEN_IMAGES = Setting(
        0.25,
        "Share of images that may be left out of training because the dataset's `load_image` or `load_mask` fails.",
        number(0, 1),
    )
    TRAIN_ON_EMPTY_IMAGES = Setting(False, "Train on images without objects, too.", YES_OR_NO)
    ADD_GT_TO_PROPOSALS = Setting(
        False, "Ground-truth boxes join the proposals while training (Faster R-CNN).", YES_OR_NO, effect=TRAINING_GRAPH
    )
    FILL_ROIS_WITH_NEGATIVES = Setting(
        False,
        "Negative RoIs fill up TRAIN_ROIS_PER_IMAGE; False: they keep ROI_POSITIVE_RATIO.",
        YES_OR_NO,
        effect=TRAINING_GRAPH,
    )
    PADDED_ROIS_IN_CLASS_LOSS = Setting(
        False,
        "Zero-padded RoIs count as background in the class loss, as in matterport (#972).",
        YES_OR_NO,
        effect=LOSS,
    )
    STOP_PROPOSAL_GRADIENT = Setting(
        True,
        "False: the box loss of the class head also trains the RPN through the proposals, as in matterport.",
        YES_OR_NO,
        effect=TRAINING_GRAPH,
    )
    WEIGHT_DECAY_PER_SIZE = Setting(
        True,
        "Divide each weight's penalty by its number of elements, as matterport does (which leaves almost no decay);"
        " False: plain L2.",
        YES_OR_NO,
        effect=LOSS,
    )

    def __init__(self, **settings: Any):
        # Lists, dicts and arrays of the class are copied, so that `config.LOSS_WEIGHTS["x"] = 2` stays in the instance.
        for name, value in self.to_dict().items():
            if name not in DERIVED and isinstance(value, (list, dict, np.ndarray)):
                setattr(self, name, value.copy())
        self._follow_defaults("matterport", "matterport")
        for name, value in sorted(settings.items(), key=lambda item: item[0] not in ("CONVENTION", "RECIPE")):
            if not hasattr(type(self), name):
                hint = near_miss(name, self._known_names())
                raise TypeError(
                    f"{type(self).__name__} has no setting {name}"
                    + (f"; did you mean {hint}?" if hint else "; docs/settings.md lists them.")
                )
            setattr(self, name, value)
        self.validate()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        known = cls._known_names(Config)
        for name in list(cls.__dict__):
            if name in DERIVED and not isinstance(cls.__dict__[name], property):
                delattr(cls, name)  # matterport recomputed them as well
            elif hint := near_miss(name, known):
                _warn_of_near_miss(cls.__name__, name, hint, stacklevel=3)
        for name in ("BACKBONE", "COMPUTE_BACKBONE_SHAPE"):  # a function set here is a setting, not a method
            if isinstance(cls.__dict__.get(name), FunctionType):
                setattr(cls, name, staticmethod(cls.__dict__[name]))

    def __setattr__(self, name, value):
        if not hasattr(self, name) and (hint := near_miss(name, self._known_names())):
            _warn_of_near_miss(type(self).__name__, name, hint, stacklevel=3)
        before = self.CONVENTION, self.RECIPE
        super().__setattr__(name, value)
        if name in ("CONVENTION", "RECIPE"):
            self._follow_defaults(*before)

    def __repr__(self):
        values = {name: getattr(self, name) for name in self.settings_table} | self.to_dict()
        changed = [
            f"{name}={value!r}"
            for name, value in values.items()
            if name not in DERIVED and not same_value(value, self._default(name))
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def _known_names(cls, base=None) -> list[str]:
        return [*(base or cls).settings_table, *DERIVED]

    def anchor_settings(self) -> dict[str, Any]:
        """The arguments of `ops.anchors.anchors_of_image` that follow from the settings."""
        one_level = self.BOX_HEAD == "c4"  # C4, with the anchors of all scales
        return {
            "scales": [list(self.RPN_ANCHOR_SCALES)] if one_level else self.RPN_ANCHOR_SCALES,
            "ratios": self.RPN_ANCHOR_RATIOS,
            "strides": self.BACKBONE_STRIDES[2:3] if one_level else self.BACKBONE_STRIDES,
            "anchor_stride": self.RPN_ANCHOR_STRIDE,
            "level_shapes": self.COMPUTE_BACKBONE_SHAPE if callable(self.BACKBONE) else None,
            "rounding": self.convention.anchor_rounding,
            "strides_from_maps": self.convention.anchor_strides != "fixed",
        }

    # ---- Checks ------------------------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Checks the settings. Called here, and again whenever a model is built or used.

        Raises:
            ValueError: A setting is invalid. The message names it, its value, and the valid values.
        """
        check(self)

    def contradictions(self) -> list[str]:
        """Valid settings that have no or another effect because of other settings: one sentence each."""
        return contradictions(self)

    # ---- Reading -----------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict:
        """All settings and derived values by name, in alphabetical order."""
        hidden = {"settings_table", "convention"}
        names = [n for n in dir(self) if not n.startswith("_") and not callable(getattr(type(self), n, None))]
        names += [n for n in ("BACKBONE", "COMPUTE_BACKBONE_SHAPE") if n not in names]  # these may be callables
        return {name: getattr(self, name) for name in sorted(set(names) - hidden)}

    def to_json(self) -> dict:
        """`to_dict` in JSON's types, without the derived values; used by `MaskRCNN.save`.

        Raises:
            ValueError: JSON can't hold a setting, e.g. a callable backbone.
        """
        settings = backbone_to_json(self.to_dict()).items()
        return {name: to_json(name, value) for name, value in settings if name not in DERIVED}

    @classmethod
    def from_json(cls, settings: dict) -> Config:
        """The inverse of `to_json`."""
        return type("Config", (Config,), Config._without_defaults(backbone_from_json(settings)))()

    def display(self) -> None:
        """Prints all settings and derived values."""
        print("\nConfigurations:")
        for name, value in self.to_dict().items():
            print(f"{name:30} {value}")
        print()


def _warn_of_near_miss(owner: str, name: str, hint: str, stacklevel: int) -> None:
    warnings.warn(f"{owner}.{name} is no setting; did you mean {hint}?", UserWarning, stacklevel=stacklevel + 1)


if __name__ == "__main__":
    print(settings_page(Config.settings_table), end="")
