"""The stream of samples and its batches: each image once per epoch, independent of the workers, nothing lost."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.broken import BrokenAnnotation
from mrcnn.data.generator import DataGenerator, data_generator
from mrcnn.data.rpn_targets import build_rpn_targets
from mrcnn.data.sample_stream import SampleStream
from mrcnn.data.training_sample import load_image_gt
from mrcnn.ops.anchors import backbone_shapes, generate_pyramid_anchors

ROOT = Path(__file__).resolve().parents[1]


def image_ids(batch):
    return batch[0]["input_image_meta"][:, 0].astype(int).tolist()


def epoch_ids(generator):
    return [image_ids(generator[i]) for i in range(len(generator))]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def jitter(image, masks, rng):
    """An augmentation whose result shows any difference in the random numbers."""
    shift = rng.integers(1, 60)
    return np.roll(image, shift, axis=1), np.roll(masks, shift, axis=1)


# ---- Batches ---------------------------------------------------------------------------------------------------------
def test_shapes_types_and_names():
    (batch,) = DataGenerator(Blocks(), TinyConfig(), seed=0)[0]
    anchors = 3 * (32**2 + 16**2 + 8**2 + 4**2 + 2**2)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "input_image": ((2, 128, 128, 3), "float32"),
        "input_image_meta": ((2, 15), "float32"),
        "input_rpn_match": ((2, anchors, 1), "int32"),
        "input_rpn_bbox": ((2, 64, 4), "float32"),
        "input_gt_class_ids": ((2, 6), "int32"),
        "input_gt_boxes": ((2, 6, 4), "float32"),
        "input_gt_masks": ((2, 28, 28, 6), "bool"),
    }


def test_batches_equal_load_image_gt_and_build_rpn_targets():
    dataset, config = Blocks(), TinyConfig()
    config.USE_MINI_MASK = False
    (batch,) = DataGenerator(dataset, config, shuffle=False, batch_size=3, seed=0)[0]
    shapes = backbone_shapes((128, 128), config.BACKBONE_STRIDES)
    anchors = generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, 1
    )
    for i in range(3):
        image, meta, class_ids, boxes, masks = load_image_gt(dataset, config, i)
        np.testing.assert_allclose(batch["input_image"][i], image - config.MEAN_PIXEL, atol=1e-4)
        np.testing.assert_allclose(batch["input_image_meta"][i], meta, rtol=1e-6)
        n = len(class_ids)
        np.testing.assert_array_equal(batch["input_gt_class_ids"][i], [*class_ids, *[0] * (6 - n)])
        np.testing.assert_array_equal(batch["input_gt_boxes"][i, :n], boxes)
        np.testing.assert_array_equal(batch["input_gt_masks"][i, ..., :n], masks)
        assert not batch["input_gt_boxes"][i, n:].any() and not batch["input_gt_masks"][i, ..., n:].any()
        match, deltas = build_rpn_targets(image.shape, anchors, class_ids, boxes, config, np.random.default_rng(0))
        got = batch["input_rpn_match"][i, :, 0]
        np.testing.assert_array_equal(got == 1, match == 1)  # few positives, so none is left out
        assert (got == -1).sum() == (match == -1).sum() == 64 - (match == 1).sum()
        np.testing.assert_allclose(batch["input_rpn_bbox"][i], deltas, rtol=1e-6)


def test_excess_objects_are_sampled_at_random():
    dataset = Blocks(counts=(9,))
    generator = DataGenerator(dataset, TinyConfig(), seed=0, batch_size=1)
    seen = set()
    for generator.epoch in range(8):
        boxes = generator[0][0]["input_gt_boxes"][0]
        assert boxes.any(axis=1).all() and len(np.unique(boxes, axis=0)) == 6
        seen |= {tuple(box) for box in boxes}
    assert len(seen) == 9


def test_images_of_several_shapes_in_one_batch_are_refused():
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM = "none", None
    with pytest.raises(ValueError, match=r"several shapes, \[\(60, 80, 3\), \(61, 80, 3\)\].*IMAGES_PER_GPU = 1"):
        DataGenerator(Blocks(), config, shuffle=False, seed=0)[0]
    generator = DataGenerator(Blocks(), config, shuffle=False, seed=0, batch_size=1)
    assert [generator[i][0]["input_image"].shape[1] for i in range(3)] == [60, 61, 62]


# ---- Order -----------------------------------------------------------------------------------------------------------
def test_an_epoch_has_each_image_once_and_a_smaller_last_batch():
    generator = DataGenerator(Blocks(), TinyConfig(), seed=3)
    orders = []
    for generator.epoch in range(4):
        batches = epoch_ids(generator)
        assert [len(b) for b in batches] == [2, 2, 1]
        orders.append([image_id for batch in batches for image_id in batch])
        assert sorted(orders[-1]) == [0, 1, 2, 3, 4]
    assert len({tuple(order) for order in orders}) > 1


def test_with_steps_epochs_continue_with_full_batches():
    generator = DataGenerator(Blocks(), TinyConfig(), seed=3, steps=4)
    stream = []
    for generator.epoch in range(5):
        batches = epoch_ids(generator)
        assert [len(b) for b in batches] == [2] * 4
        stream += [image_id for batch in batches for image_id in batch]
    assert len(stream) == 40
    for start in range(0, 40, 5):
        assert sorted(stream[start : start + 5]) == [0, 1, 2, 3, 4]


def test_the_seed_determines_order_and_augmentation():
    dataset, config = Blocks(), TinyConfig()
    first, again, other = (DataGenerator(dataset, config, augmentation=jitter, seed=s) for s in (1, 1, 2))
    assert_same(first[1][0], again[1][0])
    assert epoch_ids(first) != epoch_ids(other)
    config.SEED = 1
    assert_same(DataGenerator(dataset, config, augmentation=jitter)[1][0], first[1][0])
    config.SEED = None
    np.random.seed(5)
    drawn = DataGenerator(dataset, config).seed
    np.random.seed(5)
    assert DataGenerator(dataset, config).seed == drawn != DataGenerator(dataset, config).seed


def test_setting_the_epoch_equals_running_up_to_it():
    a, b = (DataGenerator(Blocks(), TinyConfig(), seed=0, augmentation=jitter) for _ in range(2))
    a.on_epoch_end()
    a.on_epoch_end()
    b.epoch = 2
    assert_same(a[0][0], b[0][0])


def test_without_shuffle_images_come_in_order():
    generator = DataGenerator(Blocks(), TinyConfig(), shuffle=False, seed=0)
    assert epoch_ids(generator) == [[0, 1], [2, 3], [4]]
    with pytest.raises(IndexError):
        generator[3]


# ---- Images without objects, and broken ones -------------------------------------------------------------------------
def test_issue_330_images_without_objects_are_replaced_or_used_as_negatives():
    dataset, config = Blocks(counts=(0, 2, 0, 0, 1)), TinyConfig()
    generator = DataGenerator(dataset, config, shuffle=False, batch_size=5, seed=0)
    with pytest.warns(UserWarning, match=r"image 0 \(blocks\.0\) has no object.*TRAIN_ON_EMPTY_IMAGES") as said:
        assert image_ids(generator[0]) == [1, 1, 4, 4, 4]
    assert len(said) == 1 and generator.stream.replaced == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator[0]  # warns only once
    config.TRAIN_ON_EMPTY_IMAGES = True
    (batch,) = DataGenerator(dataset, config, shuffle=False, batch_size=5, seed=0)[0]
    assert batch["input_image_meta"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert not batch["input_gt_class_ids"][0].any() and (batch["input_rpn_match"][0] == 1).sum() == 0
    assert (batch["input_rpn_match"][0] == -1).sum() == 64


def test_an_image_with_only_a_crowd_is_replaced():
    class Crowd(Blocks):
        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            return masks, -class_ids if image_id == 0 else class_ids

    with pytest.warns(UserWarning, match="image 0"):
        assert image_ids(DataGenerator(Crowd(), TinyConfig(), shuffle=False, seed=0)[0]) == [1, 1]


@pytest.mark.filterwarnings("ignore:image")
def test_a_dataset_without_objects_is_an_error():
    with pytest.raises(ValueError, match=r"None of the 3 images of Blocks has an object"):
        DataGenerator(Blocks(counts=(0, 0, 0)), TinyConfig(), seed=0)[0]


class BrokenImage(Blocks):
    """Its `load_image` or `load_mask` fails for one image."""

    def load_image(self, image_id):
        if image_id == 3:
            raise OSError("cut off")
        return super().load_image(image_id)


def test_one_unreadable_image_does_not_stop_training():
    dataset = BrokenImage(counts=(1, 1, 1, 1, 1))
    generator = DataGenerator(dataset, TinyConfig(), shuffle=False, seed=0)
    generator[0]
    with pytest.warns(
        UserWarning, match=r"Can't load image 3 \(blocks\.3\): OSError: cut off\n.* continues without it"
    ):
        assert image_ids(generator[1]) == [2, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_ids(generator[1]) == [2, 4]  # named once


@pytest.mark.parametrize("share", [0, 0.15])
def test_too_many_unreadable_images_are_an_error(share):
    dataset = BrokenImage(counts=(1, 1, 1, 1, 1))
    generator = DataGenerator(dataset, TinyConfig(MAX_BROKEN_IMAGES=share), shuffle=False, seed=0)
    with pytest.raises(ValueError, match=r"Can't load image 3 .*\n1 of 5 images .*MAX_BROKEN_IMAGES"):
        generator[1]


def test_a_broken_annotation_is_an_error_at_once():
    class Known(Blocks):
        def load_mask(self, image_id):
            raise BrokenAnnotation("a.json", "entry", "points", "a polygon", [])

    with pytest.raises(BrokenAnnotation, match="a.json"):
        DataGenerator(Known(), TinyConfig(), shuffle=False, seed=0)[0]


@pytest.mark.filterwarnings("ignore:image")
def test_a_crop_that_misses_all_objects_is_drawn_again():
    class Corner(Blocks):
        """One object of 3 x 3 pixels in 200 x 200: a crop of 64 x 64 misses it 9 times out of 10."""

        def load_image(self, image_id):
            return np.zeros((200, 200, 3), np.uint8)

        def load_mask(self, image_id):
            masks = np.zeros((200, 200, 1), bool)
            masks[100:103, 100:103] = True
            return masks, np.ones(1, np.int32)

    config = TinyConfig(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, IMAGES_PER_GPU=1)
    for seed in range(10):
        batch = DataGenerator(Corner(counts=(1, 1)), config, shuffle=False, seed=seed)[0][0]
        assert (batch["input_gt_class_ids"] > 0).sum() == 1


@pytest.mark.filterwarnings("ignore:image")
def test_objects_always_lost_to_augmentation_are_an_error():
    generator = DataGenerator(
        Blocks(counts=(1, 1)), TinyConfig(), shuffle=False, seed=0, augmentation=lambda i, m: (i, np.zeros_like(m))
    )
    with pytest.raises(ValueError, match="lost all objects"):
        generator[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, c: d.add_class("blocks", 3, "x") or d.prepare(), r"Blocks has 4 classes .*NUM_CLASSES is 3"),
        (lambda d, c: d.image_info.clear() or d.prepare(), "Blocks has no images"),
    ],
)
def test_unusable_datasets_are_refused(change, message):
    dataset, config = Blocks(), TinyConfig()
    change(dataset, config)
    with pytest.raises(ValueError, match=message):
        DataGenerator(dataset, config)


def test_a_dataset_that_is_not_prepared_is_refused():
    dataset = Dataset()
    dataset.add_image("blocks", 0, None)
    with pytest.raises(ValueError, match="Dataset is not prepared"):
        DataGenerator(dataset, TinyConfig())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"augmentation": "flip"}])
def test_invalid_arguments_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        DataGenerator(Blocks(), TinyConfig(), **wrong)


def test_no_augmentation_sources():
    dataset = Blocks(counts=(1, 1))
    dataset.add_class("other", 1, "red")
    dataset.add_image("other", 2, None, count=1)
    dataset.prepare()
    config = TinyConfig()
    config.NUM_CLASSES = 4
    plain, moved = (
        DataGenerator(dataset, config, shuffle=False, batch_size=3, seed=0, augmentation=a,
                      no_augmentation_sources=["other"])[0][0]["input_image"]
        for a in (None, jitter)
    )  # fmt: skip
    assert [np.array_equal(plain[i], moved[i]) for i in range(3)] == [False, False, True]


# ---- Workers ---------------------------------------------------------------------------------------------------------
def test_stream_survives_pickling():
    stream = SampleStream(Blocks(), TinyConfig(), True, 7, [jitter])
    other = pickle.loads(pickle.dumps(stream))
    stream.sample(2)
    for a, b in zip(stream.sample(3), other.sample(3)):
        np.testing.assert_array_equal(a, b)
    assert len(pickle.dumps(stream)) < 20_000  # without the anchors


def through_keras(workers, use_multiprocessing=False, epochs=2):
    """The batches that `fit` gets in two epochs."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    generator = DataGenerator(Blocks(), TinyConfig(), augmentation=jitter, seed=4, steps=3, workers=workers,
                              use_multiprocessing=use_multiprocessing)  # fmt: skip
    adapter, batches = PyDatasetAdapter(generator), []
    for _ in range(epochs):
        adapter.on_epoch_begin()
        batches += [batch[0] for batch in adapter._get_iterator()]
        adapter.on_epoch_end()
    return batches


