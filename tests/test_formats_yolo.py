"""YOLO files: outlines and boxes, joined parts and holes, variants of data.yaml; errors name the line."""

from __future__ import annotations

import numpy as np
import pytest
from formats_kit import H, W, parts, photo, ring

from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.yolo import YoloSegDataset, split_at_bridges


def line(points, number=0):
    """Points in pixels as a line of a file."""
    return " ".join([str(number), *(f"{x / W:.6f} {y / H:.6f}" for x, y in points)])


def corners(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def joined(first, second):
    """Two outlines as Ultralytics joins them: each closed, the second reached and left at its first corner."""
    return [*first, first[0], *second, second[0]]


@pytest.fixture
def folder(tmp_path):
    """Ultralytics' layout: images/train/a.png and b.png, labels/train, data.yaml."""
    for name in "ab":
        photo(tmp_path / "images" / "train" / f"{name}.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n")
    return tmp_path


def write(folder, text, name="a.txt"):
    path = folder / "labels" / "train" / name
    path.write_text(text)
    return path


def load(path, **kwargs):
    dataset = YoloSegDataset()
    dataset.load_yolo(path, **kwargs)
    dataset.prepare()
    return dataset


# ---- Lines -----------------------------------------------------------------------------------------------------------
def test_images_without_objects(folder):
    write(folder, "\n\n")
    dataset = load(folder)
    assert [info["id"] for info in dataset.image_info] == ["a.png", "b.png"]  # b has no file of labels
    for i in (0, 1):
        masks, class_ids = dataset.load_mask(i)
        assert masks.shape == (H, W, 0) and masks.dtype == bool and class_ids.shape == (0,)
    assert dataset.class_names == ["BG", "cat", "dog"] and dataset.load_image(0).shape == (H, W, 3)


def test_hand_computed_outlines_and_boxes(folder):
    box = f"0 {10 / W} {8 / H} {8 / W} {4 / H}"
    write(
        folder,
        "\n".join([line(corners(3, 2, 9, 8), 1), "", box, line([(3, 3)] * 3), f"1.0 {line(corners(0, 0, W, H))[2:]}"]),
    )
    masks, class_ids = load(folder / "data.yaml").load_mask(0)
    assert class_ids.tolist() == [2, 1, 1, 2] and class_ids.dtype == np.int32
    assert np.argwhere(masks[..., 0])[[0, -1]].tolist() == [[2, 3], [8, 9]] and masks[..., 0].sum() == 49
    assert np.argwhere(masks[..., 1])[[0, -1]].tolist() == [[6, 6], [9, 13]] and masks[..., 1].sum() == 32
    assert np.argwhere(masks[..., 2]).tolist() == [[3, 3]] and masks[..., 3].all()


def test_empty_objects_are_dropped_and_repeated_lines_count_once(folder):
    one = line(corners(3, 2, 9, 8))
    write(folder, "\n".join([one, line([(3.2, 3.2), (3.4, 3.2), (3.4, 3.4)]), one, "0 0.5 0.5 0 0"]))
    assert load(folder).load_mask(0)[1].tolist() == [1]


def test_joined_parts_are_separated(folder):
    write(folder, line(joined(corners(2, 22, 11, 27), corners(31, 2, 37, 8))))
    np.testing.assert_array_equal(load(folder).load_mask(0)[0][..., 0], parts())


def test_joined_holes_are_cut_out(folder):
    # The outline of a hole goes through the pixels around it, as OpenCV finds it.
    hole = joined(corners(4, 3, 29, 20), corners(9, 5, 22, 16)[::-1])
    island = joined(hole, corners(13, 9, 17, 11))
    write(folder, line(island))
    np.testing.assert_array_equal(load(folder).load_mask(0)[0][..., 0], ring())


def test_three_parts_as_ultralytics_joins_them():
    a, b, c = (np.array(corners(x, 0, x + 4, 4), float) for x in (0, 10, 20))
    # Out to the last one through one side of the middle one, and back through the other.
    there = [a[1], a[2], a[3], a[0], a[1], b[0], b[1], c[0], c[1], c[2], c[3], c[0]]
    rings = split_at_bridges(np.array([*there, b[1], b[2], b[3], b[0]]))
    assert len(rings) == 3
    assert sorted(tuple(ring.min(axis=0)) for ring in rings) == [(0, 0), (10, 0), (20, 0)]


def test_a_thin_spike_is_not_a_bridge():
    hair = np.array([(0, 0), (4, 0), (9, 0), (4, 0), (4, 4), (0, 4)], float)
    assert len(split_at_bridges(hair)) == 1
    assert len(split_at_bridges(np.array([(0, 0), (5, 0)] * 2, float))) == 1


# ---- Where things are ------------------------------------------------------------------------------------------------
def test_a_folder_of_labels(folder):
    write(folder, line(corners(3, 2, 9, 8), 1))
    labels = folder / "labels" / "train"
    for dataset in (
        load(labels),
        load(folder / "labels", split="train"),
        load(labels, images_dir=folder / "images/train"),
    ):
        assert dataset.class_names == ["BG", "cat", "dog"] and dataset.num_images == 2
        assert dataset.load_mask(0)[1].tolist() == [2]
    (folder / "data.yaml").unlink()
    assert load(labels).class_names == ["BG", "0", "1"]
    assert load(labels, classes=["owl", "cow", "pig"]).class_names == ["BG", "owl", "cow", "pig"]
    (labels / "classes.txt").write_text("ant\nbee\n")
    assert load(labels).class_names == ["BG", "ant", "bee"]
    again = folder / "images" / "set"
    photo(again / "images" / "train" / "a.png")
    (again / "labels" / "train").mkdir(parents=True)
    (again / "labels" / "train" / "a.txt").write_text(line(corners(3, 2, 9, 8)))
    assert load(again / "labels" / "train").num_images == 1  # the last folder of that name counts
    (folder / "data.yaml").write_text("train: images/set/images\nnames: [cat]\n")
    assert load(folder).load_mask(0)[1].tolist() == [1]
    with pytest.raises(FileNotFoundError, match="holds train"):
        load(folder / "labels", images_dir=folder)
    with pytest.raises(FileNotFoundError, match="no such folder or data.yaml"):
        load(folder / "label")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load(labels, images_dir=folder / "nowhere")


def test_labels_beside_the_images(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.4\n")
    assert load(tmp_path).load_mask(0)[0].sum() == 20 * 12


def test_splits(folder):
    for split in ("val", "test"):
        photo(folder / split / "images" / "deep" / f"{split}.jpg")
    (folder / "list.txt").write_text("./images/train/b.png\n\n")
    splits = "train: [images/train]\nval: ../val/images\ntest:\n  - test/images\n  - list.txt\n"
    (folder / "data.yaml").write_text(f"path: elsewhere\n{splits}names: [cat]\n")
    ids = {
        split: [info["id"] for info in load(folder, split=split).image_info] for split in ("train", "val", "test", None)
    }
    assert ids == {
        "train": ["a.png", "b.png"],
        "val": ["val.jpg"],
        "test": ["test.jpg", "b.png"],
        None: ["a.png", "b.png"],
    }
    assert len(load(folder, images_dir=folder / "images" / "train", split="val").image_info) == 2


def test_classes_can_be_selected(folder):
    write(folder, "\n".join(line(corners(3, 2, 9, 8), number) for number in (0, 1, 1)))
    with pytest.raises(BrokenAnnotation, match=r"names: class: expected to find 'dgo', got \['cat', 'dog'\]"):
        load(folder, classes=["dgo"])


def test_one_of_several_classes_can_be_selected(folder):
    write(folder, "\n".join([line(corners(3, 2, 9, 8), 0), line(corners(3, 2, 9, 9), 1), line(corners(3, 2, 8, 8), 1)]))
    with pytest.warns(UserWarning, match=r"aren't of the classes \['dog'\] are left out: 'cat' \(1\)"):
        dataset = load(folder, classes="dog")
    assert dataset.class_names == ["BG", "dog"] and dataset.load_mask(0)[1].tolist() == [1, 1]


def test_rotated_photos_are_read_upright(folder):
    photo(folder / "images" / "train" / "a.png", orientation=8)
    write(folder, "0 0.5 0.5 1 1")
    dataset = load(folder)
    assert dataset.load_image(0).shape == (W, H, 3) and dataset.load_mask(0)[0].shape == (W, H, 1)


# ---- data.yaml -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('names: [\'cat\', "do\\"g", no, "a, b"]', ["cat", 'do"g', "no", "a, b"]),
        ("names:\n- cat\n- 'dog # 2'  # two\n", ["cat", "dog # 2"]),
        ("names: {0: cat, '1': \"dog: big\"}", ["cat", "dog: big"]),
        ("names:\n  1: c#\n  0: driver's license\n\n  # none\n", ["driver's license", "c#"]),
        ("names: [cat, 1e3]\nval: ~\ndownload: |\n  import x\n  names: y\n", ["cat", "1e3"]),
        ("---\n'names': [x, y]\n", ["x", "y"]),
    ],
)
def test_class_names_in_data_yaml_are_not_converted(folder, text, names):
    (folder / "data.yaml").write_text(
        f"train: images/train\n{text}" if "---" not in text else f"{text}train: images/train"
    )
    assert [info["name"] for info in load(folder).class_info] == ["BG", *names]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: x\nnames: [cat, dog\n", r"data\.yaml: line 3: text: expected YAML, got"),
        ("names:\n  - cat\n  0: dog\n", r"data\.yaml: line 3: text: expected YAML"),
        ("- a\n- b\n", r"data\.yaml: the file: content: expected keys like"),
        ("names: \x00", r"data\.yaml: the file: text: expected YAML"),
        ("path: [a]\ntrain: x\nnames: [cat]", r"the file: path: expected a folder"),
        ("train: [[a]]\nnames: [cat]", r"the file: train: expected a folder of images"),
        ("train: images/train\nnames: [[cat]]", r"the file: names: expected a list of names"),
        ("val: x\nnames: [a]", r"the file: train: expected a folder of images, got 'only val'"),
        ("train: x\nnames: [a]", r"the file: splits: expected to find .*x, got 'nothing there'"),
        ("train: " + "[" * 50_000, r"line 1: text: expected YAML, got 'more than 8 brackets in each other'"),
        ("train: images/train\nnames: cat", r"the file: names: expected a list of names.* got 'cat'"),
        ("train: images/train\nnames: {a: cat}", r"the file: names: .* got \{'a': 'cat'\}"),
    ],
)
def test_a_broken_data_yaml_is_named(folder, text, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(BrokenAnnotation, match=message):
        load(folder)


def test_data_yaml_without_names(folder):
    (folder / "data.yaml").write_text("train: images/train\nnc: 2\n")
    write(folder, line(corners(3, 2, 9, 8), 1))
    assert load(folder).class_names == ["BG", "0", "1"]
    assert load(folder, classes=["cat", "dog"]).class_names == ["BG", "cat", "dog"]


# ---- Broken files ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 x 0.5", r"a\.txt: line 1: line: expected numbers, got '0 0.5 0.5 x 0.5'"),
        ("\n2 0.5 0.5 0.5 0.5", r"line 2: class: expected one of the classes \[0, 1\], got '2'"),
        ("0.5 0.5 0.5 0.5 0.5", r"line 1: class: expected one of the classes"),
        ("nan 0.5 0.5 0.5 0.5", r"line 1: class: .* got 'nan'"),
        ("0 0.5 0.5", r"line 1: line: expected a class and the 4 numbers of a box, or .* got '3 numbers'"),
        ("0 0.5 0.5 0.5 0.5 0.9", r"line 1: line: .* got '6 numbers'"),
        ("0 0.1 0.1 0.5 0.5 0.9 0.9 0.7", r"line 1: line: .* got '8 numbers'"),
        ("0 0.1 0.1 0.5 1.5 0.9 0.9", r"line 1: coordinates: expected shares .* 0..1, got '1.5'"),
        ("0 10 12 20 30", r"line 1: coordinates: .* got '10'"),
        ("0 0.1 0.1 0.5 nan", r"line 1: coordinates: .* got 'nan'"),
        ("0 -0.1 0.1 0.5 0.5", r"line 1: coordinates: .* got '-0.1'"),
    ],
)
def test_errors_name_file_and_entry(folder, text, message):
    path = write(folder, text)
    with pytest.raises(BrokenAnnotation, match=message) as caught:
        load(folder)
    assert str(path) in str(caught.value)


