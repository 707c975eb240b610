"""COCO files as CVAT, VIA, Roboflow and labelme2coco write them: read as meant, with one warning, or refused."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
from formats_kit import H, W, photo

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.broken import MissingPhoto
from mrcnn.data.formats.coco import CocoDataset

POLYGON = [[3, 2, 9, 2, 9, 8, 3, 8]]
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
RUNS = {"size": [H, W], "counts": [H * 3, 5, H * W - H * 3 - 5]}


def annotation(segmentation=POLYGON, image_id=1, category_id=7, **more):
    return {"id": 5, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


def write(folder, *annotations, names=("a.png",), categories=CATEGORIES):
    images = [{"id": i + 1, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "x.json").write_text(json.dumps(content))
    return folder / "x.json"


@pytest.fixture
def folder(tmp_path):
    photo(tmp_path / "a.png")
    return tmp_path


def load_quietly(path, **kwargs):
    """Opens a file and raises an error for any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_dataset(path, **kwargs)


def area(dataset, image_id=0):
    return dataset.load_mask(image_id)[0].sum(axis=(0, 1)).tolist()


# ---- Boxes and empty instances ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("nothing", [[], [[]], None, "no key", [[2, 3, 12.4, 8.6]]])
def test_a_box_without_a_segmentation_is_its_mask_with_one_warning(folder, nothing):
    boxes = [annotation(nothing, bbox=[2, 3, 10.4, 5.6]), annotation(nothing, category_id=3, bbox=[0, 0, W, H])]
    for box in boxes if nothing == "no key" else ():
        del box["segmentation"]
    with pytest.warns(UserWarning, match="2 of 3 objects have only a box, which is taken as the mask") as caught:
        dataset = open_dataset(write(folder, annotation(), *boxes))
    assert len(caught) == 1 and caught[0].filename == __file__
    masks, class_ids = dataset.load_mask(0)
    assert class_ids.tolist() == [2, 2, 1] and masks[..., 2].all()
    ys, xs = np.nonzero(masks[..., 1])
    assert (ys.min(), xs.min()) == (3, 2) and masks[..., 1].sum() == (ys.max() - 2) * (xs.max() - 1)
    assert abs(ys.max() + 1 - 8.6) <= 1 and abs(xs.max() + 1 - 12.4) <= 1


def test_a_box_that_cvat_rotated_is_drawn_rotated(folder):
    with pytest.warns(UserWarning, match="only a box"):
        dataset = open_dataset(write(folder, annotation([], bbox=[10, 12, 20, 4], attributes={"rotation": 90.0})))
    ys, xs = np.nonzero(dataset.load_mask(0)[0][..., 0])  # around (20, 14): 4 wide and 20 high
    np.testing.assert_allclose([ys.min(), ys.max() + 1, xs.min(), xs.max() + 1], [4, 24, 18, 22], atol=1)


def test_an_empty_instance_is_dropped_but_its_image_kept(folder):
    empty = [annotation([]), annotation(None, bbox=[]), annotation([], bbox=[3, 4, 0, 5])]
    with pytest.warns(UserWarning, match=r"3 annotations have no mask and no box and are left out: annotations\[0\]"):
        dataset = open_dataset(write(folder, *empty, annotation(category_id=3)))
    assert dataset.num_images == 1 and dataset.load_mask(0)[1].tolist() == [1]


@pytest.mark.parametrize("box", [[1, 2, 3], ["1", 2, 3, 4], [1, 2, float("nan"), 4], [1, 2, 10**400, 4], {"x": 1}])
def test_an_invalid_box_is_named(folder, box):
    with pytest.raises(BrokenAnnotation, match=r"annotations\[0\] \(id 5\): segmentation: expected .*or a bbox"):
        open_dataset(write(folder, annotation([], bbox=box)))


# ---- Ids and categories ----------------------------------------------------------------------------------------------
def test_via_exports_with_text_ids_and_repeated_categories(folder):
    flat = {**annotation(POLYGON[0], image_id="1"), "category_id": "7"}
    dataset = load_quietly(write(folder, flat, annotation(category_id=3), categories=CATEGORIES * 3))
    assert dataset.class_names == ["BG", "dog", "cat"] and dataset.load_mask(0)[1].tolist() == [2, 1]
    assert area(dataset)[0] == area(dataset)[1] > 0


def test_names_that_are_numbers(folder):
    assert load_quietly(write(folder, annotation(), categories=[{"id": 7, "name": 7}])).class_names == ["BG", "7"]


def test_annotations_of_unknown_images_can_be_skipped(folder):
    path = write(folder, annotation(), annotation(image_id=9))
    with pytest.raises(BrokenAnnotation, match=r"the id of one of images, got 9\. skip_broken=True leaves"):
        open_dataset(path)
    with pytest.warns(UserWarning, match="1 annotations are left out because their image isn't in the file"):
        assert len(area(open_dataset(path, skip_broken=True))) == 1


def test_roboflows_project_category_is_not_a_class(folder):
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "pets"} for i, name in ((1, "cat"), (2, "pets"))]
    path = write(folder, annotation(category_id=2), categories=categories)
    assert load_quietly(path).class_names == ["BG", "cat", "pets"]
    assert load_quietly(path, classes=["pets"]).load_mask(0)[1].tolist() == [1]
    with pytest.warns(UserWarning, match="differ little, or not at all, are different classes: 'pets' and 'pets'"):
        dataset = open_dataset(write(folder, annotation(category_id=0), categories=categories))
    assert dataset.num_classes == 4  # here it has an object, and is a class


def test_an_ordinary_category_without_objects_stays_a_class(folder):
    categories = [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "dog", "supercategory": "none"}]
    assert load_quietly(write(folder, annotation(category_id=1), categories=categories)).num_classes == 3