def test_results_do_not_depend_on_the_number_of_threads():
    expected = through_keras(workers=1)
    assert len(expected) == 6
    for a, b in zip(expected, through_keras(workers=4), strict=True):
        assert_same(a, b)


def test_issue_287_worker_processes_give_the_same_batches_and_end(tmp_path):
    """In a separate program that must end by itself, with processes that end with it."""
    script = (
        "import sys; sys.path[:0] = [r'{root}', r'{tests}']\n"
        "from test_data_generator import through_keras, assert_same\n"
        "if __name__ == '__main__':\n"
        "    import tensorflow; tensorflow.ones(3) + 1  # what made forks hang\n"
        "    for a, b in zip(through_keras(1), through_keras(2, True), strict=True):\n"
        "        assert_same(a, b)\n"
        "    print('the same')\n"
    ).format(root=ROOT, tests=ROOT / "tests")
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=180)
    assert done.stdout.strip().endswith("the same"), done.stderr[-3000:]


def test_a_dataset_that_cannot_be_pickled_is_refused_for_processes():
    dataset = Blocks()
    dataset.reader = lambda: None
    with pytest.raises(ValueError, match=r"picklable: .*use_multiprocessing=False"):
        DataGenerator(dataset, TinyConfig(), use_multiprocessing=True)


