"""Bugs of matterport's Mask_RCNN that could occur with today's libraries: each has a test.

The numbers, also those in test names (`issue_N`), are issues of github.com/matterport/Mask_RCNN. Tests of whole calls
(`train`, `detect`, loading) are here. `HELD_BY` names the tests of the others, in other files.
"""

from __future__ import annotations

import ast
import concurrent.futures
import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
from kit import Squares, TinyConfig, photo, tiny_config, tiny_model

from mrcnn import model as modellib
from mrcnn import utils
from mrcnn.data.generator import DataGenerator
from mrcnn.model import MaskRCNN
from mrcnn.weights import read_weights
from samples.shapes import EVALUATION, ShapesConfig, shapes_dataset

HERE = Path(__file__).resolve().parent
HELD_BY = {
    # versions
    (
        1775,
        1815,
        2236,
        2586,
        2783,
        3059,
    ): "test_dropin_api::test_the_import_forms_of_scripts_work_in_a_fresh_interpreter",
    (1754, 1759, 2416): "test_dropin_idioms::test_keras_model_keeps_its_tf1_attributes",
    (566, 694, 703, 2252): "test_dropin_idioms::test_keras_model_saves_and_loads_h5",
    (1930, 2304): "test_nn_anchors::test_anchors_add_no_weights",
    (2243,): "test_ops_masks::test_issue_2243_masks_of_any_type_are_minimized",
    # training
    (36, 420, 423, 574, 985): "test_dropin_idioms::test_more_gpus_than_exist_keep_the_batch_size",
    (
        159,
        296,
        355,
        1288,
        1614,
        1997,
    ): "test_nn_losses::test_without_samples_loss_and_gradient_are_zero",
    (2846, 2868, 2933): "test_weights::test_issue_2846_nan_weights_of_a_diverged_training_warn",
    (7,): "test_ops_boxes::test_issue_7_boxes_without_area_have_deltas_zero",
    (2780, 315, 1561): "test_training::test_issue_2780_frozen_batchnorm_does_not_change",
    (972,): "test_nn_losses::test_issue_972_padded_rois_are_not_background",
    (2014,): "test_data_rpn_targets::test_issue_2014_forced_match_takes_its_own_object",
    (362,): "test_weights::test_issue_362_find_last_ignores_other_files",
    (886,): "test_weights::test_issue_886_find_last_counts_epochs_also_after_9999",
    (907,): "test_weights::test_issue_907_other_files_start_at_epoch_0",
    # masks
    (80, 367, 2038): "test_ops_masks::test_issue_80_a_full_mask_stays_full",
    # detection
    (884, 1285, 1795, 1826, 2391): "test_dropin_idioms::test_any_number_of_images_whatever_the_batch_size",
    (1887,): "test_dropin_threads::test_issue_1887_concurrent_detect_calls_do_not_mix",
    (2045,): "test_dropin_threads::test_issue_2045_the_first_detect_may_come_from_a_thread",
    (2690,): "test_dropin_threads::test_issue_2690_a_web_server_answers_requests_in_threads",
    (1178, 1629): "test_ops_images::test_issue_1178_gray_images_are_handled",
    (591, 2121): "test_dropin_idioms::test_every_resize_mode_trains_and_detects",
    (134, 895, 2199): "test_visualize::test_issue_134_figures_are_saved_whole_and_closed",
    (858, 1282): "test_visualize::test_issue_858_colors_are_the_same_in_every_call",
    # metrics
    (532,): "test_evaluation_matching::test_issue_532_no_masks_give_empty_overlaps",
    (960,): "test_evaluation_matching::test_issue_960_empty_masks_have_iou_0_not_nan",
    (252, 551): "test_evaluation_matching::test_issue_252_551_ap_never_exceeds_1",
    (2165, 2178, 2189, 2474, 2513): "test_evaluation_matching::test_issue_2165_recall_counts_each_true_box_once",
    (1476, 2438, 2787): "test_evaluation_matching::test_issue_1476_ap_is_defined_without_ground_truth_or_predictions",
}


