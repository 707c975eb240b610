"""`load_image_gt`: accepted images and masks, consistent results in every resize mode, packed masks."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

from mrcnn.data import mask_bits
from mrcnn.data.training_sample import load_image_gt
from mrcnn.inference.molding import mold_image
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.masks import minimize_mask


class Given(Blocks):
    """One image 40 x 50 with the masks and class ids of the test."""

    def __init__(self, masks, class_ids, image=None):
        super().__init__(counts=(1,))
        self.given = masks, class_ids
        self.image = np.full((40, 50, 3), 99, np.uint8) if image is None else image

    def load_image(self, image_id):
        return self.image

    def load_mask(self, image_id):
        return self.given


def block(dtype=bool, value=1, shape=(40, 50, 1)):
    masks = np.zeros(shape, dtype)
    masks[10:20, 5:25] = value
    return masks


def load(masks, class_ids, image=None, config=None, **kwargs):
    return load_image_gt(Given(masks, class_ids, image), config or TinyConfig(), 0, **kwargs)


# ---- No objects ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("shape", [(40, 50, 0), (0, 0, 0)], ids=["its size", "matterport's [0, 0, 0]"])
def test_image_without_objects(shape, mini):
    image, meta, class_ids, bbox, mask = load(np.zeros(shape, bool), [], use_mini_mask=mini)
    assert image.shape == (128, 128, 3) and meta.shape == (15,)
    assert class_ids.shape == (0,) and bbox.shape == (0, 4)
    assert mask.shape == ((28, 28, 0) if mini else (128, 128, 0)) and mask.dtype == bool


def test_empty_masks_are_dropped_with_their_class_ids():
    masks = np.concatenate([block(value=0), block(), block(value=0)], axis=-1)
    for options in ({}, {"use_mini_mask": True}, {"augmentation": lambda image, masks: (image, masks)}):
        _, _, class_ids, bbox, mask = load(masks, [1, 2, 1], **options)
        assert class_ids.tolist() == [2] and len(bbox) == mask.shape[-1] == 1


# ---- What users' load_mask returns -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "value"),
    [(bool, 1), (np.uint8, 1), (np.uint8, 255), (np.float32, 1), (np.float64, 0.2), (np.int64, -1)],
)
@pytest.mark.parametrize("ids", [[1], (1,), np.array([1], np.uint8), np.array([1.0]), np.array([1], np.int64)])
def test_masks_and_class_ids_of_any_type(dtype, value, ids):
    expected = load(block(), [1])
    for options in ({}, {"augmentation": lambda image, masks: (image, masks)}):
        got = load(block(dtype, value), ids, **options)
        for a, b in zip(expected, got):
            np.testing.assert_array_equal(a, b)
        assert got[2].dtype == np.int32 and got[3].dtype == np.int32 and got[4].dtype == bool


@pytest.mark.parametrize(
    ("masks", "ids", "message"),
    [
        (block(shape=(50, 40, 1)), [1], r"masks of 50 x 40 pixels .*expected 40 x 50"),
        (block(), [1, 2], r"masks of shape \(40, 50, 1\) and 2 class ids"),
        (block()[..., 0], [1], r"masks of shape \(40, 50\) and 1 class ids"),
        (np.moveaxis(block(shape=(40, 50, 3)), -1, 0), [1, 1, 1], r"shape \(3, 40, 50\) and 3"),
        (block(), [3], r"class id 3 .*expected 1\.\.2"),
        (block(), [0], r"class id 0 .*0 is the background"),
        (block(), [-3], r"class id -3"),
        (block(), [1.5], r"class ids \[1\.5\].*whole numbers"),
        (block(float, np.nan), [1], "masks with NaN"),
        (np.full((40, 50, 1), "x"), [1], "masks of type <U1"),
    ],
)
def test_mismatched_masks_and_class_ids_are_refused(masks, ids, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(masks, ids)
    assert "Given.load_mask returned" in str(caught.value) and "image 0 (blocks.0)" in str(caught.value)


def test_a_mask_without_class_ids_is_refused():
    class Odd(Given):
        def load_mask(self, image_id):
            return block()

    with pytest.raises(ValueError, match=r"returned a ndarray .*expected a pair"):
        load_image_gt(Odd(None, None), TinyConfig(), 0)


def test_an_image_of_a_source_without_classes_is_refused():
    dataset = Blocks()
    dataset.add_image("other", 0, "x.png", count=1)
    dataset.prepare()
    with pytest.raises(ValueError, match=r"source 'other', which has no class; .*\['blocks'\]"):
        load_image_gt(dataset, TinyConfig(), 5)


# ---- What comes out --------------------------------------------------------------------------------------------------
def test_hand_computed_square_mode():
    # 40 x 50 -> scaled by 128 / 50 = 2.56 -> 102 x 128, padded by 13 above and below
    image, meta, class_ids, bbox, mask = load(block(), [2])
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    assert meta[:12].tolist() == [0, 40, 50, 3, 128, 128, 3, 13, 0, 115, 128, 2.56] and meta[12:].tolist() == [1, 1, 1]
    assert class_ids.tolist() == [2]
    np.testing.assert_allclose(bbox[0], [13 + 25.6, 12.8, 13 + 51.2, 64], atol=1.5)
    np.testing.assert_array_equal(bbox, extract_bboxes(mask))


def test_active_classes_are_those_of_the_images_source():
    dataset = Blocks(counts=(1,))
    dataset.add_class("other", 1, "blue")
    dataset.add_image("other", "x", None, count=1)
    dataset.prepare()
    config = TinyConfig()
    config.NUM_CLASSES = 5  # one more than the dataset has
    assert load_image_gt(dataset, config, 0)[1][12:].tolist() == [1, 1, 1, 0, 0]
    assert load_image_gt(dataset, config, 1)[1][12:].tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize("mode", ["none", "square", "pad64", "crop"])
@pytest.mark.parametrize("augmented", [False, True])
def test_mini_masks_are_the_full_masks_minimized(mode, augmented):
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM = mode, 64
    masks = np.random.default_rng(0).random((40, 50, 11)) < 0.05
    options = {"augmentation": lambda image, masks: (image, masks)} if augmented else {}
    sides = []
    for mini in (False, True):
        rng = np.random.default_rng(3)
        sides.append(load_image_gt(Given(masks, np.ones(11)), config, 0, use_mini_mask=mini, rng=rng, **options))
    (_, _, _, bbox, mask), (_, _, _, mini_bbox, mini_mask) = sides
    np.testing.assert_array_equal(bbox, extract_bboxes(mask))
    np.testing.assert_array_equal(bbox, mini_bbox)
    np.testing.assert_array_equal(mini_mask, minimize_mask(bbox, mask, (28, 28)))


def test_crop_follows_the_generator_and_drops_objects_outside():
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM = "crop", 64
    masks = np.zeros((200, 200, 2), bool)
    masks[:20, :20, 0] = masks[-20:, -20:, 1] = True
    dataset = Given(masks, [1, 2], np.zeros((200, 200, 3), np.uint8))
    results = [load_image_gt(dataset, config, 0, rng=np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert all(len(r[2]) < 2 and r[0].shape == (64, 64, 3) for r in results)
    np.testing.assert_array_equal(results[0][4], results[1][4])


def test_augment_flips_every_other_image():
    flipped = 0
    plain = load(block(), [1])
    for seed in range(40):
        image, _, _, bbox, mask = load(block(), [1], augment=True, rng=np.random.default_rng(seed))
        if bbox[0, 1] != plain[3][0, 1]:
            flipped += 1
            np.testing.assert_array_equal(mask, plain[4][:, ::-1])
    assert 10 < flipped < 30


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (np.full((40, 50), 7, np.uint8), 3),
        (np.full((40, 50, 1), 7, np.uint8), 1),
        (np.full((40, 50, 4), 7, np.uint8), 3),
        (np.full((40, 50, 3), 7, np.uint8), 1),
        (np.full((40, 50, 3), 7.0), 3),
        (np.full((40, 50), 7 * 257, np.uint16), 3),
    ],
    ids=["gray", "one channel", "RGBA", "RGB to one", "float", "16 bits"],
)
@pytest.mark.filterwarnings("ignore:A uint16 image has no value above")
def test_images_of_any_kind(image, channels):
    config = TinyConfig()
    config.IMAGE_CHANNEL_COUNT, config.MEAN_PIXEL = channels, np.full(channels, 10.0)
    got = load(block(), [1], image, config)[0]
    assert got.shape == (128, 128, channels) and got[64, 64].tolist() == [7] * channels


def test_int16_images_with_their_own_mean_are_not_rescaled():
    """A script for telescopes: int16 -300..29998 and a MEAN_PIXEL of -200. It was refused."""
    image, config = np.full((64, 64, 3), -300, np.int16), TinyConfig()
    image[32:] = 29998
    config.MEAN_PIXEL = np.full(3, -200.0)
    got = load(block(shape=(64, 64, 1)), [1], image, config)[0]
    assert got.dtype == np.int16 and got[20, 64].tolist() == [-300] * 3 and got.max() == 29998
    assert mold_image(got, config)[[20, 100], 64, 0].tolist() == [-100, 30198]


def test_twelve_bands_and_a_range_of_12_bits():
    config = TinyConfig()
    config.IMAGE_CHANNEL_COUNT, config.MEAN_PIXEL, config.IMAGE_RANGE = 12, np.full(12, 10.0), (0, 4095)
    image = np.full((40, 50, 12), 4095, np.uint16)
    got = load(block(), [1], image, config)[0]
    assert got.shape == (128, 128, 12) and got.max() == 255 and got.dtype == np.float32


def test_standardized_floats_pass_with_a_small_mean_pixel():
    image, config = np.full((40, 50, 3), 0.5), TinyConfig()
    with pytest.raises(ValueError, match=r"image 0 \(blocks\.0\) has float values"):
        load(block(), [1], image, config)
    config.MEAN_PIXEL = np.zeros(3)
    assert load(block(), [1], image, config)[0].max() == np.float32(0.5)


# ---- Packed masks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 20])
@pytest.mark.parametrize("order", ["C", "F", "layers"])
def test_unpack_inverts_pack(count, order):
    masks = np.random.default_rng(count).random((13, 17, count)) < 0.1
    masks[..., : count // 3] = False
    laid = np.ascontiguousarray(np.moveaxis(masks, -1, 0)) if order == "layers" else None
    masks = np.moveaxis(laid, 0, -1) if order == "layers" else np.asarray(masks, order=order)
    planes = mask_bits.pack(masks)
    assert planes.shape == (13, 17, -(-count // 8)) and planes.dtype == np.uint8
    np.testing.assert_array_equal(mask_bits.unpack(planes, count), masks)
    for i in range(count):
        np.testing.assert_array_equal(mask_bits.layer(planes, i), masks[..., i])
    boxes = mask_bits.boxes(planes, count)
    np.testing.assert_array_equal(boxes, extract_bboxes(masks))
    there = boxes[:, 2] > 0
    expected = np.zeros((6, 5, count), bool)
    expected[..., there] = minimize_mask(boxes[there], masks[..., there], (6, 5))
    np.testing.assert_array_equal(mask_bits.minimize(planes, boxes, (6, 5)), expected)
