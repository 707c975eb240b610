"""Augmentation: masks move with the image, and augmentations that would separate them are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

import mrcnn  # noqa: F401  (first: it lets imgaug be imported on NumPy 2)
from mrcnn.data import mask_bits
from mrcnn.data.augment import AugmentationError, augment_sample, check_augmentation
from mrcnn.data.sample_stream import SampleStream
from mrcnn.data.training_sample import load_image_gt

imgaug = pytest.importorskip("imgaug")
from imgaug import augmenters as iaa  # noqa: E402

H, W = 72, 96


def picture():
    """An image whose objects have different colors: the mask must be where the color is."""
    image, masks = np.zeros((H, W, 3), np.uint8), np.zeros((H, W, 11), bool)
    for i in range(11):
        y, x = 4 + 16 * (i // 4), 5 + 22 * (i % 4)
        masks[y : y + 12, x : x + 15, i] = True
        image[masks[..., i]] = 20 * i + 40
    return image, masks


def augment(augmentation, seed=0, picture=picture):
    image, masks = picture()
    rng = None if seed is None else np.random.default_rng(seed)
    image, planes = augment_sample(augmentation, image, mask_bits.pack(masks), masks.shape[-1], rng)
    return image, mask_bits.unpack(planes, masks.shape[-1])


GEOMETRY = {
    "Fliplr": iaa.Fliplr(0.5),
    "Flipud": iaa.Flipud(0.5),
    "Rot90": iaa.Rot90([0, 2]),  # missing from matterport's list of mask augmenters
    "Affine": iaa.Affine(rotate=(-30, 30), scale=(0.7, 1.3), order=0),
    "Affine reflect": iaa.Affine(translate_percent=(-0.4, 0.4), mode="reflect", order=0),
    "CropAndPad": iaa.KeepSizeByResize(
        iaa.CropAndPad(percent=(-0.2, 0.2), pad_mode="symmetric", keep_size=False), interpolation="nearest"
    ),
    "Piecewise": iaa.PiecewiseAffine(0.03, order=0),
    "Some of": iaa.SomeOf((1, 2), [iaa.Fliplr(1.0), iaa.Affine(shear=(-10, 10), order=0), iaa.Flipud(0.5)]),
    "Sometimes": iaa.Sometimes(0.5, iaa.Affine(rotate=90, order=0)),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_masks_move_with_the_image(name):
    moved = 0
    for seed in range(6):
        image, masks = augment(GEOMETRY[name], seed)
        moved += (image != picture()[0]).any()
        for i in range(masks.shape[-1]):
            shown = image[..., 0] == 20 * i + 40
            different = (shown != masks[..., i]).sum()  # mask and image may be resampled differently at the border
            assert different <= 0.15 * max(shown.sum(), 60), (name, seed, i, different, shown.sum())
    assert moved


@pytest.mark.parametrize("augmenter", [iaa.Multiply(0.5), iaa.Invert(1.0), iaa.GaussianBlur(2), iaa.Dropout(0.2)])
def test_color_changes_leave_the_masks_alone(augmenter):
    image, masks = augment(augmenter)
    assert (image != picture()[0]).any()
    np.testing.assert_array_equal(masks, picture()[1])


@pytest.mark.parametrize("name", GEOMETRY)
def test_packed_masks_move_like_each_mask_alone(name):
    image, masks = picture()
    _, together = augment(GEOMETRY[name], 3)
    for i in range(0, 11, 4):
        planes = mask_bits.pack(masks[..., i : i + 1])
        _, alone = augment_sample(GEOMETRY[name], image, planes, 1, np.random.default_rng(3))
        np.testing.assert_array_equal(mask_bits.unpack(alone, 1)[..., 0], together[..., i])


def test_results_follow_the_generator_and_the_augmenter_does_not_change():
    augmenter = iaa.Sequential([iaa.Affine(rotate=(-30, 30)), iaa.Multiply((0.5, 1.5))], random_order=True)
    first, again, other = (augment(augmenter, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    imgaug.seed(7)
    free = augment(augmenter, None)
    imgaug.seed(7)
    augmenter = iaa.Sequential([iaa.Affine(rotate=(-30, 30)), iaa.Multiply((0.5, 1.5))], random_order=True)
    assert free[0].shape == (H, W, 3)


@pytest.mark.parametrize("settings", [{}, {"seed": 5}])
def test_without_a_generator_each_call_differs(settings):
    augmenter = iaa.Sequential([iaa.Affine(rotate=(-45, 45))], **settings)
    images = [augment(augmenter, seed=None)[0] for _ in range(3)]
    assert not any(np.array_equal(images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_an_image_without_objects_is_augmented_too():
    image, masks = augment(iaa.Fliplr(1.0), picture=lambda: (picture()[0], np.zeros((H, W, 0), bool)))
    np.testing.assert_array_equal(image, picture()[0][:, ::-1])
    assert masks.shape == (H, W, 0)


# ---- Custom augmenters -----------------------------------------------------------------------------------------------
class Own(iaa.Augmenter):
    """As written for matterport's code: `_augment_images` and nothing else."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _augment_images(self, images, random_state, parents, hooks):
        return [self.function(image) for image in images]

    def get_parameters(self):
        return []


