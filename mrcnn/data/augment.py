"""Augmentation: what moves the pixels of an image moves its masks alike; what only changes colours leaves them alone.

`augmentation=` takes

- an imgaug augmenter. imgaug itself knows what its augmenters do to segmentation maps. One of your own (a subclass of
  `imgaug.augmenters.Augmenter`, or a `Lambda`) is tried out once: if it moves pixels and not the masks, it is refused.
- a Keras image preprocessing layer (`keras.layers.RandomFlip("horizontal")`), or a `keras.layers.Pipeline` of some.
- any callable `(image, masks) -> (image, masks)`. With a third argument named `rng` it is given a
  `numpy.random.Generator` that depends on nothing but the seed and the place in the stream (None outside of training);
  what it draws from elsewhere depends on the order in which workers run.

Shapes:
    image   [H, W, C] uint8 or float32, values 0..255; its shape may not change
    masks   [H, W, N] bool;  planes [H, W, P] uint8: eight of them in a byte, see `packing`
"""

from __future__ import annotations

import inspect
import sys
import warnings
import weakref

import cv2
import numpy as np

from mrcnn.data import mask_bits

# imgaug keeps masks at 0 beyond the border, even where it fills the image with mirrored objects. These pick pixels
# of the image, so that a mask filled alike fits; the other ways ("mean", "linear_ramp", ...) make pixels up.
PICKING_PAD_MODES = {"constant", "edge", "reflect", "symmetric", "wrap"}
# Keras layers that mix several images, or whose masks come out blended.
REFUSED_LAYERS = ("MixUp", "CutMix", "AugMix")

# imgaug's augmenters that put moved and unmoved pixels together if one of those inside moves some; where movers are.
MIXING_AUGMENTERS = ("Blend", "Alpha", "SimplexNoiseAlpha", "FrequencyNoiseAlpha", "WithChannels",
                     "WithBrightnessChannels", "WithHueAndSaturation")  # fmt: skip
MOVING_MODULES = {f"imgaug.augmenters.{name}" for name in ("flip", "geometric", "size")}

_in_order = {}  # id -> weak reference of imgaug augmenters that passed; a Sequential is a list and can't be a key


def augment_sample(augmentation, image, planes, count, rng=None):
    """Augments one image and its masks.

    Args:
        augmentation: see above.
        image: [H, W, C]; planes: [H, W, P] uint8 of `count` masks.
        rng: numpy.random.Generator that all chance comes from; None: the augmentation's own.

    Returns:
        image [H, W, C] of the same type, planes [H, W, P].

    Raises:
        TypeError: not an augmentation.
        ValueError: it gives back another shape, or moves the image and not the masks.
    """
    check_augmentation(augmentation)
    if _is_imgaug(augmentation):
        augmented, planes_out = _augment_imgaug(augmentation, image, planes, rng)
    elif _is_keras_layer(augmentation):
        augmented, planes_out = _augment_keras(augmentation, image, planes, count, rng)
    else:
        augmented, planes_out = _augment_callable(augmentation, image, planes, count, rng)
    _check_shape(augmentation, "image", augmented.shape, image.shape)
    _check_shape(augmentation, "masks", planes_out.shape[:2], planes.shape[:2])
    return augmented, np.ascontiguousarray(planes_out)


def check_augmentation(augmentation):
    """Refuses what can't be used, before training starts.

    Raises:
        TypeError: not an augmentation.
        ValueError: an augmenter that moves the pixels of the image and not the masks, by name.
    """
    if _is_imgaug(augmentation):
        known = _in_order.get(id(augmentation))
        if known is None or known() is not augmentation:
            for augmenter in [augmentation, *augmentation.get_all_children(flat=True)]:
                _check_augmenter(augmenter)
            _in_order[id(augmentation)] = weakref.ref(augmentation)
    elif _is_keras_layer(augmentation):
        for layer in _keras_layers(augmentation):
            if type(layer).__name__ in REFUSED_LAYERS or not hasattr(layer, "transform_segmentation_masks"):
                raise ValueError(
                    f"keras.layers.{type(layer).__name__} can't augment images with masks; expected a layer that treats"
                    " one image at a time and knows segmentation masks, such as RandomFlip, RandomRotation,"
                    " RandomBrightness."
                )
    elif not callable(augmentation):
        raise TypeError(
            f"augmentation is {augmentation!r}; expected an imgaug augmenter, a Keras preprocessing layer, or a"
            " callable (image, masks) -> (image, masks)."
        )


def _check_shape(augmentation, what, got, expected):
    if got != expected:
        raise ValueError(
            f"The augmentation {_name(augmentation)} made {what} of shape {got} from {expected}; expected the same"
            " shape. (imgaug: keep_size=True; sizes are a matter of Config.IMAGE_RESIZE_MODE.)"
        )


def _name(augmentation):
    return getattr(augmentation, "__name__", type(augmentation).__name__)


# ---- imgaug ----------------------------------------------------------------------------------------------------------
def _is_imgaug(augmentation):
    meta = sys.modules.get("imgaug.augmenters.meta")  # who holds an augmenter has imported it
    return meta is not None and isinstance(augmentation, meta.Augmenter)


def _augment_imgaug(augmenter, image, planes, rng):
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    if rng is None:
        augmenter = augmenter.to_deterministic()  # the same for masks; moves on the given one's random state
    augmenter = augmenter.deepcopy()  # so that threads don't share its random state
    if rng is not None:
        augmenter.seed_(int(rng.integers(2**31)))
    if not planes.shape[-1]:
        return augmenter.augment_image(image), planes
    for child in [augmenter, *augmenter.get_all_children(flat=True)]:
        _fill_masks_like_images(child)
    segmaps = SegmentationMapsOnImage(planes.astype(np.int32), shape=image.shape)
    image, segmaps = augmenter(image=image, segmentation_maps=segmaps)
    return image, segmaps.arr.astype(np.uint8)


