"""Flip, scale jitter, copy-paste and color jitter by settings: pixels, masks, boxes and classes stay together."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig
from test_same_grid import assert_on_its_pixels, scene

from mrcnn.data.color_jitter import jitter_colors
from mrcnn.data.copy_paste import paste, visible_masks
from mrcnn.data.generator import DataGenerator
from mrcnn.data.sample_stream import SampleStream
from mrcnn.ops import scale_jitter
from mrcnn.ops.masks import expand_mask
from mrcnn.training.batches import evaluate_arguments, fit_arguments

ALL = {"FLIP_PROBABILITY": 0.5, "SCALE_JITTER": (0.5, 1.8), "COPY_PASTE_PROBABILITY": 1.0, "COLOR_JITTER": 0.4}


def config_with(**settings):
    config = TinyConfig()
    for name, value in {"MAX_GT_INSTANCES": 60, "USE_MINI_MASK": False, **settings}.items():
        setattr(config, name, value)
    config.validate()
    return config


def samples_of(dataset, count=4, by_settings=True, **settings):
    stream = SampleStream(dataset, config_with(**settings), shuffle=False, seed=7)
    return [stream.sample(place, by_settings) for place in range(count)]


def assert_same_samples(first, second):
    for a, b in zip(first, second, strict=True):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right)


class Scenes(Blocks):
    """Images with 25 bright disks each, of other sizes than the network's."""

    def load_image(self, image_id):
        return scene(100 + 20 * image_id, 150, image_id)[0].astype(np.uint8)

    def load_mask(self, image_id):
        return scene(100 + 20 * image_id, 150, image_id)[1], np.ones(25, int)


# ---- Together --------------------------------------------------------------------------------------------------------
MODES = {
    "square": {"IMAGE_MIN_DIM": 0, "IMAGE_MAX_DIM": 192},
    "pad64": {"IMAGE_RESIZE_MODE": "pad64"},
    "none": {"IMAGE_RESIZE_MODE": "none"},
    "crop": {"IMAGE_RESIZE_MODE": "crop"},
    "torchvision": {"CONVENTION": "torchvision", "IMAGE_MIN_DIM": 170, "IMAGE_MAX_DIM": 256},
    "detectron2": {"CONVENTION": "detectron2", "IMAGE_MIN_DIM": 170, "IMAGE_MAX_DIM": 256},
}


@pytest.mark.parametrize("settings", [
    pytest.param({"FLIP_PROBABILITY": 1.0}, id="flip"),
    pytest.param({"SCALE_JITTER": (0.5, 2.0)}, id="scale"),
    pytest.param({"SCALE_JITTER": (0.3, 0.49)}, id="antialiased"),
    pytest.param({"COPY_PASTE_PROBABILITY": 1.0, "SCALE_JITTER": (0.7, 1.5), "FLIP_PROBABILITY": 0.5}, id="paste"),
    pytest.param({"RECIPE": "small-data", "COLOR_JITTER": 0.0}, id="recipe"),
])  # fmt: skip
@pytest.mark.parametrize("mode", MODES)
def test_pixels_and_masks_move_together(mode, settings):
    plain = samples_of(Scenes((1, 1)), 6, by_settings=False, **MODES[mode])
    samples = samples_of(Scenes((1, 1)), 6, **settings, **MODES[mode])
    assert [s.image.shape for s in samples] == [s.image.shape for s in plain]
    assert any(a.image.shape != b.image.shape or (a.image != b.image).any() for a, b in zip(samples, plain))
    assert_on_its_pixels([(s.image, s.masks) for s in samples], least=15)


@pytest.mark.parametrize("mode", MODES)
def test_boxes_and_mini_masks_are_those_of_the_whole_masks(mode):
    whole = samples_of(Scenes((1, 1)), **ALL, **MODES[mode])
    mini = samples_of(Scenes((1, 1)), USE_MINI_MASK=True, **ALL, **MODES[mode])
    for a, b in zip(whole, mini):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.image, b.image)
        again = expand_mask(b.boxes, b.masks, a.image.shape)
        assert (again & a.masks).sum() / (again | a.masks).sum() > 0.8
        y1, x1, y2, x2 = a.image_meta[7:11].astype(int)
        assert not a.masks[:y1].any() and not a.masks[y2:].any() and not a.masks[:, x2:].any()
        assert not a.image[:y1].any() and not a.image[:, x2:].any()  # padding is 0, as in detection


