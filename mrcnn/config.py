"""Every setting of a run, each explained once.

Subclass `Config`, override what differs, and hand an instance to `MaskRCNN`:

    class BalloonConfig(Config):
        NAME = "balloon"
        NUM_CLASSES = 1 + 1  # background + balloon

The names and defaults are matterport's. Settings under "Ours" are new; their default gives matterport's results,
or, where those were a plain fault, the fix (docs/migrating.md lists each).

Values that follow from others (`BATCH_SIZE`, `IMAGE_SHAPE`, `IMAGE_META_SIZE`) are properties: they are right at any
time, however and whenever the settings they follow from were set. Setting one of them changes what it follows from.
"""

from __future__ import annotations

import numbers
from types import FunctionType

import numpy as np

LOSS_NAMES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
DERIVED = ("BATCH_SIZE", "IMAGE_META_SIZE", "IMAGE_SHAPE")
RESIZE_MODES = ("none", "square", "pad64", "crop")
BACKBONES = ("resnet50", "resnet101", "mobilenet_v2")
ROI_ALIGN_MODES = ("crop", "aligned")
COMPUTE_DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
SIZE_MULTIPLE = 64  # P6 has stride 64, and the FPN's upsampled maps must fit the lateral ones exactly


class Config:
    """Base configuration. Override its attributes in a subclass, or set them on the instance.

    Raises:
        ValueError: a setting that can't work; the message has its name, its value, and what would work.
    """

    # ---- The run -------------------------------------------------------------------------------------------------
    NAME = None  # names the run folder and the checkpoints, lower-cased; must be set to train
    GPU_COUNT = 1  # devices that share a batch; more than there are is not an error: the batch stays the same
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 50

    # ---- Backbone and pyramid ------------------------------------------------------------------------------------
    # "resnet50", "resnet101", "mobilenet_v2", or a callable like `model.resnet_graph` that returns [C1, ..., C5].
    BACKBONE = "resnet101"
    COMPUTE_BACKBONE_SHAPE = None  # with a callable backbone: image shape -> [[h, w] of P2, ..., P6]; None: by stride
    BACKBONE_STRIDES = [4, 8, 16, 32, 64]  # of P2..P6, pixels
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    TOP_DOWN_PYRAMID_SIZE = 256  # channels of P2..P6
    NUM_CLASSES = 1  # background included

    # ---- Region proposals ----------------------------------------------------------------------------------------
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)  # side of the square anchor, pixels, one per level
    RPN_ANCHOR_RATIOS = [0.5, 1, 2]  # width / height
    RPN_ANCHOR_STRIDE = 1  # 1: anchors at each cell, 2: at every second one
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 6000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000

    # ---- Images and masks going in -------------------------------------------------------------------------------
    USE_MINI_MASK = True  # hold true masks cropped to their box and shrunk: less memory, coarser edges
    MINI_MASK_SHAPE = (56, 56)
    IMAGE_RESIZE_MODE = "square"  # none | square | pad64 | crop: see `utils.resize_image`
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024
    IMAGE_MIN_SCALE = 0  # at least this up-scaling, as far as IMAGE_MAX_DIM lets it
    IMAGE_CHANNEL_COUNT = 3
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])  # RGB, subtracted

    # ---- Second stage --------------------------------------------------------------------------------------------
    TRAIN_ROIS_PER_IMAGE = 200
    ROI_POSITIVE_RATIO = 0.33
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14
    MASK_SHAPE = [28, 28]
    MAX_GT_INSTANCES = 100
    RPN_BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE = 0.7  # None or 0: keep all
    DETECTION_NMS_THRESHOLD = 0.3

    # ---- Training ------------------------------------------------------------------------------------------------
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.0001
    LOSS_WEIGHTS = dict.fromkeys(LOSS_NAMES, 1.0)
    USE_RPN_ROIS = True  # False: proposals come from outside, through `input_roi`
    TRAIN_BN = False  # None: BatchNorm trains as usual; False: frozen; True: batch statistics even when detecting
    GRADIENT_CLIP_NORM = 5.0  # of all gradients together

    # ---- Ours ----------------------------------------------------------------------------------------------------
    # "mixed_bfloat16" or "mixed_float16": convolutions compute in 16 bits, weights and losses stay in 32; faster where
    # the device multiplies such numbers. "float32" is Keras's own `keras.config.dtype_policy()`.
    COMPUTE_DTYPE = "float32"
    SEED = None  # int: fixes the order of images, the augmentation and the sampling of anchors and RoIs
    ROI_ALIGN = "crop"  # "crop": matterport's crop_and_resize; "aligned": RoIAlign of the paper, half-pixel aligned
    ROI_ALIGN_SAMPLES = 2  # "aligned" averages this many samples squared in a cell
    TRAIN_ON_EMPTY_IMAGES = False  # True: images without objects are used, all of their anchors and RoIs negative
    ADD_GT_TO_PROPOSALS = False  # True: true boxes join the proposals while training (Faster R-CNN)
    FILL_ROIS_WITH_NEGATIVES = False  # True: negatives fill up TRAIN_ROIS_PER_IMAGE; False: hold ROI_POSITIVE_RATIO
    PADDED_ROIS_IN_CLASS_LOSS = False  # True: all-zero filler RoIs count as background, as in matterport (#972)
    STOP_PROPOSAL_GRADIENT = True  # False: stage 2's box loss also trains stage 1, as in matterport
    WEIGHT_DECAY_PER_SIZE = True  # matterport divides each weight's L2 by its size, so hardly any is left; False: plain

    def __init__(self):
        # Lists, dicts and arrays of the class are copied, so that `config.LOSS_WEIGHTS["x"] = 2` stays in the instance.
        for name, value in self._settings().items():
            if name not in DERIVED and isinstance(value, (list, dict, np.ndarray)):
                setattr(self, name, value.copy())
        self.validate()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in DERIVED:  # a subclass that sets one hides no property; matterport recomputed them as well
            if name in cls.__dict__ and not isinstance(cls.__dict__[name], property):
                delattr(cls, name)
        for name in ("BACKBONE", "COMPUTE_BACKBONE_SHAPE"):  # a function set here is a setting, not a method
            if isinstance(cls.__dict__.get(name), FunctionType):
                setattr(cls, name, staticmethod(cls.__dict__[name]))

    # ---- What follows from the settings --------------------------------------------------------------------------
    @property
    def BATCH_SIZE(self) -> int:
        """Images in a batch, over all devices."""
        return self.IMAGES_PER_GPU * self.GPU_COUNT

    @BATCH_SIZE.setter
    def BATCH_SIZE(self, value: int) -> None:
        if value % self.GPU_COUNT:
            self.GPU_COUNT = 1
        self.IMAGES_PER_GPU = value // self.GPU_COUNT

    @property
    def IMAGE_SHAPE(self) -> np.ndarray:
        """[height, width, channels] of a molded image. In the modes "none" and "pad64" images may have other sizes."""
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        return np.array([side, side, self.IMAGE_CHANNEL_COUNT])

    @IMAGE_SHAPE.setter
    def IMAGE_SHAPE(self, value) -> None:
        height, width, channels = (int(v) for v in value)
        if height != width:
            raise ValueError(
                f"IMAGE_SHAPE is {list(value)}; expected a square, [d, d, channels]. For other shapes set"
                ' IMAGE_RESIZE_MODE = "pad64" (or "none"): then each image keeps its own.'
            )
        self.IMAGE_CHANNEL_COUNT = channels
        if self.IMAGE_RESIZE_MODE == "crop":
            self.IMAGE_MIN_DIM = height
            self.IMAGE_MAX_DIM = max(self.IMAGE_MAX_DIM, height)
        else:
            self.IMAGE_MAX_DIM = height
            self.IMAGE_MIN_DIM = min(self.IMAGE_MIN_DIM, height)

    @property
    def IMAGE_META_SIZE(self) -> int:
        """Length of the image_meta vector: id 1, original shape 3, shape 3, window 4, scale 1, one flag per class."""
        return 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @IMAGE_META_SIZE.setter
    def IMAGE_META_SIZE(self, value: int) -> None:
        if value != self.IMAGE_META_SIZE:
            raise ValueError(
                f"IMAGE_META_SIZE is {value}; it follows from NUM_CLASSES = {self.NUM_CLASSES} and must be"
                f" {self.IMAGE_META_SIZE}. Set NUM_CLASSES instead."
            )

    # ---- Checks --------------------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Refuses settings that can't work. Called here, and again when a model is built or used.

        Raises:
            ValueError: with the setting's name, its value, and what would work.
        """
        for name in ("GPU_COUNT", "IMAGES_PER_GPU", "NUM_CLASSES", "IMAGE_CHANNEL_COUNT",
                     "RPN_ANCHOR_STRIDE", "RPN_TRAIN_ANCHORS_PER_IMAGE", "PRE_NMS_LIMIT", "POST_NMS_ROIS_TRAINING",
                     "POST_NMS_ROIS_INFERENCE", "TRAIN_ROIS_PER_IMAGE", "POOL_SIZE", "MASK_POOL_SIZE",
                     "MAX_GT_INSTANCES", "DETECTION_MAX_INSTANCES", "TOP_DOWN_PYRAMID_SIZE",
                     "FPN_CLASSIF_FC_LAYERS_SIZE", "ROI_ALIGN_SAMPLES"):  # fmt: skip
            self._require(name, _is_whole(getattr(self, name)) and getattr(self, name) >= 1, "a whole number >= 1")
        # Scripts divide images by batch size; what is left of a step counts as one, as it did in Keras's old loop.
        self._require("STEPS_PER_EPOCH", _is_number(self.STEPS_PER_EPOCH, 0) and self.STEPS_PER_EPOCH, "a number > 0")
        steps = self.VALIDATION_STEPS
        self._require("VALIDATION_STEPS", steps is None or _is_number(steps, 0), "a number >= 0")
        for name in ("RPN_NMS_THRESHOLD", "DETECTION_NMS_THRESHOLD"):
            self._require(name, _is_number(getattr(self, name), 0, 1), "a number in [0, 1]")
        ratio = self.ROI_POSITIVE_RATIO
        self._require("ROI_POSITIVE_RATIO", _is_number(ratio, 0, 1) and ratio, "a number in (0, 1]")
        confidence = self.DETECTION_MIN_CONFIDENCE
        self._require("DETECTION_MIN_CONFIDENCE", confidence in (None, False) or _is_number(confidence, 0, 1),
                      "a number in [0, 1] or None")  # fmt: skip
        clip = self.GRADIENT_CLIP_NORM
        self._require("GRADIENT_CLIP_NORM", clip in (None, False) or _is_number(clip, 0), "a number >= 0, or None")
        self._require("WEIGHT_DECAY", _is_number(self.WEIGHT_DECAY, 0), "a number >= 0")
        self._validate_images()
        self._validate_pyramid()
        weights = self.LOSS_WEIGHTS
        known = isinstance(weights, dict) and set(weights) <= set(LOSS_NAMES) and all(map(_is_number, weights.values()))
        self._require("LOSS_WEIGHTS", known, f"a dict of numbers, its keys out of {', '.join(LOSS_NAMES)}")
        self._require("ROI_ALIGN", self.ROI_ALIGN in ROI_ALIGN_MODES, _one_of(ROI_ALIGN_MODES))
        self._require("COMPUTE_DTYPE", self.COMPUTE_DTYPE in COMPUTE_DTYPES, _one_of(COMPUTE_DTYPES))
        self._require("TRAIN_BN", self.TRAIN_BN in (None, False, True), "None, False or True")
        for name in ("RPN_BBOX_STD_DEV", "BBOX_STD_DEV"):
            self._require(name, _count(getattr(self, name), above=0) == 4, "four numbers > 0, of dy, dx, dh, dw")
        mini = self.MINI_MASK_SHAPE
        self._require("MINI_MASK_SHAPE", not self.USE_MINI_MASK or _count(mini, above=0) == 2,
                      "(height, width) in pixels")  # fmt: skip
        self._require("MASK_SHAPE", np.array_equal(self.MASK_SHAPE, [2 * self.MASK_POOL_SIZE] * 2),
                      f"twice MASK_POOL_SIZE, {[2 * self.MASK_POOL_SIZE] * 2}: the mask head doubles it")  # fmt: skip

    def _validate_images(self) -> None:
        mode = self.IMAGE_RESIZE_MODE
        self._require("IMAGE_RESIZE_MODE", mode in RESIZE_MODES, _one_of(RESIZE_MODES))
        name = "IMAGE_MIN_DIM" if mode == "crop" else "IMAGE_MAX_DIM"
        side = getattr(self, name)
        if not _is_whole(side) or side < SIZE_MULTIPLE or side % SIZE_MULTIPLE:
            near = max(1, round(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE if _is_number(side) else 1024
            self._refuse(name, f"a multiple of {SIZE_MULTIPLE}, the nearest is {near}: the pyramid halves it six times")
        if mode == "square" and self.IMAGE_MIN_DIM is not None:  # may be above IMAGE_MAX_DIM, which then decides
            self._require("IMAGE_MIN_DIM", _is_number(self.IMAGE_MIN_DIM, 0), "a number >= 0, or None")
        if mode == "pad64" and self.IMAGE_MIN_DIM is not None:
            whole = _is_number(self.IMAGE_MIN_DIM, 0) and self.IMAGE_MIN_DIM % SIZE_MULTIPLE == 0
            self._require("IMAGE_MIN_DIM", whole, f'a multiple of {SIZE_MULTIPLE} in the mode "pad64", or None')
        self._require("MEAN_PIXEL", _count(self.MEAN_PIXEL) in (1, self.IMAGE_CHANNEL_COUNT),
                      f"1 or IMAGE_CHANNEL_COUNT = {self.IMAGE_CHANNEL_COUNT} values")  # fmt: skip

    def _validate_pyramid(self) -> None:
        # As in matterport, strides beyond those of P2..P6 are not looked at.
        self._require("BACKBONE_STRIDES", _count(self.BACKBONE_STRIDES, above=0) >= 5, "five strides, of P2..P6")
        self._require("RPN_ANCHOR_SCALES", _count(self.RPN_ANCHOR_SCALES, above=0) == 5,
                      f"5 scales, one for each of BACKBONE_STRIDES = {list(self.BACKBONE_STRIDES)}")  # fmt: skip
        ratios = self.RPN_ANCHOR_RATIOS
        self._require("RPN_ANCHOR_RATIOS", np.ndim(ratios) == 1 and _count(ratios, above=0),
                      "a list of one or more ratios > 0, width / height")  # fmt: skip
        self._require("BACKBONE", callable(self.BACKBONE) or self.BACKBONE in BACKBONES,
                      f"{_one_of(BACKBONES)}, or a callable that returns [C1, C2, C3, C4, C5]")  # fmt: skip

    def _require(self, name: str, condition, expected: str) -> None:
        if not condition:
            self._refuse(name, expected)

    def _refuse(self, name: str, expected: str) -> None:
        raise ValueError(f"{type(self).__name__}.{name} is {getattr(self, name)!r}; expected {expected}.")

    # ---- Reading -------------------------------------------------------------------------------------------------
    def _settings(self) -> dict:
        names = [n for n in dir(self) if not n.startswith("_") and not callable(getattr(type(self), n, None))]
        names += [n for n in ("BACKBONE", "COMPUTE_BACKBONE_SHAPE") if n not in names]  # these may be callables
        return {name: getattr(self, name) for name in sorted(names)}

    def to_dict(self) -> dict:
        """All settings and derived values by name, in alphabetical order."""
        return self._settings()

    def to_json(self) -> dict:
        """`to_dict` in types that JSON has, without the derived values, for `MaskRCNN.save`.

        Raises:
            ValueError: a setting has no such form, e.g. a callable backbone.
        """
        settings = {name: value for name, value in self.to_dict().items() if name not in DERIVED}
        return {name: _plain(name, value) for name, value in settings.items()}

    @classmethod
    def from_json(cls, settings: dict) -> Config:
        """The inverse of `to_json`."""
        return type("Config", (Config,), dict(settings))()

    def display(self) -> None:
        """Prints all settings and derived values."""
        print("\nConfigurations:")
        for name, value in self.to_dict().items():
            print(f"{name:30} {value}")
        print()


def _plain(name: str, value):
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(name, v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{name} is {value!r}; a model can be saved as .keras only if its settings are numbers, strings, lists and"
        " dicts. Save the weights instead: model.save_weights('x.weights.h5')."
    )


def _is_whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value, low=-np.inf, high=np.inf) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(low <= value <= high)


def _count(values, above=-np.inf) -> int:
    """How many numbers a list holds (1 for a number); 0 if any is something else, not finite, or not > `above`."""
    values = np.asarray(values)
    numeric = values.ndim <= 1 and values.dtype.kind in "iuf"
    return values.size if numeric and np.all(np.isfinite(values) & (values > above)) else 0


def _one_of(values) -> str:
    return "one of " + ", ".join(repr(v) for v in values)
