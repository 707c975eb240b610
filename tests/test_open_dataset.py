"""`open_dataset`: each format by folder and by file, errors if none or several formats fit, and its speed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.format_detection import UnknownFormat, known_formats
from mrcnn.data.formats import BrokenAnnotation, json_head
from mrcnn.data.formats.recognition import identify_json

H, W = 30, 40
SQUARE = [[3, 2], [9, 2], [9, 8], [3, 8]]


def photo(folder, name="a.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), np.full((H, W, 3), 7, np.uint8))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def via(filename="a.jpg"):
    xs, ys = zip(*SQUARE)
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    return {"filename": filename, "regions": [{"shape_attributes": shape, "region_attributes": {}}]}


def coco(filename="a.jpg", **more):
    annotation = {
        "id": 1,
        "image_id": 5,
        "category_id": 3,
        "segmentation": [[value for point in SQUARE for value in point]],
        "iscrowd": 0,
    }
    image = {"id": 5, "file_name": filename, "height": H, "width": W}
    categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": [image], "annotations": [annotation], "categories": categories, **more}


def labelme(filename="a.jpg"):
    shape = {"label": "cat", "points": SQUARE, "shape_type": "polygon", "group_id": None, "flags": {}}
    return {"version": "5.0", "shapes": [shape], "imagePath": filename, "imageData": None,
            "imageHeight": H, "imageWidth": W}  # fmt: skip


VOC = f"""<annotation><filename>a.jpg</filename><size><width>{W}</width><height>{H}</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>4</xmin><ymin>3</ymin><xmax>10</xmax><ymax>9</ymax></bndbox></object></annotation>"""
YOLO = "1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n"


def make(folder, form):
    """Writes a small dataset; returns its annotation file and the name of the class of its one object."""
    if form == "m2nist":
        labels = np.full((1, 64, 84), 10, np.uint8)
        labels[0, 5:25, 5:15] = 4
        folder.mkdir(exist_ok=True)
        np.save(folder / "segmented.npy", labels)
        np.save(folder / "combined.npy", labels)
        return folder / "combined.npy", "4"
    mask = np.zeros((H, W), np.uint8)
    mask[2:9, 3:10] = 1
    if form == "nuclei":
        photo(folder / "x" / "images")
        (folder / "x" / "masks").mkdir()
        cv2.imwrite(str(folder / "x" / "masks" / "m.png"), mask)
        return None, "nucleus"
    if form == "penn_fudan":
        photo(folder / "PNGImages", "a.png")
        (folder / "PedMasks").mkdir()
        cv2.imwrite(str(folder / "PedMasks" / "a_mask.png"), mask)
        return None, "person"
    if form == "voc":
        photo(folder / "JPEGImages")
        return write(folder / "Annotations" / "a.xml", VOC), "cat"
    if form == "yolo":
        photo(folder / "images" / "train")
        write(folder / "labels" / "train" / "a.txt", YOLO)
        return write(folder / "data.yaml", "train: images/train\nval: images/train\nnames: [cat, dog]\n"), "dog"
    if form == "coco":
        photo(folder / "val2017")
        return write(folder / "annotations" / "instances_val2017.json", coco()), "cat"
    photo(folder)
    content, name = {"via": ({"a": via()}, "object"), "labelme": (labelme(), "cat")}[form]
    return write(folder / "any.json", content), name


FORMS = ("via", "coco", "labelme", "voc", "yolo", "nuclei", "penn_fudan", "m2nist")


@pytest.mark.parametrize("form", FORMS)
def test_each_format_by_folder_and_by_file(tmp_path, form):
    file, name = make(tmp_path, form)
    for path in (tmp_path, file):
        if path is not None:
            dataset = open_dataset(str(path))
            masks, class_ids = dataset.load_mask(0)
            assert dataset.num_images == 1 and dataset.class_names[class_ids[0]] == name
            assert masks[:9].any() and masks.shape[:2] == dataset.load_image(0).shape[:2]


def test_enclosing_folders_can_be_opened(tmp_path):
    make(tmp_path / "coco", "coco")
    make(tmp_path / "voc", "voc")
    make(tmp_path / "yolo", "yolo")
    for inner in ("coco/annotations", "voc/Annotations", "yolo/labels", "yolo/labels/train"):
        assert open_dataset(tmp_path / inner).num_images == 1, inner
    with pytest.raises(UnknownFormat, match=r"There are datasets in its folders(.|\n)*coco: COCO\n.*voc: Pascal VOC"):
        open_dataset(tmp_path)


def test_datasets_are_found_in_nested_folders(tmp_path):
    make(tmp_path / "download" / "dataset-master" / "dataset" / "coco", "coco")
    with pytest.raises(UnknownFormat, match=r"There are datasets in its folders(.|\n)*dataset/coco: COCO$"):
        open_dataset(tmp_path)  # and not its folder annotations/, which is a part of it
    labelme_folder(tmp_path / "second" / "data" / "train", "cat", "dog")
    labelme_folder(tmp_path / "second" / "data" / "valid", "dog")
    train, val = open_splits(tmp_path / "second")
    assert train.class_names == val.class_names == ["BG", "cat", "dog"]
    labelme_folder(tmp_path / "second" / "train", "owl")  # the nearest one counts
    assert open_splits(tmp_path / "second", ["train"])[0].class_names == ["BG", "owl"]


@pytest.mark.parametrize("images", ["images/2017/train", "photos/set/a/b", "../images/2017/train"])
def test_images_are_found_in_nested_folders(tmp_path, images):
    photo(tmp_path / "annotations" / images)
    assert open_dataset(write(tmp_path / "annotations" / "x.json", coco())).num_images == 1


def test_open_images_folders_are_opened(tmp_path):
    photo(tmp_path / "train", "0a.jpg")
    (tmp_path / "train-masks-0").mkdir()
    cv2.imwrite(str(tmp_path / "train-masks-0" / "0a_m.png"), np.full((H, W), 255, np.uint8))
    write(tmp_path / "class-descriptions-boxable.csv", "LabelName,DisplayName\n/m/05zsy,Pumpkin\n")
    csv = write(tmp_path / "train-annotations-object-segmentation.csv",
                "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n"
                "0a_m.png,0a,/m/05zsy,b,0,1,0,1,1,\n")  # fmt: skip
    for path in (tmp_path, csv):
        dataset = open_dataset(path, ["Pumpkin"])
        assert dataset.class_names == ["BG", "Pumpkin"] and dataset.load_mask(0)[0].all()
    with pytest.raises(ValueError, match="Those wanted must be named"):
        open_dataset(tmp_path)


# ---- VIA and COCO ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["1.x", "2.x", "project", "list"])
def test_all_versions_of_via(tmp_path, form):
    photo(tmp_path)
    old = dict(via(), regions={"0": via()["regions"][0]})
    content = {
        "1.x": {"a": dict(base64_img_data="", file_attributes={}, **old)},
        "2.x": {"a": via()},
        "project": {"_via_settings": {"ui": {}}, "_via_img_metadata": {"a": via()}, "_via_attributes": {"region": {}}},
        "list": [via()],
    }[form]
    write(tmp_path / "x.json", content)
    assert open_dataset(tmp_path, ["ball"]).class_names == ["BG", "ball"]
    with pytest.raises(BrokenAnnotation, match="expected one that tells ball, bat, got 'none'"):
        open_dataset(tmp_path, ["ball", "bat"])


def test_via_3_is_named_in_the_error(tmp_path):
    write(tmp_path / "x.json", {"project": {"pid": "x"}, "config": {}, "attribute": {}, "file": {}, "view": {}})
    with pytest.raises(BrokenAnnotation, match="a VIA 1.x or 2.x file, got 'a VIA 3 project'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "images"),
    [
        ("x.json", "a.jpg", "."),
        ("x.json", "a.jpg", "images"),
        ("x.json", "images/a.jpg", "images"),
        ("annotations/x.json", "a.jpg", "images"),
        ("annotations/instances_train.json", "a.jpg", "images/train"),
        ("annotations/instances_val.json", "val/a.jpg", "val"),
        ("annotations/x.json", "a.jpg", "photos"),
    ],
)
@pytest.mark.parametrize("form", ["via", "coco"])
def test_images_are_found_near_the_annotations(tmp_path, file, name, images, form):
    photo(tmp_path / images)
    write(tmp_path / file, coco(name) if form == "coco" else {"a": via(name)})
    assert open_dataset(tmp_path / file).load_image(0).shape == (H, W, 3)


def test_missing_images_are_named(tmp_path):
    photo(tmp_path / "another")  # a separate dataset, whose images happen to have the same names
    with pytest.raises(FileNotFoundError, match=r"its images aren't there. Looked for a.jpg in\n"):
        open_dataset(write(tmp_path / "mine" / "x.json", coco()))


def test_images_in_several_folders(tmp_path):
    for name in ("train", "val"):
        photo(tmp_path / name)
    path = write(tmp_path / "annotations" / "mine.json", coco())
    with pytest.raises(UnknownFormat, match=r"in several folders; say which by CocoDataset(.|\n)*train\n(.|\n)*val"):
        open_dataset(path)
    open_dataset(path.rename(path.with_name("instances_val.json")))


def test_coco_images_listed_after_the_annotations(tmp_path):
    photo(tmp_path / "images")
    filler = [dict(coco()["annotations"][0], id=i) for i in range(2000)]
    content = coco(annotations=filler)
    path = write(tmp_path / "x.json", {key: content[key] for key in ("annotations", "categories", "images")})
    assert "images" not in json_head.read_head(path, json_head.SIZES[0])[0]
    assert open_dataset(path).load_mask(0)[0].shape[-1] == 2000


def test_classes_of_coco_by_name(tmp_path):
    make(tmp_path, "coco")
    assert open_dataset(tmp_path, ["cat"]).class_names == ["BG", "cat"]
    assert open_dataset(tmp_path, ["dog"]).num_images == 0
    with pytest.raises(BrokenAnnotation, match=r"to find 'owl', got \['cat', 'dog'\]"):
        open_dataset(tmp_path, ["owl"])


# ---- Class ids of another dataset, and splits ------------------------------------------------------------------------
def labelme_folder(folder, *labels):
    """A labelme file with an object of each label."""
    photo(folder)
    content = labelme()
    content["shapes"] = [dict(content["shapes"][0], label=label) for label in labels]
    write(folder / "a.json", content)
    return folder


def shown_classes(dataset):
    """Names of the classes of the objects in the first image."""
    return [dataset.class_names[i] for i in dataset.load_mask(0)[1]]


def test_class_ids_are_those_of_another_dataset(tmp_path):
    train = open_dataset(labelme_folder(tmp_path / "a", "cat", "dog", "owl"))
    val = open_dataset(labelme_folder(tmp_path / "b", "owl ", "dog"), classes=train)
    assert val.class_names == train.class_names == ["BG", "cat", "dog", "owl"]
    assert val.load_mask(0)[1].tolist() == [3, 2]
    with pytest.raises(ValueError, match=r"'cow', which isn't in classes=\['cat', 'dog', 'owl'\]"):
        open_dataset(labelme_folder(tmp_path / "c", "cow"), classes=train)


def test_class_ids_of_another_dataset_keep_all_images_of_coco(tmp_path):
    make(tmp_path / "coco", "coco")
    train = open_dataset(labelme_folder(tmp_path / "a", "ape", "cat", "dog"))
    val = open_dataset(tmp_path / "coco", classes=train)
    assert val.class_names == ["BG", "ape", "cat", "dog"] and shown_classes(val) == ["cat"]


@pytest.mark.parametrize("form", ["via", "nuclei", "penn_fudan"])
def test_another_dataset_names_unnamed_classes(tmp_path, form):
    make(tmp_path / "b", form)
    train = open_dataset(labelme_folder(tmp_path / "a", "cat"))
    assert open_dataset(tmp_path / "b", classes=train).class_names == ["BG", "cat"]


def test_another_dataset_names_yolo_class_numbers(tmp_path):
    file, _ = make(tmp_path / "b", "yolo")
    train = open_dataset(labelme_folder(tmp_path / "a", "ape", "cat", "dog"))
    assert shown_classes(open_dataset(file, classes=train)) == ["dog"]  # data.yaml has a name for number 1
    file.unlink()
    assert shown_classes(open_dataset(tmp_path / "b" / "labels" / "train", classes=train)) == ["cat"]


def test_class_lists_may_have_spaces_and_begin_with_bg(tmp_path):
    make(tmp_path, "coco")
    assert open_dataset(tmp_path, ["BG", " dog", "cat "]).class_names == ["BG", "dog", "cat"]


@pytest.mark.parametrize("second", ["val", "valid", "Validation"])
def test_splits_in_folders_have_the_same_class_ids(tmp_path, second):
    labelme_folder(tmp_path / "train", "cat", "dog")
    labelme_folder(tmp_path / second, "dog")
    train, val = open_splits(tmp_path)
    assert val.class_names == train.class_names == ["BG", "cat", "dog"]
    assert shown_classes(val) == ["dog"] and train.num_images == val.num_images == 1


def test_a_class_missing_from_the_first_split(tmp_path):
    labelme_folder(tmp_path / "train", "cat")
    labelme_folder(tmp_path / "val", "cat", "owl")
    with pytest.raises(ValueError, match=r"val has other classes than train: (.|\n)*'owl'(.|\n)*classes=\[...\]"):
        open_splits(tmp_path)
    train, val = open_splits(tmp_path, classes=["owl", "cat"])  # what the error advises
    assert train.class_names == val.class_names == ["BG", "owl", "cat"]
    assert (shown_classes(train), shown_classes(val)) == (["cat"], ["cat", "owl"])
    with pytest.warns(UserWarning, match="left out: 'owl'"):
        train, val = open_splits(tmp_path, classes=["cat"])
    assert shown_classes(val) == ["cat"] and val.class_names == ["BG", "cat"]
    with pytest.raises(ValueError, match=r"no split has the class 'cow'; found \['cat', 'owl'\]"):
        open_splits(tmp_path, classes=["cow", "cat", "owl"])


def test_splits_in_annotation_files(tmp_path):
    file, _ = make(tmp_path, "coco")
    photo(tmp_path / "train2017")
    only_cats = coco()
    only_cats["categories"] = only_cats["categories"][:1]
    write(file.with_name("instances_train2017.json"), only_cats)
    with pytest.raises(ValueError, match="'dog'"):
        open_splits(tmp_path)
    train, val = open_splits(tmp_path, classes=["cat", "dog"])
    assert train.class_names == val.class_names and "train2017" in train.image_info[0]["path"]
    (val,) = open_splits(tmp_path, ["valid"])
    assert "val2017" in val.image_info[0]["path"]


def test_splits_listed_by_the_dataset(tmp_path):
    make(tmp_path / "yolo", "yolo")
    train, val = open_splits(tmp_path / "yolo")
    assert shown_classes(train) == shown_classes(val) == ["dog"]
    file, _ = make(tmp_path / "voc", "voc")
    photo(tmp_path / "voc" / "JPEGImages", "b.jpg")
    write(file.with_name("b.xml"), VOC.replace("a.jpg", "b.jpg"))
    for split, name in (("train", "a"), ("val", "b")):
        write(tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt", name)
    assert [split.image_info[0]["id"] for split in open_splits(tmp_path / "voc")] == ["a", "b"]


def test_a_missing_split_is_named(tmp_path):
    labelme_folder(tmp_path / "train", "cat")
    with pytest.raises(UnknownFormat, match=r"no split 'val'; expected a folder 'val' or 'valid'(.|\n)*folders: train"):
        open_splits(tmp_path)
    with pytest.raises(ValueError, match="expected a list of names"):
        open_splits(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_splits(tmp_path / "nowhere")


# ---- When it can't tell ----------------------------------------------------------------------------------------------
def test_an_unknown_format_is_named_with_all_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UnknownFormat, match="files: none\n  folders: none") as caught:
        open_dataset(tmp_path)
    for word in ("VIA", "COCO", "labelme", "VOC", "YOLO", "Open Images", "nuclei", "Penn-Fudan", "M2NIST"):
        assert f"\n  {word}" in str(caught.value) or f" {word}:" in str(caught.value)
    photo(tmp_path)
    write(tmp_path / "b.json", {"some": 1, "keys": 2})
    write(tmp_path / "c.json", "{no json")
    write(tmp_path / "d.json", [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {}}])
    (tmp_path / "sub").mkdir()
    with pytest.raises(UnknownFormat) as caught:
        open_dataset(tmp_path)
    for words in ("3 .json, 1 .jpg", "folders: sub", "b.json: an object with 'some', 'keys'", "c.json: not JSON",
                  "d.json: detections in COCO's results format"):  # fmt: skip
        assert words in str(caught.value)
    with pytest.raises(UnknownFormat, match=r"a file .jpg of \d+ bytes"):
        open_dataset(tmp_path / "a.jpg")


def test_several_matching_formats_are_named(tmp_path):
    make(tmp_path, "via")
    write(tmp_path / "other.json", coco())
    with pytest.raises(UnknownFormat, match=r"more than one dataset fits(.|\n)*VIA: .*any.json(.|\n)*COCO: .*other.j"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "other.json").class_names == ["BG", "cat", "dog"]
    (tmp_path / "other.json").unlink()
    write(tmp_path / "any2.json", {"a": via()})
    with pytest.raises(UnknownFormat, match=r"VIA: .*any.json(.|\n)*VIA: .*any2.json"):
        open_dataset(tmp_path)
    write(tmp_path / "via_region_data.json", {"a": via(), "b": via()})
    with pytest.warns(UserWarning, match="registered more than once") as caught:
        assert open_dataset(tmp_path).num_images == 2
    assert caught[0].filename == __file__


def test_preferred_files_of_coco(tmp_path):
    file, _ = make(tmp_path, "coco")
    write(file.parent / "person_keypoints_val2017.json", coco())
    assert open_dataset(tmp_path).num_images == 1
    write(file.parent / "instances_train2017.json", coco())
    with pytest.raises(UnknownFormat, match=r"instances_train2017.json(.|\n)*instances_val2017.json"):
        open_dataset(tmp_path)


def test_invalid_class_lists_are_refused(tmp_path):
    make(tmp_path / "n", "nuclei")
    make(tmp_path / "m", "m2nist")
    assert open_dataset(tmp_path / "n", ["cell"]).class_names == ["BG", "cell"]
    with pytest.raises(ValueError, match="expected one name in classes"):
        open_dataset(tmp_path / "n", ["cell", "nucleus"])
    with pytest.raises(ValueError, match="expected a list of names"):
        open_dataset(tmp_path / "n", "cell")
    with pytest.raises(ValueError, match="leave classes"):
        open_dataset(tmp_path / "m", ["4"])


def test_broken_images_can_be_skipped(tmp_path):
    photo(tmp_path)
    write(tmp_path / "x.json", [via(), via("lost.jpg")])
    with pytest.raises(BrokenAnnotation, match="lost.jpg"):
        open_dataset(tmp_path)
    with pytest.warns(UserWarning, match="1 images are left out"):
        assert open_dataset(tmp_path, skip_broken=True).num_images == 1


# ---- Beginnings of JSON files ----------------------------------------------------------------------------------------
def test_truncated_json_is_parsed_as_far_as_it_goes(tmp_path):
    content = [{"a": {"b": [1, 2.5, 'x,]}\\"'], "c": None}, "é": True}, {"d": [[], {}]}, "end"]
    path = write(tmp_path / "x.json", json.dumps(content, ensure_ascii=False))

    def begins(part, whole):
        if isinstance(part, dict):
            return all(key in whole and begins(value, whole[key]) for key, value in part.items())
        if isinstance(part, list):
            return len(part) <= len(whole) and all(map(begins, part, whole))
        return part == whole

    for size in range(1, path.stat().st_size + 2):
        found, is_whole = json_head.read_head(path, size)
        assert begins(found, content) and is_whole == (size >= path.stat().st_size), size
    assert found == content


def name_of_format(path):
    name, _ = identify_json(path, known_formats())
    return name


def test_long_files_are_recognized_by_their_beginning(tmp_path):
    image = '{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}'
    path = tmp_path / "x.json"
    path.write_text('{"images": [' + ", ".join([image] * 50_000) + "] and this is no JSON any more")
    assert name_of_format(path) == "COCO"
    path.write_text('{"info": {"text": "' + "x" * 200_000 + '"}, "images": [' + image + "]")  # nor this
    assert name_of_format(path) is None
    path.write_text(path.read_text() + ', "annotations": [], "categories": []}')
    assert name_of_format(path) == "COCO"


# ---- Real data -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "images", "classes"),
    [
        ("balloon/train", 61, 1),
        ("balloon/train/via_region_data.json", 61, 1),
        ("coco_val", 206, 80),
        ("coco_val/annotations/instances_val2017.json", 206, 80),
        ("nuclei/stage1_train", 48, 1),
        ("penn_fudan/PennFudanPed", 5, 1),
        ("penn_fudan", 5, 1),
        ("m2nist", 5000, 10),
        ("m2nist/m2nist.zip", 5000, 10),
    ],
)
def test_real_data(shared, path, images, classes):
    dataset = open_dataset(shared / "data" / path)
    assert dataset.num_images == images and dataset.num_classes == 1 + classes
    for image_id in (0, images - 1):
        masks, class_ids = dataset.load_mask(image_id)
        assert masks.shape == (*dataset.load_image(image_id).shape[:2], len(class_ids)) and len(class_ids) > 0


def test_real_data_with_images_in_another_folder(shared):
    with pytest.raises(UnknownFormat, match=r"train: VIA\n.*val: VIA"):
        open_dataset(shared / "data" / "balloon")
    with pytest.raises(UnknownFormat, match="1 .npz"):
        open_dataset(shared / "data" / "mnist")
