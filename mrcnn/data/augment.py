"""Augmentation: what moves the pixels of an image moves its masks in the same way; color changes leave them alone.

`augmentation=` is one of:

- An imgaug augmenter. imgaug's own augmenters handle segmentation maps. A custom one (a subclass of
  `imgaug.augmenters.Augmenter`, or a `Lambda`) is tried once and refused if it moves pixels but not the masks.
- A Keras image preprocessing layer (`keras.layers.RandomFlip("horizontal")`), or a `keras.layers.Pipeline` of them.
- A pipeline of Albumentations (`A.Compose([...])`), or another object that is called by names,
  `transform(image=image, masks=[mask, ...])`, and returns a dict. `set_random_seed`, if it has one, is called before.
- Any callable `(image, masks) -> (image, masks)`. If it has an argument named `rng`, it receives a
  `numpy.random.Generator` that depends only on the seed and the place in the stream (None outside of training). Other
  sources of randomness depend on the order in which workers run.

Shapes:
    image   [H, W, C] uint8 or float32, values 0..255; its shape must not change
    masks   [H, W, N] bool;  planes [H, W, P] uint8: the same masks, eight per byte, see `mask_bits`
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from mrcnn.data import mask_bits
from mrcnn.data.imgaug_numpy2 import repair_augmenters, uint8_maps, warp_map_like_image

# imgaug fills masks with 0 beyond the border even where it fills the image with mirrored objects. These modes copy
# pixels of the image, so that masks can be filled in the same way; the others ("mean", "linear_ramp", ...) invent them.
COPYING_PAD_MODES = {"constant", "edge", "reflect", "symmetric", "wrap"}
# Keras layers that mix several images, or whose masks come out blended.
REFUSED_LAYERS = ("MixUp", "CutMix", "AugMix")

LINEAR = 1  # order of interpolation for imgaug, which is cv2.INTER_LINEAR as well
MASKED = 200  # value of a mask's pixels while imgaug interpolates; cubic interpolation overshoots

# imgaug augmenters that combine moved and unmoved pixels if an augmenter inside them moves some, and the modules of
# augmenters that move pixels.
MIXING_AUGMENTERS = ("Blend", "Alpha", "SimplexNoiseAlpha", "FrequencyNoiseAlpha", "WithChannels",
                     "WithBrightnessChannels", "WithHueAndSaturation")  # fmt: skip
MOVING_MODULES = {f"imgaug.augmenters.{name}" for name in ("flip", "geometric", "size")}

# Weak references by id to imgaug augmenters that passed the check. A Sequential is a list and can't be a dict key.
_checked: dict[int, weakref.ref] = {}


class AugmentationError(ValueError):
    """An augmentation failed, or returned what can't be used. The message names it; `__cause__` is its own error."""


