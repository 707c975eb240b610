"""The same class id means the same class everywhere: comparing names, and numbering one dataset like another."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn.data.class_names import check_same_classes, class_list, number_classes
from mrcnn.data.dataset import Dataset


class Pets(Dataset):
    """One 4 x 4 image a class, whose only object is of that class."""

    def __init__(self, *names, source="pets", prepared=True):
        super().__init__()
        for i, name in enumerate(names):
            self.add_class(source, i + 1, name)
            self.add_image(source, i, path=None, height=4, width=4, own_id=i + 1)
        if prepared:
            self.prepare()

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        class_id = self.map_source_class_id(f"{info['source']}.{info['own_id']}")
        return np.ones((4, 4, 1), bool), np.array([class_id], np.int32)

    def names_of_objects(self):
        return [self.class_names[self.load_mask(i)[1][0]] for i in self.image_ids]


# ---- Comparing -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (None, ["dog"]),
        (["BG"], []),
        (["BG", "cat", "dog"], ["cat", "dog"]),
        (["background", "cat", "dog"], ["cat"]),  # the first of them
        (["BG", " cat", "dog "], ["cat ", "dog"]),
        (["BG", "class 1", ""], ["cat", "dog"]),
        (["BG", "cat", "dog"], ["1", "class_2"]),
        (["BG", "object"], ["balloon"]),  # the formats' name for objects without one
    ],
)
def test_matching_or_unknown_class_names_pass(expected, found):
    check_same_classes(expected, Pets(*found), "the validation set")


@pytest.mark.parametrize(
    ("expected", "found", "fault"),
    [
        (["BG", "cat", "dog"], ["dog", "cat"], "Class id 1 is 'dog' in the validation set (Pets), but 'cat'"),
        (["BG", "cat", "dog"], ["cat", "horse"], "Class id 2 is 'horse'"),
        (["BG", "cat"], ["cat", "dog"], "Class id 2 is 'dog' in the validation set (Pets), and no class was"),
        (["BG", "cat"], ["Cat"], "Class id 1 is 'Cat'"),
        (["BG", "1", "2"], ["0", "1"], "Class id 1 is '0'"),  # digits
    ],
)
def test_mismatched_class_ids_are_refused_with_both_lists(expected, found, fault):
    with pytest.raises(ValueError) as caught:
        check_same_classes(expected, Pets(*found), "the validation set")
    message = str(caught.value)
    assert fault in message and "classes=train_dataset" in message
    for names in (expected[1:], found):
        assert ", ".join(f"{i + 1} {name}" for i, name in enumerate(names)) in message


def test_a_dataset_that_is_not_prepared_has_no_class_names():
    with pytest.raises(ValueError, match="isn't prepared"):
        check_same_classes(["BG", "cat"], Pets("cat", prepared=False), "the validation set")


def test_expected_names_without_the_background_are_refused():
    with pytest.raises(ValueError, match=r"background in front: \['BG', 'cat'\]"):
        check_same_classes(["cat"], Pets("cat"), "the validation set")


# ---- Numbering -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prepared", [False, True])
def test_a_dataset_can_take_the_class_ids_of_another(prepared):
    train, val = Pets("cat", "dog", "horse"), Pets("horse", "cat", prepared=prepared)
    number_classes(val, train)
    assert val.class_names == train.class_names and val.names_of_objects() == ["horse", "cat"]
    assert val.source_class_ids["pets"] == [0, 1, 2, 3]  # the missing class counts in the loss, too
    assert val.get_source_class_id(3, "pets") == 1 and val.get_source_class_id(2, "pets") == 3
    check_same_classes(train.class_names, val, "val")
    val.prepare()
    assert val.class_names == train.class_names


def test_classes_of_one_name_in_two_sources_become_one():
    val = Pets("horse", "cat", prepared=False)
    val.add_class("zoo", 7, "horse")
    val.add_image("zoo", 0, path=None, height=4, width=4, own_id=7)
    number_classes(val, ["BG", "cat", "horse"])
    assert val.class_names == ["BG", "cat", "horse"] and val.names_of_objects() == ["horse", "cat", "horse"]
    assert val.source_class_ids == {"": [0], "pets": [0, 1, 2], "zoo": [0, 2]}  # zoo doesn't annotate cats


def test_images_without_classes_are_renumbered_too():
    val = Dataset()
    val.add_image("pets", 0, path=None, height=4, width=4)
    number_classes(val, Pets("cat"))
    assert val.class_names == ["BG", "cat"] and val.source_class_ids["pets"] == [0, 1]


def test_a_class_missing_from_the_other_dataset_is_refused():
    with pytest.raises(ValueError, match=r"class 'bird', which isn't in classes=\['cat'\]"):
        number_classes(Pets("cat", "bird"), ["cat"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [("cat", r"\['cat'\]"), (["BG"], "at least one"), ([], "at least one"), (["a", "b", "a"], "'a' more than once"),
     (Dataset(), "isn't prepared")],
)  # fmt: skip
def test_invalid_class_lists_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        class_list(classes)


def test_a_similar_class_name_is_suggested():
    val = Dataset()
    val.add_class("pets", 1, "Cat")
    with pytest.raises(
        ValueError, match=r"'Cat', which isn't in classes=\['cat'\]. Use one spelling of 'cat' and 'Cat' in both"
    ):
        number_classes(val, ["cat"])