def test_a_dataset_defined_in_a_notebook_is_refused_for_processes(monkeypatch):
    monkeypatch.setattr(Blocks, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ValueError, match="defined in a notebook"):
        DataGenerator(Blocks(), TinyConfig(), use_multiprocessing=True)


# ---- matterport's generator ------------------------------------------------------------------------------------------
def test_data_generator_yields_lists_in_matterports_order():
    inputs, outputs = next(data_generator(Blocks(), TinyConfig(), batch_size=2))
    (batch,) = DataGenerator(Blocks(), TinyConfig(), batch_size=2, seed=0)[0]
    assert [a.shape for a in inputs] == [a.shape for a in batch.values()] and outputs == []


def test_data_generator_yields_each_image_once_per_epoch_without_end():
    generator = data_generator(Blocks(), TinyConfig(), batch_size=5)
    ids = [next(generator)[0][1][:, 0].astype(int).tolist() for _ in range(3)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in ids)


def test_data_generator_with_rois_and_targets():
    config = TinyConfig()
    config.SEED = 0
    inputs, outputs = next(data_generator(Blocks(), config, random_rois=400, detection_targets=True, batch_size=2))
    assert [a.shape for a in inputs[7:]] == [(2, 400, 4), (2, 16, 4)]
    assert [a.shape for a in outputs] == [(2, 16, 1), (2, 16, 3, 4), (2, 16, 28, 28, 3)]
    assert outputs[0].max() > 0
    assert len(next(data_generator(Blocks(), TinyConfig(), random_rois=40))[0]) == 8
    with pytest.raises(ValueError, match="random_rois > 0"):
        next(data_generator(Blocks(), TinyConfig(), detection_targets=True))


def test_data_generator_with_deprecated_augment():
    inputs, _ = next(data_generator(Blocks(counts=(2,) * 12), TinyConfig(), augment=True, shuffle=False, batch_size=12))
    assert len({tuple(boxes[0]) for boxes in inputs[5]}) > 3  # three heights, flipped or not
