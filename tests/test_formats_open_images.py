"""Open Images files: classes by name, masks of another size than the photo, folders; errors name the file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from formats_kit import H, W, photo, ring

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.open_images import OpenImagesDataset, resize

HEADER = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
NAMES = '/m/05zsy,Pumpkin\n/m/01yrx,Cat\n/m/0bt9lr,Dog\n/m/0x1,"Saw, hand"\n'
ROWS = [
    "a_m05zsy_1.png,a,/m/05zsy",
    "a_m01yrx_2.png,a,/m/01yrx",
    "b_m05zsy_3.png,b,/m/05zsy",
    "c_m0bt9lr_4.png,c,/m/0bt9lr",
]


def write_rows(folder, rows, name="train-annotations-object-segmentation.csv"):
    path = folder / name
    path.write_text("\n".join([HEADER, *(f"{row},1,0.1,0.9,0.1,0.9,0.8,0.5 0.5 1;0.2 0.2 0" for row in rows)]) + "\n")
    return path


def write_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


@pytest.fixture
def folder(tmp_path):
    """As downloaded: two CSV files, photos in train/, masks of half and of full size in train-masks-<a>/."""
    (tmp_path / "class-descriptions-boxable.csv").write_text(NAMES)
    write_rows(tmp_path, ROWS)
    for name in "abc":
        photo(tmp_path / "train" / f"{name}.jpg")
    for row in ROWS:
        name, image, _ = row.split(",")
        write_mask(tmp_path / f"train-masks-{image}" / name, ring() if name[0] != "b" else ring()[::2, ::2])
    return tmp_path


def load(folder, classes=("Pumpkin",), **kwargs):
    dataset = OpenImagesDataset()
    dataset.load_open_images(folder, classes, **kwargs)
    dataset.prepare()
    return dataset


def test_one_class(folder):
    dataset = load(folder)
    assert dataset.class_names == ["BG", "Pumpkin"] and [info["id"] for info in dataset.image_info] == ["a", "b"]
    masks, class_ids = dataset.load_mask(0)
    np.testing.assert_array_equal(masks[..., 0], ring())
    assert masks.dtype == bool and class_ids.tolist() == [1] and class_ids.dtype == np.int32
    assert dataset.load_image(0).shape == (H, W, 3)


@pytest.mark.parametrize(
    ("classes", "names", "ids"),
    [
        (["Cat", "Pumpkin"], ["Cat", "Pumpkin"], [2, 1]),
        (["pumpkin", "/m/01yrx"], ["Pumpkin", "Cat"], [1, 2]),
        ("CAT", ["Cat"], [1]),
    ],
)
def test_classes_by_name(folder, classes, names, ids):
    dataset = load(folder, classes)
    assert dataset.class_names == ["BG", *names] and dataset.load_mask(0)[1].tolist() == ids


def test_missing_classes_are_named(folder):
    with pytest.raises(
        BrokenAnnotation, match=r"class-descriptions.*DisplayName: expected to find 'Pumpkim', got \['Pumpkin'\]"
    ):
        load(folder, ["Pumpkim"])
    with pytest.raises(BrokenAnnotation, match=r"'Zebra', got '4 others'"):
        load(folder, ["Zebra"])
    with pytest.raises(BrokenAnnotation, match=r"LabelName: expected masks of Saw, hand \(/m/0x1\), got 'none'"):
        load(folder, ["Saw, hand"])
    with pytest.warns(UserWarning, match=r"has no masks of Saw, hand \(/m/0x1\)"):
        dataset = load(folder, ["Saw, hand", "Dog"])
    assert dataset.class_names == ["BG", "Saw", "Dog"] and dataset.load_mask(0)[1].tolist() == [2]


def test_masks_of_another_size_are_resized(folder):
    """A mask of half or of double size covers the same object."""
    mask = load(folder).load_mask(1)[0][..., 0]
    assert mask.shape == (H, W) and np.count_nonzero(mask ^ ring()) < 0.2 * ring().sum()
    assert not mask[7:9, 11:21].any() and mask[4:6, 5:29].all()  # the hole is one
    large = np.repeat(np.repeat(ring(), 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(resize(large, H, W), ring())
    third = np.zeros((3, 6), bool)
    third[1, 1] = third[:2, 3:] = True  # one pixel of nine, and six of nine
    np.testing.assert_array_equal(resize(third, 1, 2), [[False, True]])


def test_resized_masks_keep_their_position():
    """A straight edge in the middle stays in the middle, whatever the sizes."""
    for height, width in ((8, 8), (12, 20), (30, 40), (100, 60)):
        for target in ((10, 10), (64, 48), (200, 300)):
            half = np.zeros((height, width), bool)
            half[:, : width // 2] = True
            edge = resize(half, *target).sum(axis=1)
            assert (abs(edge - target[1] / 2) <= 1).all()


def test_an_empty_mask_is_dropped(folder):
    write_mask(folder / "train-masks-a" / "a_m05zsy_1.png", np.zeros((H, W)))
    masks, class_ids = load(folder, ["Pumpkin", "Cat"]).load_mask(0)
    assert masks.shape == (H, W, 1) and class_ids.tolist() == [2]


def test_the_number_of_images_can_be_limited(folder):
    assert [info["id"] for info in load(folder, limit=1).image_info] == ["a"]
    (folder / "train" / "a.jpg").unlink()
    with pytest.warns(UserWarning, match=r"1 images are left out"):
        assert [info["id"] for info in load(folder, limit=1, skip_broken=True).image_info] == ["b"]


def test_other_layouts(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for part in ("train", "train-masks-a", "train-masks-b"):
        (folder / part).rename(other / part)
    dataset = load(folder, images_dir=other / "train", masks_dir=other)
    assert dataset.num_images == 2 and dataset.load_mask(1)[0].any()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load(folder, images_dir=folder / "nowhere")

    fiftyone = tmp_path_factory.mktemp("fiftyone")
    photo(fiftyone / "data" / "a.jpg")
    write_mask(fiftyone / "labels" / "masks" / "A" / "a_m05zsy_1.png", ring())
    (fiftyone / "metadata").mkdir()
    (fiftyone / "metadata" / "classes.csv").write_text("LabelName,DisplayName\n" + NAMES)
    write_rows(fiftyone / "labels", ROWS[:1], "segmentations.csv")
    np.testing.assert_array_equal(load(fiftyone).load_mask(0)[0][..., 0], ring())


def test_several_subsets_in_a_folder(folder):
    second = write_rows(folder, ROWS[2:3], "validation-annotations-object-segmentation.csv")
    photo(folder / "validation" / "b.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"train-annotations.*, validation-annotations.*say which one in annotations="
    ):
        load(folder)
    dataset = load(folder, annotations=second, masks_dir=folder)
    assert [info["path"] for info in dataset.image_info] == [str(folder / "validation" / "b.jpg")]


def split_folders(top, layout):
    """Image a in train and b in validation, as tools sort them into folders."""
    for split, name, row in (("train", "a", ROWS[0]), ("validation", "b", ROWS[2])):
        csv = f"{split}-annotations-object-segmentation.csv"
        images, masks, rows = {
            "side by side": (split, f"{split}-masks-0", "."),
            "a folder each": (split, f"{split}/masks", split),
            "FiftyOne": (f"{split}/data", f"{split}/labels/masks/A", f"{split}/labels"),
        }[layout]
        photo(top / images / f"{name}.jpg")
        write_mask(top / masks / row.split(",")[0], ring())
        (top / rows).mkdir(exist_ok=True)
        write_rows(top / rows, [row], "segmentations.csv" if layout == "FiftyOne" else csv)
        if layout == "FiftyOne":
            (top / split / "metadata").mkdir()
            (top / split / "metadata" / "classes.csv").write_text(NAMES)
            (top / split / "metadata" / "segmentation_classes.csv").write_text("/m/05zsy\n/m/01yrx\n")
    if layout != "FiftyOne":
        (top / "class-descriptions-boxable.csv").write_text(NAMES)


@pytest.mark.parametrize("layout", ["side by side", "a folder each", "FiftyOne"])
def test_split_folders(tmp_path, layout):
    split_folders(tmp_path, layout)
    train, val = open_splits(tmp_path, classes=["Pumpkin"])
    assert [info["id"] for info in (*train.image_info, *val.image_info)] == ["a", "b"]
    assert train.load_mask(0)[0].any() and val.class_names == ["BG", "Pumpkin"]
    if layout != "side by side":
        assert open_dataset(tmp_path / "train", classes=["Pumpkin"]).num_images == 1


def test_all_missing_images_are_named(folder):
    for name in "ab":
        (folder / "train" / f"{name}.jpg").unlink()
    with pytest.raises(BrokenAnnotation, match=r"2 of 2 images have no image file: a\.jpg, b\.jpg"):
        load(folder)
    with pytest.raises(BrokenAnnotation, match=r"2 of 3 images have no image file.*\n.*skip_broken=True leaves these"):
        load(folder, ["Pumpkin", "Dog"])
    with pytest.warns(UserWarning, match="2 images are left out"):
        assert load(folder, ["Pumpkin", "Dog"], skip_broken=True, limit=1).image_info[0]["id"] == "c"


def test_missing_files_are_named(folder):
    (folder / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"class-descriptions-boxable\.csv .*descriptions="):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"names\.csv"):
        load(folder, descriptions=folder / "names.csv")
    (folder / "train-annotations-object-segmentation.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations-object-segmentation\.csv .*annotations="):
        load(folder)


CSV = "train-annotations-object-segmentation.csv"
CLASSES = "class-descriptions-boxable.csv"
MASK = "train-masks-b/b_m05zsy_3.png"


def change(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, CLASSES, "a,b,c\n"), r"boxable\.csv: line 1: columns: expected Lab"),
        (lambda f: change(f, CSV, ""), r"line 1: columns: expected MaskPath, ImageID, LabelName, got \[\]"),
        (lambda f: change(f, CSV, "ImageID,LabelName\n"), r"line 1: columns: .* got \['ImageID', 'LabelName'\]"),
        (lambda f: change(f, CSV, f"{HEADER}\na.png,a\n"), r"line 2: columns: expected 10 cells, got \['a.png', 'a'\]"),
        (lambda f: change(f, CSV, b"\xff\xfe\x00"), r"the file: text: expected CSV in UTF-8"),
        (lambda f: (f / "train/b.jpg").unlink(), r"image b: photo: expected to find .*train/b\.jpg"),
        (lambda f: change(f, "train/b.jpg", "no image"), r"image b: image file: expected .*b\.jpg to be an image"),
        (lambda f: (f / MASK).unlink(), r"image b: MaskPath: expected to find b_m05zsy_3\.png"),
        (lambda f: change(f, MASK, "no image"), r"image b: image file: expected .*b_m05zsy_3\.png"),
        (lambda f: write_mask(f / MASK, ring().T), r"image b: MaskPath: expected a mask .* of the "
         r"photo's proportions, 30 x 40 \(height x width\), got '40 x 30'"),
    ],
)  # fmt: skip
def test_errors_name_file_and_entry(folder, damage, message):
    damage(folder)
    with pytest.raises(BrokenAnnotation, match=message):
        load(folder)


def test_broken_images_can_be_skipped_with_a_warning(folder):
    (folder / "train-masks-b" / "b_m05zsy_3.png").unlink()
    with pytest.warns(UserWarning, match=r"1 images are left out.*\n.*image b: MaskPath"):
        assert [info["id"] for info in load(folder, skip_broken=True).image_info] == ["a"]


def test_a_damaged_mask_is_named_when_it_is_read(folder):
    path = folder / "train-masks-a" / "a_m05zsy_1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BrokenAnnotation, match=r"a: mask: expected .*a_m05zsy_1\.png to be an image"):
        load(folder).load_mask(0)