class OwnWithMasks(Own):
    def _augment_segmentation_maps(self, segmaps, random_state, parents, hooks):
        for segmap in segmaps:
            segmap.arr = self.function(segmap.arr)
        return segmaps


def brighten(image):
    return np.clip(image.astype(int) + np.random.randint(-50, 50), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("move", [np.fliplr, np.flipud, lambda image: np.roll(image, 9, axis=1)])
def test_a_custom_augmenter_that_moves_only_the_image_is_refused(move):
    with pytest.raises(ValueError, match="Own .*moves the pixels of the image but not the masks"):
        check_augmentation(iaa.Sequential([iaa.Fliplr(0.5), iaa.Sometimes(0.01, Own(move))]))
    with pytest.raises(ValueError, match="Lambda .*func_segmentation_maps"):
        check_augmentation(iaa.Lambda(func_images=lambda images, *_: [move(image) for image in images]))
    image, masks = augment(OwnWithMasks(move))
    np.testing.assert_array_equal(masks, move(picture()[1]))


def test_a_custom_color_augmenter_is_used():
    _, masks = augment(iaa.Sequential([Own(brighten), iaa.Flipud(1.0)]))
    np.testing.assert_array_equal(masks, picture()[1][::-1])
    image, _ = augment(Own(lambda image: 255 - image))
    np.testing.assert_array_equal(image, 255 - picture()[0])


def test_an_augmenter_that_cannot_be_probed_gives_a_warning():
    def only_of_this_size(image):
        if image.shape != (H, W, 3):
            raise RuntimeError("too small")
        return image

    with pytest.warns(UserWarning, match="Own .*too small"):
        check_augmentation(Own(only_of_this_size))


def test_blending_moved_and_unmoved_pixels_is_refused():
    with pytest.raises(ValueError, match="BlendAlpha .*mixes pixels moved by Fliplr"):
        check_augmentation(iaa.Sequential([iaa.BlendAlpha(0.5, iaa.Fliplr(1.0))]))
    check_augmentation(iaa.BlendAlpha(0.5, iaa.Grayscale(1.0)))


def test_changing_the_size_is_refused():
    with pytest.raises(ValueError, match=r"Crop returned image of shape \(62, 96, 3\).*keep_size"):
        augment(iaa.Crop(px=((10), 0, 0, 0), keep_size=False))


# ---- Callables and Keras layers --------------------------------------------------------------------------------------
def test_callable():
    image, masks = augment(lambda image, masks: (image[:, ::-1] * 0.5, masks[:, ::-1]))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.around(picture()[0][:, ::-1] * 0.5))
    np.testing.assert_array_equal(masks, picture()[1][:, ::-1])


