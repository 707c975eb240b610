"""matterport's `Dataset`: registering, numbering, looking up, and reading image files."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mrcnn.data.dataset import Dataset


def make(class_map=None):
    dataset = Dataset()
    dataset.add_class("coco", 1, "person")
    dataset.add_class("coco", 44, "balloon, toy")
    dataset.add_class("via", 1, "balloon")
    dataset.add_image("coco", "a", None, height=3, width=5, note="kept")
    dataset.add_image("via", 7, "b.jpg")
    dataset.prepare(class_map)
    return dataset


# ---- Empty datasets --------------------------------------------------------------------------------------------------
def test_an_empty_dataset_has_only_the_background():
    dataset = Dataset()
    assert len(dataset.image_ids) == 0
    dataset.prepare()
    assert (dataset.num_images, dataset.num_classes, dataset.class_names) == (0, 1, ["BG"])
    assert dataset.source_class_ids == {"": [0]}


def test_base_load_mask_returns_no_objects():
    masks, class_ids = make().load_mask(0)
    assert masks.shape == (3, 5, 0) and masks.dtype == bool
    assert class_ids.shape == (0,) and class_ids.dtype == np.int32


def test_base_load_mask_reads_a_missing_size_from_the_image():
    class Drawn(Dataset):
        def load_image(self, image_id):
            return np.zeros((4, 6, 3), np.uint8)

        def load_mask(self, image_id):
            return super(self.__class__, self).load_mask(image_id)  # the idiom of 18 of 67 repositories

    dataset = Drawn()
    dataset.add_image("x", 0, None)
    dataset.prepare()
    assert dataset.load_mask(0)[0].shape == (4, 6, 0)


# ---- Numbering -------------------------------------------------------------------------------------------------------
def test_ids_names_and_sources_after_prepare():
    dataset = make()
    assert dataset.image_ids.tolist() == [0, 1] and dataset.class_ids.tolist() == [0, 1, 2, 3]
    assert dataset.class_names == ["BG", "person", "balloon", "balloon"]  # names end at the first comma
    assert dataset.sources == ["", "coco", "via"]
    assert dataset.source_class_ids == {"": [0], "coco": [0, 1, 2], "via": [0, 3]}
    assert dataset.image_from_source_map == {"coco.a": 0, "via.7": 1}
    assert dataset.image_info[0]["note"] == "kept"
    assert dataset.source_image_link(1) == "b.jpg" and dataset.image_reference(1) == ""
    assert dataset.map_source_class_id("coco.44") == 2 and dataset.get_source_class_id(2, "coco") == 44


def test_failed_lookups_list_the_registered_entries():
    with pytest.raises(KeyError, match=r"coco\.45.*coco\.44"):
        make().map_source_class_id("coco.45")
    with pytest.raises(ValueError, match="'coco', not of 'via'"):
        make().get_source_class_id(2, "via")


def test_class_map_joins_classes_of_two_sources():
    dataset = make({"coco.44": "balloon", "via.1": "balloon"})
    assert dataset.class_names == ["BG", "person", "balloon"]
    assert dataset.map_source_class_id("coco.44") == dataset.map_source_class_id("via.1") == 2
    assert dataset.source_class_ids == {"": [0], "coco": [0, 1, 2], "via": [0, 2]}
    assert dataset.get_source_class_id(2, "coco") == 44 and dataset.get_source_class_id(2, "via") == 1
    dataset.prepare({"coco.44": "balloon", "via.1": "balloon"})  # again: nothing changes
    assert dataset.class_names == ["BG", "person", "balloon"]
    dataset.prepare()
    assert dataset.source_class_ids["via"] == [0, 2]


def test_class_map_with_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match=r"coco\.45.*registered are"):
        make({"coco.45": "x"})


def test_the_constructor_accepts_what_scripts_pass():
    class Odd(Dataset):
        def __init__(self):
            super().__init__(self)  # seen in a public script

    Odd().prepare()
    joined = Dataset(class_map={"a.1": "x", "b.1": "x"})
    joined.add_class("a", 1, "ax")
    joined.add_class("b", 1, "bx")
    joined.prepare()
    assert joined.class_names == ["BG", "x"]


def test_registering_a_class_twice_keeps_one_and_warns_if_names_differ():
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.add_class("coco", 1, "person")
        dataset.add_class("coco", 1, "person")
    with pytest.warns(UserWarning, match=r"coco\.1 is already 'person'.*'car'"):
        dataset.add_class("coco", 1, "car")
    assert len(dataset.class_info) == 2


def test_duplicate_images_are_named():
    dataset = make()
    dataset.add_image("via", 7, "c.jpg")
    with pytest.warns(UserWarning, match=r"1 images.*via\.7"):
        dataset.prepare()
    assert dataset.num_images == 3


def test_a_dot_in_the_source_is_refused():
    with pytest.raises(ValueError, match=r"my\.set"):
        Dataset().add_class("my.set", 1, "x")


# ---- Image files -----------------------------------------------------------------------------------------------------
def test_an_image_without_a_path_is_named():
    with pytest.raises(ValueError, match="Image 0 of Dataset has no path"):
        make().load_image(0)
