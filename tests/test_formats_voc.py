"""Pascal VOC files: boxes counted from 1, difficult objects, subsets, renamed photos; errors name the place."""

from __future__ import annotations

import numpy as np
import pytest
from formats_kit import H, W, photo

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.voc import VocDataset


@pytest.fixture
def folder(tmp_path):
    """The set's own layout, with the image a.jpg."""
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    photo(tmp_path / "JPEGImages" / "a.jpg")
    return tmp_path


def box(xmin=4, ymin=3, xmax=10, ymax=6):
    return f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"


def thing(name="cat", bndbox=None, more="<difficult>0</difficult>"):
    return f"<object><name>{name}</name>{more}{box() if bndbox is None else bndbox}</object>"


def xml(*things, filename="a.jpg", width=W, height=H):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{''.join(things)}</annotation>"


def write(folder, text, name="a.xml"):
    path = folder / "Annotations" / name
    path.write_text(text)
    return path


def load(path, **kwargs):
    dataset = VocDataset()
    dataset.load_voc(path, **kwargs)
    dataset.prepare()
    return dataset


def test_an_image_without_objects(folder):
    write(folder, xml())
    masks, class_ids = load(folder).load_mask(0)
    assert masks.shape == (H, W, 0) and masks.dtype == bool and class_ids.shape == (0,)


def test_no_files(folder):
    with pytest.raises(FileNotFoundError, match="has no XML file"):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        load(folder, subset="val")


