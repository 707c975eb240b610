"""CSV files with run lengths: the dialects of Kaggle's competitions."""

from __future__ import annotations

import numpy as np
import pytest
from formats_kit import H, W, parts, photo, ring

from mrcnn.data import open_dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.rle_csv import RleCsvDataset


def runs(mask, by_rows=False):
    """Run lengths of a mask as Kaggle has them, counted pixel by pixel."""
    pixels = np.flatnonzero(mask.ravel() if by_rows else mask.T.ravel())
    groups = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    return " ".join(f"{group[0] + 1} {len(group)}" for group in groups)


def write(folder, text, *photos, name="train.csv"):
    for file in photos:
        photo(folder / "train_images" / file)
    path = folder / name
    path.write_text(text)
    return path


def test_the_example_matches_its_recorded_values(shared):
    dataset = open_dataset(shared / "cases" / "kaggle_rle_csv", classes=["ship"])
    assert dataset.num_images == 2 and dataset.class_names == ["BG", "ship"]
    assert [dataset.load_mask(i)[0].sum() for i in range(2)] == [377, 0]


def test_runs_go_down_the_columns_by_default(tmp_path):
    path = write(
        tmp_path, f"ImageId,EncodedPixels\na.png,{runs(ring())}\na.png,{runs(parts())}\nb.png,\n", "a.png", "b.png"
    )
    write(tmp_path, "ImageId,EncodedPixels\na.png,1 1\n", name="sample_submission.csv")
    for place in (path, tmp_path):
        dataset = open_dataset(place)
        masks, _ = dataset.load_mask(0)
        assert np.array_equal(masks, np.stack([ring(), parts()], axis=-1))
        assert dataset.load_mask(1)[0].shape == (H, W, 0)


def test_sartorius_runs_go_along_the_rows(tmp_path):
    text = "id,annotation,width,height,cell_type,plate_time\n"
    text += f"0030fd,{runs(ring(), True)},{W},{H},cort,11h\n0030fd,{runs(parts(), True)},{W},{H},astro,11h\n"
    dataset = open_dataset(write(tmp_path, text, "0030fd.png"))
    masks, class_ids = dataset.load_mask(0)
    assert np.array_equal(masks, np.stack([ring(), parts()], axis=-1))
    assert dataset.class_names == ["BG", "astro", "cort"] and class_ids.tolist() == [2, 1]
    with pytest.raises(BrokenAnnotation, match=f"height: expected {H}"):
        open_dataset(write(tmp_path, text.replace(f"{W},{H}", f"{W},31")))


@pytest.mark.parametrize("header", ["ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"])
def test_severstal_class_numbers_become_classes(tmp_path, header):
    joined = "_" if "_" in header else ","
    text = f"{header}\na.png{joined}3,{runs(ring())}\na.png{joined}1,{runs(parts())}\n"
    path = write(tmp_path, text, "a.png")
    assert open_dataset(path).class_names == ["BG", "1", "3"]
    dataset = open_dataset(path, classes=["hole", "scratch", "patch"])
    assert dataset.load_mask(0)[1].tolist() == [3, 1] and dataset.class_names[3] == "patch"
    with pytest.raises(BrokenAnnotation, match="names of the classes up to 3"):
        open_dataset(path, classes=["hole", "scratch"])


def test_rows_that_share_pixels_are_counted(tmp_path):
    path = write(tmp_path, "ImageId,EncodedPixels\na.png,1 5\na.png,5 2\nb.png,1 5\nb.png,6 2\n", "a.png", "b.png")
    with pytest.warns(UserWarning, match=r"in 1 of 2 images, rows share pixels: a.png"):
        dataset = open_dataset(path)
    assert dataset.load_mask(0)[0].sum(axis=(0, 1)).tolist() == [5, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "line 2: runs: expected pairs of whole numbers.*got '3 words'"),
        ("1 x", "pairs of whole numbers.*got 'x'"),
        ("0 3", "runs of the image's 1200 pixels, counted from 1, got '0 3'"),
        ("1199 3", "got '1199 3'"),
        ("5 0", "got '5 0'"),
        ("1e9 1", "got '1e9'"),
        ("99999999999999999999 1", "pairs of whole numbers"),
    ],
)
def test_broken_runs_are_named(tmp_path, text, message):
    path = write(tmp_path, f"ImageId,EncodedPixels\na.png,{text}\n", "a.png")
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(path)


def test_other_broken_files_are_named(tmp_path):
    path = write(tmp_path, "ImageId,EncodedPixels\nb.png,1 2\na.png,1 2\n", "a.png")
    with pytest.raises(BrokenAnnotation, match=r"image b\.png: image file: expected to find .*b\.png"):
        open_dataset(path)
    assert open_dataset(path, skip_broken=True).num_images == 1
    with pytest.raises(BrokenAnnotation, match="columns: expected one called encodedpixels or"):
        RleCsvDataset().load_rle_csv(write(tmp_path, "ImageId,x\n"))