# ---- By hand ---------------------------------------------------------------------------------------------------------
def test_a_scaled_image_is_cropped_or_padded_to_its_canvas():
    rng = np.random.default_rng(0)
    for _ in range(50):
        placed = scale_jitter.place((20, 40), (32, 32), 0.8, rng, factor=rng.uniform(0.1, 2))
        assert placed.size == (round(20 * placed.scale), round(40 * placed.scale))
        for axis in (0, 1):
            start, seen, (before, after) = placed.crop[axis], placed.crop[2 + axis], placed.padding[axis]
            assert before + seen + after == 32 and min(start, seen - 1, before, after) >= 0
            assert seen == min(32, placed.size[axis]) and start + seen <= placed.size[axis]
    assert scale_jitter.place((20, 40), (32, 32), 0.5, rng, top_left=True).window == (0, 0, 10, 20)


def test_a_flip_and_nothing_else():
    plain, flipped = samples_of(Blocks((2,)), 1)[0], samples_of(Blocks((2,)), 1, FLIP_PROBABILITY=1.0)[0]
    np.testing.assert_array_equal(flipped.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(flipped.masks, plain.masks[:, ::-1])
    np.testing.assert_array_equal(flipped.boxes[:, [1, 3]], 128 - plain.boxes[:, [3, 1]])


def test_pasted_objects_cover_others():
    masks = np.zeros((6, 6, 4), bool)
    masks[:, :2, 0] = masks[:, 2:4, 1] = masks[0, 0, 2] = masks[5, 5, 3] = True
    pasted = np.zeros((6, 6, 1), bool)
    pasted[:, :3] = True
    pasted[5, 2] = False
    left, stays = visible_masks(masks, np.array([1, 2, 1, 1]), pasted)
    assert stays.tolist() == [False, True, False, True]
    assert left[..., 1].sum() == 7 and not (left & pasted).any() and left[5, 5, 3]
    masks[:, :3, 0], pasted[3, 0] = True, False  # 2 of 18 pixels are seen: 11 %
    assert visible_masks(masks, np.array([1, 2, 1, 1]), pasted)[1].tolist() == [True, True, False, True]


def test_blending_changes_only_the_edge():
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)
    mask = np.zeros((20, 20, 2), bool)
    mask[5:15, 5:15, 0] = mask[8:18, 8:18, 1] = True
    result = paste(image, other, mask)
    np.testing.assert_array_equal(result[9:12, 9:12], other[9:12, 9:12])
    np.testing.assert_array_equal(result[:2], image[:2])
    np.testing.assert_array_equal(paste(image, other, np.zeros((20, 20, 0), bool)), image)
    assert result.dtype == np.uint8 and paste(image * np.float32(1), other, mask).dtype == np.float32


def test_colors_of_any_number_of_channels():
    rng = np.random.default_rng
    for channels in (1, 2, 3, 4, 7):
        for dtype in (np.uint8, np.uint16, np.float32):
            image = rng(1).integers(0, 200, (6, 5, channels)).astype(dtype)
            found = jitter_colors(image, 0.5, rng(2))
            assert found.shape == image.shape and found.dtype == dtype and (found != image).any()
            np.testing.assert_array_equal(jitter_colors(image, 0.0, rng(2)), image)
    gray = np.repeat(rng(1).integers(0, 200, (6, 5, 1)), 3, axis=-1).astype(np.float32)
    assert np.ptp(jitter_colors(gray, 0.8, rng(0)), axis=-1).max() < 1e-3  # gray has no hue


# ---- Which objects ---------------------------------------------------------------------------------------------------
class Mixed(Blocks):
    """Image 0 has an object and a crowd, image 1 only a crowd, image 2 nothing, image 3 two objects."""

    def __init__(self):
        super().__init__(counts=(2, 1, 0, 2))

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        return masks, {0: np.array([1, -2]), 1: np.array([-1])}.get(image_id, class_ids)


