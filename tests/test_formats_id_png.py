"""Object numbers as pixel values: Penn-Fudan's folders, palettes, masks without images and images without masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.id_png import IdPngDataset, PennFudanDataset

H, W = 30, 40
IDS = np.zeros((H, W), np.uint8)
IDS[2:8, 3:9] = 1
IDS[20:25, 30:40] = 4  # numbers may have gaps, and an object parts
IDS[0, 0] = 4


@pytest.fixture
def folder(tmp_path):
    """A set of Penn-Fudan's form with two images."""
    for part in ("PNGImages", "PedMasks", "Annotation"):
        (tmp_path / part).mkdir()
    for name, ids in (("p1", IDS), ("p2", np.zeros_like(IDS))):
        cv2.imwrite(str(tmp_path / "PNGImages" / f"{name}.png"), np.full((H, W, 3), 7, np.uint8))
        cv2.imwrite(str(tmp_path / "PedMasks" / f"{name}_mask.png"), ids)
    return tmp_path


def load(folder, **kwargs):
    dataset = PennFudanDataset()
    dataset.load_penn_fudan(folder, **kwargs)
    dataset.prepare()
    return dataset


def test_pixel_values_become_masks(folder):
    dataset = load(folder)
    assert dataset.class_names == ["BG", "person"] and [info["id"] for info in dataset.image_info] == ["p1", "p2"]
    masks, class_ids = dataset.load_mask(0)
    assert masks.dtype == bool and class_ids.tolist() == [1, 1] and class_ids.dtype == np.int32
    np.testing.assert_array_equal(masks, np.stack([IDS == 1, IDS == 4], axis=-1))
    masks, class_ids = dataset.load_mask(1)
    assert masks.shape == (H, W, 0) and len(class_ids) == 0
    assert [info["id"] for info in load(folder, image_names=["p2"]).image_info] == ["p2"]


def test_palette_indices_are_read_instead_of_colors(folder):
    picture = Image.fromarray(IDS, "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 0, 0])  # 1 and 4 look the same
    picture.save(folder / "PedMasks" / "p1_mask.png")
    assert load(folder).load_mask(0)[0].shape[-1] == 2
    Image.fromarray(IDS.astype(np.uint16) * 300).save(folder / "PedMasks" / "p1_mask.png")
    np.testing.assert_array_equal(load(folder).load_mask(0)[0][..., 1], IDS == 4)


def test_other_datasets_of_this_layout(folder):
    dataset = IdPngDataset()
    dataset.load_id_pngs(folder / "PNGImages", folder / "PedMasks", "_mask", class_name="cell", ignore=[4])
    dataset.prepare()
    assert dataset.class_names == ["BG", "cell"] and dataset.load_mask(0)[0].shape[-1] == 1
    dataset = IdPngDataset()
    dataset.load_id_pngs(folder / "PedMasks", folder / "PedMasks")  # names alike
    dataset.prepare()
    assert dataset.num_images == 2 and dataset.load_mask(0)[0].shape[-1] == 2


def test_the_parent_folder_can_be_opened(folder):
    folder.rename(folder.parent / "PennFudanPed")
    assert load(folder.parent).num_images == 2


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="PNGImages: no such folder"):
        load(tmp_path)
    for part in ("PNGImages", "PedMasks"):
        (tmp_path / part).mkdir()
    with pytest.raises(FileNotFoundError, match="have no images"):
        load(tmp_path)


def test_broken_images_are_errors_or_skipped(folder):
    cv2.imwrite(str(folder / "PNGImages" / "alone.png"), IDS)
    with pytest.raises(BrokenAnnotation, match="alone: mask: expected to find alone_mask.png in"):
        load(folder)
    cv2.imwrite(str(folder / "PedMasks" / "lost_mask.png"), IDS)
    cv2.imwrite(str(folder / "PNGImages" / "small.png"), IDS)
    cv2.imwrite(str(folder / "PedMasks" / "small_mask.png"), IDS[1:])
    with pytest.warns(UserWarning, match="3 images are left out") as warned:
        dataset = load(folder, skip_broken=True)
    message = str(warned[0].message)
    assert "lost: image: expected to find " in message and "small_mask.png to be 30 x 40" in message
    assert [info["id"] for info in dataset.image_info] == ["p1", "p2"]
    with pytest.raises(FileNotFoundError, match="has no image p3"):
        load(folder, image_names=["p1", "p3"])


def test_rgb_images_are_refused_as_object_numbers(folder):
    cv2.imwrite(str(folder / "PedMasks" / "p1_mask.png"), np.dstack([IDS, IDS, IDS * 2]))
    with pytest.raises(BrokenAnnotation, match="p1_mask.png to hold one number a pixel, got 'colors'"):
        load(folder).load_mask(0)


def test_real_pedestrians(shared):
    dataset = load(shared / "data" / "penn_fudan" / "PennFudanPed")
    assert dataset.num_images == 5
    counts = []
    for image_id, info in zip(dataset.image_ids, dataset.image_info):
        masks, class_ids = dataset.load_mask(image_id)
        assert masks.shape[:2] == dataset.load_image(image_id).shape[:2]
        counts.append(len(class_ids))
        # The dataset's text files have boxes, counted from 1 with both ends included.
        text = shared / "data" / "penn_fudan" / "PennFudanPed" / "Annotation" / f"{info['id']}.txt"
        for i, line in enumerate(line for line in text.read_text().splitlines() if line.startswith("Bounding box")):
            stated = [int(n) for n in line.split(":")[1].replace("(", "").replace(")", "").replace("-", ",").split(",")]
            ys, xs = np.nonzero(masks[..., i])
            np.testing.assert_allclose([xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1], stated, atol=2)
    assert counts == [2, 1, 1, 2, 2]