@pytest.mark.parametrize("issues", HELD_BY, ids=lambda issues: f"{issues[0]}")
def test_every_other_fault_has_its_test(issues):
    file, name = HELD_BY[issues].split("::")
    tree = ast.parse((HERE / f"{file}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    return tiny_model("inference", tmp_path_factory.mktemp("logs"))


class Some(Squares):
    """Of six images, those in `full` have objects."""

    full = (0, 1, 2, 3, 4, 5)

    def __init__(self):
        super().__init__(6)

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        return (masks, class_ids) if image_id in self.full else (masks[..., :0], class_ids[:0])


def shown(generator, batches):
    """Image ids in the order the generator gives them."""
    return [int(i) for b in range(batches) for i in generator[b][0]["input_image_meta"][:, 0]]


# ---- Training data ----------------------------------------------------------------------------------------------
def test_issue_287_worker_processes_end_and_give_the_same_batches():
    arguments = {"dataset": Squares(4), "config": TinyConfig(), "steps": 2, "seed": 5}
    alone = DataGenerator(**arguments)
    shared = DataGenerator(**arguments, workers=2, use_multiprocessing=True)
    for b in range(2):
        ours, theirs = alone[b][0], (shared if b else shared.repeated())[b][0]
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    processes = [worker.process for worker in shared.processes.workers]
    del shared
    gc.collect()
    assert not any(process.is_alive() for process in processes)  # with the original this was a hang


@pytest.mark.parametrize("workers", [1, 4])
def test_issue_514_no_image_comes_twice_in_an_epoch(workers):
    generator = DataGenerator(Some(), tiny_config(), workers=workers)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        batches = list(pool.map(generator.__getitem__, range(len(generator))))
    ids = [int(i) for batch in batches for i in batch[0]["input_image_meta"][:, 0]]
    assert sorted(ids) == [0, 1, 2, 3, 4, 5]


class OneWithout(Some):
    full = (0, 1, 2, 4, 5)


def test_issue_330_images_without_objects_can_be_negatives():
    generator = DataGenerator(OneWithout(), tiny_config(TRAIN_ON_EMPTY_IMAGES=True), shuffle=False)
    assert shown(generator, 3) == [0, 1, 2, 3, 4, 5]
    batch = generator[1][0]
    assert not batch["input_gt_class_ids"][1].any()
    assert set(np.unique(batch["input_rpn_match"][1])) == {-1, 0} and (batch["input_rpn_match"][1] == -1).sum() == 32


def test_issue_330_by_default_they_are_replaced_with_a_warning():
    generator = DataGenerator(OneWithout(), tiny_config(), shuffle=False)
    with pytest.warns(UserWarning, match=r"image 3 .*TRAIN_ON_EMPTY_IMAGES"):
        ids = shown(generator, 3)
    assert ids == [0, 1, 2, 4, 4, 5] and generator.stream.replaced == 1


class NoneAtAll(Some):
    full = ()


def test_issue_892_a_dataset_without_objects_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="None of the 6 images of NoneAtAll has an object"):
            next(modellib.data_generator(NoneAtAll(), tiny_config()))


class Broken(Some):
    def load_image(self, image_id):
        if image_id == 4:
            raise OSError("the disk said no")
        return super().load_image(image_id)


def test_a_broken_image_is_reported(tmp_path):
    with pytest.warns(UserWarning, match=r"image 4 \(toys\.4.*the disk said no"):
        shown(DataGenerator(Broken(), tiny_config(), shuffle=False), 3)
    with pytest.raises(ValueError, match=r"image 4 \(toys\.4.*the disk said no"):
        shown(DataGenerator(Broken(), tiny_config(MAX_BROKEN_IMAGES=0), shuffle=False), 3)


class OneFlat(Squares):
    """Its second object has no pixel."""

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        masks[..., 1] = False
        return masks, class_ids


@pytest.mark.parametrize("mini", [False, True])
def test_issue_47_empty_masks_are_dropped(mini):
    _, _, class_ids, boxes, masks = modellib.load_image_gt(OneFlat(), tiny_config(), 0, use_mini_mask=mini)
    assert class_ids.tolist() == [1] and len(boxes) == 1 == masks.shape[-1]
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_issue_2379_rotations_move_the_masks_too():
    import imgaug.augmenters as iaa

    config, toys = tiny_config(), Squares()
    plain = modellib.load_image_gt(toys, config, 0)
    turned = modellib.load_image_gt(toys, config, 0, augmentation=iaa.Rot90(1))
    np.testing.assert_array_equal(turned[0], np.rot90(plain[0], -1))
    np.testing.assert_array_equal(turned[4], np.rot90(plain[4], -1))
    np.testing.assert_array_equal(turned[3], utils.extract_bboxes(turned[4]))


# ---- Losses -----------------------------------------------------------------------------------------------------
def test_issue_2138_box_and_mask_losses_become_nonzero(tmp_path):
    from mrcnn.training import compute_losses

    config = {"ADD_GT_TO_PROPOSALS": True}  # an untrained network proposes nothing that fits
    model = tiny_model("training", tmp_path, **config)
    batch = DataGenerator(Squares(2), model.config)[0][0]
    losses = compute_losses(batch, model(batch, training=True), model.config)
    assert {name: float(value) > 0 for name, value in losses.items()} == dict.fromkeys(losses, True)


# ---- Detection --------------------------------------------------------------------------------------------------
def test_issue_31_each_image_of_a_batch_has_its_own_detections(tmp_path):
    """With the trained model: among the random scores of an untrained one the last bits decide what NMS keeps."""
    model = MaskRCNN("inference", ShapesConfig(IMAGES_PER_GPU=2), str(tmp_path), weights="shapes")
    dataset = shapes_dataset(3, EVALUATION)
    photos = [dataset.load_image(i) for i in dataset.image_ids]
    alone = [model.detect([image])[0] for image in photos]
    for together, single in zip(model.detect(photos), alone, strict=True):
        # Scores near 1 may change places by a last bit.
        ours, theirs = (np.lexsort((*found["rois"].T, found["class_ids"])) for found in (together, single))
        np.testing.assert_array_equal(together["class_ids"][ours], single["class_ids"][theirs])
        np.testing.assert_allclose(together["rois"][ours], single["rois"][theirs], atol=1)
        np.testing.assert_allclose(together["scores"][ours], single["scores"][theirs], rtol=1e-4)
    assert not np.array_equal(alone[0]["rois"], alone[1]["rois"])


@pytest.mark.parametrize("shape", [(64, 64), (32, 64), (40, 60), (96, 128)])
def test_issue_801_detect_molded_finds_what_detect_finds(finder, shape):
    """Its boxes are those of the molded image: scaled, and moved by the padding."""
    image = photo(*shape)
    molded, metas, windows = finder.mold_inputs([image])
    inside, outside = finder.detect_molded(molded, metas)[0], finder.detect([image])[0]
    y1, x1, y2, x2 = windows[0]
    scale = np.array([(y2 - y1) / shape[0], (x2 - x1) / shape[1]] * 2)
    expected = outside["rois"] * scale + [y1, x1, y1, x1]  # [n, 4]
    apart = np.abs(inside["rois"][None] - expected[:, None]).max(axis=2)  # [n, boxes inside]
    assert len(expected) and apart.min(axis=1).max() <= 1.5
    assert inside["masks"].shape[:2] == (64, 64) and outside["masks"].shape[:2] == shape


def test_issue_1981_detect_does_not_grow_memory_or_graphs(finder):
    finder.config.IMAGE_RESIZE_MODE, finder.config.IMAGE_MIN_DIM = "pad64", None
    try:
        for height in (64, 128, 192):
            finder.detect([photo(height, 64)])
            assert finder.anchors.shape == (finder.get_anchors((height, 64, 3)).shape)
    finally:
        finder.config.IMAGE_RESIZE_MODE, finder.config.IMAGE_MIN_DIM = "square", 64
    finder.detect([photo()])
    gc.collect()
    before = len(gc.get_objects())
    for seed in range(30):
        finder.detect([photo(seed=seed)])
    gc.collect()
    assert len(gc.get_objects()) - before < 300  # ten an image would be a leak


def test_issue_2177_mode_none_names_the_allowed_sizes(finder):
    finder.config.IMAGE_RESIZE_MODE = "none"
    try:
        with pytest.raises(ValueError, match=r'100 x 64 pixels .*"none"; both sides must be multiples of 64'):
            finder.detect([photo(100, 64)])
    finally:
        finder.config.IMAGE_RESIZE_MODE = "square"


def test_issue_515_windows_are_not_truncated_to_zero(finder):
    """In Python 2 the windows of a photo became 0 and nothing was found."""
    for image in (photo(33, 64), photo(64, 33), photo(7, 64)):
        r = finder.detect([image])[0]
        assert len(r["rois"]) and (r["rois"] <= np.array([*image.shape[:2]] * 2)).all()


def test_anchors_follow_the_image_shape(finder):
    small, large = finder.get_anchors((64, 64, 3)), finder.get_anchors((128, 64, 3))
    assert len(large) == 2 * len(small) == len(finder.anchors)
    finder.get_anchors((64, 64, 3))
    assert len(finder.anchors) == len(small)


def test_anchors_are_not_saved_as_weights(finder, tmp_path):
    finder.save_weights(tmp_path / "x.h5")
    assert "anchors" not in {name for name, arrays in read_weights(tmp_path / "x.h5").items() if len(arrays)}
