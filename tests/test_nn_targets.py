"""DetectionTargetLayer: which RoIs are sampled, and their targets. Empty cases come first.

Most tests look at T = 8 RoIs, P = int(8 * 0.5) = 4 of them positive.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kit import TWO_IMAGES, gradients, make_batch, numpy, tiny_config, tiny_model

from mrcnn.model import detection_targets_graph
from mrcnn.nn.cascade_targets import CascadeTargetLayer, ScaleGradient
from mrcnn.nn.targets import DetectionTargetLayer, NormBoxes, PositiveRows
from mrcnn.ops.boxes import box_refinement

P = [0, 0, 0, 0]
G = [0.25, 0.25, 0.75, 0.75]  # a true box of class 1
NEAR = [0.25, 0.25, 0.75, 0.625]  # IoU 0.75 with G
HALF = [0.25, 0.25, 0.75, 0.5]  # IoU 0.5, exactly: just positive
LESS = [0.25, 0.25, 0.75, 0.49]  # IoU 0.48: just negative
FAR = [0.8, 0.8, 0.95, 0.95]  # no overlap
NAN = float("nan")


def sample(proposals, class_ids=(1,), boxes=(G,), masks=None, rois_per_image=8, positive_ratio=0.5, **settings):
    """One image: rois [T, 4], class_ids [T], deltas [T, 4], masks [T, 2, 2]."""
    found = sample_batch([proposals], [class_ids], [boxes], masks, rois_per_image=rois_per_image,
                         positive_ratio=positive_ratio, **settings)  # fmt: skip
    return [x[0] for x in found]


def sample_batch(proposals, class_ids, boxes, masks=None, rois_per_image=8, positive_ratio=0.5, **settings):
    proposals, boxes = np.array(proposals, "float32"), np.array(boxes, "float32")
    class_ids = np.array(class_ids, "int32")
    if masks is None:
        masks = np.ones((len(class_ids), 4, 4, class_ids.shape[1]), bool)
    settings = {"mask_shape": (2, 2), "seed": 0, **settings}
    layer = DetectionTargetLayer(rois_per_image=rois_per_image, positive_ratio=positive_ratio, **settings)
    return [numpy(x) for x in layer([proposals, class_ids, boxes, masks])]


def rows_equal(rows, expected):
    """The same rows, in any order."""
    rows = sorted(map(tuple, np.asarray(rows, float).round(5)))
    return rows == sorted(map(tuple, np.asarray(expected, float).round(5)))


# ---- Empty inputs ----------------------------------------------------------------------------------------------------
def test_without_objects_all_proposals_are_negatives():
    rois, class_ids, deltas, masks = sample([FAR, G, P], class_ids=[0, 0], boxes=[P, P])
    assert rows_equal(rois, [FAR, G] + [P] * 6)
    assert not class_ids.any() and not deltas.any() and not masks.any()
    np.testing.assert_array_equal(rois[2:], np.zeros((6, 4)))  # the padding comes last


def test_without_proposals():
    for found in sample([P, P]):
        assert not found.any()


def test_ground_truth_joins_when_all_proposals_are_padding():
    rois, class_ids, deltas, masks = sample([P, P], add_gt=True)
    assert rows_equal(rois, [G] + [P] * 7)
    assert list(class_ids) == [1] + [0] * 7 and not deltas.any() and masks[0].all() and not masks[1:].any()


def test_fewer_proposals_than_rois():
    rois, class_ids, _, _ = sample([NEAR])
    assert rows_equal(rois, [NEAR] + [P] * 7) and list(class_ids) == [1] + [0] * 7


def test_a_batch_with_one_empty_image():
    rois, class_ids, deltas, masks = sample_batch(
        [[NEAR, FAR], [FAR, NEAR]], [[0, 0], [2, 0]], [[P, P], [G, P]], np.ones((2, 4, 4, 2), bool)
    )
    assert rows_equal(rois[0], [NEAR, FAR] + [P] * 6) and not class_ids[0].any() and not masks[0].any()
    assert rows_equal(rois[1], [NEAR, FAR] + [P] * 6) and list(class_ids[1]) == [2] + [0] * 7
    assert deltas[1, 0].any() and masks[1, 0].all()


def test_padded_ground_truth_matches_nothing():
    _, class_ids, _, _ = sample([G, FAR], class_ids=[0], boxes=[G])
    assert not class_ids.any()


def test_an_object_without_area_matches_nothing_and_gives_no_nan():
    # One pixel at (20, 20) of a 101 x 101 image: normalized, its corners coincide.
    pixel = [0.2, 0.2, 0.2, 0.2]
    for add_gt in (False, True):
        rois, class_ids, deltas, masks = sample([FAR, pixel], boxes=[pixel], add_gt=add_gt)
        assert not class_ids.any() and np.isfinite(deltas).all() and not masks.any()
        assert np.sum(np.all(np.isclose(rois, pixel), axis=1)) == 1  # as a proposal, but not joined as a background


def test_a_nan_proposal_is_never_sampled():
    rois, class_ids, deltas, masks = sample([[NAN] * 4, NEAR, FAR])
    assert rows_equal(rois, [NEAR, FAR] + [P] * 6)
    for found in (class_ids, deltas, masks):
        assert np.isfinite(found).all()


def test_objects_and_rois_at_the_border():
    whole, corner = [0, 0, 1, 1], [0.9, 0.9, 1, 1]
    rois, class_ids, deltas, masks = sample([whole, corner], class_ids=[1, 2], boxes=[whole, corner])
    assert rows_equal(rois, [whole, corner] + [P] * 6)
    assert sorted(class_ids) == [0] * 6 + [1, 2]
    assert not deltas.any() and masks[:2].all()


# ---- Which are drawn -------------------------------------------------------------------------------------------------
def test_proposals_are_positive_from_iou_0_5():
    rois, class_ids, _, _ = sample([LESS, HALF, NEAR, FAR])
    assert rows_equal(rois[class_ids == 1], [HALF, NEAR])
    assert rows_equal(rois[2:4], [LESS, FAR])


def crowd_case(proposals, **settings):
    """G is a crowd; an object of class 2 lies in the other corner."""
    return sample(proposals, class_ids=[-1, 2], boxes=[G, FAR], masks=np.ones((1, 4, 4, 2), bool), **settings)


def test_proposals_on_a_crowd_are_ignored():
    alone = [0, 0.8, 0.15, 0.9]
    rois, class_ids, _, _ = crowd_case([NEAR, LESS, FAR, alone], fill_negatives=True)
    assert rows_equal(rois, [FAR, alone] + [P] * 6) and list(class_ids[:2]) == [2, 0]


def test_an_object_inside_a_crowd_is_still_positive():
    rois, class_ids, _, _ = sample(
        [NEAR], class_ids=[-1, 2], boxes=[[0, 0, 1, 1], G], masks=np.ones((1, 4, 4, 2), bool)
    )
    assert list(class_ids) == [2] + [0] * 7 and rows_equal(rois[:1], [NEAR])


def test_a_crowd_is_not_added_to_the_proposals():
    rois, class_ids, _, _ = crowd_case([[0, 0.8, 0.15, 0.9]], add_gt=True)
    assert rows_equal(rois, [FAR, [0, 0.8, 0.15, 0.9]] + [P] * 6) and list(class_ids[:2]) == [2, 0]


MANY_NEAR = [[0.25, 0.25, 0.75, 0.65 + 0.001 * i] for i in range(10)]
MANY_FAR = [[0.8, 0.8, 0.9, 0.9 + 0.001 * i] for i in range(20)]


@pytest.mark.parametrize(
    ("near", "far", "ratio", "fill", "positives", "negatives", "why"),
    [
        (10, 20, 0.5, False, 4, 4, "at most half are positive"),
        (1, 20, 0.5, False, 1, 1, "the share is held: as many negatives"),
        (1, 20, 0.5, True, 1, 7, "negatives fill up"),
        (1, 20, 0.25, False, 1, 3, "one of four"),
        (10, 20, 0.25, False, 2, 6, "two of eight"),
        (10, 2, 0.5, False, 4, 2, "no more negatives than there are"),
        (10, 0, 0.5, False, 4, 0, "positives alone"),
        (0, 20, 0.5, False, 0, 8, "negatives alone, unlike matterport, which then drew none"),
        (0, 3, 0.5, True, 0, 3, "few negatives alone"),
        (10, 20, 0.01, False, 1, 7, "one positive at least"),
        (10, 20, 1.0, False, 8, 0, "positives only"),
    ],
)
def test_the_number_of_positives_and_negatives(near, far, ratio, fill, positives, negatives, why):
    proposals = MANY_FAR[:far] + MANY_NEAR[:near]
    rois, class_ids, deltas, masks = sample(proposals, positive_ratio=ratio, fill_negatives=fill)
    assert list(class_ids) == [1] * positives + [0] * (8 - positives), why
    drawn = np.any(rois != 0, axis=1)
    assert list(drawn) == [True] * (positives + negatives) + [False] * (8 - positives - negatives), why
    assert len(np.unique(rois[drawn], axis=0)) == positives + negatives  # none twice
    assert masks[:positives].all() and not masks[positives:].any() and not deltas[positives:].any()


def test_sampling_is_random_and_seeded():
    rois = [sample(MANY_NEAR + MANY_FAR, seed=seed)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(rois[0], rois[1])
    assert not np.array_equal(rois[0], rois[2])
    layer = DetectionTargetLayer(rois_per_image=8, positive_ratio=0.5, mask_shape=(2, 2), seed=0)
    inputs = [np.array([MANY_NEAR + MANY_FAR], "float32"), np.array([[1]]), np.array([[G]], "float32"),
              np.ones((1, 4, 4, 1), bool)]  # fmt: skip
    first, second = (numpy(layer(inputs)[0]) for _ in range(2))
    assert not np.array_equal(first, second)  # another draw at every step


def test_every_proposal_can_be_sampled():
    images = 40  # of 4 out of 20 in each; one of them is never drawn with a chance of 20 * 0.8 ** 40 = 0.3 %
    rois, _, _, _ = sample_batch(
        [MANY_NEAR + MANY_FAR] * images, [[1]] * images, [[G]] * images, np.ones((images, 4, 4, 1), bool)
    )
    assert len(np.unique(rois.reshape(-1, 4), axis=0)) == 30


# ---- What each becomes -----------------------------------------------------------------------------------------------
def test_each_roi_belongs_to_the_object_it_overlaps_most():
    other = [0.25, 0.5, 0.75, 1.0]  # overlaps G
    rois, class_ids, deltas, _ = sample(
        [NEAR, [0.25, 0.6, 0.75, 1.0]], class_ids=[1, 2], boxes=[G, other], masks=np.ones((1, 4, 4, 2), bool)
    )
    for roi, class_id, delta in zip(rois[:2], class_ids[:2], deltas[:2]):
        own = G if np.allclose(roi, NEAR) else other
        assert class_id == (1 if own is G else 2)
        expected = box_refinement(roi[None], np.array([own]))[0] / [0.1, 0.1, 0.2, 0.2]
        np.testing.assert_allclose(delta, expected, atol=1e-4)


def test_hand_computed_deltas():
    # NEAR is 0.375 wide, G 0.5, both 0.5 high: the center moves by 0.0625, a sixth of the width.
    _, _, deltas, _ = sample([NEAR], bbox_std_dev=(1, 0.5, 1, 2))
    np.testing.assert_allclose(deltas[0], [0, 1 / 6 / 0.5, 0, np.log(4 / 3) / 2], atol=1e-5)


def left_half():
    """A 4 x 4 mask, its left two columns set: [1, 4, 4, 1]."""
    mask = np.zeros((1, 4, 4, 1), bool)
    mask[:, :, :2] = True
    return mask


def test_a_mini_mask_is_cropped_at_the_roi():
    # The mask fills G. A RoI on G's left half lies all inside, one on its right half all outside.
    # Samples go from corner to corner, columns 0..3 over G. The left half takes columns 0, 0.75 and 1.5, where there is
    # one half, which rounds to 0; the right half takes 1.5, 2.25 and 3.
    left, right = [0.25, 0.25, 0.75, 0.5], [0.25, 0.5, 0.75, 0.75]
    for roi, expected in ((G, [1, 0, 0]), (left, [1, 1, 0]), (right, [0, 0, 0])):
        _, class_ids, _, masks = sample([roi], masks=left_half(), mask_shape=(3, 3))
        assert class_ids[0] == 1
        np.testing.assert_array_equal(masks[0], [expected] * 3)


def test_a_mini_mask_is_empty_outside_its_box():
    # The object is the image's left half, the RoI all of it, of IoU 0.5: its right column of samples lies outside.
    _, class_ids, _, masks = sample([[0, 0, 1, 1]], boxes=[[0, 0, 1, 0.5]], masks=np.ones((1, 4, 4, 1), bool))
    assert class_ids[0] == 1
    np.testing.assert_array_equal(masks[0], [[1, 0], [1, 0]])


def test_a_full_mask_is_cropped_at_the_roi():
    masks = np.zeros((1, 11, 11, 1), bool)
    masks[0, 2:9, 2:6] = True  # of 0..10; the RoI goes from 2 to 8
    box = [0.2, 0.2, 0.8, 0.8]
    _, _, _, found = sample([box], boxes=[box], masks=masks, mini_mask=False, mask_shape=(3, 3))  # at 2, 5 and 8
    np.testing.assert_array_equal(found[0], [[1, 1, 0]] * 3)


def test_masks_come_from_the_matching_object():
    masks = np.zeros((1, 4, 4, 2), bool)
    masks[..., 1] = True
    for box, filled in ((G, False), (FAR, True)):
        _, _, _, found = sample([box], class_ids=[1, 2], boxes=[G, FAR], masks=masks)
        assert found[0].all() == found[0].any() == filled


def test_masks_may_be_bool_int_or_float():
    for dtype in (bool, "uint8", "int32", "float32"):
        _, _, _, masks = sample([G], masks=left_half().astype(dtype))
        np.testing.assert_array_equal(masks[0], [[1, 0], [1, 0]])


def test_aligned_masks_are_sampled_at_cell_centers():
    # The object is pixels 2..5 (both axes) of an 11 x 11 image, its mask its left half: columns 2 and 3. Four cells
    # over it have the size of pixels, and their centers are the pixels'.
    box = (np.array([2, 2, 6, 6]) - [0, 0, 1, 1]) / 10
    full = np.zeros((1, 11, 11, 1), bool)
    full[:, 2:6, 2:4] = True
    image = np.zeros((1, 11, 11, 3), "float32")
    for mini, masks in ((True, left_half()), (False, full)):
        layer = DetectionTargetLayer(
            rois_per_image=2, positive_ratio=0.5, mask_shape=(4, 4), mini_mask=mini, aligned=True
        )
        boxes = np.array([[box]], "float32")
        found = numpy(layer([boxes, np.array([[1]]), boxes, masks, image])[3])
        np.testing.assert_array_equal(found[0, 0], [[1, 1, 0, 0]] * 4)
        assert not found[0, 1].any()


def test_aligned_masks_of_boxes_normalized_by_the_size_of_the_image():
    # The same object and cells, with boxes divided by 11: `box_offset` 0.
    box = np.array([2, 2, 6, 6]) / 11
    full = np.zeros((1, 11, 11, 1), bool)
    full[:, 2:6, 2:4] = True
    for mini, masks in ((True, left_half()), (False, full)):
        layer = DetectionTargetLayer(
            rois_per_image=2, positive_ratio=0.5, mask_shape=(4, 4), mini_mask=mini, aligned=True, box_offset=0
        )
        boxes = np.array([[box]], "float32")
        found = numpy(layer([boxes, np.array([[1]]), boxes, masks, np.zeros((1, 11, 11, 3), "float32")])[3])
        np.testing.assert_array_equal(found[0, 0], [[1, 1, 0, 0]] * 4)


@pytest.mark.parametrize(("positive_iou", "expected"), [(0.5, [1, 1]), (0.6, [1, 0]), (0.8, [0, 0])])
def test_positive_iou(positive_iou, expected):
    _, class_ids, _, _ = sample([NEAR, HALF], positive_iou=positive_iou)
    assert sorted(class_ids[:2], reverse=True) == expected


# ---- Cascade ---------------------------------------------------------------------------------------------------------
def test_cascade_targets_are_rematched_without_ignored_boxes():
    line, crowd = [0.5, 0.5, 0.5, 0.7], [0.8, 0.8, 0.95, 0.95]
    rois = np.array([[NEAR, HALF, P, line, crowd, FAR]], "float32")
    boxes = np.array([[G, crowd, P]], "float32")
    layer = CascadeTargetLayer(0.6, (1, 0.5, 1, 2))
    rois, class_ids, deltas = (numpy(x) for x in layer([rois, np.array([[2, -1, 0]]), boxes]))
    np.testing.assert_allclose(rois[0], [NEAR, HALF, P, P, P, P])
    assert class_ids[0].tolist() == [2, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(deltas[0, 0], [0, 1 / 6 / 0.5, 0, np.log(4 / 3) / 2], atol=1e-5)
    assert not deltas[0, 1:].any()
    assert CascadeTargetLayer.from_config(layer.get_config()).get_config() == layer.get_config()


def test_scale_gradient_changes_the_gradient_only():
    x, layer = np.array([3.0, -2.0], "float32"), ScaleGradient(0.25)
    np.testing.assert_array_equal(numpy(layer(x)), x)
    (gradient,) = gradients(lambda x: ops.sum(layer(x) ** 2), x)
    np.testing.assert_allclose(gradient, 0.25 * 2 * x)


# ---- As a layer ------------------------------------------------------------------------------------------------------
def test_targets_pass_gradients_only_as_configured():
    layer = DetectionTargetLayer(rois_per_image=4, positive_ratio=0.5, mask_shape=(2, 2), seed=0)
    class_ids, boxes = ops.convert_to_tensor([[1]]), ops.convert_to_tensor([[G]])
    masks = ops.convert_to_tensor(left_half())
    proposals = np.array([[NEAR, FAR, P]], "float32")
    # NEAR has height 0.5 and width 0.375, and the height and the y of its center are right already. The sum of the
    # deltas (true center - center) / side / 0.1 and log(true side / side) / 0.2, differentiated by y1, y2, x1 and x2:
    by_y = [-0.5 / 0.5 / 0.1 + 1 / 0.5 / 0.2, -0.5 / 0.5 / 0.1 - 1 / 0.5 / 0.2]
    dx = (0.5 - 0.4375) / 0.375  # of NEAR's width to the right
    by_x = [-0.5 / 0.375 / 0.1 + (dx / 0.1 + 1 / 0.2) / 0.375, -0.5 / 0.375 / 0.1 - (dx / 0.1 + 1 / 0.2) / 0.375]
    of_deltas = [[by_y[0], by_x[0], by_y[1], by_x[1]], [0] * 4, [0] * 4]
    for i, expected in ((0, [[1] * 4, [1] * 4, [0] * 4]), (2, of_deltas), (3, np.zeros((3, 4)))):

        def total(x, i=i):
            return ops.sum(ops.cast(layer([x, class_ids, boxes, masks])[i], "float32"))

        (gradient,) = gradients(total, proposals)
        np.testing.assert_allclose(gradient[0], expected, rtol=1e-4)


def test_settings_are_read_from_a_config_and_survive_get_config():
    config = tiny_config(
        TRAIN_ROIS_PER_IMAGE=10, ROI_POSITIVE_RATIO=0.3, BBOX_STD_DEV=np.array([1.0, 2, 3, 4]), USE_MINI_MASK=False,
        ADD_GT_TO_PROPOSALS=True, FILL_ROIS_WITH_NEGATIVES=True, SEED=9, ROI_ALIGN="aligned", ROI_POSITIVE_IOU=0.4,
        CONVENTION="torchvision",
    )  # fmt: skip
    layer = DetectionTargetLayer(config, name="proposal_targets")
    again = DetectionTargetLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.rois_per_image, again.positive_ratio, again.max_positives, again.seed) == (10, 0.3, 3, 9)
    assert again.bbox_std_dev == [1, 2, 3, 4] and again.mask_shape == (8, 8) and again.mini_mask is False
    assert again.add_gt and again.fill_negatives and again.aligned
    assert again.positive_iou == 0.4 and again.box_offset == 0


def test_the_target_layer_adds_no_weights():
    layer = DetectionTargetLayer(rois_per_image=4)
    assert layer.weights == []


@pytest.mark.parametrize("settings", [{}, {"USE_MINI_MASK": False}, {"ROI_ALIGN": "aligned"}], ids=str)
def test_matterports_function_for_one_image(settings):
    config = tiny_config(**settings)
    masks = np.ones((12, 12, 1) if config.USE_MINI_MASK else (64, 64, 1), bool)
    found = detection_targets_graph(
        np.array([NEAR, FAR], "float32"), np.array([1], "int32"), np.array([G], "float32"), masks, config
    )
    shapes = [tuple(x.shape) for x in found]
    assert shapes == [(16, 4), (16,), (16, 4), (16, 8, 8)]
    assert list(numpy(found[1])) == [1] + [0] * 15


def test_symbolic_shapes():
    inputs = [keras.Input((None, 4)), keras.Input((None,), dtype="int32"), keras.Input((None, 4)),
              keras.Input((12, 12, None), dtype="bool")]  # fmt: skip
    found = DetectionTargetLayer(tiny_config())(inputs)
    assert [x.shape for x in found] == [(None, 16, 4), (None, 16), (None, 16, 4), (None, 16, 8, 8)]
    assert found[1].dtype == "int32"


# ---- Boxes from outside ----------------------------------------------------------------------------------------------
def test_pixel_boxes_are_normalized_and_padding_stays_padding():
    boxes = np.array([[[10, 0, 21, 51], [0, 0, 101, 51], [0, 0, 0, 0]]], "int32")
    found = NormBoxes()([boxes, np.zeros((1, 101, 51, 3), "float32")])
    np.testing.assert_allclose(numpy(found), [[[0.1, 0, 0.2, 1], [0, 0, 1, 1], P]], atol=1e-6)
    assert NormBoxes.from_config(NormBoxes(name="x").get_config()).name == "x"


# ---- Rows of the mask head -------------------------------------------------------------------------------------------
ROWS = {
    "no positives": ((0, 0), {}, 10),
    "the image with more positives decides": ((3, 11), {}, 20),
    "never more than the maximum": ((25, 25), {}, 25),
    "validation": ((0, 0), {"training": False}, 25),
    "BatchNorm with statistics of the batch": ((0, 0), {"keeps_all": True}, 25),
}


@pytest.mark.parametrize(("positives", "given", "expected"), ROWS.values(), ids=ROWS)
def test_the_mask_head_gets_the_rows_that_can_be_positive(positives, given, expected):
    rois = np.random.default_rng(0).uniform(size=(2, 40, 4)).astype("float32")
    class_ids = (np.arange(40) < np.array(positives)[:, None]).astype("int32")
    layer = PositiveRows(25, keeps_all=given.get("keeps_all", False))
    found = numpy(layer([rois, class_ids], training=given.get("training", True)))
    np.testing.assert_array_equal(found, rois[:, : 25 if keras.backend.backend() == "jax" else expected])
    assert PositiveRows.from_config(layer.get_config()).get_config() == layer.get_config()


def test_a_step_without_the_other_rows_changes_the_weights_equally(tmp_path):
    trained, rows, changes = [], [], []
    for keeps_all in (True, False):
        model = tiny_model("training", tmp_path, TRAIN_ROIS_PER_IMAGE=64, ADD_GT_TO_PROPOSALS=True)
        model.set_trainable(".*", verbose=0)
        model.compile(learning_rate=0.01)
        layer = model.get_layer("positive_rois")
        layer.keeps_all = keeps_all
        batch = make_batch(model.config, TWO_IMAGES)
        rows.append(model(batch, training=True)["mrcnn_mask"].shape[1])
        kernel = model.get_layer("mrcnn_mask_conv1").weights[0]
        before = numpy(kernel).copy()
        model.train_on_batch(batch)
        changes.append(np.abs(numpy(kernel) - before).max())
        trained.append(model.get_weights())
    assert (rows[0] == layer.count and rows[1] < rows[0]) or keras.backend.backend() == "jax"
    assert min(changes) > 1e-5
    for ours, expected in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