def test_binary_labels_and_unreadable_images_are_named(folder):
    path = write(folder, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BrokenAnnotation, match=r"a\.txt: byte 0: text: expected numbers"):
        load(folder)
    path.write_text("")
    (folder / "images" / "train" / "a.png").write_text("no image")
    with pytest.raises(BrokenAnnotation, match=r"a\.txt: the image: image file: expected .*a\.png to be an image"):
        load(folder)


def test_labels_without_an_image_are_skipped_with_a_warning(folder):
    write(folder, "0 0.5 0.5 0.5 0.5")
    write(folder, "0 0.5 0.5 0.5 0.5", "lost.txt")
    for path in (folder, folder / "labels" / "train"):
        with pytest.warns(UserWarning, match=r"no image for 1 text files of labels.*: lost\.txt") as caught:
            dataset = load(path)
        assert [info["id"] for info in dataset.image_info] == ["a.png", "b.png"]
        assert sum("no image for" in str(warning.message) for warning in caught) == 1
        assert caught[0].filename == __file__
    for name in ("a.png", "b.png"):
        (folder / "images" / "train" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"images/train has no images; expected those of the labels in"):
        load(folder / "labels" / "train")


def test_images_differing_only_in_extension_both_count(folder):
    photo(folder / "images" / "train" / "a.jpg")
    write(folder, "0 0.5 0.5 0.5 0.5")
    assert [len(load(folder / "labels" / "train").load_mask(i)[1]) for i in range(3)] == [1, 1, 0]


def test_all_missing_images_of_a_list_are_named(folder):
    (folder / "train.txt").write_text("images/train/a.png\nimages/train/x.png\nimages/train/y.png\n")
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    with pytest.raises(BrokenAnnotation, match=r"2 of 3 images have no image file: x\.png, y\.png\.\nskip_broken=True"):
        load(folder)


def test_broken_images_can_be_skipped_with_a_warning(folder):
    write(folder, "0 0.5")
    write(folder, "0 0.5 0.5 0.5 0.5", "b.txt")
    with pytest.warns(UserWarning, match=r"1 images are left out.*\n.*a\.txt: line 1: line"):
        dataset = load(folder, skip_broken=True)
    assert [info["id"] for info in dataset.image_info] == ["b.png"]
