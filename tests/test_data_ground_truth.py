"""Valid results of `load_mask`, and the same error for others in training, summary and evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import TinyConfig

from mrcnn.data.dataset import Dataset, describe_image, image_size
from mrcnn.data.ground_truth import load_masks
from mrcnn.data.summary import summarize
from mrcnn.data.training_sample import load_image_gt
from mrcnn.evaluation.instances import truth_of

ONE = np.ones((40, 50, 1), bool)
CALLERS = {
    "training": lambda dataset: load_image_gt(dataset, TinyConfig(), 0),
    "summary": lambda dataset: summarize(dataset, progress=False),
    "evaluation": lambda dataset: truth_of(dataset, 0),
}


class Returns(Dataset):
    """One image of 40 x 50 pixels, whose load_mask returns what the test says."""

    def __init__(self, loaded, **info):
        super().__init__()
        self.loaded = loaded
        self.add_class("toys", 1, "red")
        self.add_class("toys", 2, "green")
        self.add_image("toys", 7, "photos/7.png", **info)
        self.prepare()

    def load_image(self, image_id):
        return np.full((40, 50, 3), 99, np.uint8)

    def load_mask(self, image_id):
        return self.loaded


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (ONE, "a ndarray"),
        ((ONE, [1, 2]), "masks of shape (40, 50, 1) and 2 class ids"),
        ((ONE[..., 0], [1]), "masks of shape (40, 50) and 1 class ids"),
        ((ONE.astype(str), [1]), "masks of type <U5"),
        ((np.where(ONE, np.nan, 0), [1]), "masks with NaN"),
        ((ONE, [1.5]), "class ids [1.5]"),
        ((ONE, [[1]]), "class ids [[1]]"),
        ((np.repeat(ONE, 2, axis=2), [1, 3]), "class id 3 (object 1)"),
        ((ONE, [0]), "class id 0 (object 0)"),
    ],
)
def test_every_caller_raises_the_same_error(caller, loaded, message):
    assert message_of(caller, loaded).startswith(f"Returns.load_mask returned {message} for image 0 (toys.7, photos/7")


@pytest.mark.parametrize("caller", ["training", "evaluation"])  # the summary reads no images
def test_masks_of_another_size_than_the_image_are_refused(caller):
    message = message_of(caller, (ONE[:, :40], [1]))
    assert "masks of 40 x 40 pixels (height x width)" in message and "expected 40 x 50" in message


def message_of(caller, loaded):
    with pytest.raises(ValueError) as caught:
        CALLERS[caller](Returns(loaded, height=40, width=50))
    return str(caught.value)


@pytest.mark.parametrize("info", [{"height": 40, "width": 50}, {}])
@pytest.mark.parametrize("shape", [(0, 0, 0), (40, 50, 0)])
@pytest.mark.parametrize("size", [None, (40, 50)])
def test_masks_without_objects_have_the_size_of_the_image(info, shape, size):
    dataset = Returns((np.zeros(shape), []), **info)
    masks, class_ids = load_masks(dataset, 0, size)
    assert masks.shape == (40, 50, 0) and masks.dtype == bool
    assert class_ids.shape == (0,) and class_ids.dtype == np.int32
    assert image_size(dataset, 0) == (40, 50)


def test_an_image_without_a_file_is_named_by_its_ids_only():
    dataset = Returns(None)
    dataset.add_image("toys", "x", None)
    assert describe_image(dataset, 1) == "image 1 (toys.x)"