def test_a_callable_with_rng_receives_the_generator_of_the_sample():
    def roll(image, masks, rng):
        shift = rng.integers(1, 90)
        return np.roll(image, shift, axis=1), np.roll(masks, shift, axis=1)

    (image, masks), (again, _), (other, _) = (augment(roll, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(image, again)
    assert (image != other).any()
    np.testing.assert_array_equal(image[..., 0] == 40, masks[..., 0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda image, masks: image, "returned a ndarray; expected a pair"),
        (lambda image, masks: (image, masks[..., 1:]), r"masks of shape \(72, 96, 10\) for \(72, 96, 11\)"),
        (lambda image, masks: (image[1:], masks[1:]), r"shape \(71, 96, 11\)"),
    ],
)
def test_a_callable_that_returns_something_else_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        augment(wrong)


def test_an_object_that_is_not_an_augmentation_is_refused():
    with pytest.raises(TypeError, match="expected an imgaug augmenter"):
        check_augmentation("flip")


@pytest.mark.parametrize("name", ["RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "Pipeline"])
def test_keras_layers(name):
    import keras

    layer = {
        "RandomFlip": lambda: keras.layers.RandomFlip("horizontal_and_vertical"),
        "RandomRotation": lambda: keras.layers.RandomRotation(0.1, fill_mode="constant", interpolation="nearest"),
        "RandomZoom": lambda: keras.layers.RandomZoom(0.3, fill_mode="constant", interpolation="nearest"),
        "RandomTranslation": lambda: keras.layers.RandomTranslation(0.2, 0.2, "constant", interpolation="nearest"),
        "Pipeline": lambda: keras.layers.Pipeline([keras.layers.RandomFlip(), keras.layers.RandomFlip("vertical")]),
    }[name]()
    for seed in range(3):
        image, masks = augment(layer, seed)
        again, _ = augment(layer, seed)
        np.testing.assert_array_equal(image, again)
        for i in range(masks.shape[-1]):
            shown = image[..., 0] == 20 * i + 40
            assert (shown != masks[..., i]).sum() <= 0.2 * max(shown.sum(), 60), (seed, i)


def test_keras_color_layers_leave_the_masks_alone_and_mixing_layers_are_refused():
    import keras

    image, masks = augment(keras.layers.RandomBrightness(0.5))
    assert image.dtype == np.uint8 and (image != picture()[0]).any()
    np.testing.assert_array_equal(masks, picture()[1])
    for layer in (keras.layers.MixUp(), keras.layers.CutMix(), keras.layers.Rescaling(1 / 255)):
        with pytest.raises(ValueError, match=rf"keras\.layers\.{type(layer).__name__} can't"):
            check_augmentation(layer)
    with pytest.raises(ValueError, match="RandomCrop returned"):
        augment(keras.layers.RandomCrop(32, 32))


# ---- Albumentations --------------------------------------------------------------------------------------------------
class Pipeline:
    """Called as `albumentations.Compose` is."""

    def __init__(self, move):
        self.move, self.seeds, self.processors = move, [], {"bboxes": "needs them"}

    def set_random_seed(self, seed):
        self.seeds.append(seed)

    def __call__(self, *args, force_apply=False, **data):
        if args:
            raise KeyError("You have to pass data to augmentations as named arguments")
        if self.processors:
            raise ValueError("Your 'label_fields' are not valid")
        return self.move(self.seeds[-1], **data)


def flip_by_seed(seed, image, masks):
    if seed % 2:
        return {"image": image, "masks": masks}
    return {"image": image[:, ::-1], "masks": [mask[:, ::-1] for mask in masks]}


def test_a_pipeline_with_keyword_arguments_is_used_unchanged():
    # "cannot load image": Compose was called with an image and masks by position.
    image, masks = picture()
    pipeline, flipped = Pipeline(flip_by_seed), 0
    for seed in range(8):
        made = [augment(pipeline, seed) for _ in range(2)]
        for first, second in zip(*made):
            np.testing.assert_array_equal(first, second)  # the seed decides
        flipped += not np.array_equal(made[0][0], image)
        expected = masks if np.array_equal(made[0][0], image) else masks[:, ::-1]
        np.testing.assert_array_equal(made[0][1], expected)
    assert 0 < flipped < 8 and not pipeline.seeds and pipeline.processors  # it is copied, not changed
    assert augment(pipeline, None)[1].shape == masks.shape


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda seed, image, masks: {"image": image / 255, "masks": masks}, "image of float64.*leave Normalize"),
        (lambda seed, image, masks: {"image": image, "masks": masks[1:]}, 'the 11 "masks"'),
        (lambda seed, image, masks: {"masks": masks}, 'expected a dict with "image"'),
        (lambda seed, image, masks: {"image": image[4:], "masks": masks}, r"image of shape \(68, 96, 3\)"),
    ],
    ids=["normalized", "lost masks", "no image", "another size"],
)
def test_invalid_results_of_a_pipeline_are_refused(move, message):
    with pytest.raises(AugmentationError, match=rf"(?i)Pipeline returned.*{message}"):
        augment(Pipeline(move))


