"""Helpers for the tests of annotation formats: small photos, masks with holes and parts, a dataset without files."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from mrcnn.data.dataset import Dataset

H, W = 30, 40


def photo(path, height=H, width=W, orientation=None):
    """Writes an image in which neighboring pixels differ; `orientation` is that of EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    picture = Image.fromarray(np.stack([y * 3, x * 3, y + x], axis=-1).astype(np.uint8))
    exif = picture.getexif()
    if orientation:
        exif[0x0112] = orientation
    picture.save(path, exif=exif)
    return path


def jpeg_with_orientation(path, image, kind, count, value):
    """Writes a JPEG whose EXIF has one entry: the orientation, of any type of TIFF, and its value of 4 bytes."""
    entry = b"\x01\x12" + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + entry + b"\x00" * 4
    data = cv2.imencode(".jpg", image)[1].tobytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    return path


def ring():
    """[H, W] bool: a block with a hole, and an island in the hole."""
    mask = np.zeros((H, W), bool)
    mask[3:21, 4:30] = True
    mask[6:16, 10:22] = False
    mask[9:12, 13:18] = True
    return mask


def parts():
    """[H, W] bool: two blocks apart."""
    mask = np.zeros((H, W), bool)
    mask[22:28, 2:12] = mask[2:9, 31:38] = True
    return mask


def masks_of_every_kind():
    """[H, W, N] bool: holes, parts, one pixel, a line, noise, all, and one without a pixel."""
    rng = np.random.default_rng(0)
    shapes = [ring(), parts(), np.zeros((H, W), bool), np.eye(H, W, dtype=bool), np.ones((H, W), bool)]
    shapes[2][5, 6] = True
    shapes += [rng.random((H, W)) < share for share in (0.02, 0.4, 0.6, 0.98)]
    return np.stack([*shapes, np.zeros((H, W), bool)], axis=-1)


class Drawn(Dataset):
    """Two images without files: one with `masks`, alternately cat and dog, the third a crowd; one with none."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks
        for i, name in enumerate(("cat", "dog")):
            self.add_class("drawn", i + 1, name)
        for name in ("full", "empty"):
            self.add_image("drawn", name, None)
        self.prepare()

    def load_image(self, image_id):
        y, x = np.mgrid[:H, :W]
        return np.stack([y, x, y + x + 100 * image_id], axis=-1).astype(np.uint8)

    def load_mask(self, image_id):
        if image_id == 1:
            return self.masks[..., :0], np.zeros(0, np.int32)
        class_ids = np.arange(self.masks.shape[-1]) % 2 + 1
        return self.masks, np.where(np.arange(len(class_ids)) == 2, -class_ids, class_ids).astype(np.int32)


def objects(dataset, image_id):
    """(masks, [(class name, whether a crowd)]) of the objects that have a pixel."""
    masks, class_ids = dataset.load_mask(image_id)
    kept = masks.any(axis=(0, 1))
    return masks[..., kept], [(dataset.class_names[abs(i)], i < 0) for i in class_ids[kept].tolist()]


def assert_same(dataset, other, images=True):
    """Checks that two datasets have the same images, in the same order, with the same objects."""
    assert dataset.num_images == other.num_images
    for i in dataset.image_ids:
        (masks, names), (other_masks, other_names) = objects(dataset, i), objects(other, i)
        np.testing.assert_array_equal(masks, other_masks)
        assert names == other_names and other_masks.dtype == bool
        if images:
            np.testing.assert_array_equal(dataset.load_image(i), other.load_image(i))