def _fill_masks_like_images(augmenter):
    """Beyond the border masks shall continue as the image does; see PICKING_PAD_MODES."""
    if hasattr(augmenter, "_mode_segmentation_maps"):
        augmenter._mode_segmentation_maps = None
    if hasattr(augmenter, "_pad_mode_segmentation_maps"):
        mode = augmenter.pad_mode
        modes = getattr(mode, "a", None) or [getattr(mode, "value", None)]  # of a Choice, or a Deterministic
        if set(modes) <= PICKING_PAD_MODES:
            augmenter._pad_mode_segmentation_maps = None


def _check_augmenter(augmenter):
    """imgaug's own augmenters do what they should, but for those that mix, and those that are given a function."""
    kind = type(augmenter)
    name = f"The augmenter {kind.__name__} (name {augmenter.name!r})"
    own = kind.__module__.startswith("imgaug.")
    if own and kind.__name__.startswith(MIXING_AUGMENTERS):
        moving = [a for a in augmenter.get_all_children(flat=True) if type(a).__module__ in MOVING_MODULES]
        if moving:
            raise ValueError(
                f"{name} mixes what {type(moving[0]).__name__} moves with what it leaves in place, so that no mask can"
                " fit. Keep what is in it to augmenters that change colours."
            )
    elif (not own or kind.__name__ == "Lambda") and _moves_image_only(augmenter, name):
        raise ValueError(
            f"{name} moves the pixels of the image but not the masks, so that they would no longer fit. Give it a"
            " method _augment_segmentation_maps(self, augmentables, random_state, parents, hooks) that moves them alike"
            " (imgaug.augmenters.Lambda: func_segmentation_maps), or use one of imgaug's own augmenters."
        )


def _moves_image_only(augmenter, name, trials=10):
    """Whether a patch of an image turns up elsewhere than its mask.

    The augmenter gets the same image with and without a patch, under the same seed. Where the results differ is where
    the patch went, whatever was done to colours; its mask must lie there.
    """
    image = np.random.RandomState(0).randint(96, 160, (128, 128, 3)).astype(np.uint8)
    mask = np.zeros((128, 128, 1), bool)
    mask[12:40, 20:44] = True
    patched = np.where(mask, image ^ 96, image)
    state = np.random.get_state()  # augmenters written by hand may draw from it
    try:
        for trial in range(trials):
            results = []
            for picture in (image, patched):
                np.random.seed(trial)
                results.append(_augment_imgaug(augmenter, picture, mask_bits.pack(mask), np.random.default_rng(trial)))
            (plain, _), (moved, planes) = results
            if plain.shape != moved.shape or planes.shape[:2] != moved.shape[:2]:
                return False  # other sizes are refused later, and by that name
            difference = np.abs(moved.astype(int) - plain).sum(axis=-1)
            changed = difference > difference.max() / 2
            around = cv2.dilate(planes[..., 0], np.ones((3, 3), np.uint8)) > 0
            if changed.any() and (changed & around).sum() < 0.9 * changed.sum():
                return True
    except Exception as error:
        warnings.warn(
            f"{name} can't be tried out on an image of 128 x 128 pixels ({type(error).__name__}: {error}). See to it"
            " that it moves masks wherever it moves pixels.",
            stacklevel=2,
        )
    finally:
        np.random.set_state(state)
    return False


# ---- Keras layers ----------------------------------------------------------------------------------------------------
def _is_keras_layer(augmentation):
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(augmentation, keras.layers.Layer)


def _keras_layers(augmentation):
    nested = getattr(augmentation, "layers", None)
    return [one for layer in nested for one in _keras_layers(layer)] if nested is not None else [augmentation]


def _augment_keras(augmentation, image, planes, count, rng):
    import keras

    masks = mask_bits.unpack(planes, count)[None].astype(np.float32)  # [1, H, W, N]: layers blend masks, bits can't be
    images = image[None].astype(np.float32)
    for layer in _keras_layers(augmentation):
        seed = None if rng is None else keras.random.SeedGenerator(int(rng.integers(2**31)))
        transformation = layer.get_random_transformation(images, training=True, seed=seed)
        images = layer.transform_images(images, transformation, training=True)
        if count:
            masks = layer.transform_segmentation_masks(masks, transformation, training=True)
    images, masks = (np.asarray(keras.ops.convert_to_numpy(batch)) for batch in (images, masks))
    return _like(image, images[0]), mask_bits.pack(masks[0] > 0.5)


# ---- Callables -------------------------------------------------------------------------------------------------------
def _augment_callable(augmentation, image, planes, count, rng):
    masks = mask_bits.unpack(planes, count)
    takes_rng = "rng" in inspect.signature(augmentation).parameters
    result = augmentation(image, masks, **({"rng": rng} if takes_rng else {}))
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ValueError(
            f"The augmentation {_name(augmentation)} returned a {type(result).__name__}; expected a pair"
            " (image, masks)."
        )
    augmented, masks_out = np.asarray(result[0]), np.asarray(result[1])
    _check_shape(augmentation, "masks", masks_out.shape, masks.shape)
    return _like(image, augmented), mask_bits.pack(masks_out)


def _like(image, augmented):
    """augmented in the type of image; for whole numbers rounded and clipped to 0..255."""
    if image.dtype == augmented.dtype:
        return augmented
    if image.dtype.kind == "u" and augmented.dtype.kind == "f":
        augmented = np.clip(np.around(augmented), 0, 255)
    return augmented.astype(image.dtype)
