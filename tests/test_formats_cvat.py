"""CVAT for images 1.1: each shape drawn as by hand, and what has no mask is named."""

from __future__ import annotations

import numpy as np
import pytest
from formats_kit import H, W, photo

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation, rasterize
from mrcnn.data.formats.cvat import CvatDataset


def write(folder, shapes, head="", name="a.png", size=(H, W)):
    photo(folder / "images" / "a.png")
    image = f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">{shapes}</image>'
    path = folder / "annotations.xml"
    path.write_text(f'<?xml version="1.0"?><annotations><version>1.1</version>{head}{image}</annotations>')
    return path


def masks_of(path, **options):
    dataset = open_dataset(path, **options)
    masks, class_ids = dataset.load_mask(0)
    return [masks[..., i] for i in range(masks.shape[-1])], [dataset.class_names[abs(i)] for i in class_ids], class_ids


def test_the_example_matches_its_recorded_values(shared):
    dataset = open_dataset(shared / "cases" / "cvat_images_xml")
    assert dataset.num_images == 2 and dataset.class_names == ["BG", "cat", "dog"]
    areas = [dataset.load_mask(i)[0].sum(axis=(0, 1)).tolist() for i in range(2)]
    assert areas[0] == [775] and areas[1][1] == 11 and len(areas[1]) == 2


def test_hand_computed_masks_of_every_shape(tmp_path):
    shapes = """<polygon label="cat" points="3,2;9,2;9,8;3,8"><attribute name="age">5</attribute></polygon>
    <box label="dog" xtl="1.0" ytl="2.0" xbr="5.0" ybr="4.0"/>
    <ellipse label="cat" cx="20" cy="15" rx="6" ry="3"/>
    <mask label="dog" rle="2, 3, 3, 4" left="10" top="20" width="4" height="3"/>"""
    (polygon, box, ellipse, mask), names, _ = masks_of(write(tmp_path, shapes))
    assert names == ["cat", "dog", "cat", "dog"]
    assert polygon[2:9, 3:10].all() and polygon.sum() == 49
    assert box[2:4, 1:5].all() and box.sum() == 8
    assert np.array_equal(ellipse, rasterize.ellipse(H, W, 15, 20, 3, 6))
    assert mask[20:23, 10:14].astype(int).tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]] and mask.sum() == 7


def test_a_box_rotated_by_90_degrees_swaps_its_sides(tmp_path):
    """A quarter turn around the center swaps width and height, so the pixels are those of the upright box."""
    turned = '<box label="x" xtl="10" ytl="12" xbr="16" ybr="14" rotation="90.0"/>'
    upright = '<box label="x" xtl="12" ytl="10" xbr="14" ybr="16"/>'
    (first, second), *_ = masks_of(write(tmp_path, turned + upright))
    assert np.array_equal(first, second)
    (tilted,), *_ = masks_of(write(tmp_path, turned.replace("90.0", "30.0")))
    # Clockwise on the screen: the right end is lower.
    rows = [np.flatnonzero(tilted[:, x]).mean() for x in np.flatnonzero(tilted.any(axis=0))[[0, -1]]]
    assert rows[0] < rows[1]


def test_shapes_of_a_group_are_one_object(tmp_path):
    def box(left, group, label="cat"):
        return f'<box label="{label}" xtl="{left}" ytl="2" xbr="{left + 2}" ybr="4" group_id="{group}"/>'

    shapes = box(1, 7) + box(10, 0) + box(20, 7) + box(30, 7, "dog") + box(14, 0)
    masks, names, _ = masks_of(write(tmp_path, shapes))
    assert names == ["cat", "cat", "dog", "cat"] and [mask.sum() for mask in masks] == [8, 4, 4, 4]


def test_the_attribute_is_crowd_marks_a_crowd(tmp_path):
    attribute = '<attribute name="is_crowd">true</attribute>'
    shapes = f'<box label="cat" xtl="1" ytl="2" xbr="5" ybr="4">{attribute}</box>'
    assert masks_of(write(tmp_path, shapes))[2].tolist() == [-1]


