"""labelme files: all shapes, groups and holes, embedded and rotated photos; errors name the place in the file."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from formats_kit import Drawn, H, W, masks_of_every_kind, photo, ring
from PIL import Image, ImageOps

from mrcnn.data import open_dataset
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.labelme import LabelmeDataset, save_labelme
from mrcnn.data.formats.labelme_shapes import merge

SQUARE = [[3, 2], [9, 2], [9, 8], [3, 8]]


@pytest.fixture
def folder(tmp_path):
    """With an image of 30 x 40 pixels, a.png."""
    photo(tmp_path / "a.png")
    return tmp_path


def shape(points=SQUARE, label="cat", kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def block(x1, y1, x2, y2, **more):
    return shape([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def content(*shapes, **more):
    file = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
    return {**file, "imageHeight": H, "imageWidth": W, **more}


def write(folder, file, name="a.json"):
    path = folder / name
    path.write_text(file if isinstance(file, str) else json.dumps(file))
    return path


def load(path, **kwargs):
    dataset = LabelmeDataset()
    dataset.load_labelme(path, **kwargs)
    dataset.prepare()
    return dataset


def masks_of(folder, *shapes):
    return load(write(folder, content(*shapes))).load_mask(0)


# ---- Shapes ----------------------------------------------------------------------------------------------------------
def test_a_file_without_shapes_is_an_image_without_objects(folder):
    masks, class_ids = masks_of(folder)
    assert masks.shape == (H, W, 0) and masks.dtype == bool and class_ids.shape == (0,)


def test_a_folder_without_files(folder):
    with pytest.raises(FileNotFoundError, match="has no JSON file"):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"b\.json"):
        load(folder / "b.json")


def test_all_shapes_by_hand(folder):
    small = np.array([[1, 0, 1], [0, 1, 1]], bool)
    masks, class_ids = masks_of(
        folder,
        shape(),
        shape([[9, 8], [3, 2]], kind="rectangle"),
        shape(SQUARE, kind="rectangle"),
        shape([[10, 6], [16, 12], [10, 18], [4, 12]], kind="oriented_rectangle"),
        shape([[10, 12], [10, 17]], kind="circle"),
        shape([[5, 4]], kind="point"),
        shape([[2, 3], [6, 7]], kind="line"),
        shape([[2, 3], [6, 3], [6, 9]], kind="linestrip"),
        shape([[20, 10], [22, 11]], kind="mask", mask=png(small)),
        shape(kind=None),
    )
    assert masks.shape == (H, W, 10) and class_ids.tolist() == [1] * 10 and class_ids.dtype == np.int32
    areas = masks.sum(axis=(0, 1)).tolist()
    assert areas[:4] == [49, 49, 49, 85] and areas[5:] == [1, 5, 11, 4, 49]  # 1 + 3 + ... + 13 + ... + 1 = 85
    assert 66 <= areas[4] <= 81  # 81 pixels with those on the circle itself, which has only corners there
    assert np.argwhere(masks[..., 0]).min(axis=0).tolist() == [2, 3]
    assert np.argwhere(masks[..., 5]).tolist() == [[4, 5]] and masks[3:8, 2:7, 6].trace() == 5
    np.testing.assert_array_equal(masks[10:12, 20:23, 8], small)


def test_masks_reaching_outside_the_image_are_clipped(folder):
    corner = np.ones((4, 6), bool)
    corner[0, 0] = False
    masks, _ = masks_of(
        folder,
        shape([[-2, -1], [3, 2]], kind="mask", mask=png(corner)),
        shape([[W - 2, H - 3], [W + 3, H]], kind="mask", mask=png(corner)),
        shape([[W + 2, H + 3], [W + 7, H + 6]], kind="mask", mask=png(corner)),
    )
    assert masks.shape[-1] == 2  # what lies outside has no pixel and is left out
    assert np.argwhere(masks[..., 0]).max(axis=0).tolist() == [2, 3] and masks[..., 0].sum() == 12
    assert masks[..., 1].sum() == 5 and not masks[H - 3, W - 2, 1]


def test_masks_with_fractional_corners(folder):
    masks, _ = masks_of(folder, shape([[4.4, 5.6], [7.6, 8.4]], kind="mask", mask=png(np.ones((4, 4), bool))))
    assert np.argwhere(masks[..., 0])[[0, -1]].tolist() == [[6, 4], [9, 7]]


# ---- Groups and holes ------------------------------------------------------------------------------------------------
def test_a_group_is_one_object(folder):
    masks, class_ids = masks_of(
        folder,
        block(1, 1, 4, 4, group_id=1),
        block(20, 20, 24, 24, label="dog", group_id=1),  # of another label: another object
        block(10, 1, 13, 4, group_id=1),
        block(1, 10, 4, 13),
        block(1, 20, 4, 23, group_id=2),
    )
    assert class_ids.tolist() == [1, 2, 1, 1]
    assert masks.sum(axis=(0, 1)).tolist() == [32, 25, 16, 16] and masks[2, 2, 0] and masks[2, 11, 0]


def test_an_outline_within_another_is_a_hole(folder):
    outer, hole, island = block(4, 3, 29, 20), block(10, 6, 21, 15), block(13, 9, 17, 11)
    for order in ((outer, hole, island), (island, outer, hole)):
        masks, class_ids = masks_of(folder, *({**one, "group_id": 7} for one in order))
        np.testing.assert_array_equal(masks[..., 0], ring())
        assert class_ids.tolist() == [1]
    masks, class_ids = masks_of(folder, outer, hole)  # not grouped: two objects
    assert masks.sum(axis=(0, 1)).tolist() == [18 * 26, 10 * 12]


def test_outlines_that_overlap_or_are_equal_are_united(folder):
    masks, _ = masks_of(folder, block(2, 2, 11, 11, group_id=1), block(8, 8, 17, 17, group_id=1))
    assert masks.sum() == 100 + 100 - 16
    masks, _ = masks_of(folder, block(2, 2, 11, 11, group_id=1), block(2, 2, 11, 11, group_id=1))
    assert masks.sum() == 100


def test_points_and_lines_never_cut_holes(folder):
    inside = shape([[5, 5]], kind="point", group_id=1), shape([[4, 4], [8, 8]], kind="line", group_id=1)
    masks, _ = masks_of(folder, block(2, 2, 11, 11, group_id=1), *inside)
    assert masks.sum() == 100


def test_one_polygon_with_a_cut_to_the_hole(folder):
    # Once around, in through the cut at x = 20, around the hole, and out by the same way.
    cut, hole = [[20, 3], [20, 6]], [[10, 6], [10, 15], [21, 15], [21, 6]]
    masks, _ = masks_of(folder, shape([[4, 3], *cut, *hole, *cut[::-1], [29, 3], [29, 20], [4, 20]]))
    assert (
        masks[4, 20] and not masks[7:15, 11:21].any() and masks.sum() == 18 * 26 - 8 * 10
    )  # the border is the object's


def test_two_outlines_around_one_hole():
    a, b, hole = np.zeros((3, 10, 10), bool)
    a[1:8, 1:8] = b[2:9, 2:9] = hole[4:6, 4:6] = True
    np.testing.assert_array_equal(merge([a, b, hole], [True] * 3), (a | b) & ~hole)


def test_a_mask_shape_holds_holes(folder):
    inside = ring()[3:21, 4:30]
    masks, _ = masks_of(folder, shape([[4, 3], [29, 20]], kind="mask", mask=png(inside)))
    np.testing.assert_array_equal(masks[..., 0], ring())
    gray = shape([[4, 3], [29, 20]], kind="mask", mask=png(inside.astype(np.uint8) * 255))
    np.testing.assert_array_equal(masks_of(folder, gray)[0][..., 0], ring())


def test_crowds_and_ignored_labels(folder):
    masks, class_ids = masks_of(
        folder, shape(flags={"iscrowd": True}), shape(label="__ignore__"), shape(label="_background_"), shape()
    )
    assert class_ids.tolist() == [-1, 1] and masks.shape[-1] == 2


# ---- Classes ---------------------------------------------------------------------------------------------------------
def test_classes_by_name(folder):
    path = write(folder, content(shape(label="dog"), shape(label="cat"), shape(label="dog")))
    assert load(path).class_names == ["BG", "cat", "dog"] and load(path).load_mask(0)[1].tolist() == [2, 1, 2]
    dataset = load(path, classes=["dog", "owl", "cat"])
    assert dataset.class_names == ["BG", "dog", "owl", "cat"] and dataset.load_mask(0)[1].tolist() == [1, 3, 1]
    with pytest.warns(UserWarning, match=r"aren't of the classes \['dgo', 'cat'\] are left out: 'dog' \(2\)"):
        assert load(path, classes=["dgo", "cat"]).load_mask(0)[1].tolist() == [2]


def test_a_second_folder_keeps_the_classes_of_the_first(folder):
    first = write(folder, content(shape(label="dog")), "1.json")
    second = write(folder, content(shape(label="cat"), shape(label="dog")), "2.json")
    dataset = LabelmeDataset()
    for path in (first, second):
        dataset.load_labelme(path)
    dataset.prepare()
    assert dataset.class_names == ["BG", "dog", "cat"]
    assert [dataset.load_mask(i)[1].tolist() for i in (0, 1)] == [[1], [2, 1]]


# ---- Images ----------------------------------------------------------------------------------------------------------
def test_an_image_embedded_in_the_file_is_read(folder):
    whole = (folder / "a.png").read_bytes()
    data = base64.b64encode(whole).decode()
    path = write(folder, content(shape(), imagePath="gone.png", imageData=data))
    dataset, expected = load(path), np.asarray(Image.open(folder / "a.png"))
    np.testing.assert_array_equal(dataset.load_image(0), expected)
    assert dataset.load_mask(0)[0].shape == (H, W, 1)
    np.testing.assert_array_equal(load(write(folder, content(imagePath=None, imageData=data))).load_image(0), expected)


def test_the_error_for_a_missing_image_gives_advice(folder):
    """The two sentences were not separated by a space."""
    write(folder, content(shape()))
    write(folder, content(shape(), imagePath="b.png"), "b.json")
    with pytest.raises(BrokenAnnotation, match=r"imageData either\. skip_broken=True leaves this image out\."):
        open_dataset(folder)


def test_images_in_another_folder(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    path = write(other, content(shape(), imagePath="C:\\photos\\a.png"))
    assert load(path, images_dir=folder).image_info[0]["path"] == str(folder / "a.png")
    path = write(other, content(shape(), imagePath=f"..\\{folder.name}\\a.png"))
    if (other / ".." / folder.name).exists():
        assert load(path, root=folder).load_image(0).shape == (H, W, 3)
    with pytest.raises(BrokenAnnotation, match=r"imagePath: expected to find .*b/a\.png, got .*no imageData either"):
        load(write(other, content(imagePath="b/a.png")))
    photo(other / "a.jpg")  # the image and the JSON were renamed together
    assert load(write(other, content(imagePath="before.png"))).image_info[0]["path"] == str(other / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_are_read_upright(tmp_path, orientation):
    path = photo(tmp_path / "a.png", orientation=orientation)
    height, width = (W, H) if orientation > 4 else (H, W)
    dataset = load(write(tmp_path, content(shape(), imageHeight=height, imageWidth=width)))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(dataset.load_image(0), np.asarray(ImageOps.exif_transpose(picture)))
    assert dataset.load_mask(0)[0].shape == (height, width, 1)


@pytest.mark.parametrize("place", ["images", "annotations", "json files"])
def test_files_in_a_separate_folder(tmp_path, place):
    photo(tmp_path / "images" / "day 1" / "b.png")
    (tmp_path / place).mkdir(exist_ok=True)
    for name in ("images/day 1/b.png", "D:\\photos\\b.png", "..\\images\\day 1\\b.png", "day%201/b.png"):
        write(tmp_path / place, content(shape(), imagePath=name))
        assert open_dataset(tmp_path / place).load_image(0).shape == (H, W, 3), name


def test_labels_that_are_numbers(folder):
    assert load(write(folder, content(shape(label=7)))).class_names == ["BG", "7"]


# ---- Shapes with too few points, and names of classes ----------------------------------------------------------------
def test_shapes_with_too_few_points_are_left_out(folder):
    shapes = [shape([[1, 2], [3, 4]]), shape([[1, 2]], kind="circle"), shape([[1, 2]], kind="rectangle"), shape([])]
    path = write(folder, content(*shapes, shape(label="dog")))
    with pytest.warns(
        UserWarning, match=r"4 shapes have too few points and are left out: a\.json: shapes\[0\]"
    ) as caught:
        dataset = load(path)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert dataset.class_names == ["BG", "dog"] and dataset.load_mask(0)[1].tolist() == [1]


def test_an_image_path_naming_the_json_means_the_embedded_image(tmp_path):
    data = base64.b64encode(photo(tmp_path / "elsewhere" / "a.png").read_bytes()).decode()
    path = write(tmp_path, content(shape(), imagePath="a.json", imageData=data))
    assert load(path).load_image(0).shape == (H, W, 3)


def test_labels_txt_numbers_the_classes_of_both_splits(folder):
    (folder / "labels.txt").write_text("__ignore__\n_background_\nowl\n cat\n\ndog\n")
    write(folder, content(shape(label="dog ")))
    photo(folder / "val" / "a.png")
    write(folder / "val", content(shape(label="cat")))
    for place, own_id in ((folder, 3), (folder / "val", 2)):
        dataset = load(place)
        assert dataset.class_names == ["BG", "owl", "cat", "dog"] and dataset.load_mask(0)[1].tolist() == [own_id]
    assert open_dataset(folder, classes=["dog"]).class_names == ["BG", "dog"]
    other = Dataset()
    other.add_class("other", 1, "dog")
    other.prepare()
    assert open_dataset(folder, classes=other).class_names == ["BG", "dog"]  # owl and cat have no object to number
    (folder / "labels.txt").write_text("cat\nowl\n")
    with pytest.warns(UserWarning, match=r"labels\.txt lacks 'dog', so it isn't used"):
        assert load(folder).class_names == ["BG", "dog"]


def test_similar_labels_give_a_warning(folder):
    write(folder, content(shape(label="cat"), shape(label="Cat ")))
    with pytest.warns(UserWarning, match="'Cat' and 'cat'"):
        assert load(folder).class_names == ["BG", "Cat", "cat"]


def test_saved_files_keep_classes_without_objects(tmp_path):
    dataset = Drawn(masks_of_every_kind()[..., :1])
    save_labelme(dataset, tmp_path)
    assert load(tmp_path).class_names == dataset.class_names == ["BG", "cat", "dog"]


# ---- Broken files ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("{", r"a\.json: line 1, column 2: text: expected JSON"),
        ("[1]", r'the file: content: expected an object with a list "shapes", .*got \[1\]'),
        ({"images": []}, r"the file: content: .*got \['images'\]"),
        (content(imagePath=3), r"the image: imagePath: expected the image's file, got 3"),
        (content(imageHeight=7), r"the image: image height: expected 30, as the image has it, got 7"),
        (content(imageWidth="7"), r"the image: imageWidth: expected pixels, .* got '7'"),
        (content(imagePath="b.png", imageData="?"), r"the image: imageData: expected an image file in base64"),
        (content(imagePath="b.png", imageData="aGVsbG8="), r"the image: imageData: expected an image file in base64"),
        (content(3), r"shapes\[0\]: shape: expected an object, got 3"),
        (content(shape(), shape(label=None)), r"shapes\[1\]: label: expected the class's name, got None"),
        (content(shape(group_id=[1])), r"shapes\[0\]: group_id: expected a number, or null, got \[1\]"),
        (content(shape(flags=[1])), r"shapes\[0\]: flags: expected an object, got \[1\]"),
        (content(shape(kind="star")), r"shapes\[0\]: shape_type: expected one of polygon, .*got 'star'"),
        (content(shape(None)), r"shapes\[0\]: points: expected a list of \[x, y\], got None"),
        (content(shape([[1, 2], [3], [4, 5]])), r"points: expected points \[x, y\], two numbers each, got \[3\]"),
        (content(shape([[1, 2], [3, "4"], [4, 5]])), r"points: expected points .* got \[3, '4'\]"),
        (content(shape([[1, 2], [3, float("nan")], [4, 5]])), r"points: expected numbers within 10 .* got nan"),
        (content(shape([[1, 2], [3, 4], [5, 6]], kind="circle")), r"points: expected 2 points of a circle"),
        (content(shape([[1, 2], [2, 3]], kind="mask")), r"mask: expected a PNG in base64, got 'nothing'"),
        (content(shape([[1, 2], [2, 3]], kind="mask", mask="??")), r"mask: expected a PNG in base64"),
        (content(shape([[1, 2], [9, 3]], kind="mask", mask=png(np.ones((2, 2), bool)))),
         r"shapes\[0\]: mask: expected 2 x 9 pixels \(height x width\), .*got '2 x 2'"),
    ],
)  # fmt: skip
def test_errors_name_file_and_entry(folder, file, message):
    path = write(folder, file)
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_broken_images_can_be_skipped_with_a_warning(folder):
    write(folder, content(shape()))
    write(folder, "{", "b.json")
    write(folder, content(shape(kind="star")), "c.json")
    with pytest.raises(BrokenAnnotation, match=r"b\.json"):
        load(folder)
    with pytest.warns(UserWarning, match=r"2 images are left out.*\n.*b\.json.*\n.*c\.json: shapes\[0\].*star"):
        dataset = load(folder, skip_broken=True)
    assert [info["id"] for info in dataset.image_info] == ["a"]