def test_hand_computed_boxes(folder):
    path = write(folder, xml(thing(), thing("dog", box(1, 1, W, H)), thing("cat", box("0", "-3", "2.4", "1.6"))))
    for place in (folder, folder / "Annotations", path):
        dataset = load(place)
        assert dataset.class_names == ["BG", "cat", "dog"] and dataset.image_info[0]["id"] == "a"
        masks, class_ids = dataset.load_mask(0)
        assert masks.shape == (H, W, 3) and class_ids.tolist() == [1, 2, 1] and class_ids.dtype == np.int32
        assert np.argwhere(masks[..., 0])[[0, -1]].tolist() == [[2, 3], [5, 9]] and masks[..., 0].sum() == 28
        assert masks[..., 1].all()
        assert np.argwhere(masks[..., 2])[[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert dataset.load_image(0).shape == (H, W, 3)


def test_parts_of_an_object_are_not_objects(folder):
    write(folder, xml(thing(more=f"<part><name>head</name>{box(5, 4, 6, 5)}</part>")))
    dataset = load(folder)
    assert dataset.class_names == ["BG", "cat"] and dataset.load_mask(0)[0].sum() == 28


def test_boxes_are_taken_as_masks_with_one_warning(folder, recwarn):
    write(folder, xml(thing(), thing("dog"), thing(more=outline((4, 3), (10, 3), (4, 9)))))
    load(folder)
    (warning,) = recwarn
    assert "2 of 3 objects have only a box, which is taken as the mask" in str(warning.message)
    assert warning.filename == __file__
    recwarn.clear()
    load(folder, masks=False)  # chosen
    assert not recwarn


def outline(*points, form="x1"):
    pairs = [f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(points, 1)]
    if form == "pt":
        pairs = [f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in points]
    return f"<polygon>{''.join(pairs)}</polygon>"


@pytest.mark.parametrize("form", ["x1", "pt"])
def test_the_outline_beside_a_box_is_the_mask(folder, form):
    # Roboflow writes both; the box was taken as the mask.
    triangle = outline((4, 3), (10, 3), (4, 9), form=form)
    write(folder, xml(thing(more=triangle), thing(more=outline()), thing(more=outline((4, 3), (9, 9), form=form))))
    masks, _ = load(folder).load_mask(0)
    assert masks[..., 0].sum() == 28 and masks[3:10, 4:11, 0].sum() == 28 and not masks[8, 9, 0]
    assert masks[..., 1:].sum(axis=(0, 1)).tolist() == [28, 28]  # no outline: the box
    with pytest.raises(BrokenAnnotation, match=r"object 0 \(cat\): polygon: expected 3 y, as many as x, got 2"):
        write(folder, xml(thing(more=triangle.replace("y2>", "z>").replace("<y>9</y>", ""))))
        load(folder)
    with pytest.raises(BrokenAnnotation, match=r"object 0 \(cat\): polygon.y.*: expected a number of pixels, got 'b'"):
        write(folder, xml(thing(more=triangle.replace(">9<", ">b<"))))
        load(folder)


def test_outlines_without_boxes_of_the_labelme_web_tool(folder):
    triangle = outline((4, 3), (10, 3), (4, 9), form="pt")
    gone = f"<object><name>dog</name><deleted>1</deleted>{triangle}</object>"
    write(folder, xml(thing("\ncat\n", "", f"<deleted>0</deleted>{triangle}"), gone))
    dataset = load(folder)
    assert dataset.class_names == ["BG", "cat"] and dataset.load_mask(0)[0].sum() == 28


def test_images_in_a_folder_of_any_name(tmp_path):
    photo(tmp_path / "photos of 2019" / "a.jpg")
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / "a.xml").write_text(xml(thing(), filename="C:\\a.jpg"))
    assert open_dataset(tmp_path).num_images == 1
    (tmp_path / "photos of 2019" / "a.jpg").unlink()
    with pytest.raises(BrokenAnnotation, match=r"filename: expected to find .*a\.jpg"):
        open_dataset(tmp_path)


def test_difficult_objects(folder):
    hard = "<difficult> 1 </difficult><truncated>1</truncated>"
    write(folder, xml(thing("dog", more=hard), thing("cat", more="")))
    assert load(folder).load_mask(0)[1].tolist() == [2, 1]
    dataset = load(folder, keep_difficult=False)
    assert dataset.class_names == ["BG", "cat"] and dataset.load_mask(0)[1].tolist() == [1]


def test_classes_can_be_selected(folder):
    write(folder, xml(thing("dog"), thing("cat"), thing("owl"), thing("owl")))
    with pytest.warns(UserWarning, match=r"aren't of the classes \['owl', 'cat'\] are left out: 'dog' \(1\)"):
        dataset = load(folder, classes=["owl", "cat"])
    assert dataset.class_names == ["BG", "owl", "cat"] and dataset.load_mask(0)[1].tolist() == [2, 1, 1]


def test_subsets_can_be_selected(folder):
    for name in "abc":
        photo(folder / "JPEGImages" / f"{name}.jpg")
        write(folder, xml(thing(), filename=f"{name}.jpg"), f"{name}.xml")
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nc\n\n")
    (folder / "ImageSets" / "Main" / "cat_val.txt").write_text("a -1\nb  1\nc  0\n")
    assert [info["id"] for info in load(folder).image_info] == ["a", "b", "c"]
    assert [info["id"] for info in load(folder, subset="train").image_info] == ["a", "c"]
    assert [info["id"] for info in load(folder / "Annotations", subset="cat_val").image_info] == ["b", "c"]
    (folder / "ImageSets" / "Main" / "test.txt").write_text("a\nz\n")
    with pytest.raises(BrokenAnnotation, match=r"z\.xml: the file: content: expected an XML file, got 'nothing there'"):
        load(folder, subset="test")


def test_images_next_to_the_xml_files_or_renamed(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    photo(other / "b.png")
    for name, filename in (("b.xml", "b.png"), ("b2.xml", "C:\\photos\\b.png"), ("b3.xml", "b")):
        (other / name).write_text(xml(thing(), filename=filename))
    assert {info["path"] for info in load(other).image_info} == {str(other / "b.png")}
    (other / "b.xml").write_text(xml(thing(), filename="IMG_0001.jpeg"))
    assert load(other / "b.xml").image_info[0]["path"] == str(other / "b.png")
    assert load(other / "b.xml", images_dir=other).num_images == 1


def test_files_without_sizes(folder):
    write(folder, xml(thing(), width=0, height=0))
    assert load(folder).load_mask(0)[0].shape == (H, W, 1)
    write(folder, f"<annotation><filename>a.jpg</filename>{thing()}</annotation>")
    assert load(folder).load_mask(0)[0].shape == (H, W, 1)


def test_rotated_photos_are_read_upright(folder):
    photo(folder / "JPEGImages" / "a.jpg", orientation=6)
    write(folder, xml(thing(), width=H, height=W))
    dataset = load(folder)
    assert dataset.load_image(0).shape == (W, H, 3) and dataset.load_mask(0)[0].shape == (W, H, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml: line 1, column 13: text: expected XML"),
        ("<html></html>", r"the file: content: expected <annotation>.* got '<html>'"),
        (xml(filename="b.jpg").replace("a.xml", ""), None),
        (xml(width=7), r"the image: image width: expected 40, as the image has it, got 7"),
        (xml(height="x"), r"the image: size.height: expected a number of pixels, got 'x'"),
        (xml(thing(name=" ")), r"object 0: name: expected the class's name, got 'nothing'"),
        (xml(thing(), thing("dog", "")), r"object 1 \(dog\): bndbox.xmin: expected a number of pixels, got 'nothing'"),
        (xml(thing("dog", box(ymax="x"))), r"object 0 \(dog\): bndbox.ymax: expected a number of pixels, got 'x'"),
        (xml(thing("dog", box(ymax="nan"))), r"bndbox.ymax: expected a number of pixels, got 'nan'"),
        (xml(thing("dog", box(xmax=3))), r"bndbox.xmax: expected xmin = 4 or more, got '3'"),
        (xml(thing("dog", box(ymax=2))), r"bndbox.ymax: expected ymin = 3 or more, got '2'"),
        (xml(thing("dog", box(xmin=50, xmax=60))), r"bndbox: expected a box that meets the image of 40 x 30"),
        (xml(thing(more="<difficult>2</difficult>")), r"object 0 \(cat\): difficult: expected 0 or 1, got '2'"),
    ],
)
def test_errors_name_file_and_entry(folder, text, message):
    path = write(folder, text)
    if message is None:  # the photo is neither called as the XML says nor as the file
        (folder / "JPEGImages" / "a.jpg").rename(folder / "JPEGImages" / "c.jpg")
        message = r"the image: filename: expected to find .*JPEGImages/b\.jpg, got 'nothing there'"
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        load(folder)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_an_image_is_named(folder):
    (folder / "JPEGImages" / "a.jpg").write_text("no image")
    write(folder, xml())
    with pytest.raises(BrokenAnnotation, match=r"a\.xml: the image: image file: expected .*a\.jpg to be an image"):
        load(folder)


def test_broken_images_can_be_skipped_with_a_warning(folder):
    write(folder, xml(thing()))
    write(folder, "<annotation>", "b.xml")
    with pytest.raises(BrokenAnnotation, match=r"b\.xml"):
        load(folder)
    with pytest.warns(UserWarning, match=r"1 images are left out.*\n.*b\.xml: line 1"):
        assert load(folder, skip_broken=True).num_images == 1
