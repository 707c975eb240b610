"""YOLO files written by this package: masks that are read back are equal in every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from formats_kit import Drawn, H, W, masks_of_every_kind, objects, photo, ring

from mrcnn.data import open_dataset
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.coco import CocoDataset
from mrcnn.data.formats.via import ViaDataset
from mrcnn.data.formats.yolo import YoloSegDataset
from mrcnn.data.formats.yolo_writer import save_yolo


def read(data_yaml, split="train"):
    """{file stem: (masks, names)}"""
    dataset = YoloSegDataset()
    dataset.load_yolo(data_yaml, split=split)
    dataset.prepare()
    return {info["id"].rsplit(".", 1)[0]: objects(dataset, i) for i, info in enumerate(dataset.image_info)}, dataset


def assert_comes_back(dataset, folder):
    again, _ = read(save_yolo(dataset, folder))
    assert len(again) == dataset.num_images
    for (masks, names), (other, other_names) in zip(again.values(), in_order(dataset)):
        assert names == other_names
        np.testing.assert_array_equal(masks, other)


def in_order(dataset):
    """Objects that aren't crowds, by the names of the images' files."""
    paths = [info["path"] for info in dataset.image_info]
    for i in sorted(dataset.image_ids, key=lambda i: paths[i]):
        masks, names = objects(dataset, i)
        kept = [k for k, (_, crowd) in enumerate(names) if not crowd]
        yield masks[..., kept], [names[k] for k in kept]


def test_masks_of_every_kind_survive_the_round_trip(tmp_path):
    """Holes, islands, parts, a pixel, a diagonal line, noise, the whole image."""
    masks = masks_of_every_kind()
    with pytest.warns(UserWarning, match="1 crowds are left out"):
        again, other = read(save_yolo(Drawn(masks), tmp_path))
    kept = [i for i in range(masks.shape[-1] - 1) if i != 2]
    np.testing.assert_array_equal(again["drawn_full"][0], masks[..., kept])
    assert again["drawn_empty"][0].shape == (H, W, 0) and other.class_names == ["BG", "cat", "dog"]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("place", [(0, 0), (0, W - 1), (H - 1, 0), (H - 1, W - 1), (5, 0), (0, 7)])
def test_pixels_at_the_border_of_the_image(tmp_path, place):
    """An outline around the pixel would be outside of the image, and YOLO refuses coordinates below 0."""
    mask = ring()
    mask[place] = True
    with pytest.warns(UserWarning, match="crowds"):
        again, _ = read(save_yolo(Drawn(np.stack([mask, mask, mask], axis=-1)), tmp_path))
    np.testing.assert_array_equal(again["drawn_full"][0][..., 0], mask)
    numbers = [float(word) for word in (tmp_path / "labels/train/drawn_full.txt").read_text().split()]
    assert min(numbers) == 0 and max(numbers) <= 1


def test_random_masks(tmp_path):
    rng = np.random.default_rng(3)
    masks = rng.random((H, W, 20)) < rng.uniform(0.02, 0.98, 20)
    dataset = Drawn(masks)
    dataset.load_mask = lambda i: (masks if i == 0 else masks[..., :0], np.ones(20 if i == 0 else 0, np.int32))
    again, _ = read(save_yolo(dataset, tmp_path))
    np.testing.assert_array_equal(again["drawn_full"][0], masks)


@pytest.mark.filterwarnings("ignore:.*crowds are left out")
def test_real_images(shared, tmp_path):
    balloons = ViaDataset()
    balloons.load_via(shared / "data" / "balloon" / "val", source="balloon", class_name="balloon")
    balloons.image_info = balloons.image_info[:3]
    balloons.prepare()
    assert_comes_back(balloons, tmp_path / "balloon")
    coco = CocoDataset()
    coco.load_coco(shared / "data" / "coco_val", "val", year="2017")
    coco.image_info = coco.image_info[:12]
    coco.prepare()
    assert_comes_back(coco, tmp_path / "coco")


def test_a_rotated_photo_is_written_as_it_was_read(tmp_path):
    photo(tmp_path / "a.png", orientation=6)
    dataset = Dataset()
    dataset.add_class("x", 1, "cat")
    dataset.add_image("x", 1, str(tmp_path / "a.png"))
    mask = np.zeros((*dataset.load_image(0).shape[:2], 1), bool)
    mask[2:9, 3:20] = True
    dataset.load_mask = lambda i: (mask, np.array([1]))
    dataset.prepare()
    again, other = read(save_yolo(dataset, tmp_path / "out"))
    ((masks, _),) = again.values()
    np.testing.assert_array_equal(masks, mask)
    np.testing.assert_array_equal(other.load_image(0), dataset.load_image(0))


def test_splits_share_a_data_yaml(tmp_path):
    with pytest.warns(UserWarning, match="crowds"):
        for split in ("train", "val"):
            save_yolo(Drawn(masks_of_every_kind()), tmp_path, split=split)
    assert open_dataset(tmp_path).num_images == 2 and read(tmp_path / "data.yaml", "val")[1].num_images == 2


def test_invalid_arguments_are_named(tmp_path):
    dataset = Drawn(np.zeros((H, W, 0), bool))
    save_yolo(dataset, tmp_path)
    with pytest.raises(ValueError, match="images/train has files already"):
        save_yolo(dataset, tmp_path)
    dataset.class_info[1]["name"] = "horse"
    with pytest.raises(ValueError, match=r"data\.yaml has other classes"):
        save_yolo(dataset, tmp_path, split="val")
    with pytest.raises(ValueError, match="split is 'valid'; expected one of train, val, test"):
        save_yolo(dataset, tmp_path, split="valid")
    dataset.image_info[0]["path"] = "https://example.org/a.png"
    with pytest.raises(ValueError, match=r"https://example.org/a.png can't be copied"):
        save_yolo(dataset, tmp_path / "new")