def test_the_background_of_labelme2coco_is_not_a_class(folder):
    categories = [{"id": 0, "name": "_background_"}, *CATEGORIES]
    assert load_quietly(write(folder, annotation(), categories=categories)).class_names == ["BG", "dog", "cat"]
    with pytest.warns(UserWarning, match="1 annotations of _background_ or __ignore__ are left out"):
        dataset = open_dataset(write(folder, annotation(), annotation(category_id=0), categories=categories))
    assert dataset.class_names == ["BG", "dog", "cat"] and len(area(dataset)) == 1


def test_similar_class_names_give_a_warning(folder):
    names = ["cat", "Cat ", "traffic light", "traffic_light", "dog"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    with pytest.warns(UserWarning, match="'cat' and 'Cat'; 'traffic light' and 'traffic_light'") as caught:
        dataset = open_dataset(write(folder, annotation(category_id=0), categories=categories))
    assert len(caught) == 1 and dataset.class_names[2] == "Cat"


# ---- Crowds ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("crowd", [1, "1", True])
def test_brush_masks_of_cvat_are_crowds_and_can_be_read_as_objects(folder, crowd):
    marks = {"iscrowd": crowd, "attributes": {"occluded": False}}
    path = write(folder, annotation(RUNS, **marks), annotation(), annotation())
    with pytest.warns(UserWarning, match=r"1 of 3 annotations have iscrowd=1 \(CVAT.*crowds_as_objects=True"):
        assert open_dataset(path).load_mask(0)[1].tolist() == [-2, 2, 2]
    assert load_quietly(path, crowds_as_objects=True).load_mask(0)[1].tolist() == [2, 2, 2]


def test_a_file_of_mostly_crowds_gives_a_warning(folder):
    with pytest.warns(UserWarning, match="2 of 3 annotations have iscrowd=1"):
        open_dataset(write(folder, annotation(RUNS, iscrowd=1), annotation(RUNS, iscrowd=1), annotation()))
    load_quietly(write(folder, annotation(RUNS, iscrowd=1), annotation(iscrowd="0")))


# ---- Image files -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["sub\\a.png", "C:\\Users\\me\\set\\sub\\a.png", "/home/me/set/sub/a.png", "sub/A.PNG", "s%75b/a.png"]
)
def test_absolute_paths_from_another_machine_are_found(tmp_path, name):
    photo(tmp_path / "images" / "sub" / "a.png")
    dataset = load_quietly(write(tmp_path, annotation(), names=[name]))
    assert dataset.load_image(0).shape == (H, W, 3)


def test_upper_case_file_names_are_found(tmp_path):
    photo(tmp_path / "A.PNG")
    assert load_quietly(write(tmp_path, annotation())).image_info[0]["path"] == str(tmp_path / "A.PNG")


def test_two_names_for_one_file_are_refused(folder):
    path = write(folder, names=["C:\\train\\a.png", "C:\\val\\a.png"])
    with pytest.raises(BrokenAnnotation, match=r"image 2: image file: expected another file for C:\\val\\a\.png"):
        open_dataset(path)


def test_all_missing_images_are_named_when_opening(folder):
    names = ["a.png", *(f"lost{i}.png" for i in range(120))]
    path = write(folder, annotation(), names=names)
    with pytest.raises(MissingPhoto, match=r"120 of 121 images have no image file: lost0\.png, ") as caught:
        open_dataset(path)
    assert all(name in str(caught.value) for name in names[1:])
    assert "skip_broken=True leaves these images out" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and len(again.others) == 119
    with pytest.warns(UserWarning, match="120 images are left out") as warned:
        assert open_dataset(path, skip_broken=True).num_images == 1
    assert warned[0].filename == __file__


def test_skipping_broken_images_never_gives_an_empty_dataset(folder):
    path = write(folder, annotation([[1, 2, 3]]))
    with pytest.raises(BrokenAnnotation, match=r"got \[1, 2, 3\]\.$"):
        open_dataset(path)  # skip_broken would not help
    with pytest.raises(BrokenAnnotation, match="All images are broken, so skip_broken=True would leave none"):
        open_dataset(path, skip_broken=True)


def test_a_file_can_be_read_without_its_images(tmp_path):
    dataset = CocoDataset()
    dataset.load_coco_format(write(tmp_path, annotation()), check_images=False)
    dataset.prepare()
    assert area(dataset)[0] > 0


def test_a_progress_bar_is_shown_above_1000_images(folder, capsys, monkeypatch):
    from mrcnn.data.formats import parsing

    monkeypatch.setattr(parsing, "PROGRESS_AFTER", 0)
    parsing.parse_all(range(1000), str, False)
    assert capsys.readouterr().err == ""
    assert parsing.parse_all(range(1001), str, False) == [str(i) for i in range(1001)]  # in the order of the entries
    assert "1001/1001" in capsys.readouterr().err


def test_warnings_from_threads_point_to_the_users_line(tmp_path):
    names = [f"{i}.jpg" for i in range(200)]  # more than one thread
    for name in names:
        photo(tmp_path / name, height=W, orientation=3)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": [], "categories": CATEGORIES}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="EXIF orientation") as caught:
        assert open_dataset(tmp_path / "x.json").num_images == 200
    assert [warning.filename for warning in caught] == [__file__]


def test_only_the_first_of_many_warnings_are_issued():
    from mrcnn.data.formats import parsing
    from mrcnn.data.user_warnings import warn

    with pytest.warns(UserWarning) as caught:
        parsing.parse_all(range(300), lambda i: warn(f"number {i // 10}"), False)
    assert [str(warning.message) for warning in caught][-2:] == [
        "number 4",
        "25 more warnings of this file are not shown.",
    ]
