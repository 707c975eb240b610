"""Masks are resampled on the same grid as their images: objects and their masks stay aligned within 0.1 pixel.

Masks are whole pixels, so a single border may be off by half a pixel. What must not happen is that all borders move in
the same direction: the mean distance between the centers of objects and of their masks is measured.
"""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

import mrcnn  # noqa: F401  (first: it lets imgaug be imported on NumPy 2)
from mrcnn.data import mask_bits
from mrcnn.data.augment import augment_sample
from mrcnn.data.training_sample import load_image_gt
from mrcnn.ops.images import resize_image, resize_mask_like_image

WITHIN = 0.1  # pixels
BRIGHT = 200.0
GRID = 5  # objects in a row, and rows


def scene(height=120, width=150, seed=0):
    """An image of bright disks on black, and their masks [H, W, 25]. Their radii and places are no whole numbers."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:height, :width]
    masks = []
    for i in range(GRID):
        for j in range(GRID):
            cy, cx = (i + 0.5) * height / GRID + rng.uniform(-2, 2), (j + 0.5) * width / GRID + rng.uniform(-2, 2)
            radius = rng.uniform(0.2, 0.35) * min(height, width) / GRID
            masks.append((y - cy) ** 2 + (x - cx) ** 2 < radius**2)
    masks = np.stack(masks, axis=-1)
    image = np.repeat(masks.any(axis=-1)[..., None], 3, axis=-1) * np.float32(BRIGHT)
    return image, masks


def shifts(image, masks):
    """(y, x) from the center of each mask to that of the bright pixels around it, of objects wholly in the image."""
    found = []
    for mask in np.moveaxis(masks, -1, 0):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        margin = 3
        y1, y2, x1, x2 = rows[0] - margin, rows[-1] + margin + 1, columns[0] - margin, columns[-1] + margin + 1
        if min(y1, x1) < 0 or y2 > mask.shape[0] or x2 > mask.shape[1]:
            continue
        others = masks[y1:y2, x1:x2].any(axis=-1) & ~mask[y1:y2, x1:x2]
        if others.any():
            continue
        y, x = np.mgrid[y1:y2, x1:x2]
        bright = image[y1:y2, x1:x2, 0].astype(float)
        own = mask[y1:y2, x1:x2]
        found.append([(axis * bright).sum() / bright.sum() - axis[own].mean() for axis in (y, x)])
    return np.array(found).reshape(-1, 2)


def assert_on_its_pixels(pairs, least):
    """Checks (image, masks) pairs; at least so many objects must be left to measure."""
    found = np.concatenate([shifts(image, masks) for image, masks in pairs])
    assert len(found) >= least, f"only {len(found)} objects are left"
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=WITHIN)


# ---- Resizing --------------------------------------------------------------------------------------------------------
SCALES = [0.25, 0.41, 0.5, 0.8, 1.3, 2, 4, 8]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mode", ["square", "pad64", "crop"])
def test_resize_image_moves_masks_with_the_image(mode, scale):
    # At x8, the masks at the border of the image were off by 2.5 pixels.
    height, width = (120, 150) if scale <= 2 else (60, 75)
    pairs = []
    for seed in range(2 if scale > 1 else 6):
        image, masks = scene(height, width, seed)
        sides = {
            "square": (None, round(scale * width)),
            "pad64": (None, None),
            "crop": (round(0.8 * scale * height), None),
        }
        limits = {"min_dim": sides[mode][0], "max_dim": sides[mode][1], "min_scale": scale}
        if mode != "square" and scale < 1:
            pytest.skip("only the mode square scales down")
        resized, _, made, padding, crop = resize_image(image, mode=mode, rng=np.random.default_rng(seed), **limits)
        pairs.append((resized, resize_mask_like_image(masks, made, padding, crop)))
    assert_on_its_pixels(pairs, least=12)


@pytest.mark.parametrize("scale", [4, 8])
def test_the_borders_of_enlarged_photos(scale):
    """Not only on the average: every object of an enlarged photo is on its pixels, also at the border."""
    image, masks = scene(60, 75)
    resized, _, made, padding, crop = resize_image(image, max_dim=75 * scale, min_scale=scale)
    found = shifts(resized, resize_mask_like_image(masks, made, padding, crop))
    assert len(found) == 25 and np.abs(found).max() < WITHIN


class Scene(Blocks):
    def __init__(self):
        super().__init__(counts=(1,))

    def load_image(self, image_id):
        return scene(48, 64)[0].astype(np.uint8)

    def load_mask(self, image_id):
        return scene(48, 64)[1], np.ones(25, int)


@pytest.mark.parametrize(
    "options", [{}, {"augmentation": lambda image, masks: (image, masks)}], ids=["plain", "augmented"]
)
def test_load_image_gt_keeps_image_and_masks_aligned(options):
    config = TinyConfig()
    config.IMAGE_MIN_DIM = config.IMAGE_MAX_DIM = 256
    image, _, _, boxes, masks = load_image_gt(Scene(), config, 0, **options)
    assert_on_its_pixels([(image, masks)], least=20)
    np.testing.assert_array_equal(load_image_gt(Scene(), config, 0, use_mini_mask=True)[3], boxes)


# ---- Augmenters ------------------------------------------------------------------------------------------------------
def augmented(augmentation, seeds, size=(120, 150)):
    pairs = []
    for seed in seeds:
        image, masks = scene(*size, seed)
        image, planes = augment_sample(
            augmentation, image.astype(np.uint8), mask_bits.pack(masks), masks.shape[-1], np.random.default_rng(seed)
        )
        pairs.append((image, mask_bits.unpack(planes, masks.shape[-1])))
    return pairs


def imgaug_augmenters():
    imgaug = pytest.importorskip("imgaug")
    iaa = imgaug.augmenters
    return {
        "Crop": iaa.Crop(percent=(0.02, 0.2)),
        "Pad": iaa.Pad(percent=(0.02, 0.2)),
        "CropAndPad": iaa.CropAndPad(percent=(-0.15, 0.15)),
        "Crop by pixels": iaa.Crop(px=(1, 9)),
        "PerspectiveTransform": iaa.PerspectiveTransform(scale=(0.02, 0.1)),
        "KeepSizeByResize": iaa.KeepSizeByResize(iaa.Crop(px=(2, 9), keep_size=False)),
        "Resize there and back": iaa.KeepSizeByResize(iaa.Resize(0.71)),
        "Affine": iaa.Affine(rotate=(-20, 20), scale=(0.8, 1.2), translate_px=(-5, 5)),
        "Affine by 1.5": iaa.Affine(scale=1.5),  # a third of the pixels are halfway between two
        "Affine by 0.75": iaa.Affine(scale=0.75),
        "Affine by 0.5": iaa.Affine(scale=0.5),
        "Affine by halves": iaa.Affine(translate_percent={"x": 0.03}, scale={"y": 1.5}, order=[1, 3]),
        "Affine, nearest": iaa.Affine(scale=1.5, order=0),
        "Affine of scikit-image": iaa.Affine(scale=1.5, backend="skimage"),
        "Scale and shear": iaa.Sequential([iaa.ScaleX(1.5), iaa.ShearY((-10, 10)), iaa.Fliplr(0.5)]),
        "Rotate": iaa.Rotate((-20, 20)),
        "ShearX": iaa.ShearX((-12, 12)),
        "ScaleX": iaa.ScaleX((0.7, 1.3)),
        "TranslateX": iaa.TranslateX(px=(-7, 7)),
        "Fliplr": iaa.Fliplr(1.0),
        "Flipud": iaa.Flipud(1.0),
        "PiecewiseAffine": iaa.PiecewiseAffine(scale=(0.01, 0.02)),
        "ElasticTransformation": iaa.ElasticTransformation(alpha=10, sigma=5),
        "WithPolarWarping": iaa.WithPolarWarping(iaa.Affine(translate_px={"y": (-3, 3)})),
        "Jigsaw": iaa.Jigsaw(nb_rows=2, nb_cols=2, max_steps=1),
    }


@pytest.mark.parametrize("name", list(imgaug_augmenters()))
def test_imgaug_keeps_image_and_masks_aligned(name):
    seeds, least = (3, 25) if name == "PiecewiseAffine" else (6, 40)  # it is slow
    assert_on_its_pixels(augmented(imgaug_augmenters()[name], range(seeds)), least)


def test_imgaugs_deprecated_affine():
    augmenters = pytest.importorskip("imgaug").augmenters
    with pytest.warns(Warning, match="AffineCv2 is deprecated"):
        affine = augmenters.AffineCv2(scale=1.5)
    assert_on_its_pixels(augmented(affine, range(6)), least=40)


@pytest.mark.parametrize("name", ["RandomFlip", "RandomRotation", "RandomZoom", "RandomShear", "RandomPerspective"])
def test_keras_layers_keep_image_and_masks_aligned(name):
    import keras

    arguments = {"RandomFlip": (), "RandomRotation": (0.06,), "RandomZoom": ((-0.2, 0.2),), "RandomShear": (0.1, 0.1),
                 "RandomPerspective": (0.5, 0.1)}[name]  # fmt: skip
    layer = getattr(keras.layers, name)(*arguments)
    assert_on_its_pixels(augmented(layer, range(12), size=(60, 75)), least=60)


ALBUMENTATIONS = [
    ("HorizontalFlip", {}),
    ("Affine", {"rotate": (-20, 20), "scale": (0.8, 1.2)}),
    ("Affine", {"scale": 1.5}),
    ("Affine", {"scale": 0.5}),
    ("RandomResizedCrop", {"size": (120, 150), "scale": (0.6, 0.9)}),
    ("RandomSizedCrop", {"min_max_height": (70, 110), "size": (120, 150)}),
    ("CropAndPad", {"percent": (-0.15, 0.15)}),
    ("Perspective", {}),
    ("GridDistortion", {}),
    ("ElasticTransform", {"alpha": 20, "sigma": 5}),
]


@pytest.mark.parametrize(("name", "options"), ALBUMENTATIONS)
def test_albumentations_keeps_image_and_masks_aligned(name, options):
    albumentations = pytest.importorskip("albumentations")
    transform = getattr(albumentations, name)(p=1, **options)
    assert_on_its_pixels(augmented(albumentations.Compose([transform]), range(6)), least=30)
