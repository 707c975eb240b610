"""Training under the rules of torchvision and detectron2: the losses fall, and their settings are those documented."""

from __future__ import annotations

import numpy as np
import pytest
from fine_tune_golden import fine_tune
from keras import ops
from kit import TWO_IMAGES, full_masks, make_batch, numpy, tiny_config, tiny_model

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.generator import DataGenerator
from mrcnn.data.rpn_targets import build_rpn_targets
from mrcnn.data.training_sample import load_image_gt
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.training import compute_losses
from mrcnn.weights.golden.records import GOLDEN

SMALL = {"RPN_CHANNELS": 16, "MASK_HEAD_CHANNELS": 16, "WEIGHT_DECAY": 0.0}
CASCADE = {"CASCADE_BBOX_STD_DEVS": [[0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]}


@pytest.mark.parametrize(
    ("convention", "parts"), [("torchvision", {}), ("detectron2", CASCADE)], ids=["torchvision", "detectron2 cascade"]
)
def test_training_lowers_the_losses(convention, parts, tmp_path):
    model = tiny_model("training", tmp_path, CONVENTION=convention, **SMALL, **parts)
    model.compile(learning_rate=0.02)
    model.run_eagerly = True  # six steps take less time than building the graph
    batch = make_batch(model.config, TWO_IMAGES)
    first = model.train_on_batch(batch, return_dict=True)
    for _ in range(5):
        model.reset_metrics()
        last = model.train_on_batch(batch, return_dict=True)
    assert np.isfinite(list(last.values())).all() and last["mrcnn_mask_loss"] > 0
    for name in ("loss", "rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss"):
        assert last[name] < 0.5 * first[name], name


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_train_and_fit_fine_tune_the_whole_network_from_its_checkpoint(name, tmp_path):
    """The six recorded networks, ResNet-50 and all, on other classes."""
    trained, fitted = fine_tune(name, str(tmp_path))
    assert np.isfinite([*trained, *fitted]).all()
    assert trained[-1] < trained[0] and fitted[-1] < trained[0]


def test_losses_of_all_heads_of_a_cascade_are_summed():
    config = tiny_config(CONVENTION="detectron2")
    rng = np.random.default_rng(0)
    rois = rng.uniform(0.1, 1, (1, 4, 4)).astype("float32")
    rows = {
        "output_rois": rois, "target_class_ids": np.array([[1, 2, 0, 0]], "int32"),
        "target_bbox": np.zeros((1, 4, 4), "float32"), "mrcnn_class_logits": rng.normal(size=(1, 4, 3)),
        "mrcnn_bbox": rng.normal(size=(1, 4, 3, 4)),
    }  # fmt: skip
    rows = {name: ops.convert_to_tensor(value) for name, value in rows.items()}
    rest = {
        "rpn_class_logits": ops.zeros((1, 5, 2)), "rpn_bbox": ops.zeros((1, 5, 4)),
        "target_mask": ops.zeros((1, 4, 8, 8)), "mrcnn_mask": ops.zeros((1, 1, 8, 8, 3)) + 0.5,
    }  # fmt: skip
    inputs = {
        "input_image_meta": ops.ones((1, config.IMAGE_META_SIZE)), "input_rpn_match": ops.zeros((1, 5, 1), "int32"),
        "input_rpn_bbox": ops.zeros((1, 2, 4)),
    }  # fmt: skip
    one = compute_losses(inputs, rows | rest, config)
    further = {name + suffix: value for suffix in ("_s2", "_s3") for name, value in rows.items()}
    three = compute_losses(inputs, rows | rest | further, config)
    for name, factor in (("mrcnn_class_loss", 3), ("mrcnn_bbox_loss", 3), ("mrcnn_mask_loss", 1)):
        np.testing.assert_allclose(numpy(three[name]), factor * numpy(one[name]), rtol=1e-6)


def test_training_settings_follow_the_convention():
    expected = {
        "torchvision": (2000, 2000, 512, 0.25, True, True, 1 / 9, "samples"),
        "detectron2": (2000, 1000, 512, 0.25, True, True, 0.0, "samples"),
        "matterport": (None, 2000, 200, 0.33, False, False, 1.0, "positives"),
    }
    names = ("PRE_NMS_LIMIT_TRAINING", "POST_NMS_ROIS_TRAINING", "TRAIN_ROIS_PER_IMAGE", "ROI_POSITIVE_RATIO",
             "ADD_GT_TO_PROPOSALS", "FILL_ROIS_WITH_NEGATIVES", "SMOOTH_L1_BETA", "BOX_LOSS_AVERAGE")  # fmt: skip
    for convention, values in expected.items():
        config = Config(CONVENTION=convention)
        assert tuple(getattr(config, name) for name in names) == values


# ---- Images and masks ------------------------------------------------------------------------------------------------
class OddSizes(Dataset):
    """Images whose sides the conventions round differently; the object is the left half of each."""

    SIZES = ((161, 200), (97, 281), (60, 50))

    def __init__(self):
        super().__init__()
        self.add_class("toys", 1, "half")
        for i in range(len(self.SIZES)):
            self.add_image("toys", i, path=None)
        self.prepare()

    def load_image(self, image_id):
        image = np.full((*self.SIZES[image_id], 3), 20, np.uint8)
        image[:, : image.shape[1] // 2] = 220
        return image

    def load_mask(self, image_id):
        height, width = self.SIZES[image_id]
        return full_masks([[0, 0, height, width // 2]], (height, width)), np.array([1], np.int32)


def odd_config(convention, **changes):
    return tiny_config(
        CONVENTION=convention, NUM_CLASSES=2, IMAGE_RESIZE_MODE="pad32", IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=106, **changes
    )


@pytest.mark.parametrize(("convention", "height"), [("torchvision", 63), ("detectron2", 64)])
@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_masks_and_boxes_end_at_the_rounded_window(convention, height, mini, augment):
    """161 x 200 at 64: torchvision rounds down to 63 rows."""
    flip = (lambda image, masks: (image[:, ::-1], masks[:, ::-1])) if augment else None
    config = odd_config(convention)
    image, meta, _, boxes, masks = load_image_gt(OddSizes(), config, 0, augmentation=flip, use_mini_mask=mini)
    window = meta[7:11].astype(int)
    assert image.shape[:2] == (64, 96) and window[2] == height and window[:2].tolist() == [0, 0]
    assert boxes[0, [0, 2]].tolist() == [0, height] and abs(boxes[0, 3] - boxes[0, 1] - window[3] / 2) <= 1
    assert boxes[0, 3] == window[3] if augment else boxes[0, 1] == 0  # flipped inside of the window
    if not mini:
        assert masks.shape == (64, 96, 1)
        inside = image[..., 0][masks[..., 0]]
        assert np.median(inside) > 200 and not image[height:].any() and not image[:, window[3] :].any()


@pytest.mark.parametrize("mini", [False, True])
def test_images_of_different_sizes_in_a_batch_are_padded_with_the_mean(mini):
    """Anchors are those of the padded shape, and the padding is 0 after the mean is subtracted."""
    config = odd_config("torchvision", IMAGES_PER_GPU=3, USE_MINI_MASK=mini)
    dataset = OddSizes()
    (batch,) = DataGenerator(dataset, config, shuffle=False, seed=0)[0]
    (again,) = DataGenerator(dataset, config, shuffle=False, seed=0)[0]
    shape = batch["input_image"].shape[1:3]
    assert shape == (96, 128)
    anchors = anchors_of_image(shape, **config.anchor_settings())
    for i, meta in enumerate(batch["input_image_meta"]):
        y2, x2 = meta[9:11].astype(int)
        assert meta[4:7].tolist() == [*shape, 3]
        image = batch["input_image"][i]
        assert not image[y2:].any() and not image[:, x2:].any() and image[:y2, :x2].all()
        if not mini:
            assert batch["input_gt_masks"][i, :y2, : x2 // 2 - 1, 0].all()
            assert not batch["input_gt_masks"][i, :, x2 // 2 + 1 :, 0].any()
        positive = np.flatnonzero(batch["input_rpn_match"][i, :, 0] == 1)
        expected, _ = build_rpn_targets(None, anchors, [1], batch["input_gt_boxes"][i, :1], config)
        assert set(positive) <= set(np.flatnonzero(expected == 1)) and len(positive)
    for name, values in batch.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
