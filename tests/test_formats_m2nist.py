"""M2NIST: label maps and channels, folder and zip, equal digits separated, broken digits joined."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.m2nist import M2nistDataset, boxes_of_parts, join_boxes, split_by_boxes

H, W = 64, 84
DIGITS = [  # of each image: digit, y1, x1, y2, x2
    [(3, 5, 5, 25, 20), (0, 30, 40, 50, 55)],
    [(7, 5, 5, 25, 20), (7, 5, 21, 25, 40)],  # equal and side by side
    [],
    [(5, 10, 10, 14, 22), (5, 18, 10, 30, 22), (2, 40, 60, 60, 70)],  # a broken stroke of 5
]


def arrays(one_hot=False, dtype=np.uint8):
    labels = np.full((len(DIGITS), H, W), 10, dtype)
    for own, digits in zip(labels, DIGITS):
        for digit, y1, x1, y2, x2 in digits:
            own[y1:y2, x1:x2] = digit
    images = np.where(labels == 10, 0, 200).astype(np.uint8)
    return images, (labels[..., None] == np.arange(11)).astype(dtype) if one_hot else labels


def lines():
    def box(digit, y1, x1, y2, x2):
        return f"{x1 - 2},{y1 - 2},{x2 + 2},{y2 + 2},{digit}"

    return [f"{i}" + "".join(f"\t{box(*one)}" for one in own) for i, own in enumerate(DIGITS)]


def write(folder, boxes=True, **kwargs):
    images, labels = arrays(**kwargs)
    np.save(folder / "combined.npy", images)
    np.save(folder / "segmented.npy", labels)
    if boxes:
        (folder / "bbox.txt").write_text("\n".join(lines()) + "\n")
    return folder


def load(path, *args, **kwargs):
    dataset = M2nistDataset()
    dataset.load_m2nist(path, *args, **kwargs)
    dataset.prepare()
    return dataset


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_label_maps_and_channels(tmp_path, one_hot, dtype):
    dataset = load(write(tmp_path, one_hot=one_hot, dtype=dtype))
    assert dataset.class_names == ["BG", *"0123456789"] and dataset.num_images == 4
    image = dataset.load_image(0)
    assert image.shape == (H, W, 3) and image.dtype == np.uint8 and image[10, 10].tolist() == [200] * 3
    masks, class_ids = dataset.load_mask(0)
    assert masks.dtype == bool and class_ids.tolist() == [1, 4] and class_ids.dtype == np.int32
    assert masks[30:50, 40:55, 0].all() and masks[..., 0].sum() == 300 and masks[5:25, 5:20, 1].all()
    masks, class_ids = dataset.load_mask(2)
    assert masks.shape == (H, W, 0) and len(class_ids) == 0


def test_equal_digits_and_split_digits(tmp_path):
    dataset = load(write(tmp_path))
    masks, class_ids = dataset.load_mask(1)
    assert class_ids.tolist() == [8, 8] and masks.sum(axis=(0, 1)).tolist() == [300, 380]
    masks, class_ids = dataset.load_mask(3)
    assert class_ids.tolist() == [3, 6] and masks[..., 1].sum() == 12 * 16
    (tmp_path / "bbox.txt").unlink()
    alone = load(tmp_path)
    np.testing.assert_array_equal(alone.load_mask(3)[0], masks)


def test_channels_may_overlap(tmp_path):
    images, channels = arrays(one_hot=True)
    channels[0, 10:20, 10:20, 8] = 1  # on the 3, and so on it
    np.save(tmp_path / "combined.npy", images)
    np.save(tmp_path / "segmented.npy", channels)
    masks, class_ids = load(tmp_path).load_mask(0)
    assert class_ids.tolist() == [1, 4, 9] and masks.sum(axis=(0, 1)).tolist() == [300, 300, 100]


def test_hand_computed_boxes():
    layer = np.zeros((9, 9), bool)
    assert boxes_of_parts(layer).shape == (0, 4)
    layer[1:3, 2] = layer[3, 3] = layer[6:8, 5:9] = True
    assert boxes_of_parts(layer).tolist() == [[2, 1, 4, 4], [5, 6, 9, 8]]
    one, other = split_by_boxes(layer, boxes_of_parts(layer))
    assert one.sum() == 3 and other.sum() == 8
    boxes = np.array([[0, 0, 2, 9], [30, 0, 40, 9], [4, 0, 9, 9], [9, 0, 12, 5]])
    assert sorted(join_boxes(boxes, 20).tolist()) == [[0, 0, 12, 9], [30, 0, 40, 9]]
    assert join_boxes(boxes, 2).tolist() == boxes.tolist() and join_boxes(boxes[:0], 20).shape == (0, 4)


def test_a_subset_can_be_opened_by_any_path(tmp_path):
    write(tmp_path, one_hot=True)
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("combined.npy", "segmented.npy", "bbox.txt"):
            archive.write(tmp_path / name, f"set/{name}")
    whole = load(tmp_path)
    for path in (tmp_path / "combined.npy", tmp_path / "m.zip"):
        dataset = load(path, 1, 3)
        assert [info["id"] for info in dataset.image_info] == [1, 2]
        np.testing.assert_array_equal(dataset.load_mask(0)[0], whole.load_mask(1)[0])
    dataset = M2nistDataset()
    dataset.load_m2nist(tmp_path, 0, 1)
    dataset.load_m2nist(tmp_path, 3)
    dataset.prepare()
    assert [info["id"] for info in dataset.image_info] == [0, 3]
    assert pickle.loads(pickle.dumps(dataset)).load_mask(1)[1].tolist() == [3, 6]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no combined.npy"):
        load(tmp_path)
    np.save(tmp_path / "combined.npy", arrays()[0])
    with pytest.raises(FileNotFoundError, match=r"has no segmented.npy"):
        load(tmp_path)


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (-1, 3), (0, 5), (4, None)])
def test_image_numbers_out_of_range_are_refused(tmp_path, start, stop):
    with pytest.raises(ValueError, match=r"has images 0 to 3"):
        load(write(tmp_path), start, stop)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("combined.npy", np.zeros((4, H, W), np.float32), r"combined.npy: array: expected .*float32"),
        ("combined.npy", np.zeros((4, H), np.uint8), r"combined.npy: array"),
        ("combined.npy", np.asfortranarray(np.zeros((4, H, W), np.uint8)), r"by columns"),
        ("segmented.npy", np.zeros((3, H, W), np.uint8), r"segmented.npy: array: expected \[4, 64, 84\] digits"),
        ("segmented.npy", np.full((4, H, W), 11, np.uint8), r"values: expected whole numbers from 0 to 10.*11"),
        ("segmented.npy", np.full((4, H, W), 0.5), r"values: expected whole"),
        ("segmented.npy", np.full((4, H, W, 11), 255, np.uint8), r"values: expected 0 and 1"),
        ("combined.npy", b"no array", r"combined.npy: header: expected a NumPy array file"),
        ("bbox.txt", b"0\t1,2,3,4,5\n", r"bbox.txt: the file: lines: expected one an image, 4, got 1"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    write(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(BrokenAnnotation, match=message):
        load(tmp_path)


def test_truncated_files_are_named(tmp_path):
    write(tmp_path)
    content = (tmp_path / "segmented.npy").read_bytes()
    (tmp_path / "segmented.npy").write_bytes(content[:-100])
    with pytest.raises(BrokenAnnotation, match=r"segmented.npy: content: expected 21504 bytes, got '21404 bytes'"):
        load(tmp_path)
    (tmp_path / "m.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BrokenAnnotation, match="a whole zip file"):
        load(tmp_path / "m.zip")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0\t1,2,3\t5,6,7,8,9", "boxes: expected x1,y1,x2,y2,digit"),
        ("0\t1,2,x,4,5", "boxes: expected x1,y1,x2,y2,digit"),
        ("0\t9,2,3,4,3\t1,1,2,2,0", "boxes: expected x1 < x2"),
        ("0\t1,2,3,4,3", r"digits: expected those of segmented.npy, \[0, 3\], got \[3\]"),
        ("7\t1,2,3,4,3\t1,1,2,2,0", "number: expected 0"),
    ],
)
def test_broken_boxes_are_named(tmp_path, line, message):
    write(tmp_path)
    (tmp_path / "bbox.txt").write_text("\n".join([line, *lines()[1:]]))
    with pytest.raises(BrokenAnnotation, match=f"image 0: {message}"):
        load(tmp_path)
    with pytest.warns(UserWarning, match="1 images are left out"):
        assert load(tmp_path, skip_broken=True).num_images == 3


def test_real_m2nist(shared):
    dataset = load(shared / "data" / "m2nist" / "m2nist.zip")
    assert dataset.num_images == 5000
    counts = []
    for image_id, info in zip(dataset.image_ids, dataset.image_info):
        masks, class_ids = dataset.load_mask(image_id)
        counts.append(len(class_ids))
        if image_id % 50 == 0:  # with the boxes or without, the objects are the same
            info["boxes"] = None
            np.testing.assert_array_equal(np.sort(dataset.load_mask(image_id)[1]), np.sort(class_ids))
            assert masks.any(axis=(0, 1)).all()
            assert (masks.sum(axis=-1) <= 1).all() and masks.any(axis=-1).sum() == (info["digits"] != 0).sum()
    assert sum(counts) == 10_260 and set(counts) == {2, 3}