def test_crowds_and_images_without_objects_stay_and_crowds_are_not_pasted():
    samples = samples_of(Mixed(), 40, TRAIN_ON_EMPTY_IMAGES=True, **{**ALL, "SCALE_JITTER": (0.9, 1.0)})
    ids = [[s.class_ids.tolist() for s in samples[i::4]] for i in range(4)]
    assert all(-2 in found and 1 in found for found in ids[0])
    assert all(found == [-1] for found in ids[1]) and all(found == [] for found in ids[2])
    assert all(-1 not in found and -2 not in found for found in ids[3])
    assert any(len(found) > 2 for found in ids[3]) and any(len(found) > 2 for found in ids[0])


def test_without_other_objects_nothing_is_pasted():
    class Lonely(Mixed):
        def load_mask(self, image_id):
            masks, class_ids = Blocks.load_mask(self, image_id)
            return masks, class_ids if image_id == 3 else -class_ids

    plain, pasted = (samples_of(Lonely(), 8, COPY_PASTE_PROBABILITY=p) for p in (0.0, 1.0))
    assert [s.class_ids.tolist() for s in pasted] == [s.class_ids.tolist() for s in plain] == [[1, 2]] * 8
    one = samples_of(Blocks((1,)), 2, COPY_PASTE_PROBABILITY=1.0)  # one image: its own object covers itself
    assert [s.class_ids.tolist() for s in one] == [[1], [1]]


def test_classes_that_the_source_does_not_have_are_not_pasted():
    class Two(Blocks):
        def __init__(self):
            super().__init__(counts=(1, 1, 2))
            self.add_class("other", 1, "blue")
            for info in self.image_info[:2]:
                info["source"] = "other"
            self.prepare()

        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            return masks, np.full(1, 3) if image_id < 2 else class_ids

    found = samples_of(Two(), 30, NUM_CLASSES=4, COPY_PASTE_PROBABILITY=1.0, SCALE_JITTER=(0.5, 1.0))
    for i, allowed in enumerate(({3}, {3}, {1, 2})):
        assert {c for s in found[i::3] for c in s.class_ids} == allowed
    assert any(len(s.class_ids) == 2 for s in found[::3])


def test_an_image_that_cannot_be_loaded_is_not_pasted_and_changes_no_other_sample():
    class Broken(Blocks):
        def load_mask(self, image_id):
            if image_id == 1:
                raise OSError("torn file")
            return super().load_mask(image_id)

    streams = [SampleStream(Broken(), config_with(**ALL), False, seed=7) for _ in range(2)]
    with pytest.warns(UserWarning, match="torn file"):
        forward = [streams[0].sample(place) for place in range(10)]
        backward = [streams[1].sample(place) for place in range(9, -1, -1)]
    assert_same_samples(forward, backward[::-1])


# ---- When ------------------------------------------------------------------------------------------------------------
def test_samples_depend_on_seed_and_place_only():
    dataset, config = Blocks(), config_with(**ALL)
    stream = SampleStream(dataset, config, True, seed=3)
    again = SampleStream(dataset, config, True, seed=3)
    assert_same_samples([stream.sample(p) for p in range(6)], [again.sample(p) for p in (5, 4, 3, 2, 1, 0)][::-1])
    other = SampleStream(dataset, config, True, seed=4).sample(0)
    assert stream.sample(0).image.shape == other.image.shape and (stream.sample(0).image != other.image).any()


def test_validation_and_sources_without_augmentation_see_the_plain_images():
    dataset, plain = Blocks(), DataGenerator(Blocks(), config_with(), seed=1)
    augmented = DataGenerator(dataset, config_with(**ALL), seed=1)

    class OneDevice:
        def check_batches(self, batches):
            pass

    arguments = {"validation_data": augmented}
    trained_on = fit_arguments(augmented, arguments, OneDevice())
    evaluated_on = evaluate_arguments(augmented, {}, OneDevice())
    excluded = DataGenerator(dataset, config_with(**ALL), seed=1, no_augmentation_sources=["blocks"])
    for batches, same in (
        (trained_on, False), (augmented.rest_of_epoch(0), False), (arguments["validation_data"], True),
        (evaluated_on, True), (excluded, True),
    ):  # fmt: skip
        assert np.array_equal(batches[0][0]["input_image"], plain[0][0]["input_image"]) == same
    np.testing.assert_array_equal(
        augmented.rest_of_epoch(1)[0][0]["input_image"], augmented[1][0]["input_image"]
    )  # fmt: skip