def test_projects_have_a_folder_for_each_subset(tmp_path):
    """Two subsets may even have images of one name."""
    path = write(tmp_path, "")
    images = "".join(
        f'<image id="{i}" name="a.png" subset="{s}" width="{W - i}" height="{H}"/>' for i, s in enumerate("AB")
    )
    (tmp_path / "images" / "a.png").unlink()
    for i, subset in enumerate("AB"):
        photo(tmp_path / "images" / subset / "a.png", width=W - i)
    path.write_text(f"<annotations>{images}</annotations>")
    dataset = open_dataset(path)
    assert [info["id"] for info in dataset.image_info] == ["A/a.png", "B/a.png"]
    assert [info["width"] for info in dataset.image_info] == [W, W - 1]


def test_shapes_without_a_mask_are_named(tmp_path):
    shapes = '<points label="a" points="1,2"/><polyline label="b" points="1,2;3,4"/><points label="a" points="1,2"/>'
    path = write(tmp_path, shapes + '<tag label="indoor"/><box label="cat" xtl="1" ytl="2" xbr="5" ybr="4"/>')
    with pytest.warns(UserWarning, match=r"no mask are left out: points \(2\), polyline \(1\)"):
        assert masks_of(path)[1] == ["cat"]


def test_labels_without_shapes_keep_their_class_ids(tmp_path):
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("zebra", "cat", "ant"))
    path = write(
        tmp_path,
        '<box label="cat" xtl="1" ytl="2" xbr="5" ybr="4"/>',
        f"<meta><task><labels>{labels}</labels></task></meta>",
    )
    assert open_dataset(path).class_names == ["BG", "zebra", "cat", "ant"]
    assert open_dataset(path, classes=["cat"]).class_names == ["BG", "cat"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon label="a" points="1,2;3,4"/>', "polygon 0: points: expected three or more points"),
        ('<polygon label="a" points="1,2;3,4;nan,5"/>', "polygon 0: points: expected numbers within 10 image sizes"),
        ('<polygon label="a" points="1,2;3,4;1e300,5"/>', "numbers within 10 image sizes"),
        ('<polygon label="" points="1,2;3,4;4,5"/>', "label: expected the class's name"),
        ('<box label="a" xtl="5" ytl="2" xbr="1" ybr="4"/>', "a width and a height above 0"),
        ('<box label="a" xtl="x" ytl="2" xbr="1" ybr="4"/>', "xtl: expected a number, got 'x'"),
        ('<mask label="a" rle="2, 3" left="1" top="2" width="4" height="4"/>', "a sum of 4 x 4 = 16, got 5"),
        ('<mask label="a" rle="2, -3, 17" left="1" top="2" width="4" height="4"/>', "run lengths of 4 x 4"),
        ('<mask label="a" rle="2" left="1" top="2" width="1000000" height="1000000"/>', "within 10 image sizes"),
        ('<blob label="a"/>', "shape: expected one of polygon, box"),
    ],
)
def test_broken_shapes_are_named(tmp_path, shape, message):
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        open_dataset(write(tmp_path, shape))
    assert "annotations.xml: image a.png" in str(caught.value)


def test_broken_files_are_named(tmp_path):
    path = write(tmp_path, "", size=(H, W + 1))
    with pytest.raises(BrokenAnnotation, match=f"width: expected {W}"):
        open_dataset(path)
    path.write_text("<annotations><track/></annotations>")
    with pytest.raises(BrokenAnnotation, match="this is CVAT for video: export as CVAT for images 1.1"):
        CvatDataset().load_cvat(path)
    path.write_text("<annotations><image>")
    with pytest.raises(BrokenAnnotation, match="line 1, column"):
        CvatDataset().load_cvat(path)
    with pytest.raises(FileNotFoundError, match=r"no such file; expected CVAT's annotations.xml"):
        CvatDataset().load_cvat(tmp_path / "none.xml")
