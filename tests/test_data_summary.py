"""`Dataset.summary`: numbers counted by hand, anchor recall against all anchors, the figure, empty datasets."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from data_kit import Blocks, TinyConfig

from mrcnn.data.dataset import Dataset
from mrcnn.data.training_sample import load_image_gt
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.boxes import compute_overlaps


class Boxes(Dataset):
    """Rectangles (class id, y1, x1, y2, x2) on images of given sizes."""

    def __init__(self, images, names=("a", "b")):
        super().__init__()
        for i, name in enumerate(names):
            self.add_class("toys", i + 1, name)
        for i, (size, boxes) in enumerate(images):
            self.add_image("toys", i, f"{i}.png", size=size, boxes=boxes)
        self.prepare()

    def load_image(self, image_id):
        return np.zeros((*self.image_info[image_id]["size"], 3), np.uint8)

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = np.zeros((*info["size"], len(info["boxes"])), bool)
        for i, (_, y1, x1, y2, x2) in enumerate(info["boxes"]):
            masks[y1:y2, x1:x2, i] = True
        return masks, np.array([box[0] for box in info["boxes"]], np.int32)


IMAGES = [
    ((50, 100), [(1, 0, 0, 20, 40), (1, 5, 5, 25, 10), (-2, 0, 0, 50, 100)]),
    ((50, 100), []),
    ((128, 64), [(1, 10, 10, 10, 10)]),  # an empty mask
]


def test_hand_counted_summary(capsys):
    summary = Boxes(IMAGES).summary(progress=False)
    assert capsys.readouterr().out == f"{summary}\n"
    assert summary.instances_per_class == {"a": 3, "b": 1} and summary.images_per_class == {"a": 2, "b": 1}
    assert summary.objects_per_image.tolist() == [3, 0, 1] and summary.images_without_objects == [1]
    assert summary.crowd.tolist() == [False, False, True, False] and summary.without_pixel == 1
    assert summary.areas.tolist() == [800, 100, 5000, 0] and summary.image_sizes.tolist() == [[50, 100]] * 2 + [
        [128, 64]
    ]
    np.testing.assert_allclose(summary.sides, np.sqrt([800, 100, 5000]))
    np.testing.assert_allclose(summary.aspect_ratios, [2, 0.25, 2])
    assert summary.anchor_iou is None and summary.anchor_recall(0.5) is None and summary.lost_in_resizing is None
    for line in ("3 images, height x width: 50 x 100 (2), 128 x 64 (1)", "1 without objects: 1",
                 "4 objects, including 1 crowd", "per image: 0 to 3, median 1", "empty masks: 1",
                 "2 classes, 2 with objects", "a: 3 objects in 2 images", "pixels of the stored image"):  # fmt: skip
        assert line in str(summary)
    assert repr(summary) == "<DatasetSummary of Boxes (toys): 3 images, 4 objects>"


def test_with_a_config_boxes_are_those_of_training():
    dataset, config = Blocks(), TinyConfig()
    summary = dataset.summary(config, progress=False)
    for place, image_id in enumerate(dataset.image_ids):
        _, _, _, boxes, masks = load_image_gt(dataset, config, image_id, use_mini_mask=True)
        own = summary.image == place
        np.testing.assert_array_equal(summary.molded_boxes[own], boxes)
        assert masks.any(axis=(0, 1)).all() and not summary.mini_empty[own].any()
    assert summary.molded_sizes.tolist() == [[128, 128]] * 5
    assert summary.smaller_than_mini_mask == 0 and summary.lost_in_resizing == 0
    config.MINI_MASK_SHAPE = (40, 40)
    assert dataset.summary(config, progress=False).smaller_than_mini_mask == 9  # the first objects are 20 -> 32 pixels


def test_lost_objects_are_counted(capsys):
    class Dots(Boxes):
        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            masks[1, 1, 0] = masks[999, 999, 0] = True  # 2 of 1000 x 1000 pixels: far smaller than a cell of 56 x 56
            return masks, class_ids

    config = TinyConfig()
    config.IMAGE_MAX_DIM, config.IMAGE_MIN_DIM = 1024, 0
    dataset = Dots([((1000, 1000), [(1, 1, 1, 1, 1), (1, 400, 400, 500, 500)])])
    assert dataset.summary(config, progress=False).mini_empty.tolist() == [True, False]
    assert "objects lost because smaller than a cell: 1" in capsys.readouterr().out
    config.USE_MINI_MASK = False
    summary = dataset.summary(config, progress=False)
    assert summary.mini_empty is None and summary.smaller_than_mini_mask is None and "Mini masks" not in str(summary)
    config.IMAGE_MAX_DIM = 128
    thin = Boxes([((1000, 1000), [(1, 1, 0, 2, 1000), (2, 0, 0, 500, 500)])]).summary(config, progress=False)
    assert thin.lost_in_resizing == 1 and "1 object without a pixel after resizing" in str(thin)
    assert np.isnan(thin.anchor_iou).tolist() == [True, False]


# ---- Anchors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stride", [1, 2])
def test_each_object_is_compared_with_all_anchors_of_its_image(stride):
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.RPN_ANCHOR_STRIDE = "none", stride
    config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS = (8, 20, 50, 90, 200), [0.4, 1, 2.5]
    rng, sizes = np.random.default_rng(0), ((64, 128), (128, 64), (64, 128))
    corners = [np.sort(rng.integers(0, [[h], [w]], (100, 2, 2)), axis=2) for h, w in sizes]  # [(y, x), (low, high)]
    boxes = [np.concatenate([corner[:, :, 0], corner[:, :, 1] + 1], axis=1) for corner in corners]
    dataset = Boxes([(size, [(1, *box) for box in of_image]) for size, of_image in zip(sizes, boxes)])
    expected = [
        compute_overlaps(anchors_of_image(size, **config.anchor_settings()), of_image).max(axis=0)
        for size, of_image in zip(sizes, boxes)
    ]
    found = dataset.summary(config, progress=False).anchor_iou
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-12)


def test_recall_by_hand_leaves_crowds_out():
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.RPN_ANCHOR_RATIOS = "none", [1]
    config.RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)
    image = ((128, 128), [(1, 48, 48, 80, 80), (1, 48, 48, 80, 64), (2, 0, 0, 2, 2), (-1, 0, 0, 128, 128)])
    summary = Boxes([image]).summary(config, progress=False)
    # An anchor of 32 pixels around (64, 64); half of it; a corner that none fits.
    np.testing.assert_allclose(summary.anchor_iou[:2], [1, 0.5])
    assert summary.anchor_iou[2] < 0.1 and np.isnan(summary.anchor_iou[3])
    assert summary.anchor_recall(0.5) == pytest.approx(2 / 3) and summary.anchor_recall(0.7) == pytest.approx(1 / 3)
    assert "recall 0.667 at IoU 0.5, 0.333 at IoU 0.7" in str(summary)


def test_level_shapes_of_a_custom_backbone_are_used():
    config = TinyConfig()
    config.BACKBONE, config.COMPUTE_BACKBONE_SHAPE = (lambda *_: None), (lambda shape: [[1, 1]] * 5)
    config.IMAGE_RESIZE_MODE, config.RPN_ANCHOR_SCALES = "none", (8, 8, 8, 8, 8)
    dataset = Boxes([((128, 128), [(1, 0, 0, 4, 4), (1, 100, 100, 104, 104)])])  # all anchors are at the corner
    assert dataset.summary(config, progress=False).anchor_iou.tolist() == [pytest.approx(16 / 64), 0]


@pytest.mark.parametrize("mode", ["none", "square", "pad64", "crop"])
def test_all_resize_modes(mode):
    config = TinyConfig()
    config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM = mode, 64
    dataset = Boxes([((128, 192), [(1, 20, 20, 120, 180)]), ((64, 128), [(2, 0, 0, 64, 128)])])
    summary = dataset.summary(config, progress=False)
    sizes = {"none": [[128, 192], [64, 128]], "square": [[128, 128]] * 2, "pad64": [[128, 192], [64, 128]],
             "crop": [[64, 64]] * 2}  # fmt: skip
    assert summary.molded_sizes.tolist() == sizes[mode]
    assert (summary.molded_boxes[:, 2:] <= summary.molded_sizes).all() and f'(mode "{mode}")' in str(summary)
    np.testing.assert_array_equal(summary.molded_boxes, dataset.summary(config, progress=False).molded_boxes)


# ---- Figure and numbers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [None, TinyConfig()])
@pytest.mark.parametrize("image_ids", [None, [1], []])
def test_figure_and_numbers_of_any_set(config, image_ids, tmp_path):
    summary = Boxes(IMAGES).summary(config, image_ids, progress=False)
    figure = summary.plot(tmp_path / "made" / "summary.png")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["summary.png"]
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 6 and titles[0] == "Objects by class" and "Boxes (toys)" in figure.get_suptitle()
    assert summary._repr_png_().startswith(b"\x89PNG")
    numbers = json.loads(json.dumps(summary.to_dict()))
    assert numbers["images"] == len(summary.image_ids) and ("anchor_recall" in numbers) == (config is not None)
    if image_ids is None:
        assert numbers["image_sizes"] == [[50, 100, 2], [128, 64, 1]] and numbers["images_without_objects"] == [1]
        assert [text.get_text() for text in figure.axes[0].texts] == [" 1", " 3"]
        assert titles[2] == "Objects per image (1 image without objects)"


def test_unprintable_names_can_be_drawn_and_printed(tmp_path):
    names = [r"$\frac$", "half \ud800 pair\x00", r"a long name with a $\frac$"]
    summary = Boxes([((8, 8), [(1, 1, 1, 5, 5), (2, 0, 0, 4, 4)])], names).summary(progress=False)
    summary.name = r"photos of $\frac$ \ud800"
    figure = summary.plot(tmp_path / "summary.svg")
    ElementTree.parse(tmp_path / "summary.svg")  # fails if a control character reached the file
    assert figure.get_suptitle().startswith(r"photos of $\frac$ ")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert set(labels) == {r"$\frac$", "half \ufffd pair\ufffd", r"a long name with …"}
    table = str(summary).encode().decode()
    assert "half \ufffd pair" in table and r"a long name with a $\frac$" in table


def test_many_classes_and_objects(capsys):
    names = [f"class{i}" for i in range(30)]
    boxes = [(1 + i % 25, 0, 0, 5, 5) for i in range(120)]
    config = TinyConfig()
    config.MAX_GT_INSTANCES = 100
    summary = Boxes([((20, 20), boxes)], names).summary(config, progress=False)
    text = capsys.readouterr().out
    for words in ("30 classes, 25 with objects", "and 5 less frequent classes", "without objects: class25, class26",
                  "1 image with more than MAX_GT_INSTANCES = 100 objects"):  # fmt: skip
        assert words in text
    figure = summary.plot()
    assert figure.axes[0].get_title() == "Objects for the 20 most frequent of 30 classes"
    bars = [bar for bar in figure.axes[2].patches if bar.get_height()]
    assert len(bars) == 1 and bars[0].get_x() < 120 < bars[0].get_x() + bars[0].get_width()


# ---- Input -----------------------------------------------------------------------------------------------------------
def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="Dataset isn't prepared; call its prepare"):
        Dataset().summary()
    with pytest.raises(ValueError, match="image_ids has 7; expected numbers from 0 to 2"):
        Boxes(IMAGES).summary(image_ids=[0, 7])
    with pytest.raises(
        ValueError, match=r"load_mask returned class id 3 \(object 0\) for image 0 \(toys.0, 0.png\).*1..2"
    ):
        Boxes([((9, 9), [(3, 0, 0, 2, 2)])]).summary(progress=False)

    class Wrong(Boxes):
        def load_mask(self, image_id):
            return np.zeros((9, 9, 2)), np.array([1])

    with pytest.raises(ValueError, match=r"masks of shape \(9, 9, 2\) and 1 class ids for image 0"):
        Wrong([((9, 9), [])]).summary(progress=False)


def test_masks_of_any_type_are_counted():
    class Loose(Boxes):
        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            if not len(class_ids):
                return np.empty([0, 0, 0]), np.empty([0])  # as matterport's base class
            return masks.astype(np.uint8) * 255, class_ids.astype(float).tolist()

    strict = Boxes(IMAGES).summary(TinyConfig(), progress=False).to_dict()
    assert Loose(IMAGES).summary(TinyConfig(), progress=False).to_dict() == strict | {"name": "Loose (toys)"}


def test_classes_with_the_same_name_in_two_sources_are_counted_together():
    dataset = Boxes(IMAGES)
    dataset.add_class("other", 1, "a")
    dataset.prepare()
    assert dataset.summary(progress=False).instances_per_class == {"a": 3, "b": 1}


def test_real_data(shared, capsys):
    from mrcnn.config import Config
    from mrcnn.data import open_dataset

    summary = open_dataset(shared / "data" / "coco_val").summary(Config(), progress=False)
    assert len(summary.class_ids) == 1786 and summary.crowd.sum() == 21 and len(summary.images_without_objects) == 2
    assert 0.8 < summary.anchor_recall(0.5) < 0.9 and "person: 456 objects in 109 images" in capsys.readouterr().out
