"""Repeat-factor sampling: factors and orders by hand, and what the stream makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.coco import CocoDataset
from mrcnn.data.generator import DataGenerator
from mrcnn.data.repeat_sampling import classes_in_images, repeat_factors, repeated_order
from mrcnn.data.sample_stream import SampleStream


def test_no_images_and_no_objects():
    assert repeat_factors([], 0.5).shape == (0,)
    assert repeat_factors([set(), set()], 0.5).tolist() == [1, 1]


@pytest.mark.parametrize(("threshold", "expected"), [
    (0.0, [1, 1, 1, 1, 1]),
    (0.2, [1, 1, 1, 1, 1]),  # class 3 is in a fifth of the images
    (0.8, [1, 1, 1, 2**0.5, 2]),  # f = 4/5, 2/5, 1/5 of the classes 1, 2, 3
])  # fmt: skip
def test_factors_by_hand(threshold, expected):
    classes = [[1, 1, 1], [1], [1], [1, 2], [2, 3]]
    np.testing.assert_allclose(repeat_factors(classes, threshold), expected)


def test_each_image_comes_as_often_as_its_factor_says():
    factors, rng = np.array([1.0, 1, 2, 4]), np.random.default_rng(0)
    orders = np.array([repeated_order(factors, rng) for _ in range(2000)])
    counts = np.array([np.bincount(order, minlength=4) for order in orders])
    np.testing.assert_allclose(counts.mean(axis=0), 4 * factors / 8, atol=0.03)
    assert (np.abs(counts - 4 * factors / 8) < 1).all()
    np.testing.assert_allclose((orders == 3).mean(axis=0), 0.5, atol=0.04)  # at each place
    assert sorted(repeated_order(np.ones(7), rng)) == list(range(7))


class Rare(Blocks):
    """Ten images; only the last has class 2. Image 0 can't be read, image 1 has only a crowd."""

    def __init__(self):
        super().__init__(counts=(1,) * 9 + (2,))

    def load_mask(self, image_id):
        if image_id == 0:
            raise OSError("torn file")
        masks, class_ids = super().load_mask(image_id)
        return masks, -class_ids if image_id == 1 else class_ids


def test_the_stream_shows_rare_classes_more_often_and_validation_each_image_once():
    assert classes_in_images(Rare()) == [set(), set(), *[{1}] * 7, {1, 2}]
    config = TinyConfig()
    plain = SampleStream(Rare(), config, True, seed=1)
    config = TinyConfig()
    config.REPEAT_THRESHOLD = 0.9
    stream = SampleStream(Rare(), config, True, seed=1)
    shown = np.bincount([stream.image_id(place) for place in range(2000)], minlength=10)
    np.testing.assert_allclose(shown / shown[0], [1, 1] + [(0.9 / 0.8) ** 0.5] * 7 + [3], rtol=0.1)
    places = range(40)
    assert [stream.image_id(p, by_settings=False) for p in places] == [plain.image_id(p) for p in places]
    again = SampleStream(Rare(), config, True, seed=1)
    assert [again.image_id(p) for p in (35, 3)] == [stream.image_id(p) for p in (35, 3)]
    generator = DataGenerator(Blocks(), config, steps=4, seed=1)
    np.testing.assert_array_equal(
        generator.repeated()[1][0]["input_image"],
        DataGenerator(Blocks(), TinyConfig(), steps=4, seed=1)[1][0]["input_image"],
    )


def test_coco_files_give_classes_without_drawing_masks():
    class Drawn(CocoDataset):
        def load_mask(self, image_id):
            return np.ones((4, 4, 1), bool), np.array([2])

    annotations = [{"category_id": 7}, {"category_id": 3, "iscrowd": 1}]
    for kind, expected in ((CocoDataset, [2, -1]), (Drawn, [2])):
        dataset = kind()
        dataset.add_class("coco", 3, "a")
        dataset.add_class("coco", 7, "b")
        dataset.add_image("coco", 1, "x.jpg", height=4, width=4, annotations=annotations)
        dataset.prepare()
        assert dataset.load_class_ids(0).tolist() == expected
    dataset = Dataset()
    dataset.add_image("toys", 0, None, height=4, width=4)
    dataset.prepare()
    assert dataset.load_class_ids(0).tolist() == []