def test_albumentations_pipelines_work():
    albumentations = pytest.importorskip("albumentations")
    boxes = albumentations.BboxParams(format="coco", label_fields=["labels"])
    flip = albumentations.Compose([albumentations.HorizontalFlip(p=1)], bbox_params=boxes)
    image, masks = augment(flip)
    np.testing.assert_array_equal(image, picture()[0][:, ::-1])
    np.testing.assert_array_equal(masks, picture()[1][:, ::-1])
    noisy = albumentations.Compose([albumentations.RandomBrightnessContrast(p=0.5), albumentations.VerticalFlip(p=0.5)])
    results = [augment(noisy, seed)[0] for seed in (0, *range(12))]
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != other).any() for other in results[2:])


# ---- Errors ----------------------------------------------------------------------------------------------------------
def fails(image, masks):
    return image, masks["key"]


def fails_by_names(**data):
    raise RuntimeError("no GPU")


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (fails, "The augmentation fails failed with IndexError: only integers"),
        (fails_by_names, "The augmentation fails_by_names failed with RuntimeError: no GPU"),
        (iaa.Lambda(func_images=lambda images, *_: 1 / 0), "The augmentation Lambda failed with ZeroDivisionError"),
    ],
    ids=["callable", "by names", "imgaug"],
)
@pytest.mark.filterwarnings("ignore:The augmenter Lambda")
def test_errors_inside_an_augmentation_are_attributed_to_it(augmentation, message):
    # "Can't load image 3" sent people to look for a broken image.
    with pytest.raises(AugmentationError, match=message):
        augment(augmentation)
    config = TinyConfig()
    stream = SampleStream(Blocks(), config, shuffle=False, seed=0, augmentations=[augmentation])
    with pytest.raises(ValueError, match=rf"Can't augment image 0 \(blocks.0\): {message}"):
        stream.sample(0)


def test_images_of_other_types_keep_their_range():
    image = np.full((8, 8, 3), 30000, np.int16)
    brighter, _ = augment_sample(lambda image, masks: (image * 1.5, masks), image, np.zeros((8, 8, 0), np.uint8), 0)
    assert brighter.dtype == np.int16 and (brighter == 32767).all()


# ---- Through load_image_gt -------------------------------------------------------------------------------------------
def test_load_image_gt_with_imgaug():
    dataset, config = Blocks(), TinyConfig()
    plain = load_image_gt(dataset, config, 2)
    image, _, class_ids, bbox, mask = load_image_gt(dataset, config, 2, augmentation=iaa.Fliplr(1.0))
    np.testing.assert_array_equal(image, plain[0][:, ::-1])
    np.testing.assert_array_equal(mask, plain[4][:, ::-1])
    np.testing.assert_array_equal(bbox[:, 1], 128 - plain[3][:, 3])
    assert class_ids.tolist() == plain[2].tolist()


def test_objects_moved_out_of_the_image_are_dropped():
    away = iaa.Affine(translate_px={"x": 400})
    image, _, class_ids, bbox, mask = load_image_gt(Blocks(), TinyConfig(), 2, augmentation=away, use_mini_mask=True)
    assert len(class_ids) == len(bbox) == mask.shape[-1] == 0
