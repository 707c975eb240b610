"""Pascal VOC with SegmentationObject/: masks and classes by hand, in the three ways in which tools store them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from formats_kit import H, W, photo
from PIL import Image

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.voc import VocDataset
from mrcnn.data.formats.voc_masks import voc_palette

NUMBERS = np.zeros((H, W), np.uint8)  # objects 1 and 3, which is in two parts, with a border around the first
NUMBERS[4:14, 5:15] = 255
NUMBERS[5:13, 6:14] = 1
NUMBERS[20:24, 5:10] = NUMBERS[20:24, 30:35] = 3
CLASSES = np.where(NUMBERS == 1, 15, np.where(NUMBERS == 3, 8, NUMBERS)).astype(np.uint8)  # person and cat of VOC


def save(path, numbers, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.stack([voc_palette() >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    if mode == "colors":
        Image.fromarray(colors[numbers]).save(path)
        return
    picture = Image.fromarray(numbers)
    if mode == "palette":
        picture = picture.convert("P")
        picture.putpalette(colors.ravel().tolist())
    picture.save(path)


def write(folder, mode="palette", stem="a", classes=CLASSES):
    photo(folder / "JPEGImages" / f"{stem}.jpg")
    save(folder / "SegmentationObject" / f"{stem}.png", NUMBERS, mode)
    if classes is not None:
        save(folder / "SegmentationClass" / f"{stem}.png", classes, mode)
    return folder


def write_xml(folder, *names, stem="a", difficult=()):
    (folder / "Annotations").mkdir(exist_ok=True)
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    things = [f"<object><name>{name}</name><difficult>{int(i in difficult)}</difficult>{box}</object>"
              for i, name in enumerate(names)]  # fmt: skip
    text = f"<annotation><filename>{stem}.jpg</filename>{''.join(things)}</annotation>"
    (folder / "Annotations" / f"{stem}.xml").write_text(text)


def load(folder, **kwargs):
    dataset = VocDataset()
    dataset.load_voc(folder, **kwargs)
    dataset.prepare()
    return dataset


def objects(dataset, image_id=0):
    masks, class_ids = dataset.load_mask(image_id)
    return masks, [dataset.class_names[i] for i in class_ids]


@pytest.mark.parametrize("mode", ["palette", "gray", "colors"])
def test_masks_and_classes_by_hand(tmp_path, mode):
    for dataset in (open_dataset(write(tmp_path, mode)), load(tmp_path)):
        masks, names = objects(dataset)
        assert names == ["person", "cat"] and dataset.num_classes == 21 and masks.dtype == bool
        np.testing.assert_array_equal(masks, np.stack([NUMBERS == 1, NUMBERS == 3], axis=-1))


@pytest.mark.parametrize("mode", ["palette", "colors"])
def test_classes_by_the_colors_of_cvat(tmp_path, mode):
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "owl:64,0,0::", "sea:bird:192,128,128::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))  # colors of VOC's classes 8 and 15, other names
    dataset = open_dataset(write(tmp_path, mode))
    assert dataset.class_names == ["BG", "owl", "sea:bird"] and objects(dataset)[1] == ["sea:bird", "owl"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(BrokenAnnotation, match=r"class of object 1 .*expected one of the classes owl, got .*#c08080"):
        open_dataset(tmp_path).load_mask(0)
    (tmp_path / "labelmap.txt").write_text("owl:64,0")
    with pytest.raises(BrokenAnnotation, match=r"labelmap\.txt: line 1: labelmap: expected name:red,green,blue"):
        open_dataset(tmp_path)


def test_classes_by_the_list_of_labelme2voc(tmp_path):
    (tmp_path / "class_names.txt").write_text("\n".join(["_background_", *"abcdefghijklmno"]))
    dataset = open_dataset(write(tmp_path))
    assert dataset.num_classes == 16 and objects(dataset)[1] == ["o", "h"]


def test_older_labelme2voc_has_numpy_files_in_the_usual_folders(tmp_path):
    write(tmp_path)
    for kind in ("Object", "Class"):
        (tmp_path / f"Segmentation{kind}").rename(tmp_path / f"Segmentation{kind}PNG")
        (tmp_path / f"Segmentation{kind}").mkdir()
        np.save(tmp_path / f"Segmentation{kind}" / "a.npy", NUMBERS)
    assert objects(open_dataset(tmp_path))[1] == ["person", "cat"]


# ---- With XML files --------------------------------------------------------------------------------------------------
def test_masks_are_preferred_to_boxes(tmp_path):
    write_xml(write(tmp_path), "person", "dog", "cat")
    for path in (tmp_path, tmp_path / "Annotations", tmp_path / "Annotations" / "a.xml"):
        np.testing.assert_array_equal(objects(open_dataset(path))[0][..., 0], NUMBERS == 1)
    masks, names = objects(load(tmp_path, masks=False))
    assert names == ["person", "dog", "cat"] and (masks.sum(axis=(0, 1)) == 64).all()


def test_class_names_come_from_the_xml_files(tmp_path):
    write_xml(write(tmp_path, classes=None), "owl", "dog", "bat")
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == ["BG", "bat", "dog", "owl"] and objects(dataset)[1] == ["owl", "bat"]
    write_xml(tmp_path, "owl", "dog")
    with pytest.raises(BrokenAnnotation, match=r"a\.png: the file: objects: expected 2, as in the XML file, got 3"):
        open_dataset(tmp_path).load_mask(0)


def test_difficult_objects(tmp_path):
    write_xml(write(tmp_path), "person", "dog", "cat", difficult=[0])
    assert objects(load(tmp_path, keep_difficult=False))[1] == ["cat"]


def test_images_without_a_mask_are_skipped_with_a_warning(tmp_path):
    for stem in "abc":
        photo(tmp_path / "JPEGImages" / f"{stem}.jpg")
        write_xml(tmp_path, "cat", stem=stem)
    write(tmp_path, stem="b")
    with pytest.warns(UserWarning, match="no mask of 2 of 3 images, which are left out: a, c. .*masks=False") as caught:
        dataset = open_dataset(tmp_path)
    assert [info["id"] for info in dataset.image_info] == ["b"] and caught[0].filename == __file__
    with pytest.raises(FileNotFoundError, match=r"has no mask of the 1 images. masks=False"):
        load(tmp_path / "Annotations" / "a.xml")


def test_subsets_are_those_of_segmentation(tmp_path):
    for kind, text in (("Main", "a\nb\nc\n"), ("Segmentation", "my b\n")):
        (tmp_path / "ImageSets" / kind).mkdir(parents=True)
        (tmp_path / "ImageSets" / kind / "train.txt").write_text(text)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    for stem in ("a", "my b"):
        write(tmp_path, stem=stem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, val = open_splits(tmp_path)
    assert [info["id"] for info in (*train.image_info, *val.image_info)] == ["my b", "a"]
    assert train.class_names == val.class_names


def test_classes_can_be_selected(tmp_path):
    dataset = open_dataset(write(tmp_path), classes=["cat"])
    assert dataset.class_names == ["BG", "cat"] and objects(dataset)[1] == ["cat"]


# ---- Broken ----------------------------------------------------------------------------------------------------------
def test_errors_name_file_and_entry(tmp_path):
    write(tmp_path)
    save(tmp_path / "SegmentationClass" / "a.png", np.where(NUMBERS == 3, 200, CLASSES).astype(np.uint8), "gray")
    with pytest.raises(BrokenAnnotation, match=r"class of object 3 in .*a\.png: expected one of .*got 200"):
        open_dataset(tmp_path).load_mask(0)
    save(tmp_path / "SegmentationClass" / "a.png", CLASSES[1:], "gray")
    with pytest.raises(BrokenAnnotation, match=r"mask: expected a\.png to be 30 x 40"):
        open_dataset(tmp_path)
    (tmp_path / "SegmentationClass" / "a.png").unlink()
    save(tmp_path / "SegmentationClass" / "b.png", CLASSES, "gray")
    with pytest.raises(BrokenAnnotation, match=r"to find .*SegmentationClass/a\.png"):
        open_dataset(tmp_path)
    save(tmp_path / "SegmentationClass" / "a.png", CLASSES, "gray")
    Image.new("RGB", (W, H), (1, 2, 3)).save(tmp_path / "SegmentationObject" / "a.png")
    with pytest.raises(BrokenAnnotation, match=r"expected colors of VOC's palette, got '#010203'"):
        open_dataset(tmp_path).load_mask(0)
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(BrokenAnnotation, match=r"image file: expected to find .*JPEGImages/a\.jpg"):
        open_dataset(tmp_path)


# ---- Folders ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("xml", "images"),
    [
        ("annots", "images"),
        ("annotations/xmls", "images"),
        ("xml", "Imgs"),
        ("ANNOTATIONS", "JPEGImages"),
        ("labels", "."),
    ],
)
def test_common_names_of_the_folders(tmp_path, xml, images):
    # kangaroo, the best-known tutorial of matterport's Mask R-CNN, has annots/ and images/
    photo(tmp_path / images / "a.jpg") if images != "." else photo(tmp_path / xml / "a.jpg")
    write_xml(tmp_path, "kangaroo")
    (tmp_path / xml).mkdir(parents=True, exist_ok=True)
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / xml / "a.xml")
    (tmp_path / "Annotations").rmdir()
    for path in (tmp_path, tmp_path / xml, tmp_path / xml / "a.xml"):
        assert open_dataset(path).class_names == ["BG", "kangaroo"]
