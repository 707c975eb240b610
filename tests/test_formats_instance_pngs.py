"""One PNG per object: the folders of the nuclei, images without ground truth, errors that name the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.instance_pngs import NucleiDataset
from mrcnn.data.training_sample import load_image_gt

H, W = 30, 40


def write_image(folder, name, masks=(), size=(H, W)):
    """A folder as the Data Science Bowl has it, with an RGBA image."""
    (folder / name / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / name / "images" / f"{name}.png"), np.full((*size, 4), 9, np.uint8))
    if masks is not None:
        (folder / name / "masks").mkdir()
        for i, mask in enumerate(masks):
            cv2.imwrite(str(folder / name / "masks" / f"{i}.png"), mask)


def square(y, x, side=5, value=255):
    mask = np.zeros((H, W), np.uint8)
    mask[y : y + side, x : x + side] = value
    return mask


def load(folder, **kwargs):
    dataset = NucleiDataset()
    dataset.load_nuclei(folder, **kwargs)
    dataset.prepare()
    return dataset


def test_one_mask_per_file(tmp_path):
    in_parts = square(1, 1) | square(20, 30, value=1)
    with_a_hole = square(5, 5, 9) - square(7, 7, 3)
    write_image(tmp_path, "b", [in_parts, with_a_hole, square(0, 0, 0)])
    write_image(tmp_path, "a")
    dataset = load(tmp_path)
    assert dataset.class_names == ["BG", "nucleus"] and [info["id"] for info in dataset.image_info] == ["a", "b"]
    assert dataset.load_image(1).shape == (H, W, 3)
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (H, W, 0) and class_ids.shape == (0,) and dataset.image_info[0]["masks"] == []
    masks, class_ids = dataset.load_mask(1)
    assert masks.dtype == bool and class_ids.tolist() == [1, 1]  # the third file is empty
    np.testing.assert_array_equal(masks, np.stack([in_parts, with_a_hole], axis=-1) != 0)


@pytest.mark.parametrize("form", ["gray", "rgb", "rgba", "16 bits", "1 bit", "palette"])
def test_masks_of_any_png_type(tmp_path, form):
    from PIL import Image

    write_image(tmp_path, "a")
    mask = square(3, 4)
    path = tmp_path / "a" / "masks" / "m.png"
    if form == "1 bit":
        Image.fromarray(mask != 0).save(path)
    elif form == "palette":
        picture = Image.fromarray((mask != 0).astype(np.uint8), "P")
        picture.putpalette([255, 255, 255, 0, 0, 0])
        picture.save(path)
    else:
        gray = mask.astype(np.uint16) * 256 if form == "16 bits" else mask
        channels = {"rgb": [mask] * 3, "rgba": [mask] * 3 + [np.full_like(mask, 255)]}
        cv2.imwrite(str(path), np.dstack(channels[form]) if form in channels else gray)
    np.testing.assert_array_equal(load(tmp_path).load_mask(0)[0][..., 0], mask != 0)


def test_images_without_masks(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path, name, None)
    dataset = load(tmp_path)
    assert dataset.image_info[0]["masks"] is None and dataset.load_mask(0)[0].shape == (H, W, 0)
    write_image(tmp_path, "c", [square(1, 1)])
    with pytest.warns(UserWarning, match="2 of 3 images have no masks folder.*a, b"):
        load(tmp_path)


def test_selected_images_and_custom_names(tmp_path):
    for name in ("a", "b", "c"):
        write_image(tmp_path, name, [square(1, 1)])
    dataset = NucleiDataset()
    dataset.load_nuclei(tmp_path, source="x", class_name="cell", image_names=["c", "a"])
    dataset.load_nuclei(tmp_path, source="y", image_names=["b"])
    dataset.prepare()
    assert [info["id"] for info in dataset.image_info] == ["a", "c", "b"]
    assert dataset.class_names == ["BG", "cell", "nucleus"] and dataset.load_mask(2)[1].tolist() == [2]
    with pytest.raises(FileNotFoundError, match="has no image e, f; it has 3 others"):
        load(tmp_path, image_names=["a", "f", "e"])
    assert pickle.loads(pickle.dumps(dataset)).load_mask(0)[1].tolist() == [1]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no folder; expected folders <id>"):
        load(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileNotFoundError, match="has x; expected folders <id>"):
        load(tmp_path)


def test_broken_images_are_errors_or_skipped(tmp_path):
    write_image(tmp_path, "a", [square(1, 1)])
    write_image(tmp_path, "b", [np.zeros((H, W + 1), np.uint8)])
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    with pytest.raises(BrokenAnnotation, match=r"b: mask: expected 0.png to be 30 x 40 .*got '30 x 41'"):
        load(tmp_path)
    (tmp_path / "c").mkdir()
    write_image(tmp_path, "d")
    cv2.imwrite(str(tmp_path / "d" / "images" / "other.png"), np.zeros((H, W), np.uint8))
    write_image(tmp_path, "e")
    (tmp_path / "e" / "masks" / "m.png").write_bytes(b"\x89PNG but no more")
    with pytest.warns(UserWarning, match="4 images are left out") as warned:
        dataset = load(tmp_path, skip_broken=True)
    assert [info["id"] for info in dataset.image_info] == ["a"]
    message = str(warned[0].message)
    assert (
        "c: images: expected a folder" in message
        and "['d.png', 'other.png']" in message
        and "m.png to be an im" in message
    )


def test_masks_that_break_after_loading(tmp_path):
    write_image(tmp_path, "a", [square(1, 1)])
    dataset = load(tmp_path)
    mask = tmp_path / "a" / "masks" / "0.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(BrokenAnnotation, match=r"0.png to be an image"):
        dataset.load_mask(0)
    cv2.imwrite(str(mask), np.dstack([square(1, 1), square(2, 2), square(1, 1)]))
    with pytest.raises(BrokenAnnotation, match=r"0.png to hold one number a pixel, got 'colors'"):
        dataset.load_mask(0)


def check_all(dataset, objects):
    config = Config()
    config.NUM_CLASSES = 2
    found = 0
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        assert masks.shape[:2] == dataset.load_image(image_id).shape[:2] and masks.any(axis=(0, 1)).all()
        found += len(class_ids)
    assert found == objects
    _, _, class_ids, boxes, _ = load_image_gt(dataset, config, 0, use_mini_mask=True)
    assert len(class_ids) == len(boxes) > 0


def test_shipped_nuclei():
    folder = Path(__file__).resolve().parent.parent / "samples" / "data" / "nuclei" / "stage1_train"
    dataset = load(folder)
    assert dataset.num_images == 6 and (folder.parent.parent / "README.md").read_text().count("CC0")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 1_500_000
    check_all(dataset, 186)


def test_real_nuclei(shared):
    dataset = load(shared / "data" / "nuclei" / "stage1_train")
    assert dataset.num_images == 48
    check_all(dataset, sum(len(info["masks"]) for info in dataset.image_info))