def augment_sample(
    augmentation: Any, image: np.ndarray, planes: np.ndarray, count: int, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Augments one image and its masks.

    Args:
        augmentation: see the module's docstring.
        image: [H, W, C].
        planes: [H, W, P] uint8, the packed masks of `count` objects.
        count: int, number of objects.
        rng: source of all randomness; None: the augmentation's own.

    Returns:
        image [H, W, C] of the same type, planes [H, W, P].

    Raises:
        TypeError: augmentation isn't one of the kinds listed.
        ValueError: it moves the image but not the masks.
        AugmentationError: it failed, or returned something else than an image and masks of the same size.

    Example:
        >>> def flip(image, masks):
        ...     return image[:, ::-1], masks[:, ::-1]
        >>> masks = np.zeros((4, 6, 1), bool)
        >>> masks[:, 0] = True
        >>> _, planes = augment_sample(flip, np.zeros((4, 6, 3), np.uint8), mask_bits.pack(masks), count=1)
        >>> mask_bits.unpack(planes, 1)[0, :, 0].tolist()
        [False, False, False, False, False, True]
    """
    check_augmentation(augmentation)
    try:
        if _is_imgaug(augmentation):
            augmented, planes_out = _augment_imgaug(augmentation, image, planes, count, rng)
        elif _is_keras_layer(augmentation):
            augmented, planes_out = _augment_keras(augmentation, image, planes, count, rng)
        elif _is_called_by_names(augmentation):
            augmented, planes_out = _augment_by_names(augmentation, image, planes, count, rng)
        else:
            augmented, planes_out = _augment_callable(augmentation, image, planes, count, rng)
    except (AugmentationError, MemoryError):
        raise
    except Exception as error:
        message = f"The augmentation {_name_of(augmentation)} failed with {type(error).__name__}: {error}"
        raise AugmentationError(message) from error
    _check_shape(augmentation, "image", augmented.shape, image.shape)
    _check_shape(augmentation, "masks", planes_out.shape[:2], planes.shape[:2])
    return augmented, np.ascontiguousarray(planes_out)


def check_augmentation(augmentation: Any) -> None:
    """Refuses an augmentation that can't be used, before training starts.

    Raises:
        TypeError: augmentation isn't one of the kinds listed in the module's docstring.
        ValueError: an augmenter moves the pixels of the image but not the masks; the message names it.
    """
    if _is_imgaug(augmentation):
        repair_augmenters()
        known = _checked.get(id(augmentation))
        if known is None or known() is not augmentation:
            for augmenter in [augmentation, *augmentation.get_all_children(flat=True)]:
                _check_augmenter(augmenter)
            _checked[id(augmentation)] = weakref.ref(augmentation)
    elif _is_keras_layer(augmentation):
        for layer in _keras_layers(augmentation):
            if type(layer).__name__ in REFUSED_LAYERS or not hasattr(layer, "transform_segmentation_masks"):
                raise ValueError(
                    f"keras.layers.{type(layer).__name__} can't augment images with masks; expected a layer that"
                    " processes one image at a time and supports segmentation masks, such as RandomFlip, RandomRotation"
                    " or RandomBrightness."
                )
    elif not callable(augmentation):
        raise TypeError(
            f"augmentation is {augmentation!r}; expected an imgaug augmenter, a Keras preprocessing layer, a pipeline"
            " of Albumentations, or a callable (image, masks) -> (image, masks)."
        )


def _check_shape(augmentation: Any, what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise AugmentationError(
            f"The augmentation {_name_of(augmentation)} returned {what} of shape {got} for {expected}; expected the"
            " same shape. Use keep_size=True with imgaug, or set sizes with Config.IMAGE_RESIZE_MODE instead."
        )


def _name_of(augmentation: Any) -> str:
    return getattr(augmentation, "__name__", type(augmentation).__name__)


# ---- imgaug ----------------------------------------------------------------------------------------------------------
def _is_imgaug(augmentation: Any) -> bool:
    meta = sys.modules.get("imgaug.augmenters.meta")  # imported wherever an augmenter exists
    return meta is not None and isinstance(augmentation, meta.Augmenter)


def _augment_imgaug(
    augmenter: Any, image: np.ndarray, planes: np.ndarray, count: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    if rng is None:
        augmenter = augmenter.to_deterministic()  # same for image and masks; advances the original's random state
    augmenter = augmenter.deepcopy()  # threads must not share its random state
    if rng is not None:
        augmenter.seed_(int(rng.integers(2**31)))
    if not count:
        return augmenter.augment_image(image), planes
    children = [augmenter, *augmenter.get_all_children(flat=True)]
    warps = [_treat_masks_like_images(child) for child in children]  # of all of them
    if not any(warps):
        segmaps = SegmentationMapsOnImage(planes.astype(np.int32), shape=image.shape)
        image, segmaps = augmenter(image=image, segmentation_maps=segmaps)
        return image, segmaps.arr.astype(np.uint8)
    shades = mask_bits.unpack(planes, count).view(np.uint8) * np.uint8(MASKED)  # [H, W, N]
    image, segmaps = augmenter(image=image, segmentation_maps=uint8_maps()(shades, image.shape))
    return image, mask_bits.pack(segmaps.arr > MASKED / 2)


def _treat_masks_like_images(augmenter: Any) -> bool:
    """Makes an augmenter treat masks as it treats the image; returns whether it interpolates them.

    Beyond the border, masks are filled in the same way, see COPYING_PAD_MODES. Between pixels, they are interpolated
    in the same way: the nearest pixel, of two at the same distance always the lower right one, moves them.
    """
    if hasattr(augmenter, "_mode_segmentation_maps"):
        augmenter._mode_segmentation_maps = None
    if hasattr(augmenter, "_pad_mode_segmentation_maps"):
        mode = augmenter.pad_mode
        modes = getattr(mode, "a", None) or [getattr(mode, "value", None)]  # of a Choice, or a Deterministic
        if set(modes) <= COPYING_PAD_MODES:
            augmenter._pad_mode_segmentation_maps = None
    if type(augmenter).__name__ == "AffineCv2":
        augmenter._augment_segmentation_maps = functools.partial(warp_map_like_image, augmenter)
        return True
    if not hasattr(augmenter, "_order_segmentation_maps"):
        return False
    # Where the order is drawn, it is linear; PerspectiveTransform interpolates images linearly, and has none.
    order = getattr(getattr(augmenter, "order", None), "value", LINEAR)  # of a Deterministic
    augmenter._order_segmentation_maps = int(order)
    return True


def _check_augmenter(augmenter: Any) -> None:
    """Refuses an imgaug augmenter after which masks don't fit: a mixing, a custom one or a Lambda."""
    kind = type(augmenter)
    name = f"The augmenter {kind.__name__} (name {augmenter.name!r})"
    own = kind.__module__.startswith("imgaug.")
    if own and kind.__name__.startswith(MIXING_AUGMENTERS):
        moving = [a for a in augmenter.get_all_children(flat=True) if type(a).__module__ in MOVING_MODULES]
        if moving:
            raise ValueError(
                f"{name} mixes pixels moved by {type(moving[0]).__name__} with unmoved ones, so that no mask can fit."
                " Use it only with augmenters that change colors."
            )
    elif (not own or kind.__name__ == "Lambda") and _moves_image_only(augmenter, name):
        raise ValueError(
            f"{name} moves the pixels of the image but not the masks, so that they no longer fit. Give it a method"
            " _augment_segmentation_maps(self, augmentables, random_state, parents, hooks) that moves the masks, too"
            " (for imgaug.augmenters.Lambda: func_segmentation_maps), or use one of imgaug's own augmenters."
        )


def _moves_image_only(augmenter: Any, name: str, trials: int = 10) -> bool:
    """Whether an augmenter moves a patch of an image to a different place than the patch's mask.

    It gets the same image with and without the patch, under the same seed. The results differ where the patch is now,
    whatever happened to the colors, and the mask must be there as well.
    """
    image = np.random.RandomState(0).randint(96, 160, (128, 128, 3)).astype(np.uint8)
    mask = np.zeros((128, 128, 1), bool)
    mask[12:40, 20:44] = True
    patched = np.where(mask, image ^ 96, image)
    state = np.random.get_state()  # custom augmenters may draw from it
    try:
        for trial in range(trials):
            results = []
            for picture in (image, patched):
                np.random.seed(trial)
                results.append(
                    _augment_imgaug(augmenter, picture, mask_bits.pack(mask), 1, np.random.default_rng(trial))
                )
            (plain, _), (moved, planes) = results
            if plain.shape != moved.shape or planes.shape[:2] != moved.shape[:2]:
                return False  # `_check_shape` refuses other sizes
            difference = np.abs(moved.astype(int) - plain).sum(axis=-1)
            changed = difference > difference.max() / 2
            around = cv2.dilate(planes[..., 0], np.ones((3, 3), np.uint8)) > 0
            if changed.any() and (changed & around).sum() < 0.9 * changed.sum():
                return True
    except Exception as error:
        warnings.warn(
            f"{name} can't be tried on an image of 128 x 128 pixels ({type(error).__name__}: {error}). Make sure that"
            " it moves the masks wherever it moves pixels.",
            stacklevel=2,
        )
    finally:
        np.random.set_state(state)
    return False


# ---- Keras layers ----------------------------------------------------------------------------------------------------
def _is_keras_layer(augmentation: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(augmentation, keras.layers.Layer)


def _keras_layers(augmentation: Any) -> list[Any]:
    """The layers of a pipeline, also of nested ones; or the one layer."""
    nested = getattr(augmentation, "layers", None)
    if nested is None:
        return [augmentation]
    return [inner for layer in nested for inner in _keras_layers(layer)]


def _augment_keras(
    augmentation: Any, image: np.ndarray, planes: np.ndarray, count: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    import keras

    masks = mask_bits.unpack(planes, count)[None].astype(np.float32)  # [1, H, W, N], because layers blend masks
    images = image[None].astype(np.float32)
    for layer in _keras_layers(augmentation):
        seed = None if rng is None else keras.random.SeedGenerator(int(rng.integers(2**31)))
        transformation = layer.get_random_transformation(images, training=True, seed=seed)
        images = layer.transform_images(images, transformation, training=True)
        if count:
            masks = layer.transform_segmentation_masks(masks, transformation, training=True)
    images, masks = (np.asarray(keras.ops.convert_to_numpy(batch)) for batch in (images, masks))
    return as_type_of(image, images[0]), mask_bits.pack(masks[0] > 0.5)


# ---- Albumentations --------------------------------------------------------------------------------------------------
def _is_called_by_names(augmentation: Any) -> bool:
    """Whether a callable takes any keywords but no positional arguments, as Albumentations' transforms do."""
    parameters = inspect.signature(augmentation).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and not any(p.kind in positional for p in parameters)


def _augment_by_names(
    augmentation: Callable, image: np.ndarray, planes: np.ndarray, count: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    pipeline = copy.deepcopy(augmentation)  # threads must not share its random state
    if hasattr(pipeline, "set_random_seed"):
        pipeline.set_random_seed(int(np.random.randint(2**31) if rng is None else rng.integers(2**31)))
    if hasattr(pipeline, "processors"):
        pipeline.processors = {}  # of boxes and keypoints, which are computed from the masks afterwards
    _interpolate_masks_like_images(pipeline)
    masks = list(np.ascontiguousarray(np.moveaxis(mask_bits.unpack(planes, count), -1, 0)).view(np.uint8))
    result = pipeline(image=image, masks=masks)
    if not isinstance(result, Mapping) or "image" not in result or len(result.get("masks", ())) != count:
        raise AugmentationError(
            f"The augmentation {_name_of(augmentation)} returned a {type(result).__name__}; expected a dict with"
            f' "image" and the {count} "masks".'
        )
    augmented = np.asarray(result["image"])
    if augmented.dtype != image.dtype:
        raise AugmentationError(
            f"The augmentation {_name_of(augmentation)} returned an image of {augmented.dtype} for {image.dtype};"
            " expected the same type. Leave Normalize, ToFloat and ToTensorV2 out: the mean is subtracted afterwards."
        )
    moved = np.stack(result["masks"], axis=-1) if count else np.zeros((*augmented.shape[:2], 0), np.uint8)
    return augmented, mask_bits.pack(moved)


def _interpolate_masks_like_images(transform: Any) -> None:
    """Makes transforms interpolate masks as the image. Of 0 and 1 in uint8, OpenCV returns the nearer one.

    The nearest pixel is, of two at the same distance, always the same one, which moves masks by up to 0.3 pixels.
    """
    for inner in getattr(transform, "transforms", None) or ():
        _interpolate_masks_like_images(inner)
    if hasattr(transform, "mask_interpolation"):
        transform.mask_interpolation = getattr(transform, "interpolation", cv2.INTER_LINEAR)


# ---- Callables -------------------------------------------------------------------------------------------------------
def _augment_callable(
    augmentation: Callable, image: np.ndarray, planes: np.ndarray, count: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    masks = mask_bits.unpack(planes, count)
    takes_rng = "rng" in inspect.signature(augmentation).parameters
    result = augmentation(image, masks, **({"rng": rng} if takes_rng else {}))
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise AugmentationError(
            f"The augmentation {_name_of(augmentation)} returned a {type(result).__name__}; expected a pair"
            " (image, masks)."
        )
    augmented, masks_out = np.asarray(result[0]), np.asarray(result[1])
    _check_shape(augmentation, "masks", masks_out.shape, masks.shape)
    return as_type_of(image, augmented), mask_bits.pack(masks_out)


def as_type_of(image: np.ndarray, augmented: np.ndarray) -> np.ndarray:
    """Converts augmented to the type of image; to integers by rounding and clipping to the range of the type."""
    if image.dtype == augmented.dtype:
        return augmented
    if image.dtype.kind in "iu" and augmented.dtype.kind == "f":
        limits = np.iinfo(image.dtype)
        augmented = np.clip(np.around(augmented), limits.min, limits.max)
    return augmented.astype(image.dtype)
